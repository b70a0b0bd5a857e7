"""The suite: every optimizer on every workload, tuned alike.

    python -m benchmarks run [--suite quick|full|gpu] [--workload WORD] [--optimizer WORD]
        [--minutes M] [--data FOLDER] [--steps N] [--again]
    python -m benchmarks report [--suite quick|full|gpu]
    python -m benchmarks download --data FOLDER

``run`` writes a JSON file for every workload and optimizer. It resumes where it was stopped.
``report`` makes the page and the figures from these files. ``download`` gets CIFAR-10 and
PneumoniaMNIST from their official addresses and verifies their checksums.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.shared.downloads import download
from benchmarks.suite.contenders import MAIN, everyone
from benchmarks.suite.page import write_page
from benchmarks.suite.protocol import Cell
from benchmarks.suite.results import read_all, run_missing
from benchmarks.suite.task import POINTS
from benchmarks.suite.workloads import has_own_images, names

COMMITTED, OWN = Path("benchmarks/report"), Path("benchmark-results")
SEEDS = {"quick": 3, "full": 5, "gpu": 3}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("what", choices=["run", "report", "download"])
    parser.add_argument("--suite", choices=SEEDS, default="quick")
    parser.add_argument("--workload", default="", help="a name, or a word in names")
    parser.add_argument("--optimizer", default="", help="a name, or a word in names")
    parser.add_argument("--all", action="store_true", help="all peers, not only the main ones")
    parser.add_argument("--minutes", type=float, help="start no run after this many minutes")
    parser.add_argument("--steps", type=int, help="steps per run, a multiple of 10, to try things")
    parser.add_argument("--again", action="store_true", help="rerun cells that have a file, and "
                        "keep each file until its new result")  # fmt: skip
    parser.add_argument("--data", type=Path, help="folder of data sets or of class folders")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--out", type=Path, help="folder (default benchmarks/report; of your own "
                        "images, and with --steps, benchmark-results)")  # fmt: skip
    chosen = parser.parse_args()
    if chosen.out is None:
        chosen.out = OWN if chosen.steps or has_own_images(chosen.data) else COMMITTED
    if chosen.what == "download" and chosen.data is None:
        parser.error("download needs --data FOLDER, the folder for the files")
    if chosen.what == "run" and chosen.data is not None and not chosen.data.exists():
        parser.error(f"--data {chosen.data} does not exist")
    if chosen.steps is not None and (chosen.steps < POINTS or chosen.steps % POINTS):
        parser.error(f"--steps must be a multiple of {POINTS}, got {chosen.steps}")
    if chosen.suite != "quick" and chosen.data is None and chosen.what == "run":
        parser.error(f"the {chosen.suite} suite needs --data FOLDER")
    if chosen.what == "run" and not chosen_cells(chosen):
        known = "; ".join(names(chosen.data, chosen.suite))
        parser.error(
            f"no workload with '{chosen.workload}' and optimizer with '{chosen.optimizer}'. "
            f"Workloads of the {chosen.suite} suite: {known}. Optimizers: {'; '.join(everyone())}"
        )
    return chosen


def chosen_cells(chosen: argparse.Namespace) -> list[Cell]:
    everyone_asked = chosen.all or chosen.optimizer in everyone()
    optimizers = [name for name in everyone() if everyone_asked or name in MAIN]
    return [
        Cell(workload, optimizer, SEEDS[chosen.suite], chosen.data, chosen.steps)
        for workload in matching(chosen.workload, names(chosen.data, chosen.suite))
        for optimizer in matching(chosen.optimizer, optimizers)
    ]


def matching(word: str, known: list[str]) -> list[str]:
    """The names with this word in them, or the one that is exactly the word."""
    if word in known:
        return [word]
    return [name for name in known if word.lower() in name.lower()]


def main() -> None:
    chosen = options()
    if chosen.what == "download":
        print(*download(chosen.data), sep="\n")
        return
    folder, failed = chosen.out / chosen.suite, None
    if chosen.what == "run":
        try:
            run_missing(chosen_cells(chosen), folder, chosen.jobs, chosen.minutes, chosen.again)
        except RuntimeError as error:
            failed = str(error)
    found = read_all(folder)
    print(write_page(found.boards, folder, found.left_out))
    if failed:
        sys.exit(failed)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command continues.")
