"""Matrix products written by hand: which axis is the input, whatever the order of the axes."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, inputs, integers, mean_square, normal


@case()
def dense(dtype: DTypeLike) -> Case:
    def loss(params, x):
        return mean_square(jnp.tanh(x @ params["w"] + params["b"][None]))

    params = {"w": normal(0, (5, 3), dtype), "b": normal(1, (3,), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype),), lambda p, x: {"w": ref.dense(x, (5, 3))})


@case()
def mlp_with_penalties(dtype: DTypeLike) -> Case:
    """Products of a weight with itself or with a constant are no layer."""

    def loss(params, x):
        first, second = params["layers"]
        y = jnp.tanh(x @ first) @ second
        decay = jnp.sum(first**2) + jnp.sum((first.T @ first) ** 2)
        return mean_square(y) + 0.01 * decay + jnp.sum(jnp.ones((1, 7), dtype) @ second)

    def expected(params, x):
        hidden = jnp.tanh(x @ params["layers"][0])
        return {"layers/0": ref.dense(x, (5, 7)), "layers/1": ref.dense(hidden, (7, 3))}

    params = {"layers": [normal(0, (5, 7), dtype), normal(1, (7, 3), dtype)]}
    return Case(loss, params, (inputs(2, (6, 5), dtype),), expected)


@case()
def rank_one_weight(dtype: DTypeLike) -> Case:
    def loss(params, x):
        return mean_square(x @ params["w"])

    params = {"w": normal(0, (5,), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype),), lambda p, x: {"w": ref.dense(x, (5,))})


@case()
def weight_on_the_left(dtype: DTypeLike) -> Case:
    """`w @ x.T` and, example by example under vmap, `w @ x`."""

    def loss(params, x):
        hidden = jnp.tanh(params["first"] @ x.T).T
        return mean_square(jax.vmap(lambda h: params["second"] @ h)(hidden))

    def expected(params, x):
        hidden = jnp.tanh(x @ params["first"].T)
        return {
            "first": ref.contraction("bi,oi->bo", x, (7, 5)),
            "second": ref.contraction("bi,oi->bo", hidden, (3, 7)),
        }

    params = {"first": normal(0, (7, 5), dtype), "second": normal(1, (3, 7), dtype)}
    return Case(loss, params, (inputs(2, (6, 5), dtype),), expected)


EINSUMS = {
    "plain": ("bi,io->bo", (6, 5), (5, 3)),
    "transposed": ("bi,oi->ob", (6, 5), (3, 5)),
    "many_rows": ("bti,io->bto", (6, 4, 5), (5, 3)),
    "two_outputs": ("bti,hik->bhtk", (6, 4, 5), (2, 5, 3)),
    "two_inputs": ("bthk,hko->bto", (6, 4, 2, 5), (2, 5, 3)),
    "two_inputs_turned": ("bthk,koh->bto", (6, 4, 2, 5), (5, 3, 2)),
    "one_weight_per_head": ("bthk,hko->btho", (6, 4, 2, 5), (2, 5, 3)),
    "head_axis_last": ("bthk,okh->btho", (6, 4, 2, 5), (3, 5, 2)),
    "two_head_axes": ("bghi,giho->bgho", (6, 2, 3, 5), (2, 5, 3, 4)),
    "diagonal_gain": ("bhi,hi->bh", (6, 3, 5), (3, 5)),
}


@case()
def einsums(dtype: DTypeLike) -> Case:
    """Every order of rows, inputs, outputs and batch axes that models are written in."""
    data = {name: inputs(i, EINSUMS[name][1], dtype) for i, name in enumerate(EINSUMS)}
    params = {name: normal(50 + i, EINSUMS[name][2], dtype) for i, name in enumerate(EINSUMS)}

    def loss(params, data):
        outputs = (jnp.einsum(EINSUMS[name][0], data[name], params[name]) for name in EINSUMS)
        return sum((mean_square(y) for y in outputs), jnp.zeros((), dtype))

    def expected(params, data):
        return {
            name: ref.contraction(spec, data[name], weight_shape)
            for name, (spec, _, weight_shape) in EINSUMS.items()
        }

    return Case(loss, params, (data,), expected)


@case()
def reshaped_weight(dtype: DTypeLike) -> Case:
    """A matrix stored as (heads, inputs, features), one stored flat, one turned while reshaped."""

    def hidden_of(params, x):
        hidden = jnp.tanh(x @ jnp.moveaxis(params["heads"], 0, 1).reshape(5, 6))
        return hidden, jnp.tanh(hidden @ params["flat"].reshape(6, 3))

    def loss(params, x):
        turned = jax.lax.reshape(params["turned"], (3, 4), dimensions=(1, 0, 2))
        return mean_square(hidden_of(params, x)[1] @ turned)

    def expected(params, x):
        hidden, last = hidden_of(params, x)
        flat = ref.dense(hidden, (6, 3))
        return {
            "heads": ref.contraction("bi,hik->bhk", x, (2, 5, 3)),
            "flat": ref.rearranged(flat, flat.mean_square.reshape(18)),
            "turned": ref.contraction("bi,hik->bhk", last, (2, 3, 2)),
        }

    shapes = {"heads": (2, 5, 3), "flat": (18,), "turned": (2, 3, 2)}
    params = {name: normal(i, shape, dtype) for i, (name, shape) in enumerate(shapes.items())}
    return Case(loss, params, (inputs(3, (6, 5), dtype),), expected)


@case()
def attention(dtype: DTypeLike) -> Case:
    """Multi-head causal self-attention with 2 heads of 3 features, on width 4."""

    def heads_of(params, x):
        query, key, value = (jnp.einsum("btd,dhk->bthk", x, params[n]) for n in "qkv")
        scores = jnp.einsum("bqhk,bshk->bhqs", query, key) * 3**-0.5
        causal = jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]), bool))
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e9), axis=-1)
        return jnp.einsum("bhqs,bshk->bqhk", weights, value)

    def loss(params, x):
        return mean_square(jnp.einsum("bthk,hkd->btd", heads_of(params, x), params["o"]))

    def expected(params, x):
        projection = ref.contraction("btd,dhk->bthk", x, (4, 2, 3))
        out = ref.contraction("bthk,hkd->btd", heads_of(params, x), (2, 3, 4))
        return {"q": projection, "k": projection, "v": projection, "o": out}

    params = {n: normal(i, (4, 2, 3), dtype) for i, n in enumerate("qkv")}
    params["o"] = normal(3, (2, 3, 4), dtype)
    return Case(loss, params, (inputs(4, (4, 5, 4), dtype),), expected)


@case(dtypes=("float32",))
def ragged_precision(dtype: DTypeLike) -> Case:
    """float32 parameters; two layers in bfloat16, the second with float32 results, and one in it.

    All numbers are small integers: a compiler may keep bfloat16 results in float32 between two
    operations, and here that changes nothing. Their squares need more bits than bfloat16 has.
    """
    low = jnp.bfloat16

    def first(params, x):
        return jax.nn.relu(x.astype(low) @ params["first"].astype(low))

    def second(params, hidden):
        weight = params["second"].astype(low)
        return jnp.dot(hidden, weight, preferred_element_type=jnp.float32)

    def loss(params, x):
        hidden = second(params, first(params, x))
        return mean_square(hidden @ params["third"])

    def expected(params, x):
        seen = x.astype(low), first(params, x), second(params, first(params, x))
        return {
            name: ref.dense(value.astype(jnp.float32), params[name].shape)
            for name, value in zip(("first", "second", "third"), seen, strict=True)
        }

    shapes = {"first": (5, 7), "second": (7, 4), "third": (4, 3)}
    params = {
        name: (integers(i, shape, 5) - 2).astype(dtype)
        for i, (name, shape) in enumerate(shapes.items())
    }
    return Case(loss, params, ((integers(3, (6, 5), 9) - 4).astype(dtype),), expected)
