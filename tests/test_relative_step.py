"""relative_step: every layer's step has the size of what the layer computes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import insgd_optax as insgd


def linear(params: Any, inputs: Any) -> Any:
    outputs = inputs @ params["layer"]["kernel"]
    return jnp.sum(jnp.sin(outputs + params["layer"].get("bias", jnp.zeros(3))[None]))


def problem(bias: bool, scale: float = 1.0) -> tuple[Any, Any]:
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        layer = {"kernel": jax.random.normal(keys[0], (5, 3), jnp.float64)}
        if bias:
            layer["bias"] = jax.random.normal(keys[1], (3,), jnp.float64)
        return {"layer": layer}, scale * jax.random.normal(keys[2], (7, 5), jnp.float64)


def resized(params: Any, inputs: Any, structure: Any, **settings: Any) -> tuple[Any, Any]:
    """The gradient, and what relative_step makes of it."""
    _, grads, stats = insgd.value_and_grad(linear, structure=structure)(params, inputs)
    step = insgd.relative_step(**settings)
    updates, _ = step.update(grads, step.init(params), params, input_stats=stats)
    return grads, updates


def size(layer: Any, inputs: Any) -> float:
    """What a layer computes of uncorrelated features, with its bias, in NumPy."""
    power = np.mean(np.square(inputs), axis=0)
    squares = np.sum(power[:, None] * np.square(layer["kernel"]))
    return float(np.sqrt(squares + np.sum(np.square(layer.get("bias", 0.0)))))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("structure", [insgd.Diagonal(), insgd.Full(rows=None, refresh_every=1)])
def test_a_step_has_the_size_of_its_layers_output_and_the_gradients_direction(structure, bias):
    with jax.enable_x64(True):
        params, inputs = problem(bias)
        grads, updates = resized(params, inputs, structure, least=0.0)
        expected = size(params["layer"], inputs) / size(grads["layer"], inputs)
        for name in params["layer"]:
            np.testing.assert_allclose(
                updates["layer"][name], expected * grads["layer"][name], rtol=1e-10
            )


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 1e3), st.floats(0.1, 1.0))
def test_inputs_times_a_number_and_weights_over_it_give_updates_over_it(scale, power):
    with jax.enable_x64(True):
        params, inputs = problem(bias=False)
        smaller = jax.tree.map(lambda leaf: leaf / scale, params)
        tx = insgd.insgd(0.1, relative=power)
        updates = []
        for weights, rows in [(params, inputs), (smaller, scale * inputs)]:
            _, grads, stats = insgd.value_and_grad(linear)(weights, rows)
            updates.append(tx.update(grads, tx.init(weights), weights, input_stats=stats)[0])
        expected, found = (update["layer"]["kernel"] for update in updates)
        np.testing.assert_allclose(scale * found, expected, rtol=1e-9)


def test_a_power_of_zero_changes_no_bit():
    params, inputs = problem(bias=True)
    grads, updates = resized(params, inputs, insgd.Diagonal(), power=0.0)
    jax.tree.map(np.testing.assert_array_equal, grads, updates)


def test_every_matrix_of_a_stack_is_measured_by_itself():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), 2)
        stack = jax.random.normal(keys[0], (4, 3, 3), jnp.float64)
        stack = stack * jnp.array([1.0, 10.0, 0.1, 1.0])[:, None, None]
        inputs = jax.random.normal(keys[1], (6, 3), jnp.float64)

        def loss_fn(params: Any, inputs: Any) -> Any:
            outputs, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), inputs, params["stack"])
            return jnp.sum(outputs)

        grad_fn = insgd.value_and_grad(loss_fn, structure=insgd.Diagonal())
        _, grads, stats = grad_fn({"stack": stack}, inputs)
        step = insgd.relative_step(least=0.0)
        updates, _ = step.update(grads, step.init(None), {"stack": stack}, input_stats=stats)
        power = stats["stack"].mean()[:, :, None]
        sizes = [
            jnp.sum(power * jnp.square(leaf), axis=(1, 2)) for leaf in (updates["stack"], stack)
        ]
        np.testing.assert_allclose(*sizes, rtol=1e-10)


def test_a_layer_that_starts_at_zero_leaves_it_by_the_least_size():
    with jax.enable_x64(True):
        params, inputs = problem(bias=False)
        zero = jax.tree.map(jnp.zeros_like, params)
        _, updates = resized(zero, inputs, insgd.Diagonal(), least=0.2)
        expected = 0.2 * np.sqrt(3)  # three outputs
        np.testing.assert_allclose(size(updates["layer"], inputs), expected, rtol=1e-10)


def test_a_layer_that_saw_nothing_takes_no_step():
    params, inputs = problem(bias=False)
    _, updates = resized(params, 0 * inputs, insgd.Diagonal())
    assert not np.any(updates["layer"]["kernel"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_moves_nothing_and_poisons_nothing(bad):
    params, inputs = problem(bias=True)
    tx = insgd.insgd()
    grad_fn = insgd.value_and_grad(linear)
    _, grads, stats = grad_fn(params, inputs)
    _, state = tx.update(grads, tx.init(params), params, input_stats=stats)
    _, broken, broken_stats = grad_fn(params, inputs.at[0, 0].set(bad))
    updates, state = tx.update(broken, state, params, input_stats=broken_stats)
    assert not np.any(updates["layer"]["kernel"]) and not np.any(updates["layer"]["bias"])
    updates, _ = tx.update(grads, state, params, input_stats=stats)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(updates))


def test_gains_and_leaves_without_a_layer_of_their_own_keep_their_update():
    def loss_fn(params: Any, inputs: Any) -> Any:
        return jnp.sum((inputs * params["norm"]["scale"][None]) @ params["layer"]["kernel"])

    params, inputs = problem(bias=False)
    params["norm"] = {"scale": jnp.full(5, 2.0)}
    _, grads, stats = insgd.value_and_grad(loss_fn)(params, inputs)
    step = insgd.relative_step()
    updates, _ = step.update(grads, step.init(params), params, input_stats=stats)
    np.testing.assert_array_equal(updates["norm"]["scale"], grads["norm"]["scale"])
    assert np.any(updates["layer"]["kernel"] != grads["layer"]["kernel"])


def test_a_gain_beside_a_weight_and_its_bias_keeps_its_update():
    def loss_fn(params: Any, inputs: Any) -> Any:
        layer = params["layer"]
        return jnp.sum(
            jnp.sin(inputs @ layer["kernel"] + layer["bias"][None]) * layer["gain"][None]
        )

    params, inputs = problem(bias=True)
    params["layer"]["gain"] = jnp.ones(3)
    _, grads, stats = insgd.value_and_grad(loss_fn)(params, inputs)
    step = insgd.relative_step()
    updates, _ = step.update(grads, step.init(params), params, input_stats=stats)
    np.testing.assert_array_equal(updates["layer"]["gain"], grads["layer"]["gain"])
    ratios = [updates["layer"][name] / grads["layer"][name] for name in ("kernel", "bias")]
    np.testing.assert_allclose(ratios[0], ratios[0][0, 0], rtol=1e-6)
    np.testing.assert_allclose(ratios[1], ratios[0][0, 0], rtol=1e-6)


def test_a_layer_whose_bias_is_not_among_the_updates_is_measured_alone():
    params, inputs = problem(bias=True)
    _, grads, stats = insgd.value_and_grad(linear)(params, inputs)
    step = insgd.relative_step(least=0.0)
    masked = optax.masked(step, {"layer": {"kernel": True, "bias": False}})
    updates, _ = masked.update(grads, masked.init(params), params, input_stats=stats)
    np.testing.assert_array_equal(updates["layer"]["bias"], grads["layer"]["bias"])
    kernels = [{"kernel": tree["layer"]["kernel"]} for tree in (updates, params)]
    np.testing.assert_allclose(size(kernels[0], inputs), size(kernels[1], inputs), rtol=1e-6)


def test_a_bias_named_with_hand_made_statistics_is_measured_with_its_layer():
    with jax.enable_x64(True):
        params, inputs = problem(bias=True)
        _, grads, stats = insgd.value_and_grad(linear)(params, inputs)
        power = jnp.sum(jnp.square(inputs), axis=0)[None]
        layout, row = insgd.Layout.of_matrix((5, 3)), insgd.Layout((3,), (), 1, 1, 3)
        bias = insgd.Bias("layer/bias", row)
        count = jnp.array([7.0], jnp.float64)
        by_hand = insgd.InputMoments(power, count, layout, insgd.Diagonal(), bias=bias)
        step = insgd.relative_step()
        for given in (stats, {"layer/kernel": by_hand, "layer/bias": None}):
            updates, _ = step.update(grads, step.init(params), params, input_stats=given)
            whole = size(updates["layer"], inputs)
            np.testing.assert_allclose(whole, size(params["layer"], inputs), rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_half_precision_keeps_its_type_and_stays_finite(dtype, scale):
    params, inputs = problem(bias=True, scale=scale)
    params, inputs = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, inputs))
    tx = insgd.insgd()
    _, grads, stats = insgd.value_and_grad(linear)(params, inputs)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    for leaf in jax.tree.leaves(updates):
        assert leaf.dtype == dtype
        assert np.all(np.isfinite(leaf.astype(np.float32)))


def test_training_in_bfloat16_reaches_the_loss_of_float32():
    keys = jax.random.split(jax.random.key(2), 3)
    inputs = 30 * jax.random.normal(keys[0], (256, 8))
    labels = jnp.argmax(inputs[:, :4], axis=1)
    start = {
        "hidden": {"kernel": jax.random.normal(keys[1], (8, 32)) / 3, "bias": jnp.zeros(32)},
        "head": {"kernel": jax.random.normal(keys[2], (32, 4)) / 6, "bias": jnp.zeros(4)},
    }

    def loss_fn(params: Any, rows: Any) -> Any:
        hidden = jax.nn.relu(rows @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
        logits = hidden @ params["head"]["kernel"] + params["head"]["bias"][None]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
        return losses.mean()

    def trained(structure: Any, dtype: Any) -> float:
        layouts = insgd.explain(loss_fn, start, inputs).layouts
        tx = insgd.insgd(0.04, structure=structure, layouts=layouts)
        grad_fn = insgd.value_and_grad(loss_fn, structure=structure)

        @jax.jit
        def step(params: Any, state: Any) -> tuple[Any, Any]:
            _, grads, stats = grad_fn(params, inputs.astype(dtype))
            updates, state = tx.update(grads, state, params, input_stats=stats)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(lambda leaf: leaf.astype(dtype), start)
        state = tx.init(params)
        for _ in range(80):
            params, state = step(params, state)
        return float(loss_fn(params, inputs.astype(dtype)))

    for structure in (insgd.Scalar(), insgd.Diagonal(), insgd.MeanVariance(), insgd.Full(1.0)):
        single, half = trained(structure, jnp.float32), trained(structure, jnp.bfloat16)
        assert single < 0.3, structure
        assert abs(half - single) < 0.05, structure


@pytest.mark.parametrize(
    ("missing", "message"),
    [("params", "called without params"), ("input_stats", "called without input_stats")],
)
def test_what_is_missing_is_said_with_the_call_that_passes_it(missing, message):
    params, inputs = problem(bias=True)
    _, grads, stats = insgd.value_and_grad(linear)(params, inputs)
    given_to = {"params": params, "input_stats": stats} | {missing: None}
    step = insgd.relative_step()
    with pytest.raises(ValueError, match=message) as error:
        step.update(grads, step.init(params), **given_to)
    assert "optimizer.update(grads, state, params, input_stats=input_stats)" in str(error.value)


@pytest.mark.parametrize("settings", [{"power": 1.5}, {"power": -0.1}, {"least": -1.0}])
def test_a_setting_out_of_its_range_is_an_error(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        insgd.relative_step(**settings)
