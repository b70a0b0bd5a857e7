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


def check_captured(leaves: Sequence[Leaf], strict: bool, hidden: Sequence[str] = ()) -> None:
    """Raises if nothing was captured, and raises or warns for each matrix that was not.

    Args:
      leaves: what was found for each leaf.
      strict: whether a matrix that was not captured is an error.
      hidden: why JAX may not see the data, in words.

    Raises:
      ValueError: with the path, the shape, the reason and the call that mends it.
    """
    missed = [leaf for leaf in leaves if leaf.is_missed]
    if all(leaf.target is None for leaf in leaves):
        raise ValueError(_nothing_captured(leaves, hidden))
    if missed and strict:
        raise ValueError(
            f"{_listed([*_lines(missed), *hidden])}\n{NOT_THE_BATCH}\n{CLOSED_OVER}\n"
            "To train these parameters by their plain gradient, pass strict=False. "
            "insgd_optax.explain(loss_fn, params, ...) prints what was found for every parameter."
        )
    if missed:
        warnings.warn(f"{_listed(_lines(missed))}\nThey keep their plain gradient.", stacklevel=2)


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
            "its own (jax.custom_vjp or jax.custom_jvp) applies them, or an operation that "
            "insgd_optax.tap describes. Call value_and_grad without per_example, or remove the "
            "rule or the tap."
        )


def _lines(leaves: Sequence[Leaf]) -> list[str]:
    return [f"  '{leaf.name}' of shape {leaf.shape}: {leaf.reason}" for leaf in leaves]


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(["No layer that uses these parameters was captured:", *lines])


def _nothing_captured(leaves: Sequence[Leaf], hidden: Sequence[str]) -> str:
    return "\n".join(
        [
            "No layer was captured: nowhere in the loss does a matrix product, a convolution or "
            "a table lookup apply a parameter to the batch.",
            *_lines(leaves),
            *hidden,
            NOT_THE_BATCH,
            CLOSED_OVER,
            "An array of uint32 and shape (2,) is taken for a PRNG key, unless batch_argnums names "
            "it.",
        ]
    )
