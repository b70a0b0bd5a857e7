"""Capture must not change what it looks at: values, gradients, checkpointing, custom rules."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from zoo.plain_flow import layer_with_a_wrong_tangent, linear_with_a_wrong_gradient
from zoo.runs import built, captured, each_case


@each_case("float32")
def test_without_jit_value_and_gradients_are_the_same_to_the_last_bit(name: str, dtype: str):
    case = built(name, dtype)
    value, grads = jax.value_and_grad(case.loss)(case.params, *case.args)
    value_with, grads_with, _ = captured(name, dtype, insgd.Diagonal(), jit=False)
    np.testing.assert_array_equal(value_with, value)
    assert jax.tree.structure(grads_with) == jax.tree.structure(grads)
    jax.tree.map(np.testing.assert_array_equal, grads_with, grads)
    assert jax.tree.map(jnp.result_type, grads_with) == jax.tree.map(jnp.result_type, grads)


@each_case("float32")
def test_under_jit_value_and_gradients_agree_to_rounding(name: str, dtype: str):
    case = built(name, dtype)
    value, grads = jax.jit(jax.value_and_grad(case.loss))(case.params, *case.args)
    value_with, grads_with, _ = captured(name, dtype, insgd.Diagonal())
    np.testing.assert_allclose(value_with, value, rtol=1e-6)

    def assert_close(with_capture, without):
        largest = float(np.max(np.abs(without)))
        np.testing.assert_allclose(with_capture, without, rtol=0, atol=1e-6 * largest)

    jax.tree.map(assert_close, grads_with, grads)


POLICIES = {
    "nothing_saveable": jax.checkpoint_policies.nothing_saveable,
    "dots_saveable": jax.checkpoint_policies.dots_saveable,
    "everything_saveable": jax.checkpoint_policies.everything_saveable,
}


def _work(transform, policy: str) -> tuple[int, int]:
    """Activations and matrix products in a gradient of three checkpointed layers."""

    def loss(params, x):
        for weight in params:
            x = jnp.sin(x @ weight)
        return jnp.mean(x)

    checkpointed = jax.checkpoint(loss, policy=POLICIES[policy])
    params, x = [jnp.ones((4, 4))] * 3, jnp.ones((2, 4))
    primitives = list(_primitives(jax.make_jaxpr(transform(checkpointed))(params, x).jaxpr))
    return primitives.count("sin"), primitives.count("dot_general")


def _primitives(jaxpr) -> Iterator[str]:
    """The name of every equation, also inside other equations."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                yield from _primitives(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_checkpoint_computes_again_what_its_policy_says_and_no_more(policy: str):
    assert _work(insgd.value_and_grad, policy) == _work(jax.value_and_grad, policy)


def test_the_checkpoint_policies_compared_above_differ_in_their_work():
    assert len({_work(insgd.value_and_grad, policy) for policy in POLICIES}) == len(POLICIES)


def test_a_named_activation_is_the_only_one_that_is_saved():
    """The loss of the zoo's case, whose policy saves one of two activations by name."""
    case = built("checkpoint_with_a_policy", "float32")
    counts = [
        list(_primitives(jax.make_jaxpr(grad)(case.params, *case.args).jaxpr)).count("tanh")
        for grad in (jax.value_and_grad(case.loss), insgd.value_and_grad(case.loss))
    ]
    assert counts == [3, 3]  # two forward, and the one that was not saved once more


def test_a_custom_vjp_rule_stays_wrong_where_it_is_wrong():
    x, weight = jnp.ones((2, 3)), jnp.full((3, 1), 0.5)

    def loss(params, x):
        return jnp.sum(linear_with_a_wrong_gradient(x, params["w"]))

    _, grads, stats = insgd.value_and_grad(loss)({"w": weight}, x)
    np.testing.assert_array_equal(grads["w"], np.full((3, 1), -7.0 * 2))
    np.testing.assert_array_equal(stats["w"].sums, [[2.0, 2.0, 2.0]])


def test_a_custom_jvp_rule_stays_wrong_where_it_is_wrong():
    x, weight = jnp.ones((2, 3)), jnp.full((3, 1), 0.5)

    def loss(params, x):
        return jnp.sum(layer_with_a_wrong_tangent(x, params["w"]))

    _, grads, stats = insgd.value_and_grad(loss)({"w": weight}, x)
    np.testing.assert_array_equal(grads["w"], np.full((3, 1), -1.0 * 2))
    np.testing.assert_array_equal(stats["w"].sums, [[2.0, 2.0, 2.0]])
