"""Images of classes from a folder, a zip or a MedMNIST file, split for training.

What can be read:

    CLASS/IMAGE                  a folder or a zip; three fifths train, a fifth validates and a
                                 fifth tests, each with the classes in the same proportions
    train/CLASS/IMAGE            the same with its own splits, ``test`` and possibly ``val``
    NAME.npz                     MedMNIST's arrays ``train_images``, ``train_labels`` and so on

One more folder around all of it does not matter. Images become squares, and those of more than
eight bits are stretched from their darkest to their brightest pixel.

The benchmarks read their images with this module too.
"""

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from sklearn.model_selection import train_test_split
from tqdm import tqdm

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
# A split, and how its folder may be called.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SHARE = 0.6  # of the images of class folders that train
LEAST = 5  # images of a class, so that every split has one


class ImagesError(ValueError):
    """There are no images, or none that can be trained on; the text says why, for users."""


class Examples(NamedTuple):
    """Pixels, in [-1, 1] where this module reads them, and the number of each image's class."""

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
    """Reads any of the layouts above.

    Args:
      path: a folder, a zip or an ``.npz`` file, whose images keep their size and colors.
      size: images are made so many pixels high and wide.
      mode: PIL's ``"RGB"``, or ``"L"`` for gray.

    Raises:
      ImagesError: if there is nothing to read, a file is no image, or a class has too few images.
    """
    if path.suffix == ".npz":
        return medmnist(path)
    with opened(path) as source:
        source = source.without_outer_folders()
        read = _with_own_splits if source.split("train").names else _class_folders
        return read(source, size, mode)


def medmnist(path: Path) -> Dataset:
    """MedMNIST's layout, with its own splits and size of images.

    Raises:
      ImagesError: if it is another file, or an image has several labels.
    """
    if not zipfile.is_zipfile(path):
        raise ImagesError(f"{path} is no .npz file." if path.exists() else f"There is no {path}.")
    with np.load(path) as arrays:
        try:
            read = [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in SPLITS]
        except KeyError as error:
            raise ImagesError(f"{path} is no file of MedMNIST: {error.args[0]}.") from None
    if any(labels.size != len(images) for images, labels in read):
        raise ImagesError(f"{path} does not have one label for each image.")
    classes = tuple(str(label) for label in np.unique(read[0][1]))
    train, validation, test = (
        Examples(scaled(images), labels.ravel().astype(np.int32)) for images, labels in read
    )
    return Dataset(train, validation, test, classes)


def batches(data: Examples, size: int, steps: int, seed: int) -> Iterator[Examples]:
    """A batch for each step, from shuffled passes over the data. The seed decides the order."""
    rng, rows = np.random.default_rng(seed), np.empty(0, int)
    for _ in range(steps):
        while len(rows) < size:
            rows = np.concatenate([rows, rng.permutation(len(data.labels))])
        chosen, rows = rows[:size], rows[size:]
        yield Examples(data.images[chosen], data.labels[chosen])


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


@dataclass(frozen=True)
class Source:
    """The images of a folder or a zip, or of a folder in it.

    Attributes:
      path: of the folder or the zip.
      names: the images' paths inside of the folder, sorted.
      read: from a path inside of the source to a file's content.
      folder: the folder in it, such as ``"train/"``.
    """

    path: Path
    names: list[str]
    read: Callable[[str], bytes]
    folder: str = ""

    def at_depth(self, depth: int) -> list[str]:
        return [name for name in self.names if name.count("/") == depth]

    def inside(self, folder: str) -> "Source":
        names = [name.removeprefix(folder) for name in self.names if name.startswith(folder)]
        return replace(self, names=names, folder=self.folder + folder)

    def without_outer_folders(self) -> "Source":
        """The first folder in it that holds more than one, is a split, or has images itself."""
        first = {name.partition("/")[0] for name in self.names}
        is_split = any(name.lower() in names for name in first for names in SPLITS.values())
        if len(first) != 1 or is_split or not any(name.count("/") > 1 for name in self.names):
            return self
        return self.inside(f"{first.pop()}/").without_outer_folders()

    def split(self, name: str) -> "Source":
        """That of ``train``, ``val`` or ``test``; without images if there is none."""
        folders = {each.partition("/")[0] for each in self.at_depth(2)}
        found = sorted(folder for folder in folders if folder.lower() in SPLITS[name])
        return self.inside(f"{found[0]}/") if found else replace(self, names=[])

    def pixels(
        self, names: Sequence[str], size: int, mode: str
    ) -> Float[np.ndarray, "images size size C"]:
        """Decodes one image after the other: of large ones the raw files may not fit into memory.

        Raises:
          ImagesError: if a file is no image.
        """
        every = []
        for name in tqdm(names, "reading images", disable=None, leave=False):
            try:
                every.append(pixels(self.read(self.folder + name), size, mode))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                file = f"{self.path}/{self.folder}{name}"
                reason = "" if isinstance(error, Image.UnidentifiedImageError) else f": {error}"
                raise ImagesError(f"{file} cannot be read as an image{reason}.") from error
        return scaled(np.stack(every))


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """The images of a folder or a zip.

    Raises:
      ImagesError: if it is neither.
    """
    if path.is_dir():
        files = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        yield Source(path, _images_of(files), lambda name: (path / name).read_bytes())
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield Source(path, _images_of(archive.namelist()), archive.read)
    elif path.exists():
        raise ImagesError(f"{path} is no folder, no zip and no .npz file.")
    else:
        raise ImagesError(f"There is no {path}.")


