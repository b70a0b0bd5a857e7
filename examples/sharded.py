"""Trains on eight devices at once, and compares the losses with those of one device.

    python examples/sharded.py

The train step is the one for a single device. Only the arrays change: each device holds an eighth
of every batch and a copy of the parameters. JAX adds up gradients and statistics by itself. The
losses are equal but for rounding. Without accelerators the devices are virtual ones on the CPU,
which is good for a test and not for speed. About 20 seconds.
"""

import os

# Must be set before JAX starts. It makes eight devices of the CPU and leaves accelerators alone.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from tqdm import tqdm

import digits
import images
import insgd_optax as insgd
import report

OPTIMIZERS = {"Adam": optax.adam(1e-3), "INSGD": insgd.insgd()}
WIDTHS = 64, 64, 64, 10


def initial_params(seed: int) -> dict[str, Float[Array, "..."]]:
    params = {}
    keys = jax.random.split(jax.random.key(seed), 3)
    for layer, (key, shape) in enumerate(zip(keys, pairwise(WIDTHS), strict=True), start=1):
        params[f"kernel{layer}"] = jax.random.normal(key, shape) * (2 / shape[0]) ** 0.5
        params[f"bias{layer}"] = jnp.zeros(shape[1])
    return params


def predict(params, images: Float[Array | np.ndarray, "batch 8 8 1"]) -> Float[Array, "batch 10"]:
    hidden = images.reshape(len(images), -1)
    hidden = jax.nn.relu(hidden @ params["kernel1"] + params["bias1"])
    hidden = jax.nn.relu(hidden @ params["kernel2"] + params["bias2"])
    return hidden @ params["kernel3"] + params["bias3"]


def loss_fn(params, batch: images.Examples) -> Float[Array, ""]:
    logits = predict(params, batch.images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()


@partial(jax.jit, static_argnames="optimizer")
def train_step(optimizer, params, state, batch):
    loss, grads, input_stats = insgd.value_and_grad(loss_fn)(params, batch)
    updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
    return optax.apply_updates(params, updates), state, loss


def train(name: str, devices: Sequence, data: images.Examples, size: int, steps: int):
    """The losses and the final parameters of a run on these devices."""
    automatic = (AxisType.Auto,)
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=automatic, devices=devices)
    everywhere, divided = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    optimizer = OPTIMIZERS[name]
    params = jax.device_put(initial_params(seed=0), everywhere)
    state = jax.device_put(optimizer.init(params), everywhere)
    losses = []
    for batch in tqdm(images.batches(data, size, steps, seed=0), name, total=steps, disable=None):
        batch = jax.device_put(batch, divided)  # each device gets its rows
        params, state, loss = train_step(optimizer, params, state, batch)
        losses.append(float(loss))
    if name == "INSGD":
        insgd.check_state(state, params)  # raises if the devices' copies of the state differ
    return losses, params


def main() -> None:
    args = report.options(__doc__, steps=300).parse_args()
    data, test = digits.load()
    # A single accelerator has none to share the work with.
    devices = jax.devices() if jax.device_count() > 1 else jax.devices("cpu")
    size = 8 * len(devices)
    print(f"{len(devices)} devices ({devices[0].device_kind}), {size} images a step\n")
    curves, rows = {}, []
    for name in OPTIMIZERS:
        for number in (1, len(devices)):
            curves[name, number], params = train(name, devices[:number], data, size, args.steps)
            accuracy = np.mean(predict(params, test.images).argmax(axis=-1) == test.labels)
            gap = np.abs(np.subtract(curves[name, number], curves[name, 1])).max()
            last = f"{curves[name, number][-1]:.6f}"
            rows.append([name, str(number), f"{100 * accuracy:.1f}", last, f"{gap:.1e}"])
    header = "optimizer", "devices", "test accuracy (%)", "last loss", "largest difference"
    print(report.table(header, rows))
    print("\nDifferences are between the losses of a step and those of one device.")
    args.out.mkdir(parents=True, exist_ok=True)
    draw(args.out / "sharded.png", len(devices), curves)
    print(f"Written: {args.out / 'sharded.png'}")


def draw(path: Path, many: int, curves: dict[tuple[str, int], list[float]]) -> None:
    """The losses of one device as wide lines, those of many on top, and the differences below."""
    figure = Figure(figsize=(8, 6.5), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for name in OPTIMIZERS:
        color = report.COLORS[name]
        one, other = curves[name, 1], curves[name, many]
        above.plot(one, color=color, lw=5, alpha=0.35, label=f"{name}, 1 device")
        above.plot(other, color=color, lw=1, label=f"{name}, {many} devices")
        below.plot(np.abs(np.subtract(one, other)) / one, ".", color=color, ms=4)
    above.set(ylabel="loss of the batch", yscale="log")
    above.legend()
    below.axhline(np.finfo(np.float32).eps, color="0.35", ls=":", label="precision of float32")
    below.set(xlabel="training step", ylabel="difference, share of the loss")
    below.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
