"""Networks for sequences, a mixture of experts, and adapters of a frozen network."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from .case import Case, cross_entropy, digits, tokens


class Recurrent(nn.Module):
    """Reads an image row by row."""

    cell: nn.RNNCellBase

    @nn.compact
    def __call__(self, rows: Any) -> Any:
        return nn.Dense(10)(nn.RNN(self.cell)(rows)[:, -1])


def _recurrent(cell: nn.RNNCellBase) -> Case:
    model, batches = Recurrent(cell), digits()

    def loss_fn(params: Any, state: Any, batch: Any) -> tuple[jax.Array, Any]:
        rows, labels = batch
        return cross_entropy(model.apply({"params": params}, rows), labels), state

    params = model.init(jax.random.key(0), batches[0][0])["params"]
    return Case(params, (), loss_fn, batches)


def lstm() -> Case:
    return _recurrent(nn.OptimizedLSTMCell(24))


def gru() -> Case:
    return _recurrent(nn.GRUCell(24))


def _norm(x: Any, gain: Any) -> Any:
    return gain * x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def _attention(x: Any, layer: Any) -> Any:
    query, key, value = jnp.einsum("btd,dchk->cbthk", x, layer["qkv"])
    scores = jnp.einsum("bthk,bshk->bhts", query, key) / jnp.sqrt(query.shape[-1])
    past = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(past, scores, -1e9))
    return jnp.einsum("bhts,bshk,hkd->btd", weights, value, layer["out"])


def causal_transformer() -> Case:
    """Scanned over its layers, each recomputed in the backward pass, with a tied embedding."""
    vocabulary, length, width, heads, layers = 32, 16, 32, 2, 3
    keys = iter(jax.random.split(jax.random.key(0), 6))

    def normal(*shape: int, fan_in: int) -> jax.Array:
        return jax.random.normal(next(keys), shape) / jnp.sqrt(fan_in)

    params = {
        "embedding": normal(vocabulary, width, fan_in=width),
        "places": normal(length, width, fan_in=width),
        "layers": {
            "qkv": normal(layers, width, 3, heads, width // heads, fan_in=width),
            "out": normal(layers, heads, width // heads, width, fan_in=width),
            "up": normal(layers, width, 4 * width, fan_in=width),
            "down": normal(layers, 4 * width, width, fan_in=4 * width),
            "gains": jnp.ones((layers, 2, width)),
        },
        "gain": jnp.ones(width),
    }

    @jax.checkpoint
    def block(x: Any, layer: Any) -> tuple[Any, None]:
        x = x + _attention(_norm(x, layer["gains"][0]), layer)
        hidden = jax.nn.gelu(_norm(x, layer["gains"][1]) @ layer["up"])
        return x + hidden @ layer["down"], None

    def loss_fn(params: Any, state: Any, batch: Any) -> tuple[jax.Array, Any]:
        x = params["embedding"][batch[:, :-1]] + params["places"][: batch.shape[1] - 1]
        x, _ = jax.lax.scan(block, x, params["layers"])
        logits = _norm(x, params["gain"]) @ params["embedding"].T
        return cross_entropy(logits, batch[:, 1:]), state

    return Case(params, (), loss_fn, tokens(vocabulary, length))


def mixture_of_experts() -> Case:
    """Each example goes through the one expert that a router gives it to."""
    experts, width = 4, 32
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {
        "router": (64, experts),
        "up": (experts, 64, width),
        "down": (experts, width, 64),
        "head": (64, 10),
    }
    params = {
        name: jax.random.normal(key, shape) / jnp.sqrt(shape[-2])
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def loss_fn(params: Any, state: Any, batch: Any) -> tuple[jax.Array, Any]:
        images, labels = batch
        x = images.reshape(len(images), 64)
        gates = jax.nn.softmax(x @ params["router"])
        chosen = jnp.argmax(gates, axis=1)
        order = jnp.argsort(chosen)
        sizes = jnp.bincount(chosen, length=experts).astype(jnp.int32)
        hidden = jax.nn.relu(jax.lax.ragged_dot(x[order], params["up"], sizes))
        mixed = jax.lax.ragged_dot(hidden, params["down"], sizes)[jnp.argsort(order)]
        x = x + jnp.max(gates, axis=1, keepdims=True) * mixed
        return cross_entropy(x @ params["head"], labels), state

    return Case(params, (), loss_fn, digits())


class Adapted(nnx.Module):
    """Two layers with adapters of rank 4."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.LoRALinear(64, 64, lora_rank=4, rngs=rngs)
        self.head = nnx.LoRALinear(64, 10, lora_rank=4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(nnx.relu(self.hidden(x)))


def adapters() -> Case:
    """Only the adapters are trained; the base is frozen."""
    definition, params, base = nnx.split(Adapted(nnx.Rngs(0)), nnx.LoRAParam, ...)

    def loss_fn(params: Any, base: Any, batch: Any) -> tuple[jax.Array, Any]:
        images, labels = batch
        model = nnx.merge(definition, params, base)
        return cross_entropy(model(images.reshape(len(images), 64)), labels), base

    return Case(params, base, loss_fn, digits())
