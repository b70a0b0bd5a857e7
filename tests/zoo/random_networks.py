"""Random networks: layers of many kinds, wrapped in what JAX has, some of them used twice."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from zoo.case import mean_square

FEATURES, POSITIONS, TOKENS = 4, 3, 5
Apply = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A layer from ``(batch, positions, features)`` to the same, and the shape of its weight."""

    shape: tuple[int, ...]
    apply: Apply


def _convolved(x: Any, w: Any, dilation: int, groups: int) -> Any:
    return jax.lax.conv_general_dilated(
        x, w, (1,), "SAME", (1,), (dilation,), ("NWC", "WIO", "NWC"), groups
    )


def _over_positions(x: Any, w: Any) -> Any:
    """A recurrent layer: its weight sees its own results."""

    def step(state: Any, x: Any) -> tuple[Any, Any]:
        state = jnp.tanh(x + state @ w)
        return state, state

    _, states = jax.lax.scan(step, x[:, 0], jnp.moveaxis(x, 1, 0))
    return jnp.moveaxis(states, 0, 1)


def _layer_by_layer(x: Any, w: Any) -> Any:
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


def _heads(x: Any, w: Any) -> Any:
    return jnp.einsum("btd,dhk->bhtk", x, w).swapaxes(1, 2).reshape(x.shape)


def _halves(x: Any, w: Any) -> Any:
    first, second = w[:, :2], w[:, 2:]
    return jnp.concatenate([x @ first, jnp.cos(x) @ second], -1)


def _member_by_member(x: Any, w: Any) -> Any:
    """An ensemble, one member for each position."""
    return jax.vmap(jnp.matmul, in_axes=(1, 0), out_axes=1)(x, w)


KINDS: dict[str, Kind] = {
    "dense": Kind((FEATURES, FEATURES), jnp.matmul),
    "transposed": Kind((FEATURES, FEATURES), lambda x, w: jnp.einsum("bti,oi->bto", x, w)),
    "reshaped": Kind((2, 2, FEATURES), lambda x, w: x @ w.reshape(FEATURES, FEATURES)),
    "heads": Kind((FEATURES, 2, 2), _heads),
    "halves": Kind((FEATURES, FEATURES), _halves),
    "convolution": Kind((3, FEATURES, FEATURES), lambda x, w: _convolved(x, w, 1, 1)),
    "dilated": Kind((2, FEATURES, FEATURES), lambda x, w: _convolved(x, w, 2, 1)),
    "depthwise": Kind((3, 1, FEATURES), lambda x, w: _convolved(x, w, 1, FEATURES)),
    "mixed positions": Kind((POSITIONS, POSITIONS), lambda x, w: jnp.einsum("btd,ts->bsd", x, w)),
    "recurrent": Kind((FEATURES, FEATURES), _over_positions),
    "stacked": Kind((2, FEATURES, FEATURES), _layer_by_layer),
    "ensemble": Kind((POSITIONS, FEATURES, FEATURES), _member_by_member),
}


def _with_own_rule(apply: Apply) -> Apply:
    @jax.custom_vjp
    def run(x: Any, w: Any) -> Any:
        return apply(x, w)

    run.defvjp(lambda x, w: (apply(x, w), (x, w)), lambda kept, g: jax.vjp(apply, *kept)[1](g))
    return run


def _one_by_one(apply: Apply) -> Apply:
    return lambda x, w: jax.vmap(lambda x: apply(x[None], w)[0])(x)


def _chosen(apply: Apply) -> Apply:
    def run(x: Any, w: Any) -> Any:
        return jax.lax.cond(jnp.sum(x) < jnp.inf, apply, lambda x, w: x, x, w)

    return run


def _looped(apply: Apply) -> Apply:
    def run(x: Any, w: Any) -> Any:
        return jax.lax.scan(lambda x, _: (apply(x, w), None), x, None, length=2)[0]

    return run


WRAPPERS: dict[str, Callable[[Apply], Apply]] = {
    "bare": lambda apply: apply,
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "cond": _chosen,
    "vmap": _one_by_one,
    "scan": _looped,
    "own rule": _with_own_rule,
}


class Placed(NamedTuple):
    """A layer of a network.

    Attributes:
      kind: what it is.
      wrappers: what it is wrapped in, the innermost first.
      again: whether it uses the latest weight of its kind again, if there is one.
    """

    kind: str
    wrappers: tuple[str, ...]
    again: bool


