"""insgd.equinox.value_and_grad does what eqx.filter_value_and_grad does, and so does its loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd
from battery.problems import assert_close

pytestmark = pytest.mark.framework
KEY = jax.random.key(0)
both_ways = pytest.mark.parametrize("compiled", [eqx.filter_jit, lambda f: f], ids=["jit", "eager"])


class Normalized(eqx.Module):
    """Running averages in an eqx.nn.State, dropout, functions, an integer array and a flag."""

    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear
    activation: Callable[[jax.Array], jax.Array]
    order: jax.Array
    name: str = eqx.field(static=True, default="net")

    def __init__(self, key: jax.Array):
        first, second = jax.random.split(key)
        self.hidden = eqx.nn.Linear(4, 8, key=first)
        self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.3)
        self.head = eqx.nn.Linear(8, 4, key=second)
        self.activation = jax.nn.relu
        self.order = jnp.arange(8)[::-1]

    def __call__(self, inputs: jax.Array, state: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        hidden, state = self.norm(self.hidden(inputs), state)
        hidden = self.dropout(self.activation(hidden[self.order]), key=key)
        return self.head(hidden), state


class Scanned(eqx.Module):
    """Three layers as one, under a scan."""

    layers: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        make = lambda key: eqx.nn.Linear(4, 4, key=key)  # noqa: E731
        self.layers = eqx.filter_vmap(make)(jax.random.split(key, 3))

    def __call__(self, inputs: jax.Array) -> jax.Array:
        arrays, rest = eqx.partition(self.layers, eqx.is_array)

        def run(inputs, arrays):
            return jnp.tanh(eqx.combine(arrays, rest)(inputs)), None

        return jax.lax.scan(run, inputs, arrays)[0]


class Tied(eqx.Module):
    """One layer in two places."""

    shared: eqx.nn.Shared

    def __init__(self, key: jax.Array):
        pair = (eqx.nn.Linear(4, 4, key=key), eqx.nn.Linear(4, 4, key=key))
        nodes = lambda pair: pair[1].weight, lambda pair: pair[0].weight
        self.shared = eqx.nn.Shared(pair, *nodes)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        first, second = self.shared()
        return second(jnp.tanh(first(inputs)))


def _perceptron(key: jax.Array) -> eqx.nn.MLP:
    return eqx.nn.MLP(4, 4, 8, 2, key=key)


every_model = pytest.mark.parametrize("make_model", [_perceptron, Scanned, Tied])


def batch() -> tuple[jax.Array, jax.Array]:
    inputs = 2 + jax.random.normal(jax.random.key(1), (16, 4))
    return inputs, jnp.sin(inputs)


def loss_fn(model: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((jax.vmap(model)(inputs) - targets) ** 2)


def loss_with_state(
    model: Normalized, state: Any, key: jax.Array, inputs: jax.Array, targets: jax.Array
) -> tuple[jax.Array, Any]:
    keys = jax.random.split(key, len(inputs))
    mapped = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    predictions, state = mapped(inputs, state, keys)
    return jnp.mean((predictions - targets) ** 2), state


@both_ways
@every_model
def test_loss_and_gradients_are_those_of_equinox(make_model, compiled):
    model = make_model(KEY)
    loss, grads, _ = compiled(insgd.equinox.value_and_grad(loss_fn))(model, *batch())
    expected = compiled(eqx.filter_value_and_grad(loss_fn))(model, *batch())
    assert_close((loss, grads), expected, rtol=1e-12)
    assert jax.tree.structure(grads) == jax.tree.structure(expected[1])


@both_ways
def test_the_new_state_and_the_dropout_are_those_of_equinox(compiled):
    grad_fn = compiled(insgd.equinox.value_and_grad(loss_with_state, has_aux=True))
    expected_fn = compiled(eqx.filter_value_and_grad(loss_with_state, has_aux=True))
    model, state = eqx.nn.make_with_state(Normalized)(KEY)
    _, same = eqx.nn.make_with_state(Normalized)(KEY)
    (loss, state), grads, input_stats = grad_fn(model, state, KEY, *batch())
    assert_close(((loss, state), grads), expected_fn(model, same, KEY, *batch()), rtol=1e-12)
    assert float(input_stats["hidden/weight"].count[0]) == 16
    assert jnp.abs(jax.tree.leaves(state)[0]).min() > 0


def _by_hand(loss_fn: Any, model: Any, state: Any, batch_argnums: Any, *args: Any) -> Any:
    """The same loop with parameters alone: nothing but JAX and Optax."""
    tx = insgd.insgd()
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def pure_loss(params, state, *args):
        return loss_fn(eqx.combine(params, static), state, *args)

    grad_fn = insgd.value_and_grad(pure_loss, has_aux=True, batch_argnums=batch_argnums)

    @jax.jit
    def step(params, state, opt_state):
        (_, state), grads, input_stats = grad_fn(params, state, *args)
        updates, opt_state = tx.update(grads, opt_state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state, opt_state

    opt_state = tx.init(params)
    for _ in range(20):
        params, state, opt_state = step(params, state, opt_state)
    return params, state


def _trained(loss_fn: Any, model: Any, state: Any, *args: Any) -> Any:
    """The model after a loop as in the documentation."""
    optimizer = insgd.insgd()
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, opt_state, *args):
        grad_fn = insgd.equinox.value_and_grad(loss_fn, has_aux=True)
        (_, state), grads, input_stats = grad_fn(model, state, *args)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, opt_state, params, input_stats=input_stats)
        return eqx.apply_updates(model, updates), state, opt_state

    for _ in range(20):
        model, state, opt_state = step(model, state, opt_state, *args)
    return model, state


@every_model
def test_a_loop_of_twenty_steps_equals_the_loop_by_hand(make_model):
    def stateless(model, state, *args):
        return loss_fn(model, *args), state

    actual, _ = _trained(stateless, make_model(KEY), None, *batch())
    expected, _ = _by_hand(stateless, make_model(KEY), None, (2, 3), *batch())
    assert_close(eqx.filter(actual, eqx.is_inexact_array), expected, rtol=1e-10)
    start = eqx.filter(make_model(KEY), eqx.is_inexact_array)
    assert not jnp.allclose(jax.tree.leaves(expected)[0], jax.tree.leaves(start)[0])


def test_a_loop_with_a_state_equals_the_loop_by_hand():
    model, state = eqx.nn.make_with_state(Normalized)(KEY)
    _, same = eqx.nn.make_with_state(Normalized)(KEY)
    actual, state = _trained(loss_with_state, model, state, KEY, *batch())
    expected = _by_hand(loss_with_state, model, same, (3, 4), KEY, *batch())
    assert_close((eqx.filter(actual, eqx.is_inexact_array), state), expected, rtol=1e-10)


def test_a_weight_that_is_divided_by_what_a_state_holds_has_a_layer():
    make = lambda key: eqx.nn.SpectralNorm(eqx.nn.Linear(4, 4, key=key), "weight", key=key)  # noqa: E731
    model, state = eqx.nn.make_with_state(make)(KEY)

    def spectral_loss(model, state, inputs, targets):
        mapped = jax.vmap(model, in_axes=(0, None), out_axes=(0, None))
        predictions, state = mapped(inputs, state)
        return jnp.mean((predictions - targets) ** 2), state

    grad_fn = insgd.equinox.value_and_grad(spectral_loss, has_aux=True)
    _, _, input_stats = grad_fn(model, state, *batch())
    assert_close(input_stats["layer/weight"].count, [16.0])


def test_the_statistics_have_the_paths_of_what_is_differentiated():
    model, state = eqx.nn.make_with_state(Normalized)(KEY)
    grad_fn = insgd.equinox.value_and_grad(loss_with_state, has_aux=True)
    _, grads, input_stats = grad_fn(model, state, KEY, *batch())
    assert len(input_stats) == len(jax.tree.leaves(grads))
    assert set(input_stats) == {
        f"{layer}/{leaf}" for layer in ("hidden", "norm", "head") for leaf in ("weight", "bias")
    }
    assert grads.order is None


def test_a_batch_with_names_is_data():
    def named(model, *, inputs, targets):
        return loss_fn(model, inputs, targets)

    inputs, targets = batch()
    grad_fn = insgd.equinox.value_and_grad(named)
    actual = grad_fn(_perceptron(KEY), targets=targets, inputs=inputs)
    expected = insgd.equinox.value_and_grad(loss_fn)(_perceptron(KEY), inputs, targets)
    assert_close(actual, expected, rtol=1e-12)
