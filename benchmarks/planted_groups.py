"""Tests the history of similar inputs on digits with planted groups.

    python -m benchmarks.planted_groups

- *rare look*: every training digit appears ten times, and 1 % of these images are negatives. The
  score is the accuracy on the negatives of all test digits after 600 steps. *Rare look, early*
  stops after a quarter of the steps.
- *turned sixes*: 10 sixes of the training set are upside down and look like nines. The score is the
  accuracy on the test sixes, all upside down.
- *wrong labels*: two fifths of the training digits are upside down and have random labels. The
  score is the accuracy on the upright test digits.

The optimizer is not told which examples were changed. Groups are running prototypes of the raw
pixels. Weights come from their history, one step behind. A group is rare among K if it gets fewer
than one example in K, so the rare look uses few prototypes. Exponents were fixed beforehand and
are not tuned. Seeds are paired: all exponents share the split, the weights and the batches.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import insgd_optax as insgd
from benchmarks.shared.trials import with_spread

STEPS, EARLY, BATCH = 600, 150, 64
# Exponents of the frequency of similar inputs and of the size of their gradients.
EXPONENTS = ((0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.0, -0.5), (0.5, 0.5))


class Planted(NamedTuple):
    """Training digits, some of them changed, and test digits.

    Attributes:
      prototypes: the number of prototypes.
      steps: the number of training steps.
      changed: marks the changed training digits.
    """

    prototypes: int
    steps: int
    images: np.ndarray
    labels: np.ndarray
    changed: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def digits(seed: int) -> tuple[np.ndarray, ...]:
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 8 - 1, labels, test_size=0.3, random_state=seed)
    return tuple(map(np.asarray, split))


def rare_look(seed: int) -> Planted:
    images, test_images, labels, test_labels = digits(seed)
    images, labels = np.repeat(images, 10, axis=0), np.repeat(labels, 10)
    changed = np.random.default_rng(seed).random(len(labels)) < 0.01
    images[changed] *= -1
    return Planted(16, STEPS, images, labels, changed, -test_images, test_labels)


def rare_look_early(seed: int) -> Planted:
    return rare_look(seed)._replace(steps=EARLY)


def turned_sixes(seed: int) -> Planted:
    images, test_images, labels, test_labels = digits(seed)
    changed = np.zeros(len(labels), bool)
    changed[np.flatnonzero(labels == 6)[:10]] = True
    images[changed] = images[changed][:, ::-1]
    sixes = test_labels == 6
    return Planted(
        128, STEPS, images, labels, changed, test_images[sixes][:, ::-1], test_labels[sixes]
    )


def wrong_labels(seed: int) -> Planted:
    images, test_images, labels, test_labels = digits(seed)
    rng = np.random.default_rng(seed)
    changed = rng.random(len(labels)) < 0.4
    images[changed] = images[changed][:, ::-1]
    labels[changed] = rng.integers(0, 10, changed.sum())
    return Planted(128, STEPS, images, labels, changed, test_images, test_labels)


PLANTS = {
    rare_look: "rare look",
    rare_look_early: "rare look, early",
    turned_sixes: "turned sixes",
    wrong_labels: "wrong labels",
}


def loss_fn(params: Any, images: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
    logits = jax.nn.relu(images @ params["hidden"]) @ params["head"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(weights * losses), logits


@functools.cache
def train_step(
    prototypes: int, steps: int, frequency: float, gradient: float
) -> tuple[Callable[..., Any], optax.GradientTransformationExtraArgs]:
    rate = optax.cosine_decay_schedule(0.01, steps)
    optimizer = optax.chain(
        insgd.track_prototypes(prototypes, 64), insgd.insgd(rate, num_groups=prototypes)
    )
    grad_fn = insgd.value_and_grad(loss_fn, has_aux=True, batch_argnums=(1, 2))

    @jax.jit
    def step(params: optax.Params, state: optax.OptState, images: Any, labels: Any) -> Any:
        groups = insgd.similarity_groups(state, images)
        weights = insgd.example_weights(state, groups, frequency, gradient)
        (_, logits), grads, stats = grad_fn(params, images, labels, weights)
        norms = insgd.softmax_gradient_norm(logits, labels)
        history = {"groups": groups, "gradient_norms": norms, "features": images}
        updates, state = optimizer.update(grads, state, params, input_stats=stats, **history)
        return optax.apply_updates(params, updates), state, weights

    return step, optimizer


def run(planted: Planted, exponents: tuple[float, float], seed: int) -> tuple[float, float]:
    """The accuracy in percent, and the mean weight of a changed example in the last 100 steps."""
    step, optimizer = train_step(planted.prototypes, planted.steps, *exponents)
    keys = jax.random.split(jax.random.key(seed))
    params = {
        "hidden": jax.random.normal(keys[0], (64, 64)) / 8,
        "head": jax.random.normal(keys[1], (64, 10)) / 8,
    }
    state, rng, weights = optimizer.init(params), np.random.default_rng(seed), []
    images = np.asarray(planted.images, np.float32)
    for number in range(planted.steps):
        rows = rng.choice(len(planted.labels), BATCH, replace=False)
        params, state, weight = step(params, state, images[rows], planted.labels[rows])
        if number >= planted.steps - 100:
            weights += np.asarray(weight)[planted.changed[rows]].tolist()
    hidden = jax.nn.relu(jnp.asarray(planted.test_images, jnp.float32) @ params["hidden"])
    right = (hidden @ params["head"]).argmax(axis=1) == planted.test_labels
    return 100 * float(np.mean(right)), float(np.mean(weights))


def main() -> None:
    parser = argparse.ArgumentParser(description="Weights digits by the history of similar ones.")
    parser.add_argument("--seeds", type=int, default=8)
    seeds = range(parser.parse_args().seeds)
    print("| planted | exponents | accuracy, % | more than without | weight of a planted |")
    print("|---|---|---|---|---|")
    for plant, name in PLANTS.items():
        plain = None
        for exponents in EXPONENTS:
            found = np.array([run(plant(seed), exponents, seed) for seed in seeds])
            plain = found if plain is None else plain
            shown = found[:, 0], found[:, 0] - plain[:, 0], found[:, 1]
            cells = [with_spread(values, 2) for values in shown]
            print(
                f"| {name} | {exponents[0]:g}, {exponents[1]:g} | {' | '.join(cells)} |", flush=True
            )


if __name__ == "__main__":
    main()
