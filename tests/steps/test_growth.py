"""Nothing grows for ever: on noise, and on a batch that is fitted."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd

STEPS = 100_000
STRUCTURES = (
    insgd.Scalar(),
    insgd.Diagonal(),
    insgd.MeanVariance(),
    insgd.MeanVariances(),
    insgd.LowRank(),
    insgd.Full(refresh_every=100),
)

# A schedule that ends at a tenth: steps are then measured against today's gradients.
RATES = {"constant": 0.02, "falling": optax.linear_schedule(0.02, 0.002, STEPS // 100)}
every_rate = pytest.mark.parametrize("rate", RATES)


def norm(tree: Any) -> float:
    return float(optax.tree.norm(tree))


@every_rate
@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda each: type(each).__name__)
def test_weights_on_white_noise_stay_within_ten_times_their_size(structure, rate):
    with jax.enable_x64(False):
        keys = jax.random.split(jax.random.key(0), 2)
        params = {"w": jax.random.normal(keys[0], (16, 4)) / 4}
        inputs = jax.random.normal(keys[1], (64, 16)) + 0.5
        layouts = {"w": insgd.Layout.of_matrix((16, 4))}
        tx = insgd.insgd(RATES[rate], structure=structure, layouts=layouts)

        def loss_fn(params: Any, inputs: Any) -> Any:
            return jnp.sum(inputs @ params["w"])

        grad_fn = insgd.value_and_grad(loss_fn, structure=structure)
        _, _, input_stats = grad_fn(params, inputs)

        def step(carry: Any, key: Any) -> tuple[Any, None]:
            params, state = carry
            grads = {"w": jax.random.normal(key, (16, 4))}
            updates, state = tx.update(grads, state, params, input_stats=input_stats)
            return (optax.apply_updates(params, updates), state), None

        noise = jax.random.split(jax.random.key(1), STEPS)
        start = params, tx.init(params)
        (after, _), _ = jax.jit(lambda: jax.lax.scan(step, start, noise))()
        assert 0.01 < norm(after) / norm(params) < 10  # the floor of its size is 0.1


@every_rate
@pytest.mark.parametrize(("name", "axis"), [("batch", 0), ("layer", 1)])
def test_weights_behind_a_norm_on_a_fitted_batch_stay_within_ten_times_their_size(name, axis, rate):
    with jax.enable_x64(False):
        keys = jax.random.split(jax.random.key(0), 3)
        inputs, labels = jax.random.normal(keys[0], (16, 8)), jnp.arange(16) % 4
        params = {
            "hidden": jax.random.normal(keys[1], (8, 16)) / 3,
            "gain": jnp.ones(16),
            "head": jax.random.normal(keys[2], (16, 4)) / 4,
        }

        def loss_fn(params: Any, inputs: Any) -> Any:
            hidden = inputs @ params["hidden"]
            hidden = hidden - hidden.mean(axis, keepdims=True)
            deviation = jnp.sqrt(hidden.var(axis, keepdims=True) + 1e-5)
            hidden = jax.nn.relu(hidden / deviation * params["gain"][None])
            losses = optax.softmax_cross_entropy_with_integer_labels(
                hidden @ params["head"], labels
            )
            return losses.mean()

        tx, grad_fn = insgd.insgd(RATES[rate]), insgd.value_and_grad(loss_fn)

        def step(carry: Any, _: None) -> tuple[Any, Any]:
            params, state = carry
            loss, grads, input_stats = grad_fn(params, inputs)
            updates, state = tx.update(grads, state, params, input_stats=input_stats)
            return (optax.apply_updates(params, updates), state), loss

        start = params, tx.init(params)
        (after, _), losses = jax.jit(lambda: jax.lax.scan(step, start, None, STEPS))()
        for path in params:
            assert norm(after[path]) < 10 * norm(params[path]), (name, path)
        assert losses[-1] < 1e-3
