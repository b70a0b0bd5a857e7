"""insgd.linen.TrainState is Flax's, with extra arguments; its loop is the loop by hand."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.training import train_state

import insgd_optax as insgd
from battery.problems import assert_close

pytestmark = pytest.mark.framework
DTYPE = {"param_dtype": jnp.float64, "dtype": jnp.float64}


class Net(nn.Module):
    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = True) -> jax.Array:
        hidden = nn.Dense(8, **DTYPE)(inputs)
        hidden = nn.BatchNorm(not train, momentum=0.5, **DTYPE)(hidden)
        hidden = nn.Dropout(0.3, deterministic=not train)(nn.relu(hidden))
        return nn.Dense(4, **DTYPE)(hidden)


class State(insgd.linen.TrainState):
    batch_stats: Any
    key: jax.Array


def batch() -> tuple[jax.Array, jax.Array]:
    inputs = 2 + jax.random.normal(jax.random.key(1), (16, 4))
    return inputs, jnp.sin(inputs)


def loss_fn(
    params: Any, batch_stats: Any, key: jax.Array, inputs: jax.Array, targets: jax.Array
) -> tuple[jax.Array, Any]:
    variables = {"params": params, "batch_stats": batch_stats}
    options = {"rngs": {"dropout": key}, "mutable": ["batch_stats"]}
    predictions, updates = Net().apply(variables, inputs, **options)
    return jnp.mean((predictions - targets) ** 2), updates["batch_stats"]


grad_fn = insgd.value_and_grad(loss_fn, has_aux=True, batch_argnums=(3, 4))


def _state(tx: Any, kind: type = State) -> Any:
    variables = Net().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, batch()[0])
    return kind.create(apply_fn=Net().apply, tx=tx, key=jax.random.key(2), **variables)


@jax.jit
def _step(state: State, inputs: jax.Array, targets: jax.Array) -> State:
    key = jax.random.fold_in(state.key, state.step)
    result = grad_fn(state.params, state.batch_stats, key, inputs, targets)
    (_, batch_stats), grads, input_stats = result
    return state.apply_gradients(grads=grads, input_stats=input_stats, batch_stats=batch_stats)


def test_a_loop_of_twenty_steps_equals_the_loop_by_hand():
    tx = insgd.insgd()
    state = _state(tx)
    params, batch_stats, opt_state = state.params, state.batch_stats, state.opt_state

    @jax.jit
    def step(params, batch_stats, opt_state, number):
        key = jax.random.fold_in(jax.random.key(2), number)
        (_, batch_stats), grads, input_stats = grad_fn(params, batch_stats, key, *batch())
        updates, opt_state = tx.update(grads, opt_state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    for number in range(20):
        state = _step(state, *batch())
        params, batch_stats, opt_state = step(params, batch_stats, opt_state, number)
    assert int(state.step) == 20
    actual = state.params, state.batch_stats, state.opt_state
    assert_close(actual, (params, batch_stats, opt_state), rtol=1e-10)
    assert state.tx is tx
    assert jnp.abs(batch_stats["BatchNorm_0"]["mean"]).min() > 0


def test_with_an_optimizer_that_takes_no_extra_argument_it_is_the_train_state_of_flax():
    class Plain(train_state.TrainState):
        batch_stats: Any
        key: jax.Array

    ours, theirs = _state(optax.adam(1e-3)), _state(optax.adam(1e-3), Plain)
    (_, batch_stats), grads, input_stats = grad_fn(
        ours.params, ours.batch_stats, ours.key, *batch()
    )
    for _ in range(2):
        ours = ours.apply_gradients(grads=grads, input_stats=input_stats, batch_stats=batch_stats)
        theirs = theirs.apply_gradients(grads=grads, batch_stats=batch_stats)
    assert ours.step == theirs.step == 2
    actual, expected = ((s.params, s.opt_state, s.batch_stats) for s in (ours, theirs))
    assert_close(actual, expected, rtol=0.0)


def test_a_field_is_replaced_and_every_other_argument_is_handed_on():
    received = {}

    def update(grads, state, params=None, **extra_args):
        received.update(extra_args)
        return grads, state

    state = _state(optax.GradientTransformationExtraArgs(lambda params: (), update))
    grads = jax.tree.map(jnp.zeros_like, state.params)
    other = optax.sgd(0.1)
    after = state.apply_gradients(grads=grads, key=jax.random.key(7), groups=3, value=1.0, tx=other)
    assert received == {"groups": 3, "value": 1.0}
    assert jnp.array_equal(jax.random.key_data(after.key), jax.random.key_data(jax.random.key(7)))
    assert after.tx is other


def test_without_statistics_it_is_the_error_of_the_optimizer():
    state = _state(insgd.insgd())
    with pytest.raises(ValueError, match="input_stats"):
        state.apply_gradients(grads=state.params)
