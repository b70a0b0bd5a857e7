"""track_groups: keeps the history of groups of examples in the optimizer state."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from insgd_optax.groups.counting import GroupSums, group_sums
from insgd_optax.settings import Number, check_between, check_is_count
from insgd_optax.sharding import axes_apart, in_a_call
from insgd_optax.trees import only_state


class GroupHistory(NamedTuple):
    """The history of every group.

    Attributes:
      count: exponentially decayed number of examples; shape (K,), float32.
      measured: the same, for examples with a known gradient norm; shape (K,), float32.
      gradient_power: mean squared gradient norm under the same weights; shape (K,), float32.
      outside: number of examples so far that belonged to no group; shape (), float32.
      updates: number of updates; shape (), int32.
    """

    count: Float[Array, " K"]
    measured: Float[Array, " K"]
    gradient_power: Float[Array, " K"]
    outside: Float[Array, ""]
    updates: Int[Array, ""]

    @property
    def frequency(self) -> Float[Array, " K"]:
        """Each group's share of the examples; shares add up to 1.

        Laplace's rule adds one example to every group. Before the first update all groups are
        equally frequent. A group that never came has a small share instead of none.
        """
        one_more = self.count + 1
        return one_more / one_more.sum()


def track_groups(
    num_groups: int, decay: Number = 0.999, argument: str = "groups"
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the history of groups of examples, and leaves the updates unchanged.

    .. math::
      c_k \leftarrow \beta c_k + n_k, \qquad
      r_k \leftarrow \frac{\beta c_k r_k + \sum_{i \in k} g_i^2}{\beta c_k + n_k}

    Here group k has :math:`n_k` examples in this update, with gradient norms :math:`g_i`. The
    shares :math:`c_k / \sum c` need no bias correction, even if batches vary in size.

    Put it anywhere in a chain. Pass the labels or `similarity_groups` to ``update`` as
    ``groups``. Read the history one step later in the loss, with `log_prior` or
    `example_weights`.

    >>> import insgd_optax
    >>> optimizer = optax.chain(insgd_optax.track_groups(2), optax.sgd(0.1))
    >>> params = {"w": jnp.zeros(3)}
    >>> state = optimizer.init(params)
    >>> _, state = optimizer.update(params, state, groups=jnp.array([0, 0, 0, 1]))
    >>> [round(float(f), 4) for f in group_history(state).frequency]    # (3 + 1) / 6, (1 + 1) / 6
    [0.6667, 0.3333]

    Args:
      num_groups: K.
      decay: :math:`\beta` in [0, 1]. 1 weighs all examples alike (up to 16 million of a group,
        where float32 stops counting).
      argument: the extra argument of ``update`` that holds the groups. Two trackers in one chain
        need two names, such as one for classes and one for similar inputs.

    Returns:
      A transformation whose ``update`` takes ``groups`` and ``gradient_norms`` as in `group_sums`.
      ``groups`` can also be a `GroupSums`. Micro-batches and devices can add these up, and they can
      use a mask (``optax.MultiSteps`` passes on the groups of the last micro-batch alone). The
      labels of a batch count even if its inputs or gradients are not finite.

    Raises:
      ValueError: if a setting is out of its range; at ``update``, if ``groups`` is missing.
    """
    check_is_count("num_groups", num_groups)
    check_between("decay", decay, 0, 1)

    def init_fn(params: optax.Params) -> GroupHistory:
        del params
        return empty(num_groups)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        gradient_norms: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, GroupHistory]:
        del params
        groups = extra_args.get(argument)
        sums = summed(groups, num_groups, gradient_norms, argument)
        return updates, advanced(state, sums, decay)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def empty(num_groups: int) -> GroupHistory:
    """The history before the first update."""
    count, measured, power = (jnp.zeros(num_groups, jnp.float32) for _ in range(3))
    outside, updates = jnp.zeros([], jnp.float32), jnp.zeros([], jnp.int32)
    return GroupHistory(count, measured, power, outside, updates)


def summed(
    groups: Any, num_groups: int, gradient_norms: Any = None, argument: str = "groups"
) -> GroupSums:
    """The sums of a batch, unless ``groups`` holds them already.

    Raises:
      ValueError: if groups are missing, or if sums have another size or come with norms.
    """
    if groups is None:
        raise ValueError(
            f"The history of groups needs {argument}. Pass the labels: "
            f"optimizer.update(grads, state, params, ..., {argument}=labels)."
        )
    if not isinstance(groups, GroupSums):
        return group_sums(groups, num_groups, gradient_norms)
    if gradient_norms is not None:
        raise ValueError("gradient_norms must be part of the GroupSums that were passed as groups.")
    if groups.count.shape != (num_groups,):
        raise ValueError(f"groups has {groups.count.shape[-1]} groups instead of {num_groups}.")
    return groups


def advanced(history: GroupHistory, sums: GroupSums, decay: Number) -> GroupHistory:
    """Adds a batch to the history.

    Raises:
      ValueError: if the sums are those of one device, but the history is that of all, or if they
        have different numbers of groups.
    """
    if apart := axes_apart(sums, history):
        raise ValueError(
            f"The groups vary over the mesh axes {apart}, but their history does not. Each device "
            "would keep a history of its part of the batch. Sum the groups over the devices and "
            "pass the sums as groups:\n"
            f"    jax.lax.psum(insgd_optax.group_sums(labels, {len(history.count)}), "
            f"{in_a_call(apart)})"
        )
    if sums.count.shape != history.count.shape[-1:] and sums.count.ndim == history.count.ndim:
        raise ValueError(
            f"The state holds {history.count.shape[-1]} groups, but num_groups is "
            f"{sums.count.shape[-1]}. Use the number that the state was made with, or start a new "
            "history with init()."
        )
    decay = jnp.asarray(decay, jnp.float32)
    before = decay * history.measured
    # The sum of finite squares may still overflow.
    new = jnp.where(jnp.isfinite(sums.power), sums.measured, 0)
    measured = before + new
    share = new / jnp.where(measured > 0, measured, 1)
    mean = jnp.where(new > 0, sums.power, 0) / jnp.where(new > 0, new, 1)
    power = (1 - share) * history.gradient_power + share * mean
    return GroupHistory(
        decay * history.count + sums.count,
        measured,
        jnp.where(new > 0, power, history.gradient_power),
        history.outside + sums.outside,
        jnp.asarray(optax.safe_increment(history.updates)),
    )


def group_history(opt_state: optax.OptState) -> GroupHistory:
    """Returns the only `GroupHistory` in an optimizer state.

    Raises:
      ValueError: if there is none or if there are several.
    """
    return only_state(opt_state, GroupHistory, "track_groups(num_groups)")
