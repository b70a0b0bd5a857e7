"""Closed forms: what the update must equal, by mathematics and by hand."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd

every_structure = pytest.mark.parametrize(
    "structure", [insgd.Scalar(), insgd.Diagonal()], ids=["scalar", "diagonal"]
)


def _linear_loss(params: Any, batch: Any) -> jax.Array:
    inputs, targets = batch
    predictions = inputs @ params["weight"] + params["bias"][None, :]
    return jnp.mean((predictions - targets) ** 2)


def _trajectory(tx: Any, params: Any, batches: Any, structure: Any) -> Any:
    """Parameters after every step of a scan over stacked batches."""
    grad_fn = insgd.value_and_grad(_linear_loss, structure=structure)

    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        params, state = carry
        _, grads, input_stats = grad_fn(params, batch)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, tx.init(params)), batches)[1]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.float64, 1e-10)], ids=["f32", "f64"]
)
@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
def test_scalar_on_inputs_of_unit_mean_square_is_sgd(dtype, tolerance, guard, nesterov):
    rng = np.random.default_rng(0)
    # Inputs of random size, with the mean square of each batch made one.
    inputs = rng.standard_t(3, size=(50, 8, 5))
    inputs /= np.sqrt(np.mean(inputs**2, axis=(1, 2), keepdims=True))
    batches = jnp.asarray(inputs, dtype), jnp.asarray(rng.normal(size=(50, 8, 3)), dtype)
    params = {
        "weight": jnp.asarray(rng.normal(size=(5, 3)), dtype),
        "bias": jnp.zeros((3,), dtype),
    }
    tx = insgd.insgd(
        0.05, structure=insgd.Scalar(), momentum=0.9, nesterov=nesterov, weight_decay=0.01,
        guard=guard, relative=0.0,
    )  # fmt: skip
    sgd = optax.chain(
        optax.trace(0.9, nesterov=nesterov),
        optax.add_decayed_weights(0.01),
        optax.scale_by_learning_rate(0.05),
    )
    actual = _trajectory(tx, params, batches, insgd.Scalar())
    expected = _trajectory(optax.with_extra_args_support(sgd), params, batches, insgd.Scalar())
    for name in params:
        scale = np.max(np.abs(expected[name]))
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=tolerance * scale)


@every_structure
@pytest.mark.parametrize("guard", [True, False])
def test_the_function_of_a_linear_model_does_not_depend_on_the_unit_of_its_input(structure, guard):
    rng = np.random.default_rng(1)
    inputs = jnp.asarray(rng.standard_t(3, size=(30, 4, 5)) * np.array([1, 5, 0.1, 1, 2]))
    targets = jnp.asarray(rng.normal(size=(30, 4, 2)))
    weight, bias = jnp.asarray(rng.normal(size=(5, 2))), jnp.asarray(rng.normal(size=(2,)))
    probe = jnp.asarray(rng.normal(size=(7, 5)))
    tx = insgd.insgd(
        0.02, relative=0.0, nesterov=False, structure=structure, weight_decay=0.1, guard=guard
    )

    @jax.jit
    def predictions(c: jax.Array) -> jax.Array:
        params = {"weight": weight / c, "bias": bias}
        path = _trajectory(tx, params, (c * inputs, targets), structure)
        return (c * probe) @ path["weight"] + path["bias"][:, None, :]

    reference = predictions(jnp.asarray(1.0))

    @hypothesis.settings(max_examples=20, deadline=None)
    @hypothesis.given(st.floats(-3, 3))
    @hypothesis.example(-3.0)
    @hypothesis.example(3.0)
    def check(exponent: float) -> None:
        np.testing.assert_allclose(
            predictions(jnp.asarray(10.0**exponent)), reference, rtol=1e-9, atol=1e-10
        )

    check()
    # SGD fails this test, so it can be failed.
    sgd = optax.with_extra_args_support(optax.sgd(0.02))
    path = [
        _trajectory(sgd, {"weight": weight / c, "bias": bias}, (c * inputs, targets), structure)
        for c in (1.0, 0.1)
    ]
    assert not np.allclose(path[0]["weight"], 0.1 * path[1]["weight"], rtol=1e-2)


# Two rows of two features: squares 1, 4 and 9, 16. Feature means 5 and 10, their mean 7.5.
_ROWS = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("structure", "eps", "divisors"),
    [
        (insgd.Scalar(), 0.0, (7.5, 7.5)),
        (insgd.Scalar(), 0.5, (7.5, 7.5)),
        (insgd.Diagonal(), 0.0, (5.0, 10.0)),
        (insgd.Diagonal(), 0.5, (8.75 / 1.5, 13.75 / 1.5)),
    ],
)
def test_one_step_by_hand(structure, eps, divisors):
    params = {"weight": jnp.asarray([[1.0], [1.0]]), "bias": jnp.asarray([0.5])}
    targets = jnp.asarray([[1.5], [8.5]])
    # Predictions 3.5 and 7.5, errors 2 and -1, loss (4 + 1) / 2.
    # d loss / d weight = (1 * 2 - 3 * 1, 2 * 2 - 4 * 1) = (-1, 0); d loss / d bias = 1.
    grad_fn = insgd.value_and_grad(_linear_loss, structure=structure)
    value, grads, input_stats = grad_fn(params, (_ROWS, targets))
    assert value == 2.5
    tx = insgd.insgd(
        0.1, structure=structure, momentum=0.0, weight_decay=0.2, eps=eps, relative=0.0
    )
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    by_hand = [[-0.1 * (-1.0 / divisors[0] + 0.2)], [-0.1 * (0.0 / divisors[1] + 0.2)]]
    np.testing.assert_allclose(updates["weight"], by_hand, rtol=1e-12)
    np.testing.assert_allclose(updates["bias"], [-0.1 * (1.0 + 0.1)], rtol=1e-12)


def _numpy_divisors(powers: Any, decay: float, guard: bool, eps: float) -> list[Any]:
    """The rule, step by step: bias-corrected average, guard, shrinkage to the layer's mean."""
    total, weight, divisors = np.zeros_like(powers[0]), 0.0, []
    for power in powers:
        total = decay * total + (1 - decay) * power
        weight = decay * weight + (1 - decay)
        history = total / weight
        divisor = np.maximum(history, power) if guard else history
        divisors.append((divisor + eps * divisor.mean()) / (1 + eps))
    return divisors


