"""What every preset does with bad batches, bad settings and the wrong statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from zoo.case import normal

from .models import PRESETS, assert_close, every_preset, mlp, mlp_loss, train


@every_preset
def test_a_batch_that_is_not_finite_leaves_no_trace(name):
    tx, capture = PRESETS[name]
    params, (x, y) = mlp("float64", 3)
    grad_fn = insgd.value_and_grad(mlp_loss, **capture)
    bad = x.at[1].set(jnp.nan)

    def step(state: Any, place: int) -> Any:
        _, grads, stats = grad_fn(params, bad[place], y[place])
        return tx.update(grads, state, params, input_stats=stats)

    _, before = step(tx.init(params), 0)
    updates, after = step(before, 1)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((updates, after)))
    _, state = step(after, 2)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state))


@every_preset
def test_a_zero_batch_takes_no_step(name):
    tx, capture = PRESETS[name]
    params, (x, y) = mlp("float64", 1)
    grad_fn = insgd.value_and_grad(mlp_loss, **capture)
    _, grads, stats = grad_fn({**params, "c": jnp.zeros(16)}, 0 * x[0], y[0])
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    for weight in "ab":
        np.testing.assert_array_equal(updates[weight], 0 * params[weight])


@pytest.mark.parametrize("name", ["paper", "released"])
def test_a_layer_that_was_never_reached_only_decays(name):
    make = {"paper": insgd.paper, "released": insgd.released}[name]
    params = {"w": normal(0, (4, 3), "float64"), "v": normal(1, (4, 3), "float64")}

    def loss(params, x, taken):
        branches = [lambda x: jnp.sum(x @ params["w"]), lambda x: jnp.sum(x @ params["v"])]
        return jax.lax.switch(taken, branches, x)

    capture = {"paper": insgd.Scalar(), "released": insgd.Released()}[name]
    grad_fn = insgd.value_and_grad(loss, structure=capture)
    _, grads, stats = grad_fn(params, normal(2, (5, 4), "float64"), jnp.asarray(0))
    tx = make(0.1, weight_decay=0.01)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    np.testing.assert_allclose(updates["v"], -0.1 * 0.01 * params["v"], rtol=1e-9)


@pytest.mark.parametrize("name", ["nlms", "paper", "released"])
def test_rows_that_were_divided_already_are_an_error(name):
    tx, capture = PRESETS[name]
    params, ((x, *_), (y, *_)) = mlp("float64", 1)
    _, grads, stats = insgd.value_and_grad(mlp_loss, per_example=True, **capture)(params, x, y)
    with pytest.raises(ValueError, match=r"'a' of shape \(20, 16\) are already divided"):
        tx.update(grads, tx.init(params), params, input_stats=stats)


@pytest.mark.parametrize(
    "make", [insgd.Scalar, insgd.Released, lambda order: insgd.nlms(0.1, order=order)]
)
def test_an_order_that_no_source_uses_is_an_error(make):
    with pytest.raises(ValueError, match="order must be 1"):
        make(3)


def test_a_preset_for_another_order_than_the_capture_is_an_error_that_names_the_leaf():
    params, ((x, *_), (y, *_)) = mlp("float64", 1)
    _, grads, stats = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar(1))(params, x, y)
    tx = insgd.paper(0.1, order=2)
    with pytest.raises(ValueError, match=r"'a' of shape \(20, 16\).*Scalar\(order=2\)"):
        tx.update(grads, tx.init(params), params, input_stats=stats)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: insgd.nlms(0.1, eps=-1.0), "eps must be at least 0"),
        (lambda: insgd.paper(0.1, decay=1.0), "decay must be in"),
        (lambda: insgd.paper(0.1, epsilon=0.0), "epsilon must be positive"),
        (lambda: insgd.paper(0.1, dampening=2.0), "dampening must be from 0 to 1"),
        (lambda: insgd.paper(0.1, momentum=-0.1), "momentum must be from 0 to 1"),
        (lambda: insgd.released(0.1, momentum=1.0), "momentum must be in"),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_momentum_may_be_written_as_none():
    params, batches = mlp("float64", 3)
    for make, capture in ((insgd.paper, insgd.Scalar()), (insgd.released, insgd.Released())):
        grad_fn = insgd.value_and_grad(mlp_loss, structure=capture)
        both = [train(make(0.1, momentum=none), grad_fn, params, batches) for none in (None, 0.0)]
        assert_close(*both, 1e-12)
