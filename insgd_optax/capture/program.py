"""Program: a traced program with its layers and the origins of its variables."""

import collections
import dataclasses
import functools
import itertools
from typing import Any

from insgd_optax import compat
from insgd_optax.capture.layers import Layer
from insgd_optax.capture.origin import Origin
from insgd_optax.capture.reach import Reach
from insgd_optax.capture.tap import is_tap
from insgd_optax.capture.why_not import Reasons
from insgd_optax.compat import ClosedJaxpr, JaxprEqn


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
    """A layer at its place in a program, and the leaves that its weight is made from.

    Attributes:
      layer: the layer.
      weight: the origin of its weight.
      rows: the number of rows that each of its matrices is applied to, over all runs.
      times: the number of runs.
      inputs: identifies the layer's input, by the program and the variables in it.
    """

    layer: Layer
    weight: Origin
    rows: int
    times: int
    inputs: tuple[Any, ...]


@dataclasses.dataclass
class Program:
    """A traced program and its analysis.

    Attributes:
      closed: the program with its constants.
      reach: the variables that a derivative of the loss flows back through. Layers and reasons
        count only within it.
      depth: the number of scans around it.
      times: the number of runs, over loops of known length and the devices that split its data.
      outputs: the origins of its results.
      uses: the layer of an equation, by the equation's place.
      origins: the origin of every variable that is not a constant.
      nested: the programs of an equation, by the equation's place.
      inner: the same for equations that hold layers or effects.
      why_not: for a leaf (by number), the reasons that equations with it are not layers.
      split: the mesh axes that its data is split over, in a ``shard_map``.
    """

    closed: ClosedJaxpr
    reach: Reach
    depth: int
    times: int
    outputs: list[Origin] = dataclasses.field(default_factory=list)
    uses: dict[int, Use] = dataclasses.field(default_factory=dict)
    origins: dict[Any, Origin] = dataclasses.field(default_factory=dict)
    nested: dict[int, list["Program"]] = dataclasses.field(default_factory=dict)
    inner: dict[int, list["Program"]] = dataclasses.field(default_factory=dict)
    why_not: Reasons = dataclasses.field(default_factory=dict)
    split: tuple[str, ...] = ()

    @functools.cached_property
    def readers(self) -> collections.Counter[Any]:
        """The number of equations that read each variable."""
        return collections.Counter(
            atom
            for equation in self.closed.jaxpr.eqns
            for atom in {atom for atom in equation.invars if not compat.is_literal(atom)}
        )

    @functools.cached_property
    def makers(self) -> dict[Any, JaxprEqn]:
        """The equation that computes each variable."""
        return {result: each for each in self.closed.jaxpr.eqns for result in each.outvars}

    @property
    def has_layers(self) -> bool:
        return bool(self.uses or self.inner)

    def origin(self, atom: Any) -> Origin:
        if compat.is_literal(atom):
            return Origin(given=bool(compat.shape_of(atom)))
        return self.origins.get(atom, Origin())

    def all_uses(self) -> list[Use]:
        """The layers of this program and of its inner programs."""
        inside = [use for programs in self.inner.values() for p in programs for use in p.all_uses()]
        return [*self.uses.values(), *inside]

    def uses_of_leaves(self) -> dict[int, list[Use]]:
        """The layers whose weight is made from a leaf, by the leaf's number."""
        found: dict[int, list[Use]] = {}
        for use in self.all_uses():
            for leaf in use.weight.leaves:
                found.setdefault(leaf, []).append(use)
        return found

    def uses_with_own_rule(self) -> list[Use]:
        """The layers inside taps and inside functions with a custom derivative rule."""
        found = []
        for place, programs in self.inner.items():
            equation = self.closed.jaxpr.eqns[place]
            own = equation.primitive.name in compat.CUSTOM_RULE or is_tap(equation)
            for program in programs:
                found += program.all_uses() if own else program.uses_with_own_rule()
        return found

    def all_reasons(self) -> Reasons:
        """``why_not`` of this program and of its inner programs."""
        reasons = {leaf: list(texts) for leaf, texts in self.why_not.items()}
        for program in itertools.chain.from_iterable(self.nested.values()):
            for leaf, texts in program.all_reasons().items():
                reasons.setdefault(leaf, []).extend(texts)
        return reasons
