"""insgd.nnx.value_and_grad does what nnx.value_and_grad does, and its loop is that by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import insgd_optax as insgd
from battery.problems import assert_close

from .nnx_models import Adapted, Block, Changing, batch, every_model, loss_fn

pytestmark = pytest.mark.framework
both_ways = pytest.mark.parametrize("compiled", [nnx.jit, lambda f: f], ids=["jit", "eager"])


def assert_same_model(actual: Any, expected: Any) -> None:
    """The same graph, attributes included, and the same numbers in it."""
    assert nnx.graphdef(actual) == nnx.graphdef(expected)
    keys = nnx.filterlib.OfType(nnx.RngKey)
    assert_close(nnx.state(actual, nnx.Not(keys)), nnx.state(expected, nnx.Not(keys)), rtol=1e-12)


@both_ways
@every_model
def test_loss_gradients_and_the_changed_model_are_those_of_nnx(make_model, compiled):
    ours, theirs = make_model(nnx.Rngs(0)), make_model(nnx.Rngs(0))
    for _ in range(2):
        loss, grads, _ = compiled(insgd.nnx.value_and_grad(loss_fn))(ours, *batch())
        expected, expected_grads = compiled(nnx.value_and_grad(loss_fn))(theirs, *batch())
        assert_close((loss, grads), (expected, expected_grads), rtol=1e-12)
        assert jax.tree.structure(grads) == jax.tree.structure(expected_grads)
        assert_same_model(ours, theirs)


def test_what_the_loss_changes_has_changed_in_the_model():
    model = Changing(nnx.Rngs(0))
    insgd.nnx.value_and_grad(loss_fn)(model, *batch())
    assert jnp.abs(model.norm.mean[...]).min() > 0
    assert int(model.dropout.rngs.count[...]) == int(model.calls[...]) == 1
    assert model.traced
    assert model.seen[...].shape == ()


def _trained(model: Any, wrt: Any, steps: int = 20) -> Any:
    """The model after a loop as in the documentation."""
    optimizer = nnx.Optimizer(model, insgd.insgd(), wrt=wrt)
    grad_fn = insgd.nnx.value_and_grad(loss_fn, argnums=nnx.DiffState(0, wrt))

    @nnx.jit
    def step(model, optimizer, inputs, targets):
        _, grads, input_stats = grad_fn(model, inputs, targets)
        optimizer.update(model, grads, input_stats=input_stats)

    for _ in range(steps):
        step(model, optimizer, *batch())
    return model


def _by_hand(model: Any, wrt: Any, steps: int = 20) -> Any:
    """The same loop with everything split: nothing but JAX and Optax."""
    tx = insgd.insgd()
    graph, params, rest = nnx.split(model, wrt, ...)

    def pure_loss(params, rest, inputs, targets):
        model = nnx.merge(graph, params, rest, copy=True)
        loss = loss_fn(model, inputs, targets)
        return loss, nnx.split(model, wrt, nnx.Not(nnx.Intermediate), ...)[2]

    grad_fn = insgd.value_and_grad(pure_loss, has_aux=True, batch_argnums=(2, 3))

    @jax.jit
    def step(params, rest, state, inputs, targets):
        (_, rest), grads, input_stats = grad_fn(params, rest, inputs, targets)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), rest, state

    state = tx.init(params)
    for _ in range(steps):
        params, rest, state = step(params, rest, state, *batch())
    return nnx.merge_state(params, rest)


@every_model
def test_a_loop_of_twenty_steps_equals_the_loop_by_hand(make_model):
    model = _trained(make_model(nnx.Rngs(0)), nnx.Param)
    plain = make_model(nnx.Rngs(0))
    expected = _by_hand(plain, nnx.Param)
    kinds = nnx.Any(nnx.Param, nnx.BatchStat, nnx.RngCount)
    actual = nnx.state(model, kinds)
    assert_close(actual, nnx.filter_state(expected, kinds), rtol=1e-10)
    assert not jnp.allclose(jax.tree.leaves(actual)[0], jax.tree.leaves(nnx.state(plain))[0])


@every_model
def test_the_statistics_have_the_paths_that_the_optimizer_updates(make_model):
    model = make_model(nnx.Rngs(0))
    _, _, input_stats = insgd.nnx.value_and_grad(loss_fn)(model, *batch())
    paths = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert set(input_stats) == paths
    assert any(moments is not None for moments in input_stats.values())


def test_a_filter_trains_the_adapter_alone():
    model, start = _trained(Adapted(nnx.Rngs(0)), nnx.LoRAParam), Adapted(nnx.Rngs(0))
    expected = _by_hand(start, nnx.LoRAParam)
    assert_close(nnx.state(model), expected, rtol=1e-10)
    wrt = nnx.DiffState(0, nnx.LoRAParam)
    _, _, input_stats = insgd.nnx.value_and_grad(loss_fn, argnums=wrt)(model, *batch())
    assert set(input_stats) == {"layer/lora_a", "layer/lora_b"}
    kept, moved = model.layer.base_module.kernel[...], model.layer.lora_a[...]
    assert_close(kept, start.layer.base_module.kernel[...], rtol=0.0)
    assert not jnp.allclose(moved, start.layer.lora_a[...])


def test_metrics_among_the_arguments_are_updated_and_are_no_data():
    model, metrics = Block(nnx.Rngs(0)), nnx.metrics.Average()

    def with_metrics(model, metrics, inputs, targets):
        loss = loss_fn(model, inputs, targets)
        metrics.update(values=loss)
        return loss

    grad_fn = nnx.jit(insgd.nnx.value_and_grad(with_metrics))
    losses = [grad_fn(model, metrics, *batch())[0] for _ in range(3)]
    assert_close(metrics.compute(), sum(losses) / 3)
    assert int(metrics.count[...]) == 3


def test_two_models_aux_and_names_are_taken_as_nnx_takes_them():
    def both(scale, first, second, inputs, targets):
        predictions = second(first(scale * inputs))
        return jnp.mean((predictions - targets) ** 2), predictions

    inputs, targets = batch()
    results = []
    for transform in (nnx.value_and_grad, insgd.nnx.value_and_grad):
        first, second = Block(nnx.Rngs(0)), Changing(nnx.Rngs(1))
        grad_fn = transform(both, argnums=(2, 1), has_aux=True)
        result = grad_fn(jnp.ones(()), first, second, inputs, targets=targets)
        results.append((*result[:2], nnx.state(second, nnx.BatchStat)))
    assert_close(*results, rtol=1e-12)
    assert {"0/hidden/kernel", "1/linear/kernel"} < set(result[2])


def test_a_model_passed_by_name_is_the_model_and_a_batch_may_have_a_name_alone():
    def named(model, *, inputs, targets):
        return loss_fn(model, inputs, targets)

    inputs, targets = batch()
    grad_fn = insgd.nnx.value_and_grad(named)
    actual = grad_fn(targets=targets, inputs=inputs, model=Block(nnx.Rngs(0)))
    expected = insgd.nnx.value_and_grad(loss_fn)(Block(nnx.Rngs(0)), inputs, targets)
    assert_close(actual, expected, rtol=1e-12)


def test_a_batch_in_variables_is_data_if_batch_argnums_says_so():
    model = Block(nnx.Rngs(0))
    inputs, targets = (nnx.Variable(part) for part in batch())

    def boxed(model, inputs, targets):
        return loss_fn(model, inputs[...], targets[...])

    with pytest.raises(ValueError, match="batch_argnums"):
        insgd.nnx.value_and_grad(boxed)(model, inputs, targets)
    grad_fn = insgd.nnx.value_and_grad(boxed, batch_argnums=(1, 2))
    _, _, input_stats = grad_fn(model, inputs, targets)
    _, _, expected = insgd.nnx.value_and_grad(loss_fn)(Block(nnx.Rngs(0)), *batch())
    assert_close(input_stats, expected)


def test_an_argument_that_is_named_twice_is_an_error():
    with pytest.raises(ValueError, match="twice"):
        insgd.nnx.value_and_grad(loss_fn, argnums=(0, nnx.DiffState(0, nnx.LoRAParam)))


def test_a_loss_that_returns_a_pair_without_has_aux_is_an_error_that_says_so():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    grad_fn = insgd.nnx.value_and_grad(lambda model, x: (model(x).sum(), model(x)))
    with pytest.raises(TypeError, match="has_aux=True"):
        grad_fn(model, jnp.ones((4, 3)))


def test_the_state_of_a_module_is_checked_as_that_of_its_optimizer():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, insgd.insgd(), wrt=nnx.Param)
    insgd.check_state(nnx.state(optimizer), nnx.state(model, nnx.Param))
    other = nnx.state(nnx.Linear(3, 2, use_bias=False, rngs=nnx.Rngs(0)), nnx.Param)
    with pytest.raises(ValueError, match="made for other parameters"):
        insgd.check_state(nnx.state(optimizer), other)
