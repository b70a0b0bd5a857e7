"""`paper`, against Algorithm 1 written again as a NumPy loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd

from .models import assert_close, mlp, mlp_inputs, mlp_loss, train


def algorithm_1(
    params, batches, learning_rate, order, decay, momentum, dampening, weight_decay, epsilon
):
    """Atici, Pan, Cetin (2024), Algorithm 1, line by line."""
    params = {name: np.asarray(value) for name, value in params.items()}
    power, buffer = {}, {}
    gradient = jax.jit(jax.grad(mlp_loss))
    for x, y in zip(*batches, strict=True):
        grads, seen = gradient(params, x, y), mlp_inputs(params, np.asarray(x))
        for name in params:
            g = np.asarray(grads[name])
            if name in seen:
                now = np.mean(np.sum(np.abs(seen[name]) ** order, axis=1))
                power[name] = decay * power[name] + (1 - decay) * now if name in power else now
                g = g / max(np.log(power[name]), epsilon)
            g = g + weight_decay * params[name]
            old = buffer.get(name)
            buffer[name] = g if old is None else momentum * old + (1 - dampening) * g
        for name in params:
            params[name] = params[name] - learning_rate * buffer[name]
    return params


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("momentum", "dampening", "weight_decay"),
    [(0.9, 0.0, 5e-4), (0.9, 0.3, 0.0), (0.0, 0.0, 0.01), (0.5, 0.5, 0.1)],
)
def test_paper_is_algorithm_1(order, momentum, dampening, weight_decay):
    params, batches = mlp("float64", 50)
    setting = {
        "learning_rate": 0.1, "order": order, "decay": 0.8, "momentum": momentum,
        "dampening": dampening, "weight_decay": weight_decay, "epsilon": 0.05,
    }  # fmt: skip
    grad_fn = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar(order=order))
    actual = train(insgd.paper(**setting), grad_fn, params, batches)
    assert_close(actual, algorithm_1(params, batches, **setting), 1e-10)


def test_the_defaults_of_paper_are_those_of_its_text():
    params, batches = mlp("float64", 5)
    grad_fn = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar())
    actual = train(insgd.paper(0.1), grad_fn, params, batches)
    expected = algorithm_1(params, batches, 0.1, 2, 0.9, 0.9, 0.0, 0.0, 0.01)
    assert_close(actual, expected, 1e-10)


def test_paper_takes_no_step_where_the_power_is_zero_whatever_the_gradient():
    params, ((x, *_), (y, *_)) = mlp("float64", 1)
    grad_fn = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar())
    _, grads, stats = grad_fn(params, 0 * x, y)
    tx = insgd.paper(0.1)
    ones = jax.tree.map(jnp.ones_like, grads)
    updates, _ = tx.update(ones, tx.init(params), params, input_stats=stats)
    np.testing.assert_array_equal(updates["a"], 0 * params["a"])
    np.testing.assert_allclose(updates["c"], -0.1 * ones["c"])
