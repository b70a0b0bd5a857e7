"""The optimizers, their factors and train steps, and the comparison of them."""

import inspect
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from tqdm import tqdm

import insgd_optax as insgd
from digits_task import (
    NUM_CLASSES,
    NUM_PIXELS,
    Digits,
    Scores,
    Split,
    balanced_accuracy,
    batch_rows,
    initial_params,
    loss_fn,
    read_test,
)

ChainState = dict[str, optax.OptState]
PROTOTYPES = 32
FIRST_SEARCH_SEED = 1000  # far from the seeds that are reported
THREADS = 4  # more would wait for Python's lock
# The balanced softmax, and weights for inputs whose like came rarely.
CLASS, HISTORY = "class", "history"
# For each schedule, the share of the learning rate that is left at the last step.
SCHEDULES = {"constant": 1.0, "cosine": 0.0}


# The two kinds of train step, side by side. A training loop has to change nothing else.
def plain_step(optimizer, params, opt_state, batch, *factors, **seen):
    _, grads = jax.value_and_grad(loss_fn)(params, batch, *factors)
    updates, opt_state = optimizer.update(grads, opt_state, params, **seen)
    return optax.apply_updates(params, updates), opt_state


def input_normalized_step(optimizer, params, opt_state, batch, *factors, **seen):
    grad_fn = insgd.value_and_grad(loss_fn, batch_argnums=1)
    _, grads, input_stats = grad_fn(params, batch, *factors)
    updates, opt_state = optimizer.update(grads, opt_state, params, input_stats=input_stats, **seen)
    return optax.apply_updates(params, updates), opt_state


def muon(rate: optax.Schedule) -> optax.GradientTransformation:
    """Muon for every kernel, convolutions too; Adam at a third of the rate for the biases."""
    kernels = optax.contrib.muon(rate, muon_weight_dimension_numbers=as_matrices)
    biases = optax.adam(lambda step: rate(step) / 3)
    return optax.partition({True: kernels, False: biases}, is_kernel)


def is_kernel(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def as_matrices(kernels: optax.Params) -> optax.Params:
    """From all inputs to the outputs. By itself Muon leaves convolutions to Adam."""
    matrix = optax.contrib.MuonDimensionNumbers
    return jax.tree.map(lambda kernel: matrix(tuple(range(kernel.ndim - 1)), -1), kernels)


@dataclass(frozen=True)
class Contender:
    """An optimizer, its train step, its learning rates and its factors."""

    optimizer: str
    make: Callable[[optax.Schedule], optax.GradientTransformation]
    step: Callable[..., tuple[optax.Params, ChainState]]
    default_rate: float  # for those who do not tune
    middle_rate: float  # of those that are tried
    scheduled: float = 1.0  # times the default rate, for a schedule that falls to zero
    factors: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " + ".join((self.optimizer, *self.factors))

    def make_optimizer(self, rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
        """The optimizer, behind the histories that its factors are read from."""
        histories = {
            CLASS: (("classes", insgd.track_groups(NUM_CLASSES)),),
            HISTORY: (
                ("prototypes", insgd.track_prototypes(PROTOTYPES, NUM_PIXELS)),
                ("similar", insgd.track_groups(PROTOTYPES, argument="similar")),
            ),
        }
        kept = [part for factor in self.factors for part in histories[factor]]
        return optax.named_chain(*kept, ("optimizer", self.make(rate)))

    def prior(self, opt_state: ChainState) -> Float[Array, "classes"]:
        """The logarithm of each class's frequency; zeros leave the cross-entropy as it is."""
        if CLASS not in self.factors:
            return jnp.zeros(NUM_CLASSES)
        return insgd.log_prior(opt_state["classes"])

    def similar(self, opt_state: ChainState, batch: Split) -> Int[Array, "batch"]:
        """The group of similar images that each image falls into."""
        if HISTORY not in self.factors:
            return jnp.zeros(len(batch.labels), int)
        return insgd.similarity_groups(opt_state["prototypes"], jnp.asarray(batch.images))

    def weights(self, opt_state: ChainState, similar: Array) -> Float[Array, "batch"]:
        """The weight of each example in the loss."""
        if HISTORY not in self.factors:
            return jnp.ones(len(similar))
        return insgd.example_weights(opt_state["similar"], similar, frequency_exponent=0.5)

    def usual_rate(self, schedule: str) -> float:
        return self.default_rate * (self.scheduled if schedule == "cosine" else 1)

    def rates(self, trials: int) -> list[float]:
        """`trials` learning rates over three decades, evenly spaced in their logarithm."""
        exponents = np.linspace(-1.5, 1.5, trials) if trials > 1 else np.zeros(1)
        return [float(f"{self.middle_rate * 10**exponent:.2g}") for exponent in exponents]

    def state_size(self) -> int:
        """How many numbers the optimizer keeps between steps."""
        init = self.make_optimizer(optax.constant_schedule(self.default_rate)).init
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, initial_params(0))))


