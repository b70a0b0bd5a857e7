"""LMS, the filter without a divisor, as the case b = 1: T11."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from theory.check import Check
from theory.filters import filter_path, normal, running_power
from theory.mean_square import misadjustment


def t11() -> list[Check]:
    """T11. LMS is the case b = 1: excess error m s_x² d / (2 - m s_x²(d + 2)), bound in the mean.

    LMS with step size m is the running power with μ = m P = m d s_x². T8 and T9 then say that it is
    stable in the mean square iff m < 2 / ((d + 2) s_x²). In the mean, for any E x xᵀ = R,

        E w̃_i = (I - m R) E w̃_{i-1}, stable iff m < 2 / λ_max(R)

    At that bound the mean of the strongest mode flips its sign and keeps its size.

    Source: Sayed, Fundamentals of Adaptive Filtering (2003), for the bounds; T8 and T9.
    """
    features, variance, checks = 8, 4.0, []
    bound = 2 / ((features + 2) * variance)
    make = functools.partial(_lms_by_power, variance)
    for share in (0.25, 0.5):
        step = share * bound
        measured, _ = misadjustment(make, step, (1, features), variance)
        predicted = step * variance * features / (2 - step * variance * (features + 2))
        label = f"excess error / s², m = {step:g}, {share:g} of the bound"
        # Standard errors up to 0.6 %.
        checks.append(Check(label, predicted, measured, 0.03 * predicted))
    inputs, noise = 2 * normal(44, 50, 1, features), normal(45, 50, 1)
    start, tx = jnp.ones(features), make(0.02, features)
    by_power = filter_path(tx, inputs, noise, start, mean_square=variance).weights
    by_sgd = filter_path(plain_lms(0.02), inputs, noise, start).weights
    off = float(jnp.max(jnp.abs(by_power - by_sgd)))
    return [*checks, Check("distance to optax.sgd(m) over 50 steps", 0.0, off, 1e-12), _mean_mode()]


def _lms_by_power(variance: float, step_size: Any, features: int) -> Any:
    return running_power(step_size * features * variance, features)


def plain_lms(step_size: Any) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optax.sgd(step_size))


def _mean_mode() -> Check:
    """The strongest mode of E w̃ after one step at the bound for the mean."""
    scales = jnp.asarray([1.0, 2.0, 0.5, 1.0])
    inputs: Array = normal(46, 100_000, 1, 1, 4) * scales[None, None, None, :]
    power = float(jnp.sum(scales**2))
    strongest = jnp.asarray([0.0, 1.0, 0.0, 0.0])
    tx = running_power(2 / 4.0 * power, 4)
    measured = float(jnp.mean(_after_one_step(tx, power / 4, inputs, strongest)))
    # 1 - m x² = 1 - 2 χ² has a deviation of 8^0.5: a standard error of 0.009.
    return Check("mean of the strongest mode at m = 2 / λ_max", -1.0, measured, 0.036)


def _after_one_step(tx: Any, mean_square: float, inputs: Array, start: Array) -> Array:
    def run(x: Array) -> Array:
        path = filter_path(tx, x, jnp.zeros((1, 1)), start, mean_square=mean_square)
        return path.weights[1] @ start

    return jax.jit(jax.vmap(run))(inputs)
