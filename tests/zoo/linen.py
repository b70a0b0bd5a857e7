"""Flax Linen: layers, attention, recurrence, and every lifted transformation of parameters."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import reference as ref
from jax.typing import DTypeLike

from zoo.case import Case, case, filled, inputs, integers, mean_square

ROWS = inputs(1, (6, 5), jnp.float64)


def _case(model: nn.Module, x: jax.Array, expected, **options) -> Case:
    """A model of parameters only."""
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x)["params"])

    def loss(params, x):
        return mean_square(model.apply({"params": params}, x))

    return Case(loss, params, (x,), expected, **options)


def _affine(x: jax.Array, layer: Any) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


@case(framework=True)
def linen_mlp(dtype: DTypeLike) -> Case:
    model = nn.Sequential(
        [nn.Dense(7, param_dtype=dtype), nn.LayerNorm(param_dtype=dtype), nn.relu, nn.Dense(3, param_dtype=dtype)]
    )  # fmt: skip

    def expected(params, x):
        hidden = _affine(x, params["layers_0"])
        hidden = nn.relu(_layer_norm(hidden, params["layers_1"]))
        return {
            "layers_0/kernel": ref.dense(x, (5, 7)),
            "layers_3/kernel": ref.dense(hidden, (7, 3)),
        }

    return _case(model, ROWS.astype(dtype), expected)


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

    return _case(model, inputs(1, (4, 8, 6, 2), dtype), expected)


@case(framework=True)
def linen_dense_general(dtype: DTypeLike) -> Case:
    """Several input and output axes, inputs that are not last, and a kernel for each batch entry."""
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

    return _case(model, inputs(1, (4, 3, 6, 5), dtype), expected)


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

    return _case(model, inputs(1, (4, 5, 4), dtype), expected)


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
                + _affine(states[-1], params["cell"][f"h{n}"])
                for n in "ifgo"
            )
            memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
            states.append(nn.sigmoid(o) * jnp.tanh(memory))
        seen = {f"cell/i{n}/kernel": ref.dense(x, (5, 4)) for n in "ifgo"}
        return seen | {f"cell/h{n}/kernel": ref.dense(jnp.stack(states), (4, 4)) for n in "ifgo"}

    return _case(model, inputs(1, (6, 4, 5), dtype), expected)


@case(framework=True)
def linen_embed(dtype: DTypeLike) -> Case:
    model = nn.Sequential([nn.Embed(7, 4, param_dtype=dtype), nn.Dense(3, param_dtype=dtype)])

    def expected(params, tokens):
        embedded = params["layers_0"]["embedding"][tokens]
        return {
            "layers_0/embedding": ref.embedding(tokens, (7, 4)),
            "layers_1/kernel": ref.dense(embedded, (4, 3)),
        }

    return _case(model, integers(1, (4, 5), 7), expected)


class Layer(nn.Module):
    """One layer of a stack, in the form that `nn.scan` wants."""

    dtype: Any

    @nn.compact
    def __call__(self, x, _=None):
        return jnp.tanh(nn.Dense(x.shape[-1], param_dtype=self.dtype)(x)), None


class Block(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(x.shape[-1], param_dtype=self.dtype)(x))


def _scanned(layer: type[nn.Module], dtype: DTypeLike, axis: int = 0) -> nn.Module:
    stack = nn.scan(layer, variable_axes={"params": axis}, split_rngs={"params": True}, length=3)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return stack(dtype)(x, None)[0]

    return Model()


def _stack_expected(kernels, biases, x) -> ref.Power:
    powers = []
    for kernel, bias in zip(kernels, biases, strict=True):
        powers.append(ref.dense(x, kernel.shape))
        x = jnp.tanh(x @ kernel + bias)
    return ref.stacked(powers)


def _scan_case(layer: type[nn.Module], dtype: DTypeLike, axis: int = 0) -> Case:
    def expected(params, x):
        (stack,) = params
        leaf = params[stack]["Dense_0"]
        kernels, biases = (jnp.moveaxis(leaf[n], axis, 0) for n in ("kernel", "bias"))
        power = _stack_expected(kernels, biases, x)
        in_place = np.moveaxis(power.mean_square, 0, axis)
        return {f"{stack}/Dense_0/kernel": ref.rearranged(power, in_place)}

    return _case(_scanned(layer, dtype, axis), ROWS.astype(dtype), expected)


@case(framework=True)
def linen_scan(dtype: DTypeLike) -> Case:
    return _scan_case(Layer, dtype)


@case(framework=True)
def linen_scan_on_axis_1(dtype: DTypeLike) -> Case:
    return _scan_case(Layer, dtype, axis=1)


@case(framework=True)
def linen_scan_of_remat(dtype: DTypeLike) -> Case:
    return _scan_case(nn.remat(Layer, prevent_cse=False), dtype)


@case(framework=True)
def linen_remat(dtype: DTypeLike) -> Case:
    block = nn.remat(Block)
    model = nn.Sequential([block(dtype), block(dtype)])

    def expected(params, x):
        layers = [params[f"layers_{i}"]["Dense_0"] for i in range(2)]
        hidden = jnp.tanh(_affine(x, layers[0]))
        return {
            "layers_0/Dense_0/kernel": ref.dense(x, (5, 5)),
            "layers_1/Dense_0/kernel": ref.dense(hidden, (5, 5)),
        }

    return _case(model, ROWS.astype(dtype), expected)


@case(framework=True)
def linen_remat_scan(dtype: DTypeLike) -> Case:
    model = nn.remat_scan(Block, lengths=(2, 2))(dtype)

    def expected(params, x):
        leaf = params["Dense_0"]
        power = _stack_expected(leaf["kernel"].reshape(4, 5, 5), leaf["bias"].reshape(4, 5), x)
        return {
            "Dense_0/kernel": ref.rearranged(power, power.mean_square.reshape(2, 2, 5, 5))
        }

    return _case(model, ROWS.astype(dtype), expected)


class TwoBlocks(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        return Block(self.dtype)(Block(self.dtype)(x))


@case(framework=True)
def linen_vmap_ensemble(dtype: DTypeLike) -> Case:
    """Members share the data, so the first layer is one wide layer and the second has groups."""
    ensemble = nn.vmap(
        TwoBlocks, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=3
    )  # fmt: skip

    def expected(params, x):
        first = params["Block_0"]["Dense_0"]
        hidden = [
            jnp.tanh(x @ kernel + bias)
            for kernel, bias in zip(first["kernel"], first["bias"], strict=True)
        ]
        return {
            "Block_0/Dense_0/kernel": ref.contraction("bi,eio->ebo", x, (3, 5, 5)),
            "Block_1/Dense_0/kernel": ref.stacked([ref.dense(h, (5, 5)) for h in hidden]),
        }

    return _case(ensemble(dtype), ROWS.astype(dtype), expected)


@case(framework=True)
def linen_weight_norm(dtype: DTypeLike) -> Case:
    """The kernel keeps the layout of its layer; the scale of each output has none."""
    model = nn.WeightNorm(nn.Dense(3, param_dtype=dtype), param_dtype=dtype)

    def expected(params, x):
        use = ref.dense(x, (5, 3))
        return {
            "layer_instance/kernel": use,
            "layer_instance/kernel/scale": ref.pooled((3,), use),
        }

    return _case(model, ROWS.astype(dtype), expected)


class Normed(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        options = {"param_dtype": self.dtype}
        x = nn.BatchNorm(use_running_average=False, **options)(nn.Dense(7, **options)(x))
        return nn.Dense(3, **options)(nn.Dropout(0.5, deterministic=False)(nn.relu(x)))


@case(framework=True)
def linen_batch_norm_and_dropout(dtype: DTypeLike) -> Case:
    """Batch statistics and a PRNG key are arguments, and no data."""
    model = Normed(dtype)
    x = ROWS.astype(dtype)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(model.init, keys, x)
    params = filled(variables["params"])
    batch_stats = jax.tree.map(jnp.ones_like, filled(variables["batch_stats"]))

    def apply(params, batch_stats, key, x, **options):
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, x, rngs={"dropout": key}, mutable=["batch_stats", "intermediates"], **options)

    def loss(params, batch_stats, key, x):
        return mean_square(apply(params, batch_stats, key, x)[0])

    def expected(params, batch_stats, key, x):
        _, state = apply(params, batch_stats, key, x, capture_intermediates=True)
        (dropped,) = state["intermediates"]["Dropout_0"]["__call__"]
        return {"Dense_0/kernel": ref.dense(x, (5, 7)), "Dense_1/kernel": ref.dense(dropped, (7, 3))}

    args = batch_stats, jax.random.key(2), x
    return Case(loss, params, args, expected, batch_argnums=(3,))


@case(framework=True)
def linen_spectral_norm(dtype: DTypeLike) -> Case:
    """The power iteration multiplies the kernel by a vector that is no data."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.SpectralNorm(nn.Dense(3, param_dtype=dtype), param_dtype=dtype)
            return layer(x, update_stats=True)

    model, x = Model(), ROWS.astype(dtype)
    variables = filled(jax.eval_shape(model.init, jax.random.key(0), x))

    def loss(params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        key = {"params": jax.random.key(1)}  # asked for, though everything exists already
        return mean_square(model.apply(variables, x, mutable=["batch_stats"], rngs=key)[0])

    def expected(params, batch_stats, x):
        return {"Dense_0/kernel": ref.dense(x, (5, 3))}

    args = variables["batch_stats"], x
    return Case(loss, variables["params"], args, expected, batch_argnums=(2,))
