"""Dataflow: follows parameters and data through a traced program and finds its layers.

No patterns are matched. Each variable has an `Origin`: the leaves it is made from and the data that
it depends on. Operations on a weight before it meets the data (casts, reshapes, masks, weight norm,
merged adapters) only change its origin. Take ``sum(tanh(x @ w.astype(float32).T))``:

    equation                    origin of the result
    a = convert_element_type w  leaf w, entries in place
    b = transpose a             leaf w, transposed
    c = dot_general x b         data; this is a layer, because x has data and b is a weight
    d = tanh c                  data
    e = reduce_sum d            data

An equation with inner programs is analyzed recursively. A loop body is analyzed until the origins
of its carries no longer change.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from insgd_optax import compat
from insgd_optax.capture.layers import find_layer
from insgd_optax.capture.origin import Origin, join_alternatives, join_entrywise, join_mixed
from insgd_optax.capture.primitives import PASSING_ON
from insgd_optax.capture.program import Program, Use
from insgd_optax.capture.reach import Reach
from insgd_optax.capture.results import results_of
from insgd_optax.capture.why_not import BIAS, SPLIT, chosen_leaves, note_why_not
from insgd_optax.compat import ClosedJaxpr, JaxprEqn

UNREACHED = (Reach(),)


def analyze(
    closed: ClosedJaxpr, inputs: Sequence[Origin], reach: Reach, depth: int = 0, times: int = 1
) -> Program:
    """Follows origins from a program's inputs to its results and records its layers."""
    program, jaxpr = Program(closed, reach, depth, times), closed.jaxpr
    program.origins.update((constant, Origin(given=True)) for constant in jaxpr.constvars)
    program.origins.update(zip(jaxpr.invars, inputs, strict=True))
    for place, equation in enumerate(jaxpr.eqns):
        operands = [program.origin(atom) for atom in equation.invars]
        if not all(origin.is_constant for origin in operands):
            results = _follow(program, place, equation, operands)
            program.origins.update(zip(equation.outvars, results, strict=True))
    program.outputs = [program.origin(atom) for atom in jaxpr.outvars]
    return program


def _follow(
    program: Program, place: int, equation: JaxprEqn, operands: list[Origin]
) -> list[Origin]:
    """The origins of an equation's results."""
    inside = program.reach.inside(place)
    if equation.primitive.name == "scan":
        inner = [_analyze_scan(equation, operands, program, *inside or UNREACHED)]
        outputs = inner[0].outputs
    elif equation.primitive.name == "while":
        inner = [_analyze_while(equation, operands, program, *inside or UNREACHED)]
        outputs = inner[0].outputs
    elif equation.primitive.name == "cond":
        branches = [compat.as_closed(branch) for branch in equation.params["branches"]]
        inner = [
            analyze(branch, operands[1:], reach, program.depth, program.times)
            for branch, reach in zip(branches, inside or UNREACHED * len(branches), strict=True)
        ]
        outputs = _branch_outputs(operands[0], inner)
    elif compat.is_shard_map(equation):
        inner = [_analyze_shard_map(equation, operands, program, *inside or UNREACHED)]
        outputs = inner[0].outputs
    elif compat.is_call(equation):
        called, (reach,) = compat.called_program(equation), inside or UNREACHED
        inner = [analyze(called, operands, reach, program.depth, program.times)]
        outputs = inner[0].outputs
    else:
        return _follow_simple(program, place, equation, operands)
    program.nested[place] = inner
    if any(each.has_layers for each in inner) or _has_bare_effects(equation):
        program.inner[place] = inner
    return outputs


def _has_bare_effects(equation: JaxprEqn) -> bool:
    """Whether it prints, calls back or checks, which a silent run leaves out."""
    return bool(equation.effects) and equation.primitive.name not in compat.CUSTOM_RULE


def _analyze_scan(
    equation: JaxprEqn, operands: list[Origin], outer: Program, reach: Reach
) -> Program:
    """Analyzes the body of a scan."""
    body, depth = compat.as_closed(equation.params["jaxpr"]), outer.depth
    times = outer.times * equation.params["length"]
    constants, carries = compat.scan_sizes(equation)
    start = constants + carries
    stacked = [origin.enter_loop(depth) for origin in operands[start:]]

    def once(carry: list[Origin]) -> Program:
        return analyze(body, [*operands[:constants], *carry, *stacked], reach, depth + 1, times)

    program, carry = _repeated(once, operands[constants:start])
    _note_initial_states(equation, operands[constants:start], carry, outer, program)
    # Stacked results no longer hold a leaf's entries in order.
    results = [join_mixed([origin]) for origin in program.outputs[carries:]]
    program.outputs = [*carry, *results]
    return program


