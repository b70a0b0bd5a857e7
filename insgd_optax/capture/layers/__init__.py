"""Layers: the equations that apply a weight to an input, and the statistics of that input.

Each kind of layer has a file. If an operation is more than a sum of products, the statistics come
from the operation itself. It handles strides, padding, dilation, groups and dimension numbers, so
no case analysis is needed. Its transpose with respect to the weight, for the squared input and an
output of ones, is the sum over rows of every feature's square. The operation on the squared input
with a weight of ones is the power of every row.
"""

from insgd_optax.capture.layers.base import Layer, RowInput
from insgd_optax.capture.layers.convolution import convolution_layer
from insgd_optax.capture.layers.dot import dot_layer
from insgd_optax.capture.layers.lookup import lookup_layer
from insgd_optax.capture.layers.ragged import ragged_layer
from insgd_optax.capture.origin import Origin
from insgd_optax.capture.primitives import is_multiplication
from insgd_optax.compat import JaxprEqn

__all__ = ["Layer", "RowInput", "find_layer"]


def find_layer(equation: JaxprEqn, origins: list[Origin]) -> Layer | None:
    """The layer of an equation, or None. A weight operand must meet an operand with data."""
    if is_multiplication(equation):
        return None
    match equation.primitive.name:
        case "dot_general" if origins[1].is_weight and origins[0].data:
            return dot_layer(equation, weight=1, input=0)
        case "dot_general" if origins[0].is_weight and origins[1].data:
            return dot_layer(equation, weight=0, input=1)
        case "conv_general_dilated" if origins[1].is_weight and origins[0].data:
            return convolution_layer(equation)
        case "ragged_dot_general" if origins[1].is_weight and origins[0].data:
            return ragged_layer(equation)
        case "gather" | "dynamic_slice" if origins[0].is_weight:
            indices_from_data = any(origin.data for origin in origins[1:])
            return lookup_layer(equation) if indices_from_data else None
    return None
