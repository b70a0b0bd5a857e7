"""scale_by_class_frequency: rare classes learn as fast as frequent ones, with the same loss."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from insgd_optax.groups.history import GroupHistory, advanced, empty, summed
from insgd_optax.groups.weights import Exponent, bounded, log_frequency_factor
from insgd_optax.settings import Number, check_between, check_is_static
from insgd_optax.trees import named_leaves


def scale_by_class_frequency(
    head: str | Sequence[str],
    exponent: Exponent = 1.0,
    axis: int = -1,
    largest: Number = 100.0,
    decay: Number = 0.999,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides a classifier's gradient, class by class, by the frequency of the class.

    .. math::
      G_{\cdot k} \leftarrow (K f_k)^{-\rho}\, G_{\cdot k}

    Under gradient descent the loss of a class falls as :math:`1 / (\pi_k t)`. A class that is ten
    times rarer takes ten times as many steps. This is one reason why Adam is ahead of SGD on
    language. A factor for each class's column removes this dependence, but a factor for the layer
    cannot.

    >>> import insgd_optax
    >>> optimizer = insgd_optax.scale_by_class_frequency("head")
    >>> grads = {"head": jnp.ones((1, 2))}
    >>> state = optimizer.init(grads)
    >>> labels = jnp.array([0] * 5 + [1])                            # f = 6/8 and 2/8
    >>> updates, state = optimizer.update(grads, state, groups=labels)
    >>> [round(float(u), 4) for u in updates["head"][0]]             # 1 / (2 f)
    [0.6667, 2.0]

    Args:
      head: the path of the classifier's leaf, or a sequence of paths such as
        ``("Dense_1/kernel", "Dense_1/bias")`` (`explain` prints them).
      exponent: :math:`\rho` from 0 to 1, or a schedule of the number of updates. 0 changes nothing.
        On heads of thousands of tokens 0.5 has measured best (docs/classes.md).
      axis: the leaves' axis of classes.
      largest: an upper bound on the factors. ``1 / largest`` is the lower bound.
      decay: as in `track_groups`.

    Returns:
      A transformation whose ``update`` needs ``groups``, the labels. Its state is a
      `GroupHistory`, which `log_prior` and the other readers accept, so no other tracker is needed.
      Put it before the optimizer. A `relative_step` in the optimizer gives the head as a whole its
      usual length, of which rare classes then have a larger part.

    Raises:
      ValueError: if a setting is out of its range; at ``init``, if a leaf does not exist or has
        another number of classes; at ``update``, if ``groups`` is missing.

    References:
      Kunstner et al., "Heavy-Tailed Class Imbalance and Why Adam Outperforms Gradient Descent on
      Language Models" (NeurIPS 2024), for the rates; the factor is ours.
    """
    check_is_static("axis", axis)
    check_between("exponent", exponent, 0, 1)
    check_between("largest", largest, 1)
    check_between("decay", decay, 0, 1)
    paths = (head,) if isinstance(head, str) else tuple(head)
    if not paths or not all(isinstance(path, str) for path in paths):
        raise ValueError(
            "scale_by_class_frequency needs the paths of the classifier's leaves, but got "
            f"head={head!r}."
        )

    def init_fn(params: optax.Params) -> GroupHistory:
        return empty(_classes(params, paths, axis))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        groups: Any = None,
        gradient_norms: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GroupHistory]:
        del params, extra_args
        history = advanced(state, summed(groups, len(state.count), gradient_norms), decay)
        factor = bounded(log_frequency_factor(history, exponent), largest)
        scaled = []
        for path, leaf in named_leaves(updates):
            if path in paths:
                shape = [1] * leaf.ndim
                shape[axis] = -1
                leaf = (leaf * factor.reshape(shape).astype(leaf.dtype)).astype(leaf.dtype)
            scaled.append(leaf)
        return jax.tree.unflatten(jax.tree.structure(updates), scaled), history

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _classes(params: optax.Params, head: Sequence[str], axis: int) -> int:
    """The number of classes of the head.

    Raises:
      ValueError: if a leaf of the head does not exist, or if its leaves do not agree.
    """
    shapes = {path: jnp.shape(leaf) for path, leaf in named_leaves(params)}
    if missing := [path for path in head if path not in shapes]:
        raise ValueError(f"No parameter has the path {missing}. The paths are {sorted(shapes)}.")
    short = [path for path in head if not -len(shapes[path]) <= axis < len(shapes[path])]
    if short:
        raise ValueError(f"'{short[0]}' of shape {shapes[short[0]]} has no axis {axis}.")
    sizes = {path: shapes[path][axis] for path in head}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"The head's leaves differ in their number of classes: {sizes}.")
    return next(iter(sizes.values()))
