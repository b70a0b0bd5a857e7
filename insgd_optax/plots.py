"""plots: figures of the results of `inspect`. Needs matplotlib."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.figure import Figure

PANELS = {
    "input_power": "mean square of the inputs",
    "mean_share": "mean input, share of that",
    "effective_rank": "effective rank of the inputs",
    "output_size": "size of the outputs",
    "step": "step, share of the output",
}
LINEAR = ("mean_share",)  # all others have a logarithmic axis
MOST_NAMES = 12  # in the legend


def layers(records: Sequence[Mapping[str, ArrayLike]], steps: Sequence[int] = ()) -> Figure:
    """Plots a panel for each metric of `inspect`, with a line for each layer.

    Lines go from dark to light in path order.

    Names without a path, such as a loss, are left out.

    Args:
      records: the results of `inspect`, in the order of the run.
      steps: the training step of each record; 0, 1, 2, ... by default.

    Returns:
      A figure without a window. Save it with ``figure.savefig("layers.png")``.

    Raises:
      ValueError: if there are no records, or if the numbers of records and steps differ.
    """
    places = list(steps) or list(range(len(records)))
    if not records or len(places) != len(records):
        raise ValueError(f"There are {len(records)} records for {len(places)} steps.")
    paths = list(dict.fromkeys(name.rpartition("/")[0] for name in records[0] if "/" in name))
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(paths)))
    shown = [name for name in PANELS if any(f"{path}/{name}" in records[0] for path in paths)]
    figure = Figure(figsize=(3.2 * len(shown), 3.4), dpi=120, layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for path, color in zip(paths, shades, strict=True):
            values = [float(np.asarray(each.get(f"{path}/{name}", np.nan))) for each in records]
            axes.plot(places, values, color=color, linewidth=1.2, label=path)
        axes.set(title=PANELS[name], xlabel="step", yscale="linear" if name in LINEAR else "log")
        axes.title.set_fontsize(9)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, paths)
    return figure


def _legend(figure: Figure, paths: list[str]) -> None:
    """Adds the layers' names, or some of them for a deep network."""
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    places = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MOST_NAMES)).astype(int))
    chosen = [paths[place] for place in places]
    handles = [lines[path] for path in chosen]
    figure.legend(handles, chosen, loc="outside right center", frameon=False, fontsize=7)
