"""Trains a small network on long-tailed handwritten digits with SGD, Adam and INSGD.

Each with plain cross-entropy and with the balanced softmax, whose class frequencies come from the
optimizer's state.

Every optimizer gets the same number of learning rates; the one with the best balanced accuracy on a
validation split is trained again from new seeds and read once on the test split.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

import digits_data
from digits_contenders import ABLATION, CONTENDERS, Contender
from digits_report import Result, draw, table, write_json
from digits_training import Run, Trainer, recalls, state_size


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
    ("--trials", whole_number, 7, "N", "learning rates tried per optimizer, over three decades"),
    ("--search-seeds", whole_number, 3, "N", "runs of each learning rate tried, on other seeds"),
    ("--out", folder, Path("demo"), "FOLDER", "where the figure and the table (as JSON) go"),
)
QUICK = {"steps": 60, "seeds": 2, "trials": 3, "search_seeds": 1}
QUICK_HELP = "seconds instead of a minute, with scores that mean nothing: " + " ".join(
    f"--{name.replace('_', '-')} {value}" for name, value in QUICK.items()
)
FIRST_SEARCH_SEED = 1000  # far from the seeds that are reported


def main() -> None:
    args = parse_arguments()
    began = time.perf_counter()
    try:
        digits = digits_data.load(args.imbalance)
    except ValueError as error:
        raise SystemExit(f"imbalanced_digits.py: error: argument --{error}") from None
    args.out.mkdir(parents=True, exist_ok=True)
    counts = digits.train_counts()
    print(f"{sum(counts)} training examples; of the digits 0 to 9: {counts}")

    contenders = ABLATION if args.ablation else CONTENDERS
    runs = len(contenders) * (args.trials * args.search_seeds + args.seeds)
    with tqdm(total=runs * args.steps, unit=" steps") as progress:
        trainer = Trainer(
            digits, args.steps, args.batch_size, max(1, args.steps // 25), progress.update
        )
        results = compare(contenders, trainer, args, progress.set_description)

    settings = vars(args) | {"out": str(args.out), "train_counts": counts}
    write_json(args.out / "results.json", settings, results)
    title = f"Handwritten digits, imbalance {args.imbalance:g}, {args.seeds} seeds"
    draw(args.out / "imbalanced_digits.png", title, trainer.checkpoints, counts, results)
    show(args, results, time.perf_counter() - began)


def compare(
    contenders: tuple[Contender, ...], trainer: Trainer, args, describe: Callable[[str], None]
) -> list[Result]:
    """Searches a learning rate for every contender, then trains all of them on fresh seeds."""
    searches = []
    for contender in contenders:
        describe(f"{contender.name}, learning rate")
        searches.append(search(trainer, contender, args.trials, args.search_seeds))
    rates = [max(scores, key=scores.__getitem__) for scores in searches]

    runs: list[list[Run]] = [[] for _ in contenders]
    for seed in range(args.seeds):  # the contenders take turns, so that they share a slow moment
        describe(f"seed {seed + 1} of {args.seeds}")
        for contender, rate, done in zip(contenders, rates, runs, strict=True):
            done.append(trainer.run(contender, rate, seed))
    return [read_test(trainer, *row) for row in zip(contenders, rates, searches, runs, strict=True)]


def search(trainer: Trainer, contender: Contender, trials: int, seeds: int) -> dict[float, float]:
    """The final validation balanced accuracy of each learning rate, a mean over seeds."""
    scores = {}
    for rate in contender.rates(trials):
        runs = [trainer.run(contender, rate, FIRST_SEARCH_SEED + seed) for seed in range(seeds)]
        scores[rate] = float(np.mean([run.curve[-1] for run in runs]))
    return scores


def read_test(
    trainer: Trainer, contender: Contender, rate: float, scores: dict[float, float], runs: list[Run]
) -> Result:
    """Scores the finished runs on the test split, which nothing has looked at before."""
    split = trainer.digits.test
    by_digit = np.stack([recalls(run.params, split) for run in runs])
    return Result(
        name=contender.name,
        optimizer=contender.optimizer,
        factors=contender.factors,
        rate=rate,
        search=scores,
        curves=np.array([run.curve for run in runs]),
        accuracy=by_digit @ np.bincount(split.labels) / len(split.labels),
        recalls=by_digit,
        seconds=np.array([run.seconds for run in runs]),
        state_size=state_size(contender, runs[0].params),
    )


def show(args: argparse.Namespace, results: list[Result], seconds: float) -> None:
    print(f"\nTest split, in percent: mean ± standard deviation over {args.seeds} seeds\n")
    print(table(results))
    print(
        f"\nLearning rates tried per optimizer, on the validation split: {args.trials} (seeds: "
        f"{args.search_seeds}).\nSeconds per run: {args.steps} steps in the fastest run, without "
        "compilation. State size: numbers kept between steps."
    )
    for result in results:
        if result.rate_is_at_an_edge:
            print(f"{result.name}'s best learning rate is at an edge of those tried.")
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
