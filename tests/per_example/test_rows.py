"""Per-example normalization, against gradients of every row that are made one by one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd
from zoo.case import normal
from zoo.plain_flow import layer_with_a_wrong_tangent, linear_with_a_wrong_gradient
from zoo.runs import built, each_case

from .models import Model, attention, convolution, dense, every_model, scanned

settings = pytest.mark.parametrize(
    "per_example",
    [
        insgd.PerExample(),
        insgd.PerExample(exponent=2, eps=0.5),
        insgd.PerExample(exponent=1, eps=0.0, order=1),
        insgd.PerExample(exponent=0.7, eps=0.1),
    ],
    ids=["project_page", "squared_norm", "l1", "other_exponent"],
)


def _row_by_row(model: Model, per_example: insgd.PerExample) -> dict[str, np.ndarray]:
    """Every row's gradient by `jax.vmap(jax.grad)`, divided explicitly, then summed."""

    def copied(name: str) -> jax.Array:
        shape = (len(model.x), *model.rows[name], *model.params[name].shape)
        return jnp.broadcast_to(model.params[name], shape)

    copies = {name: copied(name) for name in model.params}
    gradients, seen = jax.vmap(jax.grad(model.of_rows, has_aux=True))(copies, model.x)
    summed = {}
    for name, each in gradients.items():
        norm = np.linalg.norm(seen[name], per_example.order, axis=-1)
        divisor = per_example.eps + norm**per_example.exponent
        divisor = divisor.reshape(divisor.shape + (1,) * (each.ndim - divisor.ndim))
        examples_and_rows = tuple(range(1 + len(model.rows[name])))
        summed[name] = np.sum(np.asarray(each) / divisor, axis=examples_and_rows)
    return summed


@settings
@every_model
def test_every_row_is_divided_by_its_own_norm_before_the_sum(model, per_example):
    model = model()
    expected = _row_by_row(model, per_example)
    grad_fn = insgd.value_and_grad(model.loss, per_example=per_example)
    for run in (jax.jit(grad_fn), grad_fn):
        value, grads, _ = run(model.params, model.x)
        assert abs(float(value - model.loss(model.params, model.x))) < 1e-12
        for name, gradient in grads.items():
            scale = np.max(np.abs(expected[name]))
            np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-10 * scale)


WIDE = {
    "dense": lambda: (
        lambda params, x: jnp.mean(jax.nn.relu(x @ params["a"]) @ params["b"]),
        {"a": (64, 64), "b": (64, 32)},
        (128, 64),
    ),
    "convolution": lambda: (
        convolution().loss,
        {"a": (3, 3, 3, 32), "b": (2, 2, 32, 32)},
        (8, 16, 16, 3),
    ),
    "attention": lambda: (
        attention().loss,
        dict.fromkeys("qkv", (64, 4, 16)) | {"o": (4, 16, 64)},
        (8, 16, 64),
    ),
    "scanned": lambda: (scanned().loss, {"w": (3, 64, 64)}, (128, 64)),
}


@pytest.mark.parametrize("name", WIDE)
def test_it_takes_at_most_a_tenth_more_arithmetic_than_the_plain_gradient(name):
    loss, shapes, x = WIDE[name]()
    params = {key: jnp.zeros(shape, jnp.float32) for key, shape in shapes.items()}

    def work(differentiate: Callable[..., Any]) -> float:
        compiled = jax.jit(differentiate).lower(params, jnp.zeros(x, jnp.float32)).compile()
        return compiled.cost_analysis()["flops"]

    plain = work(jax.value_and_grad(loss))
    assert work(insgd.value_and_grad(loss, per_example=True)) <= 1.1 * plain


NEUTRAL = insgd.PerExample(exponent=0, eps=0)


@each_case("float32", framework=False)
def test_at_its_neutral_setting_it_changes_no_bit(name: str, dtype: str):
    case = built(name, dtype)
    args = case.params, *case.args

    def traced(**setting: Any) -> Any:
        grad_fn = insgd.value_and_grad(case.loss, batch_argnums=case.batch_argnums, **setting)
        program, result = jax.make_jaxpr(lambda *a: grad_fn(*a)[:2], return_shape=True)(*args)
        results = jaxpr_as_fun(program)(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(result), results)

    try:
        neutral = traced(per_example=NEUTRAL)
    except ValueError as error:
        assert "derivative rule" in str(error) and "custom" in name
        return
    jax.tree.map(np.testing.assert_array_equal, neutral, traced())


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_a_row_of_zeros_or_of_tiny_numbers_gives_a_finite_gradient_of_its_dtype(dtype):
    x = jnp.asarray([[0.0, 0.0], [1e-7, 0.0], [1.0, 2.0]], dtype)
    params = {"w": jnp.ones((2, 1), dtype)}
    grad_fn = insgd.value_and_grad(
        lambda params, x: jnp.sum(x @ params["w"]), per_example=insgd.PerExample(exponent=2, eps=0)
    )
    _, grads, _ = jax.jit(grad_fn)(params, x)
    assert grads["w"].dtype == dtype
    assert bool(jnp.all(jnp.isfinite(grads["w"])))
    _, only_zeros, _ = jax.jit(grad_fn)(params, x[:1])
    np.testing.assert_array_equal(only_zeros["w"], np.zeros((2, 1)))


