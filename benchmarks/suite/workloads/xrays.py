"""Chest X-rays: PneumoniaMNIST, and the COVID collection as class folders."""

from pathlib import Path

import numpy as np

from benchmarks.shared.image_networks import NormalizedConvNet
from benchmarks.shared.images import decoded, image_files
from benchmarks.suite.task import Examples, Splits, Task
from benchmarks.suite.workloads.splits import split

PNEUMONIA, COVID = "pneumoniamnist.npz", "covid_xray_64.zip"
SIZE = 32  # of images from class folders


def pneumonia(path: Path) -> Task:
    """MedMNIST's layout: ``train_images``, ``train_labels``, and the same for val and test."""
    with np.load(path) as arrays:
        splits = Splits(
            *(
                Examples(
                    arrays[f"{part}_images"][..., None].astype(np.float32) / 127.5 - 1,
                    arrays[f"{part}_labels"].ravel().astype(np.int32),
                )
                for part in ("train", "val", "test")
            )
        )
    model = NormalizedConvNet(2)
    return Task(model, splits, ("normal", "pneumonia"), 64, 400, together=False)


def class_folders(path: Path, mode: str = "L", batch: int = 32, steps: int = 500) -> Task:
    """``CLASS/*`` in a folder or zip: three fifths train, a fifth validates, a fifth tests.

    Images are not shifted or flipped: hearts are on the left.
    """
    files = image_files(path, depth=1)
    if not files:
        raise ValueError(f"{path} holds no images in class folders: CLASS/IMAGE.")
    names = [file.split("/")[0] for file in files]
    classes = tuple(sorted(set(names)))
    labels = np.array([classes.index(name) for name in names])
    splits = split(decoded(list(files.values()), SIZE, mode), labels, 0.6)
    return Task(NormalizedConvNet(len(classes)), splits, classes, batch, steps, together=False)


WORKLOADS = {"PneumoniaMNIST": (PNEUMONIA, pneumonia), "COVID X-rays": (COVID, class_folders)}
