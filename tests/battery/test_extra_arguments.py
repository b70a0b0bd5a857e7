"""Every wrapper of Optax hands the statistics on, or refuses and works with them bound."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd

from .problems import Problem, assert_close, perceptron, train

pytestmark = [pytest.mark.framework, pytest.mark.usefixtures("without_type_checks")]
Wrapper = Callable[[Any], Any]


def _all(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


def _partition(tx: Any) -> Any:
    return optax.partition({"all": tx}, lambda params: jax.tree.map(lambda _: "all", params))


def _inject(tx: Any) -> Any:
    del tx  # it makes its own
    return optax.inject_hyperparams(insgd.insgd)(learning_rate=0.1)


HAND_ON: dict[str, Wrapper] = {
    "chain": lambda tx: optax.chain(optax.identity(), tx),
    "named_chain": lambda tx: optax.named_chain(("steps", tx)),
    "masked": lambda tx: optax.masked(tx, _all),
    "masked_compatible": lambda tx: optax.masked(tx, _all, mask_compatible_extra_args=True),
    "partition": _partition,
    "inject_hyperparams": _inject,
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step >= 0),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step >= 0),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
    "multi_steps": lambda tx: insgd.multi_steps(tx, 1),
    "with_extra_args_support": optax.with_extra_args_support,
}

NEED_BIND: dict[str, Wrapper] = {
    "lookahead": lambda tx: optax.lookahead(tx, sync_period=1, slow_step_size=1.0),
    "sam": lambda tx: optax.contrib.sam(tx, optax.sgd(0.0), sync_period=1),
    "split_real_and_imaginary": optax.contrib.split_real_and_imaginary,
    "MultiSteps_in_a_chain": lambda tx: optax.chain(
        optax.MultiSteps(tx, 1).gradient_transformation()
    ),
    "GradientTransformation": lambda tx: optax.GradientTransformation(tx.init, tx.update),
}


@pytest.mark.parametrize("name", HAND_ON)
def test_a_wrapper_that_hands_extra_arguments_on_takes_the_steps_of_the_optimizer(name):
    problem, structure = perceptron(), insgd.MeanVariances()
    tx = insgd.insgd(0.1)
    expected, _ = train(tx, problem, structure)
    actual, _ = train(HAND_ON[name](tx), problem, structure)
    assert_close(actual, expected)
    assert not jnp.allclose(actual["hidden"]["kernel"], problem.params["hidden"]["kernel"])


def _doubled(name: str, tree: Any) -> Any:
    """Lookahead keeps two copies of the parameters."""
    return optax.LookaheadParams.init_synced(tree) if name == "lookahead" else tree


def _single(name: str, tree: Any) -> Any:
    return tree.fast if name == "lookahead" else tree


def _train_bound(name: str, problem: Problem) -> Any:
    plain = insgd.insgd(0.1)

    @jax.jit
    def step(params, state):
        grad_fn = insgd.value_and_grad(problem.loss_fn)
        _, grads, input_stats = grad_fn(_single(name, params), problem.batch)
        tx = NEED_BIND[name](insgd.bind(plain, input_stats=input_stats))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = _doubled(name, problem.params)
    state = NEED_BIND[name](plain).init(params)
    for _ in range(3):
        params, state = step(params, state)
    return _single(name, params)


@pytest.mark.parametrize("name", sorted(NEED_BIND.keys() - {"sam"}))  # it moves the parameters
def test_a_wrapper_that_drops_extra_arguments_takes_the_same_steps_with_them_bound(name):
    problem = perceptron()
    expected, _ = train(insgd.insgd(0.1), problem, insgd.MeanVariances())
    assert_close(_train_bound(name, problem), expected, rtol=1e-5)


@pytest.mark.parametrize("name", NEED_BIND)
def test_a_wrapper_that_drops_extra_arguments_is_no_plain_sgd_in_silence(name):
    problem = perceptron()
    grads, input_stats = problem.stats_of()
    tx = NEED_BIND[name](insgd.insgd(0.1))
    params = _doubled(name, problem.params)
    state = tx.init(params)
    with pytest.raises(
        ValueError, match=r"insgd_optax\.bind\(optimizer, input_stats=input_stats\)"
    ):
        tx.update(grads, state, params)
    if name != "GradientTransformation":  # which hands on all that it is given
        with pytest.raises((TypeError, ValueError), match="input_stats"):
            tx.update(grads, state, params, input_stats=input_stats)


def test_sam_descends_by_the_gradient_and_statistics_at_the_moved_parameters():
    problem, plain = perceptron(), insgd.insgd(0.1)

    def sam(**extra_args):
        return optax.contrib.sam(insgd.bind(plain, **extra_args), optax.sgd(0.05), sync_period=2)

    params, state = problem.params, sam().init(problem.params)
    expected, plain_state = problem.params, plain.init(problem.params)
    for _ in range(2):
        grads, _ = problem.stats_of(expected)
        moved = jax.tree.map(lambda p, g: p + 0.05 * g, expected, grads)
        grads, input_stats = problem.stats_of(moved)
        updates, plain_state = plain.update(grads, plain_state, expected, input_stats=input_stats)
        expected = optax.apply_updates(expected, updates)
        for _ in range(2):
            grads, input_stats = problem.stats_of(params)
            updates, state = sam(input_stats=input_stats).update(grads, state, params)
            params = optax.apply_updates(params, updates)
    assert_close(params, expected, rtol=1e-5)
    assert_close(state.opt_state, plain_state, rtol=1e-5)


def test_mechanize_learns_a_rate_with_the_history_of_the_optimizer():
    problem = perceptron()
    tx = optax.contrib.mechanize(insgd.insgd(1.0), weight_decay=0.0, s_init=1e-2)
    params, state = train(tx, problem, insgd.MeanVariances(), steps=30)
    assert problem.loss_fn(params, problem.batch) < problem.loss_fn(problem.params, problem.batch)
    assert int(state.base_optimizer_state[0].inputs.count) == 30
