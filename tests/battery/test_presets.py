"""The presets in the pipelines that optax users build: masks, partitions, schedules, sharding."""

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
every_preset = pytest.mark.parametrize("name", PRESETS)


def _made(name: str) -> tuple[Any, Any, Any]:
    """A preset, and gradients and statistics for it."""
    make, options, capture = PRESETS[name]
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


@every_preset
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


@every_preset
def test_a_partition_by_layer_equals_the_preset_on_all_layers(name):
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


@every_preset
def test_schedules_of_the_learning_rate_are_followed_from_step_zero(name):
    make, options, _ = PRESETS[name]
    _, grads, input_stats = _made(name)
    params = perceptron().params
    tx = make(lambda count: jnp.where(count == 0, 0.0, 0.1), **options)
    start = tx.init(params)
    first, state = tx.update(grads, start, params, input_stats=input_stats)
    second, _ = tx.update(grads, state, params, input_stats=input_stats)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(first))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(second))


@every_preset
def test_explicit_sharding_keeps_every_type(name):
    make, options, capture = PRESETS[name]
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


def test_map_params_reaches_the_momentum_of_paper_and_nothing_else():
    tx, _, _ = _made("paper")
    state = tx.init(perceptron().params)
    marked = optax.tree.map_params(tx, lambda leaf: "buffer", state)
    found = [leaf for leaf in jax.tree.leaves(marked) if isinstance(leaf, str)]
    assert len(found) == len(jax.tree.leaves(perceptron().params))
