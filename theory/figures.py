"""The page's figures: predictions are lines, measurements are points or solid curves."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np

matplotlib.use("Agg")  # writes files, needs no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.check import number
from theory.filters import nlms, normal, running_power, squared_errors
from theory.mean_square import (
    contraction,
    misadjustment,
    nlms_contraction,
    nlms_misadjustment,
    power_bound,
    power_contraction,
    power_misadjustment,
)
from theory.projection import learning_on_a_correlated_signal, transformed_spectra
from theory.spectrum import STRUCTURES, slowest_mode, spectrum
from theory.stability import worst_growth

# Okabe and Ito's palette with distinct markers, for color-blind readers and for print.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v")
FEATURES = 8


def _axes(panels: int) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(
        1, panels, figsize=(4.9 * panels + 1.5 * (panels == 1), 3.9), dpi=110, squeeze=False
    )
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return figure, list(axes[0])


def learning_curves() -> Figure:
    """E‖w̃‖² of normalized LMS as the mean of 400 runs, against T4."""
    figure, (axis,) = _axes(1)
    inputs, steps = normal(70, 400, 120, 1, FEATURES), np.arange(121)
    for color, marker, step_size in zip(COLORS, MARKERS, (0.1, 0.3, 1.0, 1.8), strict=False):
        noise = jnp.zeros(inputs.shape[:3])
        lengths = squared_errors(nlms, jnp.asarray(step_size), inputs, noise)
        measured, label = np.asarray(lengths).mean(axis=0), f"μ = {step_size:g}"
        axis.plot(steps[::8], measured[::8], marker, color=color, markersize=4.5, label=label)
        axis.plot(steps, nlms_contraction(step_size, FEATURES) ** steps, color=color, lw=1.2)
    axis.set(yscale="log", ylim=(1e-5, 1.6), xlabel="step", ylabel="E‖w̃‖², relative to the start")
    axis.set_title("Normalized LMS without noise, d = 8: points measured, lines T4", fontsize=10)
    axis.legend(frameon=False, ncols=2, loc="lower left")
    return figure


def misadjustments() -> Figure:
    """Excess error from noise by step size, against T5 and T9."""
    figure, (axis,) = _axes(1)
    lines = np.linspace(0.05, 1.5, 100)
    axis.plot(lines, nlms_misadjustment(lines, FEATURES), color=COLORS[0], lw=1.2)
    points = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    found = [misadjustment(nlms, mu, (1, FEATURES))[0] for mu in points]
    axis.plot(points, found, "o", color=COLORS[0], label="NLMS, b = 1 (T5)")
    for color, marker, batch in zip(COLORS[1:], MARKERS[1:], (1, 4), strict=False):
        shown = [mu for mu in points if mu < 0.9 * power_bound(FEATURES, batch)]
        line = lines[lines < 0.93 * power_bound(FEATURES, batch)]
        found = [misadjustment(running_power, mu, (batch, FEATURES), 1.0)[0] for mu in shown]
        axis.plot(line, power_misadjustment(line, FEATURES, batch), color=color, lw=1.2)
        axis.plot(shown, found, marker, color=color, label=f"running power, b = {batch} (T9)")
    axis.axvline(power_bound(FEATURES, 1), color=COLORS[1], ls=":", lw=1.2)
    axis.text(1.61, 0.012, "bound T8,\nb = 1", fontsize=8, color="#9A6A00")
    axis.set(yscale="log", ylim=(0.009, 12), xlim=(0, 1.75))
    axis.set(xlabel="step size μ", ylabel="excess error / noise variance")
    axis.set_title("The cost of noise, d = 8: points measured, lines predicted", fontsize=10)
    axis.legend(frameon=False, loc="upper left")
    return figure


def stability() -> Figure:
    """Growth of E‖w̃‖² by μ with T8's bounds, and the worst growth with and without guard."""
    figure, (left, right) = _axes(2)
    for color, marker, batch in zip(COLORS, MARKERS, (1, 4, 16), strict=False):
        bound = power_bound(FEATURES, batch)
        lines, points = np.linspace(0, 1.25 * bound, 60), np.linspace(0.15, 1.2, 7) * bound
        shape, runs = (batch, FEATURES), 400 // batch
        found = [contraction(running_power, float(mu), shape, runs, 1.0)[0] for mu in points]
        label = f"b = {batch}, bound {bound:.3g}"
        left.plot(lines, power_contraction(lines, FEATURES, batch), color=color, lw=1.2)
        left.plot(points, found, marker, color=color, markersize=5, label=label)
        left.axvline(bound, color=color, ls=":", lw=1.2)
    left.axhline(1, color="black", lw=0.8)
    left.set(xlabel="step size μ", ylabel="growth of E‖w̃‖² per step")
    left.set(xlim=(0, None), ylim=(0.25, 2))
    left.set_title("Running power, d = 8: points measured, lines T7", fontsize=10)
    left.legend(loc="upper left", framealpha=1, edgecolor="none")
    _guard_bars(right)
    return figure


