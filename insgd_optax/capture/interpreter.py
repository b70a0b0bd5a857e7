"""Interpreter: runs an analyzed program unchanged and sums its layers' input statistics.

An equation without layers and effects runs as it is. An equation around a program that has them
(`jit`, `scan`, `remat`, `cond`) is rebuilt around the same program, with more results. A custom
derivative rule must stay intact. Such an equation runs as it is, and its program runs once more for
the statistics. Take a program with a dense layer, a scanned layer and a layer with a custom rule:

    a = mul x 2.0                runs as it is
    b = dot_general a w          runs as it is, and the layer's input `a` is observed
    c = scan[body] b v           is rebuilt: the new body also returns the sums of `v`
    d = custom_vjp_call[f] c u   runs as it is, and `f` runs once more for the sums of `u`
    e = reduce_sum d             runs as it is

The run returns ``[e]`` and the sums ``{w: ..., v: ..., u: ...}``, keyed by leaf number.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array

from insgd_optax import compat
from insgd_optax.capture.alike import evaluate_all, observe
from insgd_optax.capture.layers.sampling import UNSEEDED, Draw
from insgd_optax.capture.program import Program, Use
from insgd_optax.capture.rebuilt import Results, kind_of
from insgd_optax.capture.target import Found, Sums, Target, added
from insgd_optax.capture.weight_rule import Operation
from insgd_optax.compat import JaxprEqn
from insgd_optax.layout import Layout
from insgd_optax.moments import kept_structure
from insgd_optax.sharding import counted_once, explicit_mesh, on_current_mesh
from insgd_optax.structures import Structure


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """Runs programs.

    Attributes:
      structure: the structure of every layer's input.
      targets: the target of every leaf (by number) whose inputs are observed.
      rewire: replaces the operation of a layer, if given.
      silent: whether to leave out prints, callbacks and checks, in a second run of a program.
      draw: decides which rows of an input are drawn, if a structure samples rows.
      is_staged: whether operations are traced into a larger program, instead of run one by one.
    """

    structure: Structure
    targets: Mapping[int, Target]
    rewire: Callable[[Operation, Use], Operation] | None = None
    silent: bool = False
    draw: Draw = UNSEEDED
    is_staged: bool = False

    def run(self, program: Program, arguments: Sequence[Any]) -> Results:
        """The results of the program, and the sums of every leaf that a layer in it uses."""
        jaxpr = program.closed.jaxpr
        values = dict(zip(jaxpr.constvars, program.closed.consts, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if compat.is_literal(atom) else values[atom]

        def operands(place: int) -> list[Any]:
            return [read(atom) for atom in jaxpr.eqns[place].invars]

        placed = functools.partial(on_current_mesh, otherwise=explicit_mesh(arguments))
        found: Found = {}
        places = [n for n, each in enumerate(jaxpr.eqns) if each.outvars or not self.silent]
        for apart, stretch in itertools.groupby(places, lambda n: self._stands_apart(program, n)):
            together = list(stretch)
            if not apart:
                evaluate_all(program, together, values, self.is_staged)
            for place in together:
                sums = None
                if apart:
                    results, sums = self._apart(program, place, operands(place))
                    values.update(zip(jaxpr.eqns[place].outvars, results, strict=True))
                if use := program.uses.get(place):
                    with compat.context_of(jaxpr.eqns[place]):
                        sums = self._seen(use, jaxpr.eqns[place], operands(place))
                if sums:
                    found = added(found, jax.tree.map(placed, sums))
        return [read(atom) for atom in jaxpr.outvars], found

    def silenced(self) -> "Interpreter":
        return dataclasses.replace(self, silent=True)

    def among(self, axes: Sequence[str], seed: Any) -> "Interpreter":
        """The interpreter on one device along these axes, each with a part of the batch."""
        return dataclasses.replace(self, draw=Draw(seed, (*self.draw.axes, *axes)))

    def _stands_apart(self, program: Program, place: int) -> bool:
        """Whether an equation cannot run as it is, in one stretch with its neighbors."""
        return place in program.inner or (bool(self.rewire) and place in program.uses)

    def _apart(self, program: Program, place: int, operands: Sequence[Any]) -> Results:
        """Runs an equation that is rebuilt around its program, or rewired."""
        jaxpr, equation = program.closed.jaxpr, program.closed.jaxpr.eqns[place]
        if place in program.inner:
            with compat.context_of(equation):
                return kind_of(equation)(self, equation, program.inner[place], operands)
        evaluate = functools.partial(compat.evaluate, jaxpr, equation)
        if self.rewire:
            evaluate = self.rewire(evaluate, program.uses[place])
        return evaluate(operands), {}

    def _seen(self, use: Use, equation: JaxprEqn, operands: Sequence[Any]) -> Found:
        """The sums of a layer's input, in the form that each of its leaves keeps."""
        inputs = [operands[place] for place in use.layer.input]
        draw = jax.tree.map(on_current_mesh, self.draw.of(inputs))
        whole = [axis for axis in self.draw.axes if axis not in draw.axes]
        wanted = [leaf for leaf in use.weight.leaves if leaf in self.targets]
        layouts = {leaf: self.targets[leaf].layout for leaf in wanted}
        kept = {leaf: kept_structure(self.structure, layout) for leaf, layout in layouts.items()}
        structures = tuple(dict.fromkeys(kept.values()))
        observed = observe(use.layer, equation, operands, draw, structures)
        sums = dict(zip(structures, counted_once(observed, whole), strict=True))
        return {
            leaf: self.targets[leaf].placed(sums[kept[leaf]], use)
            if layout.exact
            else _pooled(*sums[kept[leaf]], use, layout)
            for leaf, layout in layouts.items()
        }


def _pooled(sums: Array, count: Array, use: Use, layout: Layout) -> Sums:
    """A single value for a leaf without an exact layout.

    The layers of the leaf may differ in their number of inputs. So the power of whole rows is
    pooled. It is divided by the layout's number of inputs, the smallest of them.
    """
    share = use.layer.inputs / max(1, layout.inputs)
    return share * sums.sum(axis=0, keepdims=True), count.sum(axis=0, keepdims=True)
