"""Trains on a folder of your own images, such as X-rays, even if some classes are rare.

    python examples/train_folder.py --data FOLDER                 # or a zip, or MedMNIST's .npz
    python examples/train_folder.py predict demo/folder/model.npz FOLDER

FOLDER has a folder of images for each class, or train/, val/ and test/ with such folders in them.
INSGD and Adam train the same network. The balanced softmax makes rare classes count as much as
frequent ones. Without --data it trains on handwritten digits, for about a minute on two cores.

Class folders are split at random. If patients have several images, make train/, val/ and test/
yourself: a patient must not be in two of them. INSGD's network is written to a file, and
``predict`` applies it to new images.
"""

import argparse
import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.errors import FlaxError
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from tqdm import tqdm

import digits
import images
import insgd_optax as insgd
import report

RATES = {"Adam": 1e-3, "INSGD": 0.04}  # at the first step; a cosine takes them to zero
BATCH_SIZE, CHECKS = 32, 20
Curves = dict[str, list[dict[int, float]]]  # of each optimizer and seed: step to score


class Net(nn.Module):
    """Three convolutions with normalization and pooling, and a linear layer."""

    classes: int

    @nn.compact
    def __call__(self, pixels: Float[Array, "batch size size C"]) -> Float[Array, "batch K"]:
        features = pixels
        for width in (16, 32, 64):
            features = nn.GroupNorm(num_groups=8)(nn.Conv(width, (3, 3))(features))
            features = nn.max_pool(nn.relu(features), (2, 2), (2, 2), "SAME")
        return nn.Dense(self.classes)(features.mean(axis=(1, 2)))


@cache
def training(name: str, classes: int, steps: int) -> tuple[Any, Callable[..., Any]]:
    """The optimizer, and a train step with it."""
    schedule = optax.cosine_decay_schedule(RATES[name], steps)
    if name == "INSGD":
        optimizer = insgd.insgd(schedule, num_groups=classes)  # counts the classes it meets
    else:
        optimizer = optax.chain(insgd.track_groups(classes), optax.adam(schedule))

    def loss_fn(params, pixels, labels, log_prior):
        logits = jnp.asarray(Net(classes).apply({"params": params}, pixels))
        return insgd.balanced_softmax_cross_entropy(logits, labels, log_prior).mean()

    grad_fn = insgd.value_and_grad(loss_fn, batch_argnums=(1, 2))  # the prior is not the batch

    @jax.jit
    def train_step(params, state, pixels, labels):
        log_prior = insgd.log_prior(state)  # how frequent the classes were until now
        _, grads, input_stats = grad_fn(params, pixels, labels, log_prior)
        extra = {"input_stats": input_stats, "groups": labels}  # Adam leaves input_stats alone
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return optimizer, train_step


