"""Groups of similar inputs: running prototypes, and the one that each input is nearest to."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.settings import Number, check_between, check_is_count
from insgd_optax.sharding import everywhere
from insgd_optax.trees import only_state

# A prototype that is left with less than this share of an example starts again.
UNUSED = 1e-2


class Prototypes(NamedTuple):
    """The centers of groups of inputs.

    Attributes:
      center: shape (K, features), float32.
      count: how many inputs each is the mean of, older ones counting less; shape (K,), float32.
    """

    center: Float[Array, "K features"]
    count: Float[Array, " K"]


def track_prototypes(
    num_groups: int, size: int, decay: Number = 0.99
) -> optax.GradientTransformationExtraArgs:
    """Keeps K running prototypes of the inputs, and leaves the updates as they are.

    A prototype is the mean of the inputs that were nearest to it, each update's weighing ``decay``
    times as much after the next (k-means of a stream). One that nothing was near to for long, by
    the decay, starts again at an input of the batch. `similarity_groups` reads them one step later.

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
      size: how many features an input has. Raw inputs, or a hidden layer's; their scale decides
        what is near.
      decay: in [0, 1]; at 1 no prototype starts again.

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

    def init_fn(params: Any) -> Prototypes:
        del params
        count = jnp.zeros(num_groups, jnp.float32)
        return Prototypes(jnp.zeros((num_groups, size), jnp.float32), count)

    def update_fn(
        updates: Any, state: Any, params: Any = None, *, features: Any = None, **extra_args: Any
    ) -> tuple[Any, Prototypes]:
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


def similarity_groups(opt_state: Any, features: Float[Array, "examples ..."]) -> Array:
    """The prototype that each input is nearest to: its group, for `track_groups` and the weights.

    Args:
      opt_state: an optimizer's state that holds `Prototypes`, or them alone.
      features: as for `track_prototypes`.

    Returns:
      Groups from 0 to K - 1, of shape (examples,), int32; -1 where a feature is not finite. Before
      the first update all are in group 0, and so count the same.

    Raises:
      ValueError: if there are no prototypes in the state, or several, or of another size.
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
            f"features are of shape {features.shape}: one row of {size} numbers an example is what "
            f"track_prototypes(..., size={size}) takes."
        )
    rows = jax.lax.stop_gradient(features).reshape(len(features), size).astype(jnp.float32)
    finite = jnp.all(jnp.isfinite(jnp.square(rows)), axis=1)
    return jnp.where(finite[:, None], rows, 0), finite


def _nearest(found: Prototypes, rows: Float[Array, "examples features"]) -> Int[Array, " examples"]:
    # Squared distances without the input's own square, which all prototypes share.
    # From the mean of the prototypes, or a common offset would take all digits.
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
    """Prototypes that nothing is near to start again, each at a row of its own."""
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
    """Every prototype with the inputs of the batch that are nearest to it."""
    size = len(found.count)
    group = jnp.where(finite, _nearest(found, rows), size)
    number = jnp.zeros(size, jnp.float32).at[group].add(jnp.float32(1), mode="drop")
    total = jnp.zeros_like(found.center).at[group].add(rows, mode="drop")
    # The place where a prototype started is no input's but the one that it will be the mean of.
    before = jnp.where(found.count > UNUSED, found.count, 0)
    count = before + number
    mean = (before[:, None] * found.center + total) / jnp.where(count > 0, count, 1)[:, None]
    return Prototypes(
        jnp.where((number > 0)[:, None], mean, found.center), jnp.maximum(count, found.count)
    )
