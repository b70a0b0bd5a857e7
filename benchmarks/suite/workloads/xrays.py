"""Chest X-rays: PneumoniaMNIST, and the COVID collection in class folders."""

from pathlib import Path

from benchmarks.shared.image_networks import NormalizedConvNet
from benchmarks.suite.task import Examples, Splits, Task
from examples.images import Dataset, load, medmnist

PNEUMONIA, COVID = "pneumoniamnist.npz", "covid_xray_64.zip"
SIZE = 32  # of images from class folders


def pneumonia(path: Path) -> Task:
    found = medmnist(path)._replace(classes=("normal", "pneumonia"))
    return _task(found, batch=64, steps=400)


def class_folders(path: Path, mode: str = "RGB") -> Task:
    """Images in class folders. They are not shifted or flipped: hearts are on the left."""
    return _task(load(path, SIZE, mode), batch=32, steps=500)


def _task(found: Dataset, batch: int, steps: int) -> Task:
    splits = Splits(*(Examples(*part) for part in found[:3]))
    model = NormalizedConvNet(len(found.classes))
    return Task(model, splits, found.classes, batch, steps, together=False)


WORKLOADS = {
    "PneumoniaMNIST": ((PNEUMONIA,), pneumonia),
    "COVID X-rays": ((COVID,), lambda path: class_folders(path, mode="L")),
}
