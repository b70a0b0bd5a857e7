"""Data without a download: scikit-learn's digits, and tokens of skewed frequency."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Digits(NamedTuple):
    """Images of 8 x 8 pixels in [0, largest], one in each row, and their labels."""

    images: Float[Array, "examples 64"]
    labels: Int[Array, "examples"]
    validation_images: Float[Array, "held 64"]
    validation_labels: Int[Array, "held"]


def digits(largest: float) -> Digits:
    """Three fifths for training and one fifth for validation.

    The last fifth is a test set that no code here reads.
    """
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.4, random_state=0, stratify=labels)
    train, held, train_labels, held_labels = map(jnp.asarray, split)
    train, held = (largest * part.astype(jnp.float32) for part in (train, held[::2]))
    return Digits(train, train_labels, held, held_labels[::2])


class Zipf(NamedTuple):
    """Tokens with a frequency proportional to 1 / rank, and their successors.

    Two tokens in three have a fixed successor. The others are followed by a draw by frequency.
    """

    cumulative: Float[Array, "tokens"]
    successor: Int[Array, "tokens"]

    def tokens(self, key: Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
        places = jnp.searchsorted(self.cumulative, jax.random.uniform(key, shape))
        return jnp.minimum(places, len(self.successor) - 1)

    def pairs(self, key: Array, size: int) -> tuple[Int[Array, "size"], Int[Array, "size"]]:
        """Tokens and their next tokens."""
        last, other = self.tokens(key, (2, size))
        return last, jnp.where(last % 3 == 0, other, self.successor[last])


def zipf(tokens: int) -> Zipf:
    frequencies = 1 / (1 + np.arange(tokens))
    cumulative = np.cumsum(frequencies / frequencies.sum()).astype(np.float32)
    successor = np.random.default_rng(0).permutation(tokens)
    return Zipf(jnp.asarray(cumulative), jnp.asarray(successor))


@functools.cache
def texts(tokens: int, number: int, length: int) -> Int[np.ndarray, "number length"]:
    """Half of the tokens are the previous one's successor. A quarter repeat the fourth last."""
    rng, source = np.random.default_rng(1), zipf(tokens)
    cumulative, successor = np.asarray(source.cumulative), np.asarray(source.successor)
    drawn = np.minimum(np.searchsorted(cumulative, rng.random((number, length))), tokens - 1)
    kind = rng.random((number, length))
    for place in range(4, length):
        after_last, repeated = successor[drawn[:, place - 1]], drawn[:, place - 4]
        choices = [kind[:, place] < 0.5, kind[:, place] < 0.75]
        drawn[:, place] = np.select(choices, [after_last, repeated], drawn[:, place])
    return drawn.astype(np.int32)
