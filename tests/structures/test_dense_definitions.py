"""Every structure equals its definition with dense matrices, for every kind of layer."""

from typing import Any

import jax
import numpy as np
import pytest
import scipy.fft

import insgd_optax as insgd

from .kinds import KINDS, Kind

EPS = 0.05
STRUCTURES = {
    "scalar": insgd.Scalar(),
    "diagonal": insgd.Diagonal(),
    "mean_variance": insgd.MeanVariance(),
    "mean_variances": insgd.MeanVariances(damping=0.2),
    "low_rank": insgd.LowRank(rank=2, damping=0.4, rows=None),
    "full": insgd.Full(damping=0.3, rows=None, refresh_every=1),
}


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_structure = pytest.mark.parametrize("name", STRUCTURES)


def dense_power(name: str, rows: np.ndarray, level: float, exponent: float) -> np.ndarray:
    """A power of what stands for the second moment of some rows (rows, inputs).

    The level is the mean square of the inputs, shrunk to the mean over all groups of the leaf.
    """
    moment, inputs = rows.T @ rows / len(rows), rows.shape[1]
    mean, identity = rows.mean(axis=0), np.eye(inputs)
    outer = np.outer(mean, mean)
    if name == "low_rank":
        matrix = moment / level
        directions, rest = nystrom(matrix, 2)
        damped = (rest + 0.4 * identity) / 1.4
        root, inverse_root = power_of(damped, exponent / 2), power_of(damped, -0.5)
        white = inverse_root @ directions @ inverse_root / 1.4
        return level**exponent * root @ power_of(identity + white, exponent) @ root
    if name == "mean_variances":
        damped = (np.diag(np.diag(moment - outer)) + 0.2 * level * identity) / 1.2
        root, inverse_root = power_of(damped, exponent / 2), power_of(damped, -0.5)
        return (
            root @ power_of(identity + inverse_root @ outer @ inverse_root / 1.2, exponent) @ root
        )
    matrix = {
        "scalar": level * identity,
        "full": moment + 0.3 * level * identity,
        "diagonal": (np.diag(np.diag(moment)) + EPS * level * identity) / (1 + EPS),
        "mean_variance": (np.mean((rows - mean) ** 2) * identity + outer + EPS * level * identity)
        / (1 + EPS),
    }
    return power_of(matrix[name], exponent)


def nystrom(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The low-rank part from a shuffled cosine transform, and the diagonal that it leaves."""
    inputs = len(matrix)
    waves = np.asarray(scipy.fft.dct(np.eye(inputs), norm="ortho", axis=0))[:rank].T
    test = waves[np.random.RandomState(0).permutation(inputs)]
    sketch = matrix @ test
    directions = sketch @ np.linalg.pinv(test.T @ sketch, rcond=1e-10, hermitian=True) @ sketch.T
    return directions, np.diag(np.diag(matrix - directions))


def power_of(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def normalized_by_hand(kind: Kind, name: str, gradient: np.ndarray, exponent: float) -> np.ndarray:
    rows = kind.rows(np.asarray(kind.weight), np.asarray(kind.x))
    levels = np.mean(np.square(rows), axis=(1, 2))
    levels = (levels + EPS * levels.mean()) / (1 + EPS)
    powers = [
        dense_power(name, of_group, level, exponent)
        for of_group, level in zip(rows, levels, strict=True)
    ]
    return kind.merge(np.einsum("gij,gjo->gio", np.stack(powers), kind.split(gradient)))


def _captured(kind: Kind, structure: Any) -> tuple[Any, Any]:
    grad_fn = jax.jit(insgd.value_and_grad(kind.loss, structure=structure))
    _, gradient, input_stats = grad_fn(kind.weight, kind.x)
    return gradient, input_stats


@every_kind
@every_structure
def test_a_structure_is_its_dense_definition(kind, name):
    kind, structure = kind(), STRUCTURES[name]
    gradient, input_stats = _captured(kind, structure)
    for exponent in (-1, -0.5, 0):
        tx = insgd.scale_by_input(structure, eps=EPS, exponent=exponent)
        update, _ = tx.update(gradient, tx.init(kind.weight), input_stats=input_stats)
        expected = normalized_by_hand(kind, name, np.asarray(gradient), exponent)
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(update, expected, rtol=0, atol=1e-10 * scale)
