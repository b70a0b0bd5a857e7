"""Schedules are read at the right step, and weight decay does not pass the normalizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd

from .problems import assert_close, every_structure, perceptron, regression


def _updates(tx: Any, problem: Any, structure: Any, steps: int) -> list[Any]:
    """The updates of some steps at fixed parameters, so that only the schedules change."""
    grads, input_stats = problem.stats_of(structure=structure)
    state = tx.init(problem.params)
    history = []
    for _ in range(steps):
        updates, state = tx.update(grads, state, problem.params, input_stats=input_stats)
        history.append(updates)
    return history


def _divisor(structure: Any, inputs: Any, eps: float) -> np.ndarray:
    """The power of each input of a dense layer after one batch, redone in NumPy."""
    power = np.mean(np.square(np.asarray(inputs, np.float64)), axis=0)
    if isinstance(structure, insgd.Scalar):
        return np.full_like(power, power.mean())[:, None]
    return ((power + eps * power.mean()) / (1 + eps))[:, None]


@pytest.mark.parametrize("structure", [insgd.Scalar(), insgd.Diagonal()])
def test_a_learning_rate_schedule_is_followed_from_step_zero(structure):
    problem = regression()
    rates = [0.5, 0.25, 0.0, 0.75]
    schedule = lambda count: jnp.asarray(rates, jnp.float32)[count]  # noqa: E731
    tx = insgd.insgd(schedule, structure=structure, momentum=0.0, eps=0.1, relative=0.0)
    grads, _ = problem.stats_of(structure=structure)
    divisor = _divisor(structure, problem.batch[0], eps=0.1)
    for rate, updates in zip(rates, _updates(tx, problem, structure, 4), strict=True):
        assert_close(updates["weight"], -rate * np.asarray(grads["weight"]) / divisor)
        assert_close(updates["bias"], -rate * np.asarray(grads["bias"]))


@every_structure
def test_a_weight_decay_schedule_is_followed_from_step_zero(structure):
    problem = regression()
    decays = [0.5, 0.0, 0.25]
    plain = insgd.insgd(0.1, structure=structure, momentum=0.0)
    decayed = insgd.insgd(
        0.1,
        structure=structure,
        momentum=0.0,
        weight_decay=lambda count: jnp.asarray(decays, jnp.float32)[count],
    )
    without = _updates(plain, problem, structure, 3)
    for decay, actual, base in zip(
        decays, _updates(decayed, problem, structure, 3), without, strict=True
    ):
        expected = jax.tree.map(lambda u, p, d=decay: u - 0.1 * d * p, base, problem.params)
        assert_close(actual, expected)


@every_structure
def test_weight_decay_is_not_divided_by_the_input_power(structure):
    problem = regression()
    inputs, targets = problem.batch
    # Inputs a thousand times larger make the gradient's part vanish beside the decay's.
    _, input_stats = problem.stats_of(batch=(1000 * inputs, targets), structure=structure)
    zeros = jax.tree.map(jnp.zeros_like, problem.params)
    tx = insgd.insgd(0.1, structure=structure, weight_decay=0.3)
    updates, _ = tx.update(zeros, tx.init(zeros), problem.params, input_stats=input_stats)
    assert_close(updates, jax.tree.map(lambda p: -0.1 * 0.3 * p, problem.params))


@every_structure
def test_weight_decay_does_not_enter_the_momentum(structure):
    problem = regression()
    _, input_stats = problem.stats_of(structure=structure)
    zeros = jax.tree.map(jnp.zeros_like, problem.params)
    tx = insgd.insgd(0.1, structure=structure, momentum=0.9, weight_decay=0.3)
    state = tx.init(problem.params)
    for _ in range(3):
        updates, state = tx.update(zeros, state, problem.params, input_stats=input_stats)
    assert_close(updates, jax.tree.map(lambda p: -0.03 * p, problem.params))


def _kernels_only(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


@pytest.mark.parametrize("as_function", [True, False], ids=["function", "tree"])
@pytest.mark.parametrize("scheduled", [True, False], ids=["schedule", "constant"])
def test_the_mask_chooses_what_decays(as_function, scheduled):
    problem = perceptron()
    mask = _kernels_only if as_function else _kernels_only(problem.params)
    weight_decay = optax.constant_schedule(0.3) if scheduled else 0.3
    _, input_stats = problem.stats_of()
    zeros = jax.tree.map(jnp.zeros_like, problem.params)
    tx = insgd.insgd(0.1, weight_decay=weight_decay, mask=mask)
    updates, _ = tx.update(zeros, tx.init(zeros), problem.params, input_stats=input_stats)
    for layer in ("hidden", "head"):
        assert_close(updates[layer]["kernel"], -0.03 * problem.params[layer]["kernel"])
        assert_close(updates[layer]["bias"], jnp.zeros_like(updates[layer]["bias"]), rtol=0.0)


@pytest.mark.framework
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_schedules_do_not_widen_the_updates(dtype):
    problem = perceptron(dtype)
    tx = insgd.insgd(
        optax.cosine_decay_schedule(0.1, 10), weight_decay=optax.linear_schedule(0.0, 0.1, 10)
    )
    grads, input_stats = problem.stats_of()
    updates, _ = jax.jit(tx.update)(
        grads, tx.init(problem.params), problem.params, input_stats=input_stats
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
