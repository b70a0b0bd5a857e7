"""Prints how many Python functions a trace of a network calls: ours, and JAX's own.

A process of its own, without the type checks of the tests, which are calls too.
"""

import cProfile
import pstats
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import insgd_optax as insgd


def blocks(number: int) -> tuple[Callable[[Any, Any], Any], Any, Any]:
    """A network whose blocks are equal but for their names."""

    def loss_fn(params: Any, x: Any) -> Any:
        for n, (gain, up, down) in enumerate(params):
            with jax.named_scope(f"block_{n}"):
                normed = x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
                normed = normed * gain[None]
                hidden = jax.nn.gelu(normed @ up)
                x = x + hidden @ down
        return jnp.mean(jnp.square(x))

    params = [(jnp.ones(4), jnp.ones((4, 8)), jnp.ones((8, 4))) for _ in range(number)]
    return loss_fn, params, jnp.ones((3, 4))


def calls(value_and_grad: Callable[..., Any]) -> int:
    """How many it takes the second time."""

    def trace() -> None:
        loss_fn, params, x = blocks(8)
        jax.jit(value_and_grad(loss_fn)).trace(params, x)

    trace()
    profile = cProfile.Profile()
    profile.runcall(trace)
    return pstats.Stats(profile).total_calls  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    print(calls(insgd.value_and_grad), calls(jax.value_and_grad))
