"""A step fades with its gradient, and nothing that is kept can stretch it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import insgd_optax as insgd

RATE = 0.05
every_seed = pytest.mark.parametrize("seed", range(3))
every_structure = pytest.mark.parametrize(
    "structure",
    [insgd.Scalar(), insgd.Diagonal(), insgd.MeanVariances(), insgd.LowRank(), insgd.Full(1.0)],
    ids=lambda each: type(each).__name__,
)


def rms(array: Any) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(array))))


def two_heads(seed: int) -> tuple[Any, Any, Any]:
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = {"body": (6, 16), "first": (16, 3), "second": (16, 3)}
    params = {
        name: jax.random.normal(key, shape) / 3
        for (name, shape), key in zip(shapes.items(), keys, strict=False)
    }
    inputs = jax.random.normal(keys[3], (32, 6))

    def loss_fn(params: Any, inputs: Any, share: Any) -> Any:
        hidden = jax.nn.relu(inputs @ params["body"])
        losses = [
            jnp.mean(jnp.square(hidden @ params[head] - target[:, :3]))
            for head, target in (("first", inputs), ("second", -inputs))
        ]
        return losses[0] + share * losses[1]

    return params, inputs, loss_fn


@every_seed
@every_structure
def test_a_head_without_gradient_stays_where_it_is(seed, structure):
    with jax.enable_x64(False):
        params, inputs, loss_fn = two_heads(seed)
        layouts = insgd.explain(loss_fn, params, inputs, 1.0, batch_argnums=1).layouts
        tx = insgd.insgd(structure=structure, layouts=layouts)
        grad_fn = insgd.value_and_grad(loss_fn, structure=structure, batch_argnums=1)

        def step(carry: Any, share: Any) -> tuple[Any, Any]:
            params, state = carry
            _, grads, input_stats = grad_fn(params, inputs, share)
            updates, state = tx.update(grads, state, params, input_stats=input_stats)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry, shares: jax.lax.scan(step, carry, shares)[0])
        trained, state = run((params, tx.init(params)), jnp.ones(50))
        masked, _ = run((trained, state), jnp.zeros(400))
        assert rms(masked["second"] - trained["second"]) < 0.3 * rms(trained["second"])


@every_seed
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_no_row_of_a_table_moves_by_more_than_a_few_rates_of_a_row(seed, scale):
    # A row is looked up, then another with a gradient of any size, then none for a while.
    params = {"table": jax.random.normal(jax.random.key(seed), (9, 4))}
    tx = insgd.insgd(RATE)

    def loss_fn(params: Any, ids: Any, scale: Any) -> Any:
        return scale * jnp.sum(jnp.sin(params["table"][ids]))

    grad_fn = insgd.value_and_grad(loss_fn, batch_argnums=1)
    state = tx.init(params)
    for ids, size in [([0], 1.0), ([1], scale), ([0, 0], 1.0), ([5], scale), ([1], 1.0)]:
        _, grads, input_stats = grad_fn(params, jnp.array(ids), size)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        assert float(jnp.max(jnp.abs(updates["table"]))) < 10 * RATE * rms(params["table"])
        params = optax.apply_updates(params, updates)


@settings(deadline=None, max_examples=20)
@given(st.floats(-6, 0), st.integers(1, 3))
def test_a_group_with_tiny_inputs_steps_no_further_than_a_few_rates(exponent, tiny):
    with jax.enable_x64(False):
        scales = jnp.ones(4).at[:tiny].set(10.0**exponent)
        inputs = jax.random.normal(jax.random.key(0), (8, 6, 6, 4)) * scales[None, None, None]
        params = {"kernel": jax.random.normal(jax.random.key(1), (3, 3, 1, 4)) / 3}

        def loss_fn(params: Any, inputs: Any) -> Any:
            outputs = jax.lax.conv_general_dilated(
                inputs, params["kernel"], (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4,
            )  # fmt: skip
            return jnp.mean(jnp.square(outputs - 1))

        tx = insgd.insgd(RATE, momentum=0.0)
        _, grads, input_stats = insgd.value_and_grad(loss_fn)(params, inputs)
        updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
        for channel in range(4):
            step, weight = (tree["kernel"][..., channel] for tree in (updates, params))
            assert rms(step) < 10 * RATE * rms(weight)


@every_structure
def test_a_streak_of_broken_batches_leaves_everything_but_the_counters(structure):
    params, inputs, loss_fn = two_heads(0)
    layouts = insgd.explain(loss_fn, params, inputs, 1.0, batch_argnums=1).layouts
    tx = insgd.insgd(RATE, structure=structure, layouts=layouts)
    grad_fn = insgd.value_and_grad(loss_fn, structure=structure, batch_argnums=1)
    _, grads, input_stats = grad_fn(params, inputs, 1.0)
    _, good = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    state = good
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        broken = jax.tree.map(lambda leaf, bad=bad: leaf.at[0, 0].set(bad), grads)
        updates, state = tx.update(broken, state, params, input_stats=input_stats)
        assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(updates))
    before, after = good[0], state[0]
    jax.tree.map(
        np.testing.assert_array_equal,
        (after.momentum, after.gradients, after.inputs.power),
        (before.momentum, before.gradients, before.inputs.power),
    )
    assert int(after.inputs.skipped) == 3


def test_a_gradient_of_a_thousandth_takes_a_step_of_a_thousandth():
    params, inputs, loss_fn = two_heads(0)
    tx = insgd.scale_by_insgd(momentum=0.0)  # without the decay that balances growth
    _, grads, input_stats = insgd.value_and_grad(loss_fn, batch_argnums=1)(params, inputs, 1.0)
    first, state = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    small = jax.tree.map(lambda leaf: leaf / 1000, grads)
    second, _ = tx.update(small, state, params, input_stats=input_stats)
    for path in params:
        np.testing.assert_allclose(1000 * second[path], first[path], rtol=1e-5, atol=1e-7)


def test_the_state_has_no_array_without_elements():
    for structure in (insgd.Scalar(), insgd.MeanVariances(), insgd.LowRank(), insgd.Full()):
        for params in ({"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}, {}, {"b": jnp.zeros(0)}):
            state = insgd.insgd(structure=structure, momentum=0.0).init(params)
            assert all(leaf.size for leaf in jax.tree.leaves(state))


def test_two_containers_take_the_same_step():
    params, inputs, loss_fn = two_heads(1)
    nested = {name: {"kernel": leaf} for name, leaf in params.items()}

    def nested_loss(params: Any, inputs: Any, share: Any) -> Any:
        return loss_fn({name: layer["kernel"] for name, layer in params.items()}, inputs, share)

    found = []
    for loss, start in ((loss_fn, params), (nested_loss, nested)):
        tx = insgd.insgd()
        _, grads, input_stats = insgd.value_and_grad(loss, batch_argnums=1)(start, inputs, 1.0)
        found.append(tx.update(grads, tx.init(start), start, input_stats=input_stats)[0])
    for name in params:
        np.testing.assert_allclose(found[0][name], found[1][name]["kernel"], rtol=1e-6)


def test_a_vector_without_a_layer_moves_by_a_tenth_of_the_share_of_others():
    gradients = {"gain": jnp.full(4, 3.0), "position": jnp.ones((2, 4)), "scale": jnp.array(5.0)}
    params = jax.tree.map(jnp.ones_like, gradients)
    none = dict.fromkeys(params)

    def moved(**settings: Any) -> dict[str, float]:
        tx = insgd.scale_by_insgd(momentum=0.0, **settings)
        steps, _ = tx.update(gradients, tx.init(params), params, input_stats=none)
        return {name: rms(step) for name, step in steps.items()}

    expected = {"gain": 0.1, "position": 1.0, "scale": 0.1}
    assert moved() == pytest.approx(expected)
    assert moved(vector_rate=1.0) == pytest.approx(dict.fromkeys(params, 1.0))
    assert set(moved(vector_rate=0.0).values()) == {0.0, moved()["position"]}


def test_the_decay_of_a_vector_cancels_the_growth_of_its_shorter_steps():
    params, rate = {"gain": jnp.ones(64)}, 0.2
    tx = insgd.insgd(rate, momentum=None)

    def step(carry: Any, key: Any) -> tuple[Any, None]:
        params, state = carry
        grads = {"gain": jax.random.normal(key, (64,))}
        updates, state = tx.update(grads, state, params, input_stats={"gain": None})
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 20_000)
    (after, _), _ = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), keys))()
    assert 0.1 < rms(after["gain"]) < 2.0
