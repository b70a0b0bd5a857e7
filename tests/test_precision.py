"""Half precision with a loss scale that changes, and products of 8-bit numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import insgd_optax as insgd
from zoo.case import normal

pytestmark = pytest.mark.framework
STEPS = 200


def _params(dtype: Any) -> Any:
    shapes = {"hidden": (8, 32), "head": (32, 4)}
    return {name: normal(n, shape, dtype) / 4 for n, (name, shape) in enumerate(shapes.items())}


def _loss(params: Any, x: Any) -> jax.Array:
    hidden = jnp.tanh(x.astype(params["hidden"].dtype) @ params["hidden"])
    target = jnp.sin(x[:, :4])
    return jnp.mean(jnp.square((hidden @ params["head"]).astype(jnp.float32) - target))


def _trained(dtype: Any, first_scale: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean of the last losses, the last scale, and how many steps were skipped."""
    tx = insgd.insgd()

    def step(carry: Any, x: Any) -> tuple[Any, jax.Array]:
        params, state, scale, good = carry

        def scaled(params: Any, x: Any) -> jax.Array:
            return scale * _loss(params, x)

        _, grads, input_stats = insgd.value_and_grad(scaled, batch_argnums=1)(params, x)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, grads)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        finite = jnp.isfinite(optax.tree.norm(grads))
        good = jnp.where(finite, good + 1, 0)
        grown = jnp.where(good % 50 == 49, 2 * scale, scale)
        scale = jnp.where(finite, grown, scale / 2)
        return (optax.apply_updates(params, updates), state, scale, good), _loss(params, x)

    params = _params(dtype)
    start = params, tx.init(params), jnp.float32(first_scale), jnp.int32(0)
    batches = normal(7, (STEPS, 16, 8), "float32")
    (_, state, scale, _), losses = jax.lax.scan(step, start, batches)
    return losses[-20:].mean(), scale, state[0].inputs.skipped


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_loss_scale_that_overflows_at_first_ends_at_the_loss_of_float32(dtype):
    expected, _, none = jax.jit(_trained, static_argnums=(0, 1))("float32", 1.0)
    loss, scale, skipped = jax.jit(_trained, static_argnums=(0, 1))(dtype, 2.0**24)
    assert none == 0
    assert (skipped > 0) == (dtype == "float16")  # bfloat16 has the range of float32
    assert np.isfinite(scale)
    assert abs(loss - expected) < {"float16": 0.03, "bfloat16": 0.1}[dtype] * expected


def test_a_step_does_not_depend_on_a_loss_scale_that_is_divided_out():
    params, x = _params("float32"), normal(7, (16, 8), "float32")
    tx = insgd.insgd()

    def updates(scale: float) -> Any:
        grad_fn = insgd.value_and_grad(lambda params, x: scale * _loss(params, x))
        _, grads, input_stats = grad_fn(params, x)
        grads = jax.tree.map(lambda g: g / scale, grads)
        return tx.update(grads, tx.init(params), params, input_stats=input_stats)[0]

    jax.tree.map(np.testing.assert_array_equal, updates(2.0**10), updates(1.0))


def test_the_inputs_of_a_product_of_8_bit_numbers_are_the_rounded_ones():
    narrow = jnp.float8_e4m3fn

    def loss(params: Any, x: Any) -> jax.Array:
        rounded = x.astype(narrow), params["w"].astype(narrow)
        return jnp.mean(jnp.einsum("bi,io->bo", *rounded, preferred_element_type=jnp.float32))

    x, params = normal(0, (16, 8), "float32"), {"w": normal(1, (8, 4), "float32")}
    found: Any = jax.jit(insgd.value_and_grad(loss))(params, x)[2]["w"]
    seen = np.asarray(x.astype(narrow).astype(jnp.float32))
    expected = np.concatenate([seen.sum(0), (seen**2).sum(0)])
    np.testing.assert_allclose(found.sums[0], expected, rtol=1e-5, atol=1e-5)
    assert found.structure == insgd.MeanVariances()


def test_a_dense_layer_of_flax_in_8_bits_has_its_statistics():
    model = nn.Dense(4, dot_general_cls=nn.Fp8DotGeneralOp)
    x = normal(0, (16, 8), "float32")
    variables = model.init(jax.random.key(0), x)
    rest = {name: leaf for name, leaf in variables.items() if name != "params"}

    def loss(params: Any, x: Any) -> jax.Array:
        return jnp.mean(jnp.square(model.apply({"params": params, **rest}, x)))

    found: Any = jax.jit(insgd.value_and_grad(loss))(variables["params"], x)[2]["kernel"]
    seen = np.asarray(x)
    expected = np.concatenate([seen.sum(0), (seen**2).sum(0)])
    size = np.abs(expected).max()
    np.testing.assert_allclose(found.sums[0], expected, atol=0.1 * size)  # 4 bits of mantissa
    assert not np.array_equal(found.sums[0], expected)
