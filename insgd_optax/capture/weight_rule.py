"""Weight rule: a layer's operation with a custom gradient for its weight only."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array

from insgd_optax.capture.layers import RowInput
from insgd_optax.capture.program import Use

# Maps the operands of an equation to its results.
Operation = Callable[[Sequence[Any]], list[Any]]
# Maps the cotangent of a layer's result to that of its weight.
Pull = Callable[[Array], Array]
# Maps the layer's input, the cotangent of its result and a `Pull` to the cotangents of its weight
# and of a probe. Either may be None.
Rule = Callable[[RowInput, Array, Pull], tuple[Any, Any]]


def with_weight_rule(operation: Operation, use: Use, rule: Rule, probe: Any = None) -> Operation:
    """A layer's operation, with cotangents from the rule for its weight and for a probe.

    The probe is an input that the result does not depend on.
    """
    layer = use.layer

    def apply(weight: Any, others: list[Any]) -> Any:
        (result,) = operation([*others[: layer.weight], weight, *others[layer.weight :]])
        return result

    @jax.custom_vjp
    def run(weight: Any, others: list[Any], probe: Any) -> Any:
        del probe
        return apply(weight, others)

    def forward(weight: Any, others: list[Any], probe: Any) -> tuple[Any, Any]:
        del probe  # not `run`, whose rule does not hold for a second derivative
        return apply(weight, others), (weight, others)

    def backward(residuals: Any, cotangent: Any) -> tuple[Any, Any, Any]:
        weight, others = residuals
        _, pull_others = jax.vjp(lambda others: apply(weight, others), others)
        _, pull_weight = jax.vjp(lambda weight: apply(weight, others), weight)
        operands = [*others[: layer.weight], weight, *others[layer.weight :]]
        seen = layer.look_at([operands[place] for place in layer.input])
        to_weight, to_probe = rule(seen, cotangent, lambda cotangent: pull_weight(cotangent)[0])
        return to_weight, *pull_others(cotangent), to_probe

    run.defvjp(forward, backward)

    def with_rule(operands: Sequence[Any]) -> list[Any]:
        others = [*operands]
        return [run(others.pop(layer.weight), others, probe)]

    return with_rule
