"""Units, and the paper's logarithm, l1 norm and history: T6, T17, T18, T19 and T20."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import insgd_optax as insgd
from theory.check import Check
from theory.filters import (
    filter_path,
    filtering_problem,
    nlms,
    normal,
    running_power,
)

ROUNDING = 1e-10


def changed_predictions(tx: Any, scale: float, order: int = 2) -> float:
    """Relative change of the predictions when the input is in another unit.

    The weights start at ``w / scale``, so the first prediction is the same.
    """
    inputs, targets, start = filtering_problem(20, 100, 5)
    first = filter_path(tx, inputs, targets, start, order=order)
    other = filter_path(tx, scale * inputs, targets, start / scale, order=order)
    return float(jnp.max(jnp.abs(first.before - other.before)) / jnp.max(jnp.abs(targets)))


def t6() -> list[Check]:
    """T6. The predictions of normalized LMS (ε = 0) do not depend on the unit of the input.

    Let x → c x and w → w / c. The predictions x·w stay the same. So does e, and

        Δw = μ e (c x) / ‖c x‖² = (μ e x / ‖x‖²) / c

    The weights keep the ratio 1 / c forever. A divisor that does not grow with c² breaks this. With
    log P or ‖x‖₁ the right learning rate depends on the unit.

    Source: derived here.
    """
    checks = [
        Check(f"change of the NLMS filter, c = {c:g}", 0.0, changed_predictions(nlms(0.5), c), 1e-9)
        for c in (1e-3, 2.0, 1e3)
    ]
    history = running_power(0.5, 5, decay=0.9)
    checks.append(
        Check("with a running power, c = 2", 0.0, changed_predictions(history, 2.0), 1e-9)
    )
    logarithm = changed_predictions(insgd.paper(0.02, momentum=0.0), 2.0)
    first_order = changed_predictions(insgd.nlms(0.1, order=1), 2.0, order=1)
    return [
        *checks,
        Check("divided by log P, c = 2", 0.1, logarithm, 0.0, "at least"),
        Check("divided by ‖x‖₁, c = 2", 0.1, first_order, 0.0, "at least"),
    ]


def one_step(tx: Any, inputs: Array, order: int = 2) -> tuple[float, Array]:
    """The share of the error left after a step on one example, and the change of the weights."""
    start, targets = jnp.zeros(inputs.shape[0]), jnp.ones((1, 1))
    path = filter_path(tx, inputs[None, None], targets, start, order=order)
    return float(path.after[0, 0] / path.before[0, 0]), path.weights[1] - path.weights[0]


def t17() -> list[Check]:
    """T17. Divided by log P, a step leaves 1 - μP/log P of the error: stable iff μ < 2 log(P)/P.

    Replace ε + ‖x‖² in T1 by log P, with P = ‖x‖². The share left is below one in size iff
    0 < μP / log P < 2. The bound falls nearly as 1 / P. Normalized LMS keeps the bound 2.

    Source: the rule is Algorithm 1 of Atici, Pan, Cetin (TMLR 2024); the bound is derived here.
    """
    direction = normal(21, 6) / jnp.linalg.norm(normal(21, 6))
    checks = []
    for power in (10.0, 100.0, 1000.0, 10000.0):
        inputs, log = direction * power**0.5, float(np.log(power))
        left, _ = one_step(insgd.paper(log / power / 2, momentum=0.0), inputs)
        checks.append(
            Check(f"share left at a quarter of the bound, P = {power:g}", 0.5, left, 1e-9)
        )
        left, _ = one_step(insgd.paper(1.0, momentum=0.0), inputs)
        bound = 2 * log / power
        checks.append(Check(f"bound of μ, P = {power:g}", bound, 2 / (1 - left), 1e-9))
    return checks


def t18() -> list[Check]:
    """T18. Where log P is below 0.01 the step is 100 times the gradient, and with P = 0 it is zero.

    The paper divides by max(log P, 0.01). Up to P = e^0.01 = 1.01 that is 0.01, so the step is 100
    times the gradient. Without the maximum P < 1 would flip the gradient's sign, and P = 1 would
    divide by zero. The formula leaves P = 0 open, where log P does not exist. Our step is zero.

    Source: Algorithm 1 of Atici, Pan, Cetin (TMLR 2024); the case P = 0 is our choice.
    """
    weights = jnp.ones(2)
    tx: Any = insgd.paper(1.0, momentum=0.0)
    grad_fn = insgd.value_and_grad(
        lambda params, x: (x @ params["w"]) ** 2, structure=insgd.Scalar()
    )
    checks, state = [], tx.init({"w": weights})
    for power in (float(np.exp(0.02)), float(np.exp(0.01)), 1.0, 0.5, 1e-6, 0.0):
        inputs = jnp.asarray([[0.6, 0.8]]) * power**0.5
        _, _, input_stats = grad_fn({"w": weights}, inputs[0])
        # The gradient is ones, so a zero step can only come from the transformation.
        updates, _ = tx.update({"w": weights}, state, {"w": weights}, input_stats=input_stats)
        factor = -float(updates["w"][0])
        predicted = 0.0 if power == 0 else 1 / max(float(np.log(power)), 0.01)
        checks.append(Check(f"factor of the gradient, P = {power:.4g}", predicted, factor, 1e-6))
    return checks


def t19() -> list[Check]:
    """T19. The smallest change, by its largest entry, that leaves no error is e sign(x) / ‖x‖₁.

    A change Δ leaves no error iff x·Δ = e. Then |e| ≤ ‖x‖₁ max|Δ_i| (Hölder), and the change
    e sign(x) / ‖x‖₁ attains the bound. So ‖x‖₁ is the divisor for sign(x). The gradient -e x
    divided by ‖x‖₁ is not such a projection. By T1's argument its step leaves

        e_post = (1 - μ‖x‖₂² / ‖x‖₁) e

    Source: the rule is INSGD-l1 of Atici, Pan, Cetin (TMLR 2024); the factor is derived here.
    """
    checks = []
    for seed, step_size in ((22, 0.5), (23, 1.0), (24, 1.5)):
        inputs = 2 * normal(seed, 6)
        norm, power = float(jnp.sum(jnp.abs(inputs))), float(jnp.sum(inputs**2))
        left, _ = one_step(insgd.nlms(step_size, eps=0.0, order=1), inputs, order=1)
        label = f"share left, μ = {step_size:g}, ‖x‖₂²/‖x‖₁ = {power / norm:.3g}"
        checks.append(Check(label, 1 - step_size * power / norm, left, ROUNDING))
    left, largest = _sign_step(inputs)
    checks.append(Check("error left by e sign(x) / ‖x‖₁, e = 1", 0.0, left, ROUNDING))
    return [*checks, Check("its largest entry times ‖x‖₁", 1.0, largest * norm, ROUNDING)]


def _sign_step(inputs: Array) -> tuple[float, float]:
    """The step from the gradient ``-sign(x)`` at e = 1: error left and largest entry."""
    params = {"w": jnp.zeros_like(inputs)}
    tx: Any = insgd.nlms(1.0, eps=0.0, order=1)
    grad_fn = insgd.value_and_grad(lambda p, x: x @ p["w"], structure=insgd.Scalar(order=1))
    _, _, input_stats = grad_fn(params, inputs)
    gradient = {"w": -jnp.sign(inputs)}
    updates, _ = tx.update(gradient, tx.init(params), params, input_stats=input_stats)
    return float(1 - inputs @ updates["w"]), float(jnp.max(jnp.abs(updates["w"])))


def divisors(tx: Any, inputs: Array) -> Array:
    """The divisor of every step's gradient, for a learning rate of one."""
    path = filter_path(tx, inputs, jnp.ones(inputs.shape[:2]), jnp.zeros(inputs.shape[2]))
    gradients = -jnp.einsum("kb,kbf->kf", path.before, inputs)
    return -gradients[:, 0] / jnp.diff(path.weights, axis=0)[:, 0]


