"""Trains a small network on long-tailed handwritten digits with SGD, Adam, Muon and INSGD.

    python examples/imbalanced_digits.py

Each trains with cross-entropy and with the balanced softmax, whose class frequencies come from the
optimizer's state. Each runs at a constant learning rate and with a cosine to zero.

Every row of the table has two learning rates. Untuned is the optimizer's usual one. Tuned is the
best of those tried, by balanced accuracy on a validation split. Both are trained on new seeds and
read once on the test split. About three minutes on two cores.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
import optax

matplotlib.use("Agg")  # writes files, needs no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import digits_task
from digits_training import ABLATION, CONTENDERS, Result, Trainer, compare
from report import COLORS, percent, table

# By factors: the line of a curve, and its text in the legend.
STYLES = {
    (): (":", "cross-entropy"),
    ("class",): ("-", "with class factor"),
    ("history",): ("-.", "with history factor"),
    ("class", "history"): ("--", "with both factors"),
}
SCHEDULES = {"constant": "constant learning rate", "cosine": "cosine to zero"}
NUM_RARE = 4
GRAY = "0.35"
HEADER = (
    "schedule | optimizer | untuned rate | balanced accuracy | worst recall"
    " | tuned rate | balanced accuracy | worst recall | accuracy | state"
).split(" | ")


def whole_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def ratio(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 1 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, got {text!r}")
    return number


def folder(text: str) -> Path:
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder or a new name, and {text!r} is a file")
    return Path(text)


OPTIONS = (
    ("--imbalance", ratio, 50.0, "RATIO", "examples of digit 0 for one of digit 9; 1 is balanced"),
    ("--steps", whole_number, 600, "N", "train steps of a run"),
    ("--batch-size", whole_number, 32, "N", "examples in a train step"),
    ("--seeds", whole_number, 5, "N", "reported runs; a seed decides weights and data order"),
    ("--trials", whole_number, 7, "N", "learning rates tried for every row, over three decades"),
    ("--search-seeds", whole_number, 3, "N", "runs of each learning rate tried, on other seeds"),
    ("--out", folder, Path("demo"), "FOLDER", "where the figure and the table (as JSON) go"),
)
QUICK = {"steps": 60, "seeds": 2, "trials": 3, "search_seeds": 1}
QUICK_HELP = "half a minute instead of three, with scores that mean nothing: " + " ".join(
    f"--{name.replace('_', '-')} {value}" for name, value in QUICK.items()
)


def main() -> None:
    args = parse_arguments()
    began = time.perf_counter()
    try:
        digits = digits_task.load(args.imbalance)
    except ValueError as error:
        raise SystemExit(f"imbalanced_digits.py: error: argument --{error}") from None
    args.out.mkdir(parents=True, exist_ok=True)
    counts = digits.train_counts()
    print(f"{sum(counts)} training examples; of the digits 0 to 9: {counts}")

    trainer = Trainer(digits, args.steps, args.batch_size)
    contenders = ABLATION if args.ablation else CONTENDERS
    results = compare(contenders, trainer, args.trials, args.search_seeds, args.seeds)
    seconds = time.perf_counter() - began

    settings = vars(args) | {"out": str(args.out), "train_counts": counts, "seconds": seconds}
    write_json(args.out / "results.json", settings, results)
    title = (
        f"Handwritten digits, imbalance {args.imbalance:g}: {args.steps} steps of "
        f"{args.batch_size} images, {args.seeds} seeds, {seconds:.0f} s for all runs"
    )
    draw(args.out / "imbalanced_digits.png", title, trainer.checkpoints, counts, results)
    show(args, results, seconds)


def cells(result: Result) -> list[str]:
    """A row of the table."""
    pair = [
        [f"{each.rate:g}", percent(each.balanced_accuracy), percent(each.worst_recall)]
        for each in (result.untuned, result.tuned)
    ]
    size = f"{result.contender.state_size():,}"
    return [result.schedule, result.contender.name, *pair[0], *pair[1],
            percent(result.tuned.accuracy), size]  # fmt: skip


def write_json(path: Path, settings: dict[str, Any], results: list[Result]) -> None:
    """Everything that the table and the figure show, seed by seed."""
    versions = {"jax": jax.__version__, "optax": optax.__version__}
    shown = [
        {"optimizer": each.contender.name, "schedule": each.schedule, "tried": each.search}
        | {name: vars(getattr(each, name)) for name in ("untuned", "tuned")}
        for each in results
    ]
    report = {"settings": settings, "versions": versions, "results": shown}
    path.write_text(json.dumps(report, indent=2, default=lambda array: array.tolist()) + "\n")


def show(args: argparse.Namespace, results: list[Result], seconds: float) -> None:
    print(f"\nTest split, in percent: mean ± standard deviation over {args.seeds} seeds\n")
    print(table(HEADER, [cells(each) for each in results], texts=2))
    print(
        "\nUntuned: the optimizer's usual default. Tuned: the best rate on the validation split.\n"
        f"Rates tried for each row: {args.trials}, with seeds: {args.search_seeds}. "
        "State: numbers that the optimizer keeps between steps."
    )
    for result in results:
        if result.rate_is_at_an_edge:
            print(
                f"{result.contender.name}, {result.schedule}: "
                "the best rate is at an edge of those tried."
            )
    print(f"\nDone in {seconds:.0f} s. Written:")
    for name in ("imbalanced_digits.png", "results.json"):
        print(f"  {args.out / name}")


def draw(
    path: Path, title: str, checkpoints: list[int], counts: list[int], results: list[Result]
) -> None:
    """A column for each schedule: convergence, and below it the recall of the rarest digits."""
    figure, axes = plt.subplots(
        2, len(SCHEDULES), figsize=(12, 9), sharex="row", sharey="row", layout="constrained"
    )
    for (above, below), (schedule, text) in zip(axes.T, SCHEDULES.items(), strict=True):
        shown = [result for result in results if result.schedule == schedule]
        above.set_title(f"Convergence, {text}, tuned")
        draw_curves(above, checkpoints, shown)
        below.set_title(f"Rare digits, {text}")
        draw_rare(below, shown)
    axes[0, 0].set(ylabel="validation balanced accuracy (%), mean", ylim=zoom(results))
    *most, rarest = map(str, counts[-NUM_RARE:])
    rare = f"The {NUM_RARE} rarest digits have {', '.join(most)} and {rarest} training examples"
    figure.suptitle(f"{title}\n{rare}")
    figure.legend(handles=legend(results), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def line_of(result: Result) -> str:
    return STYLES[result.contender.factors][0]


def draw_curves(axes: Axes, checkpoints: list[int], results: list[Result]) -> None:
    for result in results:
        mean = 100 * result.tuned.curves.mean(axis=0)
        axes.plot(
            checkpoints, mean, line_of(result), color=COLORS[result.contender.optimizer], lw=1.8
        )
    axes.set(xlabel="training step", xlim=(0, checkpoints[-1]))
    axes.grid(alpha=0.3)


def zoom(results: list[Result]) -> tuple[float, float]:
    """All curves start at chance; they tell the optimizers apart after the first fifth."""
    curves = 100 * np.stack([result.tuned.curves.mean(axis=0) for result in results])
    later = curves[:, curves.shape[1] // 5 :]
    return later.min() - 2, later.max() + 2


def draw_rare(axes: Axes, results: list[Result]) -> None:
    """A hollow mark for the untuned rate, a full one for the tuned rate; lines are ranges."""
    for place, result in enumerate(results):
        color = COLORS[result.contender.optimizer]
        marks = ((result.untuned, -0.15, "white"), (result.tuned, 0.15, color))
        for scores, shift, face in marks:
            recall, height = 100 * scores.recalls[:, -NUM_RARE:].mean(axis=1), place + shift
            axes.plot((recall.min(), recall.max()), (height, height), color=color, lw=1.2)
            axes.plot(recall.mean(), height, "o", color=color, mfc=face, ms=8)
    axes.set_yticks(range(len(results)), [result.contender.name for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel(f"test recall (%) of the {NUM_RARE} rarest digits, mean and range over seeds")
    axes.grid(axis="x", alpha=0.3)


def legend(results: list[Result]) -> list[Line2D]:
    """Colors are optimizers, lines are factors, marks are learning rates."""
    optimizers = dict.fromkeys(result.contender.optimizer for result in results)
    factors = dict.fromkeys(result.contender.factors for result in results)
    marks = {"untuned: the default rate": "white", "tuned on validation images": GRAY}
    keys: list[dict[str, Any]] = [
        *({"color": COLORS[name], "lw": 5, "label": name} for name in optimizers),
        *({"ls": STYLES[each][0], "label": STYLES[each][1]} for each in factors),
        *({"ls": "", "marker": "o", "mfc": face, "label": text} for text, face in marks.items()),
    ]
    return [Line2D([], [], **({"color": GRAY, "ms": 8} | key)) for key in keys]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for flag, kind, default, metavar, text in OPTIONS:
        parser.add_argument(flag, type=kind, default=default, metavar=metavar, help=text)
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="SGD and INSGD with each factor alone and together, instead of all optimizers",
    )
    parser.add_argument("--quick", action="store_true", help=QUICK_HELP)
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


if __name__ == "__main__":
    main()
