"""Eight devices: a program inside the loss keeps its shardings and the mesh it was traced on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, auto_axes
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd
from battery.problems import assert_close
from zoo.case import mean_square, normal

X = normal(0, (8, 4), "float32")
PARAMS = {"w": normal(1, (4, 8), "float32")}


def _mesh(kind: AxisType) -> Any:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        ((P(None, "model"), P("data")), None),
        (None, P("data", None)),
        (None, P(None, "model")),
        ((P(None, "model"), P("data")), P("data", "model")),
        ((None, P("data")), None),
    ],
)
def test_the_shardings_of_an_inner_jit_are_kept(kind: AxisType, before: Any, after: Any):
    mesh = _mesh(kind)

    def place(spec: Any) -> Any:
        return spec if spec is None else NamedSharding(mesh, spec)

    options = {}
    if before is not None:
        options["in_shardings"] = tuple(map(place, before))
    if after is not None:
        options["out_shardings"] = place(after)
    inner = jax.jit(lambda w, x: jnp.tanh(x @ w), **options)

    def loss(params, x):
        h = inner(params["w"], x)
        return mean_square(h), h

    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, place(P(None, "model")))
        x = jax.device_put(X, place(P("data")))
        (_, ours), our_grads, _ = jax.jit(insgd.value_and_grad(loss, has_aux=True))(params, x)
        (_, jaxs), jax_grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, x)
    assert ours.sharding.is_equivalent_to(jaxs.sharding, 2)
    assert our_grads["w"].sharding.is_equivalent_to(jax_grads["w"].sharding, 2)


def _looped(w: Any, x: Any) -> Any:
    return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=2)[0]


ALONE: dict[str, Callable[[Any, Any], Any]] = {
    "product": lambda w, x: x @ w,
    "loop": _looped,
    "lookup": lambda w, x: w[jnp.argmax(x, -1)],
}
# Made from a square matrix or table "w" of shape (8, 8) in a context of another mesh.
IN_AUTO: dict[str, Any] = {
    "product": auto_axes(lambda w, x: x @ w, out_sharding=P("data", None)),
    "loop": auto_axes(_looped, out_sharding=P("data", None)),
    "lookup": lambda w, x: w.at[jnp.argmax(x, -1)].get(out_sharding=P("data", None)),
}


@pytest.mark.parametrize("use", IN_AUTO)
@pytest.mark.parametrize("structure", [insgd.MeanVariances(), insgd.Scalar(), insgd.Full(rows=3)])
def test_a_layer_in_an_automatic_part_of_an_explicit_mesh_is_as_on_one_device(use, structure):
    def loss(params, x):
        return mean_square(IN_AUTO[use](params["w"], x))

    mesh, grad_fn = _mesh(AxisType.Explicit), insgd.value_and_grad(loss, structure=structure)
    w, x = normal(3, (8, 8), "float32"), normal(4, (8, 8), "float32")
    with jax.set_mesh(mesh):
        params = jax.device_put({"w": w}, NamedSharding(mesh, P()))
        _, grads, stats = jax.jit(grad_fn)(
            params, jax.device_put(x, NamedSharding(mesh, P("data")))
        )
        grads, sums = jax.device_get((grads, stats["w"].sums))
    alone = {
        "product": lambda w, x: x @ w,
        "loop": _looped,
        "lookup": lambda w, x: w[jnp.argmax(x, -1)],
    }
    expected = insgd.value_and_grad(
        lambda params, x: mean_square(alone[use](params["w"], x)), structure=structure
    )({"w": w}, x)
    assert stats["w"] is not None and expected[2]["w"] is not None
    assert_close(grads["w"], expected[1]["w"])
    assert_close(sums, expected[2]["w"].sums)
