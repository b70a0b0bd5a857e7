"""Presets and richer structures in the pipelines that optax users build."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import insgd_optax as insgd

from .problems import assert_close, avals, perceptron

PRESETS = {
    "nlms": (insgd.nlms, {}, {"structure": insgd.Scalar()}),
    "paper": (insgd.paper, {"dampening": 0.1, "weight_decay": 0.01}, {"structure": insgd.Scalar()}),
    "released": (insgd.released, {"weight_decay": 0.01}, {"structure": insgd.Released()}),
    "project_page": (insgd.project_page, {"momentum": 0.9}, {"per_example": True}),
}
STATIC = {"nlms": ("order",), "paper": ("order",), "released": ("order",), "project_page": ("eps",)}
FULL = insgd.Full(damping=0.2, rows=4, refresh_every=3)


def _on_white_inputs(learning_rate: Any) -> Any:
    return insgd.on_white_inputs(optax.sgd(learning_rate, momentum=0.9), FULL)


MAKERS = PRESETS | {
    "mean_variance": (
        insgd.insgd, {"structure": insgd.MeanVariance()}, {"structure": insgd.MeanVariance()}
    ),
    "low_rank": (insgd.insgd, {"structure": insgd.LowRank()}, {"structure": insgd.LowRank()}),
    "full": (insgd.insgd, {"structure": FULL}, {"structure": FULL}),
    "on_white_inputs": (_on_white_inputs, {}, {"structure": FULL}),
}  # fmt: skip
every_preset = pytest.mark.parametrize("name", PRESETS)
every_maker = pytest.mark.parametrize("name", MAKERS)


def _made(name: str) -> tuple[Any, Any, Any]:
    """An optimizer, and gradients and statistics for it."""
    make, options, capture = MAKERS[name]
    problem = perceptron()
    grad_fn = jax.jit(insgd.value_and_grad(problem.loss_fn, **capture))
    _, grads, input_stats = grad_fn(problem.params, problem.batch)
    return make(0.1, **options), grads, input_stats


def _steps(tx: Any, grads: Any, input_stats: Any, params: Any, number: int = 3) -> Any:
    state = tx.init(params)
    for _ in range(number):
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        params = optax.apply_updates(params, updates)
    return params


@every_maker
def test_the_state_keeps_its_types_under_jit_and_its_shape_is_known_beforehand(name):
    tx, grads, input_stats = _made(name)
    params = perceptron().params
    state = jax.jit(tx.init)(params)
    assert jax.tree.structure(jax.eval_shape(tx.init, params)) == jax.tree.structure(state)

    @jax.jit
    def update(grads: Any, state: Any, params: Any, input_stats: Any) -> Any:
        return tx.update(grads, state, params, input_stats=input_stats)

    for _ in range(3):
        _, after = update(grads, state, params, input_stats)
        assert avals(after) == avals(state)
        state = after
    assert update._cache_size() == 1


@every_maker
def test_a_partition_by_layer_equals_the_optimizer_on_all_layers(name):
    tx, grads, input_stats = _made(name)
    params = perceptron().params
    labels = {"hidden": "one", "head": "other"}
    apart = optax.partition({"one": tx, "other": tx}, labels)
    assert_close(_steps(apart, grads, input_stats, params), _steps(tx, grads, input_stats, params))


@every_preset
def test_injected_numbers_equal_the_plain_preset(name):
    make, options, _ = PRESETS[name]
    tx, grads, input_stats = _made(name)
    params = perceptron().params
    injected = optax.inject_hyperparams(make, static_args=STATIC[name])(0.1, **options)
    assert_close(
        _steps(injected, grads, input_stats, params), _steps(tx, grads, input_stats, params), 1e-5
    )


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", ["nlms", "paper", "released"])
def test_an_injected_order_is_an_error_that_says_how_to_keep_it_out(name):
    make = PRESETS[name][0]
    with pytest.raises(TypeError, match=r"order.*static_args=\('order',\)"):
        optax.inject_hyperparams(make)(0.1).init(perceptron().params)


@every_maker
def test_schedules_of_the_learning_rate_are_followed_from_step_zero(name):
    make, options, _ = MAKERS[name]
    _, grads, input_stats = _made(name)
    params = perceptron().params
    tx = make(lambda count: jnp.where(count == 0, 0.0, 0.1), **options)
    start = tx.init(params)
    first, state = tx.update(grads, start, params, input_stats=input_stats)
    second, _ = tx.update(grads, state, params, input_stats=input_stats)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(first))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(second))


@every_maker
def test_explicit_sharding_keeps_every_type(name):
    make, options, capture = MAKERS[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    problem = perceptron()
    params = jax.device_put(problem.params, NamedSharding(mesh, PartitionSpec()))
    x, y = (jnp.concatenate([leaf, leaf[:2]]) for leaf in problem.batch)
    batch = jax.device_put((x, y), NamedSharding(mesh, PartitionSpec("data")))
    tx = make(0.1, **options)
    grad_fn = insgd.value_and_grad(problem.loss_fn, **capture)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        _, grads, input_stats = grad_fn(params, batch)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state

    with jax.set_mesh(mesh):
        state = jax.jit(tx.init)(params)
        after, new_state = step(params, state, batch)
    assert avals((after, new_state)) == avals((params, state))


@pytest.mark.parametrize(
    "structure",
    [
        insgd.Scalar(), insgd.Diagonal(), insgd.Released(), insgd.MeanVariance(),
        insgd.LowRank(2, rows=7), insgd.Full(rows=None), insgd.Full(rows=7),
    ],
)  # fmt: skip
def test_statistics_of_a_batch_on_an_explicit_mesh_are_those_of_one_device(structure):
    def loss_fn(params: Any, images: Any, tokens: Any) -> Any:
        y = jax.lax.conv_general_dilated(
            images, params["conv"], (1, 1), "SAME", feature_group_count=2
        )
        return jnp.mean(y) + jnp.mean(tokens @ params["dense"])

    rng = np.random.default_rng(0)
    shapes = {"conv": (4, 1, 3, 3), "dense": (6, 2)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    batch = jnp.asarray(rng.normal(size=(16, 2, 8, 8))), jnp.asarray(rng.normal(size=(16, 5, 6)))
    grad_fn = jax.jit(insgd.value_and_grad(loss_fn, structure=structure))
    _, _, alone = grad_fn(params, *batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        _, _, together = grad_fn(everywhere, *spread)
    for name in shapes:
        np.testing.assert_allclose(together[name].sums, alone[name].sums, rtol=1e-9)


def test_map_params_reaches_the_momentum_of_paper_and_nothing_else():
    tx, _, _ = _made("paper")
    state = tx.init(perceptron().params)
    marked = optax.tree.map_params(tx, lambda leaf: "buffer", state)
    found = [leaf for leaf in jax.tree.leaves(marked) if isinstance(leaf, str)]
    assert len(found) == len(jax.tree.leaves(perceptron().params))


@every_maker
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_updates_and_state_keep_their_dtypes_and_the_history_is_float32(name, dtype):
    make, options, capture = MAKERS[name]
    problem = perceptron(dtype)
    tx, grad_fn = make(0.1, **options), insgd.value_and_grad(problem.loss_fn, **capture)
    state = tx.init(problem.params)
    _, grads, input_stats = grad_fn(problem.params, problem.batch)
    updates, after = tx.update(grads, state, problem.params, input_stats=input_stats)
    assert jax.tree.map(jnp.result_type, updates) == jax.tree.map(jnp.result_type, problem.params)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
    for moments in input_stats.values():
        assert moments is None or moments.sums.dtype == jnp.float32


@every_maker
def test_masked_leaves_keep_their_plain_gradient(name):
    tx, grads, input_stats = _made(name)
    params = perceptron().params
    mask = {"hidden": {"kernel": True, "bias": True}, "head": {"kernel": False, "bias": False}}
    masked = optax.masked(tx, mask)
    updates, _ = masked.update(grads, masked.init(params), params, input_stats=input_stats)
    alone, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    assert_close(updates["head"], grads["head"])
    assert_close(updates["hidden"], alone["hidden"])


@every_maker
def test_parameters_and_state_can_be_donated(name):
    tx, grads, input_stats = _made(name)
    params = jax.tree.map(jnp.copy, perceptron().params)
    state = tx.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state

    for _ in range(2):
        params, state = step(params, state)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params))
