"""One network in five containers, through five entries: the same steps and the same curve."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import insgd_optax as insgd

pytestmark = pytest.mark.framework
Arrays = dict[str, jax.Array]
Run = Callable[[int], tuple[list[jax.Array], Arrays]]


def _weights() -> Arrays:
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "w1": jax.random.normal(keys[0], (4, 8)) / 2,
        "b1": jax.random.normal(keys[1], (8,)) / 10,
        "w2": jax.random.normal(keys[2], (8, 3)) / 3,
        "b2": jax.random.normal(keys[3], (3,)) / 10,
    }


def _batch() -> tuple[jax.Array, jax.Array]:
    inputs = 2 + jax.random.normal(jax.random.key(1), (16, 4))
    return inputs, jnp.sin(inputs[:, :3])


def _error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((predictions - targets) ** 2)


def _trained(params: Any, forward: Callable[[Any, jax.Array], jax.Array], steps: int) -> Any:
    tx = insgd.insgd()
    grad_fn = insgd.value_and_grad(lambda params, x, y: _error(forward(params, x), y))

    @jax.jit
    def step(params, state):
        loss, grads, input_stats = grad_fn(params, *_batch())
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state, loss

    losses, state = [], tx.init(params)
    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(loss)
    return losses, params


def flat_dict(steps: int) -> tuple[list[jax.Array], Arrays]:
    def forward(p, inputs):
        return jnp.tanh(inputs @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]

    return _trained(_weights(), forward, steps)


def _nested(arrays: Arrays, first: str, second: str) -> dict[str, Arrays]:
    return {
        first: {"kernel": arrays["w1"], "bias": arrays["b1"]},
        second: {"kernel": arrays["w2"], "bias": arrays["b2"]},
    }


def _flat(params: Any, first: str, second: str) -> Arrays:
    (w1, b1), (w2, b2) = ((params[n]["kernel"], params[n]["bias"]) for n in (first, second))
    return {"w1": w1, "b1": b1, "w2": w2, "b2": b2}


def nested_dict(steps: int) -> tuple[list[jax.Array], Arrays]:
    # The names are in the other order, so that the layers stand in it as well.
    def forward(p, inputs):
        hidden = jnp.tanh(inputs @ p["z"]["kernel"] + p["z"]["bias"])
        return hidden @ p["a"]["kernel"] + p["a"]["bias"]

    losses, params = _trained(_nested(_weights(), "z", "a"), forward, steps)
    return losses, _flat(params, "z", "a")


def linen(steps: int) -> tuple[list[jax.Array], Arrays]:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            hidden = jnp.tanh(nn.Dense(8, param_dtype=jnp.float64)(inputs))
            return nn.Dense(3, param_dtype=jnp.float64)(hidden)

    params = _nested(_weights(), "Dense_0", "Dense_1")
    state = insgd.linen.TrainState.create(apply_fn=Net().apply, params=params, tx=insgd.insgd())

    def loss_fn(params, inputs, targets):
        return _error(state.apply_fn({"params": params}, inputs), targets)

    @jax.jit
    def step(state):
        loss, grads, input_stats = insgd.value_and_grad(loss_fn)(state.params, *_batch())
        return state.apply_gradients(grads=grads, input_stats=input_stats), loss

    losses = []
    for _ in range(steps):
        state, loss = step(state)
        losses.append(loss)
    return losses, _flat(state.params, "Dense_0", "Dense_1")


class NNXNet(nnx.Module):
    def __init__(self, arrays: Arrays):
        options = {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        self.first, self.second = nnx.Linear(4, 8, **options), nnx.Linear(8, 3, **options)
        self.first.kernel[...], self.first.bias[...] = arrays["w1"], arrays["b1"]
        self.second.kernel[...], self.second.bias[...] = arrays["w2"], arrays["b2"]

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.second(jnp.tanh(self.first(inputs)))


def nnx_module(steps: int) -> tuple[list[jax.Array], Arrays]:
    model = NNXNet(_weights())
    optimizer = nnx.Optimizer(model, insgd.insgd(), wrt=nnx.Param)

    def loss_fn(model, inputs, targets):
        return _error(model(inputs), targets)

    @nnx.jit
    def step(model, optimizer):
        loss, grads, input_stats = insgd.nnx.value_and_grad(loss_fn)(model, *_batch())
        optimizer.update(model, grads, input_stats=input_stats)
        return loss

    losses = [step(model, optimizer) for _ in range(steps)]
    return losses, _flat(nnx.to_pure_dict(nnx.state(model, nnx.Param)), "first", "second")


def equinox(steps: int) -> tuple[list[jax.Array], Arrays]:
    arrays = _weights()
    model = eqx.nn.MLP(4, 3, 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    leaves = lambda m: [leaf for layer in m.layers for leaf in (layer.weight, layer.bias)]  # noqa: E731
    start = [arrays["w1"].T, arrays["b1"], arrays["w2"].T, arrays["b2"]]
    model = eqx.tree_at(leaves, model, start)
    optimizer = insgd.insgd()
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def loss_fn(model, inputs, targets):
        return _error(jax.vmap(model)(inputs), targets)

    @eqx.filter_jit
    def step(model, state):
        loss, grads, input_stats = insgd.equinox.value_and_grad(loss_fn)(model, *_batch())
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
        return eqx.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(steps):
        model, state, loss = step(model, state)
        losses.append(loss)
    w1, b1, w2, b2 = leaves(model)
    return losses, {"w1": w1.T, "b1": b1, "w2": w2.T, "b2": b2}


every_container = pytest.mark.parametrize("run", [nested_dict, linen, nnx_module, equinox])


@every_container
def test_the_first_step_is_that_of_a_flat_dict(run: Run):
    _, expected = flat_dict(1)
    _, actual = run(1)
    start = _weights()
    for name in expected:
        step = np.asarray(expected[name] - start[name])
        assert np.abs(step).max() > 1e-4
        np.testing.assert_allclose(actual[name] - start[name], step, rtol=1e-6)


@every_container
def test_the_curve_of_sixty_steps_is_that_of_a_flat_dict(run: Run):
    expected, _ = flat_dict(60)
    actual, _ = run(60)
    assert expected[-1] < 0.5 * expected[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
