"""Flax NNX and Equinox hold the parameters their own way, and take the steps of a plain dict."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import insgd_optax as insgd

from .problems import (
    Problem,
    assert_close,
    every_optimizer,
    every_structure,
    perceptron,
    train,
)


class Perceptron(nnx.Module):
    """The battery's perceptron, with or without sharding metadata on its kernels."""

    def __init__(self, params: Any, **metadata: Any) -> None:
        self.hidden = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        for name, layer in (("hidden", self.hidden), ("head", self.head)):
            layer.kernel = nnx.Param(params[name]["kernel"], **metadata)
            layer.bias = nnx.Param(params[name]["bias"])

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.head(jnp.tanh(self.hidden(inputs)))


def _nnx_steps(model: Perceptron, problem: Problem, structure: Any) -> nnx.Optimizer:
    optimizer = nnx.Optimizer(model, insgd.insgd(0.1, structure=structure), wrt=nnx.Param)
    graph = nnx.graphdef(model)

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        return jnp.mean((nnx.merge(graph, params)(inputs) - targets) ** 2)

    grad_fn = insgd.value_and_grad(loss_fn, structure=structure)

    @nnx.jit
    def step(model: Perceptron, optimizer: nnx.Optimizer, batch: Any) -> None:
        _, grads, input_stats = grad_fn(nnx.state(model, nnx.Param), batch)
        optimizer.update(model, grads, input_stats=input_stats)

    for _ in range(3):
        step(model, optimizer, problem.batch)
    return optimizer


@every_structure
def test_an_nnx_optimizer_steps_as_a_dict(structure):
    problem = perceptron()
    expected, state = train(insgd.insgd(0.1, structure=structure), problem, structure)
    model = Perceptron(problem.params)
    optimizer = _nnx_steps(model, problem, structure)
    for name in ("hidden", "head"):
        layer = getattr(model, name)
        assert_close(layer.kernel[...], expected[name]["kernel"], rtol=1e-5)
        assert_close(layer.bias[...], expected[name]["bias"], rtol=1e-5)
    history = optimizer.opt_state[0].inputs
    assert_close(history.power[...], optax.tree.get(state, "power"), rtol=1e-5)
    assert int(history.count[...]) == 3


@every_structure
def test_an_nnx_optimizer_accepts_params_with_sharding_metadata(structure):
    # A history shaped like a scalar per parameter inherits the parameter's two-axis sharding
    # there, and nnx.Optimizer cannot be built; the packed history has nothing to inherit.
    problem = perceptron()
    expected, _ = train(insgd.insgd(0.1, structure=structure), problem, structure)
    mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(problem.params, NamedSharding(mesh, PartitionSpec()))
        model = Perceptron(placed, out_sharding=(None, "model"))
        _nnx_steps(model, problem, structure)
    assert_close(model.hidden.kernel[...], expected["hidden"]["kernel"], rtol=1e-5)
    assert_close(model.head.bias[...], expected["head"]["bias"], rtol=1e-5)


class Dense(eqx.Module):
    """A module with a field that is no array, which filtering replaces by None."""

    weight: jax.Array
    bias: jax.Array | None
    activation: Any = eqx.field()

    def __call__(self, inputs: jax.Array) -> jax.Array:
        out = self.weight @ inputs
        return self.activation(out if self.bias is None else out + self.bias)


def _equinox(problem: Problem) -> tuple[Any, Any, Problem]:
    hidden, head = problem.params["hidden"], problem.params["head"]
    model = (
        Dense(hidden["kernel"].T, hidden["bias"], jnp.tanh),
        Dense(head["kernel"].T, head["bias"], lambda out: out),
    )
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        first, second = eqx.combine(params, static)
        predictions = jax.vmap(lambda x: second(first(x)))(batch[0])
        return jnp.mean((predictions - batch[1]) ** 2)

    return params, static, Problem(params, problem.batch, loss_fn)


@every_optimizer
@every_structure
def test_an_equinox_module_filtered_to_its_arrays_steps_as_a_dict(make_optimizer, structure):
    problem = perceptron()
    _, _, filtered = _equinox(problem)
    tx = make_optimizer(structure)
    expected, _ = train(tx, problem, structure)
    (hidden, head), _ = train(tx, filtered, structure)
    assert_close(hidden.weight, expected["hidden"]["kernel"].T, rtol=1e-5)
    assert_close(head.bias, expected["head"]["bias"], rtol=1e-5)
    assert hidden.activation is None


@every_structure
def test_none_in_place_of_a_frozen_layer_stays_none(structure):
    problem = perceptron()
    params, static, _ = _equinox(problem)
    frozen = eqx.tree_at(lambda p: (p[0].weight, p[0].bias), params, replace=(None, None))
    rest = eqx.combine(params, static)

    def loss_fn(trained: Any, batch: Any) -> jax.Array:
        first, second = eqx.combine(trained, rest)
        predictions = jax.vmap(lambda x: second(first(x)))(batch[0])
        return jnp.mean((predictions - batch[1]) ** 2)

    updated, _ = train(
        insgd.insgd(0.1, structure=structure), Problem(frozen, problem.batch, loss_fn), structure
    )
    assert updated[0].weight is None
    assert updated[0].bias is None
    assert not jnp.allclose(updated[1].weight, params[1].weight)
