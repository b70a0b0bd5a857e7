"""on_white_inputs: any optimizer, run in coordinates where every layer's inputs are white."""

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
      history: as of `scale_by_input`; its factors have two rows, of the powers -1/2 and 1/2.
      inner: the inner optimizer's.
    """

    history: ScaleByInputState
    inner: Any


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
    :math:`x A^{-1/2}` is the identity. With ``optax.sgd`` inside this is `scale_by_input`, where
    the history stands still. (The roots of `MeanVariances` and `LowRank` are exact only where the
    diagonal is the same for all features.) Any other optimizer (Adam, Muon) sees gradients whose
    correlations across inputs are divided out.

    The inner optimizer is given :math:`V` as its parameters, so that its decoupled weight decay
    :math:`\lambda V` comes out as :math:`A^{-1/2} \lambda V = \lambda W`.

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
      inner: any optax optimizer, with its learning rate or without.
      structure: how much of the second moment is kept; the same as in `value_and_grad`.
      decay, eps, guard, layouts: as in `scale_by_input`.

    Returns:
      A transformation whose ``update`` needs ``input_stats``, and ``params`` if the inner one does.
      A batch that is not finite reaches the inner optimizer as a gradient of zero.

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

    def init_fn(params: Any) -> OnWhiteInputsState:
        return OnWhiteInputsState(history.init(params), inner.init(params))

    def update_fn(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        input_stats: Mapping[str, InputMoments | None] | None = None,
        **extra_args: Any,
    ) -> tuple[Any, OnWhiteInputsState]:
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
    tree: Any, moments: Mapping[str, InputMoments], factors: Mapping[str, Factor], dtype: Any
) -> Any:
    """The tree with every captured leaf multiplied by its layer's factor."""
    layouts = {path: layer.layout for path, layer in moments.items()}
    moved = {
        path: applied(moments[path], factors[path], matrix)
        for path, matrix in split_leaves(tree, layouts, dtype).items()
    }
    return merged_leaves(tree, moved, layouts)
