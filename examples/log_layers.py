"""Logs each layer's inputs and steps while a network trains, to a CSV file and a figure.

    python examples/log_layers.py

`insgd_optax.inspect` returns a dictionary of scalars, so any logger takes it. Here it is a CSV
file, and with ``--tensorboard`` also TensorBoard's files (``pip install tensorboardX``). Half of
the pixels are made a hundred times brighter, which the figure shows. About ten seconds.
"""

import argparse
import csv
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from tqdm import tqdm

import insgd_optax as insgd
import report
from insgd_optax import plots


class Net(nn.Module):
    """Three dense layers."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = nn.relu(nn.Dense(64, name="first")(images))
        hidden = nn.relu(nn.Dense(64, name="second")(hidden))
        return nn.Dense(10, name="head")(hidden)


def main() -> None:
    args = parse_arguments()
    images, labels = load_digits(return_X_y=True)
    images = images / 16 * np.where(np.arange(64) < 32, 1.0, 100.0)
    images, labels = images.astype(np.float32), labels.astype(np.int32)
    model, optimizer = Net(), insgd.insgd()

    def loss_fn(params, images, labels):
        logits = jnp.asarray(model.apply({"params": params}, images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def train_step(params, state, images, labels):
        loss, grads, input_stats = insgd.value_and_grad(loss_fn)(params, images, labels)
        updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
        measured = {"loss": loss, **insgd.inspect(params, input_stats, updates=updates)}
        return optax.apply_updates(params, updates), state, measured

    params = model.init(jax.random.key(0), images[:1])["params"]
    state = optimizer.init(params)
    rng, steps, records = np.random.default_rng(0), [], []
    for step in tqdm(range(args.steps), "training", disable=None):
        rows = rng.choice(len(images), 32, replace=False)
        params, state, measured = train_step(params, state, images[rows], labels[rows])
        if step % args.every == 0:
            steps.append(step)
            records.append({name: float(value) for name, value in measured.items()})

    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "layers.csv", steps, records)
    if args.tensorboard:
        write_events(args.out / "tensorboard", steps, records)
    plots.layers(records, steps).savefig(args.out / "layers.png")
    print(table(records[-1]))
    print(f"\nWritten: {args.out / 'layers.csv'} and {args.out / 'layers.png'}")


def table(record: dict[str, float]) -> str:
    """The last step, with a line for each layer."""
    layers = dict.fromkeys(name.rpartition("/")[0] for name in record if "/" in name)
    rows = [
        [layer, *(f"{record[f'{layer}/{name}']:.3g}" for name in plots.PANELS)] for layer in layers
    ]
    return report.table(["at the last step", *plots.PANELS], rows)


def write_csv(path: Path, steps: list[int], records: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *records[0]])
        writer.writeheader()
        writer.writerows({"step": step, **each} for step, each in zip(steps, records, strict=True))


def write_events(folder: Path, steps: list[int], records: list[dict[str, float]]) -> None:
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    with SummaryWriter(str(folder)) as writer:
        for step, each in zip(steps, records, strict=True):
            for name, value in each.items():
                writer.add_scalar(name, value, step)


def parse_arguments() -> argparse.Namespace:
    parser = report.options(__doc__, steps=500)
    parser.add_argument("--every", type=int, default=10, help="steps between two records")
    parser.add_argument("--tensorboard", action="store_true", help="also write its event files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
