"""The optimizers that are compared."""

import functools

import insgd_optax as insgd
from benchmarks.shared import contender as shared
from benchmarks.shared.contender import OURS, Contender

PEERS = ("SGD", "Adam", "Muon")
DEFAULT_RATE = shared.contenders()[OURS].default_rate


def contenders() -> dict[str, Contender]:
    """The peers, and input normalization with steps in SGD's units and with relative ones."""
    known, diagonal = shared.contenders(), insgd.Diagonal()
    absolute = functools.partial(insgd.insgd, structure=diagonal, relative=0.0)
    ours = Contender("INSGD Diagonal", absolute, known["SGD"].default_rate, diagonal)
    return {name: known[name] for name in PEERS} | {ours.name: ours, OURS: known[OURS]}
