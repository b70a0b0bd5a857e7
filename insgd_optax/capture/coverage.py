"""Coverage: what is said when a parameter or a whole model was not captured."""

import warnings
from collections.abc import Sequence

from insgd_optax.capture.tracing import Leaf, Traced

NOT_THE_BATCH = (
    "If an argument named above is not batch data (the frozen base of an adapter, running "
    "statistics, masks), pass value_and_grad(..., batch_argnums=...) with the positions of the "
    "batch alone."
)
CLOSED_OVER = (
    "The batch must be an array among the arguments of the loss, not a variable that the loss "
    "closes over: write loss_fn(params, batch) and call value_and_grad(loss_fn)(params, batch)."
)


def check_captured(leaves: Sequence[Leaf], strict: bool) -> None:
    """Raises if nothing was captured, and raises or warns for each matrix that was not.

    Raises:
      ValueError: with the path, the shape, the reason and the call that mends it.
    """
    missed = [leaf for leaf in leaves if leaf.is_missed]
    if all(leaf.target is None for leaf in leaves):
        raise ValueError(_nothing_captured(leaves))
    if missed and strict:
        raise ValueError(
            f"{_listed(missed)}\n{NOT_THE_BATCH}\n{CLOSED_OVER}\n"
            "To train these parameters by their plain gradient, pass strict=False. "
            "insgd_optax.explain(loss_fn, params, ...) prints what was found for every parameter."
        )
    if missed:
        warnings.warn(f"{_listed(missed)}\nThey keep their plain gradient.", stacklevel=2)


def check_rows_are_reached(traced: Traced) -> None:
    """Raises if a layer's gradient comes from a rule that per-example normalization cannot enter.

    Raises:
      ValueError: with the paths, the shapes and the call that mends it.
    """
    numbers = {leaf for use in traced.program.uses_with_own_rule() for leaf in use.weight.leaves}
    hidden = [leaf for leaf in traced.leaves if leaf.number in numbers]
    if hidden:
        listed = ", ".join(f"'{leaf.name}' of shape {leaf.shape}" for leaf in hidden)
        raise ValueError(
            f"per_example cannot divide the rows of {listed}: a function with a derivative rule of "
            "its own (jax.custom_vjp or jax.custom_jvp) applies them. Call value_and_grad without "
            "per_example, or take the rule off that function."
        )


def _listed(missed: Sequence[Leaf]) -> str:
    lines = [f"  '{leaf.name}' of shape {leaf.shape}: {leaf.reason}" for leaf in missed]
    return "\n".join(["No layer that uses these parameters was captured:", *lines])


def _nothing_captured(leaves: Sequence[Leaf]) -> str:
    lines = [f"  '{leaf.name}' of shape {leaf.shape}: {leaf.reason}" for leaf in leaves]
    return "\n".join(
        [
            "No layer was captured: nowhere in the loss does a matrix product, a convolution or "
            "a table lookup apply a parameter to the batch.",
            *lines,
            NOT_THE_BATCH,
            CLOSED_OVER,
            "An array of uint32 and shape (2,) is taken for a PRNG key, unless batch_argnums names "
            "it.",
        ]
    )
