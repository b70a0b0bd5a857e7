"""Every structure equals its definition with dense matrices, for every kind of layer."""

from typing import Any

import jax
import numpy as np
import pytest

import insgd_optax as insgd

from .kinds import KINDS, Kind

EPS = 0.05
STRUCTURES = {
    "scalar": insgd.Scalar(),
    "diagonal": insgd.Diagonal(),
    "mean_variance": insgd.MeanVariance(),
    "full": insgd.Full(damping=0.3, rows=None, refresh_every=1),
}


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
every_structure = pytest.mark.parametrize("name", STRUCTURES)


def dense_matrix(name: str, rows: np.ndarray) -> np.ndarray:
    """What a structure puts in the place of the second moment of some rows (rows, inputs)."""
    moment, inputs = rows.T @ rows / len(rows), rows.shape[1]
    mean_square, identity = np.trace(moment) / inputs, np.eye(inputs)
    if name == "scalar":
        return mean_square * identity
    if name == "full":
        return moment + 0.3 * mean_square * identity
    mean = rows.mean(axis=0)
    variance = np.mean((rows - mean) ** 2)
    kept = np.diag(np.diag(moment)) if name == "diagonal" else None
    kept = variance * identity + np.outer(mean, mean) if kept is None else kept
    return (kept + EPS * mean_square * identity) / (1 + EPS)


def power_of(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def normalized_by_hand(kind: Kind, name: str, gradient: np.ndarray, exponent: float) -> np.ndarray:
    rows = kind.rows(np.asarray(kind.weight), np.asarray(kind.x))
    powers = [power_of(dense_matrix(name, of_group), exponent) for of_group in rows]
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
