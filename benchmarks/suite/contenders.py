"""The optimizers of the suite. Each has its usual learning rate, and five trials around it."""

import functools
from typing import Any

import jax
import optax
from jaxtyping import PyTree

import insgd_optax as insgd
from benchmarks.shared.contender import OURS, Contender, contenders
from insgd_optax import presets

# For everyone the usual rate in the middle, and a factor of about four between two trials.
TRIALS, PART = 5, 10**0.6
MAIN = ("SGD", "AdamW", "Muon", OURS, "INSGD LowRank", "INSGD Full")
WHITE = "on white inputs"
# Of small networks its step takes fifteen times as long as SGD's, too long for the quick suite.
FULL = (*MAIN, f"Muon {WHITE}")
BASELINE = "SGD"  # whose step is the unit of time


def trials(contender: Contender) -> list[float]:
    """The learning rates that are tried."""
    return [
        contender.default_rate * PART**place for place in range(-(TRIALS // 2), TRIALS // 2 + 1)
    ]


# A quarter of Muon's: the best one on validation images of the digits, at imbalance 1 and 50.
MUON_ON_WHITE = 0.005


@functools.cache
def everyone() -> dict[str, Contender]:
    """All by name. Weight decay is that of each optimizer's own default."""
    known = contenders()
    adam, ours = known["Adam"].default_rate, known[OURS]

    def of(structure: insgd.Structure, name: str) -> Contender:
        make = functools.partial(insgd.insgd, structure=structure)
        return Contender(name, make, ours.default_rate, structure)

    def white(inner: Contender, rate: float) -> Contender:
        structure = insgd.MeanVariances()

        def make(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
            return insgd.on_white_inputs(inner.make(rate), structure)

        return Contender(f"{inner.name} {WHITE}", make, rate, structure)

    found = (
        Contender("SGD", functools.partial(optax.sgd, momentum=0.9, nesterov=True), 0.1),
        Contender("AdamW", optax.adamw, adam),
        known["Muon"],
        Contender("NovoGrad", optax.novograd, 0.01),
        Contender("LARS", _lars, 2.0),
        Contender(
            "schedule-free AdamW", _schedule_free, adam,
            evaluated=optax.contrib.schedule_free_eval_params, headline="constant",
        ),
        Contender("paper", presets.paper, 0.1, insgd.Scalar()),
        Contender("released", presets.released, 0.1, insgd.Released()),
        ours,
        of(insgd.LowRank(rows=128), "INSGD LowRank"),
        of(insgd.Full(rows=128, refresh_every=20), "INSGD Full"),
        white(Contender("AdamW", optax.adamw, adam), adam),
        white(known["Muon"], MUON_ON_WHITE),
    )  # fmt: skip
    return {contender.name: contender for contender in found}


def _schedule_free(rate: Any) -> optax.GradientTransformation:
    """It takes the place of a schedule; its row with a cosine has both."""
    return optax.contrib.schedule_free_adamw(rate)


def _lars(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Vectors keep their own steps and do not decay, as its authors have it."""

    def matrices(params: optax.Params) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.lars(rate, weight_decay_mask=matrices, trust_ratio_mask=matrices)
