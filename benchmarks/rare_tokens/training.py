"""Trains a small language model on one text, with any optimizer and learning rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from benchmarks.rare_tokens.process import CONTEXT, TOKENS, text
from benchmarks.shared.contender import Contender
from benchmarks.shared.step import Carry, train_step

STEPS, BATCH = 2000, 128
EMBEDDED, HIDDEN = 32, 128
EVALUATED_AT_ONCE = 1000


class Program(NamedTuple):
    """The program of an optimizer, compiled once.

    Attributes:
      train: maps parameters, a learning rate and batches of windows to trained parameters.
      state_size: the number of values in the optimizer's state.
    """

    train: Callable[[Any, float, Any], Any]
    state_size: int


def program(contender: Contender) -> Program:
    """Builds the program. Every learning rate falls along half a cosine."""
    shape = optax.cosine_decay_schedule(1.0, STEPS)

    @jax.jit
    def train(
        params: optax.Params, rate: Array, batches: Int[Array, "steps batch window"]
    ) -> optax.Params:
        def schedule(count: Any) -> Array:
            return rate * jnp.asarray(shape(count))

        def step(carry: Carry, windows: Array) -> tuple[Carry, Array]:
            last, batch = windows[:, -1], (windows[:, :-1], windows[:, -1])
            return train_step(mean_loss, contender, schedule, carry, batch, groups=last)

        first = Carry(params, contender.optimizer(schedule).init(params), {})
        return jax.lax.scan(step, first, batches)[0].params

    state = jax.eval_shape(contender.optimizer(0.0).init, start(0))
    return Program(train, sum(leaf.size for leaf in jax.tree.leaves(state)))


def trained(program: Program, rate: float, seed: int) -> optax.Params:
    """The model after all steps. The seed draws its weights and its text."""
    batches = text(seed, BATCH, STEPS).reshape(STEPS, BATCH, -1)
    return program.train(start(seed), rate, batches)


def start(seed: int) -> optax.Params:
    keys = jax.random.split(jax.random.key(seed), 3)
    inputs = CONTEXT * EMBEDDED
    return {
        "embedding": jax.random.normal(keys[0], (TOKENS, EMBEDDED)),
        "hidden": _dense(keys[1], inputs, HIDDEN, 2 / inputs),
        "head": _dense(keys[2], HIDDEN, TOKENS, 1 / HIDDEN),
    }


def _dense(key: Array, inputs: int, outputs: int, variance: float) -> dict[str, Array]:
    kernel = variance**0.5 * jax.random.normal(key, (inputs, outputs))
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def losses(
    params: Any, contexts: Int[Array, "rows context"], last: Int[Array, "rows"]
) -> Float[Array, "rows"]:
    """Plain cross-entropy of the token after each context."""
    inputs = params["embedding"][contexts].reshape(len(contexts), -1)
    hidden = jax.nn.relu(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, last)


def mean_loss(
    params: optax.Params, statistics: Any, contexts: Array, last: Array
) -> tuple[Float[Array, ""], Any]:
    return losses(params, contexts, last).mean(), statistics


_compiled_losses = jax.jit(losses)


def evaluated(
    params: optax.Params, windows: Int[np.ndarray, "rows window"]
) -> Float[np.ndarray, "rows"]:
    """The loss on every token of a text."""
    starts = range(0, len(windows), EVALUATED_AT_ONCE)
    parts = [windows[start : start + EVALUATED_AT_ONCE] for start in starts]
    return np.concatenate([_compiled_losses(params, part[:, :-1], part[:, -1]) for part in parts])
