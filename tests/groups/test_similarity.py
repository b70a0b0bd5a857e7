"""Prototypes: inputs that are alike fall into one group, in every batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd

CENTERS = 10 * np.random.default_rng(0).normal(size=(5, 16))


def _batch(seed: int, size: int = 40) -> tuple[np.ndarray, jax.Array]:
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.arange(size) % 5)
    return cluster, jnp.asarray(CENTERS[cluster] + rng.normal(size=(size, 16)))


def _after(batches: Any, num_groups: int = 12, decay: float = 0.99, size: int = 16) -> Any:
    tracker = insgd.track_prototypes(num_groups, size, decay)
    update = jax.jit(lambda state, batch: tracker.update({}, state, features=batch)[1])
    state = tracker.init({})
    for batch in batches:
        state = update(state, batch)
    return state


def test_every_group_holds_inputs_of_one_cluster():
    state = _after([_batch(seed)[1] for seed in range(20)])
    cluster, features = _batch(99, 200)
    groups = np.asarray(insgd.similarity_groups(state, features))
    for group in set(groups):
        assert len(set(cluster[groups == group])) == 1


def test_a_group_of_its_own_is_found_for_inputs_that_come_rarely():
    rng = np.random.default_rng(7)
    rare = 30 * np.ones(16)
    batches = []
    for seed in range(60):
        _, batch = _batch(seed)
        batches.append(batch.at[0].set(rare + rng.normal(size=16)) if seed % 3 == 0 else batch)
    state = _after(batches, decay=0.995)
    groups = np.asarray(insgd.similarity_groups(state, _batch(99)[1]))
    (own,) = np.asarray(insgd.similarity_groups(state, jnp.asarray(rare)[None]))
    assert own not in set(groups)


def test_a_prototype_is_the_decayed_mean_of_its_inputs():
    state = _after([_batch(seed)[1] for seed in range(4)], num_groups=1, decay=0.5)
    means = [np.asarray(_batch(seed)[1]).mean(axis=0) for seed in range(4)]
    weights = 0.5 ** np.arange(3, -1, -1)
    np.testing.assert_allclose(state.center[0], weights @ means / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(state.count[0], 40 * weights.sum(), rtol=1e-6)


def test_before_the_first_update_there_is_one_group():
    groups = insgd.similarity_groups(_after([]), _batch(0)[1])
    assert set(np.asarray(groups)) == {0}


def test_a_common_offset_changes_no_group():
    batches = [_batch(seed)[1].astype(jnp.float32) for seed in range(5)]
    near, far = (_after([batch + offset for batch in batches]) for offset in (0.0, 1e4))
    groups = [insgd.similarity_groups(s, batches[0] + o) for s, o in ((near, 0.0), (far, 1e4))]
    assert np.mean(np.asarray(groups[0]) == np.asarray(groups[1])) > 0.95


def test_more_groups_than_examples_start_batch_by_batch():
    state = _after([_batch(0, size=5)[1]], num_groups=8)
    assert int(np.sum(np.asarray(state.count) > 0)) == 5
    # Prototypes that never started lie at zero, and are no group of what is near it.
    groups = insgd.similarity_groups(state, jnp.zeros((1, 16)))
    assert set(np.asarray(groups)) <= set(np.flatnonzero(state.count))


def test_rows_that_are_not_finite_belong_to_no_group_and_reach_no_prototype():
    _, features = _batch(0)
    broken = features.at[0, 3].set(jnp.nan).at[7, 0].set(jnp.inf)
    rest = np.delete(np.asarray(features), [0, 7], axis=0)
    for number in (1, 4):
        first, second = (_after([rows], number) for rows in (broken, jnp.asarray(rest)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, second)
    groups = np.asarray(insgd.similarity_groups(first, broken))
    assert groups[0] == groups[7] == -1 and np.all(np.delete(groups, [0, 7]) >= 0)


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_batch_and_one_example_are_no_trouble(rows):
    state = _after([_batch(0)[1], jnp.ones((rows, 16)), _batch(1)[1]])
    assert all(np.all(np.isfinite(leaf)) for leaf in state)


def test_images_are_flattened_and_their_history_tells_similar_groups_apart():
    images = jnp.stack([jnp.zeros((4, 4, 1))] * 6 + [jnp.ones((4, 4, 1))] * 2)
    state = _after([images], num_groups=2)
    groups = insgd.similarity_groups(state, images)
    assert len(set(np.asarray(groups)[:6])) == 1


@pytest.mark.usefixtures("without_type_checks")
def test_features_that_are_missing_or_of_another_size_are_an_error():
    tracker = insgd.track_prototypes(3, 16)
    with pytest.raises(ValueError, match="features=inputs"):
        tracker.update({}, tracker.init({}))
    with pytest.raises(ValueError, match="one row of 16 numbers"):
        tracker.update({}, tracker.init({}), features=jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="track_prototypes"):
        insgd.similarity_groups({}, jnp.ones((2, 16)))
