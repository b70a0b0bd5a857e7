"""Measures trace, compile and step time and memory, against SGD, Adam and Muon.

    python -m benchmarks.step_time
    python -m benchmarks.step_time --large      # on a GPU, in bfloat16

All optimizers take turns in every round, in one process. So other load on the machine hits all of
them alike. Tables show medians over rounds of the ratio to SGD with momentum in the same round.
Parameters and state continue from round to round. `Full` refreshes its factors more often while
its history is young, and once in 20 updates afterwards.

kfac-jax is missing: version 0.0.8 does not import with jax 0.10.2.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.shared.step import Batch, Carry, train_step
from benchmarks.step_time.contenders import REFRESH_EVERY, Candidate, candidates
from benchmarks.step_time.report import Costs, print_table, write_report
from benchmarks.step_time.workloads import Workload, large_workloads, workloads

# The most rounds of compilation. They take longer than rounds of steps and vary less.
COMPILATIONS = 5
# Untimed steps at the start, while Full refreshes its factors more often.
WARM_UP = 20


class Runner:
    """A contender with its current carry and its costs so far."""

    def __init__(self, candidate: Candidate, workload: Workload) -> None:
        self.contender, self.workload = candidate.contender, workload
        state = self.contender.optimizer(self.contender.default_rate).init(workload.params)
        self.carry = Carry(workload.params, state, workload.statistics)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        self.costs = Costs(size, announced=candidate.announced)
        self.compiled: Any = None

    def step(self, carry: Carry, batch: Batch) -> tuple[Carry, jax.Array]:
        rate = self.contender.default_rate
        return train_step(self.workload.loss_fn, self.contender, rate, carry, batch)

    def compile(self) -> None:
        """Traces and compiles the step with empty JAX caches."""
        arguments = self.carry, self.workload.batch
        trace, compile_, self.compiled = traced_and_compiled(self.step, arguments)
        self.costs.trace.append(trace)
        self.costs.compile.append(compile_)
        self.costs.temporary_bytes = temporary_bytes(self.compiled)

    def run(self, steps: int) -> float:
        """Runs the steps, at least one. Returns the seconds per step."""
        carry: Any = self.carry
        loss: Any = None
        start = time.perf_counter()
        for _ in range(steps):
            carry, loss = self.compiled(carry, self.workload.batch)
        jax.block_until_ready((carry, loss))
        seconds = (time.perf_counter() - start) / steps
        self.carry, self.costs.loss = carry, float(loss)
        return seconds


def traced_and_compiled(
    step: Callable[..., Any], arguments: Iterable[Any]
) -> tuple[float, float, Any]:
    """The seconds to trace, the seconds to compile, and the compiled step."""
    jax.clear_caches()
    start = time.perf_counter()
    traced = jax.jit(step).trace(*arguments)
    middle = time.perf_counter()
    compiled = traced.lower().compile()
    return middle - start, time.perf_counter() - middle, compiled


def temporary_bytes(compiled: Any) -> int | None:
    """Bytes that the step allocates beyond arguments and results. None if XLA does not tell."""
    return getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)


def measure(
    workload: Workload, rounds: int, steps: int, optimizers: Sequence[str] = ()
) -> dict[str, Costs]:
    """The costs by name, of all contenders or of SGD, Adam and the named ones."""
    named = {"SGD", "Adam", *optimizers}
    runners = {
        name: Runner(each, workload)
        for name, each in candidates(workload).items()
        if not optimizers or name in named
    }
    for _ in range(min(rounds, COMPILATIONS)):
        for runner in runners.values():
            runner.compile()
    for runner in runners.values():
        runner.run(WARM_UP)
    for _ in range(rounds):
        for runner in runners.values():
            runner.costs.step.append(runner.run(steps))
    return {name: runner.costs for name, runner in runners.items()}


def positive(text: str) -> int:
    """Parses a number of rounds or steps."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def parsed() -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(
        description="Measures the cost of a step of each optimizer relative to SGD's."
    )
    parser.add_argument("--rounds", type=positive, default=12, help="rounds of steps (default 12)")
    parser.add_argument(
        "--steps",
        type=positive,
        default=REFRESH_EVERY,
        help=f"steps per round (default {REFRESH_EVERY}); in multiples of it every round has the "
        "same number of refreshes of Full",
    )
    parser.add_argument("--only", default="", help="only workloads with this word in their name")
    parser.add_argument("--large", action="store_true", help="for a GPU: 110 million parameters")
    parser.add_argument("--reduced", action="store_true", help="with --large: a size for a CPU")
    parser.add_argument("--optimizers", nargs="+", default=[], help="in addition to SGD and Adam")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="a directory")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    settings = {"rounds": options.rounds, "steps": options.steps, "warm_up": WARM_UP}
    found: dict[str, dict[str, Costs]] = {}
    large = large_workloads(options.only, options.reduced)
    for workload in large if options.large else workloads(options.only):
        found[workload.name] = measure(workload, options.rounds, options.steps, options.optimizers)
        print_table(workload.name, found[workload.name])
        # After every workload, so that a later failure does not lose an hour of numbers.
        write_report(options.out, settings, found)
    if not found:
        raise SystemExit(f"No workload has {options.only!r} in its name.")


if __name__ == "__main__":
    main()
