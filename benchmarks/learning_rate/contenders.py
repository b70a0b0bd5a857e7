"""The optimizers that are compared."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

import insgd_optax as insgd
from benchmarks.shared import contender as shared

OURS, PEERS = "INSGD", ("SGD", "Adam", "Muon")
DEFAULT_RATE = shared.contenders()[OURS].default_rate


class Contender(NamedTuple):
    """An optimizer by its learning rate or schedule, and what its statistics are captured for."""

    make: Callable[[optax.ScalarOrSchedule], optax.GradientTransformationExtraArgs]
    structure: insgd.Structure | None = None


def contenders() -> dict[str, Contender]:
    """The peers, and input normalization with steps in SGD's units and with relative ones."""

    def peer(make: Callable[..., Any], **settings: Any) -> Contender:
        return Contender(lambda rate: optax.with_extra_args_support(make(rate, **settings)))

    def ours(structure: insgd.Structure, **settings: Any) -> Contender:
        return Contender(functools.partial(insgd.insgd, structure=structure, **settings), structure)

    return {
        "SGD": peer(optax.sgd, momentum=0.9),
        "Adam": peer(optax.adam),
        "Muon": peer(optax.contrib.muon),
        "INSGD Diagonal": ours(insgd.Diagonal(), relative=0.0),
        OURS: ours(insgd.MeanVariances()),
    }
