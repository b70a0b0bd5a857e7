"""What every weight of a loss met in a plain run: an account that knows nothing of the capture.

The loss runs operation by operation. Where a product, a convolution or a lookup has an operand
made of a parameter's numbers, the other one is that layer's input. Numbers of parameters are told
apart by their values, so what was reshaped, transposed, sliced or stacked needs no bookkeeping.
"""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import cond_p, conv_general_dilated_p, dot_general_p, gather_p, scan_p

from insgd_optax import compat
from insgd_optax.trees import named_leaves


class Met(NamedTuple):
    """For every number of a parameter: the squares that it was multiplied with, and how many.

    Numbers that nothing told apart, or no layer used, have no rows.
    """

    squares: np.ndarray
    rows: np.ndarray

    @property
    def mean_square(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return self.squares / self.rows


def recorded(loss: Callable[..., Any], params: Any, *args: Any) -> Mapping[str, Met]:
    """What every leaf of the parameters met in one run of the loss."""
    account = _Account(params)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.disable_jit())
        for primitive, run in _IN_PYTHON.items():
            stack.enter_context(_replaced(primitive, run))
        for primitive, sizes in _SIZES.items():
            note = functools.partial(account.note, sizes)
            stack.enter_context(_replaced(primitive, _watched(primitive.impl, note)))
        loss(params, *args)
    return account.met


class _Account:
    def __init__(self, params: Any):
        named = [(path, np.asarray(leaf, np.float64)) for path, leaf in named_leaves(params)]
        self.met = {path: Met(np.zeros(leaf.shape), np.zeros(leaf.shape)) for path, leaf in named}
        values = np.concatenate([leaf.ravel() for _, leaf in named])
        order = np.argsort(values, kind="stable")
        self.values, self.places = values[order], order
        same = self.values[1:] == self.values[:-1]
        self.unique = ~(np.append(same, False) | np.insert(same, 0, False))
        self.starts = np.cumsum([0, *(leaf.size for _, leaf in named)])

    def places_of(self, operand: Any) -> np.ndarray | None:
        """Where each entry of an operand lies among all numbers of the parameters."""
        if not jnp.issubdtype(operand.dtype, jnp.floating) or not operand.size:
            return None
        numbers = np.asarray(operand, np.float64).ravel()
        at = np.minimum(np.searchsorted(self.values, numbers), len(self.values) - 1)
        known = (self.values[at] == numbers) & self.unique[at]
        return self.places[at] if known.all() else None

    def note(self, sizes: "Sizes", operands: list[Any], params: dict[str, Any]) -> None:
        both = [self.places_of(operand) for operand in operands]
        made_of = [number for number, places in enumerate(both) if places is not None]
        if len(made_of) != 1:  # none, or a penalty: parameters that meet parameters
            return
        squares, rows = sizes(made_of[0], operands, params)
        places = both[made_of[0]]
        leaves = np.searchsorted(self.starts, places, side="right") - 1
        for leaf, met in enumerate(self.met.values()):
            mine = leaves == leaf
            at = places[mine] - self.starts[leaf]
            np.add.at(met.squares.reshape(-1), at, squares.ravel()[mine])
            np.add.at(met.rows.reshape(-1), at, rows.ravel()[mine])


Sizes = Callable[[int, list[Any], dict[str, Any]], tuple[np.ndarray, np.ndarray]]


def _of_dot(weight: int, operands: list[Any], params: dict[str, Any]) -> Any:
    """By moving axes: the input's squares summed over its rows, spread over the weight's axes."""
    x = np.asarray(operands[1 - weight], np.float64)
    contract, batch = params["dimension_numbers"]
    if not contract[weight]:  # a multiplication entry by entry, of a gain
        return (np.zeros(operands[weight].shape),) * 2
    kept = (*batch[1 - weight], *contract[1 - weight])
    summed = tuple(axis for axis in range(x.ndim) if axis not in kept)
    squares = np.transpose((x * x).sum(summed, keepdims=True), (*kept, *summed))
    squares = squares.reshape([x.shape[axis] for axis in kept])
    shape, own = operands[weight].shape, (*batch[weight], *contract[weight])
    order = np.argsort(own)
    spread = [shape[axis] if axis in own else 1 for axis in range(len(shape))]
    rows = np.prod([x.shape[axis] for axis in summed], dtype=np.float64)
    return (
        np.broadcast_to(np.transpose(squares, order).reshape(spread), shape),
        np.full(shape, rows),
    )