def train(name: str, data: images.Dataset, steps: int, seed: int) -> tuple[Any, dict[int, float]]:
    """Trained parameters, and the balanced accuracy on validation images after some steps."""
    net = Net(len(data.classes))
    optimizer, train_step = training(name, net.classes, steps)
    params = net.init(jax.random.key(seed), data.train.images[:1])["params"]
    state, curve = optimizer.init(params), {}
    batches = images.batches(data.train, BATCH_SIZE, steps, seed)
    for step, batch in enumerate(tqdm(batches, f"{name}, seed {seed}", steps, disable=None), 1):
        params, state = train_step(params, state, *batch)
        if step % max(steps // CHECKS, 1) == 0 or step == steps:
            curve[step] = float(recalls(confusion(net, params, data.validation)).mean())
    return params, curve


def probabilities(net: Net, params: Any, pixels: np.ndarray) -> Float[np.ndarray, "images K"]:
    """Of each class, as if all were equally frequent: that is how the balanced softmax trains."""
    parts = np.split(pixels, range(256, len(pixels), 256))
    logits = [jax.jit(net.apply)({"params": params}, part) for part in parts]
    return np.asarray(jax.nn.softmax(jnp.concatenate(logits)))


def confusion(net: Net, params: Any, data: images.Examples) -> Int[np.ndarray, "K K"]:
    """How many images of each class (row) were taken for each class (column)."""
    found = np.zeros((net.classes, net.classes), int)
    np.add.at(found, (data.labels, probabilities(net, params, data.images).argmax(axis=1)), 1)
    return found


def recalls(found: Int[np.ndarray, "K K"]) -> Float[np.ndarray, "K"]:
    """The share of each class's images that are recognized."""
    return found.diagonal() / found.sum(axis=1)


def table(classes: tuple[str, ...], found: dict[str, list[np.ndarray]]) -> str:
    """Scores of every seed's confusion matrix: means ± standard deviations."""
    labels = ["balanced accuracy", "accuracy", *(f"recall of {name}" for name in classes)]
    columns = []
    for matrices in found.values():
        recall = np.stack([recalls(each) for each in matrices])
        accuracy = np.array([each.trace() / each.sum() for each in matrices])
        columns.append(map(report.percent, (recall.mean(axis=1), accuracy, *recall.T)))
    return report.table(["test images, %", *found], list(zip(labels, *columns, strict=True)))


def draw(path: Path, classes: tuple[str, ...], curves: Curves, found: np.ndarray) -> None:
    """Validation during training, and the classes that INSGD confuses on test images."""
    figure = Figure(figsize=(11, 4.8), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, runs in curves.items():
        mean = 100 * np.mean([list(run.values()) for run in runs], axis=0)
        left.plot(list(runs[0]), mean, color=report.COLORS[name], label=name)
    left.set(title="During training", xlabel="step", ylabel="validation balanced accuracy (%)")
    left.legend()
    left.grid(alpha=0.3)

    shares = found / found.sum(axis=1, keepdims=True)
    right.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    for row, column in np.ndindex(*found.shape):
        color = "white" if shares[row, column] > 0.5 else "black"
        right.text(column, row, found[row, column], color=color, ha="center", va="center")
    right.set_xticks(range(len(classes)), classes, rotation=0 if len("".join(classes)) < 50 else 90)
    right.set_yticks(range(len(classes)), classes)
    right.set(title=f"INSGD: {found.sum()} test images", xlabel="predicted", ylabel="true")
    figure.savefig(path)


def save_model(path: Path, params: Any, data: images.Dataset) -> None:
    """Plain arrays: numpy.load reads them, no pickles."""
    _, size, _, channels = data.train.images.shape
    about = {"classes": data.classes, "size": size, "mode": "L" if channels == 1 else "RGB"}
    np.savez(path, **about | dict(flatten_dict(params, sep="/")))  # pyright: ignore[reportArgumentType]


def predict(args: argparse.Namespace) -> None:
    """Prints the class of every image, and writes the probabilities of all classes."""
    try:
        with np.load(args.model) as file:
            params = dict(file)
        classes, size, mode = (params.pop(key).tolist() for key in ("classes", "size", "mode"))
    except (OSError, ValueError, KeyError, BadZipFile):
        raise images.ImagesError(f"{args.model} is missing, or no model of this example.") from None
    with images.opened(args.folder) as source:
        if not source.names:
            raise images.ImagesError(f"{args.folder} holds no images.")
        pixels = source.pixels(source.names, size, mode)
    try:
        found = probabilities(Net(len(classes)), unflatten_dict(params, sep="/"), pixels)
    except FlaxError:
        raise images.ImagesError(f"{args.model} is of another Net than this script has.") from None
    out = args.to or args.model.parent
    out.mkdir(parents=True, exist_ok=True)
    with (out / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "predicted", *classes])
        for name, each in zip(source.names, found, strict=True):
            best = classes[each.argmax()]
            writer.writerow([name, best, *(f"{share:.4f}" for share in each)])
            print(f"{name}\t{best}\t{each.max():.3f}")
    print(f"Written: {out / 'predictions.csv'}")
    print("The probabilities assume that all classes are equally common.")


def compare(args: argparse.Namespace) -> None:
    """Trains with both optimizers, then looks at the test images once."""
    path = args.data or args.out / "digits"
    if args.data is None:
        digits.write_folders(path, most=100, fewest=5)
    data = images.load(path, args.size, "L" if args.gray else "RGB")
    splits = {"train": data.train, "validate": data.validation, "test": data.test}
    for split, examples in splits.items():
        counts = np.bincount(examples.labels, minlength=len(data.classes))
        each = ", ".join(f"{name} {n}" for name, n in zip(data.classes, counts, strict=True))
        print(f"Images to {split:8}: {each}")

    net, seeds = Net(len(data.classes)), range(args.seeds)
    runs = {name: [train(name, data, args.steps, seed) for seed in seeds] for name in RATES}
    found = {name: [confusion(net, each, data.test) for each, _ in runs[name]] for name in runs}
    print(f"\n{table(data.classes, found)}\n")
    args.out.mkdir(parents=True, exist_ok=True)
    curves = {name: [curve for _, curve in runs[name]] for name in runs}
    draw(args.out / "train_folder.png", data.classes, curves, found["INSGD"][0])
    save_model(args.out / "model.npz", runs["INSGD"][0][0], data)
    print(f"Written: {args.out / 'train_folder.png'}, and INSGD's net as {args.out / 'model.npz'}")


def number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder, zip or .npz; without it, digits")
    parser.add_argument("--size", type=number, default=32, help="of images, in pixels (default 32)")
    parser.add_argument("--steps", type=number, default=600, help="train steps (default 600)")
    parser.add_argument("--seeds", type=number, default=1, help="runs of each (default 1)")
    parser.add_argument("--gray", "--grey", action="store_true", help="read one color, not three")
    parser.add_argument("--out", type=Path, default=Path("demo/folder"), help="for the results")
    commands = parser.add_subparsers(dest="command", metavar="predict")
    predicting = commands.add_parser("predict", help="apply a trained net to a folder of images")
    predicting.add_argument("model", type=Path, help="model.npz, as training has written it")
    predicting.add_argument("folder", type=Path, help="images, also in folders of the folder")
    predicting.add_argument("--out", type=Path, dest="to", help="folder (default: the model's)")
    args = parser.parse_args()
    try:
        (predict if args.command else compare)(args)
    except images.ImagesError as error:
        raise SystemExit(f"train_folder.py: error: {error}") from None


if __name__ == "__main__":
    main()
