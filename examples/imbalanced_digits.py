"""Trains a small network on long-tailed handwritten digits with SGD, Adam, Muon and INSGD.

Each with cross-entropy and with the balanced softmax, whose class frequencies come from the
optimizer's state; at a constant learning rate and with a cosine to zero.

Every row of the table has two learning rates. Untuned is the optimizer's usual default. Tuned is
the best of those tried, by balanced accuracy on a validation split. Both are trained on new seeds
and read once on the test split.
"""

import argparse
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import digits_task
from digits_report import Result, draw, table, write_json
from digits_task import Scores
from digits_training import ABLATION, CONTENDERS, SCHEDULES, Contender, Run, Setting, Trainer


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
FIRST_SEARCH_SEED = 1000  # far from the seeds that are reported
THREADS = 4  # more would wait for Python's lock


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
    results = compare(ABLATION if args.ablation else CONTENDERS, trainer, args)
    seconds = time.perf_counter() - began

    settings = vars(args) | {"out": str(args.out), "train_counts": counts, "seconds": seconds}
    write_json(args.out / "results.json", settings, results)
    title = (
        f"Handwritten digits, imbalance {args.imbalance:g}: {args.steps} steps of "
        f"{args.batch_size} images, {args.seeds} seeds, {seconds:.0f} s for all runs"
    )
    draw(args.out / "imbalanced_digits.png", title, trainer.checkpoints, counts, results)
    show(args, results, seconds)


def compare(
    contenders: tuple[Contender, ...], trainer: Trainer, args: argparse.Namespace
) -> list[Result]:
    """Searches a rate for every contender and schedule, then trains with it on fresh seeds."""
    tried = [
        Setting(contender, schedule, contender.rates(args.trials)[trial])
        for trial in range(args.trials)
        for schedule in SCHEDULES
        for contender in contenders
    ]
    seeds = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + args.search_seeds)
    searched = train(replace(trainer, checks=1), tried, seeds, "learning rates")

    rows = [(contender, schedule) for schedule in SCHEDULES for contender in contenders]
    searches: dict[tuple[Contender, str], dict[float, float]] = {row: {} for row in rows}
    for (contender, schedule, rate), runs in searched.items():
        searches[contender, schedule][rate] = float(np.mean([run.curve[-1] for run in runs]))
    untuned = {row: Setting(*row, row[0].default_rate) for row in rows}
    tuned = {
        row: Setting(*row, max(scores, key=scores.__getitem__)) for row, scores in searches.items()
    }

    reported = [*untuned.values(), *tuned.values()]
    done = train(trainer, reported, range(args.seeds), "reported runs")
    scores = {setting: read_test(trainer, setting.rate, runs) for setting, runs in done.items()}
    return [Result(*row, searches[row], scores[untuned[row]], scores[tuned[row]]) for row in rows]


def train(
    trainer: Trainer, settings: Sequence[Setting], seeds: range, description: str
) -> dict[Setting, list[Run]]:
    """Trains with every setting and seed, in threads: one run does not fill two cores."""
    settings = list(dict.fromkeys(settings))  # a default that is the best rate is trained once
    jobs = [(setting, seed) for seed in seeds for setting in settings]
    runs: dict[Setting, list[Run]] = {setting: [] for setting in settings}
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        finished = threads.map(trainer.run, *zip(*jobs, strict=True))
        # Without a terminal, `disable=None` keeps the bar silent.
        bar = tqdm(finished, description, total=len(jobs), unit=" runs", disable=None)
        for (setting, _), run in zip(jobs, bar, strict=True):
            runs[setting].append(run)
    return runs


def read_test(trainer: Trainer, rate: float, runs: list[Run]) -> Scores:
    """Scores finished runs on the test split, which nothing has looked at before."""
    split = trainer.digits.test
    recalls = np.stack([digits_task.recalls(run.params, split) for run in runs])
    return Scores(
        rate=rate,
        curves=np.array([run.curve for run in runs]),
        accuracy=recalls @ np.bincount(split.labels) / len(split.labels),
        recalls=recalls,
    )


def show(args: argparse.Namespace, results: list[Result], seconds: float) -> None:
    print(f"\nTest split, in percent: mean ± standard deviation over {args.seeds} seeds\n")
    print(table(results))
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