def _guard_bars(axis: Axes) -> None:
    worst = worst_growth()
    for place, guarded in enumerate((False, True)):
        heights = [worst[batch, guarded] for batch in (1, 4)]
        # Bars start at 0.5, so a bar that ends at 1 is visible.
        bars = axis.bar(
            np.arange(2) + 0.4 * place - 0.2, np.asarray(heights) - 0.5, 0.36, bottom=0.5,
            color=COLORS[place], label="with guard" if guarded else "without guard",
        )  # fmt: skip
        axis.bar_label(bars, [number(height) for height in heights], padding=2)
    axis.axhline(1, color="black", lw=0.8)
    axis.set(yscale="log", ylim=(0.5, 2e5), ylabel="worst one-step growth of ‖w̃‖²")
    axis.set_xticks([0, 1], ["b = 1", "b = 4"])
    axis.grid(axis="x", visible=False)
    axis.set_title("Heavy-tailed inputs, d = 4, μ = 1.9, 4000 steps", fontsize=10)
    axis.legend(frameon=False, loc="upper right")


def spectra() -> Figure:
    """Eigenvalues under every structure, and how fast the slowest mode learns."""
    figure, (left, right) = _axes(2)
    styles = zip(COLORS, MARKERS, STRUCTURES.items(), strict=False)
    for place, (color, marker, (name, structure)) in enumerate(styles):
        found = spectrum(structure)
        modes = np.arange(len(found.values)) + 1 + 0.17 * (place - 2)
        label = f"{name}: spread {number(found.spread)}"
        left.bar(modes, found.values, 0.16, color=color, label=label)
        steps = np.arange(len(found.curve))
        right.plot(steps, slowest_mode(found), color=color, lw=1.2)
        shown = slice(3 * place, None, 9)  # two of the curves coincide
        right.plot(steps[shown], found.curve[shown], marker, color=color, markersize=5, label=name)
    left.set(yscale="log", ylim=(1e-3, 1e5), xlabel="mode", ylabel="eigenvalue")
    left.set_title("Six correlated features in different units", fontsize=10)
    left.legend(frameon=False, loc="upper right")
    right.set(xlabel="step, with the learning rate $1/\\lambda_{\\max}$", ylim=(0, 1.05))
    right.set(ylabel="length of the slowest mode")
    right.set_title("Points measured, lines from the eigenvalues", fontsize=10)
    right.legend(frameon=False, loc="lower left")
    return figure


def richer_filters() -> Figure:
    """Learning on a correlated signal (mean of 50 runs), and the eigenvalues of T16."""
    figure, (left, right) = _axes(2)
    for color, (name, curve) in zip(
        COLORS, learning_on_a_correlated_signal().items(), strict=False
    ):
        left.plot(np.arange(len(curve)), curve, color=color, lw=1.4, label=name)
    left.set(yscale="log", xlabel="sample", ylabel="E‖w̃‖², relative to the start")
    left.set_title("AR(1) input, ρ = 0.9, d = 8, noise of 1 %", fontsize=10)
    left.legend(frameon=False, loc="upper right", fontsize=9)
    for color, (name, values) in zip(COLORS, transformed_spectra(), strict=False):
        label = f"{name}: spread {number(float(values.max() / values.min()))}"
        right.plot(np.arange(1, len(values) + 1), values, color=color, lw=1.6, label=label)
    right.axhline(1, color="black", lw=0.8)
    right.set(yscale="log", xlabel="mode", ylabel="eigenvalue of $M^{-1}R$")
    right.set_title("Transform-domain LMS, ρ = 0.9, d = 256", fontsize=10)
    right.legend(frameon=False, loc="upper right", fontsize=9)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "learning-curves": learning_curves,
    "misadjustment": misadjustments,
    "stability": stability,
    "projection": richer_filters,
    "structures": spectra,
}


def write_figures(folder: Path) -> None:
    """Writes ``theory-*.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw()
        figure.tight_layout()
        # Matplotlib's version would make equal pictures differ as files.
        figure.savefig(folder / f"theory-{name}.png", metadata={"Software": None})
        plt.close(figure)
