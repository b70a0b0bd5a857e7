"""Twenty steps on eight devices are those of one: for every structure and kind of sharding."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd
from insgd_optax.capture.layers.sampling import draw_of
from presets.models import train
from zoo.case import normal

# Fewer rows than a batch has: 1152 patches and 32 examples.
STRUCTURES = {
    "Scalar": insgd.Scalar(),
    "Diagonal": insgd.Diagonal(),
    "Frequency": insgd.Frequency(),
    "MeanVariance": insgd.MeanVariance(),
    "MeanVariances": insgd.MeanVariances(),
    "LowRank": insgd.LowRank(rank=4, rows=16),
    "Full": insgd.Full(rows=16),
    "PerLayer": insgd.PerLayer(),
}
# The mesh, the axis of it that the batch lies along, and for every parameter its own.
WHOLE = {"conv": P(), "table": P(), "wide": P(), "head": P()}
SPLIT = {
    "conv": P(None, None, None, "model"),
    "table": P("model"),
    "wide": P(None, "model"),
    "head": P("model"),
}
SHARDINGS = {
    "data": ((8, 1), P(None, "data"), WHOLE),
    "tensor": ((1, 8), P(), SPLIT),
    "two axes": ((4, 2), P(None, "data"), SPLIT),
}


def _params(dtype: Any) -> Any:
    shapes = {"conv": (3, 3, 2, 8), "table": (16, 8), "wide": (8, 16), "head": (16, 4)}
    return {name: normal(n, shape, dtype) / 3 for n, (name, shape) in enumerate(shapes.items())}


def _batches(dtype: Any) -> Any:
    return normal(9, (20, 32, 6, 6, 2), dtype), jnp.arange(20 * 32).reshape(20, 32) ** 2 % 16


def _loss(params: Any, images: Any, tokens: Any, rows: Any = None) -> jax.Array:
    axes = ("NHWC", "HWIO", "NHWC")
    features = jax.lax.conv_general_dilated(
        images, params["conv"], (1, 1), "SAME", dimension_numbers=axes
    )
    hidden = jnp.tanh(features).mean(axis=(1, 2)) + params["table"].at[tokens].get(
        out_sharding=rows
    )
    hidden = jnp.tanh(hidden @ params["wide"])
    return jnp.mean(jnp.square(hidden @ params["head"] - 1))


def _trained(structure: Any, params: Any, batches: Any, rows: Any = None) -> Any:
    grad_fn = insgd.value_and_grad(functools.partial(_loss, rows=rows), structure=structure)
    return train(insgd.insgd(0.05, structure=structure), grad_fn, params, batches)


@functools.cache
def _alone(name: str, dtype: str) -> Any:
    run = jax.jit(functools.partial(_trained, STRUCTURES[name]))
    return jax.device_get(run(_params(dtype), _batches(dtype)))


@pytest.mark.parametrize(
    ("sharding", "dtype"), [*((each, "float64") for each in SHARDINGS), ("two axes", "float32")]
)
@pytest.mark.parametrize("name", STRUCTURES)
def test_twenty_steps_on_eight_devices_are_those_of_one(name, sharding, dtype):
    shape, of_batch, of_params = SHARDINGS[sharding]
    mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    params = jax.tree.map(
        lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)),
        _params(dtype), of_params,
    )  # fmt: skip
    batches = jax.device_put(_batches(dtype), NamedSharding(mesh, of_batch))
    spread = jax.jit(functools.partial(_trained, STRUCTURES[name]))(params, batches)
    _assert_equal(spread, name, dtype)


@pytest.mark.parametrize("current", [True, False], ids=["current mesh", "no current mesh"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_twenty_steps_on_an_explicit_mesh_of_eight_devices_are_those_of_one(name, current):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh) if current else contextlib.nullcontext():
        params = jax.device_put(_params("float64"), NamedSharding(mesh, P()))
        batches = jax.device_put(_batches("float64"), NamedSharding(mesh, P(None, "data")))
        rows = P("data") if current else NamedSharding(mesh, P("data"))
        train_spread = jax.jit(functools.partial(_trained, STRUCTURES[name], rows=rows))
        _assert_equal(train_spread(params, batches), name, "float64")


def _assert_equal(spread: Any, name: str, dtype: str) -> None:
    alone = _alone(name, dtype)
    for path, start in _params(dtype).items():
        moved = np.linalg.norm(alone[path] - np.asarray(start))
        apart = np.linalg.norm(np.asarray(spread[path]) - alone[path])
        assert moved > 0.01
        size = np.linalg.norm(alone[path])
        assert apart < size * {"float32": 1e-5, "float64": 1e-10}[dtype], (path, apart / size)


@pytest.mark.parametrize("structure", [insgd.Full(rows=4), insgd.LowRank(rank=2, rows=4)])
def test_rows_are_drawn_alike_whatever_the_last_bits_of_a_layers_input(structure):
    """What a sum over devices does to an input: its last bits change, the batch's do not."""

    def stats_of(noise: float) -> Any:
        def loss(params: Any, x: Any) -> jax.Array:
            return jnp.mean(jnp.sin(x * (1 + noise) @ params["w"]))

        x, params = normal(0, (64, 3), "float64"), {"w": normal(1, (3, 2), "float64")}
        found: Any = insgd.value_and_grad(loss, structure=structure)(params, x)[2]["w"]
        return found.sums

    np.testing.assert_allclose(stats_of(1e-12), stats_of(0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("given", ["batch", "key", "raw key", "counter"])
def test_another_batch_key_or_counter_draws_other_rows_and_other_parameters_do_not(given):
    structure, x = insgd.Full(rows=4), normal(0, (64, 3), "float64")
    places = jnp.arange(64.0)[:, None]  # the one feature of a row is its place

    def drawn(n: int, scale: float = 1.0) -> Any:
        extra = {
            "batch": normal(n, (64, 3), "float64"),
            "key": jax.random.key(n),
            "raw key": jax.random.PRNGKey(n),
            "counter": jnp.asarray(n),
        }[given]

        def loss(params: Any, rows: Any, x: Any, extra: Any, averages: Any) -> jax.Array:
            del extra
            return jnp.sum(rows @ params["w"]) * jnp.sum(x) + jnp.sum(averages)

        batch = (1, 2, 3) if given == "batch" else (1, 2)
        grad_fn = insgd.value_and_grad(loss, batch_argnums=batch, structure=structure)
        params, averages = {"w": scale * jnp.ones((1, 2))}, scale * jnp.ones(3)
        found: Any = grad_fn(params, places, x, extra, averages)[2]["w"]
        return float(found.sums.ravel()[0])

    assert drawn(0) == drawn(0, scale=1.1)
    assert len({drawn(n) for n in range(8)}) > 4


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int32", "int64", "bfloat16", "float32", "float64", "complex64"]
)
def test_a_seed_depends_on_every_number_of_the_batch_and_on_its_place(dtype):
    def seed_of(*arrays: Any) -> int:
        return int(draw_of([jnp.asarray(array, dtype) for array in arrays]).seed)

    base = np.arange(24).reshape(4, 6) % 2
    seeds = {seed_of(base)}
    for place in np.ndindex(*base.shape):
        other = base.copy()
        other[place] = 1 - other[place]
        seeds.add(seed_of(other))
    seeds.add(seed_of(base[::-1].T))
    assert len(seeds) == 26
    assert seed_of(base, base) not in seeds
