"""scale_by_class_frequency: every class learns at the rate of the others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd

SHARES = np.array([0.8, 0.15, 0.05])
LABELS = jnp.asarray(np.repeat(np.arange(3), (1000 * SHARES).astype(int)))


def _loss(params: Any) -> jax.Array:
    """The bias-only logistic: every class has its own margin."""
    return jnp.mean(jnp.log1p(jnp.exp(-params["head"]["bias"][LABELS])))


def _class_losses(optimizer: Any, steps: int) -> np.ndarray:
    params = {"head": {"bias": jnp.zeros(3)}}

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(_loss)(params), state, params, groups=LABELS)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.log1p(jnp.exp(-params["head"]["bias"]))

    return np.asarray(jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1])


def test_under_gradient_descent_a_class_s_loss_falls_as_one_over_its_frequency():
    rate, steps = 0.5, 20_000
    sgd = optax.with_extra_args_support(optax.sgd(rate))
    products = _class_losses(sgd, steps)[-1] * SHARES * rate * steps
    np.testing.assert_allclose(products, 1, atol=0.05)


def test_under_the_class_factor_all_classes_have_one_curve():
    optimizer = optax.chain(insgd.scale_by_class_frequency("head/bias"), optax.sgd(0.5))
    losses = _class_losses(optimizer, 2000)
    np.testing.assert_allclose(losses, losses.mean(axis=1, keepdims=True) + 0 * losses, rtol=2e-3)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (2, 3)), (0, (3, 2))])
def test_the_factor_is_the_inverse_frequency_along_the_classes(axis, shape):
    optimizer = insgd.scale_by_class_frequency("head", exponent=0.5, axis=axis)
    grads = {"head": jnp.ones(shape), "body": jnp.ones(shape)}
    updates, state = optimizer.update(grads, optimizer.init(grads), groups=LABELS)
    factor = (3 * np.asarray(insgd.group_history(state).frequency)) ** -0.5
    expected = np.broadcast_to(factor[None] if axis else factor[:, None], shape)
    np.testing.assert_allclose(updates["head"], expected, rtol=1e-6)
    np.testing.assert_array_equal(updates["body"], np.ones(shape))


def test_an_exponent_of_zero_changes_nothing():
    optimizer = insgd.scale_by_class_frequency("head", exponent=0.0)
    grads = {"head": jax.random.normal(jax.random.key(0), (5, 3))}
    updates, _ = optimizer.update(grads, optimizer.init(grads), groups=LABELS)
    np.testing.assert_array_equal(updates["head"], grads["head"])


def test_a_schedule_turns_the_factor_on():
    optimizer = insgd.scale_by_class_frequency("head", exponent=lambda step: step > 1)
    grads = {"head": jnp.ones((1, 3))}
    first, state = optimizer.update(grads, optimizer.init(grads), groups=LABELS)
    second, _ = optimizer.update(grads, state, groups=LABELS)
    np.testing.assert_array_equal(first["head"], np.ones((1, 3)))
    assert float(second["head"].max()) > 5


def test_a_class_that_never_came_has_a_bounded_factor_and_half_precision_stays_half():
    optimizer = insgd.scale_by_class_frequency("head", largest=4.0)
    grads = {"head": jnp.ones((2, 50), jnp.bfloat16)}
    updates, _ = optimizer.update(grads, optimizer.init(grads), groups=LABELS)
    assert updates["head"].dtype == jnp.bfloat16
    assert float(jnp.max(updates["head"])) == 4


def test_under_inject_hyperparams_its_exponent_is_a_hyperparameter():
    make = optax.inject_hyperparams(insgd.scale_by_class_frequency, static_args=("axis",))
    optimizer, plain = (
        f(head=("kernel", "bias"), exponent=0.5) for f in (make, insgd.scale_by_class_frequency)
    )
    grads = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    updates, state = optimizer.update(grads, optimizer.init(grads), groups=LABELS)
    expected, _ = plain.update(grads, plain.init(grads), groups=LABELS)
    assert state.hyperparams["exponent"] == 0.5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("head", "axis", "words"),
    [
        ((), -1, "needs the paths"),
        (("bias", 0.5), -1, r"needs the paths.*0\.5"),
        (("nowhere",), -1, r"No parameter has the path \['nowhere'\]"),
        (("bias",), 1, "no axis 1"),
        (("kernel", "bias"), 0, "differ in their number of classes"),
    ],
)
def test_a_head_that_is_not_there_is_an_error(head, axis, words):
    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    with pytest.raises(ValueError, match=words):
        insgd.scale_by_class_frequency(head, axis=axis).init(params)