@dataclasses.dataclass(frozen=True)
class Network:
    """A random network.

    Attributes:
      layers: its layers.
      looked_up: whether it starts at tokens, in a table.
      affine: whether every layer has a bias and a gain.
      batch: the number of examples.
      dtype: of the parameters.
      half: whether it computes in bfloat16.
      seed: of the numbers.
    """

    layers: tuple[Placed, ...]
    looked_up: bool
    affine: bool
    batch: int
    dtype: str
    half: bool
    seed: int

    def params(self) -> dict[str, Any]:
        shapes = {"table": (TOKENS, FEATURES)} if self.looked_up else {}
        shapes |= {name: KINDS[layer.kind].shape for name, layer in self._uses()}
        if self.affine:
            shapes |= {f"bias{n}": (FEATURES,) for n in range(len(self.layers))}
            shapes |= {f"gain{n}": (FEATURES,) for n in range(len(self.layers))}
        numbers = iter(_distinct(self.seed, sum(map(np.prod, shapes.values()))))
        return {
            name: jnp.asarray(
                np.reshape([next(numbers) for _ in range(np.prod(shape))], shape), self.dtype
            )
            for name, shape in shapes.items()
        }

    def inputs(self) -> Any:
        generator = np.random.default_rng(self.seed)
        if self.looked_up:
            return jnp.asarray(generator.integers(0, TOKENS, (self.batch, POSITIONS)))
        x = generator.normal(size=(self.batch, POSITIONS, FEATURES))
        return jnp.asarray(x * np.linspace(0.5, 2.0, FEATURES), self.dtype)

    def loss(self, params: Any, x: Any) -> Any:
        params = jax.tree.map(lambda leaf: leaf.astype(self._computed), params)
        # The sine makes them other numbers than the table's own.
        x = jnp.sin(params["table"][x]) if self.looked_up else x.astype(self._computed)
        for place, (name, layer) in enumerate(self._uses()):
            apply = KINDS[layer.kind].apply
            for wrapper in layer.wrappers:
                apply = WRAPPERS[wrapper](apply)
            x = apply(x, params[name])
            if self.affine:
                gain, bias = (params[f"{word}{place}"][None, None] for word in ("gain", "bias"))
                x = gain * x + bias
            x = jnp.tanh(x)
        return mean_square(x.astype(self.dtype))

    @property
    def _computed(self) -> str:
        return "bfloat16" if self.half else self.dtype

    def mixed(self) -> set[str]:
        """The weights that may keep one number: used twice, or selected for every example."""
        names = [name for name, _ in self._uses()]
        selected = [n for n, layer in self._uses() if {"cond", "vmap"} <= set(layer.wrappers)]
        return {name for name in names if names.count(name) > 1} | set(selected)

    def may_lose_convolutions(self) -> bool:
        """Whether JAX may drop convolutions of it: those under vmap, where there are no rows."""
        convolutions = {"convolution", "dilated", "depthwise"}
        one_by_one = [layer.kind for layer in self.layers if "vmap" in layer.wrappers]
        return self.batch == 0 and not convolutions.isdisjoint(one_by_one)

    def _uses(self) -> list[tuple[str, Placed]]:
        """For every layer the name of its weight."""
        latest, uses = {}, []
        for place, layer in enumerate(self.layers):
            if not layer.again or layer.kind not in latest:
                latest[layer.kind] = f"w{place}"
            uses.append((latest[layer.kind], layer))
        return uses


@functools.cache
def _told_apart() -> np.ndarray:
    """Numbers that bfloat16 tells apart too, from 1/32 to 1 in size."""
    sizes = np.outer(2.0 ** -np.arange(1, 6), 1 + np.arange(128) / 128).ravel()
    return np.concatenate([sizes, -sizes])


def _distinct(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(_told_apart())[:number]


layers = st.builds(
    Placed,
    st.sampled_from(sorted(KINDS)),
    st.lists(st.sampled_from(sorted(WRAPPERS)), min_size=1, max_size=2).map(tuple),
    st.booleans(),
)
networks = st.builds(
    Network,
    layers=st.lists(layers, min_size=1, max_size=4).map(tuple),
    looked_up=st.booleans(),
    affine=st.booleans(),
    batch=st.sampled_from([0, 1, 7]),
    dtype=st.sampled_from(["float32", "float64"]),
    half=st.booleans(),
    seed=st.integers(0, 99),
)
