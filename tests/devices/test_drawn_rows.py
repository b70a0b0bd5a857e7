"""Rows that are drawn where a batch is split over devices: those that one device would draw."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd
from insgd_optax.capture.layers.sampling import Draw, drawn_rows
from insgd_optax.sharding import names_of
from zoo.case import normal

ROWS = insgd.Full(rows=16)
IMAGES, LABELS = normal(0, (32, 6, 6, 3), "float64"), jnp.arange(32) % 2
PARAMS = {
    "kernel": normal(1, (2, 2, 3, 5), "float64"),
    "mix": normal(2, (25, 25), "float64"),
    "head": normal(3, (5, 2), "float64"),
}


def loss_fn(
    params: Any, images: Any, labels: Any, mask: Any, weights: Any, step: Any, key: Any
) -> jax.Array:
    """A convolution, a layer on every channel and one on every image, and all kinds of data."""
    images += 0.1 * jax.random.normal(key, (1, *images.shape[1:]), images.dtype)
    dimensions = "NHWC", "HWIO", "NHWC"
    convolved = jax.lax.conv_general_dilated(
        images, params["kernel"], (1, 1), "VALID", dimension_numbers=dimensions
    )
    mixed = jnp.einsum("bpc,pq->bqc", convolved.reshape(-1, 25, 5), params["mix"])
    logits = jnp.tanh(mixed).mean(axis=1) @ params["head"]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
    return -jnp.mean(chosen * mask * weights[labels]) / step


BATCH = IMAGES, LABELS, jnp.ones(32), jnp.array([1.0, 3.0]), jnp.array(2.0), jax.random.key(5)
SPLIT = P("data"), P("data"), P("data"), P(), P(), P()  # a mask alike on all, and what is whole


def _stats(structure: Any = ROWS, **options: Any) -> Any:
    def found(params: Any, *batch: Any) -> Any:
        return insgd.value_and_grad(loss_fn, structure=structure, **options)(params, *batch)[2]

    return found


def _mesh(devices: int = 8) -> Any:
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def _assert_alike(found: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, expected)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("devices", [2, 8])
def test_data_of_every_kind_has_the_rows_of_one_device(devices, check_vma):
    mapped = jax.shard_map(
        _stats(axis_name="data"), mesh=_mesh(devices), in_specs=(P(), *SPLIT), out_specs=P(),
        check_vma=check_vma,
    )  # fmt: skip
    _assert_alike(jax.jit(mapped)(PARAMS, *BATCH), jax.jit(_stats())(PARAMS, *BATCH))


def test_the_axis_of_a_vmap_adds_as_devices_do():
    parts = [
        data.reshape(4, 8, *data.shape[1:]) if spec else data
        for data, spec in zip(BATCH, SPLIT, strict=True)
    ]
    axes = (None, *(0 if spec else None for spec in SPLIT))
    mapped = jax.vmap(_stats(axis_name="data"), axes, axis_name="data")(PARAMS, *parts)
    first = jax.tree.map(lambda array: array[0], mapped)
    _assert_alike(first, jax.jit(_stats())(PARAMS, *BATCH))


def test_a_loss_that_is_split_inside_draws_the_rows_of_a_loss_that_is_not():
    def alone(params: Any, x: Any) -> jax.Array:
        return jnp.mean((x @ params["w"]) ** 2)

    def split(params: Any, x: Any) -> jax.Array:
        def on_device(params: Any, x: Any) -> jax.Array:
            return jax.lax.pmean(alone(params, x), "data")

        specs = P(), P("data")
        return jax.shard_map(on_device, mesh=_mesh(), in_specs=specs, out_specs=P())(params, x)

    params, x = {"w": normal(1, (4, 2), "float64")}, normal(0, (64, 4), "float64")
    inside, expected = (
        jax.jit(insgd.value_and_grad(loss, structure=ROWS))(params, x)[2] for loss in (split, alone)
    )
    _assert_alike(inside, expected)


def test_keys_of_every_devices_own_leave_them_agreed_on_the_rows():
    def drawn(params: Any, images: Any, labels: Any, mask: Any, weights: Any, step: Any, key: Any):
        own = jax.random.fold_in(key, jax.lax.axis_index("data"))
        batch = images, labels, mask, weights, step, own
        return _stats(axis_name="data")(params, *batch)["head"]

    mapped = jax.shard_map(drawn, mesh=_mesh(), in_specs=(P(), *SPLIT), out_specs=P())
    assert jax.jit(mapped)(PARAMS, *BATCH).count == 16


def _places(number: int, total: int, seed: int) -> Any:
    """The rows that each of eight devices draws, by their places among the rows of all."""

    def drawn(device: Any) -> Any:
        places = drawn_rows(number, total, Draw(seed, ("data",)))
        assert places is not None
        return places + (device * total).astype(places.dtype)

    return np.asarray(jax.vmap(drawn, axis_name="data")(jnp.arange(8)))


@pytest.mark.parametrize(("number", "total"), [(16, 8), (12, 8), (15, 2), (9, 4), (20, 1000)])
def test_of_rows_over_devices_each_is_drawn_once_and_about_so_many(number, total):
    places = _places(number, total, 7)
    assert len(set(places.ravel())) == places.size == -(-number // 8) * 8
    for device, its in enumerate(places):
        assert device * total <= its.min() <= its.max() < (device + 1) * total


@pytest.mark.parametrize(("number", "total"), [(512, 2**20), (64, 777), (8, 9)])
def test_devices_draw_the_very_rows_of_one_that_has_them_all(number, total):
    whole = drawn_rows(number, 8 * total, Draw(3))
    np.testing.assert_array_equal(_places(number, total, 3).ravel(), whole)


@pytest.mark.parametrize("number", [16, None])
def test_all_rows_are_taken_where_all_devices_together_have_no_more(number):
    def drawn(device: Any) -> Any:
        assert drawn_rows(number, 2, Draw(1, ("data",))) is None
        return device

    jax.vmap(drawn, axis_name="data")(jnp.arange(8))


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize(
    ("batch", "other"),
    [
        (8, jnp.array(2.0)), (16, jax.random.key(1)), (16, jax.random.PRNGKey(1)),
        (64, jnp.arange(8.0)), (64, jnp.arange(64.0)), (64, jnp.ones(64)), (64, jnp.ones(8)),
    ],
    ids=["scalar", "key", "raw key", "as on a device", "as on all", "ones", "ones as on a device"],
)  # fmt: skip
def test_what_is_not_split_may_have_as_many_rows_as_the_batch(batch, other, check_vma):
    def stats(params: Any, x: Any, other: Any, **options: Any) -> Any:
        def loss(params: Any, x: Any, other: Any) -> jax.Array:
            del other
            return jnp.mean((x @ params["w"]) ** 2)

        return insgd.value_and_grad(loss, structure=ROWS, **options)(params, x, other)[2]

    params, x = {"w": normal(1, (4, 3), "float64")}, normal(0, (batch, 32, 4), "float64")
    mapped = jax.shard_map(
        lambda *arguments: stats(*arguments, axis_name="data"), mesh=_mesh(),
        in_specs=(P(), P("data"), P()), out_specs=P(), check_vma=check_vma,
    )  # fmt: skip
    _assert_alike(jax.jit(mapped)(params, x, other), jax.jit(stats)(params, x, other))


@pytest.mark.parametrize("structure", [ROWS, insgd.Full(rows=None), insgd.MeanVariances()])
@pytest.mark.parametrize("prompts", [12, 40])
def test_an_input_that_all_devices_have_counts_once_where_types_tell(prompts, structure):
    def stats(params: Any, x: Any, prompt: Any, **options: Any) -> Any:
        def loss(params: Any, x: Any, prompt: Any) -> jax.Array:
            return jnp.mean((x @ params["w"]) ** 2) + jnp.mean((prompt @ params["w"]) ** 2)

        return insgd.value_and_grad(loss, structure=structure, **options)(params, x, prompt)[2]

    params = {"w": normal(1, (4, 3), "float64")}
    x, prompt = normal(0, (64, 4), "float64"), normal(2, (prompts, 4), "float64")
    mapped = jax.shard_map(
        lambda *arguments: stats(*arguments, axis_name="data"), mesh=_mesh(),
        in_specs=(P(), P("data"), P()), out_specs=P(),
    )  # fmt: skip
    _assert_alike(jax.jit(mapped)(params, x, prompt), jax.jit(stats)(params, x, prompt))


@pytest.mark.parametrize(
    "structure",
    [
        pytest.param(ROWS, marks=pytest.mark.skipif(
            jax.__version_info__ < (0, 9), reason="JAX 0.8 has no axis_index in nested meshes"
        )),
        insgd.MeanVariances(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["in the loss", "around it"])
def test_a_mesh_inside_of_a_mesh_has_the_statistics_of_one_device(structure, where):
    mesh = jax.make_mesh((4, 2), ("data", "more"), axis_types=(AxisType.Auto,) * 2)
    params, x = {"w": normal(1, (4, 2), "float64")}, normal(0, (64, 4), "float64")

    def alone(params: Any, x: Any) -> jax.Array:
        return jnp.mean((x @ params["w"]) ** 2)

    def over(axis: str, function: Any, **settings: Any) -> Any:
        return jax.shard_map(
            function, in_specs=(P(), P(axis)), out_specs=P(), axis_names={axis}, check_vma=False,
            **settings,
        )  # fmt: skip

    def inner(params: Any, x: Any) -> Any:
        return jax.lax.pmean(alone(params, x), "more")

    def both(params: Any, x: Any) -> Any:
        nested = over("more", inner)
        return over("data", lambda *batch: jax.lax.pmean(nested(*batch), "data"), mesh=mesh)(
            params, x
        )

    def stats(loss: Any, **options: Any) -> Any:
        return lambda *batch: insgd.value_and_grad(loss, structure=structure, **options)(*batch)[2]

    found = stats(both)
    if where == "around it":
        found = over("data", stats(over("more", inner), axis_name="data"), mesh=mesh)
    _assert_alike(jax.jit(found)(params, x), jax.jit(stats(alone))(params, x))


@pytest.mark.parametrize("axis_name", ["data", ("more", "data")])
def test_an_axis_that_there_is_not_is_an_error_that_names_it(axis_name):
    with pytest.raises(ValueError, match=r"no axis of this name here.*jax\.shard_map"):
        _stats(axis_name=axis_name)(PARAMS, *BATCH)


@pytest.mark.parametrize("axis_name", [0, ("data", 1)])
def test_an_axis_without_a_name_is_an_error(axis_name):
    with pytest.raises(TypeError, match="axis_name must be a name or a tuple of names"):
        names_of(axis_name)


def test_an_axis_that_comes_twice_is_an_error():
    with pytest.raises(ValueError, match="names an axis twice"):
        insgd.value_and_grad(loss_fn, axis_name=("data", "data"))


@pytest.mark.framework
def test_the_entries_of_nnx_and_equinox_take_axis_name():
    inputs = normal(0, (64, 4), "float32")

    def mean(model: Any, x: Any) -> jax.Array:
        return jnp.mean(model(x) ** 2)

    def mean_of_vmapped(model: Any, x: Any) -> jax.Array:
        return jnp.mean(jax.vmap(model)(x) ** 2)

    linear = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    module = eqx.nn.Linear(4, 2, key=jax.random.key(0))
    graph, state = nnx.split(linear)

    def by_nnx(state: Any, x: Any, **options: Any) -> Any:
        grad_fn = insgd.nnx.value_and_grad(mean, structure=ROWS, **options)
        return grad_fn(nnx.merge(graph, state), x)[2]

    def by_equinox(module: Any, x: Any, **options: Any) -> Any:
        grad_fn = insgd.equinox.value_and_grad(mean_of_vmapped, structure=ROWS, **options)
        return grad_fn(module, x)[2]

    for found, model in ((by_nnx, state), (by_equinox, module)):
        mapped = jax.shard_map(
            lambda model, x, found=found: found(model, x, axis_name="data"),
            mesh=_mesh(), in_specs=(P(), P("data")), out_specs=P(),
        )  # fmt: skip
        expected = jax.jit(found)(model, inputs)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
            jax.jit(mapped)(model, inputs), expected,
        )  # fmt: skip
