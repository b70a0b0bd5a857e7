"""Averages over random inputs: T4, T5, T7, T8 and T9."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from theory.check import Check
from theory.filters import nlms, normal, running_power, squared_errors

# In all of them x is Gaussian with independent entries of variance s_x². So the direction of w̃
# does not matter, and the mean of ‖w̃_i‖² / ‖w̃_{i-1}‖² is the same at every step. Averaging this
# ratio over runs and steps has no bias and a small standard error. The mean at the end of long
# runs would depend on the few worst of them.


def contraction(
    make: Any, step_size: float, shape: tuple[int, int], runs: int, mean_square: float | None
) -> tuple[float, float]:
    """The mean one-step growth of ``‖w̃‖²`` without noise, and its standard error.

    Args:
      make, mean_square: as in `squared_errors`.
      step_size: μ.
      shape: batch size and number of features.
      runs: the number of runs, of 200 steps each.
    """
    inputs = normal(40, runs, 200, *shape) * (mean_square or 1.0) ** 0.5
    lengths = squared_errors(
        make, jnp.asarray(step_size), inputs, jnp.zeros(inputs.shape[:3]), mean_square
    )
    ratios = np.asarray(lengths[:, 1:] / lengths[:, :-1])
    return float(ratios.mean()), float(ratios.std() / ratios.size**0.5)


def misadjustment(
    make: Any,
    step_size: float,
    shape: tuple[int, int],
    mean_square: float | None = None,
    warm_up: int = 600,
    runs: int = 200,
) -> tuple[float, float]:
    """The steady-state excess error E(x·w̃)² / s², and its standard error over the runs.

    ``w̃`` does not depend on the next input, so E(x·w̃)² = s_x² E‖w̃‖². The right side has less
    spread.
    """
    scale = mean_square or 1.0
    inputs = normal(41, runs, warm_up + 1000, *shape) * scale**0.5
    noise = normal(42, *inputs.shape[:3])
    lengths = squared_errors(make, jnp.asarray(step_size), inputs, noise, mean_square)
    per_run = scale * np.asarray(lengths[:, warm_up:]).mean(axis=1)
    return float(per_run.mean()), float(per_run.std() / runs**0.5)


def nlms_contraction(step_size: Any, features: int) -> Any:
    return 1 - step_size * (2 - step_size) / features


def nlms_misadjustment(step_size: Any, features: int) -> Any:
    return step_size / (2 - step_size) * features / (features - 2)


def power_contraction(step_size: Any, features: int, batch: int) -> Any:
    spread = step_size**2 * (batch + features + 1) / (batch * features**2)
    return 1 - 2 * step_size / features + spread


def power_bound(features: int, batch: int) -> float:
    return 2 * features * batch / (batch + features + 1)


def power_misadjustment(step_size: Any, features: int, batch: int) -> Any:
    lost = 1 - power_contraction(step_size, features, batch)
    return step_size**2 / (batch * features) / lost


def t4() -> list[Check]:
    """T4. On Gaussian inputs of equal power a step of NLMS contracts E‖w̃‖² by 1 - μ(2 - μ) / d.

    Take the mean of T3. The entries of x are independent Gaussians of equal variance. So its
    direction x / ‖x‖ is uniform on the sphere and does not depend on w̃. Every direction has the
    same share: E (x·w̃)² / ‖x‖² = ‖w̃‖² / d.

    Source: derived here from T3.
    """
    checks = []
    for features, step_size in ((4, 1.0), (8, 0.25), (8, 1.0), (8, 1.8)):
        measured, _ = contraction(nlms, step_size, (1, features), 400, None)
        predicted = nlms_contraction(step_size, features)
        # 80,000 steps: standard errors up to 0.0009.
        label = f"contraction, d = {features}, μ = {step_size:g}"
        checks.append(Check(label, predicted, measured, 0.003))
    inputs = normal(43, 4000, 40, 1, 8)
    lengths = squared_errors(nlms, jnp.asarray(0.5), inputs, jnp.zeros((4000, 40, 1)))
    predicted = nlms_contraction(0.5, 8) ** 40
    measured = float(jnp.mean(lengths[:, -1]))
    # 4000 runs: a standard error of 0.0003.
    return [*checks, Check("E‖w̃‖² after 40 steps, d = 8, μ = 0.5", predicted, measured, 0.001)]


def t5() -> list[Check]:
    """T5. The noise keeps NLMS off by an excess error of μ/(2 - μ) · d/(d - 2) noise variances.

    Noise of variance s² adds μ² v² / ‖x‖² to T3. The mixed term has mean zero, so

        E‖w̃_i‖² = (1 - μ(2 - μ)/d) E‖w̃_{i-1}‖² + μ² s² E 1/‖x‖²

    For a Gaussian x and d > 2, E 1/‖x‖² = 1 / ((d - 2) s_x²). In the steady state
    s_x² E‖w̃‖² = μ/(2 - μ) · d/(d - 2) · s². For large d this is the textbooks' μ/(2 - μ).

    Source: derived here; the limit is in Sayed, Fundamentals of Adaptive Filtering (2003).
    """
    checks = []
    for features, step_size in ((8, 0.25), (8, 1.0), (32, 0.5), (32, 1.0)):
        measured, _ = misadjustment(nlms, step_size, (1, features))
        # Standard errors up to 0.7 %.
        predicted = nlms_misadjustment(step_size, features)
        label = f"excess error / s², d = {features}, μ = {step_size:g}"
        checks.append(Check(label, predicted, measured, 0.03 * predicted))
    return checks


def t7() -> list[Check]:
    """T7. Divided by E‖x‖² itself, E‖w̃‖² changes by 1 - 2μ/d + μ²(b + d + 1) / (b d²) a step.

    Let x be Gaussian with independent entries of variance s_x², so P = E‖x‖² = d s_x². Let A be the
    mean of x xᵀ over the b examples of a batch. Without noise w̃ → (I - (μ/P) A) w̃, so

        E‖w̃_i‖² = ‖w̃‖² - 2(μ/P) w̃ᵀ E[A] w̃ + (μ/P)² w̃ᵀ E[A²] w̃

    E A = s_x² I. E A² has b equal terms E ‖x‖² x xᵀ = (d + 2) s_x⁴ I and b(b - 1) terms s_x⁴ I,
    all divided by b². Their sum is (b + d + 1)/b · s_x⁴ I.

    Source: derived here.
    """
    checks = []
    for features, batch, step_size in ((8, 1, 1.0), (8, 4, 1.0), (8, 4, 3.0), (32, 16, 10.0)):
        # At least 20,000 steps: standard errors up to 0.0008.
        runs = 100 if features == 32 else 400
        measured, _ = contraction(running_power, step_size, (batch, features), runs, 4.0)
        predicted = power_contraction(step_size, features, batch)
        label = f"contraction, d = {features}, b = {batch}, μ = {step_size:g}"
        checks.append(Check(label, predicted, measured, 0.003))
    return checks


def t8() -> list[Check]:
    """T8. A running power is stable in the mean square iff μ < 2 d b / (b + d + 1), not μ < 2.

    The inputs are those of T7. Its factor is below one iff μ²(b + d + 1) / (b d²) < 2μ/d. For
    b = 1 the bound is 2d / (d + 2), always below 2. For large batches it approaches 2d.

    Source: derived here from T7.
    """
    checks = []
    for features, batch, runs in ((8, 1, 400), (8, 4, 400), (32, 16, 100)):
        bound, shape = power_bound(features, batch), (batch, features)
        growth = {
            share: contraction(running_power, share * bound, shape, runs, 1.0)[0]
            for share in (0.8, 1.0, 1.2)
        }
        name = f"growth, d = {features}, b = {batch}, μ ="
        # Standard errors up to 0.004. At 0.8 and 1.2 of the bound growth is at least 0.06 off one.
        checks += [
            Check(f"{name} {0.8 * bound:.3g} (0.8 of the bound)", 1.0, growth[0.8], 0.0, "at most"),
            Check(f"{name} {bound:.3g} (the bound)", 1.0, growth[1.0], 0.01),
            Check(
                f"{name} {1.2 * bound:.3g} (1.2 of the bound)", 1.0, growth[1.2], 0.0, "at least"
            ),
        ]
    return checks


def t9() -> list[Check]:
    """T9. There the excess error is (μ²/(b d)) / (2μ/d - μ²(b + d + 1)/(b d²)) noise variances.

    The noise adds (μ/P)² s² E‖x‖² / b = μ² s² / (b P) to T7 at every step. In the steady state T7
    removes the same amount. The table uses the exact power, except in the row with a history.
    There β = 0.999 averages over about a thousand batches.

    Source: derived here from T7.
    """
    checks = []
    for features, batch, step_size in ((8, 1, 0.5), (8, 1, 1.0), (32, 16, 1.0)):
        runs = 200 if batch == 1 else 20
        measured, _ = misadjustment(running_power, step_size, (batch, features), 1.0, runs=runs)
        predicted = power_misadjustment(step_size, features, batch)
        # Standard errors up to 1 %.
        label = f"excess error / s², d = {features}, b = {batch}, μ = {step_size:g}"
        checks.append(Check(label, predicted, measured, 0.04 * predicted))
    measured, _ = misadjustment(running_power, 0.5, (4, 8), warm_up=1500)
    predicted = power_misadjustment(0.5, 8, 4)
    label = "excess error / s², d = 8, b = 4, μ = 0.5, history"
    return [*checks, Check(label, predicted, measured, 0.04 * predicted)]
