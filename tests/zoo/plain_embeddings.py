"""Lookups of tables: one-hot inputs, whose mean square is how often a token occurs."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

import reference as ref
from zoo.case import Case, case, integers, mean_square, normal


@case()
def embedding_by_index(dtype: DTypeLike) -> Case:
    """Some tokens occur often, some never; -1 is the last row of the table."""

    def loss(params, tokens):
        return mean_square(jnp.tanh(params["table"][tokens]) @ params["w"])

    def expected(params, tokens):
        embedded = jnp.tanh(params["table"][tokens])
        return {"table": ref.embedding(tokens % 7, (7, 4)), "w": ref.dense(embedded, (4, 3))}

    params = {"table": normal(0, (7, 4), dtype), "w": normal(1, (4, 3), dtype)}
    tokens = integers(2, (4, 5), 5).at[0, 0].set(-1)
    return Case(loss, params, (tokens,), expected)


@case()
def embedding_by_take(dtype: DTypeLike) -> Case:
    """Along axis 0, and along axis 1 of a table that is stored the other way round."""

    def loss(params, tokens):
        first = jnp.take(params["rows"], tokens, axis=0)
        second = jnp.take(params["columns"], tokens, axis=1)
        return mean_square(first) + mean_square(second)

    def expected(params, tokens):
        columns = ref.embedding(tokens, (7, 4))
        return {
            "rows": ref.embedding(tokens, (7, 4)),
            "columns": ref.rearranged(columns, columns.mean_square.T),
        }

    params = {"rows": normal(0, (7, 4), dtype), "columns": normal(1, (4, 7), dtype)}
    return Case(loss, params, (integers(2, (4, 5), 7),), expected)


@case()
def tied_embedding(dtype: DTypeLike) -> Case:
    """One table looks tokens up and gives the logits: its rows are of two kinds, so one number."""

    def hidden_of(params, tokens):
        return jnp.tanh(params["table"][tokens] @ params["w"])

    def loss(params, tokens):
        logits = hidden_of(params, tokens) @ params["table"].T
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 0])

    def expected(params, tokens):
        hidden = hidden_of(params, tokens)
        uses = ref.embedding(tokens, (7, 4)), ref.contraction("bti,vi->btv", hidden, (7, 4))
        return {
            "table": ref.pooled((7, 4), *uses, inputs=(7, 4)),
            "w": ref.dense(params["table"][tokens], (4, 4)),
        }

    params = {"table": normal(0, (7, 4), dtype), "w": normal(1, (4, 4), dtype)}
    return Case(loss, params, (integers(2, (4, 5), 7),), expected)


@case()
def embedding_ensemble(dtype: DTypeLike) -> Case:
    """`jax.vmap` over tables, each with tokens of its own."""

    def loss(params, tokens):
        return mean_square(jax.vmap(lambda table, t: table[t], (0, 1))(params["tables"], tokens))

    def expected(params, tokens):
        return {"tables": ref.stacked([ref.embedding(t, (7, 4)) for t in tokens.T])}

    params = {"tables": normal(0, (3, 7, 4), dtype)}
    return Case(loss, params, (integers(1, (8, 3), 7),), expected)


@case()
def scan_of_embeddings(dtype: DTypeLike) -> Case:
    """One table per channel of the tokens."""

    def loss(params, tokens):
        look_up = lambda total, each: (total + each[0][each[1]], None)  # noqa: E731
        zeros = jnp.zeros((tokens.shape[0], 4), dtype)
        return mean_square(lax.scan(look_up, zeros, (params["tables"], tokens.T))[0])

    def expected(params, tokens):
        return {"tables": ref.stacked([ref.embedding(t, (7, 4)) for t in tokens.T])}

    params = {"tables": normal(0, (3, 7, 4), dtype)}
    return Case(loss, params, (integers(1, (8, 3), 7),), expected)
