"""Rebuilt: equations with inner programs, rebuilt around the same programs with more results.

Each kind of equation has one function. It returns the sums of the inner layers along with the
results.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from insgd_optax import compat
from insgd_optax.capture.layers.sampling import Draw
from insgd_optax.capture.program import Program
from insgd_optax.capture.target import Found, Target, added
from insgd_optax.compat import JaxprEqn
from insgd_optax.trees import zeros_of

Results = tuple[list[Any], Found]


@runtime_checkable
class Runner(Protocol):
    """The interface that runs a program. See `Interpreter` for its attributes."""

    @property
    def silent(self) -> bool: ...

    @property
    def draw(self) -> Draw: ...

    @property
    def targets(self) -> Mapping[int, Target]: ...

    def run(self, program: Program, arguments: Sequence[Any]) -> Results: ...

    def silenced(self) -> "Runner": ...

    def among(self, axes: Sequence[str], seed: Any) -> "Runner": ...


def kind_of(equation: JaxprEqn) -> "Rebuild":
    name = equation.primitive.name
    if name in compat.CUSTOM_RULE:
        return _run_custom_rule
    if name in compat.REMAT:
        return _run_remat
    if name in compat.JIT:
        return _run_jit
    if name in compat.SHARD_MAP:
        return _run_shard_map
    by_name = {"scan": _run_scan, "while": _run_while, "cond": _run_cond}
    return by_name.get(name, _run_call)


def _run_call(
    interpreter: Runner, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    del call
    return interpreter.run(inner[0], operands)


def _run_jit(
    interpreter: Runner, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    function = compat.jit_like(call, lambda *values: interpreter.run(inner[0], values))
    return function(*operands)


def _run_remat(
    interpreter: Runner, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    checkpointed = jax.checkpoint(
        lambda *values: interpreter.run(inner[0], values),
        prevent_cse=call.params["prevent_cse"],
        policy=call.params["policy"],
    )
    return checkpointed(*operands)


def _run_custom_rule(
    interpreter: Runner, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    again = interpreter.silenced()
    results, found = again.run(inner[0], jax.lax.stop_gradient(operands))
    if interpreter.silent:  # a run for statistics does not use the rule
        return results, found
    return compat.evaluate(inner[0].closed.jaxpr, call, operands), found


def _run_shard_map(
    interpreter: Runner, call: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    split = inner[0].split
    others = tuple(axis for axis in compat.manual_axes(call) if axis not in split)

    # The seed is an operand, because a seed from an outer mesh cannot be closed over.
    def on_device(seed: Any, *values: Any) -> Results:
        results, found = interpreter.among(split, seed).run(inner[0], values)
        found = jax.lax.psum(found, split) if split else found
        # Devices along the other axes have all seen the same data.
        return results, jax.lax.pmean(found, others) if others else found

    return compat.shard_map_like(call, on_device)(jnp.uint32(interpreter.draw.seed), *operands)


def _run_scan(
    interpreter: Runner, loop: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
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


def _run_while(
    interpreter: Runner, loop: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    params, (program,) = loop.params, inner
    start = params["cond_nconsts"]
    end = start + params["body_nconsts"]
    of_condition, constants, carry = operands[:start], operands[start:end], operands[end:]
    condition = compat.jaxpr_as_fun(compat.as_closed(params["cond_jaxpr"]))

    def goes_on(state: Results) -> Any:
        return condition(*of_condition, *state[0])[0]

    def body(state: Results) -> Results:
        results, found = interpreter.run(program, [*constants, *state[0]])
        return results, added(state[1], found)

    zeros = zeros_of(lambda: interpreter.run(program, [*constants, *carry])[1])
    return jax.lax.while_loop(goes_on, body, (list(carry), zeros))


def _iterations_to_groups(array: Array) -> Array:
    return array.reshape(-1, *array.shape[2:])


def _over_iterations(array: Array) -> Array:
    return array.sum(axis=0)


def _run_cond(
    interpreter: Runner, choice: JaxprEqn, inner: Sequence[Program], operands: Sequence[Any]
) -> Results:
    index, *values = operands
    every = [
        jax.eval_shape(lambda *values, p=program: interpreter.run(p, values)[1], *values)
        for program in inner
    ]
    shapes = {leaf: shape for found in every for leaf, shape in found.items()}
    # Branches must also agree on the mesh axes that a sum varies over.
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
    """The mesh axes of ``shard_map`` that any of these sums or shapes varies over."""
    return frozenset().union(*(compat.varying_axes(array) for sums in found for array in sums))


Rebuild = Callable[[Runner, JaxprEqn, Sequence[Program], Sequence[Any]], Results]