def t20() -> list[Check]:
    """T20. A history that starts at its first value is that value for as long as the power stays.

    Let P_1 = ‖x_1‖² and P_k = βP_{k-1} + (1 - β)‖x_k‖². A constant power P gives P_k = P for all k.
    β = 0 gives every batch its own power. So does a bias-corrected history at its first step.
    At that step insgd with learning rate μ / n is T1's filter: Scalar divides by ‖x‖² / n.

    Source: Algorithm 1 of Atici, Pan, Cetin (TMLR 2024).
    """
    raw = normal(25, 40, 1, 3)
    constant = 5 * raw / jnp.linalg.norm(raw, axis=2, keepdims=True)
    checks = []
    for decay in (0.5, 0.99):
        found = divisors(insgd.paper(1e-3, decay=decay, momentum=0.0), constant) * 1e-3
        off = float(jnp.max(jnp.abs(found - np.log(25))))
        checks.append(
            Check(f"distance of the divisor from log P, P constant, β = {decay}", 0.0, off, 1e-9)
        )
    growing = raw * jnp.exp(jnp.arange(40) / 10)[:, None, None] + 3
    power = np.asarray(jnp.sum(growing**2, axis=(1, 2)))
    found = divisors(insgd.paper(1e-3, decay=0.0, momentum=0.0), growing) * 1e-3
    off = float(np.max(np.abs(found - np.log(power))))
    checks.append(
        Check("distance of the divisor from this batch's log ‖x‖², β = 0", 0.0, off, 1e-9)
    )
    found = divisors(insgd.paper(1e-3, decay=0.9, momentum=0.0), growing) * 1e-3
    second = float(np.log(0.9 * power[0] + 0.1 * power[1]))
    checks.append(Check("second divisor, β = 0.9", second, float(found[1]), 1e-9))
    left, _ = one_step(running_power(0.7, 3, decay=0.99), growing[0, 0])
    return [*checks, Check("share left by insgd's first step, μ = 0.7", 0.3, left, ROUNDING)]
