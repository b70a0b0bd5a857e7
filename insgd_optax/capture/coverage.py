"""Coverage: what is said when a parameter or a whole model was not captured."""

import warnings
from collections.abc import Sequence

from insgd_optax.capture.tracing import Leaf


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
            f"{_listed(missed)}\n"
            "If an argument named above is not batch data (running statistics, masks, keys), pass "
            "value_and_grad(..., batch_argnums=...) with the position of the batch alone. To train "
            "these parameters by their plain gradient, pass strict=False. "
            "insgd_optax.explain(loss_fn, params, ...) prints what was found for every parameter."
        )
    if missed:
        warnings.warn(f"{_listed(missed)}\nThey keep their plain gradient.", stacklevel=2)


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
            "The batch must be an array among the arguments of the loss, not a variable that the "
            "loss closes over: write loss_fn(params, batch) and call "
            "value_and_grad(loss_fn)(params, batch). If an argument named above is not batch data, "
            "or the batch was taken for a PRNG key (uint32 of shape (2,)), say where the batch is "
            "with batch_argnums.",
        ]
    )
