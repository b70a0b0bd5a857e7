"""The networks, each with its data, its loss and its validation score."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from benchmarks.shared import networks
from benchmarks.shared.data import digits, texts, zipf
from benchmarks.shared.step import Batch

ZIPF_TOKENS, TEXT_TOKENS, LENGTH = 500, 64, 8
HELD_TOKENS = 1024

Score = Callable[[PyTree[Array], PyTree[Array]], Float[Array, ""]]


def cross_entropy(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Array, labels: Array) -> Array:
    """The accuracy in percent. NaN if a logit is not finite."""
    right = 100 * jnp.mean(logits.argmax(-1) == labels)
    return jnp.where(jnp.isfinite(logits).all(), right, jnp.nan)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and its task.

    Attributes:
      model: maps a batch's inputs to outputs.
      draw: draws a batch from a key, its size, the step's number and the total number of steps.
      held: the validation data.
      loss: a function of outputs and targets.
      score: the validation score, a function of outputs and targets.
      chance: the accuracy of guessing in percent. None if the score is a loss.
      together: whether all runs are one vectorized loop. On a CPU, convolutions with one kernel
        for each run take up to twenty times as long as separate ones, and longer in a loop.
    """

    model: nn.Module
    draw: Callable[[Array, int, Array, int], Batch]
    held: Batch
    loss: Score = cross_entropy
    score: Score = accuracy
    chance: float | None = 10.0
    together: bool = True


def on_digits(model: nn.Module, together: bool = True) -> Workload:
    data = digits(1.0)

    def draw(key: Array, size: int, step: Array, steps: int) -> Batch:
        rows = jax.random.randint(key, (size,), 0, len(data.images))
        return data.images[rows], data.labels[rows]

    return Workload(
        model, draw, (data.validation_images, data.validation_labels), together=together
    )


def alternating_domains() -> Workload:
    """Digits and their negatives in turn. The score is on both."""
    data, plain = digits(1.0), on_digits(networks.Perceptron())

    def draw(key: Array, size: int, step: Array, steps: int) -> Batch:
        images, labels = plain.draw(key, size, step, steps)
        # Scores count in the last tenth. It has equally many steps of both.
        inverted = step // min(50, steps // 20) % 2 == 1
        return jnp.where(inverted, 1 - images, images), labels

    held = data.validation_images, data.validation_labels
    both = jnp.concatenate([held[0], 1 - held[0]]), jnp.concatenate([held[1], held[1]])
    return dataclasses.replace(plain, draw=draw, held=both)


def masked_head() -> Workload:
    """Two digits side by side. The second one's loss is masked in the second half of the run.

    The score is the mean accuracy of both heads at the end, long after the mask came on.
    """
    data = digits(1.0)

    def draw(key: Array, size: int, step: Array, steps: int) -> Batch:
        rows = jax.random.randint(key, (2, size), 0, len(data.images))
        mask = jnp.full(size, 2 * step < steps).astype(jnp.float32)
        return _side_by_side(data.images[rows]), (*data.labels[rows], mask)

    def loss(outputs: tuple[Array, Array], targets: tuple[Array, Array, Array]) -> Array:
        first, second, mask = targets
        masked = mask * optax.softmax_cross_entropy_with_integer_labels(outputs[1], second)
        return cross_entropy(outputs[0], first) + masked.mean()

    def score(outputs: tuple[Array, Array], targets: tuple[Array, Array, Array]) -> Array:
        return (accuracy(outputs[0], targets[0]) + accuracy(outputs[1], targets[1])) / 2

    images, labels = data.validation_images, data.validation_labels
    pairs = _side_by_side(jnp.stack([images, jnp.roll(images, 1, axis=0)]))
    held = pairs, (labels, jnp.roll(labels, 1), jnp.ones(len(labels)))
    return Workload(networks.TwoHeads(), draw, held, loss, score)


def _side_by_side(images: Float[Array, "2 rows 64"]) -> Float[Array, "rows 128"]:
    return jnp.concatenate([images[0], images[1]], axis=-1)


def zipf_tokens() -> Workload:
    source = zipf(ZIPF_TOKENS)

    def draw(key: Array, size: int, step: Array, steps: int) -> Batch:
        return source.pairs(key, size)

    return Workload(
        networks.TokenHead(ZIPF_TOKENS), draw, source.pairs(jax.random.key(99), HELD_TOKENS),
        score=cross_entropy, chance=None,
    )  # fmt: skip


def language_model() -> Workload:
    """Short windows of texts. The loss is the mean over all their tokens."""
    text = jnp.asarray(texts(TEXT_TOKENS, 516, 57 * (LENGTH + 1)))
    text, held = text[:512], text[512:].reshape(-1, LENGTH + 1)

    def draw(key: Array, size: int, step: Array, steps: int) -> Batch:
        which, start = jax.random.randint(key, (2, size), 0, len(text))
        places = start[:, None] % (text.shape[1] - LENGTH) + jnp.arange(LENGTH + 1)
        windows = text[which[:, None], places]
        return windows[:, :-1], windows[:, 1:]

    return Workload(
        networks.Transformer(TEXT_TOKENS), draw, (held[:, :-1], held[:, 1:]),
        score=cross_entropy, chance=None,
    )  # fmt: skip


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "relu-mlp": lambda: on_digits(networks.Perceptron()),
    "layernorm-mlp": lambda: on_digits(networks.Perceptron(normalized=True)),
    "batchnorm-conv": lambda: on_digits(networks.ConvNet(), together=False),
    "depthwise-conv": lambda: on_digits(networks.DepthwiseConvNet(), together=False),
    "zipf-tokens": zipf_tokens,
    "lstm": lambda: on_digits(networks.Lstm()),
    "transformer": language_model,
    "masked-head": masked_head,
    "alternating": alternating_domains,
}


@functools.cache
def workload(name: str) -> Workload:
    return WORKLOADS[name]()
