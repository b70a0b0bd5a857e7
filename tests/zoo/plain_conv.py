"""Convolutions: strides, padding, both dilations, groups, transposition, axis orders, ensembles."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, inputs, mean_square, normal

NHWC = ("NHWC", "HWIO", "NHWC")


def _one_convolution(
    dtype: DTypeLike, x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], **options
) -> Case:
    """A model of a single channels-last convolution; `options` in the words of the reference."""
    axes = ("NWC", "WIO", "NWC") if len(x_shape) == 3 else NHWC
    space = len(x_shape) - 2
    groups = options.get("groups", 1)
    strides = options.get("strides", (1,) * space)
    padding = options.get("padding", ((0, 0),) * space)
    lhs_dilation, rhs_dilation = options.get("lhs_dilation"), options.get("rhs_dilation")

    def loss(params, x):
        y = lax.conv_general_dilated(
            x, params["kernel"], strides, padding, lhs_dilation, rhs_dilation, axes,
            feature_group_count=groups,
        )  # fmt: skip
        return mean_square(y)

    return Case(
        loss,
        {"kernel": normal(0, kernel_shape, dtype)},
        (inputs(1, x_shape, dtype),),
        lambda params, x: {"kernel": ref.convolution(x, kernel_shape, **options)},
    )


@case()
def conv_1d(dtype: DTypeLike) -> Case:
    return _one_convolution(dtype, (4, 9, 3), (3, 3, 2))


@case()
def conv_2d_strided_uneven_padding(dtype: DTypeLike) -> Case:
    return _one_convolution(
        dtype, (4, 7, 6, 3), (3, 2, 3, 4), strides=(2, 3), padding=((1, 2), (0, 1))
    )


@case()
def conv_2d_same_padding(dtype: DTypeLike) -> Case:
    same = ref.same_padding((6, 5), (3, 4), (2, 1))
    case = _one_convolution(dtype, (4, 6, 5, 3), (3, 4, 3, 4), strides=(2, 1), padding=tuple(same))

    def loss(params, x):
        kernel = params["kernel"]
        y = lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=NHWC)
        return mean_square(y)

    return Case(loss, case.params, case.args, case.expected)


@case()
def conv_dilated(dtype: DTypeLike) -> Case:
    return _one_convolution(
        dtype, (4, 8, 9, 3), (3, 2, 3, 4), rhs_dilation=(2, 3), padding=((2, 2), (0, 3))
    )


@case()
def conv_input_dilated(dtype: DTypeLike) -> Case:
    return _one_convolution(
        dtype, (4, 4, 3, 3), (3, 3, 3, 2), lhs_dilation=(2, 3), padding=((2, 1), (-1, 2))
    )


@case()
def conv_grouped(dtype: DTypeLike) -> Case:
    return _one_convolution(dtype, (4, 6, 5, 6), (3, 3, 2, 9), groups=3, strides=(2, 1))


@case()
def conv_depthwise(dtype: DTypeLike) -> Case:
    return _one_convolution(dtype, (4, 6, 5, 3), (3, 3, 1, 6), groups=3)


@case()
def conv_everything_at_once(dtype: DTypeLike) -> Case:
    return _one_convolution(
        dtype, (4, 6, 5, 4), (2, 3, 2, 4), groups=2, strides=(3, 2), padding=((1, 0), (2, 3)),
        lhs_dilation=(2, 1), rhs_dilation=(1, 2),
    )  # fmt: skip


@case()
def conv_transpose(dtype: DTypeLike) -> Case:
    """`jax.lax.conv_transpose` with a stride and SAME padding."""

    def loss(params, x):
        y = lax.conv_transpose(x, params["kernel"], (2, 2), "SAME", dimension_numbers=NHWC)
        return mean_square(y)

    def expected(params, x):
        padding = ((1, 1), (2, 1))  # a total of window + stride - 2, the larger half first
        power = ref.convolution(x, (2, 3, 3, 4), padding=padding, lhs_dilation=(2, 2))
        return {"kernel": power}

    params = {"kernel": normal(0, (2, 3, 3, 4), dtype)}
    return Case(loss, params, (inputs(1, (4, 4, 3, 3), dtype),), expected)


@case()
def conv_transpose_of_a_transposed_kernel(dtype: DTypeLike) -> Case:
    """`transpose_kernel=True`: the leaf is flipped in space and has outputs before inputs."""

    def loss(params, x):
        y = lax.conv_transpose(
            x, params["kernel"], (2, 2), "VALID", dimension_numbers=NHWC, transpose_kernel=True
        )
        return mean_square(y)

    def expected(params, x):
        padding = ((1, 1), (2, 2))  # VALID: window - 1 at each end, where the window >= the stride
        power = ref.convolution(x, (2, 3, 3, 4), padding=padding, lhs_dilation=(2, 2))
        return {"kernel": ref.rearranged(power, np.swapaxes(power.mean_square[::-1, ::-1], 2, 3))}

    params = {"kernel": normal(0, (2, 3, 4, 3), dtype)}
    return Case(loss, params, (inputs(1, (4, 4, 3, 3), dtype),), expected)


@case()
def conv_channels_first(dtype: DTypeLike) -> Case:
    def loss(params, x):
        y = lax.conv_general_dilated(x, params["kernel"], (1, 2), "VALID", feature_group_count=2)
        return mean_square(y)

    def expected(params, x):
        channels_last = np.transpose(x, (0, 2, 3, 1))
        power = ref.convolution(channels_last, (3, 2, 2, 6), strides=(1, 2), groups=2)
        return {"kernel": ref.rearranged(power, power.mean_square.transpose(3, 2, 0, 1))}

    params = {"kernel": normal(0, (6, 2, 3, 2), dtype)}
    return Case(loss, params, (inputs(1, (4, 4, 6, 5), dtype),), expected)


@case()
def conv_exotic_axes(dtype: DTypeLike) -> Case:
    """Data as (height, width, batch, channel), kernel as (input, height, output, width)."""

    def loss(params, x):
        axes = ("HWNC", "IHOW", "CWNH")
        y = lax.conv_general_dilated(x, params["kernel"], (1, 2), "VALID", dimension_numbers=axes)
        return mean_square(y)

    def expected(params, x):
        power = ref.convolution(np.transpose(x, (2, 0, 1, 3)), (3, 2, 3, 5), strides=(1, 2))
        return {"kernel": ref.rearranged(power, power.mean_square.transpose(2, 0, 3, 1))}

    params = {"kernel": normal(0, (3, 3, 5, 2), dtype)}
    return Case(loss, params, (inputs(1, (5, 6, 4, 3), dtype),), expected, batch_axis=2)


@case()
def conv_ensemble(dtype: DTypeLike) -> Case:
    """`jax.vmap` over the kernels: members share the data in layer 1 and part in layer 2."""

    def convolve(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)

    def member(x, first, second):
        return convolve(jnp.tanh(convolve(x, first)), second)

    def loss(params, x):
        members = jax.vmap(member, in_axes=(None, 0, 0))
        return mean_square(members(x, params["first"], params["second"]))

    def expected(params, x):
        first = ref.convolution(x, (3, 2, 3, 4))
        hidden = [jnp.tanh(convolve(x, kernel)) for kernel in params["first"]]
        together = np.broadcast_to(first.mean_square, (2, 3, 2, 3, 4))
        return {
            "first": ref.rearranged(first, together),  # one convolution, 2 x 4 outputs
            "second": ref.stacked([ref.convolution(h, (2, 2, 4, 3)) for h in hidden]),
        }

    params = {
        "first": normal(0, (2, 3, 2, 3, 4), dtype),
        "second": normal(1, (2, 2, 2, 4, 3), dtype),
    }
    return Case(loss, params, (inputs(2, (4, 6, 5, 3), dtype),), expected)


@case()
def conv_ensemble_on_its_own_data(dtype: DTypeLike) -> Case:
    """Members on axis 1 of the kernel, each with its own, grouped, convolution."""

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=2
        )

    def loss(params, x):
        return mean_square(jax.vmap(convolve, in_axes=(1, 1))(x, params["kernel"]))

    def expected(params, x):
        same = ref.same_padding((5, 4), (3, 2), (1, 1))
        members = [ref.convolution(x[:, i], (3, 2, 2, 6), padding=same, groups=2) for i in range(3)]
        return {"kernel": ref.stacked(members, axis=1)}

    params = {"kernel": normal(0, (3, 3, 2, 2, 6), dtype)}
    return Case(loss, params, (inputs(1, (4, 3, 5, 4, 4), dtype),), expected)
