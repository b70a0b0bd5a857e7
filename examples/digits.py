"""scikit-learn's handwritten digits, split for training and testing, and batches of them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Examples(NamedTuple):
    """Pixels in [0, 1], and which digit each image shows."""

    images: Float[np.ndarray, "examples 8 8 1"]
    labels: Int[np.ndarray, "examples"]


def load() -> tuple[Examples, Examples]:
    """Three quarters to train on and a quarter to test on, all digits about equally often."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    rows = np.arange(len(labels))
    train, test = train_test_split(rows, test_size=0.25, stratify=labels, random_state=0)
    labels = labels.astype(np.int32)
    return Examples(images[train], labels[train]), Examples(images[test], labels[test])


def batches(data: Examples, size: int, steps: int, seed: int) -> Iterator[Examples]:
    """A batch for each step, from shuffled passes over the data. The seed decides the order."""
    rng, rows = np.random.default_rng(seed), np.empty(0, int)
    for _ in range(steps):
        if len(rows) < size:
            rows = np.concatenate([rows, rng.permutation(len(data.labels))])
        chosen, rows = rows[:size], rows[size:]
        yield Examples(data.images[chosen], data.labels[chosen])
