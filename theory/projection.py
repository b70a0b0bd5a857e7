"""Filters that use more than a scalar power: T12, T13, T15 and T16."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import insgd_optax as insgd
from theory.check import Check
from theory.filters import normal
from theory.spectrum import normalized

ROUNDING = 1e-10


def exact(damping: float = 0.0) -> insgd.Full:
    """`Full` with every row of every batch, solved at every update."""
    return insgd.Full(damping=damping, rows=None, refresh_every=1)


def weights_after(
    tx: Any,
    structure: insgd.Structure,
    inputs: Float[Array, "steps batch features"],
    targets: Float[Array, "steps batch"],
) -> Float[Array, "steps features"]:
    """The weights after every step, starting at zero."""

    def loss_fn(params: Any, x: Array, y: Array) -> Array:
        return jnp.mean((y - (x @ params["w"])[:, 0]) ** 2) / 2

    grad_fn = insgd.value_and_grad(loss_fn, structure=structure)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        _, grads, input_stats = grad_fn(params, *batch)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        moved = {"w": params["w"] + updates["w"]}
        return (moved, state), moved["w"][:, 0]

    params = {"w": jnp.zeros((inputs.shape[2], 1))}
    return jax.lax.scan(step, (params, tx.init(params)), (inputs, targets))[1]


def _one_batch(rows: int, features: int) -> tuple[Array, Array]:
    return normal(70, 1, rows, features), normal(71, 1, rows)


def _affine_projection(step_size: float, damping: float) -> optax.GradientTransformationExtraArgs:
    return insgd.insgd(
        step_size, structure=exact(damping), momentum=None, decay=0.0, guard=False, relative=0.0
    )


def t12() -> list[Check]:
    """T12. Affine projection: with the batch's own second moment, e_post = (1 - μ) e on all rows

    Let X hold the K ≤ d independent rows of a batch. The pseudo-inverse of A = XᵀX / K maps the
    mean gradient -Xᵀe / K to -Xᵀ(XXᵀ)⁻¹e. So the step is Δw = μ Xᵀ(XXᵀ)⁻¹ e and

        e_post = e - X Δw = (1 - μ) e

    `insgd` with `Full(damping=0, rows=None)` and β = 0 is this filter.

    Source: affine projection, Sayed, Fundamentals of Adaptive Filtering (2003).
    """
    checks = []
    for rows, step_size in ((1, 1.0), (3, 0.5), (3, 1.0), (5, 1.9)):
        x, y = _one_batch(rows, 5)
        after = weights_after(_affine_projection(step_size, 0.0), exact(), x, y)[0]
        share = (y[0] - x[0] @ after) / y[0]
        worst = float(share[jnp.argmax(jnp.abs(share - (1 - step_size)))])
        label = f"share of the error left, K = {rows}, μ = {step_size:g}"
        checks.append(Check(label, 1 - step_size, worst, ROUNDING))
    return checks


def t13() -> list[Check]:
    """T13. Dividing by A + λI is affine projection with ε = Kλ, and for one row ε-NLMS with ε = λ

    The identity (XᵀX / K + λI) Xᵀ = Xᵀ (XXᵀ / K + λI) gives

        (XᵀX / K + λI)⁻¹ Xᵀe / K = Xᵀ (XXᵀ + KλI)⁻¹ e

    `Full`'s λ is relative to the mean eigenvalue of A, so it has no unit.

    Source: derived here; A + λI on a layer's input is FOOF (Benzing 2022) and ISAAC (2023).
    """
    checks = []
    for rows in (1, 4, 12):
        x, y = _one_batch(rows, 6)
        step = weights_after(_affine_projection(1.0, 0.2), exact(0.2), x, y)[0]
        x, y = np.asarray(x[0]), np.asarray(y[0])
        absolute = 0.2 * np.sum(x**2) / rows / 6
        projected = x.T @ np.linalg.solve(x @ x.T + rows * absolute * np.eye(rows), y)
        distance = float(np.max(np.abs(step - projected)))
        checks.append(Check(f"distance to affine projection, K = {rows}", 0.0, distance, ROUNDING))
    x, y = _one_batch(1, 6)
    power = float(jnp.sum(x**2))
    full = weights_after(_affine_projection(0.7, 0.6), exact(0.6), x, y)[0]
    nlms = weights_after(insgd.nlms(0.7, eps=0.6 * power / 6), insgd.Scalar(), x, y)[0]
    distance = float(jnp.max(jnp.abs(full - nlms)))
    return [*checks, Check("distance to ε-NLMS, K = 1", 0.0, distance, ROUNDING)]


def recursive_least_squares(
    forgetting: float, damping: float = 0.0
) -> optax.GradientTransformationExtraArgs:
    """`insgd` as RLS. Its history is a mean and RLS's a sum: the learning rate converts them."""

    def rate(count: Any) -> Array:
        return (1 - forgetting) / (1 - forgetting ** (jnp.asarray(count, jnp.float64) + 1))

    return insgd.insgd(
        rate, structure=exact(damping), momentum=None, decay=forgetting, guard=False, relative=0.0
    )


