"""Tasks: a network, its data, and the length of a run."""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

POINTS = 10  # validations in a run
IMBALANCED = 3  # methods for rare classes run above this ratio of the largest to the smallest class


class Examples(NamedTuple):
    """Inputs and labels. A label is one class, or one class for each place of a text."""

    inputs: Shaped[np.ndarray, "examples ..."]
    labels: Int[np.ndarray, "examples ..."]


class Splits(NamedTuple):
    """The splits. Validation data chooses learning rates. Test data is read once."""

    train: Examples
    validation: Examples
    test: Examples


# Maps a key, examples, the step's number and the number of steps to the examples to train on.
Change = Callable[[Array, Examples, Array, int], Examples]
# Maps a seed and the number of steps to the examples of each step.
Order = Callable[[int, int], Int[np.ndarray, "steps batch"]]


def unchanged(key: Array, batch: Examples, number: Array, steps: int) -> Examples:
    del key, number, steps
    return batch


@dataclasses.dataclass(frozen=True)
class Task:
    """A network with its data.

    Attributes:
      model: maps inputs to logits.
      data: the splits.
      classes: the names of the classes. None if the score is the loss, as for texts.
      batch: the batch size.
      steps: the number of steps of a run.
      change: modifies a batch before training on it, for example by augmentation.
      order: the order of the examples. Shuffled epochs by default.
      together: whether several runs are one vectorized loop. On a CPU, convolutions with one
        kernel for each run take up to twenty times as long as separate ones.
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
        """The number of training examples of each class."""
        return np.bincount(self.data.train.labels, minlength=len(self.classes or ()))

    @property
    def is_imbalanced(self) -> bool:
        return self.classes is not None and self.counts.max() > IMBALANCED * self.counts.min()

    @functools.cached_property
    def checksum(self) -> int:
        """A checksum of all data."""
        found = 0
        for array in (array for part in self.data for array in part):
            found = zlib.crc32(np.asarray(array).tobytes(), found)
        return found

    def log_frequency(self) -> Float[np.ndarray, "classes"] | Float[np.ndarray, ""]:
        """The log of each class's share of the training data. 0 for texts."""
        if self.classes is None:
            return np.zeros((), np.float32)
        return np.log(self.counts / self.counts.sum()).astype(np.float32)

    def rows(self, seed: int) -> Int[np.ndarray, "steps batch"]:
        """The examples of each step."""
        if self.order is not None:
            return self.order(seed, self.steps)
        number, needed = len(self.data.train.labels), self.steps * self.batch
        epochs = shuffled(np.arange(number), needed, seed)
        return epochs.reshape(self.steps, self.batch)


def shuffled(
    rows: Int[np.ndarray, "examples"], needed: int, seed: int
) -> Int[np.ndarray, "needed"]:
    """As many epochs as needed, each shuffled separately."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(rows) for _ in range(-(-needed // len(rows)))])[:needed]
