"""A depthwise convolution spelled as taps is not a gain, and a gain in slices is not taps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import insgd_optax as insgd
from battery.problems import assert_says
from zoo.case import mean_square, normal

X = normal(0, (3, 9, 4), "float32")


def padded(x: Any) -> Any:
    return jnp.pad(x, ((0, 0), (2, 0), (0, 0)))


def rolled(x: Any, w: Any) -> Any:
    return sum(jnp.roll(x, k, axis=1) * w[k][None, None] for k in range(3))


def shifted_step_by_step(x: Any, w: Any) -> Any:
    result = x * w[0][None, None]
    for k in (1, 2):
        x = jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
        result = result + x * w[k][None, None]
    return result


TAPS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "slices": (lambda x, w: sum(x[:, k : k + 7] * w[k][None, None] for k in range(3)), (3, 4)),
    "along the first axis": (
        lambda x, w: sum(x[k : k + 1] * w[k, 0][None, None] for k in range(3)),
        (3, 1, 4),
    ),
    "of a padded input": (
        lambda x, w: sum(padded(x)[:, k : k + 9] * w[k, 0][None, None] for k in range(3)),
        (3, 1, 4),
    ),
    "the channels first": (
        lambda x, w: sum(x.mT[:, :, k : k + 7] * w[:, 0, k][None, :, None] for k in range(3)),
        (4, 1, 3),
    ),
    "under vmap": (
        lambda x, w: jax.vmap(lambda x: sum(x[k : k + 7] * w[k][None] for k in range(3)))(x),
        (3, 4),
    ),
    "rolled": (rolled, (3, 4)),
    "shifted step by step": (shifted_step_by_step, (3, 4)),
    "two taps": (
        lambda x, w: x[:, 1:] * w[0][None, None] + x[:, :-1] * w[1][None, None],
        (2, 4),
    ),
    "one filter for all channels": (
        lambda x, w: sum(x[:, k : k + 7] * w[k, 0] for k in range(3)),
        (3, 1),
    ),
    "with a bias and an activation": (
        lambda x, w: jnp.tanh(1.0 + sum(x[:, k : k + 7] * w[k][None, None] for k in range(3))),
        (3, 4),
    ),
    "split": (
        lambda x, w: sum(x[:, k : k + 7] * tap[None] for k, tap in enumerate(jnp.split(w, 3))),
        (3, 4),
    ),
}


@pytest.mark.parametrize("tap", TAPS)
def test_taps_are_an_error_that_says_which_convolution_to_write(tap: str):
    function, shape = TAPS[tap]

    def loss(params: Any, x: Any) -> Any:
        return mean_square(function(jnp.tanh(x @ params["head"]), params["w"]))

    params = {"w": normal(1, shape, "float32"), "head": normal(2, (4, 4), "float32")}
    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(loss)(params, X)
    assert_says(error, f"'w' of shape {shape}", "feature_group_count", "shifts of the batch")


def test_the_convolution_that_the_error_names_is_a_layer_with_the_same_result():
    w = normal(1, (3, 1, 4), "float32")

    def loss(params: Any, x: Any) -> Any:
        axes = ("NWC", "WIO", "NWC")
        return mean_square(
            jax.lax.conv_general_dilated(
                x, params["w"], (1,), "VALID", dimension_numbers=axes, feature_group_count=4
            )
        )

    value, _, stats = insgd.value_and_grad(loss)({"w": w}, X)
    taps: Any = sum(X[:, k : k + 7] * w[k, 0][None, None] for k in range(3))
    assert jnp.allclose(value, mean_square(taps), rtol=1e-5)
    assert stats["w"] is not None


def layer_scales(x: Any, w: Any) -> Any:
    for scale in w:
        x = x + jnp.tanh(x) * scale[None, None]
    return x


GAINS: dict[str, Callable[..., Any]] = {
    "a gain and an offset": lambda x, w: x * w[0][None, None] + w[1][None, None],
    "a gain for each of two layers": lambda x, w: jnp.tanh(x * w[0][None]) * w[1][None],
    "scales of residual branches": layer_scales,
    "a skip connection": lambda x, w: x * w[0][None, None] + jnp.tanh(x) * w[1][None, None],
    "two heads": lambda x, w: jnp.concatenate([x[:, 1:] * w[0][None, None], x * w[1][None]], 1),
}


@pytest.mark.parametrize("gain", GAINS)
def test_slices_that_are_gains_of_their_own_are_no_taps(gain: str):
    def loss(params: Any, x: Any) -> Any:
        return mean_square(jnp.sin(GAINS[gain](x, params["w"])) @ params["head"])

    params = {"w": normal(1, (2, 4), "float32"), "head": normal(2, (4, 4), "float32")}
    with jax.numpy_rank_promotion("allow"):
        assert insgd.value_and_grad(loss)(params, X)[2]["w"] is None
