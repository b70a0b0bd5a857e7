"""The paper's case: convolutions without a normalization layer at a learning rate of 0.1.

Atici et al. (TMLR 2024) report 11 % for SGD and 75 % for INSGD on CIFAR-10. Here the images are
scikit-learn's digits with their original pixels in [0, 16]. Nothing is tuned.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

import insgd_optax as insgd
from benchmarks.learning_rate.contenders import DEFAULT_RATE, contenders
from benchmarks.learning_rate.training import training
from benchmarks.shared.contender import OURS, Contender
from benchmarks.shared.data import digits

PAPER_RATE = 0.1


class Convolutions(nn.Module):
    """Four 3 x 3 convolutions, a pool after every second one, and a dense layer."""

    @nn.compact
    def __call__(self, images: Array) -> Array:
        hidden = images.reshape(-1, 8, 8, 1)
        for features in (32, 64):
            hidden = nn.relu(nn.Conv(features, (3, 3))(hidden))
            hidden = nn.relu(nn.Conv(features, (3, 3))(hidden))
            hidden = nn.max_pool(hidden, (2, 2), (2, 2))
        return nn.Dense(10)(hidden.reshape(len(hidden), -1))


def paper_case(seeds: int) -> dict[str, Float[np.ndarray, "seeds"]]:
    """Validation accuracy in percent after training at a constant learning rate."""
    data, model, found = digits(16.0), Convolutions(), {}
    for name, (contender, rate) in _rows().items():
        print(f"paper's case: {name} ...", flush=True)
        run = training(model, contender, rate, data)
        start, step, accuracy = map(jax.jit, run)
        found[name] = np.asarray([accuracy(_after(step, *start(seed))) for seed in range(seeds)])
    return found


def _after(step: Callable[..., Any], carry: Any, keys: Array) -> Any:
    # Not jax.lax.scan: on a CPU, convolutions in its loop are many times slower.
    for key in keys:
        carry, _ = step(carry, key)
    return carry


def _rows() -> dict[str, tuple[Contender, float]]:
    known = contenders()
    make = functools.partial(insgd.paper, momentum=0.9)
    paper = Contender("the paper's INSGD", make, PAPER_RATE, insgd.Scalar(2))
    rows = (
        ("SGD", known["SGD"], PAPER_RATE),
        (paper.name, paper, PAPER_RATE),
        ("INSGD Diagonal", known["INSGD Diagonal"], PAPER_RATE),
        (OURS, known[OURS], DEFAULT_RATE),
    )
    return {f"{name} at {rate:g}": (contender, rate) for name, contender, rate in rows}
