"""The reasons why an equation with a weight is not a layer, for errors and `explain`."""

from collections.abc import Mapping, Sequence

from insgd_optax import compat
from insgd_optax.capture.origin import SPREAD, Origin
from insgd_optax.capture.primitives import (
    ENTRYWISE,
    LOOKUPS,
    OPAQUE,
    PRODUCTS,
    is_entrywise,
    is_multiplication,
    is_penalty,
)
from insgd_optax.compat import JaxprEqn

BIAS = "a bias or a gain, which keeps its plain gradient"
NO_DATA = "is not combined with data: its gradient comes from a penalty or the like"
NO_GRADIENT = "no gradient reaches it from the loss"
CHOSEN = (
    "a stack of matrices from which the batch selects one that is then applied to it: sort the "
    "rows by their matrix and use jax.lax.ragged_dot"
)
SUMMED = (
    "is multiplied with the batch entry by entry, and the products are summed: write this as an "
    "einsum or a convolution to make it a layer"
)
TAPS = (
    "is multiplied slice by slice with shifts of the batch, and the products are summed: write "
    "this convolution as jax.lax.conv_general_dilated(..., feature_group_count=channels) to make "
    "it a layer"
)
SPLIT = (
    "is split over the devices by a `shard_map` inside the loss: pass it whole, with P() in "
    "in_specs, or call value_and_grad inside the mapped function and sum its results"
)
UNSEEN = (
    ": JAX cannot see inside it. Insert x = insgd_optax.tap(x, weight) before it, or "
    "insgd_optax.tap(x, weight, operation) if it is not a matrix product"
)
# In these cases no matrix, kernel or table was missed.
HARMLESS = frozenset({BIAS, NO_DATA, NO_GRADIENT})

Reasons = dict[int, list[str]]  # by the leaf's number


def note_why_not(
    reasons: Reasons, equation: JaxprEqn, operands: Sequence[Origin], data: frozenset[int | str]
) -> None:
    """Records why the weights in an equation's operands may have no layer at all.

    Args:
      reasons: the reasons so far.
      equation: the equation, which is not a layer.
      operands: the origins of its operands.
      data: the arguments of the loss that the equation combines.
    """
    entrywise, hint = is_entrywise(equation), UNSEEN if equation.primitive.name in OPAQUE else ""
    for place, operand in enumerate(operands):
        others = [*operands[:place], *operands[place + 1 :]]
        if _is_product(equation) and any(other.data for other in others):
            for leaf, reason in operand.held.items():
                reasons.setdefault(leaf, []).append(reason)
        if data and not is_penalty(equation):
            reason = (
                BIAS
                if entrywise
                else f"{_meeting(equation, data)}, which is not a supported layer operation{hint}"
            )
        elif not data and _is_sum_of_products(equation) and any(other.given for other in others):
            reason = f"`{equation.primitive.name}` applies it to an array that is not batch data"
        else:
            continue
        for leaf in operand.leaves:
            reasons.setdefault(leaf, []).append(reason)


def held_leaves(equation: JaxprEqn, operands: Sequence[Origin]) -> Mapping[int, str]:
    """The leaves of an equation's result that were combined with raw data entry by entry.

    In ``x @ (w * mask)``, a mask that counts as data hides a layer. ``w`` is combined with it and
    still applied to ``x``. A gain is combined with data in the same way, but it is not applied to
    anything. So the reason is held until a product applies the result. A layer or a repetition
    drops it.
    """
    name = equation.primitive.name
    if name not in ENTRYWISE | {"concatenate"} or not any(o.leaves or o.held for o in operands):
        return {}
    with_data = [operand for operand in operands if operand.data]
    if not with_data or any(each.computed and not each.held for each in with_data):
        return {}
    data = frozenset().union(*(each.data for each in with_data))
    reason = f"{_meeting(equation, data)} before it is applied to the batch"
    shape, held = compat.shape_of(equation.outvars[0]), {}
    for atom, operand in zip(equation.invars, operands, strict=True):
        if name != "concatenate" and compat.shape_of(atom) != shape:
            continue
        entries = [leaf for leaf, view in operand.leaves.items() if view is not SPREAD]
        held |= {**dict.fromkeys(entries, reason), **operand.held}
    return held


def chosen_leaves(operand: Origin) -> Mapping[int, str]:
    """The leaves of a lookup's result that are missed if a product applies it to the batch.

    If the batch selects one matrix of a stack, the matrix is one of several experts. It sees the
    input of the product, and not the selection. The same lookup without a product is an embedding.
    """
    return dict.fromkeys(operand.leaves, CHOSEN)


def _is_product(equation: JaxprEqn) -> bool:
    return equation.primitive.name in PRODUCTS and not is_multiplication(equation)


def _is_sum_of_products(equation: JaxprEqn) -> bool:
    return _is_product(equation) and equation.primitive.name not in LOOKUPS


def _meeting(equation: JaxprEqn, data: frozenset[int | str]) -> str:
    arguments = " and ".join(str(argument) for argument in sorted(data, key=str))
    return f"is combined with argument {arguments} of the loss by `{equation.primitive.name}`"
