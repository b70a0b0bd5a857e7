"""The compared optimizers."""

import functools

import insgd_optax as insgd
from benchmarks.shared import contender as shared
from benchmarks.shared.contender import OURS, Contender

PEERS = ("SGD", "Adam", "Muon")
DEFAULT_RATE = shared.contenders()[OURS].default_rate


def contenders() -> dict[str, Contender]:
    """The peers, and input normalization with SGD's steps and with relative steps."""
    known, diagonal = shared.contenders(), insgd.Diagonal()
    absolute = functools.partial(insgd.insgd, structure=diagonal, relative=0.0)
    ours = Contender("INSGD Diagonal", absolute, known["SGD"].default_rate, diagonal)
    return {name: known[name] for name in PEERS} | {ours.name: ours, OURS: known[OURS]}
