"""Control flow, transformations and custom rules around a layer."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, inputs, mean_square, normal


def two_layers(dtype: DTypeLike) -> dict[str, jax.Array]:
    return {"first": normal(0, (5, 5), dtype), "second": normal(1, (5, 3), dtype)}


def two_layers_expected(params, x):
    hidden = jnp.tanh(x @ params["first"])
    return {"first": ref.dense(x, (5, 5)), "second": ref.dense(hidden, (5, 3))}


@case()
def inner_jit(dtype: DTypeLike) -> Case:
    @jax.jit
    def layer(x, weight):
        return jnp.tanh(x @ weight)

    def loss(params, x):
        return mean_square(layer(layer(x, params["first"]), params["second"]))

    return Case(loss, two_layers(dtype), (inputs(2, (6, 5), dtype),), two_layers_expected)


@case()
def whole_loss_jit(dtype: DTypeLike) -> Case:
    @jax.jit
    def loss(params, x):
        return mean_square(jnp.tanh(x @ params["first"]) @ params["second"])

    return Case(loss, two_layers(dtype), (inputs(2, (6, 5), dtype),), two_layers_expected)


def _sometimes(dtype: DTypeLike, taken: bool) -> Case:
    def loss(params, x, flag):
        hidden = jnp.tanh(x @ params["first"])
        hidden = lax.cond(flag, lambda h: jnp.tanh(h @ params["sometimes"]), lambda h: h, hidden)
        return mean_square(hidden @ params["second"])

    def expected(params, x, flag):
        hidden = jnp.tanh(x @ params["first"])
        sometimes = ref.dense(hidden, (5, 5)) if taken else ref.unseen((5, 5))
        last = jnp.tanh(hidden @ params["sometimes"]) if taken else hidden
        return {
            "first": ref.dense(x, (5, 5)),
            "sometimes": sometimes,
            "second": ref.dense(last, (5, 3)),
        }

    params = two_layers(dtype) | {"sometimes": normal(3, (5, 5), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype), jnp.asarray(taken)), expected)


@case()
def cond_taken(dtype: DTypeLike) -> Case:
    return _sometimes(dtype, True)


@case()
def cond_not_taken(dtype: DTypeLike) -> Case:
    return _sometimes(dtype, False)


@case()
def switch(dtype: DTypeLike) -> Case:
    """Three experts; one is shared by two branches and the last branch has none."""

    def loss(params, x, index):
        branches = [
            lambda h: h @ params["a"],
            lambda h: jnp.tanh(h @ params["b"]) @ params["a"],
            lambda h: h,
        ]
        return mean_square(lax.switch(index, branches, x))

    def expected(params, x, index):
        hidden = jnp.tanh(x @ params["b"])
        return {"a": ref.dense(hidden, (5, 5)), "b": ref.dense(x, (5, 5))}

    params = {"a": normal(0, (5, 5), dtype), "b": normal(1, (5, 5), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype), jnp.asarray(1)), expected)


@jax.custom_vjp
def linear_with_a_wrong_gradient(x: jax.Array, weight: jax.Array) -> jax.Array:
    return x @ weight


linear_with_a_wrong_gradient.defvjp(
    lambda x, weight: (x @ weight, (x, weight)),
    lambda saved, g: (3.0 * g @ saved[1].T, -7.0 * saved[0].T @ g),
)


@case()
def custom_vjp(dtype: DTypeLike) -> Case:
    """The rule is wrong on purpose: it must be the one that is used."""

    def loss(params, x):
        hidden = jnp.tanh(linear_with_a_wrong_gradient(x, params["first"]))
        return mean_square(linear_with_a_wrong_gradient(hidden, params["second"]))

    return Case(loss, two_layers(dtype), (inputs(2, (6, 5), dtype),), two_layers_expected)


@jax.custom_jvp
def layer_with_a_wrong_tangent(x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.tanh(x @ weight)


@layer_with_a_wrong_tangent.defjvp
def _wrong_tangent(primals, tangents):
    (x, weight), (dx, dweight) = primals, tangents
    return layer_with_a_wrong_tangent(x, weight), 2.0 * (dx @ weight) - x @ dweight


@case()
def custom_jvp(dtype: DTypeLike) -> Case:
    def loss(params, x):
        return mean_square(layer_with_a_wrong_tangent(x, params["first"]) @ params["second"])

    return Case(loss, two_layers(dtype), (inputs(2, (6, 5), dtype),), two_layers_expected)


@case()
def checkpoint_with_a_policy(dtype: DTypeLike) -> Case:
    policy = jax.checkpoint_policies.save_only_these_names("hidden")

    @partial(jax.checkpoint, policy=policy)
    def forward(params, x):
        hidden = checkpoint_name(jnp.tanh(x @ params["first"]), "hidden")
        return jnp.tanh(hidden @ params["second"])

    def loss(params, x):
        return mean_square(forward(params, x))

    return Case(loss, two_layers(dtype), (inputs(2, (6, 5), dtype),), two_layers_expected)
