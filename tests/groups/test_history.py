"""track_groups: frequencies and gradient powers of a stream, however it is cut into batches."""

import functools
import operator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd

PARAMS = {"w": jnp.zeros(2)}


def _after(batches: Any, num_groups: int, decay: float = 0.999, norms: Any = None) -> Any:
    tracker = insgd.track_groups(num_groups, decay)
    state = tracker.init(PARAMS)
    norms = [None] * len(batches) if norms is None else norms
    for batch, norm in zip(batches, norms, strict=True):
        _, state = tracker.update(PARAMS, state, groups=batch, gradient_norms=norm)
    return state


def _stream(seed: int, shares: Any, batches: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(len(shares), (batches, size), p=shares)


def test_frequencies_converge_to_those_of_the_stream():
    shares = np.array([0.6, 0.3, 0.09, 0.01])
    found = _after(_stream(0, shares, 400, 64), 4, decay=1.0).frequency
    np.testing.assert_allclose(found, shares, atol=4 * np.sqrt(0.25 / (400 * 64)))


def test_without_decay_they_are_the_counts_by_laplace_s_rule():
    stream = _stream(1, [0.5, 0.4, 0.1], 7, 13)
    counts = np.bincount(stream.ravel(), minlength=3)
    found = _after(stream, 3, decay=1.0).frequency
    np.testing.assert_allclose(found, (counts + 1) / (counts.sum() + 3), rtol=1e-6)


def test_frequencies_follow_a_stream_that_changes():
    before, after = _stream(2, [0.9, 0.1], 200, 32), _stream(3, [0.1, 0.9], 200, 32)
    state = _after([*before, *after], 2, decay=0.97)
    np.testing.assert_allclose(state.frequency, [0.1, 0.9], atol=0.03)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(st.integers(1, 6), st.floats(0.5, 1.0), st.integers(0, 999))
def test_the_history_is_that_of_the_equations(num_groups, decay, seed):
    rng = np.random.default_rng(seed)
    stream = rng.integers(0, num_groups, (5, 8))
    norms = rng.uniform(0.1, 3, (5, 8)).astype(np.float32)
    count, power = np.zeros(num_groups), np.zeros(num_groups)
    for batch, norm in zip(stream, norms, strict=True):
        for k in range(num_groups):
            mine = norm[batch == k]
            if len(mine):
                total = decay * count[k] * power[k] + np.sum(mine**2)
                power[k] = total / (decay * count[k] + len(mine))
            count[k] = decay * count[k] + len(mine)
    state = _after(stream, num_groups, decay, norms)
    np.testing.assert_allclose(state.count, count, rtol=1e-5)
    np.testing.assert_allclose(state.gradient_power, power, rtol=1e-5)


def test_four_micro_batches_count_as_one_batch():
    stream, norms = _stream(4, [0.7, 0.2, 0.1], 6, 32), np.random.default_rng(0).random((6, 32))
    whole = _after(stream, 3, norms=norms)
    parts = []
    for batch, norm in zip(stream, norms, strict=True):
        first, *others = [
            insgd.group_sums(part, 3, length)
            for part, length in zip(np.split(batch, 4), np.split(norm, 4), strict=True)
        ]
        parts.append(functools.reduce(operator.add, others, first))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), _after(parts, 3), whole)


def test_a_batch_that_is_sharded_in_its_type_counts_as_one_that_is_not():
    labels, features = jnp.asarray(_stream(5, [0.7, 0.2, 0.1], 1, 64)[0]), jnp.ones((64, 2))
    optimizer = optax.chain(insgd.track_groups(3), insgd.track_prototypes(4, 2))

    @jax.jit
    def step(state: Any, labels: Any, features: Any) -> Any:
        state = optimizer.update({}, state, groups=labels, features=features)[1]
        similar = insgd.similarity_groups(state, features)
        return state, insgd.example_weights(state, labels, 1.0), similar

    alone = step(optimizer.init({}), labels, features)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        put = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (labels, features)]
        sharded = step(optimizer.init({}), *put)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, sharded)


