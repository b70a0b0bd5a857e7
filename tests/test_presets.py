"""The presets, against the sources' rules written again as plain NumPy loops."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd
from reference import im2col
from zoo.case import integers, normal

Arrays = dict[str, Any]


def _train(tx: Any, grad_fn: Any, params: Any, batches: Any) -> Any:
    """Parameters after a scan over batches."""

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        _, grads, input_stats = grad_fn(params, *batch)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), batches)[0][0]


def _assert_close(actual: Arrays, expected: Arrays, tolerance: float) -> None:
    for name, value in expected.items():
        largest = np.max(np.abs(value))
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=tolerance * largest)


def mlp_loss(params: Any, x: Any, y: Any) -> jax.Array:
    hidden = jnp.tanh(x @ params["a"] + params["c"][None])
    logits = hidden @ params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def mlp_inputs(params: Arrays, x: Any) -> Arrays:
    return {"a": x, "b": np.tanh(np.asarray(x) @ np.asarray(params["a"]) + np.asarray(params["c"]))}


def mlp(dtype: str, steps: int) -> tuple[Arrays, Any]:
    params = {
        "a": normal(0, (20, 16), dtype, 0.3),
        "b": normal(1, (16, 5), dtype, 0.3),
        "c": normal(2, (16,), dtype, 0.3),
    }
    sizes = np.exp(np.random.default_rng(3).normal(size=(steps, 1, 1)))  # the power changes
    x = normal(4, (steps, 8, 20), dtype) * jnp.asarray(sizes, dtype)
    return params, (x, integers(5, (steps, 8), 5))


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
    actual = _train(insgd.paper(**setting), grad_fn, params, batches)
    _assert_close(actual, algorithm_1(params, batches, **setting), 1e-10)


def test_the_defaults_of_paper_are_those_of_its_text():
    params, batches = mlp("float64", 5)
    grad_fn = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar())
    actual = _train(insgd.paper(0.1), grad_fn, params, batches)
    expected = algorithm_1(params, batches, 0.1, 2, 0.9, 0.9, 0.0, 0.0, 0.01)
    _assert_close(actual, expected, 1e-10)


def _standardized(x: np.ndarray) -> np.ndarray:
    """Over the last axis, as the authors do it."""
    deviation = np.std(x, axis=-1, ddof=1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.maximum(deviation, 0.01)


def dense_divisor(x: np.ndarray, order: int) -> np.ndarray:
    power = np.mean(np.sum(np.abs(_standardized(x)) ** order, axis=1)) + 0.1
    return np.maximum(np.log(power), 0.01)


def channel_divisors(x: np.ndarray, order: int) -> np.ndarray:
    """One for every channel of (batch, channels, height, width)."""
    flat = x.reshape(*x.shape[:2], -1)
    power = np.mean(np.sum(np.abs(_standardized(flat)) ** order, axis=2), axis=0)
    return np.maximum(np.log(power), 0.01)


def released_loop(
    loss: Callable[..., Any],
    divisors: Callable[..., Arrays],
    params: Arrays,
    batches: Any,
    setting: Any,
) -> Arrays:
    """The step of the authors' `insgd.py`: decay, momentum, then the normalizer, for weights."""
    learning_rate, momentum = setting["learning_rate"], setting["momentum"]
    params = {name: np.asarray(value) for name, value in params.items()}
    buffer, gradient = {}, jax.jit(jax.grad(loss))
    factor = np.sqrt(1 + 1e-6) / (np.sqrt(1 - momentum) + 1e-6)
    for x, y in zip(*batches, strict=True):
        grads = gradient(params, x, y)
        by = divisors(params, np.asarray(x), setting["order"])
        moved = {}
        for name, value in params.items():
            g = np.asarray(grads[name]) + setting["weight_decay"] * value
            buffer[name] = momentum * buffer[name] + g if name in buffer else g
            step = g + momentum * buffer[name] if setting["nesterov"] else buffer[name]
            step = factor * step / by[name] if name in by else step
            moved[name] = (value - learning_rate * step).astype(value.dtype)
        params = moved
    return params


def mlp_divisors(params: Arrays, x: np.ndarray, order: int) -> Arrays:
    return {name: dense_divisor(seen, order) for name, seen in mlp_inputs(params, x).items()}


