"""Tunes every optimizer alike on a validation text, retrains it with fresh seeds and tests it."""

import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from benchmarks.rare_tokens.contenders import contenders, trials
from benchmarks.rare_tokens.process import DECILES, deciles, least_losses, text
from benchmarks.rare_tokens.training import evaluated, program, trained
from benchmarks.shared.contender import Contender
from benchmarks.shared.report import listed

SEARCH_SEED, VALIDATION_TEXT, TEST_TEXT = 100, 200, 300
STREAMS, LENGTH = 100, 400


class Row(NamedTuple):
    """Results of one optimizer.

    Attributes:
      tuning: the validation loss by learning rate. Infinite where training diverged.
      rate: the best of these learning rates.
      loss: the test loss.
      by_decile: the test loss in each tenth of the text, frequent tokens first.
    """

    name: str
    state_size: int
    tuning: dict[float, float]
    rate: float
    loss: Float[np.ndarray, "seeds"]
    by_decile: Float[np.ndarray, "seeds deciles"]

    def as_json(self) -> dict[str, Any]:
        arrays = {"loss": listed(self.loss), "by_decile": listed(self.by_decile)}
        tuning = {rate: listed(loss) for rate, loss in self.tuning.items()}
        return {**self._asdict(), **arrays, "tuning": tuning}


class Found(NamedTuple):
    """The rows, and the loss of the true probabilities, overall and by decile."""

    rows: list[Row]
    least: Float[np.ndarray, "1 + deciles"]


def compared(seeds: int) -> Found:
    """Compares all optimizers. They share a test text, which each run reads once, at its end."""
    validation, test = (text(seed, STREAMS, LENGTH) for seed in (VALIDATION_TEXT, TEST_TEXT))
    rows = [_row(*named, seeds, validation, test) for named in contenders().items()]
    return Found(rows, _summary(least_losses(test), test))


def _row(
    name: str, contender: Contender, seeds: int, validation: np.ndarray, test: np.ndarray
) -> Row:
    start, compiled, tuning = time.perf_counter(), program(contender), {}
    for rate in trials(contender):
        loss = float(evaluated(trained(compiled, rate, SEARCH_SEED), validation).mean())
        tuning[rate] = loss if np.isfinite(loss) else np.inf
    rate = min(tuning, key=tuning.__getitem__)
    runs = [evaluated(trained(compiled, rate, seed), test) for seed in range(seeds)]
    found = np.stack([_summary(losses, test) for losses in runs])
    seconds = time.perf_counter() - start
    print(f"{name} at {rate:g}: test {found[:, 0].mean():.3f} ({seconds:.0f} s)", flush=True)
    return Row(name, compiled.state_size, tuning, rate, found[:, 0], found[:, 1:])


def _summary(
    losses: Float[np.ndarray, "rows"], windows: Int[np.ndarray, "rows window"]
) -> Float[np.ndarray, "1 + deciles"]:
    """The mean loss, overall and of the tokens in each tenth of the text."""
    tenths = deciles()[windows[:, -1]]
    parts = [losses[tenths == tenth].mean() for tenth in range(DECILES)]
    return np.array([losses.mean(), *parts], float)
