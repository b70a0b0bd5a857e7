"""What the history of similar inputs does, on digits in which the answer was planted.

    python -m benchmarks.planted_groups

- *rare look*: 4 training digits of each class are shown as negatives. What counts is the accuracy
  on the negatives of all test digits.
- *turned sixes*: 10 of the sixes in training are shown upside down, where they look like nines. What
  counts is the accuracy on test sixes that are all shown like that.
- *wrong labels*: two fifths of the training digits are shown upside down with random labels. What
  counts is the accuracy on the upright test digits.

Nothing says which examples were changed. Groups are 128 running prototypes of the raw pixels, and
weights are read from their history one step behind. Exponents were fixed beforehand, and none is
tuned. Seeds are paired: the same split, weights and batches for all exponents.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import insgd_optax as insgd
from benchmarks.trials import with_spread

STEPS, BATCH, PROTOTYPES = 600, 64, 128
# Of how often similar inputs came, and of how large their gradients were.
EXPONENTS = ((0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.0, -0.5), (0.5, 0.5))


class Planted(NamedTuple):
    """Training digits of which some were changed, and what is measured after it."""

    images: np.ndarray
    labels: np.ndarray
    changed: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def digits(seed: int) -> tuple[np.ndarray, ...]:
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=0.3, random_state=seed)
    return tuple(map(np.asarray, split))


def rare_look(seed: int) -> Planted:
    images, test_images, labels, test_labels = digits(seed)
    rows = np.concatenate([np.flatnonzero(labels == label)[:4] for label in range(10)])
    changed = np.isin(np.arange(len(labels)), rows)
    images[changed] = 1 - images[changed]
    return Planted(images, labels, changed, 1 - test_images, test_labels)


def turned_sixes(seed: int) -> Planted:
    images, test_images, labels, test_labels = digits(seed)
    changed = np.zeros(len(labels), bool)
    changed[np.flatnonzero(labels == 6)[:10]] = True
    images[changed] = images[changed][:, ::-1]
    sixes = test_labels == 6
    return Planted(images, labels, changed, test_images[sixes][:, ::-1], test_labels[sixes])


def wrong_labels(seed: int) -> Planted:
    images, test_images, labels, test_labels = digits(seed)
    rng = np.random.default_rng(seed)
    changed = rng.random(len(labels)) < 0.4
    images[changed] = images[changed][:, ::-1]
    labels[changed] = rng.integers(0, 10, changed.sum())
    return Planted(images, labels, changed, test_images, test_labels)


def loss_fn(params: Any, images: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
    logits = jax.nn.relu(images @ params["hidden"]) @ params["head"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(weights * losses), logits


def train_step(frequency: float, gradient: float) -> tuple[Callable[..., Any], Any]:
    optimizer = optax.chain(
        insgd.track_prototypes(PROTOTYPES, 64), insgd.insgd(num_groups=PROTOTYPES)
    )
    grad_fn = insgd.value_and_grad(loss_fn, has_aux=True, batch_argnums=(1, 2))

    @jax.jit
    def step(params: Any, state: Any, images: Any, labels: Any) -> Any:
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
    step, optimizer = train_step(*exponents)
    keys = jax.random.split(jax.random.key(seed))
    params = {
        "hidden": jax.random.normal(keys[0], (64, 64)) / 8,
        "head": jax.random.normal(keys[1], (64, 10)) / 8,
    }
    state, rng, weights = optimizer.init(params), np.random.default_rng(seed), []
    images = np.asarray(planted.images, np.float32)
    for number in range(STEPS):
        rows = rng.choice(len(planted.labels), BATCH, replace=False)
        params, state, weight = step(params, state, images[rows], planted.labels[rows])
        if number >= STEPS - 100:
            weights += np.asarray(weight)[planted.changed[rows]].tolist()
    hidden = jax.nn.relu(jnp.asarray(planted.test_images, jnp.float32) @ params["hidden"])
    right = (hidden @ params["head"]).argmax(axis=1) == planted.test_labels
    return 100 * float(np.mean(right)), float(np.mean(weights))


def main() -> None:
    parser = argparse.ArgumentParser(description="Weighs digits by the history of similar ones.")
    parser.add_argument("--seeds", type=int, default=8)
    seeds = range(parser.parse_args().seeds)
    print("| planted | exponents | accuracy, % | more than without | weight of a planted |")
    print("|---|---|---|---|---|")
    for plant in (rare_look, turned_sixes, wrong_labels):
        plain = None
        for exponents in EXPONENTS:
            found = np.array([run(plant(seed), exponents, seed) for seed in seeds])
            plain = found if plain is None else plain
            shown = found[:, 0], found[:, 0] - plain[:, 0], found[:, 1]
            cells = [with_spread(values, 2) for values in shown]
            name = plant.__name__.replace("_", " ")
            print(
                f"| {name} | {exponents[0]:g}, {exponents[1]:g} | {' | '.join(cells)} |", flush=True
            )


if __name__ == "__main__":
    main()
