"""released: the step of the INSGD authors' published code."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import optax
from jaxtyping import Array

from insgd_optax.layout import Layout
from insgd_optax.optimizers import decayed_weights, heavy_ball
from insgd_optax.settings import Number
from insgd_optax.structures import Released
from insgd_optax.transforms.factors import Seen
from insgd_optax.transforms.scale_by_input import (
    for_each,
    multiplied,
    normalize_by_history,
    zero_unless_finite,
)


def released(
    learning_rate: optax.ScalarOrSchedule,
    order: int = 2,
    momentum: Number | None = 0.9,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    nesterov: bool = False,
    *,
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The step of the authors' released PyTorch code, for comparisons and not for training.

    .. math::
      b = \gamma b + (G + \lambda W), \qquad
      W \leftarrow W - \eta \, \frac{\sqrt{1 + 10^{-6}}}{\sqrt{1 - \gamma} + 10^{-6}} \,
      \frac{b}{\max(\log P, 0.01)}

    ``P`` is that of `insgd_optax.Released`, for the current batch alone. Leaves that are not layer
    weights take the step of plain SGD with momentum. The factor is 3.16 for a momentum of 0.9. It
    comes from an Adadelta accumulator that the code reads but never writes.

    >>> import jax.numpy as jnp
    >>> import insgd_optax
    >>> structure = insgd_optax.Released(order=2)
    >>> grad_fn = insgd_optax.value_and_grad(
    ...     lambda params, x: jnp.sum(x @ params["w"]), structure=structure)
    >>> params, x = {"w": jnp.zeros(3)}, jnp.array([[1.0, 2.0, 6.0]])   # P = 3 - 1 + 0.1
    >>> _, grads, input_stats = grad_fn(params, x)
    >>> tx = released(learning_rate=1.0, momentum=0.0)
    >>> updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    >>> round(float(updates["w"][0]), 3)                                # -1 / log 2.1
    -1.348

    Args:
      learning_rate: :math:`\eta`.
      order: p of the statistic; 1 or 2.
      momentum: :math:`\gamma`; None for none.
      weight_decay: :math:`\lambda`, added to the gradient, before momentum.
      nesterov: whether to use Nesterov momentum, as in PyTorch's SGD.
      layouts: the parameters' layouts, if their shapes do not suggest them.

    Returns:
      A transformation. Capture with ``structure=insgd_optax.Released(order)``.

    References:
      https://github.com/SalihFurkan/INSGD, `insgd.py`.
    """

    structure = Released(order)
    momentum = 0.0 if momentum is None else momentum
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), not {momentum}.")

    def reciprocal(layer: Seen) -> Array:
        moments, power = layer.moments, layer.history
        undecayed = jnp.asarray(1 - momentum, power.dtype)
        factor = math.sqrt(1 + 1e-6) / (jnp.sqrt(undecayed) + 1e-6)
        exact = moments.layout.exact
        power = moments.kept.feature_power(power) if exact else moments.row_power(power)
        divided = factor * structure.factor(power[:, :, 0], -1, eps=0.0, level=power[:, 0, 0])
        return jnp.where(layer.ever[:, None], divided, 1)[:, :, None]

    return optax.chain(
        zero_unless_finite(),
        decayed_weights(weight_decay),
        heavy_ball(momentum, nesterov),
        normalize_by_history(
            structure, lambda weight: 0.0, for_each(reciprocal), multiplied, layouts
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
