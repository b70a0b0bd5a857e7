"""Flax Linen: every lifted transformation of parameters, and variables besides them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, filled, mean_square
from zoo.linen_layers import ROWS, affine, linen_case


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

    return linen_case(_scanned(layer, dtype, axis), ROWS.astype(dtype), expected)


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
        hidden = jnp.tanh(affine(x, layers[0]))
        return {
            "layers_0/Dense_0/kernel": ref.dense(x, (5, 5)),
            "layers_1/Dense_0/kernel": ref.dense(hidden, (5, 5)),
        }

    return linen_case(model, ROWS.astype(dtype), expected)


@case(framework=True)
def linen_remat_scan(dtype: DTypeLike) -> Case:
    model = nn.remat_scan(Block, lengths=(2, 2))(dtype)

    def expected(params, x):
        leaf = params["Dense_0"]
        power = _stack_expected(leaf["kernel"].reshape(4, 5, 5), leaf["bias"].reshape(4, 5), x)
        return {"Dense_0/kernel": ref.rearranged(power, power.mean_square.reshape(2, 2, 5, 5))}

    return linen_case(model, ROWS.astype(dtype), expected)


class TwoBlocks(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        hidden = Block(self.dtype)(x)
        return Block(self.dtype)(hidden)


@case(framework=True)
def linen_vmap_ensemble(dtype: DTypeLike) -> Case:
    """Members share the data, so the first layer is one wide layer and the second has groups."""
    options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    ensemble = nn.vmap(TwoBlocks, **options, in_axes=None, axis_size=3)

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

    return linen_case(ensemble(dtype), ROWS.astype(dtype), expected)


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

    return linen_case(model, ROWS.astype(dtype), expected)


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
        return model.apply(
            variables, x, rngs={"dropout": key}, mutable=["batch_stats", "intermediates"], **options
        )

    def loss(params, batch_stats, key, x):
        return mean_square(apply(params, batch_stats, key, x)[0])

    def expected(params, batch_stats, key, x):
        _, state = apply(params, batch_stats, key, x, capture_intermediates=True)
        (dropped,) = state["intermediates"]["Dropout_0"]["__call__"]
        return {
            "Dense_0/kernel": ref.dense(x, (5, 7)),
            "Dense_1/kernel": ref.dense(dropped, (7, 3)),
        }

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
