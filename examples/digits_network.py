"""A small Flax NNX network, and its loss."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import insgd_optax as insgd
from digits_data import NUM_CLASSES, Split

Params = Any


class ConvNet(nnx.Module):
    """Two convolutions with average pooling, then a linear layer; no normalization layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.head = nnx.Linear(2 * 2 * 32, NUM_CLASSES, rngs=rngs)

    def __call__(self, images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch classes"]:
        hidden = nnx.avg_pool(nnx.relu(self.conv1(images)), (2, 2), (2, 2))
        hidden = nnx.avg_pool(nnx.relu(self.conv2(hidden)), (2, 2), (2, 2))
        return self.head(hidden.reshape(len(images), -1))


GRAPHDEF, _ = nnx.split(nnx.eval_shape(lambda: ConvNet(nnx.Rngs(0))))


@jax.jit
def initial_params(seed: int) -> Params:
    return nnx.state(ConvNet(nnx.Rngs(jax.random.key(seed))))


@jax.jit
def predict(params: Params, images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch classes"]:
    return nnx.merge(GRAPHDEF, params)(images)


def loss_fn(
    params: Params, batch: Split, prior: Float[Array, "classes"], weights: Float[Array, "batch"]
) -> Float[Array, ""]:
    """Cross-entropy; a prior of the classes' frequencies makes it the balanced softmax."""
    logits = predict(params, batch.images)
    losses = insgd.balanced_softmax_cross_entropy(logits, jnp.asarray(batch.labels), prior)
    return (weights * losses).mean()