def cnn_loss(params: Any, x: Any, y: Any, order: str = "NCHW") -> jax.Array:
    """Two convolutions (OIHW, the second strided and without bias) and a dense layer."""
    numbers = (order, "OIHW", "NCHW")
    first = jax.lax.conv_general_dilated(
        x, params["a"], (1, 1), [(1, 1), (1, 1)], dimension_numbers=numbers
    )
    hidden = jax.nn.relu(first + params["c"][None, :, None, None])
    second = jax.lax.conv_general_dilated(hidden, params["b"], (2, 2), [(1, 1), (1, 1)])
    logits = jax.nn.relu(second).reshape(x.shape[0], -1) @ params["d"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def cnn(steps: int) -> tuple[Arrays, Any]:
    params = {
        "a": normal(0, (8, 3, 3, 3), "float32", 0.2),
        "b": normal(1, (12, 8, 3, 3), "float32", 0.1),
        "c": normal(2, (8,), "float32", 0.1),
        "d": normal(3, (12 * 4 * 4, 5), "float32", 0.1),
    }
    return params, (normal(4, (steps, 4, 3, 8, 8), "float32"), integers(5, (steps, 4), 5))


def _convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """NCHW and OIHW with padding 1, by patches."""
    padded = np.pad(x.transpose(0, 2, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = im2col(padded, (3, 3), (stride, stride), (1, 1))
    return np.einsum("bhwijc,ocij->bohw", patches, kernel)


def cnn_divisors(params: Arrays, x: np.ndarray, order: int) -> Arrays:
    first = _convolved(x, params["a"], 1) + params["c"][None, :, None, None]
    hidden = np.maximum(first, 0)
    flat = np.maximum(_convolved(hidden, params["b"], 2), 0).reshape(len(x), -1)
    return {
        "a": channel_divisors(x, order)[None, :, None, None],
        "b": channel_divisors(hidden, order)[None, :, None, None],
        "d": dense_divisor(flat, order),
    }


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay"),
    [(0.9, False, 5e-4), (0.9, True, 0.0), (0.5, True, 1e-3), (0.0, False, 0.0)],
)
@pytest.mark.parametrize(
    ("loss", "model", "divisors", "learning_rate"),
    [
        (mlp_loss, lambda: mlp("float32", 12), mlp_divisors, 0.05),
        (cnn_loss, lambda: cnn(12), cnn_divisors, 0.02),
    ],
    ids=["mlp", "cnn"],
)
def test_released_is_the_authors_code(
    loss, model, divisors, learning_rate, order, momentum, nesterov, weight_decay
):
    params, batches = model()
    setting = {
        "learning_rate": learning_rate, "order": order, "momentum": momentum,
        "weight_decay": weight_decay, "nesterov": nesterov,
    }  # fmt: skip
    grad_fn = insgd.value_and_grad(loss, structure=insgd.Released(order=order))
    actual = _train(insgd.released(**setting), grad_fn, params, batches)
    _assert_close(actual, released_loop(loss, divisors, params, batches, setting), 1e-5)


def test_released_does_not_depend_on_the_order_of_a_convolutions_axes():
    params, (x, y) = cnn(3)
    grads = {}
    for order, turned in (("NCHW", x), ("NHWC", x.transpose(0, 1, 3, 4, 2))):
        grad_fn = insgd.value_and_grad(
            lambda params, x, y, order=order: cnn_loss(params, x, y, order),
            structure=insgd.Released(),
        )
        grads[order] = _train(insgd.released(0.02), grad_fn, params, (turned, y))
    _assert_close(grads["NCHW"], grads["NHWC"], 1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_released_takes_a_hundredfold_step_where_a_channel_is_constant(order):
    """The published code's behavior: the logarithm of zero is floored at 0.01."""
    x = jnp.stack([jnp.ones((2, 4, 4)), normal(0, (2, 4, 4), "float64")], axis=1)
    params = {"w": normal(1, (3, 2, 1, 1), "float64")}

    def loss(params, x):
        return jnp.sum(jax.lax.conv_general_dilated(x, params["w"], (1, 1), "VALID"))

    _, grads, stats = insgd.value_and_grad(loss, structure=insgd.Released(order))(params, x)
    tx = insgd.released(1.0, order, momentum=0.0)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    np.testing.assert_allclose(updates["w"][:, 0], -100 * grads["w"][:, 0], rtol=1e-5)


def test_released_counts_a_lookup_as_a_dense_layer_on_one_hot_rows():
    params, tokens = {"table": normal(0, (7, 4), "float64")}, jnp.asarray([0, 3, 3, 6])

    def by_lookup(params, tokens):
        return jnp.sum(jnp.sin(params["table"][tokens]))

    def by_product(params, tokens):
        return jnp.sum(jnp.sin(jax.nn.one_hot(tokens, 7) @ params["table"]))

    stats = [
        insgd.value_and_grad(loss, structure=insgd.Released(1))(params, tokens)[2]["table"]
        for loss in (by_lookup, by_product)
    ]
    np.testing.assert_allclose(stats[0].mean(), stats[1].mean(), rtol=1e-10)


@pytest.mark.parametrize("order", [1, 2])
def test_nlms_divides_by_the_mean_power_of_this_batch_alone(order):
    params, batches = mlp("float64", 2)
    grad_fn = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar(order))
    tx = insgd.nlms(0.3, eps=0.2, order=order)
    state = tx.init(params)
    for x, y in zip(*batches, strict=True):  # the second is not colored by the first
        _, grads, input_stats = grad_fn(params, x, y)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        for name, seen in mlp_inputs(params, np.asarray(x)).items():
            power = np.mean(np.sum(np.abs(seen) ** order, axis=1))
            expected = -0.3 * grads[name] / (0.2 + power)
            np.testing.assert_allclose(updates[name], expected, rtol=1e-10)
        np.testing.assert_allclose(updates["c"], -0.3 * grads["c"], rtol=1e-12)


def test_project_page_is_sgd_on_gradients_of_examples_over_their_norms():
    params, batches = mlp("float64", 6)
    grad_fn = insgd.value_and_grad(mlp_loss, per_example=insgd.PerExample(eps=0.1))
    tx = insgd.project_page(0.1, eps=0.1, momentum=0.9, weight_decay=0.01)
    actual = _train(tx, grad_fn, params, batches)
    copy, buffer = {name: np.asarray(value) for name, value in params.items()}, {}
    of_examples = jax.jit(
        jax.vmap(jax.grad(lambda p, x, y: mlp_loss(p, x[None], y[None])), in_axes=(None, 0, 0))
    )
    for x, y in zip(*batches, strict=True):
        each, seen = of_examples(copy, x, y), mlp_inputs(copy, np.asarray(x))
        for name in copy:
            g = np.asarray(each[name])
            if name in seen:
                g = g / (np.linalg.norm(seen[name], axis=1)[:, None, None] + 0.1)
            buffer[name] = 0.9 * buffer.get(name, 0) + g.mean(axis=0)
        copy = {name: copy[name] - 0.1 * (buffer[name] + 0.01 * copy[name]) for name in copy}
    _assert_close(actual, copy, 1e-10)


def test_project_page_refuses_gradients_that_were_not_divided():
    params, ((x, *_), (y, *_)) = mlp("float64", 1)
    tx = insgd.project_page(0.1)
    for per_example in (False, insgd.PerExample(exponent=2)):
        _, grads, stats = insgd.value_and_grad(mlp_loss, per_example=per_example)(params, x, y)
        with pytest.raises(ValueError, match=r"'a' of shape \(20, 16\).*insgd_optax.PerExample"):
            tx.update(grads, tx.init(params), params, input_stats=stats)
    with pytest.raises(ValueError, match=r"without input_stats(?s:.*)insgd_optax.PerExample"):
        tx.update(grads, tx.init(params), params)


PRESETS = {
    "nlms": (insgd.nlms(0.1), {"structure": insgd.Scalar()}),
    "paper": (insgd.paper(0.1), {"structure": insgd.Scalar()}),
    "released": (insgd.released(0.1), {"structure": insgd.Released()}),
    "project_page": (insgd.project_page(0.1, momentum=0.9), {"per_example": True}),
}
every_preset = pytest.mark.parametrize("name", PRESETS)


@every_preset
def test_a_batch_that_is_not_finite_leaves_no_trace(name):
    tx, capture = PRESETS[name]
    params, (x, y) = mlp("float64", 3)
    grad_fn = insgd.value_and_grad(mlp_loss, **capture)
    bad = x.at[1].set(jnp.nan)

    def step(state: Any, place: int) -> Any:
        _, grads, stats = grad_fn(params, bad[place], y[place])
        return tx.update(grads, state, params, input_stats=stats)

    _, before = step(tx.init(params), 0)
    updates, after = step(before, 1)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((updates, after)))
    _, state = step(after, 2)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state))


