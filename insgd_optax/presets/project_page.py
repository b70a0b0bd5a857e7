"""project_page: each example's gradient divided by the norm of the example's features."""

from collections.abc import Mapping
from typing import Any

import optax

from insgd_optax.capture.per_example import PerExample
from insgd_optax.optimizers import decayed_weights, heavy_ball
from insgd_optax.settings import Number
from insgd_optax.transforms.matching import check_per_example
from insgd_optax.transforms.scale_by_input import zero_unless_finite
from insgd_optax.trees import named_leaves


def project_page(
    learning_rate: optax.ScalarOrSchedule,
    eps: int | float = 1e-8,
    momentum: Number = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD on gradients with each example divided by the norm of its features.

    .. math::
      W \leftarrow W - \eta \, \frac{1}{N} \sum_n \frac{G_n}{\lVert x_n \rVert_2 + \varepsilon}

    The division happens before the average, so `value_and_grad` does it. This preset checks that it
    did, and adds momentum and weight decay.

    >>> import jax.numpy as jnp
    >>> import insgd_optax
    >>> grad_fn = insgd_optax.value_and_grad(
    ...     lambda params, x: jnp.mean(x @ params["w"]), per_example=insgd_optax.PerExample())
    >>> params, x = {"w": jnp.zeros(2)}, jnp.array([[3.0, 4.0], [0.0, 2.0]])   # norms 5 and 2
    >>> _, grads, input_stats = grad_fn(params, x)
    >>> tx = project_page(learning_rate=1.0)
    >>> updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    >>> [round(float(u), 6) for u in updates["w"]]    # -([3, 4] / 5 + [0, 2] / 2) / 2
    [-0.3, -0.9]

    Args:
      learning_rate: :math:`\eta`.
      eps: :math:`\varepsilon`, in the unit of the input; the same as in `PerExample`.
      momentum: heavy-ball factor.
      weight_decay: decoupled weight decay, multiplied by the learning rate.

    Returns:
      A transformation. Capture with ``per_example=insgd_optax.PerExample(eps=eps)``.

    Raises:
      ValueError: at ``update``, if the gradients were captured in another way.

    References:
      The code on the INSGD project page (S. F. Atici's site, 2025). It is not in the paper.
    """
    asked = PerExample(eps=eps)

    def init_fn(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        input_stats: Mapping[str, Any] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params, extra_args
        check_per_example(named_leaves(updates), input_stats, asked)
        return updates, state

    return optax.chain(
        optax.GradientTransformationExtraArgs(init_fn, update_fn),
        zero_unless_finite(),
        heavy_ball(momentum),
        decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
