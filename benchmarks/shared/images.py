"""Images from folders and archives, and what training does to them."""

import io
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def image_files(path: Path, depth: int) -> dict[str, bytes]:
    """The images of a folder or a zip at this depth, sorted, by their path inside it."""

    def chosen(names: Iterable[str]) -> list[str]:
        at_depth = (name for name in names if name.count("/") == depth)
        return sorted(name for name in at_depth if PurePosixPath(name).suffix.lower() in SUFFIXES)

    if path.is_dir():
        every = (file.relative_to(path).as_posix() for file in path.rglob("*"))
        return {name: (path / name).read_bytes() for name in chosen(every)}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in chosen(archive.namelist())}


def decoded(raw: Sequence[bytes], size: int, mode: str) -> Float[np.ndarray, "images size size C"]:
    """Pixels in [-1, 1], in PIL's mode ``"RGB"`` or ``"L"``."""

    def pixels(each: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(each)).convert(mode)
        return np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32)

    stacked = np.stack([pixels(each) for each in raw])
    return stacked.reshape(*stacked.shape[:3], -1) / 127.5 - 1


def augmented(key: Array, images: Float[Array, "batch size size C"]) -> Array:
    """Every image shifted by up to an eighth of its size, and flipped half of the time."""
    reach = images.shape[1] // 8
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

    def one(key: Array, image: Array) -> Array:
        at, flip = jax.random.split(key)
        start = (*jax.random.randint(at, (2,), 0, 2 * reach + 1), 0)
        image = jax.lax.dynamic_slice(image, start, images.shape[1:])
        return jnp.where(jax.random.bernoulli(flip), image[:, ::-1], image)

    return jax.vmap(one)(jax.random.split(key, len(images)), padded)
