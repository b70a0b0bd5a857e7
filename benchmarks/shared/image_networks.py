"""Networks for images of any size: plain, BatchNorm and residual convolutions, and a ViT."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class PlainConvNet(nn.Module):
    """Three convolutions with pooling, and a linear classifier on their means over the image."""

    classes: int
    width: int = 16

    @nn.compact
    def __call__(self, images: Float[Array, "images height width C"]) -> Float[Array, "images K"]:
        features = images
        for factor in (1, 2, 4):
            features = pooled(nn.relu(nn.Conv(factor * self.width, (3, 3))(features)))
        return nn.Dense(self.classes)(features.mean(axis=(1, 2)))


class NormalizedConvNet(nn.Module):
    """`PlainConvNet` with a BatchNorm after every convolution."""

    classes: int
    width: int = 16

    @nn.compact
    def __call__(
        self, images: Float[Array, "images height width C"], training: bool = False
    ) -> Float[Array, "images K"]:
        features = images
        for factor in (1, 2, 4):
            features = _normalized(features, factor * self.width, 1, training)
            features = pooled(nn.relu(features))
        return nn.Dense(self.classes)(features.mean(axis=(1, 2)))


class ResNet(nn.Module):
    """Three groups of residual blocks (He et al. 2016, section 4.2). 3 blocks make ResNet-20."""

    classes: int
    width: int = 16
    blocks: int = 3

    @nn.compact
    def __call__(
        self, images: Float[Array, "images height width C"], training: bool = False
    ) -> Float[Array, "images K"]:
        features = nn.relu(_normalized(images, self.width, 1, training))
        for factor in (1, 2, 4):
            for block in range(self.blocks):
                stride = 2 if factor > 1 and block == 0 else 1
                features = _residual(features, factor * self.width, stride, training)
        return nn.Dense(self.classes)(features.mean(axis=(1, 2)))


class VisionTransformer(nn.Module):
    """Patches, pre-LayerNorm blocks of attention and a perceptron, and a head on the mean."""

    classes: int
    patch: int = 4
    width: int = 48
    blocks: int = 3
    heads: int = 3
    widening: int = 2

    @nn.compact
    def __call__(self, images: Float[Array, "images height width C"]) -> Float[Array, "images K"]:
        patch = (self.patch, self.patch)
        tokens = nn.Conv(self.width, patch, patch, padding="VALID")(images)
        tokens = tokens.reshape(len(images), -1, self.width)
        shape = (1, *tokens.shape[1:])
        tokens = tokens + self.param("position", nn.initializers.normal(0.02), shape)
        for _ in range(self.blocks):
            tokens = Block(self.heads, self.widening)(tokens)
        return nn.Dense(self.classes)(nn.LayerNorm()(tokens).mean(axis=1))


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm."""

    heads: int
    widening: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "rows places W"]) -> Float[Array, "rows places W"]:
        width, normed = tokens.shape[-1], nn.LayerNorm()(tokens)
        tokens = tokens + nn.MultiHeadDotProductAttention(num_heads=self.heads)(normed, normed)
        hidden = nn.gelu(nn.Dense(self.widening * width)(nn.LayerNorm()(tokens)))
        return tokens + nn.Dense(width)(hidden)


def pooled(features: Float[Array, "batch height width C"]) -> Float[Array, "batch rows columns C"]:
    """The maximum of each 2 x 2 window. An odd last row or column is dropped.

    On a CPU the gradient of ``nn.max_pool`` takes longer than the rest of a step.
    """
    batch, height, width, channels = features.shape
    rows, columns = height // 2, width // 2
    even = features[:, : 2 * rows, : 2 * columns]
    return even.reshape(batch, rows, 2, columns, 2, channels).max(axis=(2, 4))


def _normalized(features: Array, width: int, stride: int, training: bool) -> Array:
    features = nn.Conv(width, (3, 3), stride, use_bias=False)(features)
    return nn.BatchNorm(use_running_average=not training, momentum=0.9)(features)


def _residual(features: Array, width: int, stride: int, training: bool) -> Array:
    """Two convolutions and a parameter-free shortcut (option A)."""
    hidden = nn.relu(_normalized(features, width, stride, training))
    hidden = _normalized(hidden, width, 1, training)
    added = width - features.shape[-1]
    shortcut = features[:, ::stride, ::stride]
    shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)))
    return nn.relu(shortcut + hidden)
