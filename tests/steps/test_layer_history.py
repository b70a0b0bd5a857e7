"""layer_histories reads a layer's history out of any state that holds one, by path."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd

STRUCTURES = [insgd.Scalar(), insgd.MeanVariances(), insgd.LowRank(2), insgd.Full(1.0)]


def loss_fn(params: Any, x: Any) -> jax.Array:
    hidden = jnp.tanh(x @ params["first"])
    return jnp.mean(jnp.square(hidden @ params["second"] + params["bias"][None]))


def trained(tx: optax.GradientTransformationExtraArgs, structure: Any) -> tuple[Any, Any, Any, Any]:
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "first": jax.random.normal(keys[0], (3, 4)),
        "second": jax.random.normal(keys[1], (4, 2)),
        "bias": jnp.zeros(2),
    }
    state, batches = tx.init(params), [jax.random.normal(key, (6, 3)) for key in keys[2:]]
    for x in batches:
        _, grads, stats = insgd.value_and_grad(loss_fn, structure=structure)(params, x)
        _, state = tx.update(grads, state, params, input_stats=stats)
    return params, state, stats, batches


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("inside", ["alone", "chain", "scale_by_input"])
def test_the_mean_power_is_that_of_the_batches_with_the_decay_as_weights(structure, inside):
    tx = insgd.insgd(structure=structure, decay=0.5)
    if inside == "chain":
        tx = optax.chain(optax.clip(10.0), tx)
    if inside == "scale_by_input":
        tx = insgd.scale_by_input(structure, decay=0.5)
    params, state, stats, batches = trained(tx, structure)
    histories = insgd.layer_histories(state, params, stats)
    assert set(histories) == {"first", "second"}
    weights = np.array([0.25, 0.5, 1.0]) / 1.75
    for path, rows in {
        "first": lambda x: x,
        "second": lambda x: jnp.tanh(x @ params["first"]),
    }.items():
        powers = [float(jnp.mean(jnp.square(rows(x)))) for x in batches]
        np.testing.assert_allclose(histories[path].feature_power, weights @ powers, rtol=1e-9)
    kept = histories["first"].largest_gradient_power
    assert (kept is None) == (inside == "scale_by_input")


def test_a_state_without_a_history_is_an_error_that_names_the_call():
    params, _, stats, _ = trained(insgd.insgd(), insgd.MeanVariances())
    with pytest.raises(ValueError, match=r"insgd\(\)"):
        insgd.layer_histories(optax.adam(1e-3).init(params), params, stats)
