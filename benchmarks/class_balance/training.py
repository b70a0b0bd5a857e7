"""Training: a small network on one data set, with any optimizer, learning rate and loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import insgd_optax as insgd
from benchmarks.class_balance.contenders import Balance, Contender
from benchmarks.class_balance.data import Task
from benchmarks.long_tail.data import Split
from benchmarks.long_tail.training import BATCH_ARGNUMS
from benchmarks.shared.gradient import gradient_of
from benchmarks.shared.image_networks import NormalizedConvNet
from benchmarks.shared.images import augmented

EVALUATED_AT_ONCE = 1000


class Program(NamedTuple):
    """What is compiled once for an optimizer on a data set.

    Attributes:
      start: from a seed to parameters, BatchNorm's averages and the optimizer's state.
      step: from these, a learning rate, a `Balance`, images, labels and a key to the next.
      predict: from these and images to classes.
    """

    start: Callable[[int], Any]
    step: Callable[..., Any]
    predict: Callable[[Any, Any], Array]


def program(task: Task, contender: Contender) -> Program:
    """The learning rate falls along half a cosine."""
    model = NormalizedConvNet(len(task.classes))
    shape = optax.cosine_decay_schedule(1.0, task.epochs * task.steps_per_epoch)

    def optimizer(rate: Any) -> optax.GradientTransformationExtraArgs:
        return contender.make(lambda count: rate * shape(count), len(task.classes))

    def start(seed: int) -> Any:
        variables = model.init(jax.random.key(seed), task.cuts[0].train.images[:2])
        params = variables["params"]
        return params, variables["batch_stats"], optimizer(0.0).init(params)

    def predict(carry: Any, images: Array) -> Array:
        variables = {"params": carry[0], "batch_stats": carry[1]}
        return jnp.asarray(model.apply(variables, images)).argmax(-1)

    step = _step(task, _loss(model), contender.structure, optimizer)
    return Program(jax.jit(start), jax.jit(step, donate_argnums=0), jax.jit(predict))


def trained(
    program: Program, task: Task, split: Split, rate: float, balance: Balance, seed: int
) -> Any:
    """The network after all epochs; the seed draws its weights, the batches and their shifts."""
    carry, order = program.start(seed), np.random.default_rng(seed)
    keys = jax.random.split(jax.random.key(seed + 1000), (task.epochs, task.steps_per_epoch))
    images, labels = split
    for epoch_keys in keys:
        rows = order.permutation(len(labels))[: task.steps_per_epoch * task.batch]
        for row, key in zip(rows.reshape(-1, task.batch), epoch_keys, strict=True):
            carry = program.step(carry, rate, balance, images[row], labels[row], key)
    return carry


def recalls(program: Program, carry: Any, split: Split) -> Float[np.ndarray, "classes"]:
    """Of the images of every class the percentage that is recognized."""
    starts = range(0, len(split.labels), EVALUATED_AT_ONCE)
    parts = [split.images[start : start + EVALUATED_AT_ONCE] for start in starts]
    right = np.concatenate([program.predict(carry, part) for part in parts]) == split.labels
    return np.array(
        [100 * right[split.labels == label].mean() for label in np.unique(split.labels)]
    )


def _loss(model: nn.Module) -> Callable[..., Any]:
    def loss_fn(
        params: Any, images: Array, labels: Array, stats: Any, prior: Array, weights: Array
    ) -> Any:
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(variables, images, training=True, mutable=["batch_stats"])
        losses = insgd.balanced_softmax_cross_entropy(jnp.asarray(logits), labels, prior)
        return jnp.mean(weights * losses), (new["batch_stats"], logits)

    return loss_fn


def _step(
    task: Task,
    loss_fn: Callable[..., Any],
    structure: insgd.Structure | None,
    optimizer: Callable[[Any], optax.GradientTransformationExtraArgs],
) -> Callable[..., Any]:
    """A step that reads the history of classes as the step before left it."""
    gradient = gradient_of(loss_fn, structure, has_aux=True, batch_argnums=BATCH_ARGNUMS)
    steps = task.epochs * task.steps_per_epoch

    def step(
        carry: Any, rate: Array, balance: Any, images: Array, labels: Array, key: Array
    ) -> Any:
        def frequency(updates: Array) -> Array:
            return jnp.where(updates >= balance.start * steps, balance.frequency, 0.0)

        params, stats, state = carry
        prior = insgd.log_prior(state, balance.prior)
        weights = insgd.example_weights(state, labels, frequency, balance.gradient)
        images = augmented(key, images) if task.augment else images
        (_, aux), grads, extra = gradient(params, images, labels, stats, prior, weights)
        stats, logits = aux
        extra |= {"groups": labels, "gradient_norms": insgd.softmax_gradient_norm(logits, labels)}
        updates, state = optimizer(rate).update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), stats, state

    return step
