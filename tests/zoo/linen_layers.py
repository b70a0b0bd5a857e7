"""Flax Linen: its layers, attention, recurrence, embeddings."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, filled, inputs, integers, mean_square

ROWS = inputs(1, (6, 5), jnp.float64)


def linen_case(model: nn.Module, x: jax.Array, expected, **options) -> Case:
    """A model of parameters only."""
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x)["params"])

    def loss(params, x):
        return mean_square(model.apply({"params": params}, x))

    return Case(loss, params, (x,), expected, **options)


def affine(x: jax.Array, layer: Any) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


@case(framework=True)
def linen_mlp(dtype: DTypeLike) -> Case:
    model = nn.Sequential(
        [
            nn.Dense(7, param_dtype=dtype),
            nn.LayerNorm(param_dtype=dtype),
            nn.relu,
            nn.Dense(3, param_dtype=dtype),
        ]
    )

    def expected(params, x):
        hidden = affine(x, params["layers_0"])
        hidden = nn.relu(_layer_norm(hidden, params["layers_1"]))
        return {
            "layers_0/kernel": ref.dense(x, (5, 7)),
            "layers_3/kernel": ref.dense(hidden, (7, 3)),
        }

    return linen_case(model, ROWS.astype(dtype), expected)


def _layer_norm(x, params):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.maximum((x * x).mean(-1, keepdims=True) - mean * mean, 0)  # Flax's fast variance
    return (x - mean) * (jax.lax.rsqrt(variance + 1e-6) * params["scale"]) + params["bias"]


class CNN(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        options = {"param_dtype": self.dtype}
        x = nn.relu(nn.Conv(4, (3, 3), strides=(2, 2), **options)(x))
        x = nn.relu(nn.Conv(6, (2, 2), feature_group_count=2, padding="VALID", **options)(x))
        x = nn.ConvTranspose(5, (3, 3), strides=(2, 1), **options)(x)
        x = nn.avg_pool(nn.relu(x), (2, 2))
        return nn.Dense(3, **options)(x.reshape(x.shape[0], -1))


@case(framework=True)
def linen_cnn(dtype: DTypeLike) -> Case:
    """Conv with a stride, Conv in groups, ConvTranspose, pooling, Dense."""
    model = CNN(dtype)

    def expected(params, x):
        _, state = model.apply({"params": params}, x, capture_intermediates=True)
        seen = state["intermediates"]
        first, second, third = (
            nn.relu(seen[name]["__call__"][0]) for name in ("Conv_0", "Conv_1", "ConvTranspose_0")
        )
        same = ref.same_padding((8, 6), (3, 3), (2, 2))
        flat = nn.avg_pool(third, (2, 2)).reshape(x.shape[0], -1)
        return {
            "Conv_0/kernel": ref.convolution(x, (3, 3, 2, 4), strides=(2, 2), padding=same),
            "Conv_1/kernel": ref.convolution(first, (2, 2, 2, 6), groups=2),
            "ConvTranspose_0/kernel": ref.convolution(
                second, (3, 3, 6, 5), lhs_dilation=(2, 1), padding=((2, 1), (1, 1))
            ),
            "Dense_0/kernel": ref.dense(flat, params["Dense_0"]["kernel"].shape),
        }

    return linen_case(model, inputs(1, (4, 8, 6, 2), dtype), expected)


@case(framework=True)
def linen_dense_general(dtype: DTypeLike) -> Case:
    """Several input and output axes, inputs that are not last, a kernel for each batch entry."""
    model = nn.Sequential(
        [
            nn.DenseGeneral((2, 4), axis=(1, 3), param_dtype=dtype, use_bias=False),
            lambda hidden: jnp.moveaxis(jnp.tanh(hidden), 2, 0),
            nn.DenseGeneral(3, axis=-1, batch_dims=(0,), param_dtype=dtype, use_bias=False),
        ]
    )

    def expected(params, x):
        hidden = jnp.tanh(jnp.einsum("bijk,ikpq->bjpq", x, params["layers_0"]["kernel"]))
        return {
            "layers_0/kernel": ref.contraction("bijk,ikpq->bjpq", x, (3, 5, 2, 4)),
            "layers_2/kernel": ref.contraction("bjpq,pqr->bjpr", hidden, (2, 4, 3)),
        }

    return linen_case(model, inputs(1, (4, 3, 6, 5), dtype), expected)


@case(framework=True)
def linen_attention(dtype: DTypeLike) -> Case:
    model = nn.MultiHeadDotProductAttention(2, qkv_features=6, param_dtype=dtype)

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

    return linen_case(model, inputs(1, (4, 5, 4), dtype), expected)


@case(framework=True)
def linen_lstm(dtype: DTypeLike) -> Case:
    """`nn.RNN`: four kernels see the inputs of every step, four see the states before them."""
    model = nn.RNN(nn.LSTMCell(4, param_dtype=dtype))

    def expected(params, x):
        states = [jnp.zeros((x.shape[0], 4), dtype)]
        memory = states[0]
        for t in range(x.shape[1] - 1):
            i, f, g, o = (
                x[:, t] @ params["cell"][f"i{n}"]["kernel"]
                + affine(states[-1], params["cell"][f"h{n}"])
                for n in "ifgo"
            )
            memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
            states.append(nn.sigmoid(o) * jnp.tanh(memory))
        seen = {f"cell/i{n}/kernel": ref.dense(x, (5, 4)) for n in "ifgo"}
        return seen | {f"cell/h{n}/kernel": ref.dense(jnp.stack(states), (4, 4)) for n in "ifgo"}

    return linen_case(model, inputs(1, (6, 4, 5), dtype), expected)


@case(framework=True)
def linen_embed(dtype: DTypeLike) -> Case:
    model = nn.Sequential([nn.Embed(7, 4, param_dtype=dtype), nn.Dense(3, param_dtype=dtype)])

    def expected(params, tokens):
        embedded = params["layers_0"]["embedding"][tokens]
        return {
            "layers_0/embedding": ref.embedding(tokens, (7, 4)),
            "layers_1/kernel": ref.dense(embedded, (4, 3)),
        }

    return linen_case(model, integers(1, (4, 5), 7), expected)
