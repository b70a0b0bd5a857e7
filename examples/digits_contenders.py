"""Three optimizers, each with the factors that look at classes and at similar inputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import insgd_optax as insgd
from digits_data import NUM_CLASSES, Split
from digits_network import Params, loss_fn

PIXELS, PROTOTYPES = 64, 32


# The two kinds of train step, side by side: this is all that a training loop has to change.
def plain_step(optimizer, params, opt_state, batch, *factors, **seen):
    _, grads = jax.value_and_grad(loss_fn)(params, batch, *factors)
    updates, opt_state = optimizer.update(grads, opt_state, params, **seen)
    return optax.apply_updates(params, updates), opt_state


def input_normalized_step(optimizer, params, opt_state, batch, *factors, **seen):
    grad_fn = insgd.value_and_grad(loss_fn, batch_argnums=1)
    _, grads, input_stats = grad_fn(params, batch, *factors)
    updates, opt_state = optimizer.update(grads, opt_state, params, input_stats=input_stats, **seen)
    return optax.apply_updates(params, updates), opt_state


@dataclass(frozen=True)
class Contender:
    """An optimizer, its train step, the middle of its learning rates, and which factors it has."""

    optimizer: str
    make: Callable[[optax.Schedule], optax.GradientTransformation]
    step: Callable[..., tuple[Params, optax.OptState]]
    middle_rate: float
    factors: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " + ".join((self.optimizer, *self.factors))

    def make_optimizer(self, rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        """The optimizer, behind the histories that its factors are read from."""
        histories = {
            CLASS: (("classes", insgd.track_groups(NUM_CLASSES)),),
            HISTORY: (
                ("prototypes", insgd.track_prototypes(PROTOTYPES, PIXELS)),
                ("similar", insgd.track_groups(PROTOTYPES, argument="similar")),
            ),
        }
        kept = [part for factor in self.factors for part in histories[factor]]
        return optax.named_chain(*kept, ("optimizer", self.make(rate)))

    def prior(self, opt_state: Any) -> Float[Array, "classes"]:
        """The logarithm of how often each class came; zeros leave the cross-entropy as it is."""
        return insgd.log_prior(opt_state["classes"]) if CLASS in self.factors else NO_PRIOR

    def weights(self, opt_state: Any, similar: Array) -> Float[Array, "batch"]:
        """More for inputs whose like came rarely."""
        if HISTORY not in self.factors:
            return jnp.ones(len(similar))
        return insgd.example_weights(opt_state["similar"], similar, frequency_exponent=0.5)

    def similar(self, opt_state: Any, batch: Split) -> Array:
        """The groups of similar images that the batch falls into."""
        if HISTORY not in self.factors:
            return jnp.zeros(len(batch.labels), int)
        return insgd.similarity_groups(opt_state["prototypes"], jnp.asarray(batch.images))

    def rates(self, trials: int) -> list[float]:
        """`trials` learning rates over three decades, evenly spaced in their logarithm."""
        exponents = np.linspace(-1.5, 1.5, trials) if trials > 1 else np.zeros(1)
        return [float(f"{self.middle_rate * 10**exponent:.2g}") for exponent in exponents]


# Class representation as a balanced softmax, and the history of similar inputs as weights.
CLASS, HISTORY = "class", "history"
NO_PRIOR = jnp.zeros(NUM_CLASSES)

SGD = Contender("SGD", lambda rate: optax.sgd(rate, momentum=0.9), plain_step, 0.1)
ADAM = Contender("Adam", optax.adam, plain_step, 0.01)
INSGD = Contender("INSGD", insgd.insgd, input_normalized_step, 0.01)


CONTENDERS = tuple(
    replace(each, factors=factors) for factors in ((), (CLASS,)) for each in (SGD, ADAM, INSGD)
)
# What input normalization, the classes and the history do, each alone and together.
ABLATION = tuple(
    replace(each, factors=factors)
    for factors in ((), (CLASS,), (HISTORY,), (CLASS, HISTORY))
    for each in (SGD, INSGD)
)
