"""Coverage: errors and warnings about parameters and models that were not captured."""

import warnings
from collections.abc import Sequence

from insgd_optax.capture.tracing import Leaf, Traced

NOT_THE_BATCH = (
    "If an argument named above is not batch data (the frozen base of an adapter, running "
    "statistics, masks), pass value_and_grad(..., batch_argnums=...) with the positions of the "
    "batch only."
)
CLOSED_OVER = (
    "The batch must be an array in the arguments of the loss, not a variable that the loss closes "
    "over. Write loss_fn(params, batch) and call value_and_grad(loss_fn)(params, batch)."
)


def check_captured(leaves: Sequence[Leaf], strict: bool, hidden: Sequence[str] = ()) -> None:
    """Raises if no layer was captured. Raises or warns if a matrix was not.

    Args:
      leaves: the traced leaves.
      strict: whether an uncaptured matrix is an error.
      hidden: sentences on why JAX may not see the data.

    Raises:
      ValueError: with the path, the shape, the reason and the call that fixes it.
    """
    missed = [leaf for leaf in leaves if leaf.is_missed]
    if all(leaf.target is None for leaf in leaves):
        raise ValueError(_nothing_captured(leaves, hidden))
    if missed and strict:
        raise ValueError(
            f"{_listed([*_lines(missed), *hidden])}\n{NOT_THE_BATCH}\n{CLOSED_OVER}\n"
            "To train these parameters with their plain gradient, pass strict=False. "
            "print(insgd_optax.explain(loss_fn, params, ...)) lists the layer of every parameter."
        )
    if missed:
        warnings.warn(f"{_listed(_lines(missed))}\nThey keep their plain gradient.", stacklevel=2)


def check_rows_are_reached(traced: Traced) -> None:
    """Raises if a gradient rule hides a layer from per-example normalization.

    Raises:
      ValueError: with the paths, the shapes and the call that fixes it.
    """
    numbers = {leaf for use in traced.program.uses_with_own_rule() for leaf in use.weight.leaves}
    hidden = [leaf for leaf in traced.leaves if leaf.number in numbers]
    if hidden:
        listed = ", ".join(f"'{leaf.name}' of shape {leaf.shape}" for leaf in hidden)
        raise ValueError(
            f"per_example cannot divide the rows of {listed}. They are applied by a function with "
            "a custom derivative rule (jax.custom_vjp or jax.custom_jvp) or by an operation that "
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
            "No layer was captured: no matrix product, convolution or table lookup in the loss "
            "applies a parameter to the batch.",
            *_lines(leaves),
            *hidden,
            NOT_THE_BATCH,
            CLOSED_OVER,
            "A uint32 array of shape (2,) counts as a PRNG key unless batch_argnums names it.",
        ]
    )
