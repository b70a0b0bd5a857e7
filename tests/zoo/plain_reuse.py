"""Leaves that reach their layer through something, or more than once."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, inputs, integers, mean_square, normal


@case()
def shared_twice(dtype: DTypeLike) -> Case:
    """The same use of one weight in two places: rows pool."""

    def loss(params, x):
        return mean_square(jnp.tanh(x @ params["w"]) @ params["w"])

    def expected(params, x):
        hidden = jnp.tanh(x @ params["w"])
        return {"w": ref.shared(ref.dense(x, (5, 5)), ref.dense(hidden, (5, 5)))}

    return Case(loss, {"w": normal(0, (5, 5), dtype)}, (inputs(1, (6, 5), dtype),), expected)


@case()
def shared_on_different_numbers_of_rows(dtype: DTypeLike) -> Case:
    def loss(params, x, sequence):
        return mean_square(x @ params["w"]) + mean_square(sequence @ params["w"])

    def expected(params, x, sequence):
        return {"w": ref.shared(ref.dense(x, (5, 3)), ref.dense(sequence, (5, 3)))}

    data = inputs(1, (6, 5), dtype), 3 * inputs(2, (6, 4, 5), dtype)
    return Case(loss, {"w": normal(0, (5, 3), dtype)}, data, expected)


@case()
def shared_in_two_axis_orders(dtype: DTypeLike) -> Case:
    """Two products that name the contracted axes in another order see the same inputs."""

    def loss(params, x):
        first = lax.dot_general(x, params["w"], (((1, 2), (0, 1)), ((), ())))
        second = lax.dot_general(jnp.tanh(x), params["w"], (((2, 1), (1, 0)), ((), ())))
        return mean_square(first) + mean_square(second)

    def expected(params, x):
        uses = [ref.contraction("bhk,hko->bo", value, (2, 3, 4)) for value in (x, jnp.tanh(x))]
        return {"w": ref.shared(*uses)}

    return Case(loss, {"w": normal(0, (2, 3, 4), dtype)}, (inputs(1, (6, 2, 3), dtype),), expected)


@case()
def tied_autoencoder(dtype: DTypeLike) -> Case:
    """The second use multiplies the other axis, so no axis is the input: one number."""

    def loss(params, x):
        return mean_square(jnp.tanh(x @ params["w"]) @ params["w"].T - x)

    def expected(params, x):
        hidden = jnp.tanh(x @ params["w"])
        uses = ref.dense(x, (5, 3)), ref.contraction("bi,oi->bo", hidden, (5, 3))
        return {"w": ref.pooled((5, 3), *uses, inputs=(5, 3))}

    return Case(loss, {"w": normal(0, (5, 3), dtype)}, (inputs(1, (6, 5), dtype),), expected)


@case()
def lora_merged(dtype: DTypeLike) -> Case:
    """x @ (W + A @ B): W keeps its layout; the factors have none."""

    def loss(params, x):
        return mean_square(x @ (params["w"] + params["a"] @ params["b"]))

    def expected(params, x):
        use = ref.dense(x, (5, 3))
        return {"w": use, "a": ref.pooled((5, 2), use), "b": ref.pooled((2, 3), use)}

    shapes = {"w": (5, 3), "a": (5, 2), "b": (2, 3)}
    params = {name: normal(i, shape, dtype) for i, (name, shape) in enumerate(shapes.items())}
    return Case(loss, params, (inputs(3, (6, 5), dtype),), expected)


@case()
def lora_unmerged(dtype: DTypeLike) -> Case:
    """x @ W + x @ A @ B: three layers."""

    def loss(params, x):
        return mean_square(x @ params["w"] + x @ params["a"] @ params["b"])

    def expected(params, x):
        return {
            "w": ref.dense(x, (5, 3)),
            "a": ref.dense(x, (5, 2)),
            "b": ref.dense(x @ params["a"], (2, 3)),
        }

    shapes = {"w": (5, 3), "a": (5, 2), "b": (2, 3)}
    params = {name: normal(i, shape, dtype) for i, (name, shape) in enumerate(shapes.items())}
    return Case(loss, params, (inputs(3, (6, 5), dtype),), expected)


@case()
def weight_norm(dtype: DTypeLike) -> Case:
    """W = gain * direction / |direction|: the direction has the layer's layout, the gain none."""

    def loss(params, x):
        direction = params["direction"]
        length = jnp.sqrt(jnp.sum(direction**2, axis=0, keepdims=True))
        return mean_square(x @ (direction / length * params["gain"][None]))

    def expected(params, x):
        use = ref.dense(x, (5, 3))
        return {"direction": use, "gain": ref.pooled((3,), use)}

    params = {"direction": normal(0, (5, 3), dtype), "gain": normal(1, (3,), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype),), expected)


