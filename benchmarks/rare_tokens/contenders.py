"""The compared optimizers, with and without the frequency of tokens in the head."""

import optax

import insgd_optax as insgd
from benchmarks.shared.contender import Contender, Maker

TRIALS = 6
HEAD = ("head/kernel", "head/bias")
# Theory asks for 1, and 0.5 is half of the way. Fixed beforehand, and each has a row.
EXPONENTS = (1.0, 0.5)


def trials(contender: Contender) -> list[float]:
    """Six learning rates for every optimizer, in steps of two."""
    return [contender.default_rate * 2.0 ** (n - TRIALS // 2) for n in range(TRIALS)]


def contenders() -> dict[str, Contender]:
    """All contenders by name, without weight decay. Grids were placed on validation text."""

    def sgd(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        return optax.sgd(rate, momentum=0.9)

    def unit(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        return insgd.insgd(rate, structure=insgd.Diagonal(), relative=0.0)

    diagonal, default = insgd.Diagonal(), insgd.MeanVariances()
    found = [
        *_family("SGD", sgd, 0.4),
        Contender("Adam", optax.adam, 0.004),
        *_family("INSGD, relative=0", unit, 0.2, diagonal),
        *_family("INSGD", insgd.insgd, 0.04, default),
    ]
    return {contender.name: contender for contender in found}


def _family(
    name: str, make: Maker, center: float, structure: insgd.Structure | None = None
) -> list[Contender]:
    """The plain optimizer, and the same behind the frequency of tokens with each exponent."""
    behind = [
        Contender(
            f"{name} + frequency ** -{exponent:g}", _behind_frequency(make, exponent), center,
            structure,
        )
        for exponent in EXPONENTS
    ]  # fmt: skip
    return [Contender(name, make, center, structure), *behind]


def _behind_frequency(make: Maker, exponent: float) -> Maker:
    frequency = insgd.scale_by_class_frequency(HEAD, exponent=exponent)
    return lambda rate: optax.chain(frequency, make(rate))
