"""paper: Algorithm 1 of the INSGD paper."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from insgd_optax.layout import Layout
from insgd_optax.optimizers import decayed_weights
from insgd_optax.settings import Number, check_between
from insgd_optax.structures import Scalar
from insgd_optax.transforms.factors import Seen
from insgd_optax.transforms.scale_by_input import (
    check_decay,
    for_each,
    multiplied,
    normalize_by_history,
)


def paper(
    learning_rate: optax.ScalarOrSchedule,
    order: int = 2,
    decay: Number = 0.9,
    momentum: Number | None = 0.9,
    dampening: Number = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    epsilon: Number = 0.01,
    *,
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Algorithm 1 of the paper, in its order.

    .. math::
      P_1 = \mathbb{E} \lVert x_1 \rVert_p^p, \qquad
      P_k = \beta P_{k-1} + (1 - \beta) \, \mathbb{E} \lVert x_k \rVert_p^p

      g_k = G_k / \max(\log P_k, \epsilon) + \lambda W, \qquad
      b_1 = g_1, \quad b_k = \gamma b_{k-1} + (1 - \tau) g_k, \qquad
      W \leftarrow W - \eta \, b_k

    Leaves that are not layer weights keep their plain gradient, and decay. A power of zero gives a
    zero step, a case that the formula leaves open. If :math:`\log P_k` is below :math:`\epsilon`,
    the divisor is :math:`\epsilon`, as written.

    >>> import jax.numpy as jnp
    >>> import insgd_optax
    >>> grad_fn = insgd_optax.value_and_grad(
    ...     lambda params, x: jnp.sum(x @ params["w"]), structure=insgd_optax.Scalar())
    >>> params, x = {"w": jnp.zeros(1)}, jnp.array([[jnp.e]])   # P = e², log P = 2
    >>> _, grads, input_stats = grad_fn(params, x)
    >>> tx = paper(learning_rate=1.0)
    >>> updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    >>> round(float(updates["w"][0]), 4)                        # -e / 2
    -1.3591

    Args:
      learning_rate: :math:`\eta`.
      order: p; 2 for INSGD-l2, 1 for INSGD-l1.
      decay: :math:`\beta` in [0, 1), of the input's power.
      momentum: :math:`\gamma`; None for none.
      dampening: :math:`\tau`.
      weight_decay: :math:`\lambda`, added to the normalized gradient, before momentum.
      epsilon: the least divisor.
      layouts: the parameters' layouts, if their shapes do not suggest them.

    Returns:
      A transformation. Capture with ``structure=insgd_optax.Scalar(order)``.

    References:
      Atici, Pan, Cetin, "Input Normalized Stochastic Gradient Descent Training for Deep Neural
      Networks", TMLR 2024 (arXiv 2212.09921), Algorithm 1.
    """
    check_decay(decay)
    momentum = 0.0 if momentum is None else momentum
    check_between("momentum", momentum, 0, 1)
    check_between("dampening", dampening, 0, 1)
    if isinstance(epsilon, int | float) and not epsilon > 0:
        raise ValueError(f"epsilon must be positive, not {epsilon}. It is the least divisor.")

    def decay_at(weight: Array) -> Array:  # the first power starts the average
        return jnp.where(weight > 0, jnp.asarray(decay, weight.dtype), 0)

    def reciprocal(layer: Seen) -> Array:
        norm = layer.moments.row_power(layer.history)
        seen = norm > 0
        divisor = jnp.maximum(jnp.log(jnp.where(seen, norm, 1)), jnp.asarray(epsilon, norm.dtype))
        return jnp.where(seen, 1 / divisor, 0)

    return optax.chain(
        normalize_by_history(Scalar(order), decay_at, for_each(reciprocal), multiplied, layouts),
        decayed_weights(weight_decay),
        _dampened_momentum(momentum, dampening),
        optax.scale_by_learning_rate(learning_rate),
    )


class DampenedMomentumState(NamedTuple):
    """State of the momentum of `paper`.

    Attributes:
      count: updates so far; shape (), int32.
      buffer: :math:`b`, shaped like the parameters.
    """

    count: Int[Array, ""]
    buffer: optax.Updates


def _dampened_momentum(momentum: Number, dampening: Number) -> optax.GradientTransformation:
    """``b_1 = g_1``, then ``b_k = momentum * b_{k-1} + (1 - dampening) * g_k``."""

    def init_fn(params: optax.Params) -> DampenedMomentumState:
        return DampenedMomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, DampenedMomentumState]:
        del params
        share = jnp.where(state.count > 0, 1 - dampening, 1.0)

        def moved(buffer: Array, update: Array) -> Array:
            return (momentum * buffer + share.astype(update.dtype) * update).astype(update.dtype)

        buffer = jax.tree.map(moved, state.buffer, updates)
        count = jnp.asarray(optax.safe_increment(state.count))
        return buffer, DampenedMomentumState(count, buffer)

    return optax.GradientTransformation(init_fn, update_fn)