def test_eight_devices_count_as_one():
    batch = jnp.asarray(_stream(5, [0.7, 0.2, 0.1], 1, 64)[0])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tracker = insgd.track_groups(3)
    update = jax.jit(lambda state, groups: tracker.update(PARAMS, state, groups=groups)[1])
    alone = update(tracker.init(PARAMS), batch)
    spread = update(tracker.init(PARAMS), jax.device_put(batch, NamedSharding(mesh, P("data"))))
    summed = jax.shard_map(
        lambda part: jax.lax.psum(insgd.group_sums(part, 3), "data"),
        mesh=mesh, in_specs=P("data"), out_specs=P(),
    )(batch)  # fmt: skip
    by_hand = tracker.update(PARAMS, tracker.init(PARAMS), groups=summed)[1]
    for other in (spread, by_hand):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), alone, other)


def test_padding_and_masked_examples_are_left_out_and_strange_labels_are_counted():
    labels = jnp.array([[0, 1, -1], [1, 7, -3]])
    sums = insgd.group_sums(labels, 3, mask=jnp.array([[1, 1, 1], [0, 1, 1]]))
    assert sums.count.tolist() == [1, 1, 0]
    assert float(sums.outside) == 2


def test_an_example_with_several_labels_counts_for_each():
    sums = insgd.group_sums(jnp.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], bool), 3)
    assert sums.count.tolist() == [1, 2, 0]
    assert float(sums.outside) == 0


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e30])
def test_a_norm_whose_square_is_not_finite_reaches_no_power(bad):
    norms = [jnp.array([bad, bad, bad]), jnp.array([2.0, bad, bad])]
    state = _after([jnp.array([0, 0, 1])] * 2, 2, decay=1.0, norms=norms)
    assert state.count.tolist() == [4, 2] and state.measured.tolist() == [1, 0]
    assert state.gradient_power.tolist() == [4, 0]


@pytest.mark.parametrize("groups", [[0] * 8, [0]], ids=["their_sum", "their_history"])
def test_finite_norms_whose_squares_have_no_finite_sum_leave_the_history_usable(groups):
    tracker, labels = insgd.track_groups(2), jnp.array(groups)
    state = tracker.init(None)
    for _ in range(10):
        norms = jnp.full(len(labels), 1.8e19, jnp.float32)
        _, state = tracker.update({}, state, groups=labels, gradient_norms=norms)
    assert np.all(np.isfinite(state.gradient_power))
    assert np.all(np.isfinite(insgd.example_weights(state, jnp.arange(2), 0.0, 0.5)))
    decayed = insgd.track_groups(2, decay=0.5)
    for _ in range(200):
        _, state = decayed.update({}, state, groups=labels, gradient_norms=jnp.ones(len(labels)))
    np.testing.assert_allclose(state.gradient_power[0], 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "number"), [("uint8", 256), ("uint8", 1000), ("int8", 200), ("int16", 50257)]
)
def test_labels_of_a_narrow_type_are_those_of_a_wide_one(dtype, number):
    labels = np.array([0, 1, 2, 100, 100], dtype)
    narrow, wide = (insgd.group_sums(jnp.asarray(x), number) for x in (labels, labels.astype(int)))
    jax.tree.map(np.testing.assert_array_equal, narrow, wide)
    assert float(narrow.count[100]) == 2 and float(narrow.outside) == 0


@pytest.mark.parametrize("num_groups", [1, 1000])
@pytest.mark.parametrize("batch", [[], [0], [0, 0, 0], [-1, -1]], ids=str)
def test_any_batch_leaves_frequencies_that_are_positive_and_add_up_to_one(num_groups, batch):
    state = _after([jnp.array(batch, jnp.int32)] * 3, num_groups)
    assert np.all(np.asarray(state.frequency) > 0)
    np.testing.assert_allclose(np.sum(state.frequency), 1, rtol=1e-5)


def test_updates_pass_through_untouched_and_the_state_survives_a_chain_and_a_scan():
    optimizer = optax.chain(insgd.track_groups(2), optax.scale(1.0))
    stream = jnp.asarray(_stream(6, [0.8, 0.2], 5, 4))

    def step(state: Any, groups: Any) -> Any:
        updates, state = optimizer.update({"w": jnp.arange(2.0)}, state, groups=groups)
        return state, updates["w"]

    state, updates = jax.lax.scan(step, optimizer.init(PARAMS), stream)
    np.testing.assert_array_equal(updates, np.tile(np.arange(2.0), (5, 1)))
    np.testing.assert_allclose(insgd.group_history(state).count, _after(stream, 2).count, rtol=1e-6)