@every_preset
def test_a_zero_batch_takes_no_step(name):
    tx, capture = PRESETS[name]
    params, (x, y) = mlp("float64", 1)
    grad_fn = insgd.value_and_grad(mlp_loss, **capture)
    _, grads, stats = grad_fn({**params, "c": jnp.zeros(16)}, 0 * x[0], y[0])
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    for weight in "ab":
        np.testing.assert_array_equal(updates[weight], 0 * params[weight])


def test_paper_takes_no_step_where_the_power_is_zero_whatever_the_gradient():
    params, ((x, *_), (y, *_)) = mlp("float64", 1)
    grad_fn = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar())
    _, grads, stats = grad_fn(params, 0 * x, y)
    tx = insgd.paper(0.1)
    ones = jax.tree.map(jnp.ones_like, grads)
    updates, _ = tx.update(ones, tx.init(params), params, input_stats=stats)
    np.testing.assert_array_equal(updates["a"], 0 * params["a"])
    np.testing.assert_allclose(updates["c"], -0.1 * ones["c"])


@pytest.mark.parametrize(
    "make", [insgd.Scalar, insgd.Released, lambda order: insgd.nlms(0.1, order=order)]
)
def test_an_order_that_no_source_uses_is_an_error(make):
    with pytest.raises(ValueError, match="order must be 1"):
        make(3)


