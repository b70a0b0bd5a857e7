"""A layer that a batch does not reach keeps its history, and no empty history moves a weight."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import insgd_optax as insgd
from battery.problems import Problem, assert_close, every_structure, perceptron


def _is_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def _switched(problem: Problem) -> Problem:
    """The perceptron, whose hidden layer runs only when the batch says so."""

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        runs, inputs, targets = batch

        def hidden(inputs: Any) -> Any:
            layer = params["hidden"]
            return jnp.tanh(inputs @ layer["kernel"] + layer["bias"][None, :])

        features = jax.lax.cond(runs, hidden, lambda inputs: inputs[:, :3], inputs)
        predictions = features @ params["head"]["kernel"]
        return jnp.mean((predictions - targets) ** 2)

    return Problem(problem.params, (jnp.asarray(True), *problem.batch), loss_fn)


def _switched_step(structure: Any, jitted: bool = True) -> tuple[Any, Any]:
    """An empty history, and a step that returns updates, history and statistics."""
    problem = _switched(perceptron())
    tx = insgd.scale_by_input(structure)
    grad_fn = insgd.value_and_grad(problem.loss_fn, structure=structure)

    def step(state: Any, runs: bool) -> Any:
        _, grads, input_stats = grad_fn(problem.params, (runs, *problem.batch[1:]))
        updates, state = tx.update(grads, state, problem.params, input_stats=input_stats)
        return updates, state, input_stats

    step = jax.jit(step) if jitted else step
    return tx.init(problem.params), lambda state, runs: step(state, jnp.asarray(runs))


@every_structure
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_a_layer_that_a_batch_does_not_reach_counts_no_row_and_does_not_move(structure, jitted):
    empty, step = _switched_step(structure, jitted)
    updates, state, input_stats = step(empty, False)
    assert not jnp.any(input_stats["hidden/kernel"].count)
    assert jnp.all(input_stats["head/kernel"].count == 6)
    assert_close(updates["hidden"]["kernel"], jnp.zeros((4, 3)), rtol=0.0)
    assert int(state.skipped) == 0
    assert _is_finite((updates, state))


@every_structure
def test_a_layer_seen_late_steps_as_if_the_batches_that_missed_it_had_not_been(structure):
    empty, step = _switched_step(structure)
    missed = step(empty, False)[1]
    assert_close(step(missed, True)[0]["hidden"], step(empty, True)[0]["hidden"])


@every_structure
def test_a_batch_that_misses_a_layer_leaves_its_divisor_as_it_was(structure):
    empty, step = _switched_step(structure)
    _, seen, seen_stats = step(empty, True)
    _, missed, missed_stats = step(seen, False)
    ones = jax.tree.map(jnp.ones_like, perceptron().params)
    tx = insgd.scale_by_input(structure)
    expected, _ = tx.update(ones, tx.init(ones), input_stats=seen_stats)
    actual, _ = tx.update(ones, missed, input_stats=missed_stats)
    assert_close(actual["hidden"]["kernel"], expected["hidden"]["kernel"])


def test_a_stack_of_no_layers_takes_no_part():
    params = {"stack": jnp.zeros((0, 3, 3)), "head": jnp.ones((3, 2))}

    def loss_fn(params, inputs):
        hidden, _ = jax.lax.scan(lambda x, w: (x @ w, None), inputs, params["stack"])
        return jnp.sum(hidden @ params["head"])

    grad_fn = insgd.value_and_grad(loss_fn, structure=insgd.Scalar())
    _, grads, input_stats = grad_fn(params, jnp.ones((4, 3)))
    tx = insgd.scale_by_input(insgd.Scalar())
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    assert_close(updates["head"], jnp.full((3, 2), 4.0))
