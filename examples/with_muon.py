"""Combines Muon with INSGD in two ways, and compares both with each of the two alone.

    python examples/with_muon.py

Muon is made for hidden matrices. The first layer, the head and the biases go to another optimizer,
mostly Adam. With `optax.partition` it can be INSGD. The second way is `insgd.on_white_inputs`: Muon
and Adam then run in coordinates where the inputs of every layer are white. A cosine takes all rates
to zero, from their usual peaks and from a quarter and four times of them. About a minute.
"""

from functools import partial
from itertools import product
from pathlib import Path

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

NAMES = "Adam", "INSGD", "Muon and Adam", "Muon and INSGD", "white Muon and Adam"
COLORS = "#E69F00", "#009E73", "#CC79A7", "#0072B2", "#D55E00"
FACTORS, SEEDS, BATCH_SIZE, EVERY = (0.25, 1, 4), range(3), 32, 20


class Net(nn.Module):
    """Three convolutions and a dense layer."""

    @nn.compact
    def __call__(self, images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch 10"]:
        hidden = nn.relu(nn.Conv(16, (3, 3), name="first")(images))
        for name in ("hidden1", "hidden2"):
            hidden = nn.relu(nn.Conv(32, (3, 3), name=name)(hidden))
            hidden = nn.avg_pool(hidden, (2, 2), (2, 2))
        return nn.Dense(10, name="head")(hidden.reshape(len(images), -1))


MODEL = Net()


def parts(params: dict[str, dict[str, Array]]) -> dict[str, dict[str, str]]:
    """The part of each parameter: Muon gets the kernels of the hidden layers."""
    hidden, rest = {"kernel": "matrices", "bias": "rest"}, {"kernel": "rest", "bias": "rest"}
    return {layer: hidden if layer.startswith("hidden") else rest for layer in params}


def as_matrices(kernels: optax.Params) -> optax.Params:
    """From all inputs to the outputs. By itself Muon leaves convolutions to Adam."""
    matrix = optax.contrib.MuonDimensionNumbers
    return jax.tree.map(lambda kernel: matrix(tuple(range(kernel.ndim - 1)), -1), kernels)


def make_optimizer(name: str, factor: float, steps: int) -> optax.GradientTransformationExtraArgs:
    """The optimizer at a factor of its usual rates."""

    def rate(usual: float) -> optax.Schedule:
        return optax.cosine_decay_schedule(factor * usual, steps)

    adam, ours = optax.adam(rate(0.001)), insgd.insgd(rate(0.04))
    muon = optax.contrib.muon(rate(0.02), muon_weight_dimension_numbers=as_matrices)
    muon_and_adam = optax.partition({"matrices": muon, "rest": adam}, parts)
    muon_and_ours = optax.partition({"matrices": muon, "rest": ours}, parts)
    optimizers = adam, ours, muon_and_adam, muon_and_ours, insgd.on_white_inputs(muon_and_adam)
    return optax.with_extra_args_support(optimizers[NAMES.index(name)])


@jax.jit
def loss_fn(params, batch: images.Examples) -> tuple[Float[Array, ""], Float[Array, ""]]:
    logits = jnp.asarray(MODEL.apply({"params": params}, batch.images))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    return losses.mean(), (logits.argmax(axis=-1) == batch.labels).mean()


@partial(jax.jit, static_argnames=("name", "steps"))
def train_step(name: str, factor: float, steps: int, params, state, batch: images.Examples):
    optimizer = make_optimizer(name, factor, steps)
    _, grads, input_stats = insgd.value_and_grad(loss_fn, has_aux=True)(params, batch)
    updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    return optax.apply_updates(params, updates), state


def train(name: str, factor: float, seed: int, data, test, steps: int) -> np.ndarray:
    """Steps, and the test loss and the test accuracy after each of them."""
    params = MODEL.init(jax.random.key(seed), data.images[:1])["params"]
    state = make_optimizer(name, factor, steps).init(params)
    scores = [(0, *loss_fn(params, test))]
    for step, batch in enumerate(images.batches(data, BATCH_SIZE, steps, seed), start=1):
        params, state = train_step(name, factor, steps, params, state, batch)
        if step % EVERY == 0 or step == steps:
            scores.append((step, *loss_fn(params, test)))
    return np.array(scores)


def main() -> None:
    args = report.options(__doc__, steps=300).parse_args()
    data, test = digits.load()
    results = {}
    for name, factor in tqdm(list(product(NAMES, FACTORS)), "settings", disable=None):
        runs = [train(name, factor, seed, data, test, args.steps) for seed in SEEDS]
        results[name, factor] = np.moveaxis(np.array(runs), -1, 0)  # steps, losses, accuracies

    print("Test accuracy (%) at a quarter of the usual rates, at these and at four times of them\n")
    rows = []
    for name in NAMES:
        accuracies = (report.percent(results[name, factor][2, :, -1]) for factor in FACTORS)
        rows.append([name, *accuracies, f"{results[name, 1][1, :, -1].mean():.3f}"])
    print(report.table(["optimizer", "a quarter", "usual", "four times", "loss at usual"], rows))
    print(f"\nMeans ± standard deviations of {len(SEEDS)} seeds after {args.steps} steps.")
    args.out.mkdir(parents=True, exist_ok=True)
    draw(args.out / "with_muon.png", results)
    print(f"Written: {args.out / 'with_muon.png'}")


def draw(path: Path, results: dict) -> None:
    """Left: the test loss at the usual rates. Right: how the accuracy depends on the rate."""
    figure = Figure(figsize=(11, 4.4), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, color in zip(NAMES, COLORS, strict=True):
        steps, losses, _ = results[name, 1].mean(axis=1)
        left.plot(steps, losses, color=color, label=name)
        accuracies = [100 * results[name, factor][2, :, -1].mean() for factor in FACTORS]
        right.plot(FACTORS, accuracies, "o-", color=color)
    left.set(xlabel="training step", ylabel="test loss", yscale="log")
    left.legend()
    right.set(xlabel="rate, in units of the usual one", ylabel="test accuracy (%)", xscale="log")
    right.set_xticks(FACTORS, FACTORS)
    right.minorticks_off()
    figure.savefig(path)


if __name__ == "__main__":
    main()
