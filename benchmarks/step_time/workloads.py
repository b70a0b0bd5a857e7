"""Common models with random data, to measure cost and not accuracy."""

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
    heads: int = 4
    vocabulary: int = 256

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        tokens = nn.Embed(self.vocabulary, self.width)(ids)
        for _ in range(self.blocks):
            tokens = Block(self.heads, 4)(tokens)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(tokens))


class ResNet50(nn.Module):
    """Bottlenecks of three convolutions with BatchNorms (He et al. 2016, table 1)."""

    width: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, images: jax.Array, training: bool = False) -> jax.Array:
        def convolved(features: Array, width: int, kernel: int, stride: int = 1) -> Array:
            features = nn.Conv(width, (kernel, kernel), stride, use_bias=False)(features)
            return nn.BatchNorm(use_running_average=not training)(features)

        def bottleneck(features: Array, width: int, stride: int) -> Array:
            hidden = nn.relu(convolved(features, width, 1))
            hidden = nn.relu(convolved(hidden, width, 3, stride))
            hidden = convolved(hidden, 4 * width, 1)
            if features.shape != hidden.shape:
                features = convolved(features, 4 * width, 1, stride)
            return nn.relu(features + hidden)

        features = nn.relu(convolved(images, self.width, 7, 2))
        features = nn.max_pool(features, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                features = bottleneck(features, self.width * 2**stage, stride)
        return nn.Dense(1000)(features.mean(axis=(1, 2)))


def _workload(
    name: str, model: nn.Module, inputs: jax.Array, labels: jax.Array, dtype: Any = jnp.float32
) -> Workload:
    """Builds a workload. Weights stay in float32 and the model computes in ``dtype``."""
    params, statistics = jax.jit(started, static_argnums=0)(model, jax.random.key(0), inputs)

    def cast(tree: Any) -> Any:
        floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if floating(leaf) else leaf, tree)

    def loss_fn(
        params: optax.Params, statistics: Any, inputs: Array, labels: Array
    ) -> tuple[Array, Any]:
        logits, statistics = applied(model, cast(params), statistics, cast(inputs))
        logits = logits.astype(jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), statistics

    return Workload(name, loss_fn, params, statistics, (inputs, labels))


def large_workloads(word: str = "", reduced: bool = False) -> Iterator[Workload]:
    """Workloads for a GPU in bfloat16: a transformer of 110 million parameters and a ResNet-50.

    Args:
      word: a word in the name of the wanted workloads.
      reduced: whether to shrink them until a CPU can run them, as a check.
    """
    rows, length, tokens, size = (2, 8, 64, 32) if reduced else (16, 512, 16_384, 224)
    ids = jax.random.randint(jax.random.key(2), (rows, length), 0, tokens)
    transformer = Transformer(16, 2, 2, tokens) if reduced else Transformer(768, 12, 12, tokens)
    resnet = ResNet50(4, (1, 1, 1, 1)) if reduced else ResNet50()
    images = jax.random.normal(jax.random.key(1), (4 * rows, size, size, 3))
    models: dict[str, tuple[nn.Module, jax.Array, jax.Array]] = {
        "transformer-110m": (transformer, ids, jnp.roll(ids, -1, axis=1)),
        "resnet50": (resnet, images, jnp.arange(len(images)) % 10),
    }
    for name, (model, inputs, labels) in models.items():
        if word in name:
            yield _workload(name, model, inputs, labels, jnp.bfloat16)


def workloads(word: str = "") -> Iterator[Workload]:
    """Yields the workloads with ``word`` in their name, each built in its turn.

    At these sizes a step of SGD takes at most 0.3 s on one core.
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