def test_two_trackers_in_a_chain_have_an_argument_each():
    trackers = insgd.track_groups(2), insgd.track_groups(3, argument="similar")
    optimizer = optax.chain(*trackers)
    similar = {"similar": jnp.array([2, 2])}
    state = optimizer.update(PARAMS, optimizer.init(PARAMS), groups=jnp.array([0, 1]), **similar)[1]
    assert [part.count.tolist() for part in state] == [[1, 1], [0, 0, 2]]
    with pytest.raises(ValueError, match="similar=labels"):
        optimizer.update(PARAMS, state, groups=jnp.array([0, 1]))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("groups", "norms", "error", "words"),
    [
        (None, None, ValueError, "groups=labels"),
        (jnp.zeros(3), None, TypeError, "integers from 0 to 3"),
        (jnp.zeros(4), None, TypeError, "integers from 0 to 3"),
        (jnp.zeros((3, 4), complex), None, TypeError, "integers from 0 to 3"),
        (insgd.group_sums(jnp.zeros(3, int), 4), jnp.zeros(3), ValueError, "must be part of"),
        (jnp.zeros((3, 5)), None, TypeError, r"\(..., 4\)"),
        (jnp.zeros(3, int), jnp.zeros(2), ValueError, "gradient_norms"),
        (jnp.zeros(3, int), {"w": jnp.zeros(3)}, TypeError, r"is a dict.*norms\.values"),
        (insgd.group_sums(jnp.zeros(3, int), 2), None, ValueError, "2 groups instead of 4"),
    ],
)
def test_groups_that_make_no_sense_are_an_error(groups, norms, error, words):
    tracker = insgd.track_groups(4)
    with pytest.raises(error, match=words):
        tracker.update(PARAMS, tracker.init(PARAMS), groups=groups, gradient_norms=norms)


@pytest.mark.parametrize("settings", [{"num_groups": 0}, {"num_groups": 3, "decay": 1.5}])
def test_a_setting_out_of_its_range_is_an_error(settings):
    with pytest.raises(ValueError, match="must be"):
        insgd.track_groups(**settings)


@pytest.mark.usefixtures("without_type_checks")
def test_half_a_group_and_a_number_as_text_are_errors():
    with pytest.raises(TypeError, match=r"num_groups must be an integer, not 2\.5"):
        insgd.track_groups(2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="exponent must be a number, not '1'"):
        insgd.log_prior(insgd.track_groups(2).init(None), "1")  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_type_checks")
def test_under_inject_hyperparams_a_number_of_groups_is_asked_to_be_static():
    make = optax.inject_hyperparams(insgd.track_groups)
    with pytest.raises(TypeError, match="static_args"):
        make(num_groups=3).init(PARAMS)
    static = optax.inject_hyperparams(insgd.track_groups, static_args=("num_groups", "argument"))
    optimizer = static(num_groups=3, decay=0.9)
    state = optimizer.update(PARAMS, optimizer.init(PARAMS), groups=jnp.array([1]))[1]
    assert insgd.group_history(state).count.tolist() == [0, 1, 0]


def test_no_history_and_several_are_errors_that_say_what_to_do():
    with pytest.raises(ValueError, match=r"insgd_optax.track_groups\(num_groups\)"):
        insgd.group_history(optax.sgd(0.1).init(PARAMS))
    both = optax.chain(insgd.track_groups(2), insgd.track_groups(5)).init(PARAMS)
    with pytest.raises(ValueError, match="named_chain"):
        insgd.group_history(both)
    assert insgd.group_history(both[1]).count.shape == (5,)


def test_a_state_of_another_number_of_groups_is_an_error_that_names_both():
    updates = {"w": jnp.zeros(2)}
    state = insgd.track_groups(7).init(updates)
    with pytest.raises(ValueError, match="holds 7 groups, but num_groups is 10"):
        insgd.track_groups(10).update(updates, state, groups=jnp.arange(3))
