"""Control flow, transformations and custom rules around a layer."""

from functools import partial

import jax
import jax.numpy as jnp
import reference as ref
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from zoo.case import Case, case, inputs, mean_square, normal


def _square_stack(dtype: DTypeLike, layers: int = 3) -> dict[str, jax.Array]:
    return {"w": normal(0, (layers, 5, 5), dtype)}


def _stack_expected(params, x):
    """h -> tanh(h @ w) for each w of the stack: each layer keeps its own statistics."""
    powers = []
    for weight in params["w"]:
        powers.append(ref.dense(x, weight.shape))
        x = jnp.tanh(x @ weight)
    return {"w": ref.stacked(powers)}


def _two_layers(dtype: DTypeLike) -> dict[str, jax.Array]:
    return {"first": normal(0, (5, 5), dtype), "second": normal(1, (5, 3), dtype)}


def _two_layers_expected(params, x):
    hidden = jnp.tanh(x @ params["first"])
    return {"first": ref.dense(x, (5, 5)), "second": ref.dense(hidden, (5, 3))}


@case()
def inner_jit(dtype: DTypeLike) -> Case:
    @jax.jit
    def layer(x, weight):
        return jnp.tanh(x @ weight)

    def loss(params, x):
        return mean_square(layer(layer(x, params["first"]), params["second"]))

    return Case(loss, _two_layers(dtype), (inputs(2, (6, 5), dtype),), _two_layers_expected)


@case()
def whole_loss_jit(dtype: DTypeLike) -> Case:
    @jax.jit
    def loss(params, x):
        return mean_square(jnp.tanh(x @ params["first"]) @ params["second"])

    return Case(loss, _two_layers(dtype), (inputs(2, (6, 5), dtype),), _two_layers_expected)


def _sometimes(dtype: DTypeLike, taken: bool) -> Case:
    def loss(params, x, flag):
        hidden = jnp.tanh(x @ params["first"])
        hidden = lax.cond(flag, lambda h: jnp.tanh(h @ params["sometimes"]), lambda h: h, hidden)
        return mean_square(hidden @ params["second"])

    def expected(params, x, flag):
        hidden = jnp.tanh(x @ params["first"])
        sometimes = ref.dense(hidden, (5, 5)) if taken else ref.unseen((5, 5))
        last = jnp.tanh(hidden @ params["sometimes"]) if taken else hidden
        return {
            "first": ref.dense(x, (5, 5)),
            "sometimes": sometimes,
            "second": ref.dense(last, (5, 3)),
        }

    params = _two_layers(dtype) | {"sometimes": normal(3, (5, 5), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype), jnp.asarray(taken)), expected)


@case()
def cond_taken(dtype: DTypeLike) -> Case:
    return _sometimes(dtype, True)


@case()
def cond_not_taken(dtype: DTypeLike) -> Case:
    return _sometimes(dtype, False)


@case()
def switch(dtype: DTypeLike) -> Case:
    """Three experts; one is shared by two branches and the last branch has none."""

    def loss(params, x, index):
        branches = [
            lambda h: h @ params["a"],
            lambda h: jnp.tanh(h @ params["b"]) @ params["a"],
            lambda h: h,
        ]
        return mean_square(lax.switch(index, branches, x))

    def expected(params, x, index):
        hidden = jnp.tanh(x @ params["b"])
        return {"a": ref.dense(hidden, (5, 5)), "b": ref.dense(x, (5, 5))}

    params = {"a": normal(0, (5, 5), dtype), "b": normal(1, (5, 5), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype), jnp.asarray(1)), expected)


@jax.custom_vjp
def linear_with_a_wrong_gradient(x: jax.Array, weight: jax.Array) -> jax.Array:
    return x @ weight


linear_with_a_wrong_gradient.defvjp(
    lambda x, weight: (x @ weight, (x, weight)),
    lambda saved, g: (3.0 * g @ saved[1].T, -7.0 * saved[0].T @ g),
)


@case()
def custom_vjp(dtype: DTypeLike) -> Case:
    """The rule is wrong on purpose: it must be the one that is used."""

    def loss(params, x):
        hidden = jnp.tanh(linear_with_a_wrong_gradient(x, params["first"]))
        return mean_square(linear_with_a_wrong_gradient(hidden, params["second"]))

    return Case(loss, _two_layers(dtype), (inputs(2, (6, 5), dtype),), _two_layers_expected)


@jax.custom_jvp
def layer_with_a_wrong_tangent(x: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.tanh(x @ weight)


@layer_with_a_wrong_tangent.defjvp
def _wrong_tangent(primals, tangents):
    (x, weight), (dx, dweight) = primals, tangents
    return layer_with_a_wrong_tangent(x, weight), 2.0 * (dx @ weight) - x @ dweight


@case()
def custom_jvp(dtype: DTypeLike) -> Case:
    def loss(params, x):
        return mean_square(layer_with_a_wrong_tangent(x, params["first"]) @ params["second"])

    return Case(loss, _two_layers(dtype), (inputs(2, (6, 5), dtype),), _two_layers_expected)


@case()
def checkpoint_with_a_policy(dtype: DTypeLike) -> Case:
    policy = jax.checkpoint_policies.save_only_these_names("hidden")

    @partial(jax.checkpoint, policy=policy)
    def forward(params, x):
        hidden = checkpoint_name(jnp.tanh(x @ params["first"]), "hidden")
        return jnp.tanh(hidden @ params["second"])

    def loss(params, x):
        return mean_square(forward(params, x))

    return Case(loss, _two_layers(dtype), (inputs(2, (6, 5), dtype),), _two_layers_expected)


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

    return Case(loss, _two_layers(dtype), (inputs(2, (4, 6, 5), dtype),), _two_layers_expected)


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
        return mean_square(
            lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ params["w"][i]), x)
        )

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
