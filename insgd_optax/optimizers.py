"""Optimizers: ready-made chains of the library's parts and optax's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from insgd_optax.groups import track_groups
from insgd_optax.layout import Layout
from insgd_optax.settings import Number, is_off
from insgd_optax.structures import MeanVariances, Structure
from insgd_optax.transforms.scale_by_input import scale_by_input
from insgd_optax.transforms.scale_by_insgd import scale_by_insgd


def insgd(
    learning_rate: optax.ScalarOrSchedule = 0.02,
    *,
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    momentum: Number | None = 0.9,
    nesterov: bool = True,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    decay: Number = 0.95,
    eps: Number = 1e-2,
    guard: bool = True,
    relative: Number = 1.0,
    gradient_decay: Number = 0.99,
    num_groups: int | None = None,
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Input Normalized SGD: SGD on gradients divided by the power of the layer's input.

    .. math::
      m_k = \gamma m_{k-1} + A_k^{-1} G, \qquad
      W \leftarrow W - \eta_k (c_k m_k + \lambda_k W)

    ``A`` is the history of the second moment of the layer's input. It makes the direction of a step
    independent of the input's size. :math:`c_k` sets the length of the step, from the size of the
    layer's output and its gradient history (see `scale_by_insgd`). A step changes each layer's
    output by a share of at most about :math:`\eta_k`, and by less as gradients fade. So one
    learning rate suits inputs and networks of any scale, and a constant rate ends well. Under a
    schedule, the falling rate replaces the fading.

    With ``relative=0`` the length is that of SGD (:math:`c_k = 1`), and ``learning_rate`` has the
    unit of SGD's. On inputs of unit mean square, ``structure=Scalar()`` is then
    ``optax.sgd(learning_rate, momentum, nesterov)``.

    >>> import jax.numpy as jnp
    >>> import insgd_optax
    >>> loss_fn = lambda params, inputs: jnp.sum(inputs @ params["kernel"])
    >>> params = {"kernel": jnp.zeros((2, 1))}
    >>> grad_fn = insgd_optax.value_and_grad(loss_fn, structure=insgd_optax.Scalar())
    >>> _, grads, input_stats = grad_fn(params, jnp.array([[1.0, 3.0]]))
    >>> optimizer = insgd(
    ...     0.5, structure=insgd_optax.Scalar(), nesterov=False, relative=0.0)
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    >>> [round(float(u), 6) for u in updates["kernel"][:, 0]]   # -0.5 * [1, 3] / ((1 + 9) / 2)
    [-0.1, -0.3]

    Args:
      learning_rate: step size or schedule. It is a share of each layer's output, or in the unit of
        SGD's with ``relative=0``.
      structure: how much of the input's second moment is divided out; the same as in
        `value_and_grad`.
      momentum: heavy-ball factor; None or 0 for none (and no buffer).
      nesterov: whether to use Nesterov momentum.
      weight_decay: decoupled weight decay or a schedule of it. It is multiplied by the learning
        rate, but not by the normalizer or by momentum.
      mask: which leaves decay, as in ``optax.add_decayed_weights``.
      decay: decay of the input's history.
      eps: relative shrinkage of a feature's power to its layer's mean power.
      guard: divide by the larger of the history and this batch's power.
      relative: from 0 for SGD's steps to 1 for steps of a given share of each layer's output.
      gradient_decay: decay of the gradient history.
      num_groups: number of classes or other groups of examples to keep the history of, as in
        `track_groups`. ``update`` then needs ``groups`` and takes ``gradient_norms``. None keeps
        none.
      layouts: the parameters' layouts, if their shapes do not suggest them.

    Returns:
      A transformation whose ``update`` needs ``params`` and ``input_stats``.

    References:
      Atici, Pan and Cetin, "Input Normalized Stochastic Gradient Descent Training for Deep Neural
      Networks", TMLR 2024 (arXiv 2212.09921). See `scale_by_input` for where this departs.
    """
    normalize = {"structure": structure, "decay": decay, "eps": eps, "guard": guard}
    if is_off(relative):
        steps = [scale_by_input(**normalize, layouts=layouts), heavy_ball(momentum, nesterov)]
    else:
        steps = [
            scale_by_insgd(
                **normalize,
                momentum=0.0 if momentum is None else momentum,
                nesterov=nesterov,
                gradient_decay=gradient_decay,
                relative=relative,
                learning_rate=learning_rate,
                layouts=layouts,
            )
        ]
    return optax.chain(
        *steps,
        decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
        *([] if num_groups is None else [track_groups(num_groups)]),
    )


def heavy_ball(momentum: Number | None, nesterov: bool = False) -> optax.GradientTransformation:
    """Heavy-ball or Nesterov momentum, or the identity (and no buffer) at 0 and None."""
    if momentum is None or is_off(momentum):
        return optax.identity()
    return optax.trace(momentum, nesterov)


class ScheduledDecayState(NamedTuple):
    """State of a weight decay with a schedule.

    Attributes:
      count: number of updates; shape (), int32.
      inner: state of ``optax.add_decayed_weights``, for its mask.
    """

    count: Int[Array, ""]
    inner: optax.OptState


def decayed_weights(
    weight_decay: optax.ScalarOrSchedule, mask: Any = None
) -> optax.GradientTransformation:
    """Weight decay, or the identity at 0; a schedule keeps the updates' dtype.

    Schedules are counted here, because ``optax.add_decayed_weights`` of Optax 0.2.6 stays at their
    first value. It also returns float32, which would widen updates of half precision.
    """
    if is_off(weight_decay):
        return optax.identity()
    if not callable(weight_decay):
        return optax.add_decayed_weights(weight_decay, mask)

    def init_fn(params: optax.Params) -> ScheduledDecayState:
        inner = optax.add_decayed_weights(0.0, mask).init(params)
        return ScheduledDecayState(jnp.zeros([], jnp.int32), inner)

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScheduledDecayState]:
        decayed = optax.add_decayed_weights(jnp.asarray(weight_decay(state.count)), mask)
        changed, inner = decayed.update(updates, state.inner, params)
        count = jnp.asarray(optax.safe_increment(state.count))
        return optax.tree.cast_like(changed, updates), ScheduledDecayState(count, inner)

    return optax.GradientTransformation(init_fn, update_fn)