def test_a_preset_for_another_order_than_the_capture_is_an_error_that_names_the_leaf():
    params, ((x, *_), (y, *_)) = mlp("float64", 1)
    _, grads, stats = insgd.value_and_grad(mlp_loss, structure=insgd.Scalar(1))(params, x, y)
    tx = insgd.paper(0.1, order=2)
    with pytest.raises(ValueError, match=r"'a' of shape \(20, 16\).*Scalar\(order=2\)"):
        tx.update(grads, tx.init(params), params, input_stats=stats)


def test_a_lookup_and_a_head_that_share_a_table_have_the_mean_power_of_their_rows():
    params = {"table": normal(0, (7, 4), "float64")}
    tokens, hidden = jnp.asarray([0, 3, 3, 6, 1]), normal(1, (9, 4), "float64")

    def loss(params, tokens, hidden):
        looked_up = jnp.sum(jnp.sin(params["table"][tokens]))
        return looked_up + jnp.sum(jnp.sin(hidden @ params["table"].T))

    grad_fn = insgd.value_and_grad(loss, structure=insgd.Scalar())
    _, grads, stats = grad_fn(params, tokens, hidden)
    tx = insgd.nlms(0.1, eps=0.0)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    power = (5 * 1.0 + float(jnp.sum(hidden**2))) / (5 + 9)  # one-hot rows have power one
    np.testing.assert_allclose(updates["table"], -0.1 * grads["table"] / power, rtol=1e-10)


@pytest.mark.parametrize("name", ["paper", "released"])
def test_a_layer_that_was_never_reached_only_decays(name):
    make = {"paper": insgd.paper, "released": insgd.released}[name]
    params = {"w": normal(0, (4, 3), "float64"), "v": normal(1, (4, 3), "float64")}

    def loss(params, x, taken):
        branches = [lambda x: jnp.sum(x @ params["w"]), lambda x: jnp.sum(x @ params["v"])]
        return jax.lax.switch(taken, branches, x)

    capture = {"paper": insgd.Scalar(), "released": insgd.Released()}[name]
    grad_fn = insgd.value_and_grad(loss, structure=capture)
    _, grads, stats = grad_fn(params, normal(2, (5, 4), "float64"), jnp.asarray(0))
    tx = make(0.1, weight_decay=0.01)
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    np.testing.assert_allclose(updates["v"], -0.1 * 0.01 * params["v"], rtol=1e-9)


@pytest.mark.parametrize("name", ["nlms", "paper", "released"])
def test_rows_that_were_divided_already_are_an_error(name):
    tx, capture = PRESETS[name]
    params, ((x, *_), (y, *_)) = mlp("float64", 1)
    _, grads, stats = insgd.value_and_grad(mlp_loss, per_example=True, **capture)(params, x, y)
    with pytest.raises(ValueError, match=r"'a' of shape \(20, 16\) were divided already"):
        tx.update(grads, tx.init(params), params, input_stats=stats)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("stats", [{}, {"a": 3.0, "b": 3.0}], ids=["empty", "of_numbers"])
def test_project_page_refuses_statistics_that_are_none(stats):
    params, _ = mlp("float64", 1)
    tx = insgd.project_page(0.1)
    with pytest.raises(ValueError, match=r"'a' of shape \(20, 16\)(?s:.*)insgd_optax.PerExample"):
        tx.update(params, tx.init(params), params, input_stats=stats)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: insgd.nlms(0.1, eps=-1.0), "eps must be at least 0"),
        (lambda: insgd.paper(0.1, decay=1.0), "decay must be in"),
        (lambda: insgd.paper(0.1, epsilon=0.0), "epsilon must be positive"),
        (lambda: insgd.paper(0.1, dampening=2.0), "dampening must be from 0 to 1"),
        (lambda: insgd.paper(0.1, momentum=-0.1), "momentum must be from 0 to 1"),
        (lambda: insgd.released(0.1, momentum=1.0), "momentum must be in"),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_momentum_may_be_written_as_none():
    params, batches = mlp("float64", 3)
    for make, capture in ((insgd.paper, insgd.Scalar()), (insgd.released, insgd.Released())):
        grad_fn = insgd.value_and_grad(mlp_loss, structure=capture)
        both = [_train(make(0.1, momentum=none), grad_fn, params, batches) for none in (None, 0.0)]
        _assert_close(*both, 1e-12)
