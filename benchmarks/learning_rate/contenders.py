"""The optimizers that are compared."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import insgd_optax as insgd

OURS, PEERS = "INSGD", ("SGD", "Adam", "Muon")
DEFAULT_RATE = 0.01  # of OURS: every step changes a layer's output by about one percent


class Contender(NamedTuple):
    """An optimizer by its learning rate or schedule, and what its statistics are captured for."""

    make: Callable[[optax.ScalarOrSchedule], optax.GradientTransformationExtraArgs]
    structure: insgd.Structure | None = None


def contenders() -> dict[str, Contender]:
    """The peers, and input normalization with steps in SGD's units and with relative ones."""

    def peer(make: Callable[..., Any], **settings: Any) -> Contender:
        return Contender(lambda rate: optax.with_extra_args_support(make(rate, **settings)))

    def ours(**settings: Any) -> Contender:
        make = functools.partial(insgd.insgd, structure=insgd.Diagonal(), **settings)
        return Contender(make, insgd.Diagonal())

    return {
        "SGD": peer(optax.sgd, momentum=0.9),
        "Adam": peer(optax.adam),
        "Muon": peer(optax.contrib.muon),
        "INSGD Diagonal": ours(relative=0.0),
        OURS: ours(),
    }
