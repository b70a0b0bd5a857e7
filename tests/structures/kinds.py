"""Kinds of layers, each with the rows that its weight sees, in plain NumPy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reference import im2col
from zoo.case import inputs, normal


class Kind(NamedTuple):
    """A kind of layer: a loss whose only leaf is its weight, and that weight seen by hand.

    `rows(weight, x)` gives the input rows as (groups, rows, inputs); `split` takes an array of the
    weight's shape to (groups, inputs, outputs) and `merge` back. All in NumPy.
    """

    loss: Callable[..., jax.Array]
    weight: jax.Array
    x: jax.Array
    rows: Callable[..., np.ndarray]
    split: Callable[[np.ndarray], np.ndarray]
    merge: Callable[[np.ndarray], np.ndarray]


def _target(y: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(3 * y)) / y.shape[0]


def dense() -> Kind:
    return Kind(
        lambda w, x: _target(x @ w),
        normal(0, (5, 3), "float64"),
        inputs(1, (8, 5), "float64") + 0.5,
        lambda w, x: x[None],
        lambda w: w[None],
        lambda m: m[0],
    )


def outputs_first() -> Kind:
    """Equinox's and PyTorch's order of the axes."""
    return Kind(
        lambda w, x: _target(jax.vmap(lambda row: w @ row)(x)),
        normal(0, (3, 5), "float64"),
        inputs(1, (8, 5), "float64") + 0.5,
        lambda w, x: x[None],
        lambda w: w.T[None],
        lambda m: m[0].T,
    )


def fewer_rows_than_inputs() -> Kind:
    return dense()._replace(x=inputs(1, (2, 5), "float64"))


def attention_query() -> Kind:
    """A kernel (model, heads, head)."""
    return Kind(
        lambda w, x: _target(jnp.einsum("btd,dhk->bthk", x, w)),
        normal(0, (5, 2, 3), "float64"),
        inputs(1, (4, 3, 5), "float64"),
        lambda w, x: x.reshape(1, 12, 5),
        lambda w: w.reshape(1, 5, 6),
        lambda m: m.reshape(5, 2, 3),
    )


def attention_output() -> Kind:
    """A kernel (heads, head, model)."""
    return Kind(
        lambda w, x: _target(jnp.einsum("bthk,hkd->btd", x, w)),
        normal(0, (2, 3, 5), "float64"),
        inputs(1, (4, 3, 2, 3), "float64"),
        lambda w, x: x.reshape(1, 12, 6),
        lambda w: w.reshape(1, 6, 5),
        lambda m: m.reshape(2, 3, 5),
    )


def _convolved(strides, padding, numbers, groups=1, dilation=(1, 1)):
    return lambda w, x: _target(
        jax.lax.conv_general_dilated(
            x, w, strides, padding, dimension_numbers=numbers, feature_group_count=groups,
            rhs_dilation=dilation,
        )
    )  # fmt: skip


NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def convolution() -> Kind:
    """Strided, dilated, unevenly padded."""

    def rows(w, x):
        padded = np.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0)))
        return im2col(padded, (3, 2), (2, 1), (1, 2)).reshape(1, -1, 12)

    return Kind(
        _convolved((2, 1), [(1, 0), (2, 1)], NHWC, dilation=(1, 2)),
        normal(0, (3, 2, 2, 4), "float64"),
        inputs(1, (3, 6, 5, 2), "float64") + 0.3,
        rows,
        lambda w: w.reshape(1, 12, 4),
        lambda m: m.reshape(3, 2, 2, 4),
    )


def convolution_channels_first() -> Kind:
    def rows(w, x):
        patches = im2col(x.transpose(0, 2, 3, 1), (2, 3), (1, 1), (1, 1))
        return patches.transpose(0, 1, 2, 5, 3, 4).reshape(1, -1, 12)

    return Kind(
        _convolved((1, 1), "VALID", NCHW),
        normal(0, (4, 2, 2, 3), "float64"),
        inputs(1, (3, 2, 4, 5), "float64"),
        rows,
        lambda w: w.reshape(4, 12).T[None],
        lambda m: m[0].T.reshape(4, 2, 2, 3),
    )


def _grouped(groups: int, channels: int, outputs: int) -> Kind:
    of_group, out = channels // groups, outputs // groups

    def rows(w, x):
        patches = im2col(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2), (1, 1))
        split = patches.reshape(-1, 9, groups, of_group)
        return split.transpose(2, 0, 1, 3).reshape(groups, -1, 9 * of_group)

    return Kind(
        _convolved((2, 2), [(1, 1), (1, 1)], NHWC, groups),
        normal(0, (3, 3, of_group, outputs), "float64"),
        inputs(1, (2, 5, 5, channels), "float64"),
        rows,
        lambda w: w.reshape(9 * of_group, groups, out).transpose(1, 0, 2),
        lambda m: m.transpose(1, 0, 2).reshape(3, 3, of_group, outputs),
    )


def grouped_convolution() -> Kind:
    return _grouped(2, 4, 6)


def depthwise_convolution() -> Kind:
    return _grouped(3, 3, 6)


def transposed_convolution() -> Kind:
    """Input dilation 2: zeros between the input's positions."""

    def rows(w, x):
        spread = np.zeros((x.shape[0], 7, x.shape[2]))
        spread[:, ::2] = x
        return im2col(np.pad(spread, ((0, 0), (2, 2), (0, 0))), (3,), (1,), (1,)).reshape(1, -1, 6)

    return Kind(
        lambda w, x: _target(
            jax.lax.conv_general_dilated(
                x, w, (1,), [(2, 2)], lhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC")
            )
        ),
        normal(0, (3, 2, 3), "float64"),
        inputs(1, (3, 4, 2), "float64"),
        rows,
        lambda w: w.reshape(1, 6, 3),
        lambda m: m.reshape(3, 2, 3),
    )


