"""Tracing: turns a loss into an analyzed program with a target for every leaf.

The loss is traced once, on the arrays among its arguments. Then each leaf of the parameters gets
its layout from its layers. Take ``sum(x @ params["w"].T + params["b"])`` with 8 rows of 3 features:

    number    argument       shape      found
    0         params["b"]    (5,)       no target; the bias of 'w'
    1         params["w"]    (5, 3)     target: transpose (1, 0), then (1, 3, 5); 8 rows, bias 'b'
    2         x              (8, 3)     data of argument 1
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from insgd_optax.capture.arguments import argument_origins, is_array, is_exact, positions
from insgd_optax.capture.biases import find_biases, walked
from insgd_optax.capture.dataflow import analyze
from insgd_optax.capture.moved import Moved
from insgd_optax.capture.origin import Part, Seen, View
from insgd_optax.capture.parts import layout_of_parts
from insgd_optax.capture.program import Program, Use
from insgd_optax.capture.reach import reach_of_loss
from insgd_optax.capture.target import Target
from insgd_optax.capture.why_not import BIAS, CHOSEN, HARMLESS, NO_DATA, NO_GRADIENT
from insgd_optax.layout import Layout
from insgd_optax.moments import Bias
from insgd_optax.trees import named_leaves


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf of the parameters and its layers.

    Attributes:
      name: its path.
      number: its place among the leaves of all arguments.
      shape: its shape.
      target: the sums to collect for it, or None if no layer uses it.
      equations: the layers that use it.
      rows: the number of rows that each of its matrices is applied to.
      uses: the number of times that this happens.
      reason: why it has no target, or why its layout is not exact.
      bias: the leaf that is added to the results of its layers.
      bias_of: the path of the weight whose bias it is.
    """

    name: str
    number: int
    shape: tuple[int, ...]
    target: Target | None
    equations: tuple[str, ...]
    rows: int
    uses: int
    reason: str
    bias: Bias | None = None
    bias_of: str | None = None

    @property
    def is_missed(self) -> bool:
        """Whether it is a matrix or kernel without a layer."""
        is_bias = self.reason in HARMLESS or self.bias_of is not None
        return self.target is None and len(self.shape) >= 2 and not is_bias


@dataclasses.dataclass(frozen=True)
class Returned:
    """The result of the loss. It holds arrays, and in aux also names, numbers and flags.

    Attributes:
      leaves: its leaves; of arrays, the shapes.
      is_array: which of them are arrays.
      treedef: their structure.
    """

    leaves: list[Any]
    is_array: list[bool]
    treedef: Any

    @property
    def shapes(self) -> Any:
        return jax.tree.unflatten(self.treedef, self.leaves)

    def with_arrays(self, arrays: Sequence[Any]) -> Any:
        rest, leaves = iter(arrays), zip(self.leaves, self.is_array, strict=True)
        whole = [next(rest) if is_array else leaf for leaf, is_array in leaves]
        return jax.tree.unflatten(self.treedef, whole)


def _taken_apart(result: Any) -> tuple[list[Array], Returned]:
    """Splits the result of a loss into its arrays, the loss first, and the rest."""
    leaves, treedef = jax.tree.flatten(result)
    if leaves and isinstance(leaves[0], int | float | complex | np.ndarray):
        leaves[0] = jnp.asarray(leaves[0])
    which = [isinstance(leaf, Array) for leaf in leaves]
    arrays = [leaf for leaf in leaves if isinstance(leaf, Array)]
    shapes = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, Array) else leaf
        for leaf in leaves
    ]
    return arrays, Returned(shapes, which, treedef)


@dataclasses.dataclass(frozen=True)
class Traced:
    """A loss as an analyzed program.

    Attributes:
      program: the program, to run on `arrays`.
      arrays: the array leaves of the arguments.
      numbers: the place of each array among all leaves of the arguments.
      exact: which arrays are the same on any number of devices: the batch, keys and counters.
      returned: the result of the loss.
      leaves: the leaves of the differentiated arguments, in flattening order.
    """

    program: Program
    arrays: list[Any]
    numbers: list[int]
    exact: list[int]
    returned: Returned
    leaves: list[Leaf]

    @property
    def targets(self) -> Mapping[int, Target]:
        return {leaf.number: leaf.target for leaf in self.leaves if leaf.target}