@case()
def masked_weight(dtype: DTypeLike) -> Case:
    mask = jnp.asarray(integers(9, (5, 3), 2), dtype)

    def loss(params, x):
        return mean_square(x @ (params["w"] * mask))

    params = {"w": normal(0, (5, 3), dtype)}
    return Case(loss, params, (inputs(1, (6, 5), dtype),), lambda p, x: {"w": ref.dense(x, (5, 3))})


@case()
def mask_as_an_argument(dtype: DTypeLike) -> Case:
    """A mask, like batch statistics, is no data: `batch_argnums` says so."""

    def loss(params, x, mask):
        return mean_square(x @ (params["w"] * mask))

    params = {"w": normal(0, (5, 3), dtype)}
    args = inputs(1, (6, 5), dtype), jnp.asarray(integers(9, (5, 3), 2), dtype)
    return Case(loss, params, args, lambda p, x, mask: {"w": ref.dense(x, (5, 3))}, (1,))


@case()
def stop_gradient_on_an_input(dtype: DTypeLike) -> Case:
    """A layer behind it has no gradient, and no statistics."""

    def loss(params, x):
        hidden = jax.lax.stop_gradient(jnp.tanh(x @ params["first"]))
        return mean_square(hidden @ params["second"])

    def expected(params, x):
        return {"second": ref.dense(jnp.tanh(x @ params["first"]), (7, 3))}

    params = {"first": normal(0, (5, 7), dtype), "second": normal(1, (7, 3), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype),), expected)


@case()
def ensemble(dtype: DTypeLike) -> Case:
    """`jax.vmap` over weights: on shared data one wide layer, then a group for each member."""

    def member(first, second, x):
        return jnp.tanh(x @ first) @ second

    def loss(params, x):
        members = jax.vmap(member, in_axes=(0, 1, None))
        return mean_square(members(params["first"], params["second"], x))

    def expected(params, x):
        hidden = [jnp.tanh(x @ first) for first in params["first"]]
        return {
            "first": ref.contraction("bi,eio->ebo", x, (4, 5, 7)),
            "second": ref.stacked([ref.dense(h, (7, 3)) for h in hidden], axis=1),
        }

    params = {"first": normal(0, (4, 5, 7), dtype), "second": normal(1, (7, 4, 3), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype),), expected)


@case()
def kernels_fused_and_sliced(dtype: DTypeLike) -> Case:
    """Leaves that are parts of a layer's weight: no layout. A leaf of parts: one for each."""

    def hidden_of(params, x):
        return jnp.tanh(x @ jnp.concatenate([params["q"], params["k"]], axis=1))

    def loss(params, x):
        hidden = hidden_of(params, x)
        first, second = params["parts"][:, :2], params["parts"][:, 2:]
        return mean_square(hidden @ first) + mean_square(hidden**2 @ second)

    def expected(params, x):
        hidden = hidden_of(params, x)
        fused = ref.dense(x, (5, 5))
        parts = [ref.dense(seen, (5, 1)) for seen in (hidden,) * 2 + (hidden**2,) * 3]
        return {
            "q": ref.pooled((5, 3), fused),
            "k": ref.pooled((5, 2), fused),
            "parts": ref.joined(parts, axis=1),
        }

    shapes = {"q": (5, 3), "k": (5, 2), "parts": (5, 5)}
    params = {name: normal(i, shape, dtype) for i, (name, shape) in enumerate(shapes.items())}
    return Case(loss, params, (inputs(3, (8, 5), dtype),), expected)
