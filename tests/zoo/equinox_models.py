"""Equinox: weights on the left, one example at a time under `jax.vmap`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, filled, inputs, integers, mean_square

KEY = jax.random.key(0)


def _case(model, forward, x: jax.Array, expected) -> Case:
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x):
        return mean_square(forward(eqx.combine(params, static), x))

    return Case(loss, params, (x,), expected)


def _made(create: Callable[[], Any]) -> Any:
    """A model with fixed numbers."""
    return filled(eqx.filter_eval_shape(create))


@case(framework=True)
def equinox_mlp(dtype: DTypeLike) -> Case:
    options = {"activation": jnp.tanh, "dtype": dtype, "key": KEY}
    model = _made(lambda: eqx.nn.MLP(5, 3, 7, 1, **options))

    def expected(params, x):
        first = params.layers[0]
        hidden = jnp.tanh(x @ first.weight.T + first.bias)
        return {
            "layers/0/weight": ref.contraction("bi,oi->bo", x, (7, 5)),
            "layers/1/weight": ref.contraction("bi,oi->bo", hidden, (3, 7)),
        }

    return _case(model, lambda m, x: jax.vmap(m)(x), inputs(1, (6, 5), dtype), expected)


@case(framework=True)
def equinox_conv(dtype: DTypeLike) -> Case:
    """Conv2d in groups, then ConvTranspose2d, both with outputs first and channels before space."""
    options = {"stride": (2, 1), "dtype": dtype, "key": KEY}
    model = [
        _made(lambda: eqx.nn.Conv2d(4, 6, (3, 2), padding=(1, 0), groups=2, **options)),
        _made(lambda: eqx.nn.ConvTranspose2d(6, 3, (3, 2), padding=1, **options)),
    ]

    def hidden_of(model, x):
        return jnp.tanh(jax.vmap(model[0])(x))

    def expected(params, x):
        hidden = hidden_of(eqx.combine(params, model), x)
        x, hidden = (np.transpose(value, (0, 2, 3, 1)) for value in (x, hidden))
        grouped = ref.convolution(
            x, (3, 2, 2, 6), strides=(2, 1), padding=((1, 1), (0, 0)), groups=2
        )
        spread = ref.convolution(
            hidden, (3, 2, 6, 3), padding=((1, 1), (0, 0)), lhs_dilation=(2, 1)
        )
        return {
            "0/weight": ref.rearranged(grouped, grouped.mean_square.transpose(3, 2, 0, 1)),
            "1/weight": ref.rearranged(spread, spread.mean_square.transpose(3, 2, 0, 1)),
        }

    def forward(model, x):
        return jax.vmap(model[1])(hidden_of(model, x))

    return _case(model, forward, inputs(1, (4, 4, 6, 5), dtype), expected)


@case(framework=True)
def equinox_embedding(dtype: DTypeLike) -> Case:
    model = _made(lambda: eqx.nn.Embedding(7, 4, dtype=dtype, key=KEY))

    def forward(model, tokens):
        return jax.vmap(jax.vmap(model))(tokens)

    return _case(
        model, forward, integers(1, (4, 5), 7),
        lambda params, tokens: {"weight": ref.embedding(tokens, (7, 4))},
    )  # fmt: skip


@case(framework=True)
def equinox_lstm(dtype: DTypeLike) -> Case:
    """`LSTMCell` holds raw matrices, each with its four gates stacked."""
    model = _made(lambda: eqx.nn.LSTMCell(5, 4, dtype=dtype, key=KEY))

    def run(cell, sequence):
        zeros = jnp.zeros(4, dtype)
        turn = lambda state, x: (cell(x, state), state[0])  # noqa: E731
        (last, _), before = jax.lax.scan(turn, (zeros, zeros), sequence)
        return last, before

    def expected(params, x):
        _, states = jax.vmap(lambda sequence: run(eqx.combine(params, model), sequence))(x)
        return {
            "weight_ih": ref.contraction("bti,oi->bto", x, (16, 5)),
            "weight_hh": ref.contraction("bti,oi->bto", states, (16, 4)),
        }

    def forward(cell, x):
        return jax.vmap(lambda sequence: run(cell, sequence)[0])(x)

    return _case(model, forward, inputs(1, (6, 3, 5), dtype), expected)


@case(framework=True)
def equinox_shared(dtype: DTypeLike) -> Case:
    """`nn.Shared`: a language model whose head is its embedding; the one leaf is pooled."""
    options = {"dtype": dtype, "key": KEY}
    embedding = _made(lambda: eqx.nn.Embedding(7, 4, **options))
    head = _made(lambda: eqx.nn.Linear(4, 7, use_bias=False, **options))
    body = _made(lambda: eqx.nn.Linear(4, 4, **options))
    model = eqx.nn.Shared((embedding, head), lambda m: m[1].weight, lambda m: m[0].weight)

    def forward(model, tokens):
        shared, body = model
        embedding, head = shared()
        hidden = jax.vmap(lambda token: jnp.tanh(body(embedding(token))))
        return jax.vmap(lambda sequence: jax.vmap(head)(hidden(sequence)))(tokens)

    def expected(params, tokens):
        shared, body = params
        table = shared.pytree[0].weight
        hidden = jnp.tanh(table[tokens] @ body.weight.T + body.bias)
        uses = ref.embedding(tokens, (7, 4)), ref.contraction("bti,vi->btv", hidden, (7, 4))
        return {
            "0/pytree/0/weight": ref.pooled((7, 4), *uses, inputs=(7, 4)),
            "1/weight": ref.contraction("bti,oi->bto", table[tokens], (4, 4)),
        }

    return _case((model, body), forward, integers(1, (4, 5), 7), expected)
