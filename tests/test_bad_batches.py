"""What a broken, an empty or a silent batch does: the history stays, and nothing becomes NaN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd
from battery.problems import (
    Problem,
    assert_close,
    convnet,
    every_optimizer,
    every_structure,
    perceptron,
    regression,
)


def _history(state: Any) -> tuple[Any, Any]:
    history = optax.tree.get(state, "ScaleByInputState")
    return history.power, history.power_weight


def _is_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def _after_one_good_step(tx: Any, problem: Problem, structure: Any) -> Any:
    grads, input_stats = problem.stats_of(structure=structure)
    _, state = tx.update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    return state


@pytest.mark.parametrize(
    ("make_problem", "poison"),
    [(regression, np.inf), (perceptron, -np.inf), (perceptron, np.nan), (convnet, np.nan)],
)
@every_structure
def test_a_batch_with_one_non_finite_number_gives_zero_updates_and_keeps_the_history(
    make_problem, structure, poison
):
    problem = make_problem()
    tx = insgd.scale_by_input(structure)
    state = _after_one_good_step(tx, problem, structure)
    inputs, targets = problem.batch
    batch = (inputs.at[(0,) * inputs.ndim].set(poison), targets)
    grads, input_stats = problem.stats_of(batch=batch, structure=structure)
    for update in (tx.update, jax.jit(tx.update)):
        updates, after = update(grads, state, problem.params, input_stats=input_stats)
        assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
        assert_close(_history(after), _history(state), rtol=0.0)
        assert int(after.skipped) == 1
        assert int(after.count) == 2


@every_structure
def test_a_batch_whose_first_sight_is_broken_leaves_an_empty_history(structure):
    problem = perceptron()
    tx = insgd.scale_by_input(structure)
    state = tx.init(problem.params)
    batch = (problem.batch[0] * jnp.nan, problem.batch[1])
    grads, input_stats = problem.stats_of(batch=batch, structure=structure)
    updates, after = tx.update(grads, state, problem.params, input_stats=input_stats)
    assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
    assert_close(_history(after), _history(state), rtol=0.0)
    # The next good batch is the first that the history hears of.
    good, good_stats = problem.stats_of(structure=structure)
    actual, _ = tx.update(good, after, problem.params, input_stats=good_stats)
    expected, _ = tx.update(good, state, problem.params, input_stats=good_stats)
    assert_close(actual, expected)


@every_structure
def test_finite_statistics_with_a_non_finite_gradient_are_skipped_too(structure):
    # A target, a loss scale or an overflow can break the gradient and leave the inputs alone.
    problem = perceptron()
    tx = insgd.scale_by_input(structure)
    state = _after_one_good_step(tx, problem, structure)
    batch = (problem.batch[0], problem.batch[1] * jnp.nan)
    grads, input_stats = problem.stats_of(batch=batch, structure=structure)
    updates, after = tx.update(grads, state, problem.params, input_stats=input_stats)
    assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
    assert_close(_history(after), _history(state), rtol=0.0)
    assert int(after.skipped) == 1


@every_structure
def test_statistics_that_overflow_are_skipped_even_if_the_gradient_is_finite(structure):
    # 1e25 is a float32 and its square is not; a saturated tanh keeps the gradient finite.
    problem = perceptron()
    tx = insgd.scale_by_input(structure)
    state = _after_one_good_step(tx, problem, structure)
    batch = (jnp.full_like(problem.batch[0], 1e25), problem.batch[1])
    grads, input_stats = problem.stats_of(batch=batch, structure=structure)
    assert _is_finite(grads)
    assert not _is_finite(input_stats)
    updates, after = tx.update(grads, state, problem.params, input_stats=input_stats)
    assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
    assert_close(_history(after), _history(state), rtol=0.0)
    assert int(after.skipped) == 1


@every_structure
def test_the_momentum_goes_on_through_a_broken_batch(structure):
    problem = perceptron()
    tx = insgd.insgd(
        0.1, structure=structure, momentum=0.5, nesterov=False, weight_decay=0.2, relative=0.0
    )
    grads, input_stats = problem.stats_of(structure=structure)
    _, state = tx.update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    velocity = optax.tree.get(state, "trace")
    batch = (problem.batch[0] * jnp.inf, problem.batch[1])
    broken, broken_stats = problem.stats_of(batch=batch, structure=structure)
    updates, after = tx.update(broken, state, problem.params, input_stats=broken_stats)
    expected = jax.tree.map(lambda v, p: -0.1 * (0.5 * v + 0.2 * p), velocity, problem.params)
    assert_close(updates, expected)
    assert int(optax.tree.get(after, "skipped")) == 1


def _empty(problem: Problem) -> Any:
    return jax.tree.map(lambda leaf: leaf[:0], problem.batch)


@pytest.mark.parametrize("make_problem", [regression, perceptron])
@every_optimizer
@every_structure
def test_an_empty_batch_moves_nothing_and_keeps_the_history(
    make_problem, make_optimizer, structure
):
    # A mean over no example is a NaN loss and NaN gradients; the counts are zero.
    problem = make_problem()
    tx = make_optimizer(structure)
    state = tx.init(problem.params)
    grads, input_stats = problem.stats_of(batch=_empty(problem), structure=structure)
    assert all(not jnp.any(m.count) for m in input_stats.values() if m is not None)
    updates, after = tx.update(grads, state, problem.params, input_stats=input_stats)
    assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
    assert_close(_history(after), _history(state), rtol=0.0)


@every_structure
def test_an_empty_batch_under_a_summed_loss_keeps_the_history(structure):
    problem = perceptron()

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        hidden = jnp.tanh(inputs @ params["hidden"]["kernel"])
        return jnp.sum((hidden @ params["head"]["kernel"] - targets) ** 2)

    kernels = {name: {"kernel": leaf["kernel"]} for name, leaf in problem.params.items()}
    summed = Problem(kernels, problem.batch, loss_fn)
    tx = insgd.scale_by_input(structure)
    state = _after_one_good_step(tx, summed, structure)
    grads, input_stats = summed.stats_of(batch=_empty(summed), structure=structure)
    updates, after = tx.update(grads, state, kernels, input_stats=input_stats)
    assert_close(updates, jax.tree.map(jnp.zeros_like, kernels), rtol=0.0)
    assert_close(_history(after), _history(state), rtol=0.0)
    assert int(after.skipped) == 0


@every_structure
def test_a_zero_input_gives_a_zero_step_whatever_the_gradient_is(structure):
    problem = regression()
    batch = (jnp.zeros_like(problem.batch[0]), problem.batch[1])
    _, input_stats = problem.stats_of(batch=batch, structure=structure)
    tx = insgd.scale_by_input(structure)
    ones = jax.tree.map(jnp.ones_like, problem.params)
    updates, after = tx.update(ones, tx.init(ones), input_stats=input_stats)
    assert_close(updates["weight"], jnp.zeros((4, 2)), rtol=0.0)
    assert_close(updates["bias"], ones["bias"], rtol=0.0)
    assert _is_finite(after)


@every_structure
def test_a_layer_never_seen_does_not_move_even_when_its_gradient_is_not_zero(structure):
    # A penalty in the loss gives every weight a gradient, seen or not.
    problem = regression()
    grads, input_stats = problem.stats_of(structure=structure)
    unseen = {**input_stats, "weight": jax.tree.map(jnp.zeros_like, input_stats["weight"])}
    tx = insgd.scale_by_input(structure)
    updates, after = tx.update(grads, tx.init(grads), input_stats=unseen)
    assert_close(updates["weight"], jnp.zeros((4, 2)), rtol=0.0)
    assert_close(_history(after), _history(tx.init(grads)), rtol=0.0)


@pytest.mark.parametrize("structure", [insgd.Scalar(), insgd.Diagonal()])
def test_a_zero_batch_after_a_good_one_steps_by_the_history(structure):
    problem = regression()
    tx = insgd.scale_by_input(structure, decay=0.5)
    state = _after_one_good_step(tx, problem, structure)
    batch = (jnp.zeros_like(problem.batch[0]), problem.batch[1])
    _, input_stats = problem.stats_of(batch=batch, structure=structure)
    ones = jax.tree.map(jnp.ones_like, problem.params)
    updates, _ = tx.update(ones, state, input_stats=input_stats)
    assert _is_finite(updates)
    # A zero is seen, not missed: (0.5 * 0.5 P + 0.5 * 0) / (1 - 0.5^2) = P / 3.
    before, _ = tx.update(ones, tx.init(ones), input_stats=problem.stats_of(structure=structure)[1])
    assert_close(updates["weight"], 3 * before["weight"], rtol=1e-5)


def test_a_feature_that_is_always_zero_takes_no_larger_a_step_than_eps_allows():
    problem = regression()
    inputs, targets = problem.batch
    batch = (inputs.at[:, 0].set(0.0), targets)
    grads, input_stats = problem.stats_of(batch=batch, structure=insgd.Diagonal())
    tx = insgd.scale_by_input(insgd.Diagonal(), eps=0.01)
    updates, _ = tx.update(grads, tx.init(grads), input_stats=input_stats)
    assert_close(updates["weight"][0], jnp.zeros(2), rtol=0.0)
    ones = jax.tree.map(jnp.ones_like, grads)
    updates, _ = tx.update(ones, tx.init(ones), input_stats=input_stats)
    bound = (1 + 0.01) / (0.01 * jnp.mean(jnp.square(batch[0])))
    assert_close(updates["weight"][0], jnp.full(2, bound), rtol=1e-5)
