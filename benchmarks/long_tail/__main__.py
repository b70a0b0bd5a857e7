"""Runs the benchmark: tunes every optimizer alike, trains it on fresh seeds, draws and tabulates.

    python -m benchmarks.long_tail --data cifar10.zip

The images are CIFAR-10's as a folder or a zip of ``train/CLASS/*`` and ``test/CLASS/*``, halved
to 16 by 16. Everyone gets six learning rates over a range of 256, of which the validation loss
after the full number of epochs chooses on another seed. Then everyone trains with three other
seeds, for all epochs and for half of them, taking turns. Test images are looked at once a run, at
its end.
"""

import argparse
import functools
import json
import pathlib
from typing import Any

import numpy as np

from benchmarks.long_tail import report
from benchmarks.long_tail.contenders import EXACT, Contender, contenders
from benchmarks.long_tail.data import LongTail, load
from benchmarks.long_tail.training import ConvNet, train
from benchmarks.shared.machine import machine
from benchmarks.shared.trials import searched

SEARCH_SEED = 100


def tuned(
    everyone: dict[str, Contender], data: LongTail, epochs: int
) -> dict[str, dict[float, float]]:
    """For every optimizer the final validation loss at each of its learning rates."""

    def negative_loss(name: str, rate: float) -> float:
        build = everyone[name].build(rate)
        loss = train(ConvNet(), data, build, epochs, SEARCH_SEED).validation_loss[-1]
        print(f"tuning {name:13} {rate:8.4f}: validation loss {loss:.4f}", flush=True)
        return -loss if np.isfinite(loss) else float("-inf")

    losses = {}
    for name, contender in everyone.items():
        scores = searched(contender.center, functools.partial(negative_loss, name))
        losses[name] = {rate: -score for rate, score in scores.items()}
    return losses


def trained(
    everyone: dict[str, Contender], rates: dict[str, float], data: LongTail, epochs: int, seeds: int
) -> dict[str, list[Any]]:
    """For every optimizer its curves, one a seed."""
    curves: dict[str, list[Any]] = {name: [] for name in everyone}
    for seed in range(seeds):
        for name, contender in everyone.items():
            curve = train(ConvNet(), data, contender.build(rates[name]), epochs, seed)
            curves[name].append(curve._asdict())
            loss, seconds = curve.validation_loss[-1], curve.seconds[-1]
            print(
                f"{epochs} epochs, seed {seed}, {name:12}: {loss:.4f} in {seconds:.1f} s",
                flush=True,
            )
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares optimizers on long-tailed CIFAR-10.")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder or zip of images")
    parser.add_argument("--imbalance", type=float, default=100.0)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="only optimizers with this in their name")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmark-results"))
    options = parser.parse_args()
    data = load(options.data, options.imbalance, size=16)
    everyone = {n: c for n, c in contenders().items() if options.only in n and n != EXACT}
    losses = tuned(everyone, data, options.epochs)
    rates = {name: min(found, key=lambda rate: found[rate]) for name, found in losses.items()}
    lengths = [options.epochs // 2, options.epochs]
    curves = {n: trained(everyone, rates, data, n, options.seeds) for n in lengths}
    options.out.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine(), "tuning": losses, "rates": rates, "curves": curves}
    (options.out / "long_tail.json").write_text(json.dumps(results, indent=1))
    table = report.table(losses, rates, curves)
    (options.out / "long_tail.md").write_text(table)
    report.draw(curves, options.out / "long_tail.png")
    print(table)


if __name__ == "__main__":
    main()
