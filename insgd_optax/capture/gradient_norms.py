"""example_gradient_norms: how large every example's gradient is, parameter by parameter."""

import functools
from collections.abc import Callable, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from insgd_optax.capture.dataflow import Use
from insgd_optax.capture.interpreter import Interpreter
from insgd_optax.capture.layers import Layer, RowInput
from insgd_optax.capture.layers.base import magnitudes
from insgd_optax.capture.sole_layers import leaves_of_one_layer
from insgd_optax.capture.tracing import Leaf, argument_origins, is_array, positions, trace
from insgd_optax.capture.weight_rule import Operation, Pull, with_weight_rule
from insgd_optax.structures import Scalar


def example_gradient_norms(
    loss_fn: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    batch_argnums: int | Sequence[int] | None = None,
) -> Callable[..., dict[str, Float[Array, " examples"]]]:
    r"""The norm of every example's gradient, for each parameter, exactly.

    A dense layer that sees one row :math:`x` of an example, and whose output has the gradient
    :math:`g`, has the gradient :math:`x g^\top`, of which only

    .. math::
      \lVert x g^\top \rVert_F = \lVert x \rVert_2 \, \lVert g \rVert_2

    is computed. With several rows (tokens) it is the sum of :math:`(x_r \cdot x_s)(g_r \cdot g_s)`
    over all pairs of them, where that is smaller than the gradient. The gradients of other
    parameters (kernels of convolutions, biases, weights that are used more than once or are
    computed with before their layer) are made, one for each example, and their norms taken.

    >>> def loss_fn(params, inputs):
    ...     return jnp.mean(2.0 * inputs @ params["kernel"])
    >>> params = {"kernel": jnp.ones((2, 1))}
    >>> norms = example_gradient_norms(loss_fn)(params, jnp.array([[3.0, 4.0], [0.0, 1.0]]))
    >>> norms["kernel"].tolist()                                          # 2 ‖x‖
    [10.0, 2.0]

    The norm for all parameters together, which `track_groups` takes as ``gradient_norms``, is
    ``jnp.sqrt(sum(norm**2 for norm in norms.values()))``. Where the gradient at the model's output
    is enough, `softmax_gradient_norm` and `output_gradient_norm` cost next to nothing; this costs
    about another step. Call it under ``jax.jit``, which leaves out what is not needed.

    Args:
      loss_fn: from parameters and a batch to a loss, a mean or a sum over examples. It is run on
        every example as a batch of one, so nothing in it may mix examples: BatchNorm must use its
        running averages. Random keys are the same for all examples.
      argnums, has_aux: as in `value_and_grad`; what is returned besides the loss is dropped.
      batch_argnums: which positional arguments hold the batch, the examples along the first axis
        of all their arrays; by default as in `value_and_grad`. The others, and numbers alone,
        are passed on whole.

    Returns:
      A function of the loss's arguments to norms by the parameter's path, each of shape
      ``(examples,)``, in float32 (float64 where the gradient is).

    Raises:
      ValueError: if there is no batch, or its arrays differ in their number of examples.

    References:
      Goodfellow, "Efficient Per-Example Gradient Computations" (2015), for one row; Li et al.,
      "Large Language Models Can Be Strong Differentially Private Learners" (ICLR 2022), sec. 4,
      for several.
    """

    def norms_of(*args: Any, **kwargs: Any) -> dict[str, Array]:
        flat, treedef = jax.tree.flatten((args, kwargs))
        origins = argument_origins(args, kwargs, argnums, batch_argnums)
        batch = zip(origins, flat, strict=True)
        of_batch = [bool(o.data) and is_array(leaf) and leaf.ndim > 0 for o, leaf in batch]
        places = [place for place, has_examples in enumerate(of_batch) if has_examples]
        _check_examples([flat[place] for place in places])

        def of_one(*example: Array) -> dict[str, Array]:
            whole = list(flat)
            for place, array in zip(places, example, strict=True):
                whole[place] = array[None]
            args, kwargs = jax.tree.unflatten(treedef, whole)
            return _norms(loss_fn, argnums, has_aux, batch_argnums, args, kwargs)

        return jax.vmap(of_one)(*(jnp.asarray(flat[place]) for place in places))

    return norms_of


def _check_examples(arrays: Sequence[Any]) -> None:
    shapes = [jnp.shape(array) for array in arrays]
    if len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"The arrays of the batch are of shapes {shapes}: example_gradient_norms needs the "
            "same number of examples along the first axis of each. Name the arguments that hold "
            "the batch with batch_argnums; the others are passed on whole."
        )


def _norms(
    loss_fn: Callable[..., Any],
    argnums: int | Sequence[int],
    has_aux: bool,
    batch_argnums: int | Sequence[int] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Array]:
    """The norms of one example's gradient."""
    leaves: list[Leaf] = []
    measured: set[int] = set()

    def loss_of(probes: Array, *args: Any) -> Any:
        traced = trace(loss_fn, args, kwargs, argnums, batch_argnums)
        leaves[:] = traced.leaves
        measured.update(leaves_of_one_layer(traced))
        measure = functools.partial(_measured, probes=probes, leaves=measured)
        results, _ = Interpreter(Scalar(), {}, measure).run(traced.program, traced.arrays)
        value = traced.rebuild(results)
        return value[0] if has_aux else value

    chosen = positions("argnums", argnums, len(args))
    flat = jax.tree.leaves((args, kwargs))
    wide = any(is_array(leaf) and leaf.dtype == jnp.float64 for leaf in flat)
    probes = jnp.zeros(len(flat), jnp.float64 if wide else jnp.float32)
    squares, *gradients = jax.grad(loss_of, (0, *(n + 1 for n in chosen)))(probes, *args)
    made = dict(zip((leaf.number for leaf in leaves), jax.tree.leaves(gradients), strict=True))
    return {
        leaf.name: jnp.sqrt(
            squares[leaf.number]
            if leaf.number in measured
            else jnp.sum(magnitudes(made[leaf.number], 2))
        )
        for leaf in leaves
    }


def _measured(operation: Operation, use: Use, probes: Array, leaves: Set[int]) -> Operation:
    """A layer's operation, where the squared norm of the weight's gradient flows to a probe.

    The weight has no gradient then. What the iterations of a loop add up to is right as well:
    each has its own part of a stacked leaf.
    """
    leaf = next(iter(use.weight.leaves))
    if leaf not in leaves:
        return operation

    def rule(seen: RowInput, cotangent: Array, pull: Pull) -> tuple[None, Array]:
        return None, _squared_norm(use.layer, seen, cotangent, pull).astype(probes.dtype)

    return with_weight_rule(operation, use, rule, probes[leaf])


def _squared_norm(layer: Layer, seen: RowInput, cotangent: Array, pull: Pull) -> Array:
    """That of a weight's gradient, without the gradient where that is larger than what it takes."""
    rows = cotangent.size // max(1, layer.groups * layer.outputs)
    if rows == 1:
        return jnp.sum(seen.row_sums(2) * magnitudes(cotangent, 2))
    if rows**2 < layer.inputs * layer.outputs and not jnp.iscomplexobj(cotangent):
        pairs = seen.products_of_rows(cotangent)
        if pairs is not None:  # rounding may take a sum of squares below zero
            return jnp.maximum(jnp.sum(pairs), 0)
    return jnp.sum(magnitudes(pull(cotangent), 2))
