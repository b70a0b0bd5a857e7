"""Workloads: models of the usual kinds with random data, for measuring cost and not accuracy."""

import dataclasses
from collections.abc import Callable, Iterator
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


class Residual(nn.Module):
    """Two normalized convolutions, and a shortcut without parameters (He et al., option A)."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        hidden = nn.Conv(self.width, (3, 3), self.stride, use_bias=False)(features)
        hidden = nn.relu(nn.BatchNorm(use_running_average=False)(hidden))
        hidden = nn.Conv(self.width, (3, 3), use_bias=False)(hidden)
        hidden = nn.BatchNorm(use_running_average=False)(hidden)
        added = self.width - features.shape[-1]
        shortcut = features[:, :: self.stride, :: self.stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)))
        return nn.relu(shortcut + hidden)


class ResNet20(nn.Module):
    """He et al. (2016), section 4.2 with n = 3, for images of 32×32 pixels."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        features = nn.Conv(16, (3, 3), use_bias=False)(images)
        features = nn.relu(nn.BatchNorm(use_running_average=False)(features))
        for width in (16, 32, 64):
            for block in range(3):
                features = Residual(width, 2 if width > 16 and block == 0 else 1)(features)
        return nn.Dense(10)(features.mean(axis=(1, 2)))


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        normed = nn.LayerNorm()(tokens)
        tokens = tokens + nn.MultiHeadDotProductAttention(num_heads=4)(normed, normed)
        hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(tokens)))
        return tokens + nn.Dense(self.width)(hidden)


class VisionTransformer(nn.Module):
    """Patches of 4×4 pixels, four blocks of width 64, and the mean of the tokens for the head."""

    width: int = 64
    blocks: int = 4

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        patches = nn.Conv(self.width, (4, 4), strides=(4, 4), padding="VALID")(images)
        tokens = patches.reshape(patches.shape[0], -1, self.width)
        shape = (1, *tokens.shape[1:])
        tokens = tokens + self.param("position", nn.initializers.normal(0.02), shape)
        for _ in range(self.blocks):
            tokens = Block(self.width)(tokens)
        return nn.Dense(10)(nn.LayerNorm()(tokens).mean(axis=1))


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
    variables = dict(jax.jit(model.init)(jax.random.key(0), inputs))
    params = variables.pop("params")

    def loss_fn(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        # A BatchNorm's new averages are dropped: a step in training mode does not read the old.
        logits, _ = model.apply({"params": params, **variables}, inputs, mutable=list(variables))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Workload(name, loss_fn, params, (inputs, labels))


def workloads(word: str = "") -> Iterator[Workload]:
    """Those with ``word`` in their name, each built when its turn comes.

    Sizes are such that a step of SGD takes 0.3 s at most on one core.
    """
    images = jax.random.normal(jax.random.key(1), (128, 32, 32, 3))
    classes = jnp.arange(128) % 10
    ids = jax.random.randint(jax.random.key(2), (8, 64), 0, 256)
    models: dict[str, tuple[nn.Module, jax.Array, jax.Array]] = {
        "perceptron": (Perceptron(), images, classes),
        "convnet": (ConvNet(), images[:64], classes[:64]),
        "resnet20": (ResNet20(), images[:32], classes[:32]),
        "transformer": (Transformer(), ids, jnp.roll(ids, -1, axis=1)),
        "vit": (VisionTransformer(), images[:32], classes[:32]),
    }
    for name, (model, inputs, labels) in models.items():
        if word in name:
            yield _workload(name, model, inputs, labels)
