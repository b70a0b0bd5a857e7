"""scikit-learn's handwritten digits, split for training and testing, and batches of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import images


class Examples(NamedTuple):
    """Pixels in [0, 1], and which digit each image shows."""

    images: Float[np.ndarray, "examples 8 8 1"]
    labels: Int[np.ndarray, "examples"]


def load() -> tuple[Examples, Examples]:
    """Three quarters to train on and a quarter to test on, all digits about equally often."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    rows = np.arange(len(labels))
    train, test = train_test_split(rows, test_size=0.25, stratify=labels, random_state=0)
    labels = labels.astype(np.int32)
    return Examples(pixels[train], labels[train]), Examples(pixels[test], labels[test])


def batches(data: Examples, size: int, steps: int, seed: int) -> Iterator[Examples]:
    """A batch for each step, from shuffled passes over the data. The seed decides the order."""
    rng, rows = np.random.default_rng(seed), np.empty(0, int)
    for _ in range(steps):
        if len(rows) < size:
            rows = np.concatenate([rows, rng.permutation(len(data.labels))])
        chosen, rows = rows[:size], rows[size:]
        yield Examples(data.images[chosen], data.labels[chosen])


def as_dataset() -> images.Dataset:
    """scikit-learn's handwritten digits of 8 x 8 pixels, about 108 of each to train on."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels.reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    every = images.Examples(pixels, labels.astype(np.int32))
    return images.Dataset(*images.split(every, images.SHARE), tuple(map(str, range(10))))


def write_folders(folder: Path, most: int, fewest: int) -> None:
    """scikit-learn's handwritten digits as a folder with splits, of which ``train`` is imbalanced.

    There the number of images falls exponentially from ``most`` zeros to ``fewest`` nines.
    """
    for name, examples in zip(images.SPLITS, as_dataset()[:3], strict=True):
        for label in range(10):
            pixels = examples.images[examples.labels == label]
            if name == "train":
                pixels = pixels[: round(most * (fewest / most) ** (label / 9))]
            inside = folder / name / str(label)
            inside.mkdir(parents=True, exist_ok=True)
            for place, image in enumerate((pixels[..., 0] + 1) * 127.5):
                Image.fromarray(image.astype(np.uint8)).save(inside / f"{place:03}.png")
