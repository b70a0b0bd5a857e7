"""The optimizers and the losses that are compared."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import insgd_optax as insgd
from benchmarks.shared.gradient import muon_dimensions

# Input normalization by every feature's mean and variance, and by the whole second moment.
OURS = (DEFAULT, FULL) = ("INSGD", "INSGD Full")


class Contender(NamedTuple):
    """An optimizer that keeps the history of classes.

    Attributes:
      make: from a schedule of the learning rate and the number of classes.
      center: of its learning rates.
      structure: what its statistics are captured for, if it has any.
    """

    make: Callable[[optax.Schedule, int], optax.GradientTransformationExtraArgs]
    center: float
    structure: insgd.Structure | None = None


class Balance(NamedTuple):
    """How a loss makes up for rare classes; all losses are one program with other numbers.

    Attributes:
      prior: of the log prior that is added to the logits; 1 is the balanced softmax, others are
        the temperatures of logit adjustment.
      frequency: of a class's frequency in its examples' weight; 1 weighs all classes alike.
      start: the share of the steps before the weights by frequency are used.
      gradient: of a class's squared gradient norm in its examples' weight; below 0 those of hard
        classes count more. The norm is that of the logits as they are tested, without the prior.
    """

    prior: float = 0.0
    frequency: float = 0.0
    start: float = 0.0
    gradient: float = 0.0


PLAIN = "cross-entropy"
LOSSES = {
    PLAIN: Balance(),
    "balanced softmax": Balance(prior=1.0),
    "prior ** 1.5": Balance(prior=1.5),
    "re-weighted": Balance(frequency=1.0),
    "deferred": Balance(frequency=1.0, start=0.7),
}
CLASS_AND_HISTORY = {"class and history": Balance(prior=1.0, gradient=-0.5)}


def losses_of(optimizer: str) -> dict[str, Balance]:
    """The losses for everyone; for ours also the balanced softmax with a factor for each class."""
    return {**LOSSES, **CLASS_AND_HISTORY} if optimizer in OURS else LOSSES


def contenders() -> dict[str, Contender]:
    """No weight decay for anyone."""

    def peer(make: Callable[..., Any], center: float, **settings: Any) -> Contender:
        return Contender(
            lambda rate, classes: optax.chain(insgd.track_groups(classes), make(rate, **settings)),
            center,
        )

    def ours(structure: insgd.Structure) -> Contender:
        return Contender(
            lambda rate, classes: insgd.insgd(rate, structure=structure, num_groups=classes),
            0.02,
            structure,
        )

    return {
        "SGD": peer(optax.sgd, 0.08, momentum=0.9),
        "Adam": peer(optax.adam, 0.005),
        "Muon": peer(_muon, 0.02),
        DEFAULT: ours(insgd.MeanVariances()),
        FULL: ours(insgd.Full(3.0, refresh_every=20, rows=128)),
    }


def _muon(rate: optax.Schedule) -> optax.GradientTransformation:
    """Kernels as matrices; vectors are left to Adam, at the same share of its center."""
    return optax.contrib.muon(
        rate,
        adam_learning_rate=lambda count: rate(count) / 4,
        muon_weight_dimension_numbers=muon_dimensions,
    )
