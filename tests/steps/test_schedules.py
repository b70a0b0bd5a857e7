"""The length of a step under a schedule, against the formula of `scale_by_insgd` in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd

STEPS, ROWS, LEAST = 12, 8, 0.1
SCHEDULES = {
    "constant": lambda count: 0.05,
    "cosine": optax.cosine_decay_schedule(0.05, STEPS),
    "warmup": optax.warmup_cosine_decay_schedule(0.0, 0.05, 4, STEPS, 0.005),
    "restart": optax.sgdr_schedule(
        2 * [{"init_value": 0.01, "peak_value": 0.05, "warmup_steps": 2, "decay_steps": STEPS // 2}]
    ),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def problem() -> tuple[Any, Any]:
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"w": jax.random.normal(keys[0], (5, 3))}
    return params, jax.random.normal(keys[1], (STEPS, ROWS, 5))


def loss_fn(params: Any, inputs: Any, size: Any) -> Any:
    return size * jnp.sum(jnp.sin(inputs @ params["w"]))


def by_numpy(weight: Any, batches: Any, sizes: Any, rates: Any) -> Any:
    """The weight after every batch; `Scalar`, a history of 0.95, momentum of 0.9 (Nesterov)."""
    power = mean_power = growth = largest = largest_rate = 0.0
    momentum = np.zeros_like(weight)
    for k, (x, size, rate) in enumerate(zip(batches, sizes, rates, strict=True), start=1):
        gradient = size * x.T @ np.cos(x @ weight)
        batch_power = np.mean(x**2)
        mean_power = 0.95 * mean_power + 0.05 * batch_power
        metric = max(mean_power / (1 - 0.95**k), batch_power)
        u = gradient / metric
        power = 0.99 * power + 0.01 * np.sum(u * gradient)
        growth = 0.99 * growth + 0.01 * metric * np.sum(u**2)
        running = power / (1 - 0.99**k)
        largest, largest_rate = max(largest, running), max(largest_rate, rate)
        share = rate / largest_rate if largest_rate else 1.0
        reference = max(running, share**2 * largest)
        length = max(np.sqrt(metric * np.sum(weight**2)), LEAST * np.sqrt(weight.shape[1]))
        momentum = 0.9 * momentum + u
        step = 0.1 * length / np.sqrt(reference) * (0.9 * momentum + u)
        weight = weight - rate * step - rate**2 / 2 * growth / reference * weight
    return weight


@pytest.mark.framework  # optax.cosine_decay_schedule promotes
@every_schedule
def test_steps_are_those_of_the_formula(name):
    schedule, (params, batches) = SCHEDULES[name], problem()
    sizes = 0.7 ** np.arange(STEPS)
    tx = insgd.insgd(schedule, structure=insgd.Scalar(), eps=0.0)
    grad_fn = insgd.value_and_grad(loss_fn, structure=insgd.Scalar(), batch_argnums=1)
    trained, state = params, tx.init(params)
    for batch, size in zip(batches, sizes, strict=True):
        _, grads, input_stats = grad_fn(trained, batch, size)
        updates, state = tx.update(grads, state, trained, input_stats=input_stats)
        trained = optax.apply_updates(trained, updates)
    rates = [float(schedule(jnp.int32(count))) for count in range(STEPS)]
    expected = by_numpy(np.asarray(params["w"]), np.asarray(batches), sizes, rates)
    np.testing.assert_allclose(trained["w"], expected, rtol=1e-10)
