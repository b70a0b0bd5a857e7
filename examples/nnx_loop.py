"""Trains a Flax NNX network with a schedule, and measures it with NNX metrics.

    python examples/nnx_loop.py

The module holds the running averages of BatchNorm and the random state of Dropout. The train step
changes them in place, as it does with the metrics. Each optimizer starts at its usual peak rate,
and a cosine takes it to zero. All numbers are means over 3 seeds. About 30 seconds.
"""

from pathlib import Path

import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from tqdm import tqdm

import digits
import images
import insgd_optax as insgd
import report

SEEDS, BATCH_SIZE, EVERY = range(3), 32, 20


class Net(nnx.Module):
    """Two convolutions with BatchNorm, then Dropout and a linear layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(2 * 2 * 32, 10, rngs=rngs)

    def __call__(self, images: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch 10"]:
        hidden = nnx.avg_pool(nnx.relu(self.norm1(self.conv1(images))), (2, 2), (2, 2))
        hidden = nnx.avg_pool(nnx.relu(self.norm2(self.conv2(hidden))), (2, 2), (2, 2))
        return self.head(self.dropout(hidden.reshape(len(images), -1)))


def loss_fn(
    model: Net, images: Float[Array, "batch 8 8 1"], labels: Array
) -> tuple[Float[Array, ""], Float[Array, "batch 10"]]:
    logits = model(images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), logits


@nnx.jit
def train_step(model, optimizer, metrics, images, labels) -> None:
    grad_fn = insgd.nnx.value_and_grad(loss_fn, has_aux=True)
    (loss, logits), grads, input_stats = grad_fn(model, images, labels)
    optimizer.update(model, grads, input_stats=input_stats)  # Adam ignores the statistics
    metrics.update(loss=loss, logits=logits, labels=labels)


@nnx.jit
def eval_step(model, metrics, images, labels) -> None:
    loss, logits = loss_fn(model, images, labels)
    metrics.update(loss=loss, logits=logits, labels=labels)


def new_metrics() -> nnx.MultiMetric:
    return nnx.MultiMetric(loss=nnx.metrics.Average("loss"), accuracy=nnx.metrics.Accuracy())


def train(
    transform: optax.GradientTransformation, data, test, steps: int, seed: int
) -> dict[str, list[float]]:
    """The metrics of every 20 train steps, and of the test split after them, by name."""
    model = Net(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    train_metrics, test_metrics = new_metrics(), new_metrics()
    records = {name: [] for name in ("train loss", "train accuracy", "test loss", "test accuracy")}
    for step, batch in enumerate(images.batches(data, BATCH_SIZE, steps, seed), start=1):
        model.train()
        train_step(model, optimizer, train_metrics, *batch)
        if step % EVERY == 0 or step == steps:
            model.eval()
            eval_step(model, test_metrics, *test)
            for split, metrics in (("train", train_metrics), ("test", test_metrics)):
                for name, value in metrics.compute().items():
                    records[f"{split} {name}"].append(float(value))
                metrics.reset()
    return records


def main() -> None:
    args = report.options(__doc__, steps=600).parse_args()
    data, test = digits.load()
    transforms = {
        "Adam": optax.adam(optax.cosine_decay_schedule(1e-3, args.steps)),
        "INSGD": insgd.insgd(optax.cosine_decay_schedule(0.04, args.steps)),
    }
    results = {}
    for name, transform in transforms.items():
        bar = tqdm(SEEDS, name, unit=" runs", disable=None)
        runs = [train(transform, data, test, args.steps, seed) for seed in bar]
        results[name] = {each: np.array([run[each] for run in runs]) for each in runs[0]}

    rows = [
        [name, *(f"{each[:, -1].mean():.3f}" for each in values.values())]
        for name, values in results.items()
    ]
    print(report.table(["optimizer", *results["Adam"]], rows))
    print(
        f"\nAfter {args.steps} steps, each at its usual rate, untuned. Train metrics have Dropout."
    )
    args.out.mkdir(parents=True, exist_ok=True)
    draw(args.out / "nnx_loop.png", args.steps, results)
    print(f"Written: {args.out / 'nnx_loop.png'}")


def draw(path: Path, steps: int, results: dict[str, dict[str, np.ndarray]]) -> None:
    """Metrics of the train batches, dotted, and of the test split."""
    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for name, values in results.items():
            for split, line in (("train", ":"), ("test", "-")):
                mean = values[f"{split} {metric}"].mean(axis=0)
                places = np.minimum(EVERY * np.arange(1, len(mean) + 1), steps)
                axes.plot(places, mean, line, color=report.COLORS[name], label=f"{name}, {split}")
        axes.set(xlabel="training step", ylabel=metric)
        axes.grid(alpha=0.3)
    figure.axes[0].set_yscale("log")
    figure.axes[1].legend(loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
