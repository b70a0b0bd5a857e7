"""The largest stable step size: T10 and the guard."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import insgd_optax as insgd
from theory.check import Check
from theory.filters import filter_path, nlms, normal, stepper


@jax.jit
def _mode_path(step_size: Array, batch: Array, mode: Array) -> Array:
    inputs = jnp.broadcast_to(batch, (20, *batch.shape))
    return filter_path(nlms(step_size), inputs, jnp.zeros(inputs.shape[:2]), mode).weights


def mode_factor(step_size: float, batch: Float[Array, "rows features"], mode: Array) -> float:
    """The factor by which a step scales an eigenvector of the batch's second moment.

    Returns:
      The mean factor of 20 steps on the same batch, with the sign of the first.
    """
    weights = _mode_path(jnp.asarray(step_size), batch, mode)
    return float(jnp.sign(weights[1] @ mode) * jnp.linalg.norm(weights[-1]) ** (1 / 20))


def t10() -> list[Check]:
    """T10. Full batches are stable iff μ < 2 tr(R) / λ_max(R), which is between 2 and 2d.

    Without noise the gradient is -R w̃, with R the mean of x xᵀ and E‖x‖² = tr R. So

        w̃_i = (I - μ R / tr R) w̃_{i-1}

    and the mode of eigenvalue λ has the factor 1 - μλ / tr R. The strongest mode gives the bound.
    λ_max is at most tr R (one direction only) and at least tr R / d (white inputs). The slowest
    mode contracts by 1 - μ λ_min / tr R.

    Source: derived here.
    """
    batches = {
        "correlated": normal(50, 64, 8) @ normal(51, 8, 8),
        "one direction": normal(52, 64, 1) * normal(53, 1, 8),
        "white": 8**0.5 * jnp.eye(8),
    }
    checks = []
    for name, batch in batches.items():
        values, vectors = np.linalg.eigh(np.asarray(batch.T @ batch) / len(batch))
        bound, strongest = 2 * values.sum() / values[-1], jnp.asarray(vectors[:, -1])
        measured = 1 / (1 - mode_factor(0.5, batch, strongest))
        checks.append(Check(f"bound of μ, {name}", float(bound), measured, 1e-6))
        below, above = (abs(mode_factor(c * bound, batch, strongest)) for c in (0.99, 1.01))
        checks.append(Check(f"factor at 0.99 of the bound, {name}", 0.98, below, 1e-6))
        checks.append(Check(f"factor at 1.01 of the bound, {name}", 1.02, above, 1e-6))
        if name != "one direction":
            slowest = mode_factor(1.5, batch, jnp.asarray(vectors[:, 0]))
            predicted = float(1 - 1.5 * values[0] / values.sum())
            checks.append(Check(f"slowest mode, μ = 1.5, {name}", predicted, slowest, 1e-6))
    return checks


@functools.partial(jax.jit, static_argnames="guard")
def _growths(inputs: Array, start: Array, guard: bool) -> Array:
    """The growth of ``‖w̃‖²`` at every step. After each step w̃ is rescaled to length one."""
    features = inputs.shape[-1]
    tx = insgd.insgd(
        1.9 / features,
        structure=insgd.Scalar(),
        momentum=None,
        decay=0.99,
        guard=guard,
        relative=0.0,
    )
    step = stepper(tx)

    def grown(carry: tuple[Array, Any], batch: Array) -> tuple[Any, Array]:
        error, state = carry
        moved, state = step(error, state, batch, jnp.zeros(batch.shape[0]))
        growth = jnp.sum(moved**2)
        return (moved / jnp.sqrt(growth), state), growth

    start = start / jnp.linalg.norm(start)
    return jax.lax.scan(grown, (start, tx.init({"w": start})), inputs)[1]


@functools.cache
def worst_growth() -> dict[tuple[int, bool], float]:
    """The largest growth of ``‖w̃‖²`` in 4000 steps, by batch size and guard. The seed is 0."""
    rng, worst = np.random.default_rng(0), {}
    for batch in (1, 4):
        for guard in (False, True):
            start = jnp.asarray(rng.normal(size=4))
            inputs = jnp.asarray(rng.standard_t(3, size=(4000, batch, 4)))
            worst[batch, guard] = float(jnp.max(_growths(inputs, start, guard)))
    return worst


def guard() -> list[Check]:
    """The guard. Divided by the larger of history and batch power, no step is ever expansive.

    T8's bound needs a fourth moment. Heavy tails (Student's t with three degrees of freedom) have
    none: now and then an input is much larger than its history. Let P be this batch's own power.
    Divided by max(P_k, P), a step without noise is

        w̃ → (I - μ A / max(P_k, P)) w̃, λ_max(A) ≤ tr A = P

    So every factor is between 1 - μ and 1. For 0 ≤ μ ≤ 2 the step is not expansive, as in T3. The
    table uses d = 4, μ = 1.9, β = 0.99 and 4000 steps without noise.

    Source: derived here.
    """
    checks = []
    for (batch, guarded), worst in worst_growth().items():
        name = f"worst growth of ‖w̃‖², b = {batch}, {'with' if guarded else 'without'} guard"
        predicted, kind = (1.0, "at most") if guarded else (100.0, "at least")
        checks.append(Check(name, predicted, worst, 1e-9 if guarded else 0.0, kind))
    return checks
