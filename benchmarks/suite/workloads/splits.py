"""Splits data that come in one piece."""

import numpy as np
from jaxtyping import Float, Int

from benchmarks.suite.task import Examples, Splits
from examples.images import divided


def split(
    inputs: Float[np.ndarray, "examples ..."],
    labels: Int[np.ndarray, "examples"],
    share: float,
    most: list[int] | None = None,
) -> Splits:
    """A share for training, and half of the rest for validation. Classes keep their proportions.

    Args:
      inputs, labels: the data.
      share: the share for training.
      most: the largest number of training examples of each class. All by default.
    """
    rows = np.arange(len(labels))
    train, rest = divided(rows, labels, share)
    if most is not None:
        kept = [train[labels[train] == label][:number] for label, number in enumerate(most)]
        train = np.concatenate(kept)
    parts = (train, *divided(rest, labels, 0.5))
    inputs, labels = inputs.astype(np.float32), labels.astype(np.int32)
    return Splits(*(Examples(inputs[part], labels[part]) for part in parts))
