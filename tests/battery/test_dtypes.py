"""Updates in the dtype of the parameters, statistics and history in float32 or wider."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd

from .problems import assert_close, avals, every_optimizer, every_structure, perceptron

every_dtype = pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__
)


@every_dtype
@every_structure
def test_updates_have_the_dtype_of_the_params_and_the_history_is_at_least_float32(dtype, structure):
    problem = perceptron(dtype)
    tx = insgd.insgd(0.1, structure=structure)
    grads, input_stats = problem.stats_of(structure=structure)
    history_dtype = jnp.float64 if dtype == jnp.float64 else jnp.float32
    state = tx.init(problem.params)
    updates, new_state = jax.jit(tx.update)(grads, state, problem.params, input_stats=input_stats)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert avals(new_state) == avals(state)
    for field in ("power", "power_weight"):
        assert optax.tree.get(new_state, field).dtype == history_dtype


@every_optimizer
def test_dtypes_are_the_same_without_jit(make_optimizer):
    problem = perceptron(jnp.bfloat16)
    tx = make_optimizer(insgd.MeanVariances())
    grads, input_stats = problem.stats_of()
    state = tx.init(problem.params)
    updates, new_state = tx.update(grads, state, problem.params, input_stats=input_stats)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    assert avals(new_state) == avals(state)


@every_dtype
@every_structure
def test_the_statistics_of_narrow_inputs_are_float32(dtype, structure):
    problem = perceptron(dtype)
    _, input_stats = problem.stats_of(structure=structure)
    expected = jnp.float64 if dtype == jnp.float64 else jnp.float32
    assert {m.sums.dtype for m in input_stats.values() if m is not None} == {jnp.dtype(expected)}


def test_float16_inputs_whose_squares_overflow_give_a_finite_power():
    # 300 squared is above the largest float16; the sums must not be formed in that dtype.
    problem = perceptron(jnp.float16)
    batch = (jnp.full_like(problem.batch[0], 300.0), problem.batch[1])
    _, input_stats = problem.stats_of(batch=batch, structure=insgd.Scalar())
    assert_close(input_stats["hidden/kernel"].mean(), np.asarray([90000.0]))


def test_a_small_power_does_not_take_half_precision_updates_to_infinity():
    params = {"kernel": jnp.ones((4, 2), jnp.float16)}
    inputs = jnp.full((8, 4), 1e-3, jnp.float16)

    def loss_fn(params, inputs):
        return jnp.sum((100 * (inputs @ params["kernel"])).astype(jnp.float32))

    _, grads, input_stats = insgd.value_and_grad(loss_fn)(params, inputs)
    tx = insgd.scale_by_input()
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    assert jnp.all(jnp.isfinite(updates["kernel"])) and jnp.all(updates["kernel"] > 6e4)
