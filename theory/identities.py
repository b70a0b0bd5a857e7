"""The effect of one step on one example: T1, T2, T3, T14 and T21."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import insgd_optax as insgd
from theory.check import Check
from theory.filters import filter_path, filtering_problem, heavy_tailed, nlms, normal

# The identities hold to rounding, even after hundreds of steps on inputs that span decades.
ROUNDING = 1e-10


def t1() -> list[Check]:
    """T1. A step of normalized LMS leaves a share 1 - μ‖x‖² / (ε + ‖x‖²) of the example's error.

    With e = y - x·w the gradient of e²/2 is -e x. So the step is Δw = μ e x / (ε + ‖x‖²) and

        e_post = e - x·Δw = (1 - μ‖x‖² / (ε + ‖x‖²)) e

    For ε = 0 this is (1 - μ) e: at μ = 1 no error is left.

    Source: Sayed, Fundamentals of Adaptive Filtering (2003), ε-normalized LMS.
    """
    inputs, targets, start = filtering_problem(1, 1, 5)
    power = float(jnp.sum(inputs**2))
    checks = []
    for step_size, eps in ((0.5, 0.0), (1.0, 0.0), (1.9, 0.0), (1.0, 0.5 * power), (1.0, power)):
        path = filter_path(insgd.nlms(step_size, eps), inputs, targets, start)
        left = float(path.after[0, 0] / path.before[0, 0])
        predicted = 1 - step_size * power / (eps + power)
        label = f"share left, μ = {step_size:g}, ε = {eps / power:g} ‖x‖²"
        checks.append(Check(label, predicted, left, 1e-12))
    return checks


def t2() -> list[Check]:
    """T2. A step along x keeps energy: ‖w̃_i‖² + e_a²/‖x‖² = ‖w̃_{i-1}‖² + e_p²/‖x‖².

    Let w̃ = w* - w, with e_a = x·w̃ before the step and e_p = x·w̃ after it. A step Δw = c x gives
    e_p = e_a - c‖x‖². So c = (e_a - e_p) / ‖x‖² and

        ‖w̃_i‖² = ‖w̃_{i-1}‖² - 2 c e_a + c²‖x‖² = ‖w̃_{i-1}‖² - (e_a² - e_p²) / ‖x‖²

    This holds for every c. The rule need not be normalized and the target may be noisy.

    Source: energy conservation, Sayed, Fundamentals of Adaptive Filtering (2003).
    """
    inputs, targets, start = filtering_problem(2, 200, 6)
    best = normal(3, 6)  # the weights that made the targets
    targets = targets + normal(4, 200, 1)
    rules: dict[str, tuple[Any, int]] = {
        "NLMS, μ = 0.7": (nlms(0.7), 2),
        "divided by log P": (insgd.paper(0.02, momentum=0.0), 2),
        "divided by ‖x‖₁": (insgd.nlms(0.1, order=1), 1),
        "insgd, Scalar": (
            insgd.insgd(0.1, relative=0.0, structure=insgd.Scalar(), momentum=None),
            2,
        ),
    }
    checks = []
    for name, (tx, order) in rules.items():
        path = filter_path(tx, inputs, targets, start, order=order)
        off = best[None] - path.weights
        errors = jnp.einsum("kbf,kf->k", inputs, off[:-1]), jnp.einsum("kbf,kf->k", inputs, off[1:])
        power, lengths = jnp.sum(inputs**2, axis=(1, 2)), jnp.sum(off**2, axis=1)
        imbalance = lengths[1:] + errors[0] ** 2 / power - lengths[:-1] - errors[1] ** 2 / power
        worst = float(jnp.max(jnp.abs(imbalance) / lengths[:-1]))
        checks.append(Check(f"largest relative imbalance, {name}", 0.0, worst, ROUNDING))
    return checks


@jax.jit
def _lost_and_promised(
    step_size: Array, inputs: Array, targets: Array, best: Array, start: Array
) -> tuple[Array, Array]:
    """The relative decrease of ``‖w̃‖²`` at every step, measured and according to T3."""
    path = filter_path(nlms(step_size), inputs, targets, start)
    lengths = jnp.sum((best[None] - path.weights) ** 2, axis=1)
    power = jnp.sum(inputs[:, 0] ** 2, axis=1)
    promised = step_size * (2 - step_size) * path.before[:, 0] ** 2 / power
    return 1 - lengths[1:] / lengths[:-1], promised / lengths[:-1]


def t3() -> list[Check]:
    """T3. Without noise a step shortens ‖w̃‖² by μ(2 - μ) e² / ‖x‖²: never longer iff 0 ≤ μ ≤ 2.

    Without noise e = e_a, and by T1 e_p = (1 - μ) e_a. Put both into T2:

        ‖w̃_{i-1}‖² - ‖w̃_i‖² = (1 - (1 - μ)²) e² / ‖x‖² = μ(2 - μ) e² / ‖x‖²

    This is negative outside [0, 2], for every input and every error.

    Source: Sayed, Fundamentals of Adaptive Filtering (2003); here it follows from T1 and T2.
    """
    # Few steps, so that the error stays far above rounding at a step size of one.
    inputs, targets, start = filtering_problem(5, 20, 8)
    best, checks, growth = normal(6, 8), [], {}
    for step_size in (0.5, 1.0, 1.9, 2.0, 2.01):
        arguments = jnp.asarray(step_size), inputs, targets, best, start
        lost, promised = _lost_and_promised(*arguments)
        worst = float(jnp.max(jnp.abs(lost - promised)))
        checks.append(
            Check(f"distance from the predicted decrease, μ = {step_size:g}", 0.0, worst, ROUNDING)
        )
        growth[step_size] = 1 - lost
    longest = float(jnp.max(growth[2.0]))
    checks.append(Check("largest growth of ‖w̃‖², μ = 2", 1.0, longest, ROUNDING, "at most"))
    longer = float(jnp.mean(growth[2.01] > 1))
    return [*checks, Check("share of steps that lengthen w̃, μ = 2.01", 1.0, longer)]


def t14() -> list[Check]:
    """T14. Normalized LMS with μ = 1 on a loss with a dead zone is the set-membership filter.

    Where |e| > γ, the loss max(|e| - γ, 0)² / 2 has the gradient -(|e| - γ) sign(e) x. The step is

        Δw = (1 - γ / |e|) e x / ‖x‖² if |e| > γ, and 0 if not

    This is T1 with μ_k = 1 - γ / |e|. It leaves |e_post| = γ or does not move.

    Source: set-membership NLMS, Diniz, Adaptive Filtering; the dead zone is our reading.
    """
    bound = 0.5
    inputs, targets, start = filtering_problem(7, 300, 4)

    def loss(errors: Array) -> Array:
        return jnp.sum(jnp.maximum(jnp.abs(errors) - bound, 0) ** 2) / 2

    path = filter_path(nlms(1.0), inputs, targets + normal(9, 300, 1), start, loss=loss)
    moves = jnp.abs(path.before[:, 0]) > bound
    off = jnp.where(moves, jnp.abs(jnp.abs(path.after[:, 0]) - bound), 0)
    moved = jnp.where(moves, 0, jnp.max(jnp.abs(jnp.diff(path.weights, axis=0)), axis=1))
    steps, still = float(jnp.sum(moves)), float(jnp.sum(~moves))
    return [
        Check("distance of |e_post| from γ, where |e| > γ", 0.0, float(jnp.max(off)), ROUNDING),
        Check("largest change of a weight, where |e| ≤ γ", 0.0, float(jnp.max(moved))),
        Check("steps with |e| > γ", 1.0, steps, 0.0, "at least"),
        Check("steps with |e| ≤ γ", 1.0, still, 0.0, "at least"),
    ]


def t21() -> list[Check]:
    """T21. With μ = 1 the errors' energy is never above that of the noise and of the start.

    The target is x·w* + v. A step at μ = 1 leaves no error (T1): x·w̃_i + v = 0, so e_p = -v. Sum
    T2 over all steps:

        ‖w̃_N‖² + Σ e_a² / ‖x‖² = ‖w̃_0‖² + Σ v² / ‖x‖²

    Drop ‖w̃_N‖²: then Σ e_a² / ‖x‖² is at most the right side, for any noise. Noise that hides the
    error, v = -e_a, stops the filter at its start. It shows that the bound is tight.

    Source: derived here; it is the H∞ bound of normalized LMS.
    """
    inputs, _, start = filtering_problem(10, 500, 4)
    best, power = normal(11, 4), jnp.sum(inputs[:, 0] ** 2, axis=1)
    loud, checks = 5 * heavy_tailed(13, 500, 1), []
    noises = {"heavy-tailed": loud, "hiding": inputs @ (start - best)}
    for name, noise in noises.items():
        path = filter_path(nlms(1.0), inputs, inputs @ best + noise, start)
        errors = jnp.sum((path.before - noise)[:, 0] ** 2 / power)
        left, length = (
            jnp.sum((best - weights) ** 2) for weights in path.weights[jnp.array([-1, 0])]
        )
        given = length + jnp.sum(noise[:, 0] ** 2 / power)
        balance = float((left + errors) / given)
        gain = float(errors / given)
        checks.append(Check(f"left side over right side, {name} noise", 1.0, balance, ROUNDING))
        checks.append(Check(f"gain, {name} noise", 1.0, gain, 0.0, "at most"))
    return [*checks, Check("gain, hiding noise", 0.98, checks[-1].measured, 0.0, "at least")]
