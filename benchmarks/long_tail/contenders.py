"""The optimizers that are compared, each with its own grid of learning rates."""

from typing import Any, NamedTuple

import jax
import optax

import insgd_optax as insgd
from benchmarks.long_tail.training import Build, Optimizer

TRIALS = 4


class Contender(NamedTuple):
    """How to build an optimizer from a learning rate, and the middle of its grid."""

    build: Any
    center: float

    def rates(self) -> list[float]:
        """As many learning rates for everyone, each twice the one before."""
        return [self.center * 2.0 ** (n - TRIALS // 2) for n in range(TRIALS)]


def contenders() -> dict[str, Contender]:
    """All of them with a cosine schedule, and with weight decay on matrices alone."""
    full = insgd.Full(damping=3.0, rows=128, refresh_every=20)
    return {
        "SGD": Contender(_sgd, 0.025),
        "AdamW": Contender(_adamw, 0.01),
        "Muon": Contender(_muon, 0.03),
        "INSGD": Contender(lambda rate: _insgd(rate, insgd.Diagonal()), 0.03),
        "INSGD Full": Contender(lambda rate: _insgd(rate, full), 0.03),
    }


def _sgd(rate: float) -> Build:
    def build(params: Any, steps: int) -> Optimizer:
        del params
        sgd = optax.sgd(_cosine(rate, steps), momentum=0.9)
        return _plain(optax.chain(optax.add_decayed_weights(5e-4, _matrices), sgd))

    return build


def _adamw(rate: float) -> Build:
    def build(params: Any, steps: int) -> Optimizer:
        del params
        return _plain(optax.adamw(_cosine(rate, steps), weight_decay=1e-2, mask=_matrices))

    return build


def _muon(rate: float) -> Build:
    def build(params: Any, steps: int) -> Optimizer:
        muon = optax.contrib.muon(
            _cosine(rate, steps),
            adam_learning_rate=_cosine(rate / 3, steps),
            muon_weight_dimension_numbers=jax.tree.map(_channels_last, params),
        )
        return _plain(muon)

    return build


def _insgd(rate: float, structure: insgd.Structure) -> Build:
    def build(params: Any, steps: int) -> Optimizer:
        del params
        schedule = _cosine(rate, steps)
        transform = insgd.insgd(schedule, structure=structure, weight_decay=5e-4, mask=_matrices)
        return Optimizer(transform, structure)

    return build


def _plain(transform: optax.GradientTransformation) -> Optimizer:
    return Optimizer(optax.with_extra_args_support(transform), None)


def _cosine(rate: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(rate, steps)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _channels_last(leaf: jax.Array) -> Any:
    """A kernel as the matrix from all its inputs to its outputs."""
    if leaf.ndim < 2:
        return None
    return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)
