"""The picture of docs/how-it-works.md, from a network that trains on scikit-learn's digits.

    python -m theory.picture

Writes docs/figures/how-it-works.png.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import insgd_optax as insgd

PATH = Path(__file__).parent.parent / "docs" / "figures" / "how-it-works.png"
STEPS, WIDTH = 300, 48
STRUCTURES = {
    "SGD, and Scalar": None,
    "Diagonal": insgd.Diagonal(),
    "MeanVariances": insgd.MeanVariances(),
    "LowRank": insgd.LowRank(),
    "Full": insgd.Full(rows=None),
}
COLORS = ("#999999", "#E69F00", "#0072B2", "#009E73", "#CC79A7")


def hidden_inputs() -> Float[np.ndarray, "rows features"]:
    """The inputs of the last layer: behind a ReLU, after training."""
    images, labels = load_digits(return_X_y=True)
    images = jnp.asarray(images / 16, jnp.float32)
    labels = jnp.asarray(labels)
    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": jax.random.normal(keys[0], (64, WIDTH)) / 8,
        "head": jax.random.normal(keys[1], (WIDTH, 10)) / 7,
    }

    def loss_fn(params: dict[str, Array], images: Array, labels: Array) -> Array:
        logits = jax.nn.relu(images @ params["hidden"]) @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer = insgd.insgd()

    @jax.jit
    def train_step(params, state, rows):
        grad_fn = insgd.value_and_grad(loss_fn)
        _, grads, input_stats = grad_fn(params, images[rows], labels[rows])
        updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state

    state, rng = optimizer.init(params), np.random.default_rng(0)
    for _ in range(STEPS):
        params, state = train_step(params, state, rng.choice(len(images), 32))
    return np.asarray(jax.nn.relu(images @ params["hidden"]))


def speeds(
    rows: Float[np.ndarray, "rows features"], structure: insgd.Structure | None
) -> Float[np.ndarray, " features"]:
    """How fast each direction learns: the eigenvalues of ``B A``, with ``B`` kept for ``A⁻¹``."""
    moment = rows.T @ rows / len(rows)
    if structure is None:
        found = np.linalg.eigvalsh(moment)
    else:
        normalize: Any = insgd.scale_by_input(structure, eps=1e-2)
        params = {"w": jnp.eye(rows.shape[1])}
        grad_fn = insgd.value_and_grad(lambda p, x: jnp.sum(x @ p["w"]), structure=structure)
        _, _, input_stats = grad_fn(params, jnp.asarray(rows))
        state = normalize.init(params)
        kept, _ = normalize.update(params, state, params, input_stats=input_stats)
        found = np.linalg.eigvals(np.asarray(kept["w"]) @ moment).real
    return np.sort(np.maximum(found, 1e-12))[::-1]


def draw_moment(axes: Axes, rows: Float[np.ndarray, "rows features"]) -> None:
    moment = rows.T @ rows / len(rows)
    order = np.argsort(-np.diag(moment))
    shown = axes.imshow(moment[np.ix_(order, order)], cmap="magma_r")
    axes.set(title="A = E[x xᵀ], behind a ReLU", xlabel="feature", ylabel="feature")
    axes.figure.colorbar(shown, ax=axes, shrink=0.75)


def draw_mean(axes: Axes, rows: Float[np.ndarray, "rows features"]) -> None:
    order = np.argsort(-np.mean(rows**2, axis=0))
    mean, deviation = rows.mean(axis=0)[order], rows.std(axis=0)[order]
    places = np.arange(len(order))
    axes.bar(places, mean, color="#0072B2", width=0.9, label="mean")
    axes.plot(places, deviation, "o", color="#D55E00", ms=3, label="standard deviation")
    axes.set(title="MeanVariances keeps two numbers each", xlabel="feature")
    axes.legend(frameon=False)


def draw_speeds(axes: Axes, rows: Float[np.ndarray, "rows features"]) -> None:
    for (name, structure), color in zip(STRUCTURES.items(), COLORS, strict=True):
        found = speeds(rows, structure)
        axes.plot(np.arange(1, len(found) + 1), found / found[0], color=color, label=name)
    axes.set(
        title="speed of each direction / the fastest", xlabel="direction",
        xscale="log", yscale="log", ylim=(1e-4, 1.5),
    )  # fmt: skip
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    rows = hidden_inputs()
    figure = Figure(figsize=(12, 3.6), dpi=120, layout="constrained")
    panels = draw_moment, draw_mean, draw_speeds
    for axes, draw in zip(figure.subplots(1, 3), panels, strict=True):
        draw(axes, rows)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PATH, metadata={"Software": None})


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
