"""CIFAR-10 as a folder or zip of images, made long-tailed, with a balanced validation split."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from benchmarks.shared.images import decoded, image_files

NUM_CLASSES = 10


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


def load(
    path: pathlib.Path, imbalance: float, size: int, most: int = 5000, held: int = 300
) -> LongTail:
    """Reads ``train/CLASS/*`` and ``test/CLASS/*`` from a folder or a zip.

    Class c keeps its first ``most * imbalance**(-c/9)`` images. Validation is made of the last
    ``held`` images of each, which are taken away where too few are left out.
    """
    files = image_files(path, depth=2)
    train, validation, test = [], [], []
    for label, name in enumerate(sorted({part.split("/")[1] for part in files})):
        every = _named(files, f"train/{name}/")
        kept = int(most * imbalance ** (-label / (NUM_CLASSES - 1)))
        kept = min(kept, len(every) - held)
        if kept < 1:
            raise ValueError(
                f"{path} has {len(every)} training images of '{name}'; {held} of "
                "them are for validation, and at least one must be left."
            )
        train += [(every[n], label) for n in range(kept)]
        rest = range(len(every) - held, len(every))
        validation += [(every[n], label) for n in rest]
        test += [(image, label) for image in _named(files, f"test/{name}/")]
    return LongTail(*(_decoded(split, size) for split in (train, validation, test)))


def _named(files: dict[str, bytes], start: str) -> list[bytes]:
    return [files[name] for name in sorted(files) if name.startswith(start)]


def _decoded(images: list[tuple[bytes, int]], size: int) -> Split:
    labels = np.array([label for _, label in images], np.int32)
    return Split(decoded([raw for raw, _ in images], size, "RGB"), labels)
