"""Weights of examples and priors of classes, computed from a group history."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from insgd_optax.groups.counting import membership
from insgd_optax.groups.history import GroupHistory, group_history
from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number, check_between

# A number, or a schedule of the number of updates.
Exponent = Number | Callable[[Array], Any]


def example_weights(
    opt_state: optax.OptState,
    groups: Any,
    frequency_exponent: Exponent = 0.0,
    gradient_exponent: Exponent = 0.0,
    *,
    largest: Number = 100.0,
    mask: Any = None,
) -> Float[Array, "*examples"]:
    r"""The weight of every example of a batch, from the history of its group.

    .. math::
      w_i \propto (K f_k)^{-a} \, (r_k / \bar r)^{-b}

    Group k has frequency :math:`f_k` and mean squared gradient norm :math:`r_k`. With
    :math:`a = 1` all groups count the same. With :math:`b > 0` groups of large gradients (hard or
    wrongly labeled) count less. With :math:`b < 0` they count more. At 0 and 0 all weights are 1.
    Weights have mean 1 over the examples of the history. So the learning rate keeps its meaning,
    and splitting a batch does not change its weights.

    >>> from insgd_optax import track_groups
    >>> tracker = track_groups(2)
    >>> state = tracker.init(None)
    >>> _, state = tracker.update({}, state, groups=jnp.array([0] * 5 + [1]))   # f = 6/8 and 2/8
    >>> weights = example_weights(state, jnp.array([0, 0, 1]), 1.0)
    >>> [round(float(w), 4) for w in weights]                      # 1 / f, of mean 1: 5 w + w' = 6
    [0.75, 0.75, 2.25]

    Args:
      opt_state: an optimizer's state that holds a `GroupHistory`, or a `GroupHistory` itself.
      groups: as in `group_sums`. An example with several labels has the mean of their weights.
      frequency_exponent: a, or a schedule of the number of updates. ``lambda step: step > 5000`` is
        deferred re-weighting.
      gradient_exponent: b, or a schedule.
      largest: a group's weight lies between ``1 / largest`` and this, before the mean is 1.
      mask: as in `group_sums`.

    Returns:
      Weights of shape ``(...)``, and 0 for examples that are left out. If examples can have several
      labels, those without a label have weight 1. Gradients do not flow through the weights.

    Raises:
      ValueError: if a setting is out of its range (exponents: from -10 to 10).

    References:
      Cao et al., "Learning Imbalanced Datasets with LDAM" (NeurIPS 2019), for deferring them.
    """
    check_between("largest", largest, 1, 1e6)
    check_between("frequency_exponent", frequency_exponent, -10, 10)
    check_between("gradient_exponent", gradient_exponent, -10, 10)
    history = group_history(opt_state)
    mean_power = _mean_power(history)
    relative = history.gradient_power * safe_power(mean_power, -1)
    # No factor if nothing was measured, or only zeros.
    measured = jnp.where((history.measured > 0) & (mean_power > 0), relative, 1)
    log_factor = log_frequency_factor(history, frequency_exponent)
    log_factor += _log_factor(measured, gradient_exponent, history)
    return handed_out(bounded(log_factor, largest), history, groups, mask)


def effective_number_weights(
    opt_state: optax.OptState,
    groups: Any,
    examples: Number,
    beta: float = 0.9999,
    *,
    mask: Any = None,
) -> Float[Array, "*examples"]:
    r"""Class-balanced weights by the effective number of examples, with mean 1 over the history.

    .. math::
      w_i \propto \frac{1 - \beta}{1 - \beta^{n_k}}

    Args:
      opt_state, groups, mask: as in `example_weights`.
      examples: the size of the training set; :math:`n_k` is the group's share of it.
      beta: from 0, which weighs all alike, toward 1, which weighs by the inverse frequency.

    Raises:
      ValueError: if ``beta`` is not in [0, 1).

    References:
      Cui et al., "Class-Balanced Loss Based on Effective Number of Samples" (CVPR 2019), eq. 3.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), not {beta}.")
    check_between("examples", examples, 1)
    history = group_history(opt_state)
    number = history.frequency * jnp.asarray(examples, jnp.float32)
    log_beta = math.log(beta) if beta else -math.inf
    by_group = (1 - beta) / -jnp.expm1(number * log_beta)
    return handed_out(by_group, history, groups, mask)


def log_prior(opt_state: optax.OptState, exponent: Exponent = 1.0) -> Float[Array, " K"]:
    """The logarithm of every group's frequency, times an exponent; no gradient flows through it.

    Add it to the logits in the loss, and only there, for the balanced softmax.

    >>> from insgd_optax import track_groups
    >>> log_prior(track_groups(4).init(None)).round(4).tolist()      # nothing seen: all log(1/4)
    [-1.386..., -1.386..., -1.386..., -1.386...]

    Raises:
      ValueError: if the exponent is not from -10 to 10.

    References:
      Ren et al., "Balanced Meta-Softmax" (NeurIPS 2020); Menon et al., "Long-tail learning via
      logit adjustment" (ICLR 2021), whose tau is the exponent.
    """
    check_between("exponent", exponent, -10, 10)
    history = group_history(opt_state)
    power = _exponent_of(exponent, history)
    return jax.lax.stop_gradient(power * jnp.log(history.frequency))


def handed_out(
    by_group: Float[Array, " K"], history: GroupHistory, groups: Any, mask: Any
) -> Float[Array, "*examples"]:
    """The weight of each example from that of its group, scaled to mean 1 over the history."""
    # A mean over the batch would give a rare group's examples less weight in small batches, and
    # another weight on each device.
    total, weighted = history.count.sum(), jnp.sum(history.count * by_group)
    scale = jnp.where(total > 0, total / jnp.where(total > 0, weighted, 1), 1)
    members, _ = membership(groups, len(by_group), mask)
    return jax.lax.stop_gradient(members.of_each(by_group * scale))


def log_frequency_factor(history: GroupHistory, exponent: Exponent) -> Float[Array, " K"]:
    """The logarithm of ``(K f) ** -exponent``, which is larger for rare groups."""
    return _log_factor(history.frequency * len(history.count), exponent, history)


def bounded(log_factor: Float[Array, " K"], largest: Number) -> Float[Array, " K"]:
    """The factor, clipped to ``[1 / largest, largest]``; exactly 1 if its logarithm is 0."""
    limit = jnp.log(jnp.asarray(largest, jnp.float32))
    return jnp.exp(jnp.clip(log_factor, -limit, limit))


def _log_factor(base: Float[Array, " K"], exponent: Exponent, history: GroupHistory) -> Array:
    # 0 becomes the smallest normal number, as a product of several factors may be 0 * inf.
    logarithm = jnp.log(jnp.maximum(base, jnp.finfo(base.dtype).tiny))
    return -_exponent_of(exponent, history) * logarithm


def _exponent_of(exponent: Exponent, history: GroupHistory) -> Float[Array, ""]:
    """The exponent at the current update of the history."""
    value = exponent(history.updates) if callable(exponent) else exponent
    return jnp.asarray(value, jnp.float32)


def _mean_power(history: GroupHistory) -> Float[Array, ""]:
    total = history.measured.sum()
    return history.measured / jnp.where(total > 0, total, 1) @ history.gradient_power
