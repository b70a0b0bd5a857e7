"""What sub-sampled rows and refreshed factors change: Full beside Full with all rows at every step.

    python -m benchmarks.long_tail.exact --data cifar10.zip

Both at the same learning rate, on the same seeds. What is compared is the training loss of the
last epoch.
"""

import argparse
import pathlib

import numpy as np

from benchmarks.long_tail.contenders import EXACT, FULL, contenders
from benchmarks.long_tail.data import load
from benchmarks.long_tail.training import ConvNet, train
from benchmarks.shared.trials import with_spread


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares Full's shortcuts with exact factors.")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder or zip of images")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = load(options.data, imbalance=100.0, size=16)
    losses: dict[str, list[float]] = {FULL: [], EXACT: []}
    for seed in range(options.seeds):
        for name, found in losses.items():
            contender = contenders()[name]
            build = contender.build(contender.center)
            curve = train(ConvNet(), data, build, options.epochs, seed)
            found.append(curve.train_loss[-1])
            loss, seconds = found[-1], curve.seconds[-1]
            print(f"seed {seed}, {name}: training loss {loss:.4f} in {seconds:.1f} s", flush=True)
    ratios = np.divide(losses[FULL], losses[EXACT])
    print(f"{FULL} over {EXACT}: {with_spread(ratios, 4)}")


if __name__ == "__main__":
    main()
