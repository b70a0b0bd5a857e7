"""What `update` is called with: extra arguments, repeated calls, injected hyperparameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd

from .problems import (
    as_insgd,
    assert_close,
    every_optimizer,
    every_problem,
    every_structure,
    perceptron,
    regression,
    train,
)


@every_optimizer
@every_structure
def test_unknown_extra_arguments_change_nothing(make_optimizer, structure):
    problem = perceptron()
    tx = make_optimizer(structure)
    state = tx.init(problem.params)
    grads, input_stats = problem.stats_of(structure=structure)
    plain = tx.update(grads, state, problem.params, input_stats=input_stats)
    extended = tx.update(
        grads, state, problem.params, input_stats=input_stats, value=1.0, unheard_of={"a": 2}
    )
    assert_close(extended, plain, rtol=0.0)


@every_optimizer
@every_structure
def test_the_transformation_says_that_it_takes_extra_arguments(make_optimizer, structure):
    assert isinstance(make_optimizer(structure), optax.GradientTransformationExtraArgs)


@every_problem
@every_structure
def test_three_steps_trace_once(make_problem, structure):
    problem = make_problem()
    tx = insgd.insgd(0.1, structure=structure)
    grad_fn = insgd.value_and_grad(problem.loss_fn, structure=structure)
    traces = []

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        traces.append(1)
        _, grads, input_stats = grad_fn(params, batch)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state

    params, state = problem.params, tx.init(problem.params)
    for _ in range(3):
        params, state = step(params, state, problem.batch)
    assert len(traces) == 1


@every_optimizer
@every_structure
def test_the_update_alone_compiles_once_for_statistics_from_two_traces(make_optimizer, structure):
    problem = perceptron()
    tx = make_optimizer(structure)
    traces = []

    @jax.jit
    def update(grads: Any, state: Any, params: Any, input_stats: Any) -> Any:
        traces.append(1)
        return tx.update(grads, state, params, input_stats=input_stats)

    state = tx.init(problem.params)
    for _ in range(2):
        grads, input_stats = problem.stats_of(structure=structure)
        _, state = update(grads, state, problem.params, input_stats)
    assert len(traces) == 1


@every_structure
def test_injected_constants_equal_the_plain_optimizer(structure):
    problem = perceptron()
    options = {"structure": structure, "weight_decay": 0.01, "decay": 0.8, "momentum": 0.7}
    injected = optax.inject_hyperparams(insgd.insgd)(0.1, **options)
    expected, _ = train(insgd.insgd(0.1, **options), problem, structure)
    actual, state = train(injected, problem, structure)
    assert_close(actual, expected)
    assert state.hyperparams["learning_rate"] == jnp.float32(0.1)


def test_every_default_can_be_injected_at_once():
    problem = perceptron()
    expected, _ = train(insgd.insgd(0.1), problem, insgd.MeanVariances())
    actual, state = train(
        optax.inject_hyperparams(insgd.insgd)(0.1), problem, insgd.MeanVariances()
    )
    assert_close(actual, expected)
    assert {"learning_rate", "momentum", "weight_decay", "decay", "eps"} <= set(state.hyperparams)


@every_structure
def test_injected_schedules_equal_the_plain_optimizer(structure):
    problem = perceptron()
    options: dict[str, Any] = {
        "learning_rate": optax.linear_schedule(0.2, 0.0, 5),
        "weight_decay": optax.linear_schedule(0.0, 0.1, 4),
        "structure": structure,
    }
    injected = optax.inject_hyperparams(insgd.insgd)(**options)
    expected, _ = train(insgd.insgd(**options), problem, structure)
    actual, state = train(injected, problem, structure)
    assert_close(actual, expected)
    # The third step used the schedule at count 2: 0.2 (1 - 2/5).
    assert_close(state.hyperparams["learning_rate"], 0.12)


def test_an_injected_learning_rate_can_be_changed_between_steps_without_a_new_trace():
    problem = regression()
    tx = optax.inject_hyperparams(insgd.insgd)(0.1, momentum=0.0)
    grads, input_stats = problem.stats_of()
    update = jax.jit(tx.update)
    state = tx.init(problem.params)
    first, _ = update(grads, state, problem.params, input_stats=input_stats)
    state.hyperparams["learning_rate"] = jnp.asarray(0.2, jnp.float32)
    second, _ = update(grads, state, problem.params, input_stats=input_stats)
    for rate, found in ((0.1, first), (0.2, second)):
        plain = insgd.insgd(rate, momentum=0.0)
        expected, _ = plain.update(
            grads, plain.init(problem.params), problem.params, input_stats=input_stats
        )
        assert_close(found, expected)
    assert update._cache_size() == 1


@every_structure
def test_an_injected_decay_and_eps_equal_the_plain_transformation(structure):
    problem = perceptron()
    injected = optax.inject_hyperparams(insgd.scale_by_input)(structure, decay=0.5, eps=0.1)
    plain = insgd.scale_by_input(structure, decay=0.5, eps=0.1)
    states = injected.init(problem.params), plain.init(problem.params)
    for scale in (1.0, 3.0, 0.5):
        batch = (scale * problem.batch[0], problem.batch[1])
        grads, input_stats = problem.stats_of(batch=batch, structure=structure)
        actual, first = injected.update(grads, states[0], problem.params, input_stats=input_stats)
        expected, second = plain.update(grads, states[1], problem.params, input_stats=input_stats)
        states = first, second
        assert_close(actual, expected)
    assert_close(states[0].inner_state, states[1])


def test_the_optimizer_runs_without_params_when_nothing_decays_them():
    problem = regression()
    grads, input_stats = problem.stats_of()
    tx = insgd.scale_by_input()
    state = tx.init(problem.params)
    with_params, _ = tx.update(grads, state, problem.params, input_stats=input_stats)
    without, _ = tx.update(grads, state, input_stats=input_stats)
    assert_close(without, with_params, rtol=0.0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_optimizer_is_its_steps_times_the_learning_rate(nesterov):
    problem = perceptron()
    structure = insgd.MeanVariances()
    by_hand = optax.chain(
        insgd.scale_by_insgd(structure, nesterov=nesterov, learning_rate=0.1),
        optax.scale_by_learning_rate(0.1),
    )
    expected, _ = train(by_hand, problem, structure, steps=4)
    actual, _ = train(as_insgd(structure, nesterov=nesterov), problem, structure, steps=4)
    assert_close(actual, expected)
