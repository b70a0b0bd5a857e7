"""The task: scikit-learn's handwritten digits, made long-tailed, and a small network for them."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import insgd_optax as insgd

NUM_CLASSES, NUM_PIXELS = 10, 64
SPLIT_SEED = 0


class Split(NamedTuple):
    """Images scaled to [0, 1] and their digits."""

    images: Float[np.ndarray, "examples 8 8 1"]
    labels: Int[np.ndarray, "examples"]


class Digits(NamedTuple):
    """A long-tailed training split; validation and test hold all digits about equally often."""

    train: Split
    validation: Split
    test: Split

    def train_counts(self) -> list[int]:
        """The number of training examples of each digit."""
        return np.bincount(self.train.labels, minlength=NUM_CLASSES).tolist()


def long_tail_counts(most: int, imbalance: float) -> list[int]:
    """The number of examples of each class, falling exponentially from `most` by `imbalance`.

    >>> long_tail_counts(100, 50)
    [100, 64, 41, 27, 17, 11, 7, 4, 3, 2]
    """
    exponents = np.arange(NUM_CLASSES) / (NUM_CLASSES - 1)
    return [int(count) for count in most * (1 / imbalance) ** exponents]


def load(imbalance: float) -> Digits:
    """Splits the balanced digits 60 / 15 / 25 percent, then thins the training split alone."""
    images, labels = load_digits(return_X_y=True)
    every = Split((images / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels.astype(np.int32))
    rest, test = _split(every, test_fraction=0.25)
    train, validation = _split(rest, test_fraction=0.2)
    most = int(np.bincount(train.labels).min())
    if not 1 <= imbalance <= most:
        raise ValueError(
            f"imbalance must lie between 1 (balanced) and {most} (one example of the rarest digit),"
            f" got {imbalance:g}"
        )
    return Digits(_thin(train, long_tail_counts(most, imbalance)), validation, test)


def batch_rows(
    examples: int, batch_size: int, steps: int, seed: int
) -> Int[np.ndarray, "steps batch"]:
    """The rows of every step's batch: shuffled passes over the data, one after the other."""
    order = np.random.default_rng(seed)
    passes = -(-steps * batch_size // examples)
    rows = np.concatenate([order.permutation(examples) for _ in range(passes)])
    return rows[: steps * batch_size].reshape(steps, batch_size)


def _split(data: Split, test_fraction: float) -> tuple[Split, Split]:
    kept, held = train_test_split(
        np.arange(len(data.labels)),
        test_size=test_fraction,
        stratify=data.labels,
        random_state=SPLIT_SEED,
    )
    return _rows(data, np.asarray(kept)), _rows(data, np.asarray(held))


def _thin(data: Split, counts: list[int]) -> Split:
    """Keeps the first `counts[c]` examples of each class (the split has shuffled them)."""
    rows = np.concatenate([np.flatnonzero(data.labels == c)[:n] for c, n in enumerate(counts)])
    return _rows(data, rows)


def _rows(data: Split, rows: np.ndarray) -> Split:
    return Split(data.images[rows], data.labels[rows])


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
def initial_params(seed: int) -> optax.Params:
    return nnx.state(ConvNet(nnx.Rngs(jax.random.key(seed))))


@jax.jit
def predict(
    params: optax.Params, images: Float[Array, "batch 8 8 1"]
) -> Float[Array, "batch classes"]:
    return nnx.merge(GRAPHDEF, params)(images)


def loss_fn(
    params: optax.Params,
    batch: Split,
    prior: Float[Array, "classes"],
    weights: Float[Array, "batch"],
) -> Float[Array, ""]:
    """Cross-entropy; a prior of the classes' frequencies makes it the balanced softmax."""
    logits = predict(params, batch.images)
    losses = insgd.balanced_softmax_cross_entropy(logits, jnp.asarray(batch.labels), prior)
    return (weights * losses).mean()


def recalls(params: optax.Params, split: Split) -> Float[np.ndarray, "classes"]:
    """For each digit, the fraction of its examples that the network recognizes."""
    hits = np.asarray(predict(params, split.images).argmax(axis=-1)) == split.labels
    return np.bincount(split.labels, weights=hits) / np.bincount(split.labels)


def balanced_accuracy(params: optax.Params, split: Split) -> float:
    """The mean of the recalls: every digit counts the same, however rare."""
    return float(recalls(params, split).mean())


@dataclass(frozen=True)
class Scores:
    """Runs at one learning rate. Scores are fractions, with one entry a seed."""

    rate: float
    curves: Float[np.ndarray, "seeds checkpoints"]  # validation balanced accuracy
    accuracy: Float[np.ndarray, "seeds"]  # on the test split, as all below
    recalls: Float[np.ndarray, "seeds classes"]

    @property
    def balanced_accuracy(self) -> Float[np.ndarray, "seeds"]:
        return self.recalls.mean(axis=1)

    @property
    def worst_recall(self) -> Float[np.ndarray, "seeds"]:
        return self.recalls.min(axis=1)


def read_test(
    split: Split, rate: float, networks: list[optax.Params], curves: list[list[float]]
) -> Scores:
    """Scores trained networks on the test split, which nothing has looked at before."""
    found = np.stack([recalls(params, split) for params in networks])
    accuracy = found @ np.bincount(split.labels) / len(split.labels)
    return Scores(rate, np.array(curves), accuracy, found)