def _of_convolution(weight: int, operands: list[Any], params: dict[str, Any]) -> Any:
    """By the operation's own transpose: a weight of zeros gets every square that it would meet.

    A row is a position of the result: of one example where the weight is the kernel. Where it is
    the input, every output of a group is a row too.
    """
    other = jnp.asarray(operands[1 - weight], jnp.float64)
    settings = params | {"preferred_element_type": None}

    def operation(zeros: Any) -> Any:
        both = (zeros, other * other) if weight == 0 else (other * other, zeros)
        return conv_general_dilated_p.bind(*both, **settings)

    squares, results = _met_by(operation, operands[weight])
    apart = results.shape[params["dimension_numbers"].out_spec[weight]]
    apart *= params["feature_group_count"] if weight == 0 else 1
    return squares, np.full(squares.shape, results.size / max(1, apart))


def _of_lookup(weight: int, operands: list[Any], params: dict[str, Any]) -> Any:
    """How often each entry was read, of as many lookups as there are vectors of indices."""
    indices = operands[1]
    reads, _ = _met_by(lambda table: gather_p.bind(table, indices, **params), operands[0])
    apart = params["dimension_numbers"].start_indices_batching_dims
    shared = [size for axis, size in enumerate(indices.shape[:-1]) if axis not in apart]
    return reads, np.full(reads.shape, np.prod(shared, dtype=np.float64))


def _met_by(operation: Callable[[Any], Any], weight: Any) -> tuple[np.ndarray, Any]:
    """What a linear operation multiplies each entry of a weight with, summed; and its result."""
    results, transpose = jax.vjp(operation, jnp.zeros(weight.shape, jnp.float64))
    return np.asarray(transpose(jnp.ones_like(results))[0]), results


_SIZES: Mapping[Any, Sizes] = {
    dot_general_p: _of_dot,
    conv_general_dilated_p: _of_convolution,
    gather_p: _of_lookup,
}


def _branch(index: Any, *operands: Any, branches: Any, **_: Any) -> list[Any]:
    return compat.jaxpr_as_fun(branches[int(index)])(*operands)


def _loop(*operands: Any, jaxpr: Any, length: int, reverse: bool, **params: Any) -> list[Any]:
    """A scan inside of a `jax.checkpoint`, which is a program even without jit."""
    constants, carries = compat.scan_sizes(types.SimpleNamespace(params=params))
    fixed, carry = operands[:constants], [*operands[constants : constants + carries]]
    stacked, step = operands[constants + carries :], compat.jaxpr_as_fun(jaxpr)
    results = []
    for n in reversed(range(length)) if reverse else range(length):
        after = step(*fixed, *carry, *(each[n] for each in stacked))
        carry = after[:carries]
        results.append(after[carries:])
    results = results[::-1] if reverse else results
    return [*carry, *(jnp.stack(each) for each in zip(*results, strict=True))]


_IN_PYTHON = {cond_p: _branch, scan_p: _loop}


def _watched(run: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    """An operation that tells its operands before it runs, but not from within the telling."""
    busy = []

    def watched(*operands: Any, **params: Any) -> Any:
        if not busy:
            busy.append(True)
            try:
                note([jnp.asarray(operand) for operand in operands], params)
            finally:
                busy.clear()
        return run(*operands, **params)

    return watched


@contextlib.contextmanager
def _replaced(primitive: Any, run: Callable[..., Any]) -> Iterator[None]:
    before = primitive.impl
    primitive.def_impl(run)
    try:
        yield
    finally:
        primitive.def_impl(before)