def _analyze_shard_map(
    equation: JaxprEqn, operands: list[Origin], outer: Program, reach: Reach
) -> Program:
    """Analyzes the program of every device. A leaf that is split over devices is not followed."""
    before, after = compat.mesh_axes(equation)
    inputs = []
    for origin, axes in zip(operands, before, strict=True):
        for leaf in origin.leaves if axes else ():
            outer.why_not.setdefault(leaf, []).append(SPLIT)
        inputs.append(Origin(given=True) if axes and origin.is_weight else origin)
    of_data = [axes for origin, axes in zip(operands, before, strict=True) if origin.data]
    split = tuple(dict.fromkeys(itertools.chain.from_iterable(of_data)))
    times = outer.times * math.prod(equation.params["mesh"].shape[axis] for axis in split)
    called = compat.called_program(equation)
    program = analyze(called, inputs, reach, outer.depth, times)
    program.split = split
    results = zip(program.outputs, after, strict=True)
    program.outputs = [join_mixed([result]) if axes else result for result, axes in results]
    return program


def _analyze_while(
    equation: JaxprEqn, operands: list[Origin], outer: Program, reach: Reach
) -> Program:
    """Analyzes the body of a while loop, which has carries but no stacked values."""
    body, start = compat.as_closed(equation.params["body_jaxpr"]), equation.params["cond_nconsts"]
    constants = operands[start : start + equation.params["body_nconsts"]]
    carries = operands[start + len(constants) :]

    def once(carry: list[Origin]) -> Program:
        return analyze(body, [*constants, *carry], reach, outer.depth, outer.times)

    program, carry = _repeated(once, carries)
    _note_initial_states(equation, carries, carry, outer, program)
    program.outputs = carry
    return program


def _repeated(
    once: Callable[[list[Origin]], Program], carry: list[Origin]
) -> tuple[Program, list[Origin]]:
    """Analyzes a loop body until its carries cover every iteration."""
    while True:
        program = once(carry)
        after = program.outputs[: len(carry)]
        joined = [join_alternatives(pair) for pair in zip(carry, after, strict=True)]
        if joined == carry:
            return program, carry
        carry = joined


def _note_initial_states(
    equation: JaxprEqn,
    initial: Sequence[Origin],
    carry: Sequence[Origin],
    outer: Program,
    program: Program,
) -> None:
    """Records a learned initial state as a bias if data enters its carry."""
    for first, ever in zip(initial, carry, strict=True):
        for leaf in first.leaves if ever.data and outer.reach.has_results_of(equation) else ():
            program.why_not.setdefault(leaf, []).append(BIAS)


def _branch_outputs(index: Origin, branches: list[Program]) -> list[Origin]:
    """The origins of a conditional's results, from all branches and from the index."""
    alternatives = zip(*(branch.outputs for branch in branches), strict=True)
    chosen = join_mixed([index])
    return [join_entrywise([join_alternatives(each), chosen]) for each in alternatives]


def _follow_simple(
    program: Program, place: int, equation: JaxprEqn, operands: list[Origin]
) -> list[Origin]:
    """The origins of the results of an equation without a program to follow."""
    if not equation.outvars:  # a print, a callback or a check
        return []
    within_reach = program.reach.has_results_of(equation)
    layer = find_layer(equation, operands) if within_reach else None
    if layer is not None:
        outputs = math.prod(compat.shape_of(equation.outvars[0]))
        rows = program.times * outputs // max(1, layer.groups * layer.outputs)
        inputs = id(program), *(equation.invars[place] for place in layer.input)
        program.uses[place] = Use(layer, operands[layer.weight], rows, program.times, inputs)
    elif within_reach:
        note_why_not(program.why_not, equation, operands, join_mixed(operands).data)
    if equation.primitive.name in PASSING_ON:
        return operands
    results = results_of(program, equation, operands)
    if layer is not None and layer.is_choice:
        held = chosen_leaves(operands[layer.weight])
        results = [dataclasses.replace(result, held=held) for result in results]
    if not program.reach.passes_on(equation):
        results = [result.without_derivative() for result in results]
    return results
