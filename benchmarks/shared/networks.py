"""Small networks of many kinds, for tokens and for images of 8 x 8 pixels in rows of 64."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Perceptron(nn.Module):
    """Two hidden layers. ``normalized`` puts a LayerNorm before each activation."""

    normalized: bool = False
    width: int = 64
    classes: int = 10

    @nn.compact
    def __call__(self, rows: Float[Array, "rows features"]) -> Float[Array, "rows classes"]:
        hidden = rows
        for _ in range(2):
            hidden = nn.Dense(self.width)(hidden)
            hidden = nn.relu(nn.LayerNorm()(hidden) if self.normalized else hidden)
        return nn.Dense(self.classes)(hidden)


class ConvNet(nn.Module):
    """Three convolutions, each with a BatchNorm.

    At batch 1 a step's mean and variance are over the positions of one image.
    """

    @nn.compact
    def __call__(
        self, rows: Float[Array, "rows 64"], training: bool = False
    ) -> Float[Array, "rows 10"]:
        hidden = rows.reshape(-1, 8, 8, 1)
        for features, stride in ((8, 1), (16, 2), (16, 1)):
            hidden = nn.Conv(features, (3, 3), stride, use_bias=False)(hidden)
            hidden = nn.relu(nn.BatchNorm(use_running_average=not training)(hidden))
        return nn.Dense(10)(nn.max_pool(hidden, (2, 2), (2, 2)).reshape(len(rows), -1))


class DepthwiseConvNet(nn.Module):
    """A convolution, then depthwise and pointwise ones in turn, without normalization."""

    @nn.compact
    def __call__(self, rows: Float[Array, "rows 64"]) -> Float[Array, "rows 10"]:
        hidden = nn.relu(nn.Conv(16, (3, 3), 2)(rows.reshape(-1, 8, 8, 1)))
        for features in (16, 32):
            channels = hidden.shape[-1]
            hidden = nn.relu(nn.Conv(channels, (3, 3), feature_group_count=channels)(hidden))
            hidden = nn.relu(nn.Conv(features, (1, 1))(hidden))
        return nn.Dense(10)(nn.max_pool(hidden, (2, 2), (2, 2)).reshape(len(rows), -1))


class Lstm(nn.Module):
    """Reads the eight rows of an image in sequence."""

    @nn.compact
    def __call__(self, rows: Float[Array, "rows 64"]) -> Float[Array, "rows 10"]:
        hidden = jnp.asarray(nn.RNN(nn.OptimizedLSTMCell(32))(rows.reshape(-1, 8, 8)))
        return nn.Dense(10)(hidden[:, -1])


class TwoHeads(nn.Module):
    """A shared body for two digits side by side, and one head for each."""

    @nn.compact
    def __call__(
        self, rows: Float[Array, "rows 128"]
    ) -> tuple[Float[Array, "rows 10"], Float[Array, "rows 10"]]:
        hidden = nn.relu(nn.Dense(64)(nn.relu(nn.Dense(64)(rows))))
        return nn.Dense(10)(hidden), nn.Dense(10)(hidden)


class TokenHead(nn.Module):
    """An embedding and a softmax head that predict the next token from the last one."""

    tokens: int
    width: int = 32

    @nn.compact
    def __call__(self, last: Int[Array, "rows"]) -> Float[Array, "rows tokens"]:
        return nn.Dense(self.tokens)(nn.Embed(self.tokens, self.width)(last))


class Transformer(nn.Module):
    """Causal blocks of attention and a perceptron, each behind a LayerNorm."""

    tokens: int
    width: int = 32
    blocks: int = 2

    @nn.compact
    def __call__(self, ids: Int[Array, "rows length"]) -> Float[Array, "rows length tokens"]:
        hidden = nn.Embed(self.tokens, self.width)(ids) + _positions(ids.shape[1], self.width)
        for _ in range(self.blocks):
            hidden = hidden + Attention()(nn.LayerNorm()(hidden))
            wide = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(hidden)))
            hidden = hidden + nn.Dense(self.width)(wide)
        return nn.Dense(self.tokens)(nn.LayerNorm()(hidden))


class Attention(nn.Module):
    """Causal attention with two heads."""

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "rows length width"]
    ) -> Float[Array, "rows length width"]:
        rows, length, width = hidden.shape
        query, key, value = (
            nn.Dense(width)(hidden).reshape(rows, length, 2, width // 2) for _ in range(3)
        )
        mask = nn.make_causal_mask(jnp.ones((1, length)))
        mixed = nn.dot_product_attention(query, key, value, mask=mask)
        return nn.Dense(width)(mixed.reshape(hidden.shape))


def _positions(length: int, width: int) -> Float[Array, "1 length width"]:
    """Sines and cosines with wavelengths from 2π to about 100 · 2π."""
    angles = jnp.arange(length)[:, None] * 100.0 ** -jnp.linspace(0, 1, width // 2)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[None]
