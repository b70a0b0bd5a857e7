"""Loops: stacked layers keep a statistic each, and whatever repeats on one weight adds up."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, inputs, mean_square, normal
from zoo.plain_flow import two_layers, two_layers_expected


def _square_stack(dtype: DTypeLike, layers: int = 3) -> dict[str, jax.Array]:
    return {"w": normal(0, (layers, 5, 5), dtype)}


def _stack_expected(params, x):
    """h -> tanh(h @ w) for each w of the stack: each layer keeps its own statistics."""
    powers = []
    for weight in params["w"]:
        powers.append(ref.dense(x, weight.shape))
        x = jnp.tanh(x @ weight)
    return {"w": ref.stacked(powers)}


@case()
def scan_over_layers(dtype: DTypeLike) -> Case:
    def loss(params, x):
        h, _ = lax.scan(lambda h, weight: (jnp.tanh(h @ weight), None), x, params["w"])
        return mean_square(h)

    return Case(loss, _square_stack(dtype), (inputs(1, (6, 5), dtype),), _stack_expected)


@case()
def scan_of_remat(dtype: DTypeLike) -> Case:
    @partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
    def layer(h, weight):
        return jnp.tanh(h @ weight), None

    def loss(params, x):
        return mean_square(lax.scan(layer, x, params["w"])[0])

    return Case(loss, _square_stack(dtype), (inputs(1, (6, 5), dtype),), _stack_expected)


@case()
def scan_backwards(dtype: DTypeLike) -> Case:
    """The last layer of the stack comes first; the rest of the data come out as ys."""

    def loss(params, x):
        def layer(h, weight):
            h = jnp.tanh(h @ weight)
            return h, mean_square(h)

        return lax.scan(layer, x, params["w"], reverse=True, unroll=2)[1].mean()

    def expected(params, x):
        flipped = _stack_expected({"w": params["w"][::-1]}, x)["w"]
        return {"w": ref.rearranged(flipped, flipped.mean_square[::-1])}

    return Case(loss, _square_stack(dtype), (inputs(1, (6, 5), dtype),), expected)


@case()
def nested_scans_of_two_leaves(dtype: DTypeLike) -> Case:
    """2 stages of 3 layers, stacked on the first and the last axis of the leaf."""

    def loss(params, x):
        def layer(h, weight):
            return jnp.tanh(h @ weight), None

        def stage(h, weights):
            return lax.scan(layer, h, weights)

        stages = jnp.moveaxis(params["w"], -1, 1)
        return mean_square(lax.scan(stage, x, stages)[0])

    def expected(params, x):
        weights = jnp.moveaxis(params["w"], -1, 1).reshape(6, 5, 5)
        power = _stack_expected({"w": weights}, x)["w"]
        stages = power.mean_square.reshape(2, 3, 5, 5)
        return {"w": ref.rearranged(power, stages.transpose(0, 2, 3, 1))}

    params = {"w": normal(0, (2, 5, 5, 3), dtype)}
    return Case(loss, params, (inputs(1, (6, 5), dtype),), expected)


@case()
def scan_over_micro_batches(dtype: DTypeLike) -> Case:
    """The weights stay, the data change: rows add."""

    def loss(params, x):
        def micro_batch(total, rows):
            hidden = jnp.tanh(rows @ params["first"])
            return total + mean_square(hidden @ params["second"]), None

        return lax.scan(micro_batch, jnp.zeros((), dtype), x)[0]

    return Case(loss, two_layers(dtype), (inputs(2, (4, 6, 5), dtype),), two_layers_expected)


@case()
def weight_in_the_carry(dtype: DTypeLike) -> Case:
    """A weight that a loop hands on unchanged is used once per turn."""

    def loss(params, x):
        def turn(carry, _):
            weight, h = carry
            return (weight, jnp.tanh(h @ weight)), None

        (_, h), _ = lax.scan(turn, (params["w"], x), None, length=3)
        return mean_square(h)

    def expected(params, x):
        uses = []
        for _ in range(3):
            uses.append(ref.dense(x, (5, 5)))
            x = jnp.tanh(x @ params["w"])
        return {"w": ref.shared(*uses)}

    return Case(loss, {"w": normal(0, (5, 5), dtype)}, (inputs(1, (6, 5), dtype),), expected)


@case()
def stack_indexed_in_a_loop(dtype: DTypeLike) -> Case:
    """`w[i]` in a fori_loop: which layer is being used cannot be seen, so all pool."""

    def loss(params, x):
        return mean_square(lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ params["w"][i]), x))

    def expected(params, x):
        uses = []
        for weight in params["w"]:
            uses.append(ref.dense(x, weight.shape))
            x = jnp.tanh(x @ weight)
        return {"w": ref.pooled((3, 5, 5), *uses)}

    return Case(loss, _square_stack(dtype), (inputs(1, (6, 5), dtype),), expected)


@case()
def recurrent_network(dtype: DTypeLike) -> Case:
    """An Elman network: the weights of the first state see its zeros too."""

    def step(params, h, x):
        return jnp.tanh(x @ params["in"] + h @ params["recurrent"])

    def loss(params, x):
        zeros = jnp.zeros((x.shape[0], 4), dtype)
        turn = lambda h, x_t: (step(params, h, x_t),) * 2  # noqa: E731
        return mean_square(lax.scan(turn, zeros, jnp.swapaxes(x, 0, 1))[1])

    def expected(params, x):
        states = [jnp.zeros((x.shape[0], 4), dtype)]
        for t in range(x.shape[1] - 1):
            states.append(step(params, states[-1], x[:, t]))
        return {"in": ref.dense(x, (5, 4)), "recurrent": ref.dense(jnp.stack(states), (4, 4))}

    params = {"in": normal(0, (5, 4), dtype), "recurrent": normal(1, (4, 4), dtype)}
    return Case(loss, params, (inputs(2, (6, 3, 5), dtype),), expected)


@case()
def stack_scanned_twice(dtype: DTypeLike) -> Case:
    def loss(params, x):
        for _ in range(2):
            x, _ = lax.scan(lambda h, weight: (jnp.tanh(h @ weight), None), x, params["w"])
        return mean_square(x)

    def expected(params, x):
        passes = []
        for _ in range(2):
            passes.append(_stack_expected(params, x)["w"])
            for weight in params["w"]:
                x = jnp.tanh(x @ weight)
        return {"w": ref.shared(*passes)}

    return Case(loss, _square_stack(dtype), (inputs(1, (6, 5), dtype),), expected)


@case()
def micro_batches_through_a_stack(dtype: DTypeLike) -> Case:
    """A scan over data around a scan over layers: the inner one groups, the outer adds."""

    def loss(params, x):
        def micro_batch(total, rows):
            h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), rows, params["w"])
            return total + mean_square(h), None

        return lax.scan(micro_batch, jnp.zeros((), dtype), x)[0]

    return Case(loss, _square_stack(dtype), (inputs(1, (4, 6, 5), dtype),), _stack_expected)


@case()
def stack_of_recurrent_layers(dtype: DTypeLike) -> Case:
    """A scan over layers around a scan over time: now the outer one makes the groups."""

    def run_layer(weight, sequence):
        def step(h, x):
            h = jnp.tanh(x + h @ weight)
            return h, h

        return lax.scan(step, jnp.zeros_like(sequence[0]), sequence)[1]

    def loss(params, x):
        sequence = jnp.swapaxes(x, 0, 1)
        layers = lax.scan(lambda h, w: (run_layer(w, h), None), sequence, params["w"])
        return mean_square(layers[0])

    def expected(params, x):
        sequence, powers = jnp.swapaxes(x, 0, 1), []
        for weight in params["w"]:
            sequence = run_layer(weight, sequence)
            before = jnp.concatenate([jnp.zeros_like(sequence[:1]), sequence[:-1]])
            powers.append(ref.dense(before, (5, 5)))
        return {"w": ref.stacked(powers)}

    return Case(loss, _square_stack(dtype), (inputs(1, (6, 3, 5), dtype),), expected)


@case()
def scan_of_grouped_convolutions(dtype: DTypeLike) -> Case:
    """Groups of two kinds in one leaf: 3 layers of 2."""

    def convolve(x, kernel):
        axes = ("NWC", "WIO", "NWC")
        y = lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=axes, feature_group_count=2
        )
        return jnp.tanh(y)

    def loss(params, x):
        return mean_square(lax.scan(lambda h, k: (convolve(h, k), None), x, params["w"])[0])

    def expected(params, x):
        powers = []
        for kernel in params["w"]:
            powers.append(ref.convolution(x, (3, 2, 4), padding=((1, 1),), groups=2))
            x = convolve(x, kernel)
        return {"w": ref.stacked(powers)}

    params = {"w": normal(0, (3, 3, 2, 4), dtype)}
    return Case(loss, params, (inputs(1, (4, 6, 4), dtype),), expected)