@every_structure
@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_the_divisor_follows_a_ten_line_loop(structure, guard, decay):
    rng = np.random.default_rng(2)
    inputs = rng.standard_t(3, size=(12, 4, 3)) * np.exp(rng.normal(size=(12, 1, 3)))
    powers = np.mean(inputs**2, axis=1)
    if structure == insgd.Scalar():
        powers = powers.mean(axis=1, keepdims=True)
    expected = _numpy_divisors(list(powers), decay, guard, eps=0.05)
    params = {"weight": jnp.ones((3, 2)), "bias": jnp.zeros((2,))}
    tx = insgd.scale_by_input(structure, decay=decay, eps=0.05, guard=guard)
    grad_fn = insgd.value_and_grad(_linear_loss, structure=structure)
    ones, state = jax.tree.map(jnp.ones_like, params), tx.init(params)
    for step, divisor in enumerate(expected):
        batch = jnp.asarray(inputs[step]), jnp.zeros((4, 2))
        _, _, input_stats = grad_fn(params, batch)
        updates, state = tx.update(ones, state, params, input_stats=input_stats)
        full = np.broadcast_to(divisor[:, None], (3, 2))
        np.testing.assert_allclose(1 / updates["weight"], full, rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], ones["bias"])


@every_structure
def test_a_constant_power_is_its_own_history_from_the_first_step(structure):
    params = {"weight": jnp.ones((2, 1)), "bias": jnp.zeros((1,))}
    batch = (_ROWS, jnp.zeros((2, 1)))
    _, grads, input_stats = insgd.value_and_grad(_linear_loss, structure=structure)(params, batch)
    tx = insgd.scale_by_input(structure, decay=0.99)
    state, first = tx.init(params), None
    for _ in range(5):
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        first = updates if first is None else first
        np.testing.assert_allclose(updates["weight"], first["weight"], rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_guard_makes_every_step_non_expansive_and_its_absence_does_not(batch_size):
    # A noise-free linear model, x in R^4 with heavy tails, loss e^2 / 2. `Scalar` divides by the
    # mean square, a quarter of normalized LMS's power ||x||^2, so mu = 4 * learning_rate and the
    # classical bound mu < 2 is learning_rate < 0.5. The batch's largest eigenvalue is at most
    # its trace, 4 times its mean square: with the guard, no step can lengthen the error.
    mu, features = 1.9, 4
    worst = {}
    for guard in (True, False):
        tx = insgd.scale_by_input(insgd.Scalar(), decay=0.99, guard=guard)
        worst[guard] = _worst_growth(tx, mu / features, features, batch_size)
    assert worst[True] <= 1 + 1e-9
    assert worst[False] > 10


def _worst_growth(tx: Any, learning_rate: float, features: int, batch_size: int) -> float:
    """The largest one-step growth of the squared weight error, over 4000 heavy-tailed batches."""
    inputs = np.random.default_rng(3).standard_t(3, size=(4000, batch_size, features))

    def loss_fn(error: Any, batch: Any) -> jax.Array:
        return jnp.mean((batch @ error["weight"]) ** 2) / 2

    grad_fn = insgd.value_and_grad(loss_fn, structure=insgd.Scalar())

    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        error, state = carry
        _, grads, input_stats = grad_fn(error, batch)
        updates, state = tx.update(grads, state, error, input_stats=input_stats)
        moved = error["weight"] - learning_rate * updates["weight"]
        growth = jnp.sum(moved**2)
        # The growth does not depend on the error's length: keep it one.
        return ({"weight": moved / jnp.sqrt(growth)}, state), growth

    start = {"weight": jnp.full((features, 1), features**-0.5)}
    _, growth = jax.lax.scan(step, (start, tx.init(start)), jnp.asarray(inputs))
    return float(jnp.max(growth))


@every_structure
def test_decay_zero_with_one_example_is_normalized_lms(structure):
    # With eps = 0 and mu = 1 normalized LMS leaves no error on the example it has just seen.
    x = jnp.asarray([[1.0, -2.0, 0.5]])
    target = jnp.asarray([[3.0]])
    params = {"weight": jnp.asarray([[0.3], [0.1], [-0.2]])}

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        return jnp.sum((batch[0] @ params["weight"] - batch[1]) ** 2) / 2

    # `Scalar` divides by ||x||^2 / 3. `Diagonal` divides by x_i^2, so that each of the three
    # features removes the whole error: both take a learning rate of a third.
    tx = insgd.insgd(1 / 3, structure=structure, momentum=0.0, decay=0.0, eps=0.0, relative=0.0)
    _, grads, input_stats = insgd.value_and_grad(loss_fn, structure=structure)(params, (x, target))
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
    after = optax.apply_updates(params, updates)
    assert abs(float((x @ after["weight"] - target)[0, 0])) < 1e-12
