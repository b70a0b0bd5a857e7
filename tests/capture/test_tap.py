"""tap: a layer that an opaque operation applies has the statistics of one that JAX sees."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd
from zoo.case import inputs, mean_square, normal

Operation = Callable[[Any, Any], Any]


def hidden(operation: Operation) -> Operation:
    """The operation on the host, with its derivative by JAX."""

    @jax.custom_vjp
    def run(x: Any, w: Any) -> Any:
        shape = jax.eval_shape(operation, x, w)
        return jax.pure_callback(jax.jit(operation), shape, x, w)

    run.defvjp(lambda x, w: (run(x, w), (x, w)), lambda kept, g: jax.vjp(operation, *kept)[1](g))
    return run


def with_rows(x: Any, w: Any) -> Any:
    """A matrix product as a Pallas kernel."""

    def kernel(x: Any, w: Any, result: Any) -> None:
        result[...] = x[...] @ w[...]

    shape = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x, w)


@jax.custom_vjp
def kernel_product(x: Any, w: Any) -> Any:
    return with_rows(x, w)


kernel_product.defvjp(
    lambda x, w: (with_rows(x, w), (x, w)),
    lambda kept, g: (with_rows(g, kept[1].T), with_rows(kept[0].T, g)),
)


def convolved(x: Any, w: Any) -> Any:
    return jax.lax.conv_general_dilated(
        x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def heads(x: Any, w: Any) -> Any:
    return jnp.einsum("btd,dhk->bhtk", x, w)


def looked_up(x: Any, w: Any) -> Any:
    return w[x]


TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 9, (4, 5)))
LAYERS: dict[str, tuple[Operation, Any, tuple[int, ...]]] = {
    "matrix": (jnp.matmul, inputs(0, (6, 4), "float32"), (4, 3)),
    "heads": (heads, inputs(0, (2, 5, 4), "float32"), (4, 2, 3)),
    "convolution": (convolved, inputs(0, (2, 6, 6, 3), "float32"), (3, 3, 3, 4)),
    "lookup": (looked_up, TOKENS, (9, 3)),
}
STRUCTURES = [insgd.MeanVariances(), insgd.Scalar(), insgd.Full(rows=None)]


def statistics(loss: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    return insgd.value_and_grad(loss, **settings)(*args)


def assert_same(first: Any, second: Any) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), first, second)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("layer", LAYERS)
def test_what_a_tap_says_has_the_statistics_of_what_it_stands_for(layer, structure):
    operation, x, shape = LAYERS[layer]
    opaque = hidden(operation)
    params = {"w": normal(1, shape, "float32")}

    def seen(params: Any, x: Any) -> Any:
        return mean_square(jnp.tanh(operation(x, params["w"])))

    def unseen(params: Any, x: Any) -> Any:
        return mean_square(jnp.tanh(opaque(insgd.tap(x, params["w"], operation), params["w"])))

    assert_same(
        statistics(unseen, params, x, structure=structure)[2],
        statistics(seen, params, x, structure=structure)[2],
    )


def chain(product: Operation, tapped: bool, wrap: Callable[..., Any]) -> Callable[..., Any]:
    """Stacked layers, each of which may be wrapped."""

    def layer(x: Any, w: Any) -> Any:
        x = insgd.tap(x, w) if tapped else x
        return jnp.tanh(product(x, w))

    def loss(params: Any, x: Any) -> Any:
        layers = params["w"]
        last, _ = jax.lax.scan(lambda x, w: (wrap(layer)(x, w), None), x, layers)
        return mean_square(last)

    return loss


WRAPPERS: dict[str, Callable[..., Any]] = {
    "scan": lambda f: f,
    "remat": jax.checkpoint,
    "jit": jax.jit,
    "vmap": lambda f: lambda x, w: jax.vmap(lambda x: f(x[None], w)[0])(x),
    "vmap_of_columns": lambda f: lambda x, w: jax.vmap(lambda x: f(x[None], w)[0], 1)(x.T),
    "cond": lambda f: lambda x, w: jax.lax.cond(x[0, 0] > -9, f, lambda x, w: x, x, w),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_pallas_kernel_with_a_tap_trains_as_the_product_does(wrapper: str, jit: bool):
    params = {"w": normal(1, (3, 4, 4), "float32")}
    x = inputs(0, (6, 4), "float32")
    run = jax.jit if jit else lambda function: function
    plain = chain(jnp.matmul, False, WRAPPERS[wrapper])
    tapped = chain(kernel_product, True, WRAPPERS[wrapper])
    expected = run(insgd.value_and_grad(plain))(params, x)
    assert_same(run(insgd.value_and_grad(tapped))(params, x), expected)


def test_a_tap_changes_no_bit_and_adds_no_product_to_what_is_compiled():
    params, x = {"w": normal(1, (4, 3), "float32")}, inputs(0, (6, 4), "float32")

    def loss(tap: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, x: mean_square(jnp.tanh(tap(x, params["w"]) @ params["w"]))

    plain, tapped = loss(lambda x, w: x), loss(insgd.tap)
    for differentiate in (jax.value_and_grad, jax.jacfwd):
        jax.tree.map(
            np.testing.assert_array_equal,
            differentiate(tapped)(params, x),
            differentiate(plain)(params, x),
        )
    texts = [jax.jit(jax.grad(f)).lower(params, x).compile().as_text() for f in (plain, tapped)]
    assert texts[0].count(" dot(") == texts[1].count(" dot(")


def test_a_tap_that_the_loss_does_not_depend_on_does_not_count():
    params, x = {"w": normal(1, (4, 3), "float32")}, inputs(0, (6, 4), "float32")

    def loss(params: Any, x: Any) -> Any:
        insgd.tap(100 * x, params["w"])
        return mean_square(kernel_product(insgd.tap(x, params["w"]), params["w"]))

    def plain(params: Any, x: Any) -> Any:
        return mean_square(x @ params["w"])

    assert_same(statistics(loss, params, x)[2], statistics(plain, params, x)[2])


def test_without_a_tap_the_error_says_where_it_goes():
    params, x = {"w": jnp.ones((4, 3))}, jnp.ones((6, 4))
    with pytest.raises(ValueError, match=r"'w' of shape \(4, 3\).*pallas_call.*insgd_optax\.tap"):
        statistics(lambda params, x: mean_square(kernel_product(x, params["w"])), params, x)


def test_rows_behind_a_tap_cannot_be_divided():
    params, x = {"w": jnp.ones((4, 3))}, jnp.ones((6, 4))

    def loss(params: Any, x: Any) -> Any:
        return mean_square(kernel_product(insgd.tap(x, params["w"]), params["w"]))

    with pytest.raises(ValueError, match=r"rows of 'w' of shape \(4, 3\).*tap"):
        statistics(loss, params, x, per_example=True)


def test_norms_of_examples_are_those_of_the_whole_gradient():
    params, x = {"w": normal(1, (4, 3), "float64")}, inputs(0, (6, 4), "float64")

    def plain(params: Any, x: Any) -> Any:
        return mean_square(x @ params["w"])

    def tapped(params: Any, x: Any) -> Any:
        return mean_square(kernel_product(insgd.tap(x, params["w"]), params["w"]))

    norms = [insgd.example_gradient_norms(loss)(params, x)["w"] for loss in (plain, tapped)]
    np.testing.assert_allclose(*norms, rtol=1e-10)


@pytest.mark.parametrize("check_vma", [False, True])
def test_a_tap_inside_shard_map_sums_over_the_devices(check_vma: bool):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = inputs(0, (8, 4), "float32")
    # Only the tap speaks of the first.
    params = {"said": normal(1, (4, 3), "float32"), "seen": normal(2, (4, 3), "float32")}

    def on_device(params: Any, x: Any) -> Any:
        return insgd.tap(x, params["said"]) @ params["seen"]

    specs = P(), P("data")
    split = jax.shard_map(
        on_device, mesh=mesh, in_specs=specs, out_specs=P("data"), check_vma=check_vma
    )
    grad_fn = insgd.value_and_grad(lambda params, x: mean_square(split(params, x)))
    input_stats = jax.jit(grad_fn)(params, x)[2]
    assert input_stats["said"].count.tolist() == [8.0]
    np.testing.assert_allclose(input_stats["said"].sums, input_stats["seen"].sums, rtol=1e-6)


def test_an_operation_that_cannot_be_hashed_is_an_error_that_says_so():
    class Unhashable:
        __hash__ = None

        def __call__(self, x: Any, w: Any) -> Any:
            return x @ w

    with pytest.raises(TypeError, match="tap must be hashable"):
        insgd.tap(jnp.ones((2, 3)), jnp.ones((3, 1)), Unhashable())
