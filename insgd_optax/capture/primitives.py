"""Primitives: classifies equations by how they treat the entries of their operands."""

from insgd_optax import compat
from insgd_optax.compat import JaxprEqn

# Every entry of the result comes from the entries at the same position in the operands.
ENTRYWISE = frozenset(
    """abs add add_any and atan2 bessel_i0e bessel_i1e cbrt ceil clamp complex
    convert_element_type copy copy_p cos cosh digamma div erf erf_inv erfc exp exp2 expm1 floor
    igamma igammac imag integer_pow is_finite lgamma log log1p logistic max min mul name ne neg
    nextafter not or pow real reduce_precision regularized_incomplete_beta rem round rsqrt select_n
    sharding_constraint sign sin sinh sqrt square stop_gradient sub tan tanh xor
    asin acos atan asinh acosh atanh conj""".split()
)
PASSING_ON = frozenset({"optimization_barrier", "device_put", "pvary", "pcast", "reshard"})
RESHAPING = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim"})
# Every entry of the result comes from one of the operands, or combines their entries.
JOINING = frozenset(
    """concatenate dynamic_update_slice pad scatter scatter-add scatter-max scatter-min
    scatter-mul scatter_add scatter_max scatter_min scatter_mul""".split()
)
# Entries of data move, and change at most their sign or dtype.
MOVING_DATA = (
    RESHAPING
    | PASSING_ON
    | frozenset(
        """concatenate convert_element_type copy copy_p dynamic_slice gather neg pad rev select_n
    sharding_constraint slice split transpose unstack""".split()
    )
)
# These may be layers: one operand is the weight and another one the input.
PRODUCTS = frozenset(
    "conv_general_dilated dot_general dynamic_slice gather ragged_dot ragged_dot_general".split()
)
# The products that only select entries of the weight.
LOOKUPS = frozenset({"dynamic_slice", "gather"})
# JAX cannot see inside these.
OPAQUE = frozenset({"core_map", "ffi_call", "io_callback", "pallas_call", "pure_callback"})
# The derivative is zero everywhere.
FLAT = frozenset({"ceil", "floor", "is_finite", "round", "sign", "stop_gradient"})
SUMS = frozenset({"add", "add_any"})


def is_multiplication(equation: JaxprEqn) -> bool:
    """Whether it is written as a product of tensors but contracts nothing.

    ``einsum("bi,i->bi")`` is ``x * gain``. So is a depthwise convolution with a window of one.
    """
    params = equation.params
    if equation.primitive.name == "dot_general":
        contracted, _ = params["dimension_numbers"]
        return not contracted[0]
    if equation.primitive.name == "conv_general_dilated":
        shape = compat.shape_of(equation.invars[1])
        out_axis, groups = params["dimension_numbers"].rhs_spec[0], params["feature_group_count"]
        window = all(size == 1 for axis, size in enumerate(shape) if axis != out_axis)
        return window and groups == shape[out_axis] > 1
    return False


def is_entrywise(equation: JaxprEqn) -> bool:
    """Whether it adds, multiplies or selects entries, and applies no matrix."""
    return equation.primitive.name in ENTRYWISE | JOINING or is_multiplication(equation)


def is_penalty(equation: JaxprEqn) -> bool:
    """Whether it adds or subtracts scalars. A leaf added to a loss this way meets no data."""
    name = equation.primitive.name
    return name in SUMS | {"sub"} and compat.shape_of(equation.outvars[0]) == ()
