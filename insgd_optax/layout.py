"""Layout: how a parameter leaf maps to the matrices of its layer, one per group."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

Step = tuple[Literal["transpose", "reshape", "reverse"], tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A static, hashable recipe that turns a leaf into ``(groups, inputs, outputs)`` and back.

    Every group is a matrix whose rows are the layer's inputs. Stacked layers, the members of an
    ensemble and the groups of a convolution are groups.

    >>> kernel = Layout.of_matrix((3, 2))            # a dense kernel: 3 inputs, 2 outputs
    >>> kernel.split(jnp.arange(6.0).reshape(3, 2)).shape
    (1, 3, 2)

    Attributes:
      shape: the leaf's shape.
      steps: transposes, reshapes and reversals of the leaf. The entries of the result, read in
        order, are those of ``(groups, inputs, outputs)``.
      groups, inputs, outputs: the three sizes.
      exact: False if no such recipe exists (a low-rank factor, a kernel assembled from several
        leaves, a table used in two ways). The leaf then gets a single value and is split as one
        row. ``inputs`` is the number of inputs of its layer (the fewest, if it has several layers).
      one_hot: whether the layer's input is one-hot, as in a lookup. Its second moment is diagonal.
    """

    shape: tuple[int, ...]
    steps: tuple[Step, ...]
    groups: int
    inputs: int
    outputs: int
    exact: bool = True
    one_hot: bool = False

    @classmethod
    def of_matrix(cls, shape: tuple[int, int]) -> "Layout":
        """The layout of a matrix with one row per input, as in Flax and Haiku."""
        return cls(shape, (), 1, *shape)

    @classmethod
    def pooled(cls, shape: tuple[int, ...], inputs: int = 1) -> "Layout":
        """The layout of a leaf without an exact one."""
        return cls(shape, (), 1, inputs, math.prod(shape), exact=False)

    @property
    def matrices(self) -> tuple[int, int, int]:
        """The shape of the result of `split`."""
        return self.groups, self.inputs if self.exact else 1, self.outputs

    def split(self, leaf: Inexact[Array, "..."]) -> Inexact[Array, "groups inputs outputs"]:
        """Splits an array of the leaf's shape into the matrices of its layer."""
        for step in self.steps:
            leaf = apply_step(step, leaf)
        return jax.lax.reshape(leaf, self.matrices)

    def merge(self, matrices: Inexact[Array, "groups inputs outputs"]) -> Inexact[Array, "..."]:
        """The inverse of `split`."""
        shapes = [self.shape]
        for step in self.steps:
            shapes.append(shape_after(step, shapes[-1]))
        leaf = jax.lax.reshape(matrices, shapes[-1])
        for step, before in zip(reversed(self.steps), reversed(shapes[:-1]), strict=True):
            leaf = _undo_step(step, leaf, before)
        return leaf


def shape_after(step: Step, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an array after the step."""
    kind, numbers = step
    if kind == "transpose":
        return tuple(shape[axis] for axis in numbers)
    return numbers if kind == "reshape" else shape


def apply_step(step: Step, array: Array) -> Array:
    kind, numbers = step
    match kind:
        case "transpose":
            return jnp.transpose(array, numbers)
        case "reshape":
            return array.reshape(numbers)
        case "reverse":
            return jax.lax.rev(array, numbers)


def _undo_step(step: Step, array: Array, shape_before: tuple[int, ...]) -> Array:
    kind, numbers = step
    match kind:
        case "transpose":
            return jnp.transpose(array, [numbers.index(axis) for axis in range(len(numbers))])
        case "reshape":
            return array.reshape(shape_before)
        case "reverse":
            return jax.lax.rev(array, numbers)


def append_step(steps: tuple[Step, ...], step: Step, shape: tuple[int, ...]) -> tuple[Step, ...]:
    """Appends a step to steps that end in ``shape``, such that equal recipes compare equal.

    Steps that change nothing are left out. Neighbors of one kind are merged.
    """
    kind, numbers = step
    if steps and steps[-1][0] == kind == "transpose":
        step = (kind, tuple(steps[-1][1][axis] for axis in numbers))
        steps = steps[:-1]
        return steps if step[1] == tuple(range(len(numbers))) else (*steps, step)
    if kind == "transpose" and numbers == tuple(range(len(numbers))):
        return steps
    if kind == "reshape" and numbers == shape:
        return steps
    if steps and steps[-1][0] == kind == "reshape":
        steps = steps[:-1]
    return (*steps, step)
