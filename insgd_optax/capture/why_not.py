"""Why an equation that uses a weight is no layer: what an error or `explain` says of the leaf."""

from insgd_optax.capture.origin import SPREAD, Origin

BIAS = "a bias or a gain, which keeps its plain gradient"


def note_why_not(
    noted: dict[int, list[str]],
    name: str,
    data: frozenset[int | str],
    operand: Origin,
    shape: tuple[int, ...],
    repeated: bool,
) -> None:
    """Notes why a weight that meets data in anything but a layer may get no layer at all.

    Args:
      noted: reasons by the leaf's number.
      name: the primitive that is no layer.
      data: the arguments of the loss that meet there.
      operand, shape: the operand that may hold weights.
      repeated: whether its entries are repeated over the result.
    """
    if not data:
        return
    arguments = " and ".join(str(argument) for argument in sorted(data, key=str))
    reason = f"meets argument {arguments} of the loss in `{name}`, no layer"
    for leaf, view in operand.leaves.items():
        bias = _is_bias(name, shape, view is SPREAD or (view is not None and repeated))
        noted.setdefault(leaf, []).append(BIAS if bias else reason)


def _is_bias(name: str, shape: tuple[int, ...], repeated: bool) -> bool:
    """Whether every example meets the same entries of a leaf.

    That is a bias, a gain, a learned token, the learned initial state of a loop. A mask that is
    multiplied with a weight must not pass for one, so a product counts only if the leaf is
    repeated. In a sum, an axis of size one is the examples' axis too, if there is but one.
    """
    if repeated:
        return name in ("add", "sub", "mul", "div", "concatenate", "scan")
    return 1 in shape and name in ("add", "sub", "concatenate", "scan")
