"""Trains one optimizer on one task. All runs share one compiled program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from sklearn.metrics import roc_auc_score

from benchmarks.shared.contender import Contender
from benchmarks.shared.schedules import SCHEDULES, scaled
from benchmarks.shared.step import Carry, applied, started, train_step
from benchmarks.suite.methods import METHODS, PLAIN, Method, class_weights
from benchmarks.suite.task import POINTS, Examples, Task

AT_ONCE = 500  # examples evaluated together


class Run(NamedTuple):
    """One run, or several with an axis for each array.

    Attributes:
      seed: draws the weights, the order of the examples and their augmentation.
      peak: the learning rate that the schedule scales.
      schedule: the index in `SCHEDULES`.
      method: the method for rare classes.
    """

    seed: Any
    peak: Any
    schedule: Any
    method: Method


class Scores(NamedTuple):
    """The mean loss of a split, and the recall of every class in percent.

    A text has no classes. A class without examples has a recall of NaN.
    """

    loss: Float[np.ndarray, "..."]
    recalls: Float[np.ndarray, "... classes"]


class Trained(NamedTuple):
    """Results of several runs.

    Attributes:
      curve: validation scores, with a leading axis for the points of a run.
      test: test scores.
      test_accuracy: the accuracy on all test examples together in percent.
      test_auc: the area under the ROC curve. NaN unless there are two classes.
    """

    curve: Scores
    test: Scores
    test_accuracy: Float[np.ndarray, "..."]
    test_auc: Float[np.ndarray, "..."]


def run_of(seed: int, peak: float, schedule: str, method: str = PLAIN) -> Run:
    place = list(SCHEDULES).index(schedule)
    return Run(np.int32(seed), np.float32(peak), np.int32(place), METHODS[method])


class Trainer:
    """A task and an optimizer, compiled at first use."""

    def __init__(self, task: Task, contender: Contender) -> None:
        if task.steps % POINTS:
            raise ValueError(f"The {task.steps} steps of a task must be a multiple of {POINTS}.")
        self.task, self.contender = task, contender
        self.loss_fn, self.log_frequency = _loss(task), task.log_frequency()
        self.train = jax.device_put(task.data.train)

        def every(function: Callable[..., Any], *axes: Any) -> Callable[..., Any]:
            return jax.vmap(function, axes) if task.together else function

        self._start = jax.jit(every(self.started, 0))
        self._advance = jax.jit(every(self.advanced, 0, 0, None, 0, None), donate_argnums=0)
        self._evaluate = jax.jit(every(self._evaluated, 0, None))
        self._outputs = jax.jit(every(self._logits, 0, None))

    def trained(self, runs: Sequence[Run], test: bool) -> Trained:
        """Trains all runs. ``test`` reads the test data once, at the end."""
        if not self.task.together:
            return _stacked([self._finished(run, test) for run in runs])
        arrays = jax.tree.map(lambda *each: np.stack(each), *runs)
        return self._finished(arrays, test)

    def _finished(self, runs: Run, test: bool) -> Trained:
        task, curve = self.task, []
        seeds = np.atleast_1d(runs.seed)
        order = np.stack([task.rows(int(seed)) for seed in seeds])
        order = order if task.together else order[0]
        carry = self._start(runs)
        for first in range(0, task.steps, self.steps_at_once):
            last = first + self.steps_at_once
            rows = order[..., first:last, :]
            carry = self._advance(carry, runs, self.train, rows, np.int32(first))
            if last % (task.steps // POINTS) == 0:
                curve.append(self.scores(carry, task.data.validation))
        points = jax.tree.map(lambda *each: np.stack(each), *curve)
        if not test:
            nothing = np.full(self._runs(carry), np.nan)
            recalls = np.repeat(nothing[..., None], len(task.classes or ()), axis=-1)
            return Trained(points, Scores(nothing, recalls), nothing, nothing)
        split, tested = task.data.test, self.scores(carry, task.data.test)
        return Trained(points, tested, self._accuracy(tested, split), self._area(carry, split))

    def _accuracy(self, tested: Scores, split: Examples) -> Float[np.ndarray, "..."]:
        """The accuracy on all examples together. NaN for texts."""
        if self.task.classes is None:
            return np.full_like(tested.loss, np.nan)
        counts = np.bincount(split.labels, minlength=len(self.task.classes))
        return np.nan_to_num(tested.recalls) @ counts / len(split.labels)

    def _area(self, carry: Carry, split: Examples) -> Float[np.ndarray, "..."]:
        """The area under the ROC curve of two classes. NaN otherwise and without examples."""
        pieces = _pieces(len(split.labels))
        if not pieces or self.task.classes is None or len(self.task.classes) != 2:
            return np.full(self._runs(carry), np.nan)
        logits = np.concatenate([self._outputs(carry, split.inputs[rows]) for rows in pieces], -2)
        margins = np.nan_to_num(logits[..., 1] - logits[..., 0])
        areas = [roc_auc_score(split.labels, each) for each in np.atleast_2d(margins)]
        return np.reshape(areas, margins.shape[:-1])

    def _runs(self, carry: Carry) -> tuple[int, ...]:
        """The leading axis of several runs. Empty for one."""
        return np.shape(jax.tree.leaves(carry.params)[0])[: self.task.together]

    @property
    def steps_at_once(self) -> int:
        """The steps in one call. On a CPU, loops slow convolutions and speed up small networks."""
        return self.task.steps // POINTS if self.task.together else 1

    def started(self, run: Run) -> Carry:
        """The carry of one run before its first step."""
        key, first = jax.random.key(run.seed), self.task.data.train.inputs[:1]
        params, statistics = started(self.task.model, key, first)
        return Carry(params, self.contender.optimizer(self._rate(run)).init(params), statistics)

    def step(self, carry: Carry, run: Run, train: Examples, rows: Array, number: Any) -> Carry:
        """One step of one run on these examples."""
        key = jax.random.fold_in(jax.random.key(run.seed), number)
        batch = Examples(train.inputs[rows], train.labels[rows])
        inputs, labels = self.task.change(key, batch, number, self.task.steps)
        weights = class_weights(self.log_frequency, run.method, number / self.task.steps)
        targets = labels, run.method.prior * self.log_frequency, weights
        rate = self._rate(run)
        return train_step(self.loss_fn, self.contender, rate, carry, (inputs, targets))[0]

    def _rate(self, run: Run) -> optax.Schedule:
        return scaled(run.peak, run.schedule, self.task.steps)

    def advanced(self, carry: Carry, run: Run, train: Examples, rows: Array, first: Array) -> Carry:
        """Steps of one run, one for each row."""

        def step(carry: Carry, now: tuple[Array, Array]) -> tuple[Carry, None]:
            return self.step(carry, run, train, *now), None

        if self.steps_at_once == 1:
            return self.step(carry, run, train, rows[0], first)
        return jax.lax.scan(step, carry, (rows, first + jnp.arange(len(rows))))[0]

    def _logits(self, carry: Carry, inputs: Any) -> Array:
        params = self.contender.evaluated(carry.state, carry.params)
        variables: Any = {"params": params, **carry.statistics}
        return jnp.asarray(self.task.model.apply(variables, inputs))

    def _evaluated(self, carry: Carry, split: Examples) -> tuple[Array, Array]:
        """The sum of the losses, and the number of right answers in each class."""
        logits = self._logits(carry, split.inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, split.labels)
        if self.task.classes is None:
            return jnp.mean(losses, axis=-1).sum(), jnp.zeros(0)
        right = (logits.argmax(-1) == split.labels) & jnp.isfinite(logits).all(-1)
        of_class = jax.nn.one_hot(split.labels, len(self.task.classes))
        return losses.sum(), right.astype(jnp.float32) @ of_class

    def scores(self, carry: Carry, split: Examples) -> Scores:
        number, classes = len(split.labels), len(self.task.classes or ())
        parts = [jax.tree.map(lambda array, n=rows: array[n], split) for rows in _pieces(number)]
        sums = [self._evaluate(carry, part) for part in parts]
        loss, right = (np.sum([each[place] for each in sums], axis=0) for place in (0, 1))
        counts = np.bincount(split.labels.ravel(), minlength=classes)[:classes]
        with np.errstate(invalid="ignore"):  # 0 / 0 where a class has no example
            return Scores(loss / number, 100 * right / counts)


def _pieces(number: int) -> list[slice]:
    """Slices of the examples, each small enough to evaluate at once."""
    return [slice(first, first + AT_ONCE) for first in range(0, number, AT_ONCE)]


def _stacked(found: list[Trained]) -> Trained:
    """Stacks runs as vectorized ones are: after the points axis, and first for the test."""
    curve = jax.tree.map(lambda *each: np.stack(each, axis=1), *(each.curve for each in found))
    rest = jax.tree.map(lambda *each: np.stack(each), *(each[1:] for each in found))
    return Trained(curve, *rest)


def _loss(task: Task) -> Callable[..., Any]:
    def loss_fn(params: optax.Params, statistics: Any, inputs: Array, targets: Any) -> Any:
        labels, prior, weights = targets
        logits, statistics = applied(task.model, params, statistics, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits + prior, labels)
        weights = weights if task.classes is None else weights[labels]
        return jnp.mean(losses * weights), statistics

    return loss_fn