def t15() -> list[Check]:
    """T15. A history of the full second moment is recursive least squares

    RLS keeps Φ_k = Σ_i λ^(k-i) x_i x_iᵀ and steps by Φ_k⁻¹ x_k e. With β = λ, the bias-corrected
    history of `Full` is Φ_k (1 - λ)/(1 - λ^k). So the learning rate (1 - λ)/(1 - λ^k) makes it RLS.
    Without regularization it fits d noise-free samples exactly. With noise of variance s² the
    excess error is about d (1 - λ)/(1 + λ) · s² for λ near 1.

    Source: Sayed, Fundamentals of Adaptive Filtering (2003), recursive least squares.
    """
    best, features = normal(72, 5), 5
    x = normal(73, 12, 1, features)
    path = weights_after(recursive_least_squares(0.9), exact(), x, x @ best)
    off = jnp.max(jnp.abs(path - best[None]), axis=1)
    x, noise = normal(74, 40, 1, features), normal(75, 40, 1)
    filtered = weights_after(recursive_least_squares(0.9), exact(), x, x @ best + noise)[-1]
    age = np.asarray(0.9 ** np.arange(39.0, -1, -1))
    rows, targets = np.asarray(x[:, 0]), np.asarray((x @ best + noise)[:, 0])
    solved = np.linalg.solve((rows.T * age) @ rows, (rows.T * age) @ targets)
    checks = [
        Check("weights off after d - 1 noise-free samples", 0.01, float(off[3]), 0.0, "at least"),
        Check("weights off after d noise-free samples", 0.0, float(off[4]), 1e-9),
        Check(
            "distance to weighted least squares, 40 samples", 0.0,
            float(np.max(np.abs(filtered - solved))), 1e-9,
        ),
    ]  # fmt: skip
    return [*checks, _misadjustment_of_rls()]


def _misadjustment_of_rls() -> Check:
    runs, steps, features, forgetting = 60, 1500, 4, 0.99
    x, noise = normal(76, runs, steps, 1, features), normal(77, runs, steps, 1)
    tx = recursive_least_squares(forgetting)
    path = jax.jit(jax.vmap(lambda x, y: weights_after(tx, exact(), x, y)))(x, noise)
    excess = float(jnp.mean(jnp.sum(path[:, 500:] ** 2, axis=2)))
    predicted = features * (1 - forgetting) / (1 + forgetting)
    # The formula is first-order, 1.3 % too low at λ = 0.99. The runs spread by 3 %.
    return Check("excess error / s², d = 4, λ = 0.99", predicted, excess, 0.08 * predicted)


