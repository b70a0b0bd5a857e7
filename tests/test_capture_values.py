"""Capture must not change what it looks at: values, gradients, checkpointing, custom rules."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import jaxpr_as_fun

import insgd_optax as insgd
from zoo.plain_flow import layer_with_a_wrong_tangent, linear_with_a_wrong_gradient
from zoo.runs import built, capturing, each_case


def _operation_by_operation(function, *args):
    """What a function traces to, run without jit: no operation is fused with another one."""
    program, result = jax.make_jaxpr(function, return_shape=True)(*args)
    results = jaxpr_as_fun(program)(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(result), results)


def _inner_programs(equation):
    """The programs that an equation runs: they are compiled as one."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else [value]:
            program = getattr(each, "jaxpr", each)
            if hasattr(program, "eqns"):
                yield program


def _has_layers(program) -> bool:
    names = {equation.primitive.name for equation in program.eqns}
    layers = {"dot_general", "conv_general_dilated", "gather", "ragged_dot", "ragged_dot_general"}
    return bool(names & layers) or _compiles_layers(program)


def _compiles_layers(program) -> bool:
    """Whether a program has layers inside of another program, whose statistics change that."""
    return any(_has_layers(inner) for each in program.eqns for inner in _inner_programs(each))


def _assert_close(actual, desired):
    largest = float(np.max(np.abs(desired)))
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-6 * largest)


def _assert_same(case, actual, expected):
    """To the last bit, and to rounding where a compiled body is another one with statistics in."""
    program = jax.make_jaxpr(case.loss)(case.params, *case.args).jaxpr
    equal = _assert_close if _compiles_layers(program) else np.testing.assert_array_equal
    jax.tree.map(equal, actual, expected)


@each_case("float32")
def test_a_traced_value_and_its_gradients_are_the_same_to_the_last_bit_outside_compiled_bodies(
    name: str, dtype: str
):
    case = built(name, dtype)
    args = case.params, *case.args
    without = _operation_by_operation(jax.value_and_grad(case.loss), *args)
    captured = capturing(case, insgd.Diagonal())
    with_capture = _operation_by_operation(lambda *args: captured(*args)[:2], *args)
    assert jax.tree.structure(with_capture) == jax.tree.structure(without)
    for captured_leaf, leaf in zip(*map(jax.tree.leaves, (with_capture, without)), strict=True):
        assert jnp.result_type(captured_leaf) == jnp.result_type(leaf)
    _assert_same(case, with_capture, without)


@each_case("float32", framework=False)
def test_under_jit_value_and_gradients_agree_to_rounding(name: str, dtype: str):
    case = built(name, dtype)
    without = jax.jit(jax.value_and_grad(case.loss))(case.params, *case.args)
    with_capture = jax.jit(capturing(case, insgd.Diagonal()))(case.params, *case.args)[:2]
    jax.tree.map(_assert_close, with_capture, without)


WITHOUT_JIT = ["linen_spectral_norm", "nnx_cnn", "equinox_lstm", "scan_of_remat", "inner_jit"]


@pytest.mark.framework
@pytest.mark.parametrize("name", WITHOUT_JIT)
def test_without_jit_value_and_gradients_are_the_same_to_the_last_bit_outside_compiled_bodies(
    name: str,
):
    case = built(name, "float32")
    without = jax.value_and_grad(case.loss)(case.params, *case.args)
    with_capture = capturing(case, insgd.Diagonal())(case.params, *case.args)[:2]
    _assert_same(case, with_capture, without)


@pytest.mark.parametrize("of", [jnp.mean, lambda y: jnp.sum(y / 3)], ids=["mean", "division"])
def test_without_jit_a_mean_or_a_division_is_that_of_the_loss_itself(of):
    """JAX compiles each of them as one, which differs in the last bit from what it traces to."""
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)}
    x = jnp.asarray(np.random.default_rng(1).normal(size=(20, 4)), jnp.float32)

    def loss(params, x):
        return of((x @ params["w"]) ** 2)

    with_capture = insgd.value_and_grad(loss)(params, x)[:2]
    jax.tree.map(np.testing.assert_array_equal, with_capture, jax.value_and_grad(loss)(params, x))


POLICIES = {
    "nothing_saveable": jax.checkpoint_policies.nothing_saveable,
    "dots_saveable": jax.checkpoint_policies.dots_saveable,
    "everything_saveable": jax.checkpoint_policies.everything_saveable,
    "save_only_these_names": jax.checkpoint_policies.save_only_these_names("product of layer 0"),
}


def _work(transform, policy: str) -> tuple[int, int]:
    """Activations and matrix products in a gradient of three checkpointed layers."""

    def loss(params, x):
        for number, weight in enumerate(params):
            x = jnp.sin(checkpoint_name(x @ weight, f"product of layer {number}"))
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


def test_a_custom_vjp_rule_stays_wrong_where_it_is_wrong():
    x, weight = jnp.ones((2, 3)), jnp.full((3, 1), 0.5)

    def loss(params, x):
        return jnp.sum(linear_with_a_wrong_gradient(x, params["w"]))

    grad_fn = insgd.value_and_grad(loss, structure=insgd.Diagonal())
    _, grads, stats = jax.jit(grad_fn)({"w": weight}, x)
    np.testing.assert_array_equal(grads["w"], np.full((3, 1), -7.0 * 2))
    np.testing.assert_array_equal(stats["w"].sums, [[2.0, 2.0, 2.0]])


def test_a_custom_jvp_rule_stays_wrong_where_it_is_wrong():
    x, weight = jnp.ones((2, 3)), jnp.full((3, 1), 0.5)

    def loss(params, x):
        return jnp.sum(layer_with_a_wrong_tangent(x, params["w"]))

    grad_fn = insgd.value_and_grad(loss, structure=insgd.Diagonal())
    _, grads, stats = jax.jit(grad_fn)({"w": weight}, x)
    np.testing.assert_array_equal(grads["w"], np.full((3, 1), -1.0 * 2))
    np.testing.assert_array_equal(stats["w"].sums, [[2.0, 2.0, 2.0]])
