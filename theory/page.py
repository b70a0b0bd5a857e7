"""The page: every theorem's docstring, its numbers and its figure."""

import inspect
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax

import insgd_optax as insgd
from theory import (
    convolution,
    identities,
    lms,
    mean_square,
    projection,
    spectrum,
    stability,
    variants,
)
from theory.check import Check, number
from theory.figures import write_figures

Experiment = Callable[[], list[Check]]

SECTIONS: tuple[Experiment, ...] = (
    identities.t1,
    identities.t2,
    identities.t3,
    mean_square.t4,
    mean_square.t5,
    variants.t6,
    mean_square.t7,
    mean_square.t8,
    mean_square.t9,
    stability.t10,
    lms.t11,
    projection.t12,
    projection.t13,
    identities.t14,
    projection.t15,
    projection.t16,
    variants.t17,
    variants.t18,
    variants.t19,
    variants.t20,
    identities.t21,
    convolution.t22,
    stability.guard,
    spectrum.structures,
)

# The figure under a section: its name and its caption.
FIGURES = {
    mean_square.t4: ("learning-curves", "Learning curves of normalized LMS for four step sizes"),
    mean_square.t9: ("misadjustment", "Excess error against the step size"),
    stability.guard: ("stability", "Stability bounds of T8, and the worst growth of a step"),
    projection.t16: ("projection", "Learning curves and eigenvalues of the richer filters"),
    spectrum.structures: ("structures", "Eigenvalues and the slowest mode with each structure"),
}

INTRODUCTION = """\
# Theory, measured

Each section states a theorem, its proof and a table of predictions and measurements. One command
runs every experiment through the public functions, writes this page and draws its figures:

    python -m theory

The setting is that of adaptive filters: one linear layer with one output. The target is
y = x·w* + v, with d input features x and noise v of variance s². The error is e = y - x·w. The loss
is e²/2, averaged over the b examples of a batch. The weights are off by w̃ = w* - w. Without its
noise the error is e_a = x·w̃ before a step and e_p after it. Learning means that w̃ gets shorter, so
most theorems are about ‖w̃‖².

*Normalized LMS* (NLMS) is `insgd.nlms(μ, eps=0.0)`. A *running power* is `insgd.insgd(μ / d,
structure=insgd.Scalar(), momentum=None, guard=False, relative=0)`. Here `Scalar` divides by
‖x‖² / d. Where a theorem needs E‖x‖² exactly, it replaces the captured sums.

Numbers have four digits. Values below 10⁻⁹ are written as 0. Everything runs in float64. The seeds
are in the code, so every run gives the same numbers. A prediction with ≤ or ≥ is a bound. Made with
{versions}.

The first theorem, by hand:

```python
import jax.numpy as jnp
import insgd_optax as insgd

x, target = jnp.array([3.0, -1.0, 2.0]), 5.0
params = {{"w": jnp.array([0.5, 0.0, -1.0])}}
grad_fn = insgd.value_and_grad(
    lambda params, x: (target - x @ params["w"]) ** 2 / 2, structure=insgd.Scalar()
)
_, grads, input_stats = grad_fn(params, x)
tx = insgd.nlms(0.5, eps=0.0)
updates, _ = tx.update(grads, tx.init(params), params, input_stats=input_stats)
before = target - x @ params["w"]
after = target - x @ (params["w"] + updates["w"])
assert abs(after / before - (1 - 0.5)) < 1e-6
```
"""


def versions() -> str:
    made_with = {
        "insgd_optax": insgd.__version__,
        "jax": jax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in made_with.items())


def table(checks: list[Check]) -> str:
    signs = {"equal": "", "at most": "≤ ", "at least": "≥ "}
    lines = ["| | predicted | measured |", "|---|---:|---:|"]
    for check in checks:
        label = check.label.replace("|", "\\|")
        predicted = signs[check.kind] + number(check.predicted)
        lines.append(f"| {label} | {predicted} | {number(check.measured)} |")
    return "\n".join(lines)


def heading(experiment: Experiment) -> str:
    """The first line of the docstring."""
    return "### " + (inspect.getdoc(experiment) or "").partition("\n")[0].removesuffix(".")


def section(experiment: Experiment) -> str:
    """The docstring with its first line as a heading, the numbers, and the figure if any.

    Raises:
      RuntimeError: if a prediction does not hold. The page never shows one that fails.
    """
    title, _, text = (inspect.getdoc(experiment) or "").partition("\n")
    checks = experiment()
    if failed := [check for check in checks if not check.holds]:
        raise RuntimeError(f"{title}\n" + "\n".join(map(str, failed)))
    parts = [heading(experiment), text.strip().replace("Source: ", "*Source:* "), table(checks)]
    if experiment in FIGURES:
        name, caption = FIGURES[experiment]
        parts.append(f"![{caption}](figures/theory-{name}.png)")
    return "\n\n".join(parts)


def write_page(folder: Path) -> None:
    """Writes ``theory.md`` and ``figures/theory-*.png``."""
    parts = [INTRODUCTION.format(versions=versions())]
    parts += [section(experiment) for experiment in SECTIONS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "theory.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")
    write_figures(folder / "figures")