def t16() -> list[Check]:
    """T16. Transform-domain LMS: after a cosine transform Diagonal takes the correlation out too

    A first-order autoregressive signal of coefficient ρ has R_ij = ρ^|i-j|. For long filters its
    eigenvalues spread by ((1 + ρ)/(1 - ρ))². The cosine transform nearly diagonalizes R. So
    dividing each coefficient by its own power leaves a spread of about 1 + ρ. Without the
    transform all powers are one and Diagonal changes nothing.

    Source: Farhang-Boroujeny, Adaptive Filters; Narayan, Peterson, Narasimha (1983).
    """
    checks = []
    for rho, limit in ((0.5, 1.5), (0.9, 1.9)):
        spread = ((1 + rho) / (1 - rho)) ** 2
        plain, transformed = (
            float(values.max() / values.min()) for _, values in transformed_spectra(rho)
        )
        checks.append(Check(f"spread without transform, ρ = {rho}", spread, plain, 0.02 * spread))
        checks.append(Check(f"spread after the transform, ρ = {rho}", limit, transformed, 0.08))
    return checks


def correlated(rho: float, size: int) -> Float[np.ndarray, "size size"]:
    """Second moment of consecutive samples of a first-order autoregressive signal, unit power."""
    return rho ** np.abs(np.subtract.outer(np.arange(float(size)), np.arange(float(size))))


def transformed_spectra(
    rho: float = 0.9, size: int = 256
) -> list[tuple[str, Float[np.ndarray, " size"]]]:
    """Eigenvalues that `Diagonal` leaves on such a signal and on its cosine transform."""
    root = np.linalg.cholesky(correlated(rho, size))
    mixings = {"Diagonal": np.eye(size), "cosine transform, Diagonal": cosines(size)}
    return [(name, _values_left(mixing @ root)) for name, mixing in mixings.items()]


def cosines(size: int) -> Float[np.ndarray, "size size"]:
    """The orthogonal cosine transform (DCT-II)."""
    place = np.arange(size)
    basis = np.cos(np.pi * np.outer(place, 2 * place + 1) / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis


def _values_left(root: Float[np.ndarray, "size size"]) -> Float[np.ndarray, " size"]:
    """Eigenvalues under `Diagonal`, largest first. The inputs' second moment is root rootᵀ."""
    size = root.shape[0]
    inputs = jnp.asarray(np.sqrt(size) * root.T)  # rows whose mean x xᵀ is exactly root rootᵀ
    divided = np.asarray(normalized(insgd.Diagonal(), inputs, jnp.eye(size), eps=0.0)).T
    return np.sort(np.real(np.linalg.eigvals(divided @ root @ root.T)))[::-1]


def learning_on_a_correlated_signal(
    runs: int = 50, steps: int = 400
) -> dict[str, Float[np.ndarray, " steps"]]:
    """E‖w̃‖² of four filters on the same samples, in batches of one."""
    features, structure = 8, insgd.Diagonal()
    root = jnp.asarray(np.linalg.cholesky(correlated(0.9, features)))
    x, noise = normal(78, runs, steps, 1, features) @ root.T, 0.1 * normal(79, runs, steps, 1)
    turned = x @ jnp.asarray(cosines(features)).T
    rates = {
        "normalized LMS, μ = 0.5": (insgd.nlms(0.5), insgd.Scalar(), x),
        "Diagonal": (_with_history(0.1, structure), structure, x),
        "cosine transform, Diagonal": (_with_history(0.1, structure), structure, turned),
        "recursive least squares, λ = 0.99": (recursive_least_squares(0.99, 0.01), exact(0.01), x),
    }
    best = jnp.ones(features) / np.sqrt(features)
    curves = {}
    for name, (tx, kept, inputs) in rates.items():
        target = best if inputs is x else jnp.asarray(cosines(features)) @ best
        each = jax.jit(jax.vmap(lambda x, y, tx=tx, kept=kept: weights_after(tx, kept, x, y)))
        path = each(inputs, inputs @ target + noise)
        curves[name] = np.asarray(jnp.mean(jnp.sum((path - target) ** 2, axis=2), axis=0))
    return curves


def _with_history(
    learning_rate: float, structure: insgd.Structure
) -> optax.GradientTransformationExtraArgs:
    return insgd.insgd(
        learning_rate, structure=structure, momentum=None, decay=0.99, eps=0.1, relative=0.0
    )
