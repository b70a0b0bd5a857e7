"""The state: its dtypes, its fields, and how it lives under jit, scan, cond and sharding."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import insgd_optax as insgd

from .problems import (
    assert_close,
    avals,
    convnet,
    every_optimizer,
    every_problem,
    every_structure,
    perceptron,
    train,
)


@every_optimizer
@every_structure
def test_the_state_keeps_its_types_under_scan_and_scan_equals_a_loop(make_optimizer, structure):
    problem = perceptron()
    tx = make_optimizer(structure)
    grad_fn = insgd.value_and_grad(problem.loss_fn, structure=structure)

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        params, state = carry
        _, grads, input_stats = grad_fn(params, batch)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        small = jax.tree.map(lambda leaf: jnp.clip(leaf, -0.1, 0.1), updates)
        return (optax.apply_updates(params, small), state), None

    batches = problem.batches(3)
    start = problem.params, tx.init(problem.params)
    scanned, _ = jax.lax.scan(step, start, batches)
    looped, jitted = start, jax.jit(step)
    for i in range(3):
        looped, _ = jitted(looped, jax.tree.map(lambda leaf, i=i: leaf[i], batches))
    assert_close(scanned, looped, rtol=1e-5)


@pytest.mark.parametrize("structure", [insgd.MeanVariances(), insgd.LowRank(2), insgd.Full()])
@pytest.mark.parametrize("exponent", [-1, -0.5])
def test_without_jit_the_second_update_compiles_nothing(structure, exponent, caplog):
    problem = perceptron()
    tx = insgd.insgd(structure=structure)
    if exponent != -1:
        tx = insgd.scale_by_input(structure, exponent=exponent)
    grads, input_stats = problem.stats_of(structure=structure)
    _, state = tx.update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    with jax.log_compiles():
        tx.update(grads, state, problem.params, input_stats=input_stats)
    assert [record.message for record in caplog.records if "ompiling" in record.message] == []


@every_optimizer
@every_structure
@pytest.mark.parametrize("take", [True, False])
def test_an_update_inside_cond_keeps_or_changes_the_whole_state(make_optimizer, structure, take):
    problem = perceptron()
    tx = make_optimizer(structure)
    grads, input_stats = problem.stats_of(structure=structure)
    state = tx.init(problem.params)

    @jax.jit
    def maybe(take: jax.Array) -> tuple[Any, Any]:
        return jax.lax.cond(
            take,
            lambda: tx.update(grads, state, problem.params, input_stats=input_stats),
            lambda: (grads, state),
        )

    expected = (grads, state)
    if take:
        expected = tx.update(grads, state, problem.params, input_stats=input_stats)
    assert_close(maybe(jnp.asarray(take)), expected)


@every_problem
@every_optimizer
@every_structure
def test_init_needs_only_shapes_and_dtypes(make_problem, make_optimizer, structure):
    params = make_problem().params
    tx = make_optimizer(structure)
    concrete = tx.init(params)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    evaluated = jax.eval_shape(tx.init, params)
    from_shapes = jax.eval_shape(tx.init, shapes)
    built = tx.init(shapes)
    for other in (evaluated, from_shapes, built):
        assert jax.tree.structure(other) == jax.tree.structure(concrete)
        for leaf, expected in zip(jax.tree.leaves(other), jax.tree.leaves(concrete), strict=True):
            assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)


@every_problem
@every_structure
def test_the_history_is_packed_vectors_and_two_counters(make_problem, structure):
    problem = make_problem()
    tx = insgd.scale_by_input(structure)
    state = tx.init(problem.params)
    packed = ("power", "power_weight", "factor", "fingerprints")
    assert state._fields == ("count", "skipped", *packed)
    assert state.factor.size == 1  # nothing to keep between refreshes, and no empty array
    grads, input_stats = problem.stats_of(structure=structure)
    for steps in range(3):
        assert (state.count.shape, state.count.dtype, int(state.count)) == ((), jnp.int32, steps)
        assert (state.skipped.shape, state.skipped.dtype) == ((), jnp.int32)
        assert int(state.skipped) == 0
        assert state.power.ndim == state.power_weight.ndim == 1
        _, state = tx.update(grads, state, problem.params, input_stats=input_stats)


@every_optimizer
@every_structure
def test_params_and_state_can_be_donated(make_optimizer, structure):
    problem = perceptron()
    tx = make_optimizer(structure)
    grads, input_stats = problem.stats_of(structure=structure)

    def step(params: Any, state: Any, grads: Any, input_stats: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state

    expected = step(problem.params, tx.init(problem.params), grads, input_stats)
    params = jax.tree.map(jnp.copy, problem.params)
    state = tx.init(params)
    donated = jax.jit(step, donate_argnums=(0, 1))
    actual = donated(params, state, grads, input_stats)
    assert_close(actual, expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert optax.tree.get(state, "power").is_deleted()
    donated(*actual, grads, input_stats)


@every_optimizer
@every_structure
def test_map_params_reaches_the_momentum_and_leaves_the_history(make_optimizer, structure):
    problem = perceptron()
    tx = make_optimizer(structure)
    _, state = train(tx, problem, structure)
    same = optax.tree.map_params(tx, lambda leaf: leaf, state)
    assert_close(same, state, rtol=0.0)
    marked = optax.tree.map_params(
        tx,
        lambda leaf, name: name,
        state,
        jax.tree.map(lambda leaf: "as the parameter", problem.params),
        transform_non_params=lambda leaf: "replicated",
    )
    assert optax.tree.get(marked, "power") == "replicated"
    if optax.tree.get(state, "momentum", None) is not None:
        momentum = optax.tree.get(marked, "momentum")
        assert set(jax.tree.leaves(momentum)) == {"as the parameter"}
        assert optax.tree.get(marked, "largest_gradient_power") == "replicated"


@every_optimizer
@every_structure
def test_the_history_can_be_read_and_set_by_its_field_name(make_optimizer, structure):
    problem = perceptron()
    tx = make_optimizer(structure)
    _, state = train(tx, problem, structure)
    power = optax.tree.get(state, "power")
    assert power.ndim == 1
    assert jnp.all(jnp.isfinite(power)) and jnp.any(power > 0)
    cleared = optax.tree.set(state, power=jnp.zeros_like(power))
    assert not jnp.any(optax.tree.get(cleared, "power"))
    assert int(optax.tree.get(state, "skipped")) == 0


@every_structure
@pytest.mark.parametrize(
    "spec", [PartitionSpec(None, None), PartitionSpec(None, "model"), PartitionSpec("model", None)]
)
def test_explicit_sharding_keeps_every_type(structure, spec):
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        params = {"kernel": jax.device_put(jnp.ones((4, 2)), NamedSharding(mesh, spec))}
        grad_fn = insgd.value_and_grad(
            lambda params, inputs: jnp.sum(inputs @ params["kernel"]), structure=structure
        )
        tx = insgd.insgd(0.1, structure=structure)
        state = jax.jit(tx.init)(params)

        @jax.jit
        def step(params: Any, state: Any) -> tuple[Any, Any]:
            _, grads, input_stats = grad_fn(params, jnp.ones((3, 4)))
            return tx.update(grads, state, params, input_stats=input_stats)

        updates, after = step(params, state)
        assert avals(updates) == avals(params)
        assert avals(after) == avals(state) == avals(tx.init(params))


@every_structure
def test_a_vmapped_update_equals_one_update_per_member(structure):
    problem = perceptron()
    tx = insgd.insgd(0.1, structure=structure)
    grad_fn = insgd.value_and_grad(problem.loss_fn, structure=structure)
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), problem.params)

    def step(params: Any, inputs: Any) -> tuple[Any, Any]:
        _, grads, input_stats = grad_fn(params, (inputs, problem.batch[1]))
        return tx.update(grads, tx.init(params), params, input_stats=input_stats)

    inputs = jnp.stack([problem.batch[0], 3 * problem.batch[0], problem.batch[0] + 1])
    together = jax.jit(jax.vmap(step))(members, inputs)
    alone_step = jax.jit(step)
    for i in range(3):
        alone = alone_step(jax.tree.map(lambda leaf, i=i: leaf[i], members), inputs[i])
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=1e-5)


@every_structure
def test_layouts_from_explain_give_the_same_steps_as_none(structure):
    problem = convnet()
    layouts = insgd.explain(problem.loss_fn, problem.params, problem.batch).layouts
    expected, _ = train(insgd.insgd(0.1, structure=structure), problem, structure)
    told, _ = train(insgd.insgd(0.1, structure=structure, layouts=layouts), problem, structure)
    assert_close(told, expected)
