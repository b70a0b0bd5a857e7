"""scale_by_insgd: a direction from the inputs and a length from the gradient history."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.settings import Number, check_between, check_is_static, is_off
from insgd_optax.structures import MeanVariances, Structure, check_structure
from insgd_optax.transforms.factors import factors_of
from insgd_optax.transforms.lengths import GradientHistory, factors, reference, with_batch
from insgd_optax.transforms.matching import NO_PARAMS
from insgd_optax.transforms.normalizer import History, ScaleByInputState, kept_unless
from insgd_optax.transforms.scale_by_input import check_decay
from insgd_optax.transforms.units import LengthSettings, Parts, sizes_of, units_of
from insgd_optax.trees import merged_leaves, named_leaves, split_leaves, where_all


class ScaleByInsgdState(NamedTuple):
    """State of `scale_by_insgd`.

    Attributes:
      inputs: the history of the layers' inputs, as in `scale_by_input`.
      gradients: the history of the layers' gradients, three values per group.
      momentum: decayed sum of normalized gradients, shaped like the parameters; empty if momentum
        is 0.
      largest_rate: the largest learning rate so far; shape ().
    """

    inputs: ScaleByInputState
    gradients: GradientHistory
    momentum: optax.Updates
    largest_rate: Float[Array, ""]


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
    least: float = 0.1,
    least_of_tables: float = 1.0,
    vector_rate: float = 0.1,
    learning_rate: optax.ScalarOrSchedule = 0.0,
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps along normalized gradients, with a length from the gradient history.

    .. math::
      u_k = A_k^{-1} G_k, \qquad m_k = \gamma m_{k-1} + u_k, \qquad
      s_k = \langle u_k, G_k \rangle, \qquad
      v_k = \max \Bigl( \hat s_k, \; r_k^2 \max_{j \le k} \hat s_j \Bigr), \quad
      r_k = \frac{\eta_k}{\max_{j \le k} \eta_j}

      \text{update} = \left( \frac{(1 - \gamma) L}{\sqrt{v_k}} \right)^{\rho} m_k
      + \frac{\rho \, \eta_k}{2} \frac{q_k}{v_k} W, \qquad
      L = \max(\lVert W \rVert_P, \ell \sqrt{n})

    The direction is that of `scale_by_input`, where ``A`` is the history of the second moment of
    the layer's input. The length is a share of the size of the layer's output,
    :math:`\lVert W \rVert_P^2 = \sum_{io} P_i W_{io}^2`, where ``P`` is the guarded power of each
    feature, pulled to the layer's mean power by ``eps``. Steps have this length while gradients
    agree and are as large as ever.

    At a constant rate, ``v`` is the largest running mean of the squared normalized gradient
    :math:`s`, in the metric of the layer's input. So a step fades with its gradient, and a fitted
    network needs no schedule. A schedule shortens steps by itself. As it falls, ``v`` moves to the
    current running mean, and steps no longer fade with their gradients.

    On pure noise, steps proportional to the weights would make them grow without end. The last term
    is a weight decay that cancels exactly this growth, where ``q`` is the running mean of
    :math:`\lVert u \rVert_P^2`, not corrected for its start at zero. Weights that start small or at
    zero can grow, because the length ``L`` is at least that of ``n`` outputs of size :math:`\ell`.

    Each matrix of a stack of layers is measured separately, together with its bias. A bias is a
    weight on an input that is always 1. A leaf that belongs to no layer (a gain, a position
    embedding) is a unit by itself, with ``A`` and ``P`` of 1. A vector among these, such as a gain
    or shift of a norm, moves at a tenth of the learning rate.

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
      gradient_decay: decay of the running mean of :math:`s`.
      relative: :math:`\rho`, from 0, which gives SGD's length, to 1.
      least: :math:`\ell`, a lower bound on the output size (root mean square) that steps are a
        share of.
      least_of_tables: the same for lookups. Table rows are inputs of other layers, whose usual size
        is 1, and they often start much smaller.
      vector_rate: the factor on the learning rate of vectors that belong to no layer. A vector has
        at most one axis longer than 1.
      learning_rate: :math:`\eta`, the rate or schedule that will multiply the steps. It is not
        applied here, but sets ``v`` and the decay that balances growth. 0 means a constant rate
        and no decay.

    Returns:
      A transformation whose ``update`` needs ``params`` and ``input_stats``. A batch that is not
      finite changes nothing, and its update is zero.

    Raises:
      ValueError: at ``update``, if ``params`` or ``input_stats`` is missing or does not fit.

    References:
      Ginsburg et al., "NovoGrad" (2019): a length by the layer's gradient history. Reddi, Kale and
      Kumar, "AMSGrad" (ICLR 2018): its largest value. You, Gitman and Ginsburg, "LARS" (2017): the
      ratio to the weights. Kosson et al., "Rotational equilibrium" (ICML 2024): the balance of
      growth and decay.
    """
    check_structure(structure)
    check_decay(decay)
    for name, setting in (("momentum", momentum), ("gradient_decay", gradient_decay)):
        check_between(name, setting, 0, 1)
    check_between("eps", eps, 0)
    check_between("relative", relative, 0, 1)
    settings = LengthSettings(least, least_of_tables, vector_rate)
    for name, size in settings._asdict().items():
        check_is_static(name, size)
        check_between(name, size, 0)
    history = History(
        structure,
        lambda weight: decay,
        layouts or {},
        lambda seen, packed: factors_of(seen, packed, [-1], eps, guard),
        checks_gradient=False,
    )
    has_momentum = not is_off(momentum)

    def init_fn(params: optax.Params) -> ScaleByInsgdState:
        inputs = history.init(params)
        powers = (jnp.zeros_like(inputs.power_weight) for _ in range(3))
        buffer = optax.tree.zeros_like(params) if has_momentum else optax.EmptyState()
        largest_rate = jnp.zeros((), inputs.power_weight.dtype)
        return ScaleByInsgdState(inputs, GradientHistory(*powers), buffer, largest_rate)

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
        observed = history.observe(updates, state.inputs, input_stats)
        leaves = dict(named_leaves(updates))
        if has_momentum:
            _check_momentum(leaves, state.momentum)
        units = units_of(observed, leaves)
        layouts = {path: layout for each in units for path, layout in each.layouts.items()}
        dtype = state.inputs.power.dtype
        old_momentum = state.momentum if has_momentum else optax.tree.zeros_like(updates)
        split = (split_leaves(tree, layouts, dtype) for tree in (updates, params, old_momentum))
        gradients, weights, buffer = ([each.stacked(tree) for each in units] for tree in split)

        # One pass over all gradients and weights, then arithmetic on a few values per unit.
        directions = [each.directions(parts) for each, parts in zip(units, gradients, strict=True)]
        like = state.inputs.power_weight
        sizes = sizes_of(units, directions, gradients, weights, settings, like)
        taken = state.inputs.count - state.inputs.skipped
        gradient_history = with_batch(state.gradients, sizes, gradient_decay, taken)
        rate = learning_rate(state.inputs.count) if callable(learning_rate) else learning_rate
        rate = jnp.asarray(rate, like.dtype)
        largest_rate = jnp.where(
            jnp.isfinite(rate), jnp.maximum(state.largest_rate, rate), state.largest_rate
        )
        present = largest_rate > 0
        share = jnp.where(present, rate, 1) / jnp.where(present, largest_rate, 1)
        power = reference(gradient_history, gradient_decay, taken, share)
        multiplied_by = factors(sizes, gradient_history, power, rate, momentum, relative)
        finite = observed.finite & jnp.isfinite(jnp.sum(sizes.power))
        multiplied_by = jnp.where(finite & jnp.isfinite(multiplied_by), multiplied_by, 0)

        moved, steps = {}, {}
        for each, direction, old, parts in zip(units, directions, buffer, weights, strict=True):
            new, ahead = _with_momentum(old, direction, finite, momentum, nesterov)
            scale, shrink = multiplied_by[each.at].T[:, :, None, None]
            both = zip(ahead, parts, strict=True)
            moved |= each.opened(new)
            steps |= each.opened([scale * u + shrink * weight for u, weight in both])
        after = ScaleByInsgdState(
            kept_unless(finite, observed.state, state.inputs),
            where_all(finite, gradient_history, state.gradients),
            merged_leaves(state.momentum, moved, layouts) if has_momentum else state.momentum,
            largest_rate,
        )
        return merged_leaves(updates, steps, layouts), after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_momentum(leaves: Mapping[str, Array], momentum: optax.Updates) -> None:
    """Raises if a leaf's momentum has another shape. Under ``jax.jit`` only shapes are known."""
    for path, kept in named_leaves(momentum):
        if path in leaves and jnp.shape(kept) != jnp.shape(leaves[path]):
            raise ValueError(
                f"The state was made for other parameters: '{path}' of shape "
                f"{jnp.shape(leaves[path])} has a momentum of shape {jnp.shape(kept)}. Call init() "
                "on these parameters. To keep the state of the other layers, give this one an "
                "optimizer of its own with optax.partition."
            )


def _with_momentum(
    old: Parts, directions: Parts, finite: Bool[Array, ""], momentum: Number, nesterov: bool
) -> tuple[Parts, Parts]:
    """The new momentum and the direction of the step."""
    pairs = list(zip(old, directions, strict=True))
    new = [jnp.where(finite, momentum * m + u, m) for m, u in pairs]
    if not nesterov:
        return new, new
    # Equals u + momentum * new. With u in it, XLA would compute u twice.
    return new, [(1 + momentum) * n - momentum * m for n, m in zip(new, old, strict=True)]
