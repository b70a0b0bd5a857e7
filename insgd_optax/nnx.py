"""Flax NNX: value_and_grad of a loss that takes modules and may change them."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from insgd_optax.capture import gradients
from insgd_optax.capture.arguments import positions
from insgd_optax.capture.gradients import InputStats
from insgd_optax.capture.mistakes import check_result
from insgd_optax.capture.per_example import PerExample
from insgd_optax.sharding import AxisName
from insgd_optax.structures import MeanVariances, Structure

CONTEXT = "insgd_optax"


def value_and_grad(
    loss_fn: Callable[..., Any],
    argnums: int | nnx.DiffState | Sequence[int | nnx.DiffState] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] | None = None,
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    per_example: PerExample | bool = False,
    strict: bool = True,
    axis_name: AxisName | None = None,
) -> Callable[..., tuple[Any, Any, InputStats]]:
    """Like ``nnx.value_and_grad``, and also returns the statistics of every layer's input.

    The loss takes modules and may change them. Running averages, dropout counts, metrics and new
    variables are in the modules afterwards. Call the function under ``nnx.jit``, like the rest of a
    step.

    >>> import jax.numpy as jnp
    >>> import insgd_optax as insgd
    >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> optimizer = nnx.Optimizer(model, insgd.insgd(), wrt=nnx.Param)
    >>> def loss_fn(model, inputs):
    ...     return jnp.mean(model(inputs) ** 2)
    >>> inputs = jnp.array([[1.0, 2.0], [3.0, 0.0]])      # two rows of two features
    >>> loss, grads, input_stats = insgd.nnx.value_and_grad(loss_fn)(model, inputs)
    >>> input_stats["kernel"].sums.tolist()               # 1 + 3, 2 + 0, and 1 + 9, 4 + 0
    [[4.0, 2.0, 10.0, 4.0]]
    >>> _ = optimizer.update(model, grads, input_stats=input_stats)

    Args:
      loss_fn: returns a scalar, or ``(scalar, aux)`` with ``has_aux``.
      argnums: the arguments to differentiate. In a module, these are the variables of type
        ``nnx.Param``. ``nnx.DiffState(argnum, filter)`` selects others.
      has_aux: whether the loss also returns auxiliary data.
      batch_argnums: the arguments that hold data. The default is all arrays outside modules and
        other NNX objects, except PRNG keys.
      structure, per_example, strict, axis_name: see `insgd_optax.value_and_grad`.

    Returns:
      A function of the loss's arguments that returns ``(value, grads, input_stats)``. ``grads`` has
      an ``nnx.State`` for every differentiated module, as expected by ``nnx.Optimizer.update``.
      ``input_stats`` maps the path of every leaf in it to an `InputMoments` or None.

    Raises:
      ValueError, TypeError: see `insgd_optax.value_and_grad`.
    """
    signature = inspect.signature(loss_fn)
    filters = _filters(argnums)
    numbers = next(iter(filters)) if isinstance(argnums, int | nnx.DiffState) else tuple(filters)
    options: Any = {"structure": structure, "per_example": per_example}
    options |= {"strict": strict, "axis_name": axis_name}

    @nnx.update_context(CONTEXT)
    def with_statistics(*args: Any, **kwargs: Any) -> tuple[Any, Any, InputStats]:
        bound = signature.bind(*args, **kwargs)  # a module may be a keyword argument
        split = _split(bound.args, bound.kwargs, filters, batch_argnums)
        grad_fn = gradients.value_and_grad(
            functools.partial(_on_states, loss_fn, has_aux, split),
            numbers,
            has_aux=True,
            batch_argnums=batch_argnums,
            **options,
        )
        args, kwargs = split.arguments()
        (loss, (aux, after)), grads, input_stats = grad_fn(*args, **kwargs)
        with nnx.merge_context(CONTEXT, False) as context:
            for graph, state in after:
                context.merge(graph, state)
        return ((loss, aux) if has_aux else loss), grads, input_stats

    return functools.wraps(loss_fn)(with_statistics)


class Piece(NamedTuple):
    """A leaf of the arguments. An NNX object is split, and anything else stays as it is.

    Attributes:
      graph: rebuilds the object from its variables; None for anything else.
      passed: the variables that are differentiated or hold data; anything else as it is.
      held: the object's other variables, which the loss closes over.
    """

    graph: Any
    passed: Any
    held: Any


class Split(NamedTuple):
    """The split arguments of a loss.

    Attributes:
      tree: the structure of ``(args, kwargs)``, with NNX objects as leaves.
      pieces: its leaves.
    """

    tree: Any
    pieces: Sequence[Piece]

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments without the held variables."""
        return self.tree.unflatten([piece.passed for piece in self.pieces])

    def objects(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The leaves with new NNX objects, for arguments in the form that `arguments` returns."""
        passed = self.tree.flatten_up_to((args, kwargs))
        with nnx.merge_context(CONTEXT, True) as context:
            return [_rebuilt(context, *pair) for pair in zip(self.pieces, passed, strict=True)]


def _filters(
    argnums: int | nnx.DiffState | Sequence[int | nnx.DiffState],
) -> dict[int, nnx.filterlib.Filter]:
    """The filter of every differentiated argument.

    Raises:
      ValueError: if an argument is named twice.
    """
    given = [argnums] if isinstance(argnums, int | nnx.DiffState) else list(argnums)
    states = [n if isinstance(n, nnx.DiffState) else nnx.DiffState(n, nnx.Param) for n in given]
    filters = {state.argnum: state.filter for state in states}
    if len(filters) < len(states):
        raise ValueError(f"argnums={argnums} names an argument twice.")
    return filters


def _is_object(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Pytree | nnx.Variable)


def _split(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    filters: dict[int, nnx.filterlib.Filter],
    batch_argnums: int | Sequence[int] | None,
) -> Split:
    """Splits every NNX object among the arguments. Shared variables count once."""
    names = positions("argnums", tuple(filters), len(args))
    wrt = dict(zip(names, filters.values(), strict=True))
    batch = () if batch_argnums is None else positions("batch_argnums", batch_argnums, len(args))
    flat, tree = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=_is_object)
    with nnx.split_context(CONTEXT) as context:
        pieces = []
        for (_, argument, *_), leaf in flat:
            number = getattr(argument, "idx", -1)  # -1 for a keyword
            pieces.append(_piece(context, leaf, wrt.get(number), number in batch))
    return Split(tree, pieces)


def _piece(context: Any, leaf: Any, wrt: nnx.filterlib.Filter | None, is_data: bool) -> Piece:
    if not _is_object(leaf):
        return Piece(None, leaf, None)
    if wrt is not None and not isinstance(leaf, nnx.Variable):
        return Piece(*context.split(leaf, wrt, ...))
    graph, state = context.split(leaf)
    return Piece(graph, state, None) if is_data or wrt is not None else Piece(graph, None, state)


def _rebuilt(context: Any, piece: Piece, passed: Any) -> Any:
    if piece.graph is None:
        return passed
    # Variables can only be written to in the trace that created them.
    held = jax.tree.map(lambda leaf: leaf, piece.held)
    return context.merge(piece.graph, *(state for state in (passed, held) if state is not None))


def _on_states(
    loss_fn: Callable[..., Any], has_aux: bool, split: Split, *args: Any, **kwargs: Any
) -> tuple[Any, tuple[Any, list[Any]]]:
    """The loss, and its aux with the objects as the loss left them."""
    objects = split.objects(args, kwargs)
    args, kwargs = split.tree.unflatten(objects)
    result = loss_fn(*args, **kwargs)
    check_result(result, has_aux)
    loss, aux = result if has_aux else (result, None)
    with nnx.split_context(CONTEXT) as context:
        after = [context.split(leaf) for leaf in objects if _is_object(leaf)]
    return loss, (aux, after)
