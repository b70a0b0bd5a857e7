"""example_gradient_norms: the norm of every example's gradient, for each parameter."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax import compat
from insgd_optax.capture.arguments import argument_origins, is_array, positions
from insgd_optax.capture.interpreter import Interpreter
from insgd_optax.capture.layers import Layer, RowInput
from insgd_optax.capture.layers.base import magnitudes
from insgd_optax.capture.mistakes import check_parameters, check_result
from insgd_optax.capture.program import Use
from insgd_optax.capture.sole_layers import leaves_of_one_layer
from insgd_optax.capture.tracing import Traced, trace
from insgd_optax.capture.weight_rule import Operation, Pull, with_weight_rule
from insgd_optax.numerics import wide_dtype
from insgd_optax.structures import Scalar


def example_gradient_norms(
    loss_fn: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] | None = None,
) -> Callable[..., dict[str, Float[Array, " examples"]]]:
    r"""The exact norm of every example's gradient, for each parameter.

    Take a dense layer that sees one row :math:`x` of an example, with the gradient :math:`g` at its
    output. The gradient of its weight is :math:`x g^\top`, and only its norm is computed:

    .. math::
      \lVert x g^\top \rVert_F = \lVert x \rVert_2 \, \lVert g \rVert_2

    With several rows (tokens), the squared norm is the sum of
    :math:`(x_r \cdot x_s)(g_r \cdot g_s)` over all pairs of rows. This sum is used if it costs less
    than the gradient. It has fewer correct digits than the gradient if rows cancel. For all other
    parameters, one gradient per example is computed and its norm taken. These are biases, kernels
    of convolutions, and weights that are transformed before their layer or used more than once.

    >>> def loss_fn(params, inputs):
    ...     return jnp.mean(2.0 * inputs @ params["kernel"])
    >>> params = {"kernel": jnp.ones((2, 1))}
    >>> norms = example_gradient_norms(loss_fn)(params, jnp.array([[3.0, 4.0], [0.0, 1.0]]))
    >>> norms["kernel"].tolist()                                          # 2 ‖x‖
    [10.0, 2.0]

    The norm over all parameters is ``jnp.sqrt(sum(norm**2 for norm in norms.values()))``. Pass it
    to `track_groups` as ``gradient_norms``. If the gradient at the model's output is enough,
    `softmax_gradient_norm` and `output_gradient_norm` cost next to nothing. This function costs
    about another step. No gradient flows through it. Call it under ``jax.jit``.

    Args:
      loss_fn: maps parameters and a batch to a loss, a mean or a sum over examples. It runs on
        every example as a batch of one, so it must not mix examples: BatchNorm must use its running
        averages. All examples share the same random key. (A uint32 array of shape (2,) counts as a
        key.)
      argnums, has_aux: as in `value_and_grad`. The auxiliary output is dropped.
      batch_argnums: the positional arguments that hold the batch, with examples along the first
        axis of all their arrays. The default is that of `value_and_grad`. Other arguments and
        scalars are passed on whole.

    Returns:
      A function of the loss's arguments that returns the norms by parameter path. Each has shape
      ``(examples,)``, in float32 (float64 if the gradient is).

    Raises:
      ValueError: if the batch holds no array, or if its arrays differ in their number of examples.

    References:
      Goodfellow, "Efficient Per-Example Gradient Computations" (2015), for one row; Li et al.,
      "Large Language Models Can Be Strong Differentially Private Learners" (ICLR 2022), sec. 4,
      for several.
    """

    @functools.wraps(loss_fn)
    def norms_of(*args: Any, **kwargs: Any) -> dict[str, Array]:
        check_parameters(args, argnums, batch_argnums)
        flat, treedef = jax.tree.flatten((args, kwargs))
        batch = zip(argument_origins(args, kwargs, argnums, batch_argnums), flat, strict=True)
        of_batch = [bool(o.data) and is_array(leaf) and leaf.ndim > 0 for o, leaf in batch]
        places = [place for place, has_examples in enumerate(of_batch) if has_examples]
        examples = [jnp.asarray(flat[place]) for place in places]
        _check_examples(examples)
        zero = _zero(examples)

        def of_one(*example: Array) -> dict[str, Array]:
            whole = list(flat)
            for place, array in zip(places, example, strict=True):
                whole[place] = array[None]
            args, kwargs = jax.tree.unflatten(treedef, whole)
            args = _varying(args, argnums, zero)
            traced = trace(loss_fn, args, kwargs, argnums, batch_argnums)
            check_result(traced.returned.shapes, has_aux)
            return _norms(traced, has_aux, zero)

        return jax.vmap(of_one)(*examples)

    return norms_of


def _check_examples(arrays: Sequence[Array]) -> None:
    shapes = [array.shape for array in arrays]
    if len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"The arrays of the batch have shapes {shapes}. example_gradient_norms needs arrays "
            "(not lists of numbers) with the same number of examples along the first axis. Name "
            "the arguments that hold the batch with batch_argnums. Others are passed on whole."
        )


def _zero(arrays: Sequence[Array]) -> Array:
    """Zero, which varies over devices as the arrays do inside ``shard_map``."""
    numbers = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.number)]
    widest = jnp.result_type(float)
    return sum((jnp.zeros_like(a, widest).sum() for a in numbers), jnp.zeros([], widest))


def _varying(args: tuple[Any, ...], argnums: int | Sequence[int], zero: Array) -> tuple[Any, ...]:
    """The arguments, with parameters that vary over devices as ``zero`` does.

    Inside ``shard_map``, JAX sums the gradient of a parameter over the axes it does not vary over.
    """
    chosen = positions("argnums", argnums, len(args))

    def added(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf + zero.astype(leaf.dtype)

    return tuple(
        jax.tree.map(added, argument) if place in chosen else argument
        for place, argument in enumerate(args)
    )


def _norms(traced: Traced, has_aux: bool, zero: Array) -> dict[str, Array]:
    """The gradient norms of one example."""
    measured = leaves_of_one_layer(traced)
    of_number = dict(zip(traced.numbers, traced.arrays, strict=True))
    numbers = [leaf.number for leaf in traced.leaves if leaf.number not in measured]
    others = {number: of_number[number] for number in numbers}

    def loss_of(probes: dict[int, Array], others: dict[int, Array]) -> Any:
        measure = functools.partial(_measured, probes=probes)
        arrays = [others.get(number, array) for number, array in of_number.items()]
        interpreter = Interpreter(Scalar(), {}, measure, is_staged=compat.is_staged())
        results, _ = interpreter.run(traced.program, arrays)
        value = traced.returned.with_arrays(results)
        return value[0] if has_aux else value

    squares, gradients = jax.grad(loss_of, (0, 1))(dict.fromkeys(measured, zero), others)
    squares |= {number: jnp.sum(magnitudes(array, 2)) for number, array in gradients.items()}
    squares = jax.lax.stop_gradient(squares)  # norms are constants
    norms = {}
    for leaf in traced.leaves:
        dtype = wide_dtype(jnp.real(of_number[leaf.number]).dtype)
        norms[leaf.name] = jnp.sqrt(squares[leaf.number]).astype(dtype)
    return norms


def _measured(operation: Operation, use: Use, probes: dict[int, Array]) -> Operation:
    """A layer's operation that sends the squared norm of the weight's gradient to a probe.

    The weight itself gets no gradient. Sums over the iterations of a loop are correct too, because
    each iteration has a separate part of a stacked leaf.
    """
    probe = probes.get(next(iter(use.weight.leaves)))
    if probe is None:
        return operation

    def rule(seen: RowInput, cotangent: Array, pull: Pull) -> tuple[None, Array]:
        return None, _squared_norm(use.layer, seen, cotangent, pull).astype(probe.dtype)

    return with_weight_rule(operation, use, rule, probe)


def _squared_norm(layer: Layer, seen: RowInput, cotangent: Array, pull: Pull) -> Array:
    """The squared norm of a weight's gradient, from pairs of rows if these are cheaper."""
    rows = cotangent.size // max(1, layer.groups * layer.outputs)
    if 0 < rows**2 < layer.inputs * layer.outputs and not jnp.iscomplexobj(cotangent):
        pairs = seen.products_of_rows(cotangent)
        if pairs is not None:  # rounding may take a sum of squares below zero
            return jnp.maximum(jnp.sum(pairs), 0)
    return jnp.sum(magnitudes(pull(cotangent), 2))
