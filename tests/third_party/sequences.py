"""Recurrent nets, transformers, state spaces and experts."""

import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from third_party.model import (
    Model,
    distinct,
    model,
    of_equinox,
    of_haiku,
    of_keras,
    of_nnx,
    size_of,
)
from zoo.case import inputs, integers

TOKENS = integers(0, (4, 6), 11)
SERIES = inputs(1, (4, 6, 5), "float32")


@model("haiku")
def haiku_deep_rnn() -> Model:
    def forward(x: jax.Array) -> jax.Array:
        core = hk.DeepRNN([hk.LSTM(6), jax.nn.relu, hk.GRU(5)])
        states = core.initial_state(len(x))
        return hk.dynamic_unroll(core, x, states, time_major=False)[0]

    return of_haiku(forward, SERIES)


@model("haiku")
def haiku_transformer() -> Model:
    def forward(tokens: jax.Array) -> jax.Array:
        x = hk.Embed(11, 8)(tokens)
        attention = hk.MultiHeadAttention(
            2, 4, w_init=hk.initializers.VarianceScaling(), model_size=8
        )
        x = x + attention(x, x, x)
        return hk.Linear(11)(hk.LayerNorm(-1, True, True)(x))

    return of_haiku(forward, TOKENS)


@model("penzai")
def penzai_llama() -> Model:
    from penzai import pz
    from penzai.models.transformer.variants import llamalike_common as llama

    config = llama.LlamalikeTransformerConfig(
        num_kv_heads=1, query_head_multiplier=2, embedding_dim=8, projection_dim=4,
        mlp_hidden_dim=12, num_decoder_blocks=2, vocab_size=11, mlp_variant="swiglu",
        tie_embedder_and_logits=False,
    )  # fmt: skip
    net = llama.build_llamalike_transformer(config, jax.random.key(0))
    unbound, variables = pz.unbind_params(net, freeze=True)

    def loss(params, tokens):
        whole = pz.bind_variables(unbound, params)
        named = pz.nx.wrap(tokens).tag("batch", "seq")
        return size_of(whole(named, token_positions=pz.nx.arange("seq", tokens.shape[1])))

    return Model(loss, distinct(variables), (TOKENS,))


@model("spyx.ssm")
def spyx_mamba() -> Model:
    from spyx.ssm import MambaBlock

    net = MambaBlock(6, d_state=3, d_conv=3, rngs=nnx.Rngs(0))
    return of_nnx(net, inputs(1, (7, 4, 6), "float32"))


@model("spyx.ssm")
def spyx_linear_recurrent_unit() -> Model:
    from spyx.ssm import LRU

    return of_nnx(LRU(5, 6, rngs=nnx.Rngs(0)), jnp.swapaxes(SERIES, 0, 1), unseen="complex")


@model("foundax")
def foundax_mixture_of_experts() -> Model:
    from foundax.architectures.gnot import GNOT

    net = GNOT(
        trunk_size=3, branch_sizes=[2], n_layers=1, n_hidden=8, n_experts=3, n_inner=2,
        key=jax.random.key(0),
    )  # fmt: skip

    def apply(net, points, values):
        return net(points, [values])

    batch = inputs(0, (4, 6, 3), "float32"), inputs(1, (4, 7, 2), "float32")
    return of_equinox(net, *batch, apply=apply)


@model("keras")
def keras_lstm() -> Model:
    import keras

    net = keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            keras.layers.Embedding(11, 6),
            keras.layers.LayerNormalization(),  # or `recorded` takes `x[t]` for a lookup
            keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True)),
            keras.layers.GRU(4),
            keras.layers.Dense(3),
        ]
    )
    biases = {"11": "the GRU's bias for its input and that for its state are rows of one array"}
    return of_keras(net, jnp.arange(28).reshape(4, 7) % 11, biases=biases)
