"""Parameters in any container give the steps of a plain dict."""

import collections
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import insgd_optax as insgd

from .problems import (
    Problem,
    assert_close,
    every_optimizer,
    every_structure,
    perceptron,
    train,
)


@every_optimizer
@every_structure
def test_frozen_params_step_as_a_dict(make_optimizer, structure):
    problem = perceptron()
    tx = make_optimizer(structure)
    expected, _ = train(tx, problem, structure)
    frozen, _ = train(tx, problem, structure, params=flax.core.freeze(problem.params))
    assert isinstance(frozen, flax.core.FrozenDict)
    assert_close(frozen, expected)


@every_structure
def test_statistics_of_a_dict_serve_a_frozen_dict(structure):
    problem = perceptron()
    grads, input_stats = problem.stats_of(structure=structure)
    tx = insgd.scale_by_input(structure)
    expected, _ = tx.update(grads, tx.init(problem.params), input_stats=input_stats)
    frozen = flax.core.freeze(grads)
    actual, _ = tx.update(frozen, tx.init(frozen), input_stats=input_stats)
    assert_close(actual, expected, rtol=0.0)


@every_optimizer
@every_structure
def test_partitioned_boxes_step_as_their_contents(make_optimizer, structure):
    problem = perceptron()
    boxed = jax.tree.map(
        lambda leaf: nn.Partitioned(leaf, names=(None,) * leaf.ndim), problem.params
    )

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        return problem.loss_fn(nn.unbox(params), batch)

    tx = make_optimizer(structure)
    expected, _ = train(tx, problem, structure)
    actual, _ = train(tx, Problem(boxed, problem.batch, loss_fn), structure)
    assert isinstance(actual["hidden"]["kernel"], nn.Partitioned)
    assert_close(actual, expected)


@every_structure
def test_the_order_of_the_leaves_may_change_between_steps(structure):
    # An OrderedDict flattens in the order of insertion, a dict in that of its keys. The two
    # layers have different sizes, so a history that followed the order would be mixed up.
    problem = perceptron()
    grads, input_stats = problem.stats_of(structure=structure)
    tx = insgd.scale_by_input(structure)
    _, state = tx.update(grads, tx.init(grads), input_stats=input_stats)
    expected, after = tx.update(grads, state, input_stats=input_stats)
    turned = collections.OrderedDict((name, grads[name]) for name in ("hidden", "head"))
    actual, turned_after = tx.update(turned, state, input_stats=input_stats)
    assert_close(actual["hidden"], expected["hidden"], rtol=0.0)
    assert_close(actual["head"], expected["head"], rtol=0.0)
    assert_close(turned_after, after, rtol=0.0)


def _to_lists(params: Any) -> Any:
    hidden, head = params["hidden"], params["head"]
    return ([hidden["kernel"], hidden["bias"]], (head["kernel"], head["bias"]))


def _from_lists(params: Any) -> Any:
    (kernel, bias), (head_kernel, head_bias) = params
    return {
        "hidden": {"kernel": kernel, "bias": bias},
        "head": {"kernel": head_kernel, "bias": head_bias},
    }


@every_optimizer
@every_structure
def test_tuples_and_lists_step_as_a_dict(make_optimizer, structure):
    problem = perceptron()
    listed = Problem(
        _to_lists(problem.params),
        problem.batch,
        lambda params, batch: problem.loss_fn(_from_lists(params), batch),
    )
    tx = make_optimizer(structure)
    expected, _ = train(tx, problem, structure)
    actual, _ = train(tx, listed, structure)
    assert_close(_from_lists(actual), expected)
    _, input_stats = listed.stats_of(structure=structure)
    assert set(input_stats) == {"0/0", "0/1", "1/0", "1/1"}


@every_structure
def test_a_single_array_of_parameters_needs_no_container(structure):
    params, inputs = jnp.ones((3, 2)), jnp.arange(12.0, dtype=jnp.float32).reshape(4, 3)
    params = params.astype(jnp.float32)
    grad_fn = insgd.value_and_grad(lambda w, x: jnp.mean((x @ w) ** 2), structure=structure)
    _, grads, input_stats = grad_fn(params, inputs)
    tx = insgd.scale_by_input(structure)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    (moments,) = input_stats.values()
    if structure == insgd.Scalar():
        assert_close(updates, grads / jnp.mean(inputs**2))
    assert updates.shape == moments.per_weight().shape == (3, 2)


@every_structure
def test_two_differentiated_arguments_step_as_one_dict(structure):
    problem = perceptron()

    def loss_fn(hidden: Any, head: Any, batch: Any) -> jax.Array:
        return problem.loss_fn({"hidden": hidden, "head": head}, batch)

    grad_fn = jax.jit(insgd.value_and_grad(loss_fn, argnums=(0, 1), structure=structure))
    pair = problem.params["hidden"], problem.params["head"]
    _, grads, input_stats = grad_fn(*pair, problem.batch)
    assert set(input_stats) == {"0/kernel", "0/bias", "1/kernel", "1/bias"}
    tx = insgd.insgd(0.1, structure=structure)
    updates, _ = tx.update(grads, tx.init(pair), pair, input_stats=input_stats)
    expected_grads, expected_stats = problem.stats_of(structure=structure)
    expected, _ = tx.update(
        expected_grads, tx.init(problem.params), problem.params, input_stats=expected_stats
    )
    assert_close(updates[0], expected["hidden"])
    assert_close(updates[1], expected["head"])


@pytest.mark.parametrize("none_where", ["bias", "kernel"])
def test_a_gradient_that_is_none_is_left_none(none_where):
    problem = perceptron()
    grads, input_stats = problem.stats_of()
    grads = {**grads, "head": {**grads["head"], none_where: None}}
    tx = insgd.scale_by_input()
    updates, _ = tx.update(grads, tx.init(grads), input_stats=input_stats)
    assert updates["head"][none_where] is None
    assert updates["hidden"]["kernel"].shape == (4, 3)
