"""CIFAR-10 at 16 x 16 pixels, from ``cifar10_if10.zip`` or any folder or zip of its layout.

``train/CLASS/*`` and ``test/CLASS/*``. Copies that were saved as JPEG differ a little from the
original.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from benchmarks.long_tail.data import load
from benchmarks.shared.image_networks import (
    NormalizedConvNet,
    PlainConvNet,
    ResNet,
    VisionTransformer,
)
from benchmarks.shared.images import augmented
from benchmarks.suite.task import Examples, Splits, Task, shuffled

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
FILE, SIZE, BATCH, STEPS = "cifar10_if10.zip", 16, 64, 700
EARLY, FEW = 7, 50  # classes of the first half, and images of each later one


def shifted(key: Array, batch: Examples, number: Array) -> Examples:
    del number
    return batch._replace(inputs=augmented(key, jnp.asarray(batch.inputs)))


def cifar(path: Path, model: nn.Module, imbalance: float) -> Task:
    """At imbalance 1 each class has 400 training images, at 10 from 4500 down to 450."""
    most, held = {1.0: (400, 100), 10.0: (4500, 50)}.get(imbalance, (5000, 300))
    splits = load(path, imbalance, SIZE, most, held)
    examples = Splits(*(Examples(*split) for split in splits))
    return Task(model, examples, CLASSES, BATCH, STEPS, shifted, together=False)


def transfer(path: Path) -> Task:
    """Seven classes for half of the steps, then three with 50 images each, which are tested."""
    whole = cifar(path, NormalizedConvNet(10), 1.0)
    train, *rest = whole.data
    is_late = train.labels >= EARLY
    places = np.arange(len(train.labels))
    late = np.concatenate([places[train.labels == label][:FEW] for label in range(EARLY, 10)])

    def order(seed: int) -> Int[np.ndarray, "steps batch"]:
        halves = [shuffled(each, STEPS * BATCH // 2, seed) for each in (places[~is_late], late)]
        return np.concatenate(halves).reshape(STEPS, BATCH)

    kept = [Examples(*(array[part.labels >= EARLY] for array in part)) for part in rest]
    return dataclasses.replace(whole, data=Splits(train, *kept), order=order)


def _with(model: nn.Module, imbalance: float) -> Callable[[Path], Task]:
    return lambda path: cifar(path, model, imbalance)


WORKLOADS = {
    "CIFAR-10, 400 of each": (FILE, _with(NormalizedConvNet(10), 1.0)),
    "CIFAR-10, imbalance 10": (FILE, _with(NormalizedConvNet(10), 10.0)),
    "CIFAR-10, imbalance 100": (FILE, _with(NormalizedConvNet(10), 100.0)),
    "CIFAR-10, imbalance 100, without BatchNorm": (FILE, _with(PlainConvNet(10), 100.0)),
    "CIFAR-10, imbalance 100, ResNet-20": (FILE, _with(ResNet(10, width=8), 100.0)),
    "CIFAR-10, transfer": (FILE, transfer),
    "CIFAR-10, imbalance 10, ViT": (FILE, _with(VisionTransformer(10), 10.0)),
}
