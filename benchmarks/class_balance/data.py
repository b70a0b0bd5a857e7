"""Three imbalanced data sets, each with a split to train on, one to choose by and one to test."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from sklearn.model_selection import StratifiedKFold

from benchmarks.long_tail.data import Split, load
from benchmarks.shared.images import decoded, image_files

CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
XRAY_SIZE, FOLDS = 32, 5


class Cut(NamedTuple):
    """A data set's images, cut into three."""

    train: Split
    validation: Split
    test: Split


class Task(NamedTuple):
    """A data set and how long to train on it.

    Attributes:
      about: what a table says of the images.
      classes: names, in the order of the labels.
      cuts: what the seeds train on, in turn.
      augment: whether images may be shifted and flipped. X-rays may not: hearts are on the left.
      epochs, batch: for the small network of this benchmark on a CPU.
    """

    name: str
    about: str
    classes: Sequence[str]
    cuts: Sequence[Cut]
    augment: bool
    epochs: int
    batch: int

    @property
    def counts(self) -> Int[np.ndarray, "classes"]:
        """Training images of every class, in the first cut."""
        return np.bincount(self.cuts[0].train.labels, minlength=len(self.classes))

    @property
    def steps_per_epoch(self) -> int:
        """Full batches only."""
        return len(self.cuts[0].train.labels) // self.batch


def tasks(folder: pathlib.Path, only: str) -> Iterator[Task]:
    """The data sets that lie in a folder and have a word in their name."""
    for name, (file, read) in FILES.items():
        if only.lower() not in name.lower():
            continue
        path = folder / file
        if path.exists():
            yield read(name, path)
        else:
            print(f"{name} is skipped: there is no {path}", flush=True)


def _cifar(name: str, path: pathlib.Path) -> Task:
    about = "16 × 16 pixels, imbalance 100; read from JPEG copies where the archive holds those"
    cuts = [Cut(*load(path, imbalance=100.0, size=16))]
    return Task(name, about, CIFAR_CLASSES, cuts, augment=True, epochs=8, batch=128)


def _pneumonia(name: str, path: pathlib.Path) -> Task:
    """MedMNIST's layout: ``train_images``, ``train_labels``, and the same for val and test."""
    with np.load(path) as arrays:
        splits = [
            _grey(arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel())
            for part in ("train", "val", "test")
        ]
    about, classes = "28 × 28 pixels, MedMNIST's own splits", ["normal", "pneumonia"]
    return Task(name, about, classes, [Cut(*splits)], augment=False, epochs=6, batch=64)


def _covid(name: str, path: pathlib.Path) -> Task:
    """``CLASS/*`` in five stratified folds, of which every seed tests on another.

    A fifth alone holds 25 images of the rare class.
    """
    files = image_files(path, depth=1)
    images = decoded(list(files.values()), XRAY_SIZE, "L")
    names = [file.split("/")[0] for file in files]
    classes = sorted(set(names))
    labels = np.array([classes.index(name) for name in names], np.int32)
    folding = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    folds = [rows for _, rows in folding.split(labels, labels)]
    cuts = []
    for number in range(FOLDS):
        test, held, *train = np.roll(np.arange(FOLDS), -number)
        parts = [np.concatenate([folds[n] for n in train]), folds[held], folds[test]]
        cuts.append(Cut(*(Split(images[rows], labels[rows]) for rows in parts)))
    about = f"{XRAY_SIZE} × {XRAY_SIZE} pixels, another fifth tested on by every seed"
    return Task(name, about, classes, cuts, augment=False, epochs=25, batch=32)


def _grey(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(images[..., None].astype(np.float32) / 127.5 - 1, labels.astype(np.int32))


FILES: dict[str, tuple[str, Callable[[str, pathlib.Path], Task]]] = {
    "CIFAR-10": ("cifar10_if10.zip", _cifar),
    "PneumoniaMNIST": ("pneumoniamnist.npz", _pneumonia),
    "COVID X-rays": ("covid_xray_64.zip", _covid),
}
