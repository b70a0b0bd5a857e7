"""CIFAR-10 as a folder or zip of images, made long-tailed, with a balanced validation split."""

import io
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

NUM_CLASSES = 10
MOST = 5000
VALIDATION_OF_EACH = 300


class Split(NamedTuple):
    """Images in [-1, 1] and their classes."""

    images: Float[np.ndarray, "examples size size 3"]
    labels: Int[np.ndarray, "examples"]


class LongTail(NamedTuple):
    """Long-tailed training images; validation and test hold all classes equally often."""

    train: Split
    validation: Split
    test: Split

    def log_prior(self) -> Float[np.ndarray, "classes"]:
        """The logarithm of each class's frequency in the training split."""
        counts = np.bincount(self.train.labels, minlength=NUM_CLASSES)
        return np.log(counts / counts.sum()).astype(np.float32)


def load(path: pathlib.Path, imbalance: float, size: int) -> LongTail:
    """Reads ``train/CLASS/*`` and ``test/CLASS/*`` from a folder or a zip.

    Class c keeps its first ``5000 * imbalance**(-c/9)`` images. Validation is made of the images
    that this leaves out; of the first class, which it leaves whole, the last ones are taken away.
    """
    files = _files(path)
    train, validation, test = [], [], []
    for label, name in enumerate(sorted({part.split("/")[1] for part in files})):
        every = _named(files, f"train/{name}/")
        kept = int(MOST * imbalance ** (-label / (NUM_CLASSES - 1)))
        kept = min(kept, len(every) - VALIDATION_OF_EACH)
        if kept < 1:
            raise ValueError(
                f"{path} has {len(every)} training images of '{name}'; {VALIDATION_OF_EACH} of "
                "them are for validation, and at least one must be left."
            )
        train += [(every[n], label) for n in range(kept)]
        rest = range(len(every) - VALIDATION_OF_EACH, len(every))
        validation += [(every[n], label) for n in rest]
        test += [(image, label) for image in _named(files, f"test/{name}/")]
    return LongTail(*(_decoded(split, size) for split in (train, validation, test)))


def _files(path: pathlib.Path) -> dict[str, bytes]:
    if path.is_dir():
        found = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
        return {name: file.read_bytes() for name, file in found.items()}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.count("/") == 2]
        return {name: archive.read(name) for name in names if not name.endswith("/")}


def _named(files: dict[str, bytes], start: str) -> list[bytes]:
    return [files[name] for name in sorted(files) if name.startswith(start)]


def _decoded(images: list[tuple[bytes, int]], size: int) -> Split:
    pixels = [
        Image.open(io.BytesIO(raw)).resize((size, size), Image.Resampling.BOX) for raw, _ in images
    ]
    stacked = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in pixels])
    return Split(stacked / 127.5 - 1, np.array([label for _, label in images], np.int32))
