"""Workloads: models of the usual kinds with random data, for measuring cost and not accuracy."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from benchmarks.shared.image_networks import Block, ResNet, VisionTransformer
from benchmarks.shared.step import Batch, Loss, applied, started


@dataclasses.dataclass(frozen=True)
class Workload:
    """A loss with parameters, BatchNorm's averages and one batch."""

    name: str
    loss_fn: Loss
    params: PyTree[Array]
    statistics: PyTree[Array]
    batch: Batch


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


class Transformer(nn.Module):
    width: int = 128
    blocks: int = 8

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        tokens = nn.Embed(256, self.width)(ids)
        for _ in range(self.blocks):
            tokens = Block(4, 4)(tokens)
        return nn.Dense(256)(nn.LayerNorm()(tokens))


def _workload(name: str, model: nn.Module, inputs: jax.Array, labels: jax.Array) -> Workload:
    params, statistics = jax.jit(started, static_argnums=0)(model, jax.random.key(0), inputs)

    def loss_fn(params: Any, statistics: Any, inputs: Array, labels: Array) -> tuple[Array, Any]:
        logits, statistics = applied(model, params, statistics, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), statistics

    return Workload(name, loss_fn, params, statistics, (inputs, labels))


def workloads(word: str = "") -> Iterator[Workload]:
    """Those with ``word`` in their name, each built when its turn comes.

    Sizes are such that a step of SGD takes 0.3 s at most on one core.
    """
    images = jax.random.normal(jax.random.key(1), (128, 32, 32, 3))
    classes = jnp.arange(128) % 10
    ids = jax.random.randint(jax.random.key(2), (8, 64), 0, 256)
    vit = VisionTransformer(10, width=64, blocks=4, heads=4, widening=4)
    models: dict[str, tuple[nn.Module, jax.Array, jax.Array]] = {
        "perceptron": (Perceptron(), images, classes),
        "convnet": (ConvNet(), images[:64], classes[:64]),
        "resnet20": (ResNet(10), images[:32], classes[:32]),
        "transformer": (Transformer(), ids, jnp.roll(ids, -1, axis=1)),
        "vit": (vit, images[:32], classes[:32]),
    }
    for name, (model, inputs, labels) in models.items():
        if word in name:
            yield _workload(name, model, inputs, labels)
