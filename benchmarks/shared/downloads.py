"""Data sets from their official addresses, verified by checksum."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Address and checksum. The COVID X-rays have no stable address: make that folder by hand.
PNEUMONIA = (
    "https://zenodo.org/records/10519652/files/pneumoniamnist.npz",
    "md5:28209eda62fecd6e6a2d98b1501bb15f",
)
CIFAR = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "md5:c58f30108f718f92721af3b95e74349a",
)
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


def download(folder: Path) -> list[Path]:
    """Puts ``pneumoniamnist.npz`` and ``cifar10.zip`` into a folder. Existing files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    pneumonia = fetched(PNEUMONIA, folder)
    images = folder / "cifar10.zip"
    if not images.exists():
        archive = fetched(CIFAR, folder)
        write_images(archive, images)
    return [pneumonia, images]


def fetched(source: tuple[str, str], folder: Path) -> Path:
    """The path of the file, downloaded if missing. A wrong checksum raises ValueError."""
    import pooch

    address, checksum = source
    name = address.rpartition("/")[2]
    return Path(pooch.retrieve(address, checksum, fname=name, path=folder, progressbar=True))


def write_images(archive: Path, images: Path) -> None:
    """Converts CIFAR-10's archive to a zip of ``train/`` and ``test/CLASS/NNNN.png``."""
    partial = images.with_suffix(".part")
    with tarfile.open(archive) as tar, zipfile.ZipFile(partial, "w") as written:
        for part, batches in BATCHES.items():
            numbers: dict[str, int] = {}
            for name, pixels in _named(tar, batches):
                number = numbers[name] = numbers.get(name, -1) + 1
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                written.writestr(f"{part}/{name}/{number:04}.png", png.getvalue())
    partial.replace(images)


def _named(
    tar: tarfile.TarFile, batches: list[str]
) -> Iterator[tuple[str, UInt8[np.ndarray, "32 32 3"]]]:
    """Each image with its class name, in the archive's order."""
    names = _read(tar, "batches.meta")["label_names"]
    for batch in batches:
        content = _read(tar, batch)
        pixels = np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32)
        for label, image in zip(content["labels"], pixels.transpose(0, 2, 3, 1), strict=True):
            yield names[label], image


def _read(tar: tarfile.TarFile, name: str) -> dict:
    """Reads a pickled dictionary. Some files have bytes as keys, which become text."""
    file = tar.extractfile(f"cifar-10-batches-py/{name}")
    assert file is not None
    content = pickle.load(file, encoding="bytes")
    text = {key.decode(): value for key, value in content.items()}
    if "label_names" in text:
        text["label_names"] = [each.decode() for each in text["label_names"]]
    return text