INSGD_RATE = inspect.signature(insgd.insgd).parameters["learning_rate"].default
SGD = Contender("SGD", lambda rate: optax.sgd(rate, momentum=0.9), plain_step, 0.1, 0.1)
ADAM = Contender("Adam", optax.adam, plain_step, 0.001, 0.01)
MUON = Contender("Muon", muon, plain_step, 0.02, 0.02)
INSGD = Contender("INSGD", insgd.insgd, input_normalized_step, INSGD_RATE, INSGD_RATE, 2.0)

CONTENDERS = tuple(
    replace(each, factors=factors)
    for factors in ((), (CLASS,))
    for each in (SGD, ADAM, MUON, INSGD)
)
# Input normalization, classes and history, each alone and together.
ABLATION = tuple(
    replace(each, factors=factors)
    for factors in ((), (CLASS,), (HISTORY,), (CLASS, HISTORY))
    for each in (SGD, INSGD)
)


class Setting(NamedTuple):
    """Everything about a run but its seed."""

    contender: Contender
    schedule: str
    rate: float


class Run(NamedTuple):
    """A finished run."""

    params: optax.Params
    curve: list[float]  # validation balanced accuracy at the trainer's `checkpoints`


@dataclass(frozen=True)
class Trainer:
    """The settings that all runs have in common."""

    digits: Digits
    steps: int
    batch_size: int
    checks: int = 25

    @property
    def checkpoints(self) -> list[int]:
        """The numbers of steps after which a run is scored on the validation split."""
        return [*range(0, self.steps, -(-self.steps // self.checks)), self.steps]

    def run(self, setting: Setting, seed: int) -> Run:
        """The seed decides the initial weights and the order of the data."""
        contender, schedule, rate = setting
        params = initial_params(seed)
        opt_state = contender.make_optimizer(optax.constant_schedule(rate)).init(params)
        train, validation = self.digits.train, self.digits.validation
        order = batch_rows(len(train.labels), self.batch_size, self.steps, seed)
        curve = [balanced_accuracy(params, validation)]
        for start, stop in pairwise(self.checkpoints):
            for rows in order[start:stop]:
                batch = Split(train.images[rows], train.labels[rows])
                params, opt_state = train_step(
                    contender, self.steps, rate, SCHEDULES[schedule], params, opt_state, batch
                )
            curve.append(balanced_accuracy(params, validation))
        return Run(params, curve)


# Rate and share are arguments, so that all rates and both schedules share one compilation.
@partial(jax.jit, static_argnames=("contender", "total_steps"))
def train_step(contender, total_steps, rate, share, params, opt_state, batch):
    optimizer = contender.make_optimizer(optax.cosine_decay_schedule(rate, total_steps, share))
    similar = contender.similar(opt_state, batch)
    factors = contender.prior(opt_state), contender.weights(opt_state, similar)
    seen = {"groups": batch.labels, "similar": similar, "features": batch.images}
    return contender.step(optimizer, params, opt_state, batch, *factors, **seen)


@dataclass(frozen=True)
class Result:
    """One optimizer with one schedule, at its usual rate and at the best of those tried."""

    contender: Contender
    schedule: str
    search: dict[float, float]  # validation balanced accuracy of every learning rate tried
    untuned: Scores
    tuned: Scores

    @property
    def rate_is_at_an_edge(self) -> bool:
        edges = min(self.search), max(self.search)
        return len(self.search) > 1 and self.tuned.rate in edges


def compare(
    contenders: tuple[Contender, ...], trainer: Trainer, trials: int, search_seeds: int, seeds: int
) -> list[Result]:
    """Searches a rate for every contender and schedule, then trains with it on fresh seeds."""
    tried = [
        Setting(contender, schedule, contender.rates(trials)[trial])
        for trial in range(trials)
        for schedule in SCHEDULES
        for contender in contenders
    ]
    others = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + search_seeds)
    searched = train(replace(trainer, checks=1), tried, others, "learning rates")

    rows = [(contender, schedule) for schedule in SCHEDULES for contender in contenders]
    searches: dict[tuple[Contender, str], dict[float, float]] = {row: {} for row in rows}
    for (contender, schedule, rate), runs in searched.items():
        searches[contender, schedule][rate] = float(np.mean([run.curve[-1] for run in runs]))
    untuned = {row: Setting(*row, row[0].usual_rate(row[1])) for row in rows}
    tuned = {
        row: Setting(*row, max(scores, key=scores.__getitem__)) for row, scores in searches.items()
    }

    reported = [*untuned.values(), *tuned.values()]
    done = train(trainer, reported, range(seeds), "reported runs")
    scores: dict[Setting, Scores] = {}
    for setting, runs in done.items():
        params, curves = [run.params for run in runs], [run.curve for run in runs]
        scores[setting] = read_test(trainer.digits.test, setting.rate, params, curves)
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
