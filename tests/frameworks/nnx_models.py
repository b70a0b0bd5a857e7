"""NNX models that change while they run, or that hold their layers in unusual ways."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

DTYPE = {"param_dtype": jnp.float64, "dtype": jnp.float64}


class Changing(nnx.Module):
    """Running averages, dropout, a counter, a variable that is new, and a plain attribute."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs, **DTYPE)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs, **DTYPE)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs, **DTYPE)
        self.calls = nnx.Variable(jnp.array(0))
        self.traced = False

    def __call__(self, inputs: jax.Array) -> jax.Array:
        self.calls[...] += 1
        self.traced = True
        hidden = self.dropout(nnx.relu(self.norm(self.hidden(inputs))))
        self.seen = nnx.Intermediate(hidden.mean())
        return self.head(hidden)


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs, **DTYPE)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs + jnp.tanh(self.dropout(self.linear(inputs)))


@nnx.split_rngs(splits=3)
@nnx.vmap
def three_blocks(rngs: nnx.Rngs) -> Block:
    return Block(rngs)


class Rematerialized(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first, self.second = Block(rngs), Block(rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        run = nnx.remat(lambda block, inputs: block(inputs))
        return run(self.second, run(self.first, inputs))


class Stacked(nnx.Module):
    """Three blocks as one, under a scan."""

    def __init__(self, rngs: nnx.Rngs):
        self.blocks = three_blocks(rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        run = lambda inputs, block: block(inputs)  # noqa: E731
        return nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(inputs, self.blocks)


class Ensemble(nnx.Module):
    """Three blocks side by side on the same batch."""

    def __init__(self, rngs: nnx.Rngs):
        self.blocks = three_blocks(rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        run = lambda block, inputs: block(inputs)  # noqa: E731
        return nnx.vmap(run, in_axes=(0, None))(self.blocks, inputs).mean(axis=0)


class Shared(nnx.Module):
    """One layer under two names."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(4, 4, rngs=rngs, **DTYPE)
        self.second = self.first

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.second(jnp.tanh(self.first(inputs)))


class Adapted(nnx.Module):
    """A layer with a low-rank adapter."""

    def __init__(self, rngs: nnx.Rngs):
        base = nnx.Linear(4, 4, rngs=rngs, **DTYPE)
        start = nnx.initializers.normal()
        self.layer = nnx.LoRA(4, 2, 4, base_module=base, b_initializer=start, rngs=rngs, **DTYPE)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return jnp.tanh(self.layer(inputs))


MODELS: list[Callable[[nnx.Rngs], Any]] = [
    Changing, Rematerialized, Stacked, Ensemble, Shared, Adapted
]  # fmt: skip
every_model = pytest.mark.parametrize("make_model", MODELS, ids=lambda model: model.__name__)


def batch() -> tuple[jax.Array, jax.Array]:
    inputs = 2 + jax.random.normal(jax.random.key(1), (16, 4))
    return inputs, jnp.sin(inputs)


def loss_fn(model: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((model(inputs) - targets) ** 2)
