"""Interpreter: runs an analyzed program unchanged and adds up what its layers saw.

An equation without layers and effects runs as it is. One that holds a program with them (`jit`,
`scan`, `remat`, `cond`) is built again around the same program with more results, one function for
each kind. A custom derivative rule must stay what it is, so such an equation runs as it is and its
inside is run once more, for the statistics alone.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from insgd_optax import compat
from insgd_optax.capture.dataflow import Program, Use
from insgd_optax.capture.weight_rule import Operation
from insgd_optax.compat import JaxprEqn
from insgd_optax.layout import Layout
from insgd_optax.moments import kept_structure
from insgd_optax.sharding import on_current_mesh
from insgd_optax.structures import Structure

Sums = tuple[Float[Array, "..."], Float[Array, " _"]]
Found = dict[int, Sums]
Results = tuple[list[Any], Found]


@dataclasses.dataclass(frozen=True)
class Target:
    """What is summed for a leaf: its layout, and the loops whose iterations are its groups."""

    layout: Layout
    loops: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """Runs programs.

    Attributes:
      structure: what is kept of every layer's input.
      targets: a target for every leaf (by number) whose inputs are to be looked at.
      rewire: what to run in place of a layer's operation, if anything.
      silent: whether to leave out prints, callbacks and checks, in a second run of a program.
      seed: what decides which rows of an input are drawn, where a structure asks for some.
    """

    structure: Structure
    targets: Mapping[int, Target]
    rewire: Callable[[Operation, Use], Operation] | None = None
    silent: bool = False
    seed: Any = 0

    def run(self, program: Program, arguments: Sequence[Any]) -> Results:
        """The program's results, and the sums for every leaf that a layer in it uses."""
        jaxpr = program.closed.jaxpr
        values = dict(zip(jaxpr.constvars, program.closed.consts, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if compat.is_literal(atom) else values[atom]

        def operands(place: int) -> list[Any]:
            return [read(atom) for atom in jaxpr.eqns[place].invars]

        found: Found = {}
        places = [n for n, each in enumerate(jaxpr.eqns) if each.outvars or not self.silent]
        for apart, stretch in itertools.groupby(places, lambda n: self._stands_apart(program, n)):
            together = list(stretch)
            if not apart:
                equations = [jaxpr.eqns[place] for place in together]
                values |= compat.evaluate_all(jaxpr, equations, values)
            for place in together:
                sums = None
                if apart:
                    results, sums = self._apart(program, place, operands(place))
                    values.update(zip(jaxpr.eqns[place].outvars, results, strict=True))
                if use := program.uses.get(place):
                    with compat.context_of(jaxpr.eqns[place]):
                        sums = self.observe(use, operands(place))
                if sums:
                    found = added(found, jax.tree.map(on_current_mesh, sums))
        return [read(atom) for atom in jaxpr.outvars], found

    def _stands_apart(self, program: Program, place: int) -> bool:
        """Whether an equation is not run as it is, in one stretch with its neighbours."""
        return place in program.inner or (bool(self.rewire) and place in program.uses)

    def _apart(self, program: Program, place: int, operands: Sequence[Any]) -> Results:
        """An equation that is built again around its program, or rewired."""
        jaxpr, equation = program.closed.jaxpr, program.closed.jaxpr.eqns[place]
        if place in program.inner:
            with compat.context_of(equation):
                return _kind_of(equation)(self, equation, program.inner[place], operands)
        evaluate = functools.partial(compat.evaluate, jaxpr, equation)
        if self.rewire:
            evaluate = self.rewire(evaluate, program.uses[place])
        return evaluate(operands), {}

    def observe(self, use: Use, operands: Sequence[Any]) -> Found:
        """What a layer saw, in the form that each of its leaves keeps."""
        seen = use.look(operands, self.seed)
        wanted = [leaf for leaf in use.weight.leaves if leaf in self.targets]
        layouts = {leaf: self.targets[leaf].layout for leaf in wanted}
        kept = {leaf: kept_structure(self.structure, layout) for leaf, layout in layouts.items()}
        sums = {structure: structure.observe(seen) for structure in set(kept.values())}
        return {
            leaf: sums[kept[leaf]] if layout.exact else _pooled(*sums[kept[leaf]], use, layout)
            for leaf, layout in layouts.items()
        }


def _pooled(sums: Array, count: Array, use: Use, layout: Layout) -> Sums:
    """One number for a leaf without an exact layout.

    Its layers may differ in their inputs. What is pooled is the power of a row, and what the
    layout calls its inputs (the fewest) divides it.
    """
    share = use.layer.inputs / max(1, layout.inputs)
    return share * sums.sum(axis=0, keepdims=True), count.sum(axis=0, keepdims=True)


def added(first: Found, second: Found) -> Found:
    """Sums of both: what several uses of a leaf saw pools."""
    both = first.keys() & second.keys()
    return {**first, **second} | {leaf: _add(first[leaf], second[leaf]) for leaf in both}


def _add(first: Sums, second: Sums) -> Sums:
    # One use may be wider than another: a float64 head on a float32 trunk.
    dtype = np.promote_types(first[0].dtype, second[0].dtype)
    sums, count = (a.astype(dtype) + b.astype(dtype) for a, b in zip(first, second, strict=True))
    return sums, count


def _kind_of(equation: JaxprEqn) -> "Rebuild":
    name = equation.primitive.name
    if name in compat.CUSTOM_RULE:
        return _run_custom_rule
    if name in compat.REMAT:
        return _run_remat
    if name in compat.JIT:
        return _run_jit
    return {"scan": _run_scan, "cond": _run_cond}.get(name, _run_call)


def _run_call(
    interpreter: Interpreter, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    del call
    return interpreter.run(inner[0], operands)


def _run_jit(
    interpreter: Interpreter, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    function = compat.jit_like(call, lambda *values: interpreter.run(inner[0], values))
    return function(*operands)


def _run_remat(
    interpreter: Interpreter, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    checkpointed = jax.checkpoint(
        lambda *values: interpreter.run(inner[0], values),
        prevent_cse=call.params["prevent_cse"],
        policy=call.params["policy"],
    )
    return checkpointed(*operands)


def _run_custom_rule(
    interpreter: Interpreter, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    again = dataclasses.replace(interpreter, silent=True)
    results, found = again.run(inner[0], jax.lax.stop_gradient(operands))
    if interpreter.silent:  # for statistics alone: no gradient needs the rule
        return results, found
    return compat.evaluate(inner[0].closed.jaxpr, call, operands), found


def _run_scan(
    interpreter: Interpreter, loop: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    params, (program,) = loop.params, inner
    constants, carries = compat.scan_sizes(loop)
    start = constants + carries

    def body(carry: list[Any], slices: list[Any]) -> tuple[list[Any], Any]:
        results, found = interpreter.run(program, [*operands[:constants], *carry, *slices])
        return results[:carries], (results[carries:], found)

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, (stacked, found) = jax.lax.scan(
        body, list(operands[constants:start]), list(operands[start:]), **options
    )
    outside = program.depth - 1
    for leaf, sums in found.items():
        stays = outside in interpreter.targets[leaf].loops
        found[leaf] = jax.tree.map(_iterations_to_groups if stays else _over_iterations, sums)
    return [*carry, *stacked], found


def _iterations_to_groups(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])


def _over_iterations(array: Array) -> Array:
    return array.sum(axis=0)


def _run_cond(
    interpreter: Interpreter, choice: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    index, *values = operands
    every = [
        jax.eval_shape(lambda *values, p=program: interpreter.run(p, values)[1], *values)
        for program in inner
    ]
    shapes = {leaf: shape for found in every for leaf, shape in found.items()}
    # Branches must agree on the devices that a sum varies over, too.
    axes = {leaf: _axes([found[leaf] for found in every if leaf in found]) for leaf in shapes}

    def branch(program: Program) -> Callable[..., Results]:
        def run(*values: Any) -> Results:
            results, found = interpreter.run(program, values)
            unseen = {leaf: shape for leaf, shape in shapes.items() if leaf not in found}
            zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), unseen)
            varying = compat.varying_over
            return results, {
                leaf: (varying(sums, axes[leaf]), varying(count, axes[leaf]))
                for leaf, (sums, count) in (found | zeros).items()
            }

        return run

    branches = [branch(program) for program in inner]
    if of_platform := compat.branches_of_platforms(choice, branches):
        return jax.lax.platform_dependent(*values, **of_platform)
    return jax.lax.switch(index, branches, *values)


def _axes(found: Sequence[Any]) -> frozenset[str]:
    """The mesh axes of ``shard_map`` that one of these sums, or of their shapes, varies over."""
    return frozenset().union(*(compat.varying_axes(array) for sums in found for array in sums))


Rebuild = Callable[[Interpreter, JaxprEqn, Sequence[Program], Sequence[Any]], Results]
