"""Fine-tunes a trained network on new classes, and carries the optimizer's state on.

    python examples/transfer.py

A network learns seven digits. Then its head grows to ten, and it trains on ten images of each new
digit: alone, so that it forgets the old ones, or together with ten images of each old digit.
`optax.partition` gives body and head a state each. So the body keeps its state, and the new head
starts with its own. Each optimizer has its usual constant rate, untuned. About 40 seconds.
"""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from tqdm import tqdm

import digits
import images
import insgd_optax as insgd
import report

LINES = {"carried on": "-", "new": "--"}  # by the state of the body
TRAINED_ON = {"the new digits": range(7, 10), "all digits": range(10)}
OLD, FEW, BATCH_SIZE, FIRST_STEPS, EVERY, SEEDS = 7, 10, 30, 300, 5, range(5)


def block(width: int) -> nn.Sequential:
    pool = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    return nn.Sequential([nn.Conv(width, (3, 3)), nn.LayerNorm(), nn.relu, pool])


BODY = nn.Sequential([block(16), block(32)])


def new_head(key: Array, classes: int) -> dict[str, Array]:
    return {"kernel": jax.random.normal(key, (128, classes)) / 12, "bias": jnp.zeros(classes)}


def logits_of(params: Any, pixels: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch K"]:
    features = jnp.asarray(BODY.apply(params["body"], pixels)).reshape(len(pixels), -1)
    return features @ params["head"]["kernel"] + params["head"]["bias"]


def in_two_parts(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    return optax.partition({"body": optimizer, "head": optimizer}, {"body": "body", "head": "head"})


OPTIMIZERS = {"Adam": in_two_parts(optax.adam(1e-3)), "INSGD": in_two_parts(insgd.insgd(0.02))}


def loss_fn(params: Any, pixels: Array, labels: Array) -> Float[Array, ""]:
    logits = logits_of(params, pixels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@partial(jax.jit, static_argnames="optimizer")
def train_step(optimizer, params, state, pixels, labels):
    _, grads, input_stats = insgd.value_and_grad(loss_fn)(params, pixels, labels)
    updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    return optax.apply_updates(params, updates), state


def train(optimizer, params, state, data: images.Examples, steps: int, test: images.Examples):
    """Parameters and state afterwards, and the accuracies on new and old digits on the way."""
    rng, curve = np.random.default_rng(0), [new_and_old_accuracy(params, test)]
    for step in range(1, steps + 1):
        rows = rng.choice(len(data.labels), BATCH_SIZE, replace=False)
        params, state = train_step(optimizer, params, state, data.images[rows], data.labels[rows])
        if step % EVERY == 0:
            curve.append(new_and_old_accuracy(params, test))
    return params, state, curve


def new_and_old_accuracy(params: Any, test: images.Examples) -> tuple[float, float]:
    hits = np.asarray(jax.jit(logits_of)(params, test.images).argmax(axis=1)) == test.labels
    return hits[test.labels >= OLD].mean(), hits[test.labels < OLD].mean()


def some_of(data: images.Examples, digits: range, number: int, seed: int) -> images.Examples:
    """At most so many images of each of these digits."""
    order = np.random.default_rng(seed).permutation(len(data.labels))
    rows = np.concatenate([order[data.labels[order] == digit][:number] for digit in digits])
    return images.Examples(data.images[rows], data.labels[rows])


def transfer(optimizer, data: images.Dataset, steps: int, seed: int) -> dict[tuple, list]:
    """Curves of fine-tuning, by the state of the body and the digits that are trained on."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {"body": BODY.init(keys[0], data.test.images), "head": new_head(keys[1], OLD)}
    old_digits, state = some_of(data.train, range(OLD), 1000, seed), optimizer.init(params)
    params, state, _ = train(optimizer, params, state, old_digits, FIRST_STEPS, data.test)

    head = jax.tree.map(lambda *both: jnp.hstack(both), params["head"], new_head(keys[2], 10 - OLD))
    params = {"body": params["body"], "head": head}
    new = optimizer.init(params)
    parts = {**new.inner_states, "body": state.inner_states["body"]}
    states = {"carried on": new._replace(inner_states=parts), "new": new}

    curves = {}
    for text, which in product(TRAINED_ON, states):
        few = some_of(data.train, TRAINED_ON[text], FEW, seed)
        curves[which, text] = train(optimizer, params, states[which], few, steps, data.test)[2]
    return curves


def draw(out: Path, curves: dict[tuple, Float[np.ndarray, "seeds points 2"]]) -> None:
    """Means over seeds: new digits above, old ones below."""
    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    figure.supxlabel("step of fine-tuning")
    for (name, which, text), each in curves.items():
        label, color = f"{name}, state {which}", report.COLORS[name]
        for row, tested in enumerate(("new", "old")):
            axes = panels[row, list(TRAINED_ON).index(text)]
            mean = 100 * each[..., row].mean(axis=0)
            axes.plot(EVERY * np.arange(len(mean)), mean, LINES[which], color=color, label=label)
            axes.set(title=f"Trained on {text}", ylabel=f"accuracy on {tested} digits (%)")
            axes.grid(visible=True, alpha=0.3)
    panels[1, 1].legend()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "transfer.png")


def main() -> None:
    args = report.options(__doc__, 100, "of fine-tuning").parse_args()
    data, found = digits.as_dataset(), {}
    for seed, name in tqdm(list(product(SEEDS, OPTIMIZERS)), "runs", disable=None):
        for key, curve in transfer(OPTIMIZERS[name], data, args.steps, seed).items():
            found.setdefault((name, *key), []).append(curve)
    curves = {key: np.array(each) for key, each in found.items()}
    header = "optimizer", "body's state", "trained on", "new digits, %", "old digits, %"
    rows = [[*key, *map(report.percent, each[:, -1].T)] for key, each in curves.items()]
    draw(args.out, curves)
    print(f"{report.table(header, rows, texts=3)}\n\nWritten: {args.out / 'transfer.png'}")


if __name__ == "__main__":
    main()
