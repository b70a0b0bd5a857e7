"""Images of classes from a folder, a zip or a MedMNIST file, split for training.

What can be read:

    CLASS/IMAGE                  a folder or a zip; three fifths train, a fifth validates and a
                                 fifth tests, each with the classes in the same proportions
    train/CLASS/IMAGE            the same with its own splits, ``test`` and possibly ``val``
    NAME.npz                     MedMNIST's arrays ``train_images``, ``train_labels`` and so on

The benchmarks read their images with this module too.
"""

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
SHARE = 0.6  # of the images of class folders that train
LEAST = 5  # images of a class, so that every split has one


class Examples(NamedTuple):
    """Pixels in [-1, 1], and the number of each image's class."""

    images: Float[np.ndarray, "examples size size C"]
    labels: Int[np.ndarray, "examples"]


class Dataset(NamedTuple):
    """Three splits, and the names of the classes in the order of the labels."""

    train: Examples
    validation: Examples
    test: Examples
    classes: tuple[str, ...]

    @property
    def counts(self) -> Int[np.ndarray, "classes"]:
        """Training images of every class."""
        return np.bincount(self.train.labels, minlength=len(self.classes))


def load(path: Path, size: int, mode: str = "RGB") -> Dataset:
    """Reads any of the layouts above; images are made ``size`` pixels high and wide.

    Raises:
      ValueError: if there is nothing to read, or a class has too few images to split.
    """
    if path.suffix == ".npz":
        return medmnist(path)
    files = image_files(path, depth=2)
    if any(name.startswith("train/") for name in files):
        return _with_own_splits(path, files, size, mode)
    files = image_files(path, depth=1)
    if not files:
        raise ValueError(
            f"{path} holds no images in class folders. Expected CLASS/IMAGE, train/CLASS/IMAGE, "
            f"or a .npz file of MedMNIST; images end in {', '.join(sorted(SUFFIXES))}."
        )
    every, classes = _labelled(files, size, mode)
    counts = np.bincount(every.labels)
    if len(classes) < 2 or counts.min() < LEAST:
        found = ", ".join(f"{name} ({n})" for name, n in zip(classes, counts, strict=True))
        raise ValueError(
            f"{path} needs at least two class folders of {LEAST} images or more; found {found}."
        )
    return Dataset(*split(every, SHARE), classes)


def medmnist(path: Path) -> Dataset:
    """MedMNIST's layout, with its own splits and size of images."""
    with np.load(path) as arrays:
        parts = [
            Examples(scaled(arrays[f"{part}_images"]), arrays[f"{part}_labels"].ravel())
            for part in ("train", "val", "test")
        ]
    classes = tuple(str(label) for label in np.unique(parts[0].labels))
    return Dataset(*(part._replace(labels=part.labels.astype(np.int32)) for part in parts), classes)


def split(every: Examples, share: float) -> tuple[Examples, Examples, Examples]:
    """A share to train on, half of the rest to validate on. Classes keep their proportions."""
    train, rest = divided(np.arange(len(every.labels)), every.labels, share)
    validation, test = divided(rest, every.labels, 0.5)
    train, validation, test = (
        Examples(every.images[rows], every.labels[rows]) for rows in (train, validation, test)
    )
    return train, validation, test


def divided(
    rows: Int[np.ndarray, "rows"], labels: Int[np.ndarray, "examples"], share: float
) -> tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]:
    """These rows in two parts, of which the first is ``share``; always the same parts."""
    first, second = train_test_split(rows, train_size=share, random_state=0, stratify=labels[rows])
    return np.asarray(first), np.asarray(second)


def image_files(path: Path, depth: int) -> dict[str, bytes]:
    """The images of a folder or a zip at this depth, sorted, by their path inside it."""

    def chosen(names: Iterable[str]) -> list[str]:
        at_depth = (name for name in names if name.count("/") == depth)
        return sorted(name for name in at_depth if PurePosixPath(name).suffix.lower() in SUFFIXES)

    if path.is_dir():
        every = (file.relative_to(path).as_posix() for file in path.rglob("*"))
        return {name: (path / name).read_bytes() for name in chosen(every)}
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no folder, no zip and no .npz file.")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in chosen(archive.namelist())}


def decoded(raw: Sequence[bytes], size: int, mode: str) -> Float[np.ndarray, "images size size C"]:
    """Pixels in [-1, 1], in PIL's mode ``"RGB"`` or ``"L"``."""

    def pixels(each: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(each)).convert(mode)
        return np.asarray(image.resize((size, size), Image.Resampling.BOX))

    return scaled(np.stack([pixels(each) for each in raw]))


def scaled(pixels: np.ndarray) -> Float[np.ndarray, "images height width C"]:
    """From 0 to 255 to [-1, 1], with an axis for the colors.

    >>> scaled(np.array([[[0, 255]]], np.uint8)).tolist()
    [[[[-1.0], [1.0]]]]
    """
    return pixels.reshape(*pixels.shape[:3], -1).astype(np.float32) / 127.5 - 1


def write_digits(folder: Path, most: int, fewest: int) -> None:
    """scikit-learn's handwritten digits as a folder of class folders, imbalanced.

    The number of images falls exponentially from ``most`` zeros to ``fewest`` nines.
    """
    images, labels = load_digits(return_X_y=True)
    for label in range(10):
        number = round(most * (fewest / most) ** (label / 9))
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for place, image in enumerate(images[labels == label][:number]):
            pixels = Image.fromarray((image.reshape(8, 8) * 15.9).astype(np.uint8))
            pixels.save(folder / str(label) / f"{place:03}.png")


def _with_own_splits(path: Path, files: dict[str, bytes], size: int, mode: str) -> Dataset:
    def part(name: str) -> tuple[Examples, tuple[str, ...]]:
        start = f"{name}/"
        inside = {file[len(start) :]: raw for file, raw in files.items() if file.startswith(start)}
        return _labelled(inside, size, mode)

    train, classes = part("train")
    test, tested = part("test")
    if classes != tested:
        raise ValueError(f"{path} has the classes {classes} in train and {tested} in test.")
    if any(name.startswith("val/") for name in files):
        validation, _ = part("val")
    else:
        rows = divided(np.arange(len(train.labels)), train.labels, 1 - (1 - SHARE) / 2)
        train, validation = (Examples(train.images[n], train.labels[n]) for n in rows)
    return Dataset(train, validation, test, classes)


def _labelled(files: dict[str, bytes], size: int, mode: str) -> tuple[Examples, tuple[str, ...]]:
    """Images of ``CLASS/IMAGE``, and the names of the classes."""
    names = [file.split("/")[0] for file in files]
    classes = tuple(sorted(set(names)))
    labels = np.array([classes.index(name) for name in names], np.int32)
    return Examples(decoded(list(files.values()), size, mode), labels), classes
