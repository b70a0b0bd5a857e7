"""Haiku: modules as functions, and a stack of layers under `layer_stack`."""

import haiku as hk
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, filled, inputs, mean_square


def _case(forward, x: jax.Array, expected) -> Case:
    model = hk.without_apply_rng(hk.transform(forward))
    params = filled(jax.eval_shape(model.init, jax.random.key(0), x))
    return Case(lambda params, x: mean_square(model.apply(params, x)), params, (x,), expected)


@case(framework=True)
def haiku_mlp(dtype: DTypeLike) -> Case:
    def expected(params, x):
        first = params["mlp/~/linear_0"]
        hidden = jnp.tanh(x @ first["w"] + first["b"])
        return {
            "mlp/~/linear_0/w": ref.dense(x, (5, 7)),
            "mlp/~/linear_1/w": ref.dense(hidden, (7, 3)),
        }

    forward = lambda x: hk.nets.MLP([7, 3], activation=jnp.tanh)(x)  # noqa: E731
    return _case(forward, inputs(1, (6, 5), dtype), expected)


def _convolve(x, kernel, strides, padding):
    groups = x.shape[-1] // kernel.shape[2]
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=axes, feature_group_count=groups
    )


@case(framework=True)
def haiku_conv(dtype: DTypeLike) -> Case:
    def forward(x):
        x = jnp.tanh(hk.Conv2D(4, (3, 2), stride=(1, 2))(x))
        return hk.Linear(3)(hk.DepthwiseConv2D(2, 2, padding="VALID")(x).mean((1, 2)))

    def expected(params, x):
        conv, depthwise = params["conv2_d"], params["depthwise_conv2_d"]
        hidden = jnp.tanh(_convolve(x, conv["w"], (1, 2), "SAME") + conv["b"])
        last = _convolve(hidden, depthwise["w"], (1, 1), "VALID") + depthwise["b"]
        same = ref.same_padding((5, 6), (3, 2), (1, 2))
        return {
            "conv2_d/w": ref.convolution(x, (3, 2, 3, 4), strides=(1, 2), padding=same),
            "depthwise_conv2_d/w": ref.convolution(hidden, (2, 2, 1, 8), groups=4),
            "linear/w": ref.dense(last.mean((1, 2)), (8, 3)),
        }

    return _case(forward, inputs(1, (4, 5, 6, 3), dtype), expected)


@case(framework=True)
def haiku_layer_stack(dtype: DTypeLike) -> Case:
    def forward(x):
        return hk.experimental.layer_stack(3)(lambda h: jnp.tanh(hk.Linear(5)(h)))(x)

    def expected(params, x):
        (name,) = params
        powers = []
        for weight, bias in zip(params[name]["w"], params[name]["b"], strict=True):
            powers.append(ref.dense(x, (5, 5)))
            x = jnp.tanh(x @ weight + bias)
        return {f"{name}/w": ref.stacked(powers)}

    return _case(forward, inputs(1, (6, 5), dtype), expected)
