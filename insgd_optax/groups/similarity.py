"""Groups of similar inputs: running prototypes, and the nearest one of each input."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.settings import Number, check_between, check_is_count
from insgd_optax.sharding import everywhere
from insgd_optax.trees import only_state

# A prototype restarts below this count of examples.
UNUSED = 1e-2


class Prototypes(NamedTuple):
    """The centers of groups of inputs.

    Attributes:
      center: shape (K, features), float32.
      count: exponentially decayed number of inputs in each mean; shape (K,), float32.
    """

    center: Float[Array, "K features"]
    count: Float[Array, " K"]


def track_prototypes(
    num_groups: int, size: int, decay: Number = 0.99
) -> optax.GradientTransformationExtraArgs:
    """Keeps K running prototypes of the inputs, and leaves the updates unchanged.

    A prototype is the exponentially decayed mean of the inputs nearest to it (k-means of a stream).
    A prototype whose count decays below 0.01 restarts at an input of the batch.
    `similarity_groups` reads them one step later.

    >>> tracker = track_prototypes(2, size=1)
    >>> state = tracker.init({})
    >>> for batch in ([[0.0], [4.0]], [[1.0], [5.0]]):
    ...     _, state = tracker.update({}, state, features=jnp.array(batch))
    >>> [round(float(center), 3) for center in state.center[:, 0]]   # (0.99 * 0 + 1) / 1.99, ...
    [0.503, 4.503]
    >>> similarity_groups(state, jnp.array([[-3.0], [9.0]])).tolist()
    [0, 1]

    Args:
      num_groups: K.
      size: number of features of an input. Use raw inputs or those of a hidden layer. Distances
        depend on their scale.
      decay: in [0, 1]; at 1 no prototype restarts.

    Returns:
      A transformation whose ``update`` takes ``features``, of shape (examples, ...). Rows that are
      not finite are left out.

    Raises:
      ValueError: if a setting is out of its range; at ``update``, if ``features`` is missing or
        has another size.

    References:
      MacQueen, "Some methods for classification and analysis of multivariate observations" (1967).
    """
    for name, setting in (("num_groups", num_groups), ("size", size)):
        check_is_count(name, setting)
    check_between("decay", decay, 0, 1)

    def init_fn(params: optax.Params) -> Prototypes:
        del params
        count = jnp.zeros(num_groups, jnp.float32)
        return Prototypes(jnp.zeros((num_groups, size), jnp.float32), count)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        features: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Prototypes]:
        del params, extra_args
        if features is None:
            raise ValueError(
                "track_prototypes was called without features: "
                "optimizer.update(grads, state, params, ..., features=inputs)."
            )
        rows, finite = _rows(features, size)
        if not len(rows):
            return updates, state
        decay_now = jnp.asarray(decay, jnp.float32)
        started = _started(state._replace(count=decay_now * state.count), rows, finite)
        return updates, _moved(started, rows, finite)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def similarity_groups(opt_state: optax.OptState, features: Float[Array, "examples ..."]) -> Array:
    """The nearest prototype of each input: its group, for `track_groups` and the weights.

    Args:
      opt_state: an optimizer's state that holds `Prototypes`, or `Prototypes` themselves.
      features: as in `track_prototypes`.

    Returns:
      Groups from 0 to K - 1, of shape (examples,), int32; -1 if a feature is not finite. Before the
      first update all inputs are in group 0, and so count the same.

    Raises:
      ValueError: if the state has no prototypes, several, or some of another size.
    """
    found = only_state(opt_state, Prototypes, "track_prototypes(num_groups, size)")
    rows, finite = _rows(features, found.center.shape[1])
    return jnp.where(finite, _nearest(found, rows), -1)


def _rows(
    features: Any, size: int
) -> tuple[Float[Array, "examples features"], Bool[Array, " examples"]]:
    features = everywhere(jnp.asarray(features))
    if features.ndim < 2 or math.prod(features.shape[1:]) != size:
        raise ValueError(
            f"features have shape {features.shape}, but track_prototypes(..., size={size}) takes "
            f"one row of {size} numbers per example."
        )
    rows = jax.lax.stop_gradient(features).reshape(len(features), size).astype(jnp.float32)
    finite = jnp.all(jnp.isfinite(jnp.square(rows)), axis=1)
    return jnp.where(finite[:, None], rows, 0), finite


def _nearest(found: Prototypes, rows: Float[Array, "examples features"]) -> Int[Array, " examples"]:
    # Squared distances without the square of the input, which all prototypes share. They are
    # relative to the mean of the prototypes, as a common offset would cost all precision.
    mean = found.center.mean(axis=0, keepdims=True)
    center = found.center - mean
    squares = jnp.sum(jnp.square(center), axis=1)[None]
    products = jnp.matmul(rows - mean, center.T, precision=jax.lax.Precision.HIGHEST)
    distance = squares - 2 * products
    unused = jnp.where(found.count > 0, 0, jnp.inf).astype(jnp.float32)[None]
    return jnp.argmin(distance + unused, axis=1).astype(jnp.int32)


def _started(
    found: Prototypes, rows: Float[Array, "examples features"], finite: Bool[Array, " examples"]
) -> Prototypes:
    """Restarts unused prototypes, each at a different row."""
    unused = found.count < UNUSED
    order = jnp.argsort(~finite, stable=True)  # finite rows first
    rank = jnp.cumsum(unused) - 1
    starts = unused & (rank < jnp.sum(finite))
    row = order[jnp.clip(rank, 0, len(rows) - 1)]
    center = jnp.where(starts[:, None], rows[row], found.center)
    return Prototypes(center, jnp.where(starts, UNUSED, found.count))


def _moved(
    found: Prototypes, rows: Float[Array, "examples features"], finite: Bool[Array, " examples"]
) -> Prototypes:
    """Adds the inputs of the batch to their nearest prototypes."""
    size = len(found.count)
    group = jnp.where(finite, _nearest(found, rows), size)
    number = jnp.zeros(size, jnp.float32).at[group].add(jnp.float32(1), mode="drop")
    total = jnp.zeros_like(found.center).at[group].add(rows, mode="drop")
    # A restarted prototype has no weight yet. Its starting row is counted as an input above.
    before = jnp.where(found.count > UNUSED, found.count, 0)
    count = before + number
    mean = (before[:, None] * found.center + total) / jnp.where(count > 0, count, 1)[:, None]
    return Prototypes(
        jnp.where((number > 0)[:, None], mean, found.center), jnp.maximum(count, found.count)
    )
