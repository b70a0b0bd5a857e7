"""scikit-learn's handwritten digits, split for training and testing, or as a folder of images."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import images


def load() -> tuple[images.Examples, images.Examples]:
    """Three quarters to train on and a quarter to test on. Pixels go from 0 to 1."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    train, test = images.divided(np.arange(len(labels)), labels, 0.75)
    labels = labels.astype(np.int32)
    first, second = (images.Examples(pixels[rows], labels[rows]) for rows in (train, test))
    return first, second


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