def _hidden(layers: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    seen = []
    for layer in layers:
        seen.append(x)
        x = np.tanh(x @ layer)
    return np.stack(seen)


def stacked_layers() -> Kind:
    def loss(w, x):
        return _target(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])

    return Kind(
        loss, normal(0, (3, 4, 4), "float64"), inputs(1, (7, 4), "float64"),
        lambda w, x: _hidden(list(w), x), lambda w: w, lambda m: m,
    )  # fmt: skip


def layers_stacked_on_the_second_axis() -> Kind:
    def loss(w, x):
        return _target(
            jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, jnp.moveaxis(w, 1, 0))[0]
        )

    return Kind(
        loss,
        normal(0, (4, 3, 4), "float64"),
        inputs(1, (7, 4), "float64"),
        lambda w, x: _hidden(list(w.transpose(1, 0, 2)), x),
        lambda w: w.transpose(1, 0, 2),
        lambda m: m.transpose(1, 0, 2),
    )


def ensemble() -> Kind:
    return Kind(
        lambda w, x: _target(jax.vmap(lambda w: x @ w)(w)),
        normal(0, (3, 5, 2), "float64"),
        inputs(1, (8, 5), "float64"),
        lambda w, x: np.broadcast_to(x, (1, 8, 5)),
        lambda w: w.transpose(1, 0, 2).reshape(1, 5, 6),
        lambda m: m.reshape(5, 3, 2).transpose(1, 0, 2),
    )


def mixture_of_experts() -> Kind:
    """Every expert has rows of its own."""
    return Kind(
        lambda w, x: _target(jnp.einsum("ebi,eio->beo", x, w)),
        normal(0, (3, 5, 2), "float64"),
        inputs(1, (3, 4, 5), "float64"),
        lambda w, x: x,
        lambda w: w,
        lambda m: m,
    )


KINDS = [
    dense, outputs_first, fewer_rows_than_inputs, attention_query, attention_output, convolution,
    convolution_channels_first, grouped_convolution, depthwise_convolution,
    transposed_convolution, stacked_layers, layers_stacked_on_the_second_axis, ensemble,
    mixture_of_experts,
]  # fmt: skip
