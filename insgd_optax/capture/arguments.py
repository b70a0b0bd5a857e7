"""Arguments of a loss: the parameters, the batch and all others."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from insgd_optax.capture.origin import Origin, View


def positions(name: str, given: int | Sequence[int], arguments: int) -> tuple[int, ...]:
    """Positions of arguments, counted from the front.

    Raises:
      ValueError: if a position is out of range.
    """
    given = (given,) if isinstance(given, int) else tuple(given)
    for position in given:
        if not -arguments <= position < arguments:
            raise ValueError(
                f"{name}={given} names argument {position}, but the loss was called with "
                f"{arguments} positional arguments. Pass that argument by position."
            )
    return tuple(position % arguments for position in given)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, which is traced.

    Flags, sizes and functions stay as they are, as under `jax.grad`.
    """
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def is_exact(leaf: Any, origin: Origin) -> bool:
    """Whether a leaf is bitwise identical on any number of devices.

    The batch, keys and counters are. Sums differ in their last bits, and a train step computes
    parameters and the averages of BatchNorm from sums.
    """
    return bool(origin.data) or (origin.given and not jnp.issubdtype(leaf.dtype, jnp.inexact))


def argument_origins(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    argnums: int | Sequence[int],
    batch_argnums: int | Sequence[int] | None,
) -> list[Origin]:
    """The origin of every leaf of the arguments, in flattening order.

    Raises:
      ValueError: if a position is out of range, or if an argument is both parameters and batch.
    """
    parameters = positions("argnums", argnums, len(args))
    batch = None if batch_argnums is None else positions("batch_argnums", batch_argnums, len(args))
    if batch is not None and (both := set(parameters) & set(batch)):
        raise ValueError(f"Arguments {sorted(both)} are in both argnums and batch_argnums.")
    origins: list[Origin] = []
    for argument, tree in [*enumerate(args), *sorted(kwargs.items())]:
        for leaf in jax.tree.leaves(tree):
            if argument in parameters:
                origins.append(Origin({len(origins): View.of_leaf(jnp.shape(leaf))}))
            elif batch is None:
                origins.append(_of_argument(argument, not _is_key(leaf)))
            else:
                origins.append(_of_argument(argument, argument in batch))
    return origins


def _of_argument(argument: int | str, is_batch: bool) -> Origin:
    return Origin(data=frozenset({argument})) if is_batch else Origin(given=True)


def _is_key(leaf: Any) -> bool:
    """Whether a leaf is a PRNG key, typed or raw."""
    if not is_array(leaf):
        return False
    raw = leaf.dtype == jnp.uint32 and leaf.shape == (2,)
    return raw or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
