"""Normalizer: updates each layer's history and derives the factors of a step from it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from insgd_optax.layout import Layout
from insgd_optax.moments import InputMoments
from insgd_optax.numerics import either
from insgd_optax.settings import Number
from insgd_optax.sharding import on_current_mesh
from insgd_optax.structures import Structure
from insgd_optax.transforms.factors import Derived, Packed, Seen
from insgd_optax.transforms.fingerprints import check_fingerprints, fingerprints
from insgd_optax.transforms.history import Slot, pack, slots_for, totals, updated
from insgd_optax.transforms.matching import match_statistics
from insgd_optax.transforms.stacks import Stack, kind_of, lone_stacks, opened
from insgd_optax.trees import all_finite, named_leaves, where_all, widest_dtype, zeros_of


class ScaleByInputState(NamedTuple):
    """State of `scale_by_input`.

    The history is packed into vectors, so no wrapper mistakes it for parameters.

    Attributes:
      count: number of updates; shape (), int32.
      skipped: number of updates skipped because a value was not finite; shape (), int32.
      power: history of every leaf in path order, before bias correction; shape (numbers,), float32,
        or float64 if a parameter is.
      power_weight: accumulated weight of each group's history, for bias correction; shape
        (groups,), same dtype.
      factor: factors cached between refreshes, one row per exponent; shape (exponents, factors),
        same dtype. One zero per exponent if none is cached, because checkpoints refuse empty
        arrays.
      fingerprints: hashes of the structure and of every leaf in path order; shape (1 + leaves,),
        int32.
    """

    count: Int[Array, ""]
    skipped: Int[Array, ""]
    power: Float[Array, " numbers"]
    power_weight: Float[Array, " groups"]
    factor: Float[Array, "exponents factors"]
    fingerprints: Int[Array, " fingerprints"]


class Observed(NamedTuple):
    """The result of `History.observe`.

    Attributes:
      moments: statistics of every layer, by the path of its weight.
      derived: stacks derived from the history, for each of ``exponents``; zeros unless everything
        is finite.
      lone: stacks of the leaves that belong to no layer.
      finite: whether everything is finite.
      state: the new state.
      slots: slices of each leaf in the packed state, by path.
    """

    moments: dict[str, InputMoments]
    derived: list[list[Stack]]
    lone: list[Stack]
    finite: Bool[Array, ""]
    state: ScaleByInputState
    slots: dict[str, Slot]

    def by_path(self) -> list[dict[str, Any]]:
        """Splits ``derived`` by path, for each exponent."""
        groups = {path: layer.layout.groups for path, layer in self.moments.items()}
        return [opened(stacks, groups) for stacks in self.derived]


Derive = Callable[[Mapping[str, Seen], Packed], Derived]


@dataclasses.dataclass(frozen=True)
class History:
    """The history of every layer's input.

    Attributes:
      structure: how much of the second moment is kept.
      decay_at: maps the accumulated weight of the history to the decay of this update.
      layouts: the parameters' layouts, if their shapes do not suggest them.
      derive: maps the history to the stacks for a step and the factors to cache.
      exponents: powers of the second moment whose factors are cached.
      checks_gradient: whether to check that the gradients are finite. If not, the caller does.
    """

    structure: Structure
    decay_at: Callable[[Array], Number | Array]
    layouts: Mapping[str, Layout]
    derive: Derive
    exponents: tuple[Number, ...] = (-1,)
    checks_gradient: bool = True

    def init(self, params: optax.Params) -> ScaleByInputState:
        """Creates an empty history with space for these parameters."""
        named = named_leaves(params)
        room = totals(slots_for(named, self.structure, self.layouts))
        dtype = widest_dtype(jax.tree.leaves(params))
        counters = [jnp.zeros([], jnp.int32) for _ in range(2)]
        shapes = room.numbers, room.groups, (len(self.exponents), room.factors)
        made_for = fingerprints(self.structure, named, self.layouts)
        made_for = on_current_mesh(jnp.asarray(made_for))
        packed = (jnp.zeros(shape, dtype) for shape in shapes)
        return ScaleByInputState(*counters, *packed, fingerprints=made_for)

    def observe(
        self,
        updates: optax.Updates,
        state: Any,
        input_stats: Mapping[str, InputMoments | None] | None,
    ) -> Observed:
        """Adds a batch to the history and derives the stacks for a step.

        Raises:
          ValueError: if the statistics are missing or do not fit the updates.
        """
        named = named_leaves(updates)
        matched = match_statistics(named, input_stats, self.structure)
        slots = slots_for(named, self.structure, self.layouts)
        check_fingerprints(state.fingerprints, self.structure, named, self.layouts)
        _check_state(slots, state)
        batch = pack(slots, matched, state.power.dtype)
        moments = {path: found for path, found in matched.items() if found is not None}
        leaves = dict(named)

        def moved() -> tuple[ScaleByInputState, Any]:
            decay = _lasting(self.decay_at(state.power_weight), moments, slots, state.power.dtype)
            new = updated(state.power, state.power_weight, batch, decay)
            updates = state.count - state.skipped
            packed = Packed(new.history, new.batch, new.weight, state.factor, slots, updates)
            seen = {
                path: Seen(layer, kind_of(path, layer, leaves), slots[path], packed)
                for path, layer in moments.items()
            }
            derived, factor = self.derive(seen, packed)
            after = state._replace(
                count=count, power=new.power, power_weight=new.weight, factor=factor
            )
            return after, (derived, lone_stacks(leaves, moments))

        def kept() -> tuple[ScaleByInputState, Any]:
            skipped = jnp.asarray(optax.safe_increment(state.skipped))
            return state._replace(count=count, skipped=skipped), zeros_of(moved)[1]

        count = jnp.asarray(optax.safe_increment(state.count))
        gradient = [leaf for _, leaf in named] if self.checks_gradient else []
        finite = all_finite([*gradient, batch.sums], state.power.dtype)
        # The results of a branch are stored in memory. Otherwise XLA would repeat all of this in
        # the kernel of every leaf, and leaves of one shape could not share a kernel.
        after, (derived, lone) = either(finite, moved, kept)
        return Observed(moments, derived, lone, finite, after, slots)


def kept_unless(
    finite: Bool[Array, ""], after: ScaleByInputState, before: ScaleByInputState
) -> ScaleByInputState:
    """The new state if everything is finite, else the old one with one more skipped update."""
    skipped = jnp.asarray(optax.safe_increment(before.skipped))
    bad = before._replace(count=after.count, skipped=skipped)
    return where_all(finite, after, bad)


def _lasting(
    decay: Number | Array,
    moments: Mapping[str, InputMoments],
    slots: Mapping[str, Slot],
    dtype: Any,
) -> Number | Array:
    """The decay of each group's history, ``decay ** (1 / memory)``."""
    memory = {path: layer.kept.memory for path, layer in moments.items()}
    if set(memory.values()) <= {1}:
        return decay
    share = np.ones(totals(slots).groups, dtype)
    for path, times in memory.items():
        share[slots[path].groups] = 1 / times
    return jnp.asarray(decay, dtype) ** share


def _check_state(slots: Mapping[str, Slot], state: ScaleByInputState) -> None:
    numbers, groups, factors = totals(slots)
    sizes = state.power.size, state.power_weight.size, state.factor.shape[-1]
    if (numbers, groups, factors) != sizes:
        raise ValueError(
            f"The state holds {state.power.size} entries, but the history of these updates needs "
            f"{numbers}: {sorted(slots)}. It was made for parameters of other shapes, for another "
            "structure or with other layouts. Outside of jax.jit, insgd_optax.check_state(state, "
            "params, structure=...) tells which. Or start a new history with init()."
        )
