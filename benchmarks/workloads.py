"""Workloads: models of the usual kinds with random data, for measuring cost and not accuracy."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Workload:
    """A loss with parameters and one batch."""

    name: str
    loss_fn: Callable[..., Any]
    params: Any
    batch: tuple[jax.Array, jax.Array]


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        features = images.reshape(images.shape[0], -1)
        for _ in range(3):
            features = nn.relu(nn.Dense(512)(features))
        return nn.Dense(10)(features)


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        features = images
        for width in (32, 64, 128):
            features = nn.relu(nn.Conv(width, (3, 3))(features))
            features = nn.max_pool(features, (2, 2), (2, 2))
        return nn.Dense(10)(features.reshape(features.shape[0], -1))


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        normed = nn.LayerNorm()(tokens)
        tokens = tokens + nn.MultiHeadDotProductAttention(num_heads=4)(normed, normed)
        hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(tokens)))
        return tokens + nn.Dense(self.width)(hidden)


class Transformer(nn.Module):
    width: int = 128
    blocks: int = 8

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        tokens = nn.Embed(256, self.width)(ids)
        for _ in range(self.blocks):
            tokens = Block(self.width)(tokens)
        return nn.Dense(256)(nn.LayerNorm()(tokens))


def _workload(name: str, model: nn.Module, inputs: jax.Array, labels: jax.Array) -> Workload:
    params = model.init(jax.random.key(0), inputs)["params"]

    def loss_fn(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        logits = jnp.asarray(model.apply({"params": params}, inputs))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Workload(name, loss_fn, params, (inputs, labels))


def all_workloads() -> list[Workload]:
    """A perceptron, a convolutional net on 32×32 images, and an 8-block transformer."""
    images = jax.random.normal(jax.random.key(1), (128, 32, 32, 3))
    classes = jnp.arange(128) % 10
    ids = jax.random.randint(jax.random.key(2), (8, 64), 0, 256)
    return [
        _workload("perceptron", Perceptron(), images, classes),
        _workload("convnet", ConvNet(), images, classes),
        _workload("transformer", Transformer(), ids, jnp.roll(ids, -1, axis=1)),
    ]
