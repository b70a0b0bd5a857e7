"""One cell: a network, a batch size and an optimizer. All its runs share a compiled program."""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from benchmarks.robustness.workloads import Workload, workload
from benchmarks.shared.contender import contenders
from benchmarks.shared.schedules import SCHEDULES, scaled
from benchmarks.shared.step import Carry, Loss, applied, started, train_step

FACTORS = (1 / 3, 1.0, 3.0)  # of the default learning rate
DEFAULT = FACTORS.index(1.0)
PARTS, EVALUATED = 100, 10  # the score is the mean of evaluations after each of the last parts


@dataclasses.dataclass(frozen=True)
class Cell:
    """A workload, a batch size and an optimizer, and the length of its runs.

    Attributes:
      steps: a multiple of `PARTS`.
    """

    net: str
    batch: int
    optimizer: str
    steps: int
    seeds: int

    @property
    def default_rate(self) -> float:
        return contenders()[self.optimizer].default_rate

    @property
    def name(self) -> str:
        return f"{self.net}_{self.batch}_{self.optimizer}"

    def settings(self) -> dict[str, object]:
        """Results with equal settings belong to the same cell."""
        contender = contenders()[self.optimizer]
        settings = {"default_rate": contender.default_rate, "structure": repr(contender.structure)}
        return dataclasses.asdict(self) | settings


class Result(NamedTuple):
    """Scores, and the seconds that one step of all runs takes.

    Attributes:
      start: the scores before training.
      scores: the scores at the end. NaN where the network's outputs are not finite.
    """

    start: Float[np.ndarray, "seeds"]
    scores: Float[np.ndarray, "schedules factors seeds"]
    compile_seconds: float
    step_seconds: float


class Run(NamedTuple):
    """One run, or all of them with an axis for each array.

    Attributes:
      seed: draws the weights and batches. All optimizers and rates share them.
      schedule: the index in `SCHEDULES`.
      peak: the learning rate that the schedule scales.
    """

    seed: Array
    schedule: Array
    peak: Array


class Programs(NamedTuple):
    """Compiled functions, for one run or for all at once.

    Attributes:
      start: makes the first carry.
      advance: runs some steps. Takes a carry, the run and the number of the next step.
      score: evaluates a carry.
    """

    start: Callable[[Run], Carry]
    advance: Callable[[Carry, Run, Array], Carry]
    score: Callable[[Carry], Float[Array, "..."]]


def trained(cell: Cell) -> Result:
    """Trains all runs of a cell and scores them."""
    together, everyone = workload(cell.net).together, all_runs(cell)
    steps_at_once = cell.steps // PARTS if together else 1
    program, begin = programs(cell, steps_at_once), time.perf_counter()
    one = everyone if together else jax.tree.map(lambda array: array[0], everyone)
    carry = program.start(one)
    advance = program.advance.lower(carry, one, jnp.int32(0)).compile()
    jax.block_until_ready(program.score(carry))
    program, compiled = program._replace(advance=advance), time.perf_counter()
    if together:
        start, scores = _finished(cell, program, everyone, steps_at_once)
    else:
        runs = (Run(*run) for run in zip(*everyone, strict=True))
        found = [_finished(cell, program, run, steps_at_once) for run in runs]
        start, scores = map(np.stack, zip(*found, strict=True))
    seconds = (time.perf_counter() - compiled) / cell.steps
    shape = len(SCHEDULES), len(FACTORS), cell.seeds
    return Result(start[: cell.seeds], scores.reshape(shape), compiled - begin, seconds)


def _finished(
    cell: Cell, program: Programs, run: Run, steps_at_once: int
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The score at the start, and the mean score over the last tenth of the steps."""
    carry, scores, part = program.start(run), [], cell.steps // PARTS
    start = np.asarray(program.score(carry))
    for first in range(0, cell.steps, steps_at_once):
        carry = program.advance(carry, run, jnp.int32(first))
        done = first + steps_at_once
        if done > (PARTS - EVALUATED) * part and done % part == 0:
            scores.append(program.score(carry))
    return start, np.mean(scores, axis=0)


def all_runs(cell: Cell) -> Run:
    """Every schedule with every factor and seed. Seeds vary fastest."""
    counts = len(SCHEDULES), len(FACTORS), cell.seeds
    schedule, factor, seed = (jnp.ravel(place) for place in jnp.indices(counts))
    return Run(seed, schedule, cell.default_rate * jnp.asarray(FACTORS)[factor])


def programs(cell: Cell, steps_at_once: int) -> Programs:
    task, contender = workload(cell.net), contenders()[cell.optimizer]
    loss_fn = _loss(task)

    def rate(run: Run) -> optax.Schedule:
        return scaled(run.peak, run.schedule, cell.steps)

    def start(run: Run) -> Carry:
        key = jax.random.key(run.seed)
        params, statistics = started(task.model, key, task.held[0][:1])
        return Carry(params, contender.optimizer(rate(run)).init(params), statistics)

    def advance(carry: Carry, run: Run, first: Array) -> Carry:
        def step(carry: Carry, number: Array) -> tuple[Carry, Array]:
            key = jax.random.fold_in(jax.random.key(1000 + run.seed), number)
            batch = task.draw(key, cell.batch, number, cell.steps)
            return train_step(loss_fn, contender, rate(run), carry, batch)

        if steps_at_once == 1:  # on a CPU, convolutions are slow even in a loop of one step
            return step(carry, first)[0]
        return jax.lax.scan(step, carry, first + jnp.arange(steps_at_once))[0]

    def score(carry: Carry) -> Array:
        inputs, targets = task.held
        outputs = task.model.apply({"params": carry.params, **carry.statistics}, inputs)
        return task.score(outputs, targets)

    if not task.together:
        return Programs(jax.jit(start), jax.jit(advance, donate_argnums=0), jax.jit(score))
    every = jax.vmap(advance, (0, 0, None))
    return Programs(
        jax.jit(jax.vmap(start)), jax.jit(every, donate_argnums=0), jax.jit(jax.vmap(score))
    )


def _loss(task: Workload) -> Loss:
    def loss_fn(params: PyTree, statistics: PyTree, inputs: PyTree, targets: PyTree):
        outputs, statistics = applied(task.model, params, statistics, inputs)
        return task.loss(outputs, targets), statistics

    return loss_fn
