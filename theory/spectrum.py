"""How each structure changes the eigenvalues that set a layer's learning speed."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import insgd_optax as insgd
from theory.check import Check
from theory.filters import normal

# Six features made of three latent numbers, in units that differ by up to a factor of 30.
SCALES = (1.0, 3.0, 0.2, 1.0, 6.0, 0.5)
STRUCTURES: dict[str, insgd.Structure | None] = {
    "plain gradient": None,
    "Scalar": insgd.Scalar(),
    "Diagonal": insgd.Diagonal(),
    "MeanVariance": insgd.MeanVariance(),
    "Full": insgd.Full(damping=0.01, rows=None, refresh_every=1),
}


class Spectrum(NamedTuple):
    """Spectrum of the matrix that maps w̃ to the normalized gradient.

    Attributes:
      values: the eigenvalues, largest first.
      curve: the length of the slowest mode before every step at the rate ``1 / values[0]``.
    """

    values: Float[np.ndarray, " features"]
    curve: Float[np.ndarray, " steps"]

    @property
    def spread(self) -> float:
        return float(self.values[0] / self.values[-1])


def features() -> Float[Array, "rows features"]:
    mixed = normal(60, 2000, 3) @ normal(61, 3, 6) + 0.7 * normal(62, 2000, 6)
    return (mixed + 2) * jnp.asarray(SCALES)[None]


def half_mean_square(params: Any, inputs: Array) -> Array:
    return jnp.mean(inputs @ params["w"] * (inputs @ params["w"])) / 2


def normalized(
    structure: insgd.Structure | None, inputs: Array, gradients: Array, eps: float = 0.01
) -> Array:
    """Normalizes gradients, one per row, on a batch with these inputs."""
    params = {"w": jnp.zeros((inputs.shape[1], 1))}
    kept = structure or insgd.Scalar()
    _, _, input_stats = insgd.value_and_grad(half_mean_square, structure=kept)(params, inputs)
    plain = optax.with_extra_args_support(optax.identity())
    tx: Any = insgd.scale_by_input(structure, eps=eps) if structure else plain

    def of_one(gradient: Array) -> Array:
        whole = {"w": gradient[:, None]}
        updates, _ = tx.update(whole, tx.init(params), params, input_stats=input_stats)
        return updates["w"][:, 0]

    return jax.vmap(of_one)(gradients)


@functools.cache
def spectrum(structure: insgd.Structure | None, steps: int = 60) -> Spectrum:
    """Finds the matrix by normalizing every unit vector as a gradient."""
    inputs = features()
    divided = np.asarray(normalized(structure, inputs, jnp.eye(inputs.shape[1]))).T
    second_moment = np.asarray(inputs.T @ inputs / inputs.shape[0])
    found = np.linalg.eig(divided @ second_moment)
    order = np.argsort(-np.real(found.eigenvalues))
    values, vectors = np.real(found.eigenvalues)[order], np.real(found.eigenvectors)[:, order]
    error, curve = jnp.asarray(vectors[:, -1]), []
    gradient = jax.jit(lambda w: normalized(structure, inputs, _gradient(inputs, w)[None])[0])
    for _ in range(steps):
        curve.append(float(jnp.linalg.norm(error)))
        error = error - gradient(error) / float(values[0])
    return Spectrum(values, np.asarray(curve))


def _gradient(inputs: Array, weights: Array) -> Array:
    return jax.grad(half_mean_square)({"w": weights[:, None]}, inputs)["w"][:, 0]


def slowest_mode(found: Spectrum) -> Float[np.ndarray, " steps"]:
    """The curve that the eigenvalues predict."""
    return (1 - 1 / found.spread) ** np.arange(len(found.curve))


def structures() -> list[Check]:
    """The structures. The more of the second moment one keeps, the less spread the modes have.

    A step is w̃ → (I - η M⁻¹ R) w̃. R is the second moment of the input and M the structure's
    approximation of it. At the best safe rate η = 1 / λ_max(M⁻¹ R) the slowest mode has the factor

        1 - λ_min / λ_max of M⁻¹ R

    Scalar's M is the identity times tr R / n. It makes the rate independent of the layer's unit
    but changes no ratio of eigenvalues. Features of different units stay as far apart as they
    were. MeanVariance takes out the direction of the mean input. Diagonal gives every feature the
    same unit and leaves their correlation. Full leaves only the effect of its damping, here 0.01.
    Diagonal and MeanVariance pull the powers towards their mean by ε = 0.01.

    Source: derived here.
    """
    inputs = np.asarray(features())
    second_moment = inputs.T @ inputs / len(inputs)
    checks = []
    for name, structure in STRUCTURES.items():
        found, replaced = spectrum(structure), _replaced(name, inputs, second_moment)
        values = np.real(np.linalg.eigvals(np.linalg.solve(replaced, second_moment)))
        predicted = float(values.max() / values.min())
        checks.append(Check(f"spread, {name}", predicted, found.spread, 1e-8 * predicted))
        label = f"slowest mode after {len(found.curve) - 1} steps, {name}"
        checks.append(Check(label, float(slowest_mode(found)[-1]), found.curve[-1], 1e-9))
    return checks


def _replaced(
    name: str,
    inputs: Float[np.ndarray, "rows features"],
    second_moment: Float[np.ndarray, "features features"],
) -> Float[np.ndarray, "features features"]:
    """The structure's approximation of the second moment, up to a factor."""
    identity, mean = np.eye(len(second_moment)), inputs.mean(axis=0)
    damping = 0.01 * np.trace(second_moment) / len(second_moment) * identity
    return {
        "plain gradient": identity,
        "Scalar": identity,
        "Diagonal": np.diag(np.diag(second_moment)) + damping,
        "MeanVariance": np.mean((inputs - mean) ** 2) * identity + np.outer(mean, mean) + damping,
        "Full": second_moment + damping,
    }[name]
