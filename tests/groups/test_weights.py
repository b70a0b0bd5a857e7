"""Weights and priors from the history of groups."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd

LABELS = jnp.array([0] * 6 + [1] * 3 + [2])
# Shares of LABELS, and frequencies by Laplace's rule.
SHARES, FREQUENCY = np.array([6, 3, 1]) / 10, np.array([7, 4, 2]) / 13


def _history(norms: Any = None, groups: Any = LABELS, num_groups: int = 3) -> Any:
    tracker = insgd.track_groups(num_groups)
    return tracker.update({}, tracker.init({}), groups=groups, gradient_norms=norms)[1]


def test_at_one_weights_are_the_inverse_frequency():
    weights = np.asarray(insgd.example_weights(_history(), LABELS, 1.0))
    expected = 1 / FREQUENCY / (SHARES @ (1 / FREQUENCY))
    np.testing.assert_allclose(weights, expected[np.asarray(LABELS)], rtol=1e-5)


def test_groups_that_never_come_take_nothing_from_the_others():
    state = _history(groups=jnp.zeros(32, jnp.int32), num_groups=1000)
    for weights in (
        insgd.example_weights(state, jnp.zeros(32, jnp.int32), 1.0),
        insgd.effective_number_weights(state, jnp.zeros(32, jnp.int32), 1000),
    ):
        np.testing.assert_allclose(weights, 1, rtol=1e-5)


def test_factors_that_pull_to_both_ends_have_a_weight():
    state = _history(num_groups=2)._replace(
        count=jnp.array([1e5, 0], jnp.float32), measured=jnp.array([1e5, 1e-3], jnp.float32),
        gradient_power=jnp.array([1, 1e5], jnp.float32),
    )  # fmt: skip
    for exponent in (9.0, 10.0):
        weights = insgd.example_weights(state, jnp.arange(2), exponent, exponent)
        assert np.all(np.isfinite(weights)) and np.all(np.asarray(weights) > 0)


def test_the_gradient_s_factor_is_relative_to_the_mean_power():
    norms = jnp.where(LABELS == 0, 1.0, jnp.where(LABELS == 1, 2.0, 4.0))
    weights = np.asarray(insgd.example_weights(_history(norms), LABELS, 0.0, 0.5))
    by_hand = np.array([1, 1 / 2, 1 / 4])
    expected = by_hand[np.asarray(LABELS)] / (SHARES @ by_hand)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_at_zero_weights_are_one_to_the_last_bit():
    norms = jnp.linspace(0, 5, len(LABELS))
    assert np.all(np.asarray(insgd.example_weights(_history(norms), LABELS)) == 1)


def test_a_schedule_defers_the_weights():
    def schedule(step: Any) -> Any:
        return jnp.where(step > 1, 1.0, 0.0)

    tracker = insgd.track_groups(3)
    state = _history()
    np.testing.assert_allclose(insgd.example_weights(state, LABELS, schedule), 1, rtol=1e-6)
    _, state = tracker.update({}, state, groups=LABELS)
    later = np.asarray(insgd.example_weights(state, LABELS, schedule))
    np.testing.assert_allclose(later, insgd.example_weights(state, LABELS, 1.0), rtol=1e-6)
    assert later.max() > 1.5


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    st.integers(1, 5), st.lists(st.integers(-2, 6), min_size=1, max_size=12),
    st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1e20),
)  # fmt: skip
def test_weights_are_finite_not_negative_and_of_mean_one_over_the_history(
    groups, labels, a, b, norm
):
    batch = jnp.array(labels)
    state = _history(jnp.full(len(labels), norm), batch, groups)
    weights = np.asarray(insgd.example_weights(state, batch, a, b))
    known = (np.array(labels) >= 0) & (np.array(labels) < groups)
    assert np.all(np.isfinite(weights)) and np.all(weights >= 0)
    assert np.all(weights[~known] == 0) and np.all(weights[known] > 0)
    of_groups = insgd.example_weights(state, jnp.arange(groups), a, b)
    counted = np.sum(state.count)
    mean = np.sum(state.count * of_groups) / counted if counted else 1
    np.testing.assert_allclose(mean, 1, rtol=1e-4)


def test_a_batch_in_two_parts_has_the_weights_of_the_whole():
    whole = insgd.example_weights(_history(), LABELS, 1.0)
    parts = [insgd.example_weights(_history(), part, 1.0) for part in (LABELS[:7], LABELS[7:])]
    np.testing.assert_array_equal(jnp.concatenate(parts), whole)


def test_a_group_s_weight_is_bounded():
    state = _history(num_groups=2)._replace(count=jnp.array([1e6, 0.0], jnp.float32))
    weights = insgd.example_weights(state, jnp.array([0, 1]), 1.0, largest=5.0)
    np.testing.assert_allclose(weights[1] / weights[0], 5 / 0.5, rtol=1e-3)


def test_an_example_with_several_labels_has_the_mean_of_their_weights():
    several = jnp.array([[1, 0, 1], [1, 0, 0]], bool)
    weights = np.asarray(insgd.example_weights(_history(), several, 1.0))
    inverse = 1 / FREQUENCY
    np.testing.assert_allclose(
        weights[0] / weights[1], (inverse[0] + inverse[2]) / 2 / inverse[0], rtol=1e-5
    )


def test_an_example_without_any_of_several_labels_counts_as_one_and_a_masked_one_as_none():
    several = jnp.array([[1, 0, 1], [0, 0, 0], [0, 0, 0]], bool)
    weights = insgd.example_weights(_history(), several, 1.0, mask=jnp.array([1, 1, 0]))
    assert weights[1:].tolist() == [1, 0]
    assert insgd.example_weights(_history(), several).tolist() == [1, 1, 1]


def test_a_group_that_is_fitted_perfectly_has_a_weight_at_the_bound():
    state = _history(jnp.where(LABELS == 0, 0.0, 1.0))
    weights = insgd.example_weights(state, jnp.arange(3), 0.0, -1.0, largest=50.0)
    np.testing.assert_allclose(weights[0] / weights[1], (1 / 50) / (1 / (4 / 10)), rtol=1e-4)


@pytest.mark.parametrize("settings", [{"frequency_exponent": float("nan")}, {"largest": 0.5}])
def test_a_setting_out_of_its_range_is_an_error(settings):
    with pytest.raises(ValueError, match="must be"):
        insgd.example_weights(_history(), LABELS, **settings)


def test_effective_numbers_are_those_of_the_paper():
    weights = np.asarray(insgd.effective_number_weights(_history(), LABELS, 1300, beta=0.99))
    by_hand = 0.01 / (1 - 0.99 ** (1300 * FREQUENCY))
    expected = by_hand[np.asarray(LABELS)] / (SHARES @ by_hand)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


@pytest.mark.parametrize(("beta", "exponent"), [(0.0, 0.0), (1 - 1e-9, 1.0)])
def test_effective_numbers_end_at_equal_weights_and_at_the_inverse_frequency(beta, exponent):
    weights = np.asarray(insgd.effective_number_weights(_history(), LABELS, 1300, beta=beta))
    other = insgd.example_weights(_history(), LABELS, exponent)
    np.testing.assert_allclose(weights, other, rtol=1e-4)


def test_a_beta_of_one_is_an_error():
    with pytest.raises(ValueError, match="beta must be in"):
        insgd.effective_number_weights(_history(), LABELS, 1300, beta=1.0)


def test_the_prior_is_the_logarithm_of_the_frequency():
    np.testing.assert_allclose(insgd.log_prior(_history()), np.log(FREQUENCY), rtol=1e-5)
    np.testing.assert_allclose(insgd.log_prior(_history(), 0.5), np.log(FREQUENCY) / 2, rtol=1e-5)


def test_no_gradient_flows_into_the_history():
    def read(count: Any) -> Any:
        state = _history()._replace(count=count)
        return jnp.sum(insgd.log_prior(state)) + insgd.example_weights(state, LABELS, 1.0)[-1]

    np.testing.assert_array_equal(jax.grad(read)(_history().count), np.zeros(3))


def _loss(params: Any, x: Any, labels: Any, weights: Any = None) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(jnp.tanh(x @ params["w"]), labels)
    return jnp.mean(losses if weights is None else weights * losses)


def _trained(optimizer: Any, weighted: bool) -> Any:
    x = jax.random.normal(jax.random.key(0), (len(LABELS), 4), jnp.float32)
    params = {"w": jax.random.normal(jax.random.key(1), (4, 3), jnp.float32)}
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        extra = (insgd.example_weights(state, LABELS),) if weighted else ()
        grad_fn = insgd.value_and_grad(_loss, batch_argnums=(1, 2))
        _, grads, stats = grad_fn(params, x, LABELS, *extra)
        known = {"groups": LABELS} if weighted else {}
        updates, state = optimizer.update(grads, state, params, input_stats=stats, **known)
        return optax.apply_updates(params, updates), state

    for _ in range(10):
        params, state = step(params, state)
    return params["w"]


def test_with_exponents_of_zero_training_is_that_without_groups_to_the_last_bit():
    with_groups = _trained(insgd.insgd(0.1, num_groups=3), weighted=True)
    without = _trained(insgd.insgd(0.1), weighted=False)
    np.testing.assert_array_equal(with_groups, without)
