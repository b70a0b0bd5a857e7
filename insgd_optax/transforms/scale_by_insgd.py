"""scale_by_insgd: a direction from the inputs, and a length from the history of gradients."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.settings import Number, check_between
from insgd_optax.structures import MeanVariances, Structure, check_structure
from insgd_optax.transforms.factors import Derived, Packed, Seen, factors_of
from insgd_optax.transforms.lengths import GradientHistory, balance, ratio, with_batch
from insgd_optax.transforms.matching import NO_PARAMS
from insgd_optax.transforms.normalizer import History, ScaleByInputState, kept_unless
from insgd_optax.transforms.scale_by_input import check_decay
from insgd_optax.transforms.units import lone_stacks, packed_values, units_of
from insgd_optax.trees import merged_leaves, named_leaves, split_leaves, where_all


class ScaleByInsgdState(NamedTuple):
    """State of `scale_by_insgd`.

    Attributes:
      inputs: the history of the layers' inputs, as of `scale_by_input`.
      gradients: the history of the layers' gradients, three numbers for each of their groups.
      momentum: the decayed sum of normalized gradients, shaped like the parameters; empty for a
        momentum of 0.
    """

    inputs: ScaleByInputState
    gradients: GradientHistory
    momentum: optax.Updates


def scale_by_insgd(
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    decay: Number = 0.95,
    eps: Number = 1e-2,
    guard: bool = True,
    *,
    momentum: Number = 0.9,
    nesterov: bool = True,
    gradient_decay: Number = 0.99,
    relative: Number = 1.0,
    least: Number = 0.1,
    learning_rate: optax.ScalarOrSchedule = 0.0,
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps along normalized gradients, with the length that the gradients' history gives them.

    .. math::
      u_k = A_k^{-1} G_k, \qquad m_k = \gamma m_{k-1} + u_k, \qquad
      v_k = \max_{j \le k} \hat s_j, \quad s_k = \langle u_k, G_k \rangle

      \text{update} = \left( \frac{(1 - \gamma) \lVert W \rVert_P}{\sqrt{v_k}} \right)^{\rho} m_k
      + \frac{\rho \, \eta_k}{2} \frac{q_k}{v_k} W

    The direction is that of `scale_by_input`: ``A`` is the history of the second moment of the
    layer's input. The length is a share of what the layer computes,
    :math:`\lVert W \rVert_P^2 = \sum_{io} P_i W_{io}^2` with the history of each feature's power
    ``P``, as long as gradients are as large as they ever were and agree with one another. ``v`` is
    the largest running mean of the squared normalized gradient :math:`s`, in the metric of the
    layer's input. So a step fades with its gradient, and a fitted network needs no schedule.

    On pure noise, steps proportional to the weights make them grow without end. The last term is a
    weight decay that takes just that away, with ``q`` the running mean of
    :math:`\lVert u \rVert_P^2`.

    Each matrix of a stack of layers is measured by itself, and together with its bias, which is a
    weight on an input that is always 1. A leaf that belongs to no layer (a gain, a position
    embedding) is a unit by itself, with ``A`` and ``P`` of 1.

    >>> import insgd_optax
    >>> loss_fn = lambda params, inputs: jnp.sum(inputs @ params["kernel"])
    >>> params, inputs = {"kernel": jnp.array([[3.0], [4.0]])}, jnp.array([[1.0, 1.0]])
    >>> structure = insgd_optax.Scalar()
    >>> grad_fn = insgd_optax.value_and_grad(loss_fn, structure=structure)
    >>> _, grads, input_stats = grad_fn(params, inputs)
    >>> tx = scale_by_insgd(structure, momentum=0.0)
    >>> updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    >>> [round(float(u), 4) for u in updates["kernel"][:, 0]]            # 5 * [1, 1] / sqrt(2)
    [3.5355, 3.5355]

    Args:
      structure: how much of the second moment is kept; the same as in `value_and_grad`.
      decay, eps, guard, layouts: as in `scale_by_input`.
      momentum: :math:`\gamma` in [0, 1).
      nesterov: whether to use Nesterov momentum.
      gradient_decay: how much of the running mean of :math:`s` stays at each step.
      relative: :math:`\rho`, from 0, which gives SGD's length, to 1.
      least: a layer of ``m`` outputs whose mean square is below ``least ** 2`` is treated as if it
        were that, so that weights which start at zero can leave it.
      learning_rate: :math:`\eta`, the rate or schedule that will multiply the steps, for the decay
        that balances growth; 0 for no decay. It does not multiply anything here.

    Returns:
      A transformation whose ``update`` needs ``params`` and ``input_stats``. A batch that is not
      finite changes nothing, and its update is zero.

    Raises:
      ValueError: at ``update``, if ``params`` or ``input_stats`` is missing or does not fit.

    References:
      Ginsburg et al., "NovoGrad" (2019), for a length by the layer's gradient history. Reddi, Kale,
      Kumar, "AMSGrad" (ICLR 2018), for its largest value. You, Gitman, Ginsburg, "LARS" (2017),
      for the ratio to the weights. Kosson et al., "Rotational equilibrium" (ICML 2024), for the
      balance of growth and decay.
    """
    check_structure(structure)
    check_decay(decay)
    for name, setting in (("momentum", momentum), ("gradient_decay", gradient_decay)):
        check_between(name, setting, 0, 1)
    check_between("eps", eps, 0)
    check_between("relative", relative, 0, 1)
    check_between("least", least, 0)
    history = History(structure, lambda weight: decay, layouts or {}, checks_gradient=False)
    has_momentum = not (isinstance(momentum, int | float) and momentum == 0)

    def init_fn(params: optax.Params) -> ScaleByInsgdState:
        inputs = history.init(params)
        powers = (jnp.zeros_like(inputs.power_weight) for _ in range(3))
        buffer = optax.tree.zeros_like(params) if has_momentum else optax.EmptyState()
        return ScaleByInsgdState(inputs, GradientHistory(*powers), buffer)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        input_stats: Mapping[str, InputMoments | None] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByInsgdState]:
        del extra_args
        if params is None:
            raise ValueError(NO_PARAMS)
        leaves = dict(named_leaves(updates))

        def derive(seen: Mapping[str, Seen], packed: Packed) -> Derived:
            [factors], kept = factors_of(seen, packed, [-1], eps, guard)
            layers = {path: layer.moments for path, layer in seen.items()}
            return [[*factors, *lone_stacks(leaves, layers)]], kept

        observed = history.observe(updates, state.inputs, input_stats, derive)
        units = units_of(observed, leaves)
        layouts = {path: layout for each in units for path, layout in each.layouts.items()}
        dtype = state.inputs.power.dtype
        old_momentum = state.momentum if has_momentum else optax.tree.zeros_like(updates)
        trees = updates, params, old_momentum
        gradients, weights, buffer = (split_leaves(tree, layouts, dtype) for tree in trees)

        # One pass over all gradients and weights, then arithmetic with a few numbers a layer.
        directions = [each.directions(gradients) for each in units]
        powers = [each.power(u, gradients) for each, u in zip(units, directions, strict=True)]
        total = state.inputs.power_weight.size
        power = packed_values(units, powers, total)
        size = packed_values(units, [each.size(weights, least) for each in units], total)
        seen = packed_values(units, [each.seen.astype(dtype) for each in units], total)
        finite = observed.finite & jnp.isfinite(jnp.sum(power))
        taken = state.inputs.count - state.inputs.skipped
        growth = packed_values(
            units, [each.growth(u) for each, u in zip(units, directions, strict=True)], total
        )
        gradient_history = with_batch(state.gradients, power, growth, seen, gradient_decay, taken)
        scale = ((1 - momentum) * ratio(size, gradient_history)) ** relative
        rate = learning_rate(state.inputs.count) if callable(learning_rate) else learning_rate
        shrink = relative * rate / 2 * balance(gradient_history)
        factors = jnp.stack([scale, shrink.astype(dtype)], axis=1)
        factors = jnp.where(finite & jnp.isfinite(factors), factors, 0)

        moved, steps = {}, {}
        for each, direction in zip(units, directions, strict=True):
            for path, u, (scale, shrink) in each.members(direction, factors[each.at]):
                old = buffer[path]
                new = jnp.where(finite, momentum * old + u, old)
                # u + momentum * new, without u, so that this needs no gradient.
                ahead = (1 + momentum) * new - momentum * old if nesterov else new
                moved[path], steps[path] = new, scale * ahead + shrink * weights[path]
        after = ScaleByInsgdState(
            kept_unless(finite, observed.state, state.inputs),
            where_all(finite, gradient_history, state.gradients),
            merged_leaves(state.momentum, moved, layouts) if has_momentum else state.momentum,
        )
        return merged_leaves(updates, steps, layouts), after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
