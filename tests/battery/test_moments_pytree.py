"""`InputMoments` is a pytree like any other: it can be flattened, stored, donated and added."""

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import insgd_optax as insgd

from .problems import assert_close, convnet, every_problem, every_structure, perceptron


@every_problem
@every_structure
def test_flattening_keeps_layout_and_structure(make_problem, structure):
    _, input_stats = make_problem().stats_of(structure=structure)
    leaves, treedef = jax.tree.flatten(input_stats)
    again = jax.tree.unflatten(treedef, leaves)
    for path, moments in input_stats.items():
        if moments is None:
            assert again[path] is None
            continue
        assert again[path].layout == moments.layout
        assert again[path].structure == moments.structure == structure
    assert hash(treedef) == hash(jax.tree.structure(again))


@every_structure
@pytest.mark.parametrize("duplicate", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy])
def test_a_stored_copy_gives_the_same_step(structure, duplicate):
    problem = convnet()
    grads, input_stats = problem.stats_of(structure=structure)
    restored = duplicate(input_stats)
    assert jax.tree.structure(restored) == jax.tree.structure(input_stats)
    tx = insgd.scale_by_input(structure)
    expected, _ = tx.update(grads, tx.init(grads), input_stats=input_stats)
    actual, _ = tx.update(grads, tx.init(grads), input_stats=restored)
    assert_close(actual, expected, rtol=0.0)


@every_structure
def test_moments_pass_through_jit_and_can_be_donated(structure):
    problem = perceptron()
    _, input_stats = problem.stats_of(structure=structure)
    expected = jax.tree.map(lambda leaf: 2 * leaf, input_stats)
    doubled = jax.jit(lambda stats: jax.tree.map(lambda leaf: 2 * leaf, stats), donate_argnums=0)
    actual = doubled(jax.tree.map(jnp.copy, input_stats))
    assert jax.tree.structure(actual) == jax.tree.structure(input_stats)
    assert_close(actual, expected, rtol=0.0)


@every_structure
def test_moments_ride_in_a_scan_carry_and_in_cond(structure):
    problem = perceptron()
    _, input_stats = problem.stats_of(structure=structure)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        kept = jax.lax.cond(jnp.sum(carry["head/kernel"].count) > 0, lambda: carry, lambda: carry)
        return kept, None

    carried, _ = jax.lax.scan(step, input_stats, length=2)
    assert_close(carried, input_stats, rtol=0.0)


@every_problem
@every_structure
def test_moments_of_two_half_batches_add_up_to_those_of_the_batch(make_problem, structure):
    problem = make_problem()
    inputs, targets = problem.batch
    _, whole = problem.stats_of(structure=structure)
    _, first = problem.stats_of(batch=(inputs[:2], targets[:2]), structure=structure)
    _, second = problem.stats_of(batch=(inputs[2:], targets[2:]), structure=structure)
    assert_close(jax.tree.map(jnp.add, first, second), whole, rtol=1e-5)


@every_problem
def test_a_mean_square_per_weight_has_the_shape_of_the_leaf(make_problem):
    problem = make_problem()
    _, input_stats = problem.stats_of()
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
              for path, leaf in jax.tree_util.tree_leaves_with_path(problem.params)}  # fmt: skip
    assert set(input_stats) == set(shapes)
    for path, moments in input_stats.items():
        assert (moments is None) == (len(shapes[path]) < 2)
        if moments is not None:
            assert moments.per_weight().shape == shapes[path]


@every_structure
def test_moments_made_by_hand_step_as_captured_ones(structure):
    # Rows are the examples of a dense layer: its inputs can be summed without the capture.
    problem = perceptron()
    grads, input_stats = problem.stats_of(structure=structure)
    inputs = problem.batch[0]
    squares = jnp.square(inputs)
    sums = jnp.sum(squares, axis=0)[None, :]
    by_hand = insgd.InputMoments(
        sums=jnp.mean(sums, axis=1)
        if structure == insgd.Scalar()
        else jnp.concatenate([jnp.sum(inputs, axis=0)[None, :], sums], axis=1),
        count=jnp.asarray([squares.shape[0]], sums.dtype),
        layout=insgd.Layout.of_matrix((4, 3)),
        structure=structure,
    )
    tx = insgd.scale_by_input(structure)
    expected, _ = tx.update(grads, tx.init(grads), input_stats=input_stats)
    actual, _ = tx.update(
        grads, tx.init(grads), input_stats={**input_stats, "hidden/kernel": by_hand}
    )
    assert_close(actual, expected)
