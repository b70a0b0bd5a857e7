"""A weight that is used slice by slice is several weights: each slice sees its own inputs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from battery.problems import assert_close
from zoo.case import inputs, mean_square, normal

X, Y = inputs(0, (5, 6), "float64"), 3 * inputs(1, (7, 6), "float64") + 1


class Kind(NamedTuple):
    """A leaf, the slices that it is cut into, and what a loss does with these."""

    shape: tuple[int, ...]
    cut: Callable[[Any], Sequence[Any]]
    apply: Callable[..., Any]


def in_turn(x: Any, weights: Sequence[Any]) -> Any:
    for weight in weights:
        x = jnp.tanh(x @ weight)
    return x


def two_inputs(weights: Sequence[Any], x: Any, y: Any) -> Any:
    return sum(mean_square(jnp.sin(a @ w)) for a, w in zip((x, y, x), weights, strict=False))


def one_input(weights: Sequence[Any], x: Any, y: Any) -> Any:
    return sum(mean_square(jnp.sin(x @ w)) for w in weights)


def parts_of_inputs(weights: Sequence[Any], x: Any, y: Any) -> Any:
    return mean_square(jnp.sin(sum(x[:, 2 * n : 2 * n + 2] @ w for n, w in enumerate(weights))))


def gates(weights: Sequence[Any], x: Any, y: Any) -> Any:
    """A gated cell in a loop: fused input and state weights."""

    def cell(state: Any, row: Any) -> Any:
        gate = jax.nn.sigmoid(row[None] @ weights[0] + state @ weights[1])
        return gate * jnp.tanh(row[None] @ weights[2] + state @ weights[3]), None

    return mean_square(jax.lax.scan(cell, jnp.ones((1, 6)), x)[0])


def stages(weights: Sequence[Any], x: Any, y: Any) -> Any:
    for stack in weights:
        x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]
    return mean_square(x)


def images(x: Any) -> Any:
    wide = jnp.broadcast_to(x[:, :, None], (*x.shape, 6))
    return jnp.stack([wide, 2 * wide.mT], axis=-1)


def convolutions(weights: Sequence[Any], x: Any, y: Any) -> Any:
    axes = ("NHWC", "HWIO", "NHWC")
    results = (
        jax.lax.conv_general_dilated(images(a), w, (1, 1), "SAME", dimension_numbers=axes)
        for a, w in zip((x, y), weights, strict=True)
    )
    return sum(mean_square(jnp.sin(result)) for result in results)


def lookups(weights: Sequence[Any], x: Any, y: Any) -> Any:
    places = (x[:4, 0] > 0).astype(int), (y[:7, 0] > 1).astype(int) * 2
    return sum(mean_square(jnp.sin(w[i])) for w, i in zip(weights, places, strict=True))


def one_twice(weights: Sequence[Any], x: Any, y: Any) -> Any:
    return mean_square(in_turn(x, [weights[0], weights[1], weights[0]]))


def last_unused(weights: Sequence[Any], x: Any, y: Any) -> Any:
    return two_inputs(weights[:2], x, y)


def columns(*ends: int) -> Callable[[Any], Sequence[Any]]:
    return lambda w: [w[:, a:b] for a, b in zip((0, *ends), ends, strict=False)]


def strided(w: Any) -> Sequence[Any]:
    return [jax.lax.slice_in_dim(w, n, None, 2, axis=1) for n in range(2)]


KINDS = {
    "columns": Kind((6, 8), columns(4, 8), two_inputs),
    "columns of one input": Kind((6, 12), columns(4, 8, 12), one_input),
    "columns of several widths": Kind((6, 9), columns(4, 9), two_inputs),
    "columns of several widths of one input": Kind((6, 12), columns(7, 9, 12), one_input),
    "split": Kind((6, 9), lambda w: jnp.split(w, 3, axis=1), two_inputs),
    "split unevenly": Kind((6, 9), lambda w: jnp.split(w, [4, 6], axis=1), two_inputs),
    "every second column": Kind((6, 8), strided, two_inputs),
    "transposed": Kind((8, 6), lambda w: [w.T[:, :4], w[4:].T], two_inputs),
    "reshaped": Kind((6, 9), lambda w: list(w.reshape(6, 3, 3).swapaxes(0, 1)), two_inputs),
    "in remat": Kind((6, 8), columns(2, 8), jax.checkpoint(two_inputs)),
    "a stack": Kind(
        (3, 6, 6), lambda w: [w[0], w[1], w[-1]], lambda w, x, y: mean_square(in_turn(x, w))
    ),
    "a stack, iterated over": Kind((2, 6, 4), lambda w: [*w], two_inputs),
    "a stack on its last axis": Kind((6, 4, 2), lambda w: [w[..., 0], w[..., 1]], two_inputs),
    "a stack of stacks": Kind((2, 3, 6, 4), lambda w: [w[0, 1], w[1, 2]], two_inputs),
    "a stack that is also cut": Kind(
        (2, 6, 6), lambda w: [w[0, :, :2], w[0, :, 2:], w[1, :, :4]], two_inputs
    ),
    "rows of one size": Kind((6, 4), lambda w: jnp.split(w, 3), parts_of_inputs),
    "gates": Kind((12, 12), lambda w: [w[:6, :6], w[6:, :6], w[:6, 6:], w[6:, 6:]], gates),
    "loops over slices": Kind((6, 6, 6), lambda w: [w[:3], w[3:]], stages),
    "kernels": Kind((3, 3, 2, 5), lambda w: [w[..., :2], w[..., 2:]], convolutions),
    "tables": Kind((5, 6), columns(4, 6), lookups),
    "one used twice": Kind((3, 6, 6), lambda w: [w[0], w[1]], one_twice),
    "one not used": Kind((6, 12), columns(4, 8, 12), last_unused),
}


def both(kind: Kind, structure: Any) -> tuple[Any, Any]:
    """Gradients and statistics of the network with one leaf, and of the one with several."""
    whole = normal(2, kind.shape, "float64", size=0.5)

    def of_one(params: Any, x: Any, y: Any) -> Any:
        return kind.apply(kind.cut(params["w"]), x, y)

    def of_several(params: Any, x: Any, y: Any) -> Any:
        return kind.apply(params["w"], x, y)

    def gradient(loss: Any, w: Any) -> Any:
        grad_fn = insgd.value_and_grad(loss, structure=structure)
        found = jax.jit(grad_fn)({"w": w}, X, Y)[1:]
        assert_close(found[0], jax.grad(loss)({"w": w}, X, Y), rtol=1e-12)
        return found

    return gradient(of_one, whole), gradient(of_several, list(kind.cut(whole)))


def is_seen(kind: Kind, number: int) -> bool:
    return kind.apply is not last_unused or number < 2


@pytest.mark.parametrize("structure", [insgd.Scalar(), insgd.Diagonal()], ids=["scalar", "diag"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_has_the_statistics_of_a_leaf_of_its_own(kind: str, structure: Any):
    (_, one), (_, several) = both(KINDS[kind], structure)
    slices = KINDS[kind].cut(one["w"].per_weight())
    assert one["w"].layout.exact
    for number, found in enumerate(slices):
        if several.get(f"w/{number}") is None:
            assert not jnp.any(found)
        else:
            np.testing.assert_allclose(found, several[f"w/{number}"].per_weight(), rtol=1e-10)


EVERY = {
    "mean and variances": insgd.MeanVariances(),
    "mean and variance": insgd.MeanVariance(),
    "whole": insgd.Full(rows=None),
}


@pytest.mark.parametrize("structure", EVERY)
@pytest.mark.parametrize("kind", ["columns of several widths", "a stack", "rows of one size"])
def test_the_groups_of_a_slice_have_the_sums_of_a_leaf_of_its_own(kind: str, structure: str):
    (_, one), (_, several) = both(KINDS[kind], EVERY[structure])
    moments: Any = one["w"]
    numbers = jnp.arange(float(moments.layout.groups))[:, None, None]
    group_of = moments.layout.merge(jnp.broadcast_to(numbers, moments.layout.matrices))
    for number, groups in enumerate(KINDS[kind].cut(group_of)):
        own: Any = several[f"w/{number}"]
        for group in np.unique(groups).astype(int):
            np.testing.assert_allclose(moments.sums[group], own.sums[0], rtol=1e-10)
            np.testing.assert_allclose(moments.count[group], own.count[0], rtol=1e-10)


@pytest.mark.parametrize("gates", [2, 3, 8])
@pytest.mark.parametrize("lies", [False, True], ids=["stands", "lies"])
def test_the_optimizer_has_room_for_gates_that_meet_two_inputs(gates: int, lies: bool):
    w = normal(2, (6 * gates, 6) if lies else (6, 6 * gates), "float64")

    def loss(params: Any, x: Any, y: Any) -> Any:
        whole = params["w"].T if lies else params["w"]
        return two_inputs([whole[:, :-6], whole[:, -6:]], x, y)

    _, grads, input_stats = insgd.value_and_grad(loss)({"w": w}, X, Y)
    told = insgd.explain(loss, {"w": w}, X, Y).layouts
    steps = []
    for layouts in (None, told):
        tx = insgd.insgd(layouts=layouts)
        steps.append(tx.update(grads, tx.init({"w": w}), {"w": w}, input_stats=input_stats)[0])
    assert_close(*steps, rtol=1e-12)
