"""Next to Optax's other transformations and optimizers, each part does what it does alone."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd

from .problems import Problem, assert_close, every_structure, perceptron, train

pytestmark = pytest.mark.framework
PARTS = {"hidden": "ours", "head": "other"}


def _updates(tx: Any, problem: Problem, structure: Any, clip: float | None = None, **extra: Any):
    """The updates of three steps, in a run where none of them is applied."""
    state, found = tx.init(problem.params), []
    for factor in (1.0, 3.0, 2.0):
        batch = (factor * problem.batch[0], problem.batch[1])
        grads, input_stats = problem.stats_of(batch=batch, structure=structure)
        if clip:
            shrunk = clip / jnp.maximum(clip, optax.tree.norm(grads))
            grads = jax.tree.map(lambda leaf, shrunk=shrunk: shrunk * leaf, grads)
        updates, state = tx.update(grads, state, problem.params, input_stats=input_stats, **extra)
        found.append(updates)
    return found


@every_structure
def test_a_moving_average_of_updates_averages_those_of_the_optimizer(structure):
    problem, plain = perceptron(), insgd.insgd(0.1, structure=structure)
    averaged = optax.chain(plain, optax.ema(0.9, debias=False))
    expected = jax.tree.map(jnp.zeros_like, problem.params)
    pairs = zip(
        _updates(averaged, problem, structure), _updates(plain, problem, structure), strict=True
    )
    for actual, update in pairs:
        expected = jax.tree.map(lambda mean, new: 0.9 * mean + 0.1 * new, expected, update)
        assert_close(actual, expected)


@every_structure
def test_gradients_that_are_clipped_first_take_the_steps_of_clipped_gradients(structure):
    problem, plain = perceptron(), insgd.insgd(0.1, structure=structure)
    clipped = optax.chain(optax.clip_by_global_norm(0.5), plain)
    expected = _updates(plain, problem, structure, clip=0.5)
    assert_close(_updates(clipped, problem, structure), expected, rtol=1e-5)


@every_structure
def test_a_plateau_of_the_loss_shortens_the_steps_of_the_optimizer(structure):
    problem, plain = perceptron(), insgd.insgd(0.1, structure=structure)
    reduced = optax.chain(plain, optax.contrib.reduce_on_plateau(0.5, patience=1))
    actual = _updates(reduced, problem, structure, value=jnp.float32(1.0))
    expected = _updates(plain, problem, structure)
    for step, scale in enumerate((1.0, 0.5, 0.25)):
        scaled = jax.tree.map(lambda leaf, scale=scale: scale * leaf, expected[step])
        assert_close(actual[step], scaled)


def _alone(tx: Any, problem: Problem, layer: str) -> Any:
    """What an optimizer makes of one layer, as if there were no other."""
    grads, input_stats = problem.stats_of()
    alone = {name: stats for name, stats in input_stats.items() if name.startswith(layer)}
    params, grads = {layer: problem.params[layer]}, {layer: grads[layer]}
    return tx.update(grads, tx.init(params), params, input_stats=alone)[0][layer]


@pytest.mark.parametrize(
    "other",
    [optax.adam(0.01), optax.contrib.muon(0.01), optax.set_to_zero()],
    ids=["adam", "muon", "frozen"],
)
def test_layers_left_to_another_optimizer_do_not_change_the_steps_of_ours(other):
    problem, ours = perceptron(), insgd.insgd(0.1)
    tx = optax.partition({"ours": ours, "other": other}, PARTS)
    grads, input_stats = problem.stats_of()
    updates, _ = tx.update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    assert_close(updates["hidden"], _alone(ours, problem, "hidden"))
    assert_close(updates["head"], _alone(optax.with_extra_args_support(other), problem, "head"))


def test_an_optimizer_that_reshapes_the_updates_is_told_that_it_cannot_stand_around_ours():
    tx = optax.flatten(insgd.insgd(0.1))
    with pytest.raises(ValueError, match=r"reshapes or renames the updates \(optax\.flatten\)"):
        train(tx, perceptron(), insgd.MeanVariances())


@pytest.mark.skipif(not hasattr(optax, "microbatch"), reason="this Optax has no microbatch")
@every_structure
@pytest.mark.parametrize("kind", ["MEAN", "RUNNING_MEAN"])
def test_micro_batches_of_optax_take_the_step_of_the_whole_batch(structure, kind):
    problem, plain = perceptron(), insgd.insgd(0.1, structure=structure)
    grad_fn = insgd.value_and_grad(
        lambda params, *batch: problem.loss_fn(params, batch), structure=structure
    )
    parts = optax.microbatch(
        grad_fn, (1, 2), 2, accumulator=getattr(optax.microbatching.AccumulationType, kind)
    )
    steps = []
    for function in (grad_fn, parts):
        _, grads, input_stats = function(problem.params, *problem.batch)
        state = plain.init(problem.params)
        steps.append(plain.update(grads, state, problem.params, input_stats=input_stats)[0])
    assert_close(*steps, rtol=1e-5)
