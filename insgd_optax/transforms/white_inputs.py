"""on_white_inputs: runs any optimizer in coordinates where a layer's inputs are white."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import optax

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.settings import Number
from insgd_optax.structures import MeanVariances, Structure, check_structure
from insgd_optax.transforms.factors import Factor, applied, factors_of
from insgd_optax.transforms.normalizer import History, ScaleByInputState
from insgd_optax.transforms.scale_by_input import check_decay
from insgd_optax.trees import merged_leaves, split_leaves, zero_unless


class OnWhiteInputsState(NamedTuple):
    """State of `on_white_inputs`.

    Attributes:
      history: as in `scale_by_input`. Its factors have two rows, for the powers -1/2 and 1/2.
      inner: state of the inner optimizer.
    """

    history: ScaleByInputState
    inner: optax.OptState


def on_white_inputs(
    inner: optax.GradientTransformation,
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    decay: Number = 0.95,
    eps: Number = 1e-2,
    guard: bool = True,
    *,
    layouts: Mapping[str, Layout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs an optimizer on :math:`V = A^{1/2} W`, the weights of a layer whose inputs are white.

    .. math::
      u = A^{-1/2} \, \mathrm{inner}(A^{-1/2} G)

    A layer :math:`z = x W` is also :math:`z = (x A^{-1/2}) V`, and the second moment of
    :math:`x A^{-1/2}` is the identity. If the history is constant, ``optax.sgd`` inside gives
    `scale_by_input`. (The roots of `MeanVariances` and `LowRank` are exact only if the diagonal is
    the same for all features.) Any other optimizer (Adam, Muon) sees gradients without the
    correlations across inputs.

    The inner optimizer gets :math:`V` as its parameters. Its decoupled weight decay
    :math:`\lambda V` then becomes :math:`A^{-1/2} \lambda V = \lambda W`.

    >>> import insgd_optax
    >>> import jax.numpy as jnp
    >>> loss_fn = lambda params, inputs: jnp.sum(inputs @ params["kernel"])
    >>> params, inputs = {"kernel": jnp.ones((2, 1))}, jnp.array([[3.0, 3.0]])   # mean square 9
    >>> structure = insgd_optax.Scalar()
    >>> grad_fn = insgd_optax.value_and_grad(loss_fn, structure=structure)
    >>> _, grads, input_stats = grad_fn(params, inputs)
    >>> optimizer = on_white_inputs(optax.sign_sgd(0.3), structure)
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    >>> [round(float(u), 6) for u in updates["kernel"][:, 0]]     # -0.3 * sign(...) / 3
    [-0.1, -0.1]

    Args:
      inner: any optax optimizer, with or without its learning rate.
      structure: how much of the second moment is kept; the same as in `value_and_grad`.
      decay, eps, guard, layouts: as in `scale_by_input`.

    Returns:
      A transformation whose ``update`` needs ``input_stats``, and ``params`` if the inner one does.
      For a batch that is not finite, the inner optimizer gets a gradient of zero.

    Raises:
      ValueError: at ``update``, if ``input_stats`` is missing or does not fit the updates.
    """
    check_structure(structure)
    check_decay(decay)
    exponents = -0.5, 0.5
    history = History(
        structure,
        lambda weight: decay,
        layouts or {},
        lambda seen, packed: factors_of(seen, packed, exponents, eps, guard),
        exponents,
    )
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> OnWhiteInputsState:
        return OnWhiteInputsState(history.init(params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        input_stats: Mapping[str, InputMoments | None] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, OnWhiteInputsState]:
        observed = history.observe(updates, state.history, input_stats)
        moments, finite, after = observed.moments, observed.finite, observed.state
        root, inverse_root = observed.by_path()
        dtype = after.power.dtype
        white = zero_unless(finite, _applied(updates, moments, root, dtype))
        white_params = params if params is None else _applied(params, moments, inverse_root, dtype)
        moved, inner_state = inner.update(white, state.inner, white_params, **extra_args)
        return _applied(moved, moments, root, dtype), OnWhiteInputsState(after, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _applied(
    tree: optax.Updates,
    moments: Mapping[str, InputMoments],
    factors: Mapping[str, Factor],
    dtype: Any,
) -> optax.Updates:
    """Multiplies every captured leaf of a tree by its layer's factor."""
    layouts = {path: layer.layout for path, layer in moments.items()}
    moved = {
        path: applied(moments[path], factors[path], matrix)
        for path, matrix in split_leaves(tree, layouts, dtype).items()
    }
    return merged_leaves(tree, moved, layouts)
