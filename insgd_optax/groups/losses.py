"""Losses with a class prior, and gradient norms of examples at a model's output."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from insgd_optax.numerics import wide_dtype


def balanced_softmax_cross_entropy(
    logits: Float[Array, "*examples K"],
    labels: Integer[Array, "*examples"],
    log_prior: Float[Array, " K"],
) -> Float[Array, "*examples"]:
    r"""Softmax cross-entropy on logits plus a log prior.

    .. math::
      -\log \frac{p_y e^{z_y}}{\sum_k p_k e^{z_k}}

    The trained model has logits for equally frequent classes, so leave out the prior at test time.
    A prior that is the same for all classes changes nothing.

    >>> prior = jnp.log(jnp.array([0.75, 0.25]))
    >>> losses = balanced_softmax_cross_entropy(jnp.zeros((2, 2)), jnp.array([0, 1]), prior)
    >>> losses.round(4).tolist()                             # -log 0.75 and -log 0.25
    [0.287..., 1.386...]

    Args:
      logits: of K classes.
      labels: from 0 to K - 1. Others have a loss of 0, such as -1 for padding.
      log_prior: `insgd_optax.log_prior` of the optimizer's state before this step.

    Returns:
      Losses of the labels' shape, in float32 for logits of half precision.

    Raises:
      ValueError: if shapes do not fit.

    References:
      Ren et al., "Balanced Meta-Softmax" (NeurIPS 2020).
    """
    logits, labels = _fitting(logits, labels)
    if log_prior.shape != logits.shape[-1:]:
        raise ValueError(f"log_prior has shape {log_prior.shape}, but logits have {logits.shape}.")
    prior = log_prior.reshape((1,) * (logits.ndim - 1) + log_prior.shape).astype(logits.dtype)
    known = (labels >= 0) & (labels < logits.shape[-1])
    # Masking after the loss is not enough, as a gradient of NaN times zero is NaN.
    shifted = jnp.where(known[..., None], logits + prior, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(shifted, jnp.where(known, labels, 0))
    return jnp.where(known, losses, 0)


def softmax_gradient_norm(
    logits: Float[Array, "*examples K"], labels: Integer[Array, "*examples"]
) -> Float[Array, "*examples"]:
    r"""The norm of each example's gradient of the cross-entropy with respect to its logits.

    .. math::
      \lVert \operatorname{softmax}(z) - e_y \rVert_2

    >>> softmax_gradient_norm(jnp.zeros((1, 2)), jnp.array([0])).round(4).tolist()   # (-½, ½)
    [0.707...]

    The balanced softmax has this gradient at the logits plus the log prior. The logits alone show
    how hard an example is, for any class. The norm is 0 for labels that are not classes. Gradients
    do not flow through it.
    """
    logits, labels = _fitting(jax.lax.stop_gradient(logits), labels)
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    own = classes == labels[..., None]
    shares = jax.nn.softmax(logits)
    squares = jnp.sum(jnp.square(jnp.where(own, shares - 1, shares)), axis=-1)
    known = (labels >= 0) & (labels < logits.shape[-1])
    return jnp.where(known, jnp.sqrt(squares), 0)


def _fitting(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Casts logits and labels for the computation.

    Raises:
      ValueError: if there is not one integer for every row of logits.
    """
    labels = jnp.asarray(labels)
    if labels.shape != logits.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels have shape {labels.shape} and type {labels.dtype}, but logits have shape "
            f"{logits.shape}. Pass one integer for every row of logits."
        )
    return logits.astype(wide_dtype(logits.dtype)), labels.astype(jnp.int32)


def output_gradient_norm(
    losses_fn: Callable[..., Float[Array, "*examples"]], outputs: Float[Array, "..."], *args: Any
) -> Float[Array, "*examples"]:
    """The norm of each example's gradient with respect to a model's outputs, for any loss.

    >>> squares = lambda outputs, targets: 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)
    >>> output_gradient_norm(squares, jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))).tolist()
    [5.0]

    Args:
      losses_fn: maps outputs and ``args`` to one loss per example. Each loss depends on the outputs
        of its example alone. The examples' axes are the first axes of the outputs.
      outputs: the outputs of the model.
      *args: other arguments of the loss.

    Raises:
      ValueError: if the shape of the losses is not that of the outputs' first axes.
    """
    outputs = jax.lax.stop_gradient(outputs)
    losses, transpose = jax.vjp(lambda outputs: losses_fn(outputs, *args), outputs)
    if losses.ndim == 0 or losses.shape != outputs.shape[: losses.ndim]:
        raise ValueError(
            f"losses_fn returns losses of shape {losses.shape} for outputs of shape "
            f"{outputs.shape}. It must return one loss for every example, before any mean."
        )
    (gradient,) = transpose(jnp.ones_like(losses))
    rows = gradient.reshape(*losses.shape, math.prod(outputs.shape[losses.ndim :]))
    return jnp.linalg.norm(rows.astype(wide_dtype(rows.dtype)), axis=-1)