def pixels(raw: bytes, size: int, mode: str) -> UInt8[np.ndarray, "size size *C"]:
    """Pixels of one image from 0 to 255, as a square."""
    image = Image.open(io.BytesIO(raw))
    if image.mode.startswith(("I", "F")):  # PIL would make everything above 255 white
        values = np.asarray(image, np.float32)
        values = (values - values.min()) / (np.ptp(values) or 1)
        image = Image.fromarray((255 * values).astype(np.uint8))
    return np.asarray(image.convert(mode).resize((size, size), Image.Resampling.BOX))


def scaled(pixels: np.ndarray) -> Float[np.ndarray, "images height width C"]:
    """From 0 to 255 to [-1, 1], with an axis for the colors.

    >>> scaled(np.array([[[0, 255]]], np.uint8)).tolist()
    [[[[-1.0], [1.0]]]]
    """
    return pixels.reshape(*pixels.shape[:3], -1).astype(np.float32) / 127.5 - 1


def _images_of(files: Iterable[str]) -> list[str]:
    """Files with an image's ending, sorted, without hidden ones, as a Mac's zip has them.

    >>> _images_of(["b/2.png", "a/1.JPG", "a/notes.txt", "__MACOSX/a/._1.JPG"])
    ['a/1.JPG', 'b/2.png']
    """

    def is_image(file: str) -> bool:
        hidden = any(part.startswith((".", "__MACOSX")) for part in file.split("/"))
        is_folder = file.endswith("/")
        return PurePosixPath(file).suffix.lower() in SUFFIXES and not hidden and not is_folder

    return sorted(filter(is_image, files))


def _class_folders(source: Source, size: int, mode: str) -> Dataset:
    classes = _classes(source)
    if not classes:
        raise ImagesError(
            f"{source.path} holds no images in class folders. Pass the folder above the classes. "
            "Expected CLASS/IMAGE, "
            "train/CLASS/IMAGE, or a .npz file of MedMNIST; images end in "
            f"{', '.join(sorted(SUFFIXES))}."
        )
    counts = [len(source.inside(f"{name}/").at_depth(0)) for name in classes]
    if len(classes) < 2 or min(counts) < LEAST:
        found = ", ".join(f"{name} ({n})" for name, n in zip(classes, counts, strict=True))
        raise ImagesError(
            f"{source.path} needs at least two class folders of {LEAST} images or more; "
            f"found {found}."
        )
    return Dataset(*split(_labelled(source, size, mode), SHARE), classes)


def _with_own_splits(source: Source, size: int, mode: str) -> Dataset:
    parts = {name: part for name in SPLITS if (part := source.split(name)).names}
    classes = _classes(parts["train"])
    if len(classes) < 2 or "test" not in parts:
        raise ImagesError(f"{source.path} needs the folders train and test with two classes each.")
    for name, part in parts.items():
        if _classes(part) != classes:
            raise ImagesError(
                f"{source.path} has the classes {classes} in train and {_classes(part)} in {name}."
            )
    read = {name: _labelled(part, size, mode) for name, part in parts.items()}
    train, validation = read["train"], read.get("val")
    if validation is None:
        rows = divided(np.arange(len(train.labels)), train.labels, 1 - (1 - SHARE) / 2)
        train, validation = (Examples(train.images[n], train.labels[n]) for n in rows)
    return Dataset(train, validation, read["test"], classes)


def _classes(source: Source) -> tuple[str, ...]:
    """The folders of ``CLASS/IMAGE``."""
    return tuple(sorted({name.split("/")[0] for name in source.at_depth(1)}))


def _labelled(source: Source, size: int, mode: str) -> Examples:
    names, classes = source.at_depth(1), _classes(source)
    labels = np.array([classes.index(name.split("/")[0]) for name in names], np.int32)
    return Examples(source.pixels(names, size, mode), labels)
