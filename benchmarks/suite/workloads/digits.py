"""scikit-learn's digits, 8 x 8 pixels: whole, imbalanced, few, and drifting."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from sklearn.datasets import load_digits

from benchmarks.shared import networks
from benchmarks.suite.task import Examples, Splits, Task
from benchmarks.suite.workloads.splits import split

CLASSES = tuple("0123456789")
MOST = 100  # training images of each class at imbalance 1
STREAMED = 8000


def _images(most: list[int] | None = None) -> Splits:
    images, labels = load_digits(return_X_y=True)
    return split(images / 16, labels, 0.6, most)


def imbalanced(imbalance: float) -> Task:
    """Class c keeps ``100 * imbalance**(-c/9)`` training images."""
    kept = [round(MOST * imbalance ** (-label / 9)) for label in range(10)]
    return Task(networks.Perceptron(), _images(kept), CLASSES, batch=32, steps=1000)


def few(number: int) -> Task:
    """Digits with ``number`` training images of each class."""
    model = networks.Perceptron(normalized=True)
    return Task(model, _images([number] * 10), CLASSES, batch=10, steps=500)


def drifting(batch: int) -> Task:
    """One pass over images that darken to a tenth and then brighten again."""
    data, most = _images(), STREAMED // batch
    rows = np.random.default_rng(0).choice(len(data.train.labels), STREAMED)
    data = data._replace(train=Examples(data.train.inputs[rows], data.train.labels[rows]))
    model = networks.Perceptron()

    def order(seed: int, steps: int) -> Int[np.ndarray, "steps batch"]:
        del seed
        if steps > most:
            raise ValueError(
                f"One pass over the {STREAMED} drifting digits in batches of {batch} has {most} "
                f"steps. Choose --steps {most} or fewer for this workload, not {steps}."
            )
        return np.arange(steps * batch).reshape(steps, batch)

    return Task(model, data, CLASSES, batch, most, _darkened, order)


def _darkened(key: Array, batch: Examples, number: Array, steps: int) -> Examples:
    """A run with fewer steps sees the whole drift too, only faster."""
    del key
    brightness = 0.55 + 0.45 * jnp.cos(2 * jnp.pi * number / steps)
    return batch._replace(inputs=batch.inputs * brightness)


WORKLOADS = {
    "digits": lambda: imbalanced(1.0),
    "digits, imbalance 50": lambda: imbalanced(50.0),
    "digits, 5 of each": lambda: few(5),
    "digits, 20 of each": lambda: few(20),
    "drifting digits, batch 1": lambda: drifting(1),
    "drifting digits, batch 8": lambda: drifting(8),
}
