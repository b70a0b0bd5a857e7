"""Lookups: their history lasts long, and their rows may grow to what other layers expect."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from insgd_optax.structures import Frequency

ROWS, WIDTH = 50, 4


def loss_fn(params: Any, ids: Any) -> Any:
    return jnp.mean(params["table"][ids])


def after(tx: Any, params: Any, batches: Any) -> tuple[Any, Any]:
    """The last updates, and the state after all batches."""
    grad_fn = insgd.value_and_grad(loss_fn)

    def step(state: Any, ids: Any) -> tuple[Any, Any]:
        _, grads, input_stats = grad_fn(params, ids)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return state, updates["table"]

    state, updates = jax.jit(lambda: jax.lax.scan(step, tx.init(params), batches))()
    return updates[-1], state


@pytest.mark.parametrize("decay", [0.8, 0.95])
def test_the_history_of_frequencies_lasts_fifty_times_as_long_as_that_of_features(decay):
    params = {"table": jnp.zeros((ROWS, WIDTH))}
    ids = jax.random.randint(jax.random.key(0), (300, 1), 0, ROWS)
    _, state = after(insgd.scale_by_insgd(decay=decay), params, ids)
    read = np.asarray(jax.nn.one_hot(ids[:, 0], ROWS))
    kept = decay ** (1 / 50)
    weights = (1 - kept) * kept ** np.arange(len(read))[::-1]
    np.testing.assert_allclose(state.inputs.power[:ROWS], weights @ read, rtol=1e-9)


def test_one_reading_hardly_changes_what_is_known_of_a_rows_frequency():
    params = {"table": jnp.ones((ROWS, WIDTH))}
    ids = jnp.arange(400)[:, None] % ROWS  # every row is read as often as another
    early, state = after(insgd.scale_by_insgd(), params, ids)
    frequencies = state.inputs.power[:ROWS] / state.inputs.power_weight[0]
    assert float(frequencies.max() / frequencies.min()) < 1.1
    assert np.isfinite(early).all()


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 10.0])
def test_a_row_steps_by_its_rate_times_one_or_its_size_if_that_is_larger(size):
    params = {"table": size * jnp.ones((ROWS, WIDTH))}
    tx = insgd.scale_by_insgd(momentum=0.0)
    updates, _ = after(tx, params, jnp.arange(ROWS)[None])
    np.testing.assert_allclose(updates, max(size, 1.0), rtol=1e-6)


def test_a_memory_below_one_is_an_error():
    with pytest.raises(ValueError, match="memory must be at least 1"):
        Frequency(memory=0)
