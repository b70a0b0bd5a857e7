"""Flax NNX, through `nnx.split` and `nnx.merge`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, filled, inputs, mean_square


def _split(create: Callable[[], nnx.Module]) -> tuple[Any, Any, Any]:
    """Graph, parameters with fixed numbers, and running statistics of one."""
    graph, params, rest = nnx.split(nnx.eval_shape(create), nnx.Param, ...)
    return graph, filled(params), jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), rest)


def _case(create: Callable[[], nnx.Module], x: jax.Array, expected) -> Case:
    graph, params, rest = _split(create)

    def loss(params, x):
        return mean_square(nnx.merge(graph, params, rest)(x))

    return Case(loss, params, (x,), lambda params, x: expected(nnx.to_pure_dict(params), x))


def _affine(x, layer):
    return x @ layer["kernel"] + layer["bias"]


@case(framework=True)
def nnx_mlp(dtype: DTypeLike) -> Case:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.Linear(5, 7, param_dtype=dtype, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(7, 3, param_dtype=dtype, rngs=rngs)])

        def __call__(self, x):
            return self.layers[0](jnp.tanh(self.first(x)))

    def expected(params, x):
        hidden = jnp.tanh(_affine(x, params["first"]))
        return {
            "first/kernel": ref.dense(x, (5, 7)),
            "layers/0/kernel": ref.dense(hidden, (7, 3)),
        }

    return _case(lambda: Model(nnx.Rngs(0)), inputs(1, (6, 5), dtype), expected)


@case(framework=True)
def nnx_cnn(dtype: DTypeLike) -> Case:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            options = {"param_dtype": dtype, "rngs": rngs}
            self.conv = nnx.Conv(2, 4, (3, 3), strides=2, **options)
            self.norm = nnx.BatchNorm(4, use_running_average=True, **options)
            self.dilated = nnx.Conv(4, 3, (2, 2), kernel_dilation=2, padding="VALID", **options)
            self.head = nnx.Linear(12, 3, **options)

        def hidden(self, x):
            first = nnx.relu(self.norm(self.conv(x)))
            return first, nnx.relu(self.dilated(first)).reshape(x.shape[0], -1)

        def __call__(self, x):
            return self.head(self.hidden(x)[1])

    create = lambda: Model(nnx.Rngs(0))  # noqa: E731
    graph, _, rest = _split(create)

    def expected(params, x):
        first, flat = nnx.merge(graph, params, rest).hidden(x)
        same = ref.same_padding((8, 7), (3, 3), (2, 2))
        return {
            "conv/kernel": ref.convolution(x, (3, 3, 2, 4), strides=(2, 2), padding=same),
            "dilated/kernel": ref.convolution(first, (2, 2, 4, 3), rhs_dilation=(2, 2)),
            "head/kernel": ref.dense(flat, (12, 3)),
        }

    return _case(create, inputs(1, (4, 8, 7, 2), dtype), expected)


@case(framework=True, dtypes=("float32",))
def nnx_attention(dtype: DTypeLike) -> Case:
    """Flax leaves it to `jax.nn.dot_product_attention`, whose softmax is float32 at the most."""

    def create() -> nnx.Module:
        options = {"in_features": 4, "qkv_features": 6, "param_dtype": dtype, "decode": False}
        return nnx.MultiHeadAttention(2, **options, rngs=nnx.Rngs(0))

    def expected(params, x):
        query, key, value = (
            jnp.einsum("btd,dhk->bthk", x, params[name]["kernel"]) + params[name]["bias"]
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhk,bshk->bhqs", query / np.sqrt(3).astype(dtype), key)
        heads = jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores), value)
        projection = ref.contraction("btd,dhk->bthk", x, (4, 2, 3))
        return {
            "query/kernel": projection,
            "key/kernel": projection,
            "value/kernel": projection,
            "out/kernel": ref.contraction("bthk,hkd->btd", heads, (2, 3, 4)),
        }

    return _case(create, inputs(1, (4, 5, 4), dtype), expected)


class Block(nnx.Module):
    def __init__(self, dtype: DTypeLike, rngs: nnx.Rngs):
        self.linear = nnx.Linear(5, 5, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.linear(x))


def _three_blocks(dtype: DTypeLike) -> Block:
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def create(rngs):
        return Block(dtype, rngs)

    return create(nnx.Rngs(0))


def _scan_case(layer, dtype: DTypeLike) -> Case:
    class Model(nnx.Module):
        def __init__(self):
            self.blocks = _three_blocks(dtype)

        def __call__(self, x):
            return nnx.scan(layer, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)

    def expected(params, x):
        stack, powers = params["blocks"]["linear"], []
        for kernel, bias in zip(stack["kernel"], stack["bias"], strict=True):
            powers.append(ref.dense(x, (5, 5)))
            x = jnp.tanh(x @ kernel + bias)
        return {"blocks/linear/kernel": ref.stacked(powers)}

    return _case(Model, inputs(1, (6, 5), dtype), expected)


@case(framework=True)
def nnx_scan(dtype: DTypeLike) -> Case:
    return _scan_case(lambda x, block: block(x), dtype)


@case(framework=True)
def nnx_scan_of_remat(dtype: DTypeLike) -> Case:
    return _scan_case(nnx.remat(lambda x, block: block(x)), dtype)


@case(framework=True)
def nnx_vmap_ensemble(dtype: DTypeLike) -> Case:
    """Each member has data of its own."""

    class Model(nnx.Module):
        def __init__(self):
            self.blocks = _three_blocks(dtype)

        def __call__(self, x):
            return nnx.vmap(lambda block, x: block(x), in_axes=(0, 1))(self.blocks, x)

    def expected(params, x):
        members = [ref.dense(x[:, i], (5, 5)) for i in range(3)]
        return {"blocks/linear/kernel": ref.stacked(members)}

    return _case(Model, inputs(1, (6, 3, 5), dtype), expected)
