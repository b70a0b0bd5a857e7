"""Optax's wrappers hand the statistics on, or do what is written here instead."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd

from .problems import (
    assert_close,
    avals,
    every_optimizer,
    every_structure,
    perceptron,
    regression,
    train,
)

both_flags = pytest.mark.parametrize("compatible", [False, True], ids=["default", "compatible"])


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _only_head(params: Any) -> Any:
    return {layer: jax.tree.map(lambda _, on=layer == "head": on, leaf)
            for layer, leaf in params.items()}  # fmt: skip


@every_optimizer
@every_structure
@both_flags
def test_a_masked_optimizer_treats_the_unmasked_leaves_as_alone(
    make_optimizer, structure, compatible
):
    problem = perceptron()
    grads, input_stats = problem.stats_of(structure=structure)
    plain = make_optimizer(structure)
    masked = optax.masked(plain, _only_head, mask_compatible_extra_args=compatible)
    expected, _ = plain.update(
        grads, plain.init(problem.params), problem.params, input_stats=input_stats
    )
    state = masked.init(problem.params)
    updates, new_state = jax.jit(masked.update)(
        grads, state, problem.params, input_stats=input_stats
    )
    assert_close(updates["head"], expected["head"])
    assert_close(updates["hidden"], grads["hidden"], rtol=0.0)
    assert avals(new_state) == avals(state)


@both_flags
def test_a_mask_survives_statistics_that_have_the_shape_of_the_updates(compatible):
    # A flat dict of parameters and the statistics of one have the same keys, so here the flag
    # masks the statistics as well.
    problem = regression()
    grads, input_stats = problem.stats_of()
    tx = optax.masked(insgd.scale_by_input(), _kernels, mask_compatible_extra_args=compatible)
    plain = insgd.scale_by_input()
    updates, _ = tx.update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    expected, _ = plain.update(grads, plain.init(problem.params), input_stats=input_stats)
    assert_close(updates, expected)


@every_optimizer
@every_structure
@both_flags
def test_a_partition_by_layer_equals_the_optimizer_on_all_layers(
    make_optimizer, structure, compatible
):
    problem = perceptron()
    labels = {"hidden": "first", "head": "second"}
    tx = optax.partition(
        {"first": make_optimizer(structure), "second": make_optimizer(structure)},
        labels,
        mask_compatible_extra_args=compatible,
    )
    expected, _ = train(make_optimizer(structure), problem, structure)
    actual, _ = train(tx, problem, structure)
    assert_close(actual, expected)


@pytest.mark.framework
@every_structure
@both_flags
def test_a_partition_can_leave_the_biases_to_another_optimizer(structure, compatible):
    problem = perceptron()
    labels = jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", problem.params)
    tx = optax.partition(
        {"matrix": insgd.insgd(0.1, structure=structure, relative=0.0), "vector": optax.adam(0.01)},
        labels,
        mask_compatible_extra_args=compatible,
    )
    grads, input_stats = problem.stats_of(structure=structure)
    updates, _ = tx.update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    plain = insgd.insgd(0.1, structure=structure, relative=0.0)
    expected, _ = plain.update(
        grads, plain.init(problem.params), problem.params, input_stats=input_stats
    )
    # Adam's first step has the length of its learning rate in every coordinate.
    for layer in ("hidden", "head"):
        assert_close(updates[layer]["kernel"], expected[layer]["kernel"])
        assert_close(updates[layer]["bias"], -0.01 * jnp.sign(grads[layer]["bias"]), rtol=1e-4)


@every_optimizer
@every_structure
def test_apply_if_finite_steps_on_finite_and_stands_still_on_nan_gradients(
    make_optimizer, structure
):
    problem = perceptron()
    plain = make_optimizer(structure)
    tx = optax.apply_if_finite(plain, 3)
    grads, input_stats = problem.stats_of(structure=structure)
    state = tx.init(problem.params)
    update = jax.jit(tx.update)
    expected, expected_state = plain.update(
        grads, plain.init(problem.params), problem.params, input_stats=input_stats
    )
    updates, after = update(grads, state, problem.params, input_stats=input_stats)
    assert_close(updates, expected)
    assert_close(after.inner_state, expected_state)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, grads)
    updates, rejected = update(broken, after, problem.params, input_stats=input_stats)
    assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
    assert_close(rejected.inner_state, after.inner_state, rtol=0.0)
    assert int(rejected.total_notfinite) == 1


@every_optimizer
@every_structure
def test_a_conditional_transform_skips_the_steps_it_is_told_to(make_optimizer, structure):
    problem = perceptron()
    plain = make_optimizer(structure)
    tx = optax.conditionally_transform(plain, lambda step: step % 2 == 0)
    grads, input_stats = problem.stats_of(structure=structure)
    update = jax.jit(tx.update)
    first, state = update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    second, skipped = update(grads, state, problem.params, input_stats=input_stats)
    expected, _ = plain.update(
        grads, plain.init(problem.params), problem.params, input_stats=input_stats
    )
    assert_close(first, expected)
    assert_close(second, grads, rtol=0.0)
    assert_close(skipped.inner_state, state.inner_state, rtol=0.0)


@every_structure
def test_schedule_free_keeps_the_same_history_and_lowers_the_loss(structure):
    problem = perceptron()
    base = insgd.insgd(0.1, structure=structure, momentum=0.0)
    tx = optax.contrib.schedule_free(base, learning_rate=0.1, b1=0.9)
    params, state = train(tx, problem, structure, steps=30)
    evaluated = optax.contrib.schedule_free_eval_params(state, params)
    before = problem.loss_fn(problem.params, problem.batch)
    assert problem.loss_fn(evaluated, problem.batch) < 0.7 * before
    _, once = train(tx, problem, structure, steps=1)
    _, expected = train(base, problem, structure, steps=1)
    assert_close(once.base_optimizer_state, expected)


@pytest.mark.framework
@every_optimizer
@every_structure
def test_multi_steps_averages_gradients_but_sees_only_the_last_micro_batch(
    make_optimizer, structure
):
    # `optax.MultiSteps` accumulates nothing but gradients. It keeps the inner state of the last
    # micro-step, so the history sees that micro-batch's statistics and no others.
    problem = perceptron()
    plain = make_optimizer(structure)
    tx = optax.MultiSteps(plain, every_k_schedule=3)
    state = initial = tx.init(problem.params)
    update, all_grads = jax.jit(tx.update), []
    for scale in (1.0, 5.0, 2.0):
        batch = (scale * problem.batch[0], problem.batch[1])
        grads, input_stats = problem.stats_of(batch=batch, structure=structure)
        before, all_grads = state, [*all_grads, grads]
        updates, state = update(grads, state, problem.params, input_stats=input_stats)
        if scale != 2.0:
            assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
            assert_close(state.inner_opt_state, before.inner_opt_state, rtol=0.0)
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *all_grads)
    expected, expected_state = plain.update(
        mean, initial.inner_opt_state, problem.params, input_stats=input_stats
    )
    assert_close(updates, expected, rtol=1e-5)
    assert_close(state.inner_opt_state, expected_state, rtol=1e-5)


@every_structure
def test_a_named_chain_equals_the_optimizer_and_names_its_history(structure):
    problem = perceptron()
    tx = optax.named_chain(
        ("steps", insgd.scale_by_insgd(structure, learning_rate=0.1)),
        ("rate", optax.scale_by_learning_rate(0.1)),
    )
    expected, plain_state = train(insgd.insgd(0.1, structure=structure), problem, structure)
    actual, state = train(tx, problem, structure)
    assert_close(actual, expected)
    assert_close(state["steps"].inputs.power, optax.tree.get(plain_state, "power"))


@every_structure
def test_members_of_a_chain_that_take_no_statistics_do_not_stop_them(structure):
    problem = perceptron()
    tx = optax.chain(
        optax.clip_by_global_norm(1e6), insgd.insgd(0.1, structure=structure), optax.scale(1.0)
    )
    expected, _ = train(insgd.insgd(0.1, structure=structure), problem, structure)
    actual, _ = train(tx, problem, structure)
    assert_close(actual, expected)
