"""scikit-learn's handwritten digits (8 by 8 scans), split once and made long-tailed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

NUM_CLASSES = 10
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
    return _rows(data, kept), _rows(data, held)


def _thin(data: Split, counts: list[int]) -> Split:
    """Keeps the first `counts[c]` examples of each class (the split has shuffled them)."""
    rows = np.concatenate([np.flatnonzero(data.labels == c)[:n] for c, n in enumerate(counts)])
    return _rows(data, rows)


def _rows(data: Split, rows) -> Split:
    return Split(data.images[rows], data.labels[rows])
