"""Trains on a few images of each class: handwritten digits, with INSGD and with Adam.

    python examples/few_shot.py

Each seed draws other images and other weights, the same ones for both optimizers. Both train at
their usual constant rates, untuned. With --data the images are your own: a folder of class
folders, a zip or MedMNIST's .npz. About a minute on two cores.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from tqdm import tqdm

import digits
import images
import insgd_optax as insgd
import report

OPTIMIZERS = {"Adam": optax.adam(1e-3), "INSGD": insgd.insgd(0.02)}
BATCH_SIZE = 32
Scores = dict[str, Float[np.ndarray, "shots seeds"]]  # the accuracies of each optimizer


class Net(nnx.Module):
    """Two convolutions with LayerNorm and pooling, and a linear layer."""

    def __init__(self, size: int, channels: int, classes: int, rngs: nnx.Rngs):
        self.first = nnx.Conv(channels, 16, (3, 3), rngs=rngs)
        self.first_norm = nnx.LayerNorm(16, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.second_norm = nnx.LayerNorm(32, rngs=rngs)
        self.head = nnx.Linear((size // 4) ** 2 * 32, classes, rngs=rngs)

    def __call__(self, pixels: Float[Array, "batch size size C"]) -> Float[Array, "batch K"]:
        hidden = nnx.relu(self.first_norm(self.first(pixels)))
        hidden = nnx.max_pool(hidden, (2, 2), (2, 2))
        hidden = nnx.relu(self.second_norm(self.second(hidden)))
        hidden = nnx.max_pool(hidden, (2, 2), (2, 2))
        return self.head(hidden.reshape(len(pixels), -1))


def loss_fn(model: Net, pixels: Array, labels: Array) -> Float[Array, ""]:
    return optax.softmax_cross_entropy_with_integer_labels(model(pixels), labels).mean()


@nnx.jit
def train_step(model: Net, optimizer: nnx.Optimizer, pixels: Array, labels: Array) -> None:
    _, grads, input_stats = insgd.nnx.value_and_grad(loss_fn)(model, pixels, labels)
    optimizer.update(model, grads, input_stats=input_stats)  # Adam leaves input_stats alone


def test_accuracy(name: str, data: images.Dataset, shots: int, steps: int, seed: int) -> float:
    """Trains on ``shots`` images of each class."""
    _, size, _, channels = data.train.images.shape
    model = Net(size, channels, len(data.classes), nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, OPTIMIZERS[name], wrt=nnx.Param)
    pixels, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)
    rng = np.random.default_rng(seed)
    rows = drawn(data.train.labels, shots, rng)
    for _ in range(steps):
        batch = rng.choice(rows, min(BATCH_SIZE, len(rows)), replace=False)
        train_step(model, optimizer, pixels[batch], labels[batch])
    predicted = model(jnp.asarray(data.test.images)).argmax(axis=1)
    return float((predicted == data.test.labels).mean())


def drawn(
    labels: Int[np.ndarray, "examples"], shots: int, rng: np.random.Generator
) -> Int[np.ndarray, "chosen"]:
    """The rows of some images of each class."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rng.permutation(rows)[:shots] for rows in classes])


def table(shots: list[int], scores: Scores) -> str:
    """Means ± standard deviations over seeds; the difference is taken seed by seed."""
    columns = [*scores.values(), scores["INSGD"] - scores["Adam"]]
    rows = [
        [str(number), *(report.percent(each[row]) for each in columns)]
        for row, number in enumerate(shots)
    ]
    return report.table(["images of each class", *scores, "INSGD - Adam"], rows, texts=0)


def draw(path: Path, shots: list[int], scores: Scores) -> None:
    """Accuracy against the number of images; bars are standard deviations over seeds."""
    figure = Figure(figsize=(6, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, each in scores.items():
        places = np.array(shots) * (0.98 if name == "Adam" else 1.02)  # bars beside each other
        style = {"fmt": "o-", "capsize": 3, "color": report.COLORS[name], "label": name}
        spread = each.std(axis=1, ddof=min(1, each.shape[1] - 1))  # one seed has none
        axes.errorbar(places, 100 * each.mean(axis=1), 100 * spread, **style)
    axes.set(xscale="log", xlabel="training images of each class", ylabel="test accuracy (%)")
    axes.set_xticks(shots, [str(number) for number in shots])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    args = parse_arguments()
    try:
        data = images.load(args.data, args.size) if args.data else digits.as_dataset()
        if (fewest := data.counts.min()) < max(args.shots):
            raise images.ImagesError(f"--shots: the smallest class has {fewest} training images.")
    except images.ImagesError as error:
        raise SystemExit(f"few_shot.py: error: {error}") from None

    scores = {name: np.zeros((len(args.shots), args.seeds)) for name in OPTIMIZERS}
    for seed in tqdm(range(args.seeds), "seeds", disable=None):
        for row, shots in enumerate(args.shots):
            for name, each in scores.items():
                each[row, seed] = test_accuracy(name, data, shots, args.steps, seed)

    print(f"Test accuracy in percent, {args.steps} steps, {args.seeds} seeds\n")
    print(table(args.shots, scores))
    args.out.mkdir(parents=True, exist_ok=True)
    draw(args.out / "few_shot.png", args.shots, scores)
    print(f"\nWritten: {args.out / 'few_shot.png'}")


def parse_arguments() -> argparse.Namespace:
    parser = report.options(__doc__, steps=300)
    parser.add_argument("--data", type=Path, help="folder, zip or .npz; without it, digits")
    parser.add_argument("--size", type=int, default=32, help="of your images (default 32)")
    shots = "training images of each class (default 2 5 10 20 50)"
    parser.add_argument("--shots", type=int, nargs="+", default=[2, 5, 10, 20, 50], help=shots)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each (default 5)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