def trace(
    loss_fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    argnums: int | Sequence[int],
    batch_argnums: int | Sequence[int] | None,
) -> Traced:
    """Traces the loss once and finds the layers of every leaf of its parameters.

    Raises:
      ValueError: if a position is out of range, or if an argument is both parameters and batch.
    """
    origins = argument_origins(args, kwargs, argnums, batch_argnums)
    flat, treedef = jax.tree.flatten((args, dict(kwargs)))
    places = [place for place, leaf in enumerate(flat) if is_array(leaf)]
    arrays = [flat[place] for place in places]
    returned = []

    def on_arrays(*arrays: Any) -> list[Any]:
        whole = list(flat)
        for place, array in zip(places, arrays, strict=True):
            whole[place] = array
        args, kwargs = jax.tree.unflatten(treedef, whole)
        results, rest = _taken_apart(loss_fn(*args, **kwargs))
        returned.append(rest)
        return results

    closed = jax.make_jaxpr(on_arrays)(*arrays)
    program = analyze(closed, [origins[place] for place in places], reach_of_loss(closed.jaxpr))
    sizes = [len(jax.tree.leaves(argument)) for argument in args]
    parameters = positions("argnums", argnums, len(args))
    numbers = [sum(sizes[:n]) + offset for n in parameters for offset in range(sizes[n])]
    chosen = args[argnums] if isinstance(argnums, int) else tuple(args[n] for n in parameters)
    leaves = _leaves(named_leaves(chosen), numbers, program, _reached(program, places))
    leaves = _with_biases(leaves, program, places)
    exact = [n for n, place in enumerate(places) if is_exact(flat[place], origins[place])]
    return Traced(program, arrays, places, exact, returned[-1], leaves)


def _reached(program: Program, numbers: Sequence[int]) -> set[int]:
    """The leaves of all arguments (by number) that a derivative of the loss reaches."""
    inputs = zip(program.closed.jaxpr.invars, numbers, strict=True)
    return {number for variable, number in inputs if variable in program.reach.variables}


def _leaves(
    named: Sequence[tuple[str, Any]], numbers: Sequence[int], program: Program, reached: set[int]
) -> list[Leaf]:
    """The result for each of the leaves."""
    uses, noted, leaves = program.uses_of_leaves(), program.all_reasons(), []
    for number, (name, leaf) in zip(numbers, named, strict=True):
        reasons = [*noted.get(number, []), NO_DATA if number in reached else NO_GRADIENT]
        leaves.append(_leaf(name, number, jnp.shape(leaf), uses.get(number, []), reasons))
    return leaves


def _leaf(
    name: str, number: int, shape: tuple[int, ...], uses: list[Use], reasons: list[str]
) -> Leaf:
    if CHOSEN in reasons:
        uses = [use for use in uses if not use.layer.is_choice]
    if not uses:
        reason = min(reasons, key=lambda text: text in HARMLESS)  # the first that is not harmless
        return Leaf(name, number, shape, None, (), 0, 0, reason)
    equations = tuple(dict.fromkeys(use.layer.equation for use in uses))
    rows = sum(use.rows * use.layer.groups for use in uses)
    times = sum(use.times * use.layer.groups for use in uses)
    in_parts = any(isinstance(use.weight.leaves[number], Part) for use in uses)
    if in_parts and (parts := layout_of_parts(number, shape, uses)):
        found = {Target(*parts)}
    else:
        found = {_target(use, use.weight.leaves[number], shape) for use in uses}
    if len(found) > 1:
        reason = "its layers use it with different layouts, so one pooled value is kept"
        fewest = min(target.layout.inputs for target in found)
        pooled = Target(Layout.pooled(shape, fewest))
        return Leaf(name, number, shape, pooled, equations, rows, times, reason)
    (target,) = found
    rows, times = rows // max(1, target.layout.groups), times // max(1, target.layout.groups)
    reason = "" if target.layout.exact else "only a part or a mixture of its entries is used"
    return Leaf(name, number, shape, target, equations, rows, times, reason)


def _with_biases(leaves: Sequence[Leaf], program: Program, numbers: Sequence[int]) -> list[Leaf]:
    """Links the weights to their biases, and the biases to their weights."""
    by_number = {leaf.number: leaf for leaf in leaves}
    shapes = {number: leaf.shape for number, leaf in by_number.items()}
    inputs = [Moved.of_leaf(n, shapes[n]) if n in shapes else None for n in numbers]
    targets = {leaf.number: leaf.target for leaf in leaves if leaf.target}
    layouts = {n: target.layout for n, target in targets.items() if target.layout.exact}
    walk = walked(program, inputs)
    for number, reason in walk.products_summed.items():
        if (leaf := by_number[number]).reason == BIAS:
            by_number[number] = dataclasses.replace(leaf, reason=reason)
    for weight, (number, layout) in find_biases(program, walk, layouts, shapes).items():
        path, bias = by_number[weight].name, by_number[number]
        reason = f"bias of '{path}'"
        by_number[number] = dataclasses.replace(bias, bias_of=path, reason=reason)
        found = Bias(bias.name, layout)
        by_number[weight] = dataclasses.replace(by_number[weight], bias=found)
    return [by_number[leaf.number] for leaf in leaves]


def _target(use: Use, view: Seen, shape: tuple[int, ...]) -> Target:
    """The target of a leaf as one layer uses it."""
    if not isinstance(view, View):
        return Target(Layout.pooled(shape, use.layer.inputs))
    layer, loops = use.layer, view.loops
    for step in layer.steps:
        view = view.then(step)
    steps = view.steps
    if steps and steps[-1][0] == "reshape":  # the layout reshapes to its sizes itself
        steps = steps[:-1]
    groups = math.prod(view.shape[: len(loops)]) * layer.groups
    sizes = groups, layer.inputs, layer.outputs
    return Target(Layout(shape, steps, *sizes, one_hot=layer.one_hot), loops)
