"""`nlms` and `project_page`, against explicit division."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from zoo.case import normal

from .models import assert_close, mlp, mlp_inputs, mlp_loss, train


@pytest.mark.parametrize("order", [1, 2])
def test_nlms_divides_by_the_mean_power_of_this_batch_alone(order):
    params, batches = mlp("float64", 2)
    grad_fn = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar(order))
    tx = insgd.nlms(0.3, eps=0.2, order=order)
    state = tx.init(params)
    for x, y in zip(*batches, strict=True):  # the second is not colored by the first
        _, grads, input_stats = grad_fn(params, x, y)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        for name, seen in mlp_inputs(params, np.asarray(x)).items():
            power = np.mean(np.sum(np.abs(seen) ** order, axis=1))
            expected = -0.3 * grads[name] / (0.2 + power)
            np.testing.assert_allclose(updates[name], expected, rtol=1e-10)
        np.testing.assert_allclose(updates["c"], -0.3 * grads["c"], rtol=1e-12)


def test_a_lookup_and_a_head_that_share_a_table_have_the_mean_power_of_their_rows():
    params = {"table": normal(0, (7, 4), "float64")}
    tokens, hidden = jnp.asarray([0, 3, 3, 6, 1]), normal(1, (9, 4), "float64")

    def loss(params, tokens, hidden):
        looked_up = jnp.sum(jnp.sin(params["table"][tokens]))
        return looked_up + jnp.sum(jnp.sin(hidden @ params["table"].T))

    grad_fn = insgd.value_and_grad(loss, structure=insgd.Scalar())
    _, grads, stats = grad_fn(params, tokens, hidden)
    tx = insgd.nlms(0.1, eps=0.0)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    power = (5 * 1.0 + float(jnp.sum(hidden**2))) / (5 + 9)  # one-hot rows have power one
    np.testing.assert_allclose(updates["table"], -0.1 * grads["table"] / power, rtol=1e-10)


def test_project_page_is_sgd_on_gradients_of_examples_over_their_norms():
    params, batches = mlp("float64", 6)
    grad_fn = insgd.value_and_grad(mlp_loss, per_example=insgd.PerExample(eps=0.1))
    tx = insgd.project_page(0.1, eps=0.1, momentum=0.9, weight_decay=0.01)
    actual = train(tx, grad_fn, params, batches)
    copy, buffer = {name: np.asarray(value) for name, value in params.items()}, {}
    of_examples = jax.jit(
        jax.vmap(jax.grad(lambda p, x, y: mlp_loss(p, x[None], y[None])), in_axes=(None, 0, 0))
    )
    for x, y in zip(*batches, strict=True):
        each, seen = of_examples(copy, x, y), mlp_inputs(copy, np.asarray(x))
        for name in copy:
            g = np.asarray(each[name])
            if name in seen:
                g = g / (np.linalg.norm(seen[name], axis=1)[:, None, None] + 0.1)
            buffer[name] = 0.9 * buffer.get(name, 0) + g.mean(axis=0)
        copy = {name: copy[name] - 0.1 * (buffer[name] + 0.01 * copy[name]) for name in copy}
    assert_close(actual, copy, 1e-10)


def test_project_page_refuses_gradients_that_were_not_divided():
    params, ((x, *_), (y, *_)) = mlp("float64", 1)
    tx = insgd.project_page(0.1)
    for per_example in (False, insgd.PerExample(exponent=2)):
        _, grads, stats = insgd.value_and_grad(mlp_loss, per_example=per_example)(params, x, y)
        with pytest.raises(ValueError, match=r"'a' of shape \(20, 16\).*insgd_optax.PerExample"):
            tx.update(grads, tx.init(params), params, input_stats=stats)
    with pytest.raises(ValueError, match=r"without input_stats(?s:.*)insgd_optax.PerExample"):
        tx.update(grads, tx.init(params), params)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("stats", [{}, {"a": 3.0, "b": 3.0}], ids=["empty", "of_numbers"])
def test_project_page_refuses_statistics_that_are_none(stats):
    params, _ = mlp("float64", 1)
    tx = insgd.project_page(0.1)
    with pytest.raises(ValueError, match=r"'a' of shape \(20, 16\)(?s:.*)insgd_optax.PerExample"):
        tx.update(params, tx.init(params), params, input_stats=stats)
