"""Eight devices: statistics are sums, so they are those of the whole batch wherever it lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd

AXES = ("data", "model")
PARAMS = {
    "conv": jax.random.normal(jax.random.key(0), (3, 3, 2, 8), jnp.float64),
    "head": jax.random.normal(jax.random.key(1), (8, 4), jnp.float64),
}
IMAGES = jax.random.normal(jax.random.key(2), (16, 6, 6, 2), jnp.float64)
SPECS = {"conv": P(None, None, None, "model"), "head": P("model", None)}
grad_fn = insgd.value_and_grad(lambda params, images: loss_fn(params, images))


def loss_fn(params, images):
    axes = ("NHWC", "HWIO", "NHWC")
    features = jax.lax.conv_general_dilated(
        images, params["conv"], (1, 1), "SAME", dimension_numbers=axes
    )
    return jnp.mean(jnp.square(jnp.tanh(features).mean(axis=(1, 2)) @ params["head"]))


def place(mesh, tree, specs):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


def assert_same(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), first, second)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_a_sharded_train_step_equals_that_of_one_device(kind):
    optimizer = insgd.insgd(0.1)

    def step(params, state, images):
        _, grads, input_stats = grad_fn(params, images)
        updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
        return updates, state, input_stats

    alone = jax.jit(step)(PARAMS, optimizer.init(PARAMS), IMAGES)
    mesh = jax.make_mesh((8, 1), AXES, axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        params = place(mesh, PARAMS, {"conv": P(), "head": P()})
        images = place(mesh, IMAGES, P("data"))
        sharded = jax.jit(step)(params, optimizer.init(params), images)
    assert_same(alone, sharded)


def test_parameters_sharded_over_their_channels_keep_the_same_statistics():
    optimizer = insgd.insgd(0.1)
    _, grads, input_stats = jax.jit(grad_fn)(PARAMS, IMAGES)
    alone, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS, input_stats=input_stats)
    mesh = jax.make_mesh((2, 4), AXES, axis_types=(AxisType.Auto, AxisType.Auto))
    params, images = place(mesh, PARAMS, SPECS), place(mesh, IMAGES, P("data"))
    _, grads, sharded_stats = jax.jit(grad_fn)(params, images)
    updates, _ = jax.jit(optimizer.update)(
        grads, optimizer.init(params), params, input_stats=sharded_stats
    )
    assert_same(input_stats, sharded_stats)
    assert_same(alone, updates)


@pytest.mark.parametrize("check_vma", [True, False])
def test_statistics_summed_over_devices_are_those_of_the_whole_batch(check_vma):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def on_a_device(params, images):
        _, _, input_stats = grad_fn(params, images)
        return jax.lax.psum(input_stats, "data")

    summed = jax.shard_map(
        on_a_device, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=check_vma
    )(PARAMS, IMAGES)
    assert_same(grad_fn(PARAMS, IMAGES)[2], summed)
