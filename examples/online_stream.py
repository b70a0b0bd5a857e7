"""Learns from a stream of digits that get darker and brighter again, at constant rates.

    python examples/online_stream.py

Each image tests the network first and trains it afterwards (prequential accuracy). A digit comes
about four times, moved by up to one pixel and at another brightness each time. The darkest images
have a thirtieth of the full brightness. Adam and INSGD have their usual rates. SGD has a tenth of
its usual 0.1, at which it stays at chance in batches of one. Each also runs at a quarter and at
four times of its rate. All numbers are means over 3 streams. About 20 seconds.
"""

from functools import partial
from itertools import pairwise, product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from tqdm import tqdm

import insgd_optax as insgd
import report

OPTIMIZERS = {"SGD": partial(optax.sgd, momentum=0.9), "Adam": optax.adam, "INSGD": insgd.insgd}
RATES = {"SGD": 0.01, "Adam": 0.001, "INSGD": 0.02}
FACTORS, BATCH_SIZES, SEEDS = (0.25, 1, 4), (1, 8), range(3)
WIDTHS = 64, 64, 64, 10


def brightness(length: int) -> Float[np.ndarray, "length"]:
    """Falls from 1 to a thirtieth and rises again, twice."""
    return 10 ** (-0.75 * (1 - np.cos(np.linspace(0, 4 * np.pi, length))))


def write_stream(
    length: int, seed: int
) -> tuple[Float[np.ndarray, "length 64"], Int[np.ndarray, "length"]]:
    """Digits in random order, each moved by up to one pixel, and their labels."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    padded = np.pad(images.reshape(-1, 8, 8) / 16, ((0, 0), (1, 1), (1, 1)))
    picks = rng.integers((len(labels), 3, 3), size=(length, 3))
    moved = np.array([padded[row, y : y + 8, x : x + 8] for row, y, x in picks])
    images = moved.reshape(length, 64) * brightness(length)[:, None]
    return images.astype(np.float32), labels[picks[:, 0]].astype(np.int32)


def initial_params(seed: int) -> list[dict[str, Array]]:
    keys = jax.random.split(jax.random.key(seed), len(WIDTHS) - 1)
    params = []
    for key, shape in zip(keys, pairwise(WIDTHS), strict=True):
        kernel = jax.random.normal(key, shape) * (2 / shape[0]) ** 0.5
        params.append({"kernel": kernel, "bias": jnp.zeros(shape[1])})
    return params


def loss_fn(params, images: Float[Array, "batch 64"], labels: Int[Array, "batch"]):
    *hidden_layers, head = params
    hidden = images
    for layer in hidden_layers:
        hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"])
    logits = hidden @ head["kernel"] + head["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits


def train_step(optimizer, params_and_state, batch):
    """Trains on a batch, and says which of its images the network knew before that."""
    params, state = params_and_state
    grad_fn = insgd.value_and_grad(loss_fn, has_aux=True)
    (_, logits), grads, input_stats = grad_fn(params, *batch)
    updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    return (optax.apply_updates(params, updates), state), logits.argmax(axis=-1) == batch[1]


@partial(jax.jit, static_argnames=("name", "batch_size"))
def run(name: str, rate: float, batch_size: int, params, images, labels) -> Bool[Array, "length"]:
    """Whether the network was right about every image of the stream."""
    optimizer = OPTIMIZERS[name](rate)
    batches = images.reshape(-1, batch_size, 64), labels.reshape(-1, batch_size)
    start = params, optimizer.init(params)
    _, right = jax.lax.scan(partial(train_step, optimizer), start, batches)
    return right.ravel()


def main() -> None:
    of = "train steps of 8 images, or eight times as many of one"
    args = report.options(__doc__, 1000, of).parse_args()
    length = args.steps * max(BATCH_SIZES)
    streams = [(initial_params(seed), *write_stream(length, seed)) for seed in SEEDS]
    results = {}
    for name, size, factor in tqdm(list(product(OPTIMIZERS, BATCH_SIZES, FACTORS)), disable=None):
        rate = factor * RATES[name]
        runs = [run(name, rate, size, *stream) for stream in streams]
        results[name, size, factor] = 100 * np.mean(runs, axis=0)

    print(f"Accuracy (%) over {length} images, at three rates\n")
    rows = []
    for size, name in product(BATCH_SIZES, OPTIMIZERS):
        scores = (f"{results[name, size, factor].mean():.1f}" for factor in FACTORS)
        rows.append([name, str(size), str(RATES[name]), *scores])
    header = "optimizer", "batch", "rate", "at a quarter", "at the rate", "at four times"
    print(report.table(header, rows))
    args.out.mkdir(parents=True, exist_ok=True)
    draw(args.out / "online_stream.png", results, length)
    print(f"\nWritten: {args.out / 'online_stream.png'}")


def draw(path: Path, results: dict, length: int) -> None:
    """Accuracies over 400 images at the middle rates, and the brightness under them."""
    figure = Figure(figsize=(8, 8), dpi=150, layout="constrained")
    window = min(400, length)
    *panels, below = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    for axes, size in zip(panels, BATCH_SIZES, strict=True):
        for name in OPTIMIZERS:
            running = np.convolve(results[name, size, 1], np.ones(window) / window, "valid")
            places = np.arange(len(running)) + window // 2
            label = f"{name}, rate {RATES[name]}"
            axes.plot(places, running, color=report.COLORS[name], label=label)
        axes.set(title=f"batches of {size}", ylabel="running accuracy (%)", ylim=(0, 100))
        axes.grid(alpha=0.3)
    panels[0].legend()
    below.plot(brightness(length), color="0.35")
    below.set(xlabel="image", ylabel="brightness", yscale="log")
    figure.savefig(path)


if __name__ == "__main__":
    main()
