"""Origin: the parameters and the data that a variable of a traced program is made from."""

import dataclasses
from collections.abc import Iterable, Mapping

from insgd_optax.capture.moved import Moved
from insgd_optax.layout import Step, append_step, shape_after


@dataclasses.dataclass(frozen=True)
class View:
    """A variable made by only moving the entries of one leaf.

    Inside a scan over stacked layers, a variable is one slice of the leaf. The steps still describe
    the whole leaf. Its ``len(loops)`` leading axes are the ones that scans have taken.

    Attributes:
      steps: the steps from the leaf to the whole array.
      shape: the shape of that array, with the axes that loops have taken in front.
      loops: the nesting depths of the loops that have taken an axis, outermost first.
      leaf: the shape of the leaf.
    """

    steps: tuple[Step, ...]
    shape: tuple[int, ...]
    loops: tuple[int, ...]
    leaf: tuple[int, ...]

    @classmethod
    def of_leaf(cls, shape: tuple[int, ...]) -> "View":
        return cls((), shape, (), shape)

    def then(self, step: Step) -> "View":
        """The view after the program applies a step to the variable."""
        taken = len(self.loops)
        kind, numbers = step
        if kind == "reshape":
            numbers = self.shape[:taken] + numbers
        elif kind == "transpose":
            numbers = (*range(taken), *(axis + taken for axis in numbers))
        else:
            numbers = tuple(axis + taken for axis in numbers)
        steps = append_step(self.steps, (kind, numbers), self.shape)
        return View(steps, shape_after((kind, numbers), self.shape), self.loops, self.leaf)

    def enter_loop(self, depth: int) -> "View":
        """The view inside a scan that takes the variable's leading axis."""
        return dataclasses.replace(self, loops=(*self.loops, depth))

    def sliced(self, cut: tuple[slice, ...]) -> "Part | None":
        part = self.as_part()
        return part and part.sliced(cut)

    def as_part(self) -> "Part | None":
        """The same entries by position in the leaf; None if the positions are not regular."""
        part: Part | None = Part(Moved.of_leaf(0, self.leaf))
        for step in self.steps:
            part = part and part.then(step)
        for depth in self.loops:
            part = part and part.enter_loop(depth)
        return part


@dataclasses.dataclass(frozen=True)
class Part:
    """A static slice of a leaf that was only moved, stored by the positions of its entries."""

    moved: Moved

    def then(self, step: Step) -> "Part | None":
        kind, numbers = step
        if kind == "reverse":
            return None
        moved = self.moved
        return _part(moved.transposed(numbers) if kind == "transpose" else moved.reshaped(numbers))

    def enter_loop(self, depth: int) -> "Part | None":
        return _part(self.moved.enter_loop(depth))

    def sliced(self, cut: tuple[slice, ...]) -> "Part | None":
        return _part(self.moved.sliced(cut))


def _part(moved: Moved | None) -> Part | None:
    return None if moved is None else Part(moved)


class Spread:
    """A variable that repeats a leaf's entries along new axes, like a bias added to every row."""

    def then(self, step: Step) -> "Spread":
        return self

    def enter_loop(self, depth: int) -> "Spread":
        return self

    def sliced(self, cut: tuple[slice, ...]) -> "Spread":
        return self


SPREAD = Spread()
Seen = View | Part | Spread | None


@dataclasses.dataclass(frozen=True)
class Origin:
    """The parameters or the data that a variable depends on.

    Attributes:
      leaves: for every leaf (by number) that it is made from, the `View` or `Part`. SPREAD if the
        entries were repeated, None if they were mixed. Leaves are followed only until data comes
        in. From there on a variable is an activation.
      data: the batch arguments of the loss (by position or name) that it depends on.
      given: without leaves and data, whether it depends on an array from outside. This is an
        argument that is not the batch, or an array that the loss closes over.
      computed: whether parameters have entered the data.
      held: the leaves whose entries were combined with raw data, one by one, and why that may hide
        a layer (see `held_leaves`).
    """

    leaves: Mapping[int, Seen] = dataclasses.field(default_factory=dict)
    data: frozenset[int | str] = frozenset()
    given: bool = False
    computed: bool = False
    held: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @property
    def is_weight(self) -> bool:
        """Whether it is made only from parameters and constants."""
        return bool(self.leaves)

    @property
    def is_constant(self) -> bool:
        """Whether it is created inside the loss, from none of its inputs."""
        return not (self.leaves or self.data or self.given)

    def then(self, step: Step) -> "Origin":
        moved = {leaf: view and view.then(step) for leaf, view in self.leaves.items()}
        return dataclasses.replace(self, leaves=moved)

    def enter_loop(self, depth: int) -> "Origin":
        inside = {leaf: view and view.enter_loop(depth) for leaf, view in self.leaves.items()}
        return dataclasses.replace(self, leaves=inside)

    def sliced(self, cut: tuple[slice, ...]) -> "Origin":
        """The origin of a static slice, with a start, a stop and a step for every axis."""
        parts = {leaf: view and view.sliced(cut) for leaf, view in self.leaves.items()}
        return dataclasses.replace(self, leaves=parts, held={})

    def spread(self) -> "Origin":
        spread = {leaf: view and SPREAD for leaf, view in self.leaves.items()}
        return dataclasses.replace(self, leaves=spread, held={})

    def without_derivative(self) -> "Origin":
        """The origin of a result that no gradient flows back through.

        Parameters become constants.
        """
        computed = self.computed or bool(self.data and self.leaves)
        return Origin({}, self.data, self.given, computed)


def join_mixed(origins: Iterable[Origin]) -> Origin:
    """The origin of a result that mixes entries of the operands."""
    origins = list(origins)
    data = frozenset().union(*(origin.data for origin in origins))
    if data:
        computed = any(origin.computed or origin.leaves for origin in origins)
        return Origin({}, data, computed=computed)
    leaves = {leaf: None for origin in origins for leaf in origin.leaves}
    return Origin(leaves, given=not leaves and any(origin.given for origin in origins))


def join_entrywise(origins: Iterable[Origin]) -> Origin:
    """The origin of a result whose entries come from the same position in the operands.

    A leaf keeps its view if all operands that have one agree. In ``w * gain / norm(w)`` the norm
    mixes entries of ``w``, but ``w`` itself still gives their positions.
    """
    origins = list(origins)
    joined = join_mixed(origins)
    views = {leaf: set() for leaf in joined.leaves}
    for origin in origins:
        for leaf, view in origin.leaves.items():
            if view is not None and leaf in views:
                views[leaf].add(view)
    agreed = {leaf: seen.pop() if len(seen) == 1 else None for leaf, seen in views.items()}
    return dataclasses.replace(joined, leaves=agreed)


def join_alternatives(origins: Iterable[Origin]) -> Origin:
    """The origin of a variable that is one of several: a loop's carry or a branch's result."""
    origins = list(origins)
    joined = join_mixed(origins)
    views = {leaf: {origin.leaves.get(leaf) for origin in origins} for leaf in joined.leaves}
    agreed = {leaf: seen.pop() if len(seen) == 1 else None for leaf, seen in views.items()}
    return dataclasses.replace(joined, leaves=agreed)
