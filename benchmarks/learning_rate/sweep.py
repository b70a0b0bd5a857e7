"""A perceptron with and without LayerNorm, over five decades of the learning rate.

Every optimizer gets the same learning rates, seeds and steps. Each is one program.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from benchmarks.learning_rate.contenders import contenders
from benchmarks.learning_rate.training import STEPS, training
from benchmarks.shared.contender import Contender
from benchmarks.shared.data import digits
from benchmarks.shared.networks import Perceptron

SCALES = (0.01, 1.0, 16.0, 1600.0)  # of the largest pixel
RATES = 10 ** np.arange(-4, 1.01, 0.5)
NETS = {"no normalization": False, "LayerNorm": True}

Accuracies = Float[np.ndarray, "scales rates seeds"]  # validation accuracy in percent


def accuracies(contender: Contender, normalized: bool, seeds: int) -> Accuracies:
    """Accuracies after training with a cosine schedule that starts at each learning rate."""
    data, model = digits(1.0), Perceptron(normalized, width=128)

    def trained(scale: Array, rate: Array, seed: Array) -> Array:
        scaled = data._replace(
            images=scale * data.images, validation_images=scale * data.validation_images
        )
        shape = optax.cosine_decay_schedule(1, STEPS)
        run = training(model, contender, lambda step: rate * shape(step), scaled)
        carry, _ = jax.lax.scan(run.step, *run.start(seed))
        return run.accuracy(carry)

    one_scale = jax.jit(jax.vmap(jax.vmap(trained, (None, None, 0)), (None, 0, None)))
    rates, numbers = jnp.asarray(RATES, jnp.float32), jnp.arange(seeds)
    return np.stack([one_scale(jnp.float32(scale), rates, numbers) for scale in SCALES])


def sweep(seeds: int) -> dict[str, dict[str, Accuracies]]:
    """The accuracies of each network and contender."""
    found: dict[str, dict[str, Accuracies]] = {net: {} for net in NETS}
    for net, normalized in NETS.items():
        for name, contender in contenders().items():
            print(f"{net}: {name} ...", flush=True)
            found[net][name] = accuracies(contender, normalized, seeds)
    return found
