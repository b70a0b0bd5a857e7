"""Training: one network on one split with one optimizer, timed epoch by epoch."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import insgd_optax as insgd
from benchmarks.long_tail.data import NUM_CLASSES, LongTail, Split
from benchmarks.shared.gradient import gradient_of
from benchmarks.shared.images import augmented

BATCH = 128
# Of the loss's arguments the images and the labels; the rest are BatchNorm's averages.
BATCH_ARGNUMS = (1, 2)


class ConvNet(nn.Module):
    """Three convolutions with BatchNorm and pooling, and a linear classifier."""

    width: int = 16

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        features = images
        for factor in (1, 2, 4):
            features = nn.Conv(factor * self.width, (3, 3), use_bias=False)(features)
            features = nn.relu(nn.BatchNorm(not train, momentum=0.9)(features))
            features = nn.max_pool(features, (2, 2), (2, 2))
        return nn.Dense(NUM_CLASSES)(features.reshape(len(features), -1))


class Optimizer(NamedTuple):
    """An optimizer, and the structure that its statistics are captured for, if it has any."""

    transform: optax.GradientTransformationExtraArgs
    structure: insgd.Structure | None


class Curve(NamedTuple):
    """What a run was like after every epoch; seconds are those of its train steps alone."""

    seconds: list[float]
    train_loss: list[float]
    validation_loss: list[float]
    validation_accuracy: list[float]
    test_accuracy: float


# From the parameters, the number of steps, and what the capture finds, to an optimizer.
Build = Callable[[Any, int, insgd.Explanation], Optimizer]


def train(model: nn.Module, data: LongTail, build: Build, epochs: int, seed: int) -> Curve:
    """Trains with a balanced softmax."""
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)
    variables = model.init(jax.random.key(seed), images[:2], train=False)
    steps, params, stats = len(labels) // BATCH, variables["params"], variables["batch_stats"]
    loss_fn, batch = _loss(model, jnp.asarray(data.log_prior())), (images[:BATCH], labels[:BATCH])
    explained = insgd.explain(loss_fn, params, *batch, stats, batch_argnums=BATCH_ARGNUMS)
    optimizer = build(params, epochs * steps, explained)
    carry = params, stats, optimizer.transform.init(params)
    keys = jax.random.split(jax.random.key(seed + 1), (epochs, steps))
    order, evaluate = np.random.default_rng(seed), _evaluation(model)
    compiled = _train_step(loss_fn, optimizer).lower(carry, *batch, keys[0, 0]).compile()
    curve, seconds = Curve([], [], [], [], 0.0), 0.0
    for epoch_keys in keys:
        rows = order.permutation(len(labels))[: steps * BATCH].reshape(steps, BATCH)
        batches = [
            (images[row], labels[row], key) for row, key in zip(rows, epoch_keys, strict=True)
        ]
        carry, losses, spent = _epoch(compiled, carry, batches)
        seconds += spent
        loss, accuracy = evaluate(carry[0], carry[1], data.validation)
        for values, value in zip(curve[:4], (seconds, losses, loss, accuracy), strict=True):
            values.append(value)
    return curve._replace(test_accuracy=evaluate(carry[0], carry[1], data.test)[1])


def _epoch(compiled: Any, carry: Any, batches: list[Any]) -> tuple[Any, float, float]:
    """The new parameters and states, the mean loss, and the seconds that the steps took."""
    jax.block_until_ready(batches)
    start, losses = time.perf_counter(), []
    for batch in batches:
        carry, loss = compiled(carry, *batch)
        losses.append(loss)
    jax.block_until_ready(carry)
    seconds = time.perf_counter() - start
    return carry, float(jnp.mean(jnp.stack(losses))), seconds


def _loss(model: nn.Module, log_prior: Array) -> Callable[..., Any]:
    def loss_fn(params: Any, images: Array, labels: Array, stats: Any) -> Any:
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(variables, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits + log_prior, labels)
        return losses.mean(), new["batch_stats"]

    return loss_fn


def _train_step(loss_fn: Callable[..., Any], optimizer: Optimizer) -> Any:
    transform, structure = optimizer
    gradient = gradient_of(loss_fn, structure, has_aux=True, batch_argnums=BATCH_ARGNUMS)

    def step(carry: Any, images: Array, labels: Array, key: Array) -> Any:
        params, stats, state = carry
        (loss, stats), grads, extra = gradient(params, augmented(key, images), labels, stats)
        updates, state = transform.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), stats, state), loss

    return jax.jit(step, donate_argnums=0)


def _evaluation(model: nn.Module) -> Callable[[Any, Any, Split], tuple[float, float]]:
    @jax.jit
    def measured(params: Any, stats: Any, images: Array, labels: Array) -> Array:
        variables = {"params": params, "batch_stats": stats}
        logits = jnp.asarray(model.apply(variables, images, train=False))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.stack([losses.sum(), (logits.argmax(-1) == labels).sum()])

    def evaluate(params: Any, stats: Any, split: Split) -> tuple[float, float]:
        parts = range(0, len(split.labels), 1000)
        slices = [(split.images[n : n + 1000], split.labels[n : n + 1000]) for n in parts]
        sums = np.sum([measured(params, stats, *part) for part in slices], axis=0)
        loss, right = sums / len(split.labels)
        return float(loss), 100 * float(right)

    return evaluate