def test_biases_and_earlier_layers_keep_what_flows_to_them():
    def loss(params, x):
        hidden = jnp.tanh(x @ params["a"] + params["c"][None])
        return jnp.mean((hidden @ params["b"] + params["d"][None]) ** 2)

    shapes = {"a": (5, 4), "b": (4, 3), "c": (4,), "d": (3,)}
    params = {name: normal(i, shape, "float64") for i, (name, shape) in enumerate(shapes.items())}
    x = normal(9, (6, 5), "float64")
    _, plain, _ = jax.jit(insgd.value_and_grad(loss))(params, x)
    _, grads, _ = jax.jit(insgd.value_and_grad(loss, per_example=True))(params, x)
    for name in "cd":
        np.testing.assert_allclose(grads[name], plain[name], rtol=1e-12)
    divided = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-8)

    def of_shift(shift):
        hidden = jnp.tanh(x @ params["a"] + params["c"][None] + shift)
        return jnp.mean((hidden @ params["b"] + params["d"][None]) ** 2)

    expected = divided.T @ jax.grad(of_shift)(jnp.zeros((6, 4)))
    np.testing.assert_allclose(grads["a"], expected, rtol=1e-10)


@pytest.mark.parametrize("layer", [linear_with_a_wrong_gradient, layer_with_a_wrong_tangent])
def test_a_weight_inside_a_custom_rule_is_an_error_that_names_it(layer):
    def loss(params, x):
        return jnp.sum(layer(x, params["w"]))

    params, x = {"w": jnp.ones((3, 1))}, jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"rows of 'w' of shape \(3, 1\).*derivative rule"):
        insgd.value_and_grad(loss, per_example=True)(params, x)


def test_without_jit_the_value_is_that_of_the_loss_to_the_last_bit():
    params = {"w": normal(0, (4, 6), "float32")}
    x = normal(1, (20, 4), "float32")

    def loss(params, x):
        return jnp.mean((x @ params["w"]) ** 2)

    assert insgd.value_and_grad(loss, per_example=True)(params, x)[0] == loss(params, x)


def test_true_is_the_project_page_and_false_is_off():
    model = dense()
    by_name = insgd.value_and_grad(model.loss, per_example=insgd.PerExample())
    for setting, expected in ((True, by_name), (False, jax.value_and_grad(model.loss))):
        grads = insgd.value_and_grad(model.loss, per_example=setting)(model.params, model.x)[1]
        other = expected(model.params, model.x)[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), grads, other)


def test_eight_devices_give_the_gradient_of_one():
    model, mesh = convolution(), jax.make_mesh((8,), ("data",))
    x = normal(3, (16, 8, 8, 2), "float64")
    grad_fn = insgd.value_and_grad(model.loss, per_example=True)
    whole = jax.jit(grad_fn)(model.params, x)[1]
    replicated = jax.device_put(model.params, jax.NamedSharding(mesh, P()))
    sharded = jax.device_put(x, jax.NamedSharding(mesh, P("data")))
    by_map = jax.shard_map(
        lambda params, x: grad_fn(params, x)[1], mesh=mesh, in_specs=(P(), P("data")), out_specs=P()
    )
    by_jit = jax.jit(grad_fn)(replicated, sharded)[1]
    for grads in (by_jit, jax.jit(by_map)(replicated, sharded)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), grads, whole)


def test_a_setting_that_is_none_of_them_is_an_error():
    with pytest.raises(TypeError, match="PerExample"):
        insgd.value_and_grad(dense().loss, per_example=2)
    with pytest.raises(ValueError, match="eps must not be negative"):
        insgd.PerExample(eps=-1.0)
    with pytest.raises(ValueError, match="order must be 1"):
        insgd.PerExample(order=3)


def test_an_infinite_half_precision_cotangent_stays_infinite():
    """Dynamic loss scaling looks for it."""

    def loss(params, x):
        return jnp.sum(x @ params["w"]).astype(jnp.float32) * 1e6

    params, x = {"w": jnp.ones((2, 1), jnp.float16)}, jnp.full((3, 2), 2.0, jnp.float16)
    _, grads, _ = insgd.value_and_grad(loss, per_example=True)(params, x)
    assert bool(jnp.all(jnp.isinf(grads["w"])))


def test_to_further_differentiation_the_norms_are_constants():
    x, w = normal(0, (4, 3), "float64"), normal(1, (3, 2), "float64")
    direction = normal(2, (3, 2), "float64")

    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(x @ w))

    def divided(w: jax.Array) -> jax.Array:
        scaled = x / np.linalg.norm(x, axis=1, keepdims=True)
        return jnp.sum(direction * (scaled.T @ jnp.cos(x @ w)))

    grad_fn = jax.jit(insgd.value_and_grad(loss, per_example=insgd.PerExample(eps=0.0)))
    of_value = jax.grad(lambda w: grad_fn(w, x)[0])(w)
    np.testing.assert_allclose(of_value, jax.grad(loss)(w, x), rtol=1e-10)
    of_gradient = jax.grad(lambda w: jnp.sum(direction * grad_fn(w, x)[1]))(w)
    np.testing.assert_allclose(of_gradient, jax.grad(divided)(w), rtol=1e-10)
