"""The default trains every usual architecture, untuned, at least as well as the best SGD."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd

from . import sequences, vision
from .case import Case, last_loss

pytestmark = pytest.mark.framework
CASES = {
    each.__name__: each
    for each in (
        vision.resnet,
        vision.mobilenet,
        vision.vit,
        sequences.lstm,
        sequences.gru,
        sequences.causal_transformer,
        sequences.mixture_of_experts,
        sequences.adapters,
    )
}


def _with_insgd(case: Case) -> jax.Array:
    tx = insgd.insgd()
    grad_fn = insgd.value_and_grad(case.loss_fn, has_aux=True, batch_argnums=2, strict=True)

    def step(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, state, opt_state = carry
        (loss, state), grads, input_stats = grad_fn(params, state, batch)
        updates, opt_state = tx.update(grads, opt_state, params, input_stats=input_stats)
        return (optax.apply_updates(params, updates), state, opt_state), loss

    return last_loss(step, (case.params, case.state, tx.init(case.params)), case)


def _with_sgd(case: Case, rate: jax.Array) -> jax.Array:
    grad_fn = jax.value_and_grad(case.loss_fn, has_aux=True)

    def step(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, state = carry
        (loss, state), grads = grad_fn(params, state, batch)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        return (params, state), loss

    return last_loss(step, (case.params, case.state), case)


# Convolutions that are not optimized at all take twenty times as long.
_compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})


@pytest.mark.parametrize("name", CASES)
def test_a_hundred_steps_reach_at_least_the_loss_of_the_best_sgd(name: str) -> None:
    case = CASES[name]()
    rates = jnp.array([0.01, 0.03, 0.1], jnp.float32)
    ours = _compiled(lambda: _with_insgd(case))()
    sgd = _compiled(lambda: jax.lax.map(lambda rate: _with_sgd(case, rate), rates))()
    assert float(ours) <= float(jnp.min(sgd))
