"""value_and_grad: the loss, its gradient and the input statistics of every layer."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import Tracer

from insgd_optax import compat
from insgd_optax.capture.coverage import check_captured, check_rows_are_reached
from insgd_optax.capture.interpreter import Found, Interpreter
from insgd_optax.capture.layers.sampling import draw_of
from insgd_optax.capture.mistakes import check_axes, check_parameters, check_result, hidden_data
from insgd_optax.capture.per_example import PerExample, with_scaled_rows
from insgd_optax.capture.tracing import Leaf, trace
from insgd_optax.moments import InputMoments
from insgd_optax.sharding import AxisName, names_of
from insgd_optax.structures import MeanVariances, Structure, check_structure

InputStats = dict[str, InputMoments | None]


def value_and_grad(
    loss_fn: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] | None = None,
    structure: Structure = MeanVariances(),  # noqa: B008 (frozen)
    per_example: PerExample | bool = False,
    strict: bool = True,
    axis_name: AxisName | None = None,
) -> Callable[..., tuple[Any, Any, InputStats]]:
    r"""Like ``jax.value_and_grad``, and also returns the statistics of every layer's input.

    The loss runs unchanged. It is traced, and every matrix product, convolution or table lookup
    that applies a weight to data is a layer. A weight is made from parameters and not from data. It
    may be cast, reshaped or merged before its layer, in any framework. Call the function under
    ``jax.jit``. Without it the loss runs twice, once for its gradient and once for the statistics.

    >>> import jax.numpy as jnp
    >>> def loss_fn(params, inputs):
    ...     return jnp.mean(inputs @ params["kernel"])
    >>> params = {"kernel": jnp.ones((2, 1))}
    >>> inputs = jnp.array([[1.0, 2.0], [3.0, 0.0]])      # two rows of two features
    >>> loss, grads, input_stats = value_and_grad(loss_fn)(params, inputs)
    >>> input_stats["kernel"].sums.tolist()               # 1 + 3, 2 + 0, and 1 + 9, 4 + 0
    [[4.0, 2.0, 10.0, 4.0]]
    >>> input_stats["kernel"].count.tolist()
    [2.0]

    Args:
      loss_fn: returns a scalar, or ``(scalar, aux)`` with ``has_aux``.
      argnums: the arguments to differentiate, as in ``jax.value_and_grad``.
      has_aux: whether the loss also returns auxiliary data.
      batch_argnums: the positional arguments that hold data. The default is all arguments, keyword
        arguments included, except PRNG keys and the differentiated ones. Batch statistics, masks of
        weights and the like are not data. If they are among the arguments, name the batch here. (A
        uint32 array of shape (2,) counts as a key. An array of several raw keys does not.)
      structure: the structure of each layer's second moment; the same as in the transformation.
      per_example: divides the gradient of every row (an example, a token, a patch) by the norm of
        its input, before the rows are summed. True stands for ``PerExample()``. The loss and the
        gradients of earlier layers and biases stay the same. Reverse mode only.
      strict: whether a leaf with two or more axes and no layer is an error. Biases, gains and
        leaves that get no gradient from data are exempt. If False, such a leaf gets no statistics,
        and one warning names them all.
      axis_name: the axes of ``jax.shard_map``, ``jax.pmap`` or ``jax.vmap`` that the batch is split
        over: one name, or several in the order of the split. The statistics are summed over them.
        Drawn rows are those that a single device would draw. Under ``jax.jit`` with sharded arrays
        no sum is needed.

    Returns:
      A function of the loss's arguments that returns ``(value, grads, input_stats)``. ``value`` is
      ``(loss, aux)`` with ``has_aux``. ``input_stats`` maps the path of every leaf to an
      `InputMoments`. It is None for leaves that are not a layer's weight (biases, the gains of
      norms).

    Raises:
      ValueError: if no layer was found (the loss may close over the batch), if strict mode finds a
        leaf without a layer, or if there is no axis of this name. Under ``per_example``, also if a
        weight is applied by a function with a custom derivative rule or described by a `tap`.
      TypeError: if an argument has the wrong type, if a leaf of the parameters has no gradient, or
        if the loss contradicts ``has_aux``.
    """
    check_structure(structure)
    rows, axes = _checked_rows(per_example), names_of(axis_name)
    rewire = functools.partial(with_scaled_rows, rows=rows) if rows else None

    def instrumented(silent: bool, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        traced = trace(loss_fn, args, kwargs, argnums, batch_argnums)
        check_result(traced.returned.shapes, has_aux)
        check_captured(traced.leaves, strict, hidden_data(args, kwargs, argnums))
        if rows:
            check_rows_are_reached(traced)
        draw = draw_of([traced.arrays[place] for place in traced.exact], axes)
        staged = compat.is_staged()
        interpreter = Interpreter(structure, traced.targets, rewire, silent, draw, staged)
        results, found = interpreter.run(traced.program, traced.arrays)
        found = jax.lax.psum(found, axes) if axes else found
        returned = traced.returned.with_arrays(results)
        value, aux = returned if has_aux else (returned, None)
        return value, (aux, _by_path(traced.leaves, found, structure, rows))

    def in_one_run(silent: bool, *args: Any, **kwargs: Any) -> tuple[Any, Any, InputStats]:
        run = functools.partial(instrumented, silent)
        differentiated = jax.value_and_grad(run, argnums, has_aux=True)
        (value, (aux, input_stats)), grads = differentiated(*args, **kwargs)
        return ((value, aux) if has_aux else value), grads, input_stats

    def loss_itself(*args: Any, **kwargs: Any) -> Any:
        # Rebuild the arguments inside the gradient, as a trace does. A Flax variable can only be
        # written to in the trace that created it.
        args, kwargs = jax.tree.map(lambda leaf: leaf, (args, kwargs))
        return loss_fn(*args, **kwargs)

    def in_two_runs(*args: Any, **kwargs: Any) -> tuple[Any, Any, InputStats]:
        if rows:
            return loss_itself(*args, **kwargs), *in_one_run(True, *args, **kwargs)[1:]
        _, (_, input_stats) = instrumented(True, *args, **kwargs)
        value, grads = jax.value_and_grad(loss_itself, argnums, has_aux)(*args, **kwargs)
        return value, grads, input_stats

    @functools.wraps(loss_fn)
    def with_statistics(*args: Any, **kwargs: Any) -> tuple[Any, Any, InputStats]:
        check_parameters(args, argnums, batch_argnums)
        check_axes(axes)
        # Without jit, some functions (jnp.mean) are compiled as a whole. They differ in the last
        # bit from the operations in their trace, so the loss itself runs.
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return in_one_run(False, *args, **kwargs)
        return in_two_runs(*args, **kwargs)

    return with_statistics


def _checked_rows(per_example: object) -> PerExample | None:
    if isinstance(per_example, bool | None):
        return PerExample() if per_example else None
    if not isinstance(per_example, PerExample):
        raise TypeError(
            f"per_example must be insgd_optax.PerExample(...), True or False, not {per_example!r}."
        )
    return per_example


def _by_path(
    leaves: Sequence[Leaf], found: Found, structure: Structure, rows: PerExample | None
) -> InputStats:
    input_stats: InputStats = {leaf.name: None for leaf in leaves}
    for leaf in leaves:
        if leaf.target is not None:
            sums, count = found[leaf.number]
            settings = leaf.target.layout, structure, rows, leaf.bias
            input_stats[leaf.name] = InputMoments(sums, count, *settings)
    return input_stats
