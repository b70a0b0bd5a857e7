"""CIFAR-10 from a folder or zip of classes, with all images or already at imbalance 10.

The paths are ``train/CLASS/*`` and ``test/CLASS/*``. JPEG copies differ a little from the
original. Images are 16 x 16 pixels, except in the suite for a GPU.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from benchmarks.shared.image_networks import (
    NormalizedConvNet,
    PlainConvNet,
    ResNet,
    VisionTransformer,
)
from benchmarks.shared.images import augmented
from benchmarks.suite.task import POINTS, Examples, Splits, Task, shuffled
from examples.images import opened

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
FILES = ("cifar10.zip", "cifar10_if10.zip")
SIZE, BATCH, STEPS = 16, 64, 700
EPOCHS, PUBLISHED_BATCH = 200, 128
EARLY, FEW = 7, 50  # classes of the first half, and images of each later class


def shifted(key: Array, batch: Examples, number: Array, steps: int) -> Examples:
    del number, steps
    return batch._replace(inputs=augmented(key, jnp.asarray(batch.inputs)))


def cifar(path: Path, model: nn.Module, imbalance: float, steps: int = STEPS) -> Task:
    """Each class has 400 training images at imbalance 1, and 4500 down to 450 at 10."""
    most, held = {1.0: (400, 100), 10.0: (4500, 50)}.get(imbalance, (5000, 300))
    splits = long_tailed(path, imbalance, SIZE, most, held)
    return Task(model, splits, CLASSES, BATCH, steps, shifted, together=False)


def published(path: Path, imbalance: float) -> Task:
    """CIFAR-10-LT as in papers, except that 50 images of each class are held back.

    Papers train a ResNet-32 for 200 epochs in batches of 128. They use SGD at 0.1 with a weight
    decay of 2e-4.
    """
    splits = long_tailed(path, imbalance, size=32, most=5000, held=50)
    epochs = EPOCHS * len(splits.train.labels) // PUBLISHED_BATCH
    steps = epochs - epochs % POINTS
    return Task(
        ResNet(10, blocks=5), splits, CLASSES, PUBLISHED_BATCH, steps, shifted, together=False
    )


def transfer(path: Path) -> Task:
    """Seven classes for half of the steps, then three with 50 images each. Tests use the three."""
    whole = cifar(path, NormalizedConvNet(10), 1.0)
    train, *rest = whole.data
    is_late = train.labels >= EARLY
    places = np.arange(len(train.labels))
    late = np.concatenate([places[train.labels == label][:FEW] for label in range(EARLY, 10)])

    def order(seed: int, steps: int) -> Int[np.ndarray, "steps batch"]:
        halves = [shuffled(each, steps * BATCH // 2, seed) for each in (places[~is_late], late)]
        return np.concatenate(halves).reshape(steps, BATCH)

    kept = [Examples(*(array[part.labels >= EARLY] for array in part)) for part in rest]
    return dataclasses.replace(whole, data=Splits(train, *kept), order=order)


def long_tailed(path: Path, imbalance: float, size: int, most: int, held: int) -> Splits:
    """Class c keeps its first ``most * imbalance**(-c/9)`` images for training.

    Validation takes the last ``held`` images of each class. Training never uses them, even if that
    leaves it fewer images.
    """

    def kept(label: int, number: int) -> slice:
        wanted = int(most * imbalance ** (-label / (len(CLASSES) - 1)))
        if number <= held:
            raise ValueError(
                f"{path} has {number} training images of '{CLASSES[label]}'. Validation takes "
                f"{held}, and training needs at least one more."
            )
        return slice(min(wanted, number - held))

    with opened(path) as source:

        def part(name: str, rows: Callable[[int, int], slice]) -> Examples:
            files, labels = [], []
            for label, every in enumerate(_by_class(source.at_depth(2), name)):
                chosen = every[rows(label, len(every))]
                files += chosen
                labels += [label] * len(chosen)
            return Examples(source.pixels(files, size, "RGB"), np.array(labels, np.int32))

        return Splits(
            part("train", kept),
            part("train", lambda label, number: slice(number - held, number)),
            part("test", lambda label, number: slice(number)),
        )


def _by_class(files: list[str], part: str) -> list[list[str]]:
    starts = [f"{part}/{name}/" for name in CLASSES]
    return [[file for file in files if file.startswith(start)] for start in starts]


def _with(model: nn.Module, imbalance: float, steps: int = STEPS) -> Callable[[Path], Task]:
    return lambda path: cifar(path, model, imbalance, steps)


WORKLOADS = {
    "CIFAR-10, 400 of each": (FILES, _with(NormalizedConvNet(10), 1.0)),
    "CIFAR-10, imbalance 10": (FILES, _with(NormalizedConvNet(10), 10.0)),
    "CIFAR-10, imbalance 100": (FILES, _with(NormalizedConvNet(10), 100.0)),
    "CIFAR-10, imbalance 100, without BatchNorm": (FILES, _with(PlainConvNet(10), 100.0)),
    "CIFAR-10, imbalance 100, ResNet-20": (FILES, _with(ResNet(10, width=8), 100.0, STEPS // 2)),
    "CIFAR-10, transfer": (FILES, transfer),
    "CIFAR-10, imbalance 10, ViT": (FILES, _with(VisionTransformer(10), 10.0)),
}
GPU = {
    "CIFAR-10-LT, imbalance 100, ResNet-32": (FILES, lambda path: published(path, 100.0)),
    "CIFAR-10-LT, imbalance 50, ResNet-32": (FILES, lambda path: published(path, 50.0)),
}
