"""Three imbalanced data sets, each with a split to train on, one to choose by and one to test."""

import io
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image
from sklearn.model_selection import train_test_split

from benchmarks.long_tail.data import Split, load

CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
XRAY_SIZE = 32


class Task(NamedTuple):
    """A data set and how long to train on it.

    Attributes:
      about: what a table says of the images.
      classes: names, in the order of the labels.
      augment: whether images may be shifted and flipped. X-rays may not: hearts are on the left.
      epochs, batch: for the small network of this benchmark on a CPU.
    """

    name: str
    about: str
    classes: Sequence[str]
    train: Split
    validation: Split
    test: Split
    augment: bool
    epochs: int
    batch: int

    @property
    def counts(self) -> Int[np.ndarray, "classes"]:
        """Training images of every class."""
        return np.bincount(self.train.labels, minlength=len(self.classes))

    @property
    def steps_per_epoch(self) -> int:
        """Full batches only."""
        return len(self.train.labels) // self.batch


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
    splits = load(path, imbalance=100.0, size=16)
    return Task(name, about, CIFAR_CLASSES, *splits, augment=True, epochs=8, batch=128)


def _pneumonia(name: str, path: pathlib.Path) -> Task:
    """MedMNIST's layout: ``train_images``, ``train_labels``, and the same for val and test."""
    with np.load(path) as arrays:
        splits = [
            _grey(arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel())
            for part in ("train", "val", "test")
        ]
    about, classes = "28 × 28 pixels, MedMNIST's own splits", ["normal", "pneumonia"]
    return Task(name, about, classes, *splits, augment=False, epochs=6, batch=64)


def _covid(name: str, path: pathlib.Path) -> Task:
    """``CLASS/*``, cut at random into three, the same cut in every run."""
    with zipfile.ZipFile(path) as archive:
        files = sorted(file for file in archive.namelist() if file.count("/") == 1)
        files = [file for file in files if not file.endswith("/")]
        images = np.stack([_pixels(archive.read(file)) for file in files])
    names = [file.split("/")[0] for file in files]
    classes = sorted(set(names))
    labels = np.array([classes.index(name) for name in names])
    train, rest = train_test_split(
        np.arange(len(labels)), test_size=0.4, random_state=0, stratify=labels
    )
    held, test = train_test_split(rest, test_size=0.5, random_state=0, stratify=labels[rest])
    splits = [_grey(images[rows], labels[rows]) for rows in (train, held, test)]
    about = f"{XRAY_SIZE} × {XRAY_SIZE} pixels; three fifths to train, a fifth each for the rest"
    return Task(name, about, classes, *splits, augment=False, epochs=25, batch=32)


def _pixels(raw: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(raw)).convert("L")
    return np.asarray(image.resize((XRAY_SIZE, XRAY_SIZE), Image.Resampling.BOX))


def _grey(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(images[..., None].astype(np.float32) / 127.5 - 1, labels.astype(np.int32))


FILES: dict[str, tuple[str, Callable[[str, pathlib.Path], Task]]] = {
    "CIFAR-10": ("cifar10_if10.zip", _cifar),
    "PneumoniaMNIST": ("pneumoniamnist.npz", _pneumonia),
    "COVID X-rays": ("covid_xray_64.zip", _covid),
}
