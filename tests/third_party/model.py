"""What a third-party model is, the register they sign up in, and its parts by framework."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flax import nnx

from zoo.case import mean_square


@dataclass(frozen=True)
class Model:
    """A loss of a model that others wrote, at a tiny size.

    Attributes:
      loss: ``loss(params, *batch)``.
      params: what is trained.
      batch: the data.
      biases: the biases that are read as tables are, and why.
      unseen: why no weight's numbers stand in a product as they are, if so.
    """

    loss: Callable[..., jax.Array]
    params: Any
    batch: tuple[Any, ...]
    biases: dict[str, str] = field(default_factory=dict)
    unseen: str = ""


MODELS: dict[str, tuple[str, Callable[[], Model]]] = {}


def model(package: str) -> Callable[[Callable[[], Model]], Callable[[], Model]]:
    """Registers a function that builds a model of a package, under the function's name."""

    def register(build: Callable[[], Model]) -> Callable[[], Model]:
        MODELS[build.__name__] = (package, build)  # type: ignore[attr-defined]
        return build

    return register


def why_missing(package: str) -> str:
    """The error of a package that does not import here, or nothing."""
    try:
        importlib.import_module(package)
    except Exception as error:  # a package of others may fail in any way
        return f"{package} does not import: {type(error).__name__}: {error}"
    return ""


def of_haiku(forward: Callable[..., Any], *batch: Any, **settings: Any) -> Model:
    """A Haiku function; its state, where it has one, is what it was at the start."""
    transformed = hk.transform_with_state(forward)
    params, state = transformed.init(jax.random.key(0), *batch)

    def loss(params: Any, *batch: Any) -> jax.Array:
        return size_of(transformed.apply(params, state, jax.random.key(1), *batch)[0])

    return Model(loss, distinct(params), batch, **settings)


def of_linen(module: Any, *batch: Any, **settings: Any) -> Model:
    """A Linen module; its batch statistics are made anew and dropped."""
    variables = module.init(jax.random.key(0), *batch)
    params = variables["params"]
    rest = {name: each for name, each in variables.items() if name != "params"}

    def loss(params: Any, *batch: Any) -> jax.Array:
        everything = {"params": params, **rest}
        if not rest:
            return size_of(module.apply(everything, *batch))
        return size_of(module.apply(everything, *batch, mutable=[*rest])[0])

    return Model(loss, distinct(params), batch, **settings)


def of_nnx(module: nnx.Module, *batch: Any, **settings: Any) -> Model:
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def loss(params: Any, *batch: Any) -> jax.Array:
        return size_of(nnx.merge(graph, params, rest)(*batch))

    return Model(loss, distinct(params), batch, **settings)


def of_equinox(
    module: Any, *batch: Any, apply: Callable[..., Any] | None = None, **settings: Any
) -> Model:
    """An Equinox module, applied to one example after the other or by `apply(module, *batch)`."""
    params, static = eqx.partition(module, eqx.is_inexact_array)

    def loss(params: Any, *batch: Any) -> jax.Array:
        whole = eqx.combine(params, static)
        return size_of(apply(whole, *batch) if apply else jax.vmap(whole)(*batch))

    return Model(loss, distinct(params), batch, **settings)


def of_keras(net: Any, batch: jax.Array, **settings: Any) -> Model:
    """A Keras network; its running averages are made anew and dropped."""
    params = [variable.value for variable in net.trainable_variables]
    rest = [variable.value for variable in net.non_trainable_variables]

    def loss(params: Any, batch: Any) -> jax.Array:
        return size_of(net.stateless_call(params, rest, batch, training=True)[0])

    return Model(loss, distinct(params), (batch,), **settings)


def distinct(params: Any) -> Any:
    """Parameters of normal numbers, all different, so that `recorded` can tell them apart."""
    leaves, treedef = jax.tree.flatten(params)
    total = sum(leaf.size for leaf in leaves)
    ranks = np.random.default_rng(0).permutation(total)
    numbers = 0.5 * scipy.special.ndtri((ranks + 0.3) / total)  # none of them 0
    parts = np.split(numbers, np.cumsum([leaf.size for leaf in leaves])[:-1])
    filled = [
        jnp.asarray(part.reshape(leaf.shape), leaf.dtype)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, filled)


def size_of(results: Any) -> jax.Array:
    """The mean square of all that a model returns."""
    parts = [
        mean_square(jnp.abs(leaf) if jnp.iscomplexobj(leaf) else leaf)
        for leaf in jax.tree.leaves(results)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
    return sum(parts[1:], parts[0])
