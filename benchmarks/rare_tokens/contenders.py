"""The optimizers that are compared, with and without the frequency of tokens in the head."""

from collections.abc import Callable
from typing import NamedTuple

import optax

import insgd_optax as insgd

TRIALS = 6
HEAD = ("head/kernel", "head/bias")
# 1 is what the theory asks for, 0.5 half of the way; fixed beforehand, and each has its own row.
EXPONENTS = (1.0, 0.5)

Make = Callable[[optax.Schedule], optax.GradientTransformation]


class Contender(NamedTuple):
    """An optimizer.

    Attributes:
      make: from a schedule of the learning rate.
      smallest: the first of its learning rates.
      structure: what its statistics are captured for, if it has any.
    """

    make: Make
    smallest: float
    structure: insgd.Structure | None = None

    def rates(self) -> list[float]:
        """As many for everyone, each twice the one before."""
        return [self.smallest * 2.0**n for n in range(TRIALS)]


def contenders() -> dict[str, Contender]:
    """By name. No weight decay for anyone; where grids lie was found on validation text."""

    def sgd(rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.sgd(rate, momentum=0.9)

    def unit(rate: optax.Schedule) -> optax.GradientTransformation:
        return insgd.insgd(rate, structure=insgd.Diagonal(), relative=0.0)

    diagonal, default = insgd.Diagonal(), insgd.MeanVariances()
    return {
        **_family("SGD", sgd, 0.05),
        "Adam": Contender(optax.adam, 0.0005),
        **_family("INSGD, relative=0", unit, 0.025, diagonal),
        **_family("INSGD", insgd.insgd, 0.00125, default),
    }


def _family(
    name: str, make: Make, smallest: float, structure: insgd.Structure | None = None
) -> dict[str, Contender]:
    """An optimizer as it is, and behind the frequency of tokens with each exponent."""
    found = {name: Contender(make, smallest, structure)}
    for exponent in EXPONENTS:
        behind = _behind_frequency(make, exponent)
        found[f"{name} + frequency ** -{exponent:g}"] = Contender(behind, smallest, structure)
    return found


def _behind_frequency(make: Make, exponent: float) -> Make:
    frequency = insgd.scale_by_class_frequency(HEAD, exponent=exponent)
    return lambda rate: optax.chain(frequency, make(rate))
