"""What an entry of the zoo is, and the register they sign up in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from reference import Power


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its data, and what each of its weights sees.

    `expected(params, *args)` has an entry for every leaf that is a layer's weight, for no other.
    """

    loss: Callable[..., jax.Array]
    params: Any
    args: tuple[Any, ...]
    expected: Callable[..., Mapping[str, Power]]
    batch_argnums: tuple[int, ...] | None = None
    batch_axis: int = 0  # where each data argument keeps its examples


class Entry(NamedTuple):
    name: str
    build: Callable[[DTypeLike], Case]
    framework: bool  # written with a framework, which need not stand strict promotion
    dtypes: tuple[str, ...]


CASES: dict[str, Entry] = {}


def case(
    framework: bool = False, dtypes: tuple[str, ...] = ("float32", "float64")
) -> Callable[[Callable[[DTypeLike], Case]], Callable[[DTypeLike], Case]]:
    """Registers a function of a dtype that builds a `Case`, under the function's name."""

    def register(build: Callable[[DTypeLike], Case]) -> Callable[[DTypeLike], Case]:
        name: str = build.__name__  # type: ignore[attr-defined]
        if name in CASES:
            raise ValueError(f"two zoo cases are called {name!r}")
        CASES[name] = Entry(name, build, framework, dtypes)
        return build

    return register


def normal(seed: int, shape: tuple[int, ...], dtype: DTypeLike, size: float = 1.0) -> jax.Array:
    """Fixed normal numbers, the same in every precision."""
    return jnp.asarray(size * np.random.default_rng(seed).normal(size=shape), dtype)


def inputs(seed: int, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Data whose features differ in size, so that a mixed-up axis cannot go unnoticed."""
    sizes = np.linspace(0.5, 2.0, shape[-1])
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * sizes, dtype)


def integers(seed: int, shape: tuple[int, ...], stop: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(stop, size=shape))


def filled(model: Any) -> Any:
    """A model with fixed numbers, from its shapes: frameworks' own initializers are slow."""
    leaves, treedef = jax.tree.flatten(model)
    numbers = [
        normal(seed, leaf.shape, leaf.dtype, size=0.5) if hasattr(leaf, "shape") else leaf
        for seed, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, numbers)


def mean_square(y: jax.Array) -> jax.Array:
    """The loss of every case that needs no other, up to a factor that rounds nothing.

    Not `jnp.mean`: without jit JAX compiles its sum and its division as one program, whose last
    bit is not that of the two operations.
    """
    return jnp.sum(y * y) / 64
