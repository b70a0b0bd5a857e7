"""Networks for images: residual, depthwise and of patches."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from .case import Case, cross_entropy, digits


class Block(nn.Module):
    """A residual block with batch normalization."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        strides = self.stride, self.stride
        y = nn.Conv(self.features, (3, 3), strides, use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=False)(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=False, scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), strides, use_bias=False)(x)
        return nn.relu(x + y)


class InvertedResidual(nn.Module):
    """A block of MobileNetV2: wider, a filter for each channel, narrower."""

    features: int
    expansion: int = 3

    @nn.compact
    def __call__(self, x: Any) -> Any:
        inner = self.expansion * x.shape[-1]
        y = nn.Conv(inner, (1, 1), use_bias=False)(x)
        y = nn.relu6(nn.BatchNorm(use_running_average=False)(y))
        y = nn.Conv(inner, (3, 3), feature_group_count=inner, use_bias=False)(y)
        y = nn.relu6(nn.BatchNorm(use_running_average=False)(y))
        y = nn.Conv(self.features, (1, 1), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=False)(y)
        return x + y if x.shape == y.shape else y


class Convolutional(nn.Module):
    """A stem, blocks and a head."""

    blocks: tuple[nn.Module, ...]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(8, (3, 3))(x[..., None])
        for block in self.blocks:
            x = block(x)
        return nn.Dense(10)(x.mean(axis=(1, 2)))


def _of_linen(model: nn.Module) -> Case:
    batches = digits()
    variables = model.init(jax.random.key(0), batches[0][0])

    def loss_fn(params: Any, averages: Any, batch: Any) -> tuple[jax.Array, Any]:
        images, labels = batch
        variables = {"params": params, "batch_stats": averages}
        logits, changed = model.apply(variables, images, mutable=["batch_stats"])
        return cross_entropy(logits, labels), changed["batch_stats"]

    return Case(variables["params"], variables["batch_stats"], loss_fn, batches)


def resnet() -> Case:
    return _of_linen(Convolutional((Block(8, 1), Block(16, 2))))


def mobilenet() -> Case:
    return _of_linen(Convolutional((InvertedResidual(8), InvertedResidual(16))))


class Encoder(nnx.Module):
    """A block of a transformer that normalizes first."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.norms[0](x))
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class ViT(nnx.Module):
    """Patches of 2 x 2 pixels, a class token and places."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.patches = nnx.Conv(1, width, (2, 2), (2, 2), rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, width)))
        self.places = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 17, width)))
        self.blocks = nnx.List([Encoder(width, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, images: Any) -> Any:
        x = self.patches(images[..., None])
        x = x.reshape(len(x), -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.places[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def vit() -> Case:
    definition, params, rest = nnx.split(ViT(16, nnx.Rngs(0)), nnx.Param, ...)

    def loss_fn(params: Any, rest: Any, batch: Any) -> tuple[jax.Array, Any]:
        images, labels = batch
        return cross_entropy(nnx.merge(definition, params, rest)(images), labels), rest

    return Case(params, rest, loss_fn, digits())
