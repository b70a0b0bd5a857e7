"""nlms: normalized LMS, the filter that INSGD comes from."""

from collections.abc import Mapping

import jax.numpy as jnp
import optax
from jaxtyping import Array

from insgd_optax.layout import Layout
from insgd_optax.numerics import safe_power
from insgd_optax.settings import Number, check_between
from insgd_optax.structures import Scalar
from insgd_optax.transforms.factors import Seen
from insgd_optax.transforms.scale_by_input import for_each, multiplied, normalize_by_history


def nlms(
    step_size: optax.ScalarOrSchedule,
    eps: Number = 1e-8,
    order: int = 2,
    *,
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Normalized LMS: divides the gradient by the power of this batch's input, without a history.

    .. math::
      W \leftarrow W - \mu \, G / (\varepsilon + \mathbb{E} \lVert x \rVert_p^p)

    For one row, the loss :math:`e^2 / 2`, p = 2 and :math:`\varepsilon = 0` this is the textbook
    filter. It is stable for :math:`0 < \mu < 2`. At :math:`\mu = 1` no error is left on the current
    example. The expectation is over the rows that the layer saw in this batch.

    >>> import jax.numpy as jnp
    >>> import insgd_optax
    >>> def loss_fn(params, x, target):
    ...     return (x @ params["w"] - target) ** 2 / 2
    >>> grad_fn = insgd_optax.value_and_grad(loss_fn, structure=insgd_optax.Scalar())
    >>> params, x = {"w": jnp.zeros(2)}, jnp.array([3.0, 4.0])
    >>> _, grads, input_stats = grad_fn(params, x, 5.0)      # e = -5, gradient -5 * [3, 4]
    >>> tx = nlms(step_size=1.0, eps=0.0)
    >>> updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    >>> [round(float(u), 6) for u in updates["w"]]            # 5 * [3, 4] / 25: predicts 5
    [0.6, 0.8]

    Args:
      step_size: :math:`\mu`; without unit for p = 2.
      eps: :math:`\varepsilon`, in the unit of the input's norm to the power p.
      order: p; 2 for the squared l2 norm, 1 for the l1 norm.
      layouts: the parameters' layouts, if their shapes do not suggest them.

    Returns:
      A transformation. Capture with ``structure=insgd_optax.Scalar(order)``.

    References:
      Sayed, *Fundamentals of Adaptive Filtering* (2003), section 5.6.
    """

    check_between("eps", eps, 0)

    def reciprocal(layer: Seen) -> Array:
        norm = layer.moments.row_power(layer.history)
        return safe_power(norm + jnp.asarray(eps, norm.dtype), -1)

    normalized = normalize_by_history(
        Scalar(order), lambda weight: 0.0, for_each(reciprocal), multiplied, layouts
    )
    return optax.chain(normalized, optax.scale_by_learning_rate(step_size))
