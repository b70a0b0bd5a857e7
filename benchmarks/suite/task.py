"""Tasks: a network, its data, and how long it trains."""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

POINTS = 10  # evaluations of the validation data in a run
IMBALANCED = 3  # the largest class over the smallest, from which methods for it are tried


class Examples(NamedTuple):
    """Inputs and their classes; a label may be one class, or one for each place of a text."""

    inputs: Shaped[np.ndarray, "examples ..."]
    labels: Int[np.ndarray, "examples ..."]


class Splits(NamedTuple):
    """Validation chooses learning rates, test is read once."""

    train: Examples
    validation: Examples
    test: Examples


# From a key, examples and the number of the step to the examples that are trained on.
Change = Callable[[Array, Examples, Array], Examples]
# From a seed to the examples that each step takes.
Order = Callable[[int], Int[np.ndarray, "steps batch"]]


def unchanged(key: Array, batch: Examples, number: Array) -> Examples:
    del key, number
    return batch


@dataclasses.dataclass(frozen=True)
class Task:
    """A network with its data.

    Attributes:
      model: from inputs to logits.
      data: its splits.
      classes: their names; None where the score is the loss, as for texts.
      batch, steps: of a run.
      change: what is done to a batch before it is trained on, as an augmentation does.
      order: shuffled epochs by default.
      together: whether several runs are one vectorized loop. On a CPU, convolutions with a kernel
        for each run take up to twenty times as long as one after the other.
    """

    model: nn.Module
    data: Splits
    classes: tuple[str, ...] | None
    batch: int
    steps: int
    change: Change = unchanged
    order: Order | None = None
    together: bool = True

    @property
    def counts(self) -> Int[np.ndarray, "classes"]:
        """Training examples of every class."""
        return np.bincount(self.data.train.labels, minlength=len(self.classes or ()))

    @property
    def is_imbalanced(self) -> bool:
        return self.classes is not None and self.counts.max() > IMBALANCED * self.counts.min()

    @functools.cached_property
    def checksum(self) -> int:
        """Of all its data."""
        found = 0
        for array in (array for part in self.data for array in part):
            found = zlib.crc32(np.asarray(array).tobytes(), found)
        return found

    def log_frequency(self) -> Float[np.ndarray, "classes"] | Float[np.ndarray, ""]:
        """The log of each class's share of the training data; 0 for texts."""
        if self.classes is None:
            return np.zeros((), np.float32)
        return np.log(self.counts / self.counts.sum()).astype(np.float32)

    def rows(self, seed: int) -> Int[np.ndarray, "steps batch"]:
        """Which examples each step takes."""
        if self.order is not None:
            return self.order(seed)[: self.steps]
        number, needed = len(self.data.train.labels), self.steps * self.batch
        epochs = shuffled(np.arange(number), needed, seed)
        return epochs.reshape(self.steps, self.batch)


def shuffled(
    rows: Int[np.ndarray, "examples"], needed: int, seed: int
) -> Int[np.ndarray, "needed"]:
    """The rows of as many epochs as it takes, each shuffled anew."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(rows) for _ in range(-(-needed // len(rows)))])[:needed]
