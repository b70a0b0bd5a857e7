"""multi_steps takes the step of the whole batch, from micro-batches."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import insgd_optax as insgd

from .problems import (
    assert_close,
    assert_says,
    avals,
    every_optimizer,
    every_problem,
    every_structure,
    perceptron,
    train,
)


def _micro_batches(batch: Any, number: int) -> list[Any]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i::number], batch) for i in range(number)]


@every_problem
@every_optimizer
@every_structure
def test_three_micro_batches_take_the_step_of_the_whole_batch(
    make_problem, make_optimizer, structure
):
    problem = make_problem()
    whole = jax.tree.map(lambda leaf: jnp.concatenate([leaf, 2 * leaf, 3 * leaf]), problem.batch)
    plain = make_optimizer(structure)
    tx = insgd.multi_steps(plain, 3, structure=structure)
    update = jax.jit(tx.update)
    params, state = problem.params, tx.init(problem.params)
    expected, plain_state = params, plain.init(params)
    for _ in range(2):
        for number, micro_batch in enumerate(_micro_batches(whole, 3)):
            grads, input_stats = problem.stats_of(params, micro_batch, structure)
            before = state
            updates, state = update(grads, state, params, input_stats=input_stats)
            assert avals(state) == avals(before)
            if number < 2:
                assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
                assert_close(state.inner_state, before.inner_state, rtol=0.0)
            params = optax.apply_updates(params, updates)
        grads, input_stats = problem.stats_of(expected, whole, structure)
        updates, plain_state = plain.update(grads, plain_state, expected, input_stats=input_stats)
        expected = optax.apply_updates(expected, updates)
        assert_close(params, expected, rtol=1e-5)
        assert_close(state.inner_state, plain_state, rtol=1e-4)
    assert update._cache_size() == 1


@every_structure
def test_statistics_are_weighed_by_their_rows_and_gradients_equally(structure):
    problem = perceptron()
    parts = [
        jax.tree.map(lambda leaf, s=s: leaf[s], problem.batch) for s in (slice(4), slice(4, 6))
    ]
    results = [problem.stats_of(batch=part, structure=structure) for part in parts]
    plain = insgd.scale_by_input(structure)
    tx = insgd.multi_steps(plain, 2, structure=structure)
    state = tx.init(problem.params)
    for grads, input_stats in results:
        updates, state = tx.update(grads, state, problem.params, input_stats=input_stats)
    _, whole = problem.stats_of(structure=structure)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(grads for grads, _ in results))
    expected, _ = plain.update(mean, plain.init(problem.params), input_stats=whole)
    assert_close(updates, expected, rtol=1e-5)


def test_every_micro_batch_as_a_step_is_the_optimizer_alone():
    problem = perceptron()
    structure = insgd.MeanVariances()
    expected, _ = train(insgd.insgd(), problem, structure)
    actual, _ = train(insgd.multi_steps(insgd.insgd(), 1), problem, structure)
    assert_close(actual, expected)


def test_a_micro_batch_that_is_not_finite_skips_its_step_and_no_other():
    problem = perceptron()
    grads, input_stats = problem.stats_of()
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, grads)
    tx = insgd.multi_steps(insgd.insgd(), 2)
    state = tx.init(problem.params)
    for gradient in (broken, grads):
        updates, state = tx.update(gradient, state, problem.params, input_stats=input_stats)
    assert_close(updates, jax.tree.map(jnp.zeros_like, grads), rtol=0.0)
    for _ in range(2):
        updates, state = tx.update(grads, state, problem.params, input_stats=input_stats)
    plain = insgd.insgd()
    expected, _ = plain.update(
        grads, plain.init(problem.params), problem.params, input_stats=input_stats
    )
    assert_close(updates, expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float64])
def test_updates_have_the_dtype_of_the_parameters(dtype):
    problem = perceptron(dtype)
    grads, input_stats = problem.stats_of()
    tx = insgd.multi_steps(insgd.insgd(), 2)
    state = tx.init(problem.params)
    for _ in range(2):
        updates, state = tx.update(grads, state, problem.params, input_stats=input_stats)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


@pytest.mark.framework
def test_an_nnx_optimizer_steps_once_for_its_micro_batches():
    model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, insgd.multi_steps(insgd.insgd(), 2), wrt=nnx.Param)
    grad_fn = insgd.nnx.value_and_grad(lambda model, x: jnp.mean((model(x) - 1) ** 2))
    before, kernels = model.kernel[...], []
    for _ in range(2):
        _, grads, input_stats = grad_fn(model, jnp.eye(4))
        optimizer.update(model, grads, input_stats=input_stats)
        kernels.append(model.kernel[...])
    assert_close(kernels[0], before, rtol=0.0)
    assert not jnp.allclose(kernels[1], before)


def test_another_structure_inside_is_an_error_that_names_both(without_type_checks):
    problem = perceptron()
    grads, input_stats = problem.stats_of()
    tx = insgd.multi_steps(insgd.insgd(structure=insgd.Scalar()), 2)
    state = tx.init(problem.params)
    with pytest.raises(ValueError) as error:
        tx.update(grads, state, problem.params, input_stats=input_stats)
    assert_says(error, "Scalar(order=2)", "MeanVariances(", "value_and_grad", "structure=")


@pytest.mark.parametrize("every", [0, -1])
def test_less_than_one_micro_batch_is_an_error(every):
    with pytest.raises(ValueError, match="at least 1"):
        insgd.multi_steps(insgd.insgd(), every)
