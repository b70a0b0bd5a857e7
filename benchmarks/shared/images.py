"""Augmentation of images. ``examples/images.py`` reads them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def augmented(key: Array, images: Float[Array, "batch size size C"]) -> Array:
    """Shifts every image by up to an eighth of its size and flips half of them."""
    reach = images.shape[1] // 8
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

    def one(key: Array, image: Array) -> Array:
        at, flip = jax.random.split(key)
        start = (*jax.random.randint(at, (2,), 0, 2 * reach + 1), 0)
        image = jax.lax.dynamic_slice(image, start, images.shape[1:])
        return jnp.where(jax.random.bernoulli(flip), image[:, ::-1], image)

    return jax.vmap(one)(jax.random.split(key, len(images)), padded)
