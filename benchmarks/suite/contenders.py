"""The optimizers of the suite. Each has a usual learning rate and five trials around it."""

import dataclasses
import functools
import math
from typing import Any

import jax
import optax
from jaxtyping import PyTree

import insgd_optax as insgd
from benchmarks.shared.contender import OURS, Contender, contenders
from insgd_optax import presets

# The usual rate is in the middle, and neighboring trials differ by a factor of about four.
TRIALS, PART = 5, 10**0.6
LOW_RANK = "INSGD LowRank"
MAIN_PEERS = ("SGD", "AdamW", "Muon")
MAIN = (*MAIN_PEERS, OURS, LOW_RANK)
WHITE = "on white inputs"
BASELINE = "SGD"  # its step is the unit of time


def trials(contender: Contender) -> list[float]:
    """The learning rates to try."""
    middle = contender.usual_rate(contender.headline)
    first = contender.higher - TRIALS // 2
    return [middle * PART**place for place in range(first, first + TRIALS)]


# A quarter of Muon's rate. It was best on the digits' validation images at imbalance 1 and 50.
MUON_ON_WHITE = 0.005


@functools.cache
def everyone() -> dict[str, Contender]:
    """All optimizers by name. Each has its own default weight decay."""
    known = contenders()
    adam, ours = known["Adam"].default_rate, known[OURS]

    def of(structure: insgd.Structure, name: str) -> Contender:
        make = functools.partial(insgd.insgd, structure=structure)
        return dataclasses.replace(ours, name=name, make=make, structure=structure)

    def white(inner: Contender, rate: float) -> Contender:
        structure = insgd.MeanVariances()

        def make(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
            return insgd.on_white_inputs(inner.make(rate), structure)

        return Contender(f"{inner.name} {WHITE}", make, rate, structure)

    found = (
        Contender("SGD", functools.partial(optax.sgd, momentum=0.9, nesterov=True), 0.1),
        # Its best rate was above its usual one on every workload.
        Contender("AdamW", optax.adamw, adam, higher=1),
        known["Muon"],
        Contender("SGD, fixed multipliers", _multiplied, 0.1),
        Contender("NovoGrad", optax.novograd, 0.01),
        Contender("LARS", _lars, 2.0),
        Contender(
            "schedule-free AdamW", _schedule_free, adam,
            evaluated=optax.contrib.schedule_free_eval_params, headline="constant",
        ),
        Contender("paper", presets.paper, 0.1, insgd.Scalar()),
        Contender("released", presets.released, 0.1, insgd.Released()),
        ours,
        of(insgd.LowRank(rows=128), LOW_RANK),
        of(insgd.Full(rows=128, refresh_every=20), "INSGD Full"),
        white(Contender("AdamW", optax.adamw, adam), adam),
        white(known["Muon"], MUON_ON_WHITE),
    )  # fmt: skip
    return {contender.name: contender for contender in found}


def _multiplied(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """SGD with a fixed multiplier for each kernel, by its number of inputs.

    `released` amounts to this: the norm of standardized inputs is the same for all data.
    """

    def multiplied(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return jax.tree.map(lambda leaf: leaf * _multiplier(leaf.shape), updates)

    momentum = optax.trace(0.9, nesterov=True)
    return optax.chain(optax.stateless(multiplied), momentum, optax.scale_by_learning_rate(rate))


def _multiplier(shape: tuple[int, ...]) -> float:
    """1 / log(inputs - 1), or 1 for vectors and for kernels with very few inputs."""
    inputs = math.prod(shape[:-1])
    return 1 / math.log(max(inputs - 1, math.e)) if len(shape) > 1 else 1.0


def _schedule_free(rate: Any) -> optax.GradientTransformation:
    """Schedule-free AdamW. It replaces a schedule, but its row with a cosine has both."""
    return optax.contrib.schedule_free_adamw(rate)


def _lars(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """LARS. Vectors keep their plain steps and do not decay, as in the paper."""

    def matrices(params: optax.Params) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.lars(rate, weight_decay_mask=matrices, trust_ratio_mask=matrices)
