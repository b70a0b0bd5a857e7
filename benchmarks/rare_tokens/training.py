"""Training: a small language model on one text, with any optimizer and learning rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from benchmarks.gradient import gradient_of
from benchmarks.rare_tokens.contenders import Contender
from benchmarks.rare_tokens.process import CONTEXT, TOKENS, text

STEPS, BATCH = 2000, 128
EMBEDDED, HIDDEN = 32, 128
EVALUATED_AT_ONCE = 1000


class Program(NamedTuple):
    """What is compiled once for an optimizer.

    Attributes:
      train: from parameters, a learning rate and batches of windows to trained parameters.
      state_size: the numbers that the optimizer carries.
    """

    train: Callable[[Any, float, Any], Any]
    state_size: int


def program(contender: Contender) -> Program:
    """The learning rate falls along half a cosine, for everyone."""
    shape = optax.cosine_decay_schedule(1.0, STEPS)
    gradient = gradient_of(mean_loss, contender.structure)

    def optimizer(rate: Any) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(contender.make(lambda count: rate * shape(count)))

    @jax.jit
    def train(params: Any, rate: Array, batches: Int[Array, "steps batch window"]) -> Any:
        chain = optimizer(rate)

        def step(carry: Any, windows: Array) -> tuple[Any, None]:
            params, state = carry
            _, grads, extra = gradient(params, windows)
            updates, state = chain.update(grads, state, params, groups=windows[:, -1], **extra)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, chain.init(params)), batches)[0][0]

    state = jax.eval_shape(optimizer(0.0).init, start(0))
    return Program(train, sum(leaf.size for leaf in jax.tree.leaves(state)))


def trained(program: Program, rate: float, seed: int) -> Any:
    """The model after all steps; the seed draws its weights and its text."""
    batches = text(seed, BATCH, STEPS).reshape(STEPS, BATCH, -1)
    return program.train(start(seed), rate, batches)


def start(seed: int) -> Any:
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


def losses(params: Any, windows: Int[Array, "rows window"]) -> Float[Array, "rows"]:
    """Plain cross-entropy of the last token of each window."""
    inputs = params["embedding"][windows[:, :-1]].reshape(len(windows), -1)
    hidden = jax.nn.relu(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, -1])


def mean_loss(params: Any, windows: Int[Array, "rows window"]) -> Float[Array, ""]:
    return losses(params, windows).mean()


_compiled_losses = jax.jit(losses)


def evaluated(params: Any, windows: Int[np.ndarray, "rows window"]) -> Float[np.ndarray, "rows"]:
    """The loss of every token of a text."""
    starts = range(0, len(windows), EVALUATED_AT_ONCE)
    parts = [windows[start : start + EVALUATED_AT_ONCE] for start in starts]
    return np.concatenate([_compiled_losses(params, part) for part in parts])
