"""The optimizers that are compared, each with its own grid of learning rates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import insgd_optax as insgd
from benchmarks.long_tail.training import Build, Optimizer
from benchmarks.shared.gradient import muon_dimensions

# Whose factors are refreshed now and then from some rows, and at every step from all of them.
FULL, EXACT = "INSGD Full", "INSGD Full, exact"
LOW_RANK = "INSGD LowRank"
# Of decoupled weight decay, as optax has it: of AdamW and of Muon, which was made of it.
DECOUPLED = 1e-2


class Contender(NamedTuple):
    """How to build an optimizer from a learning rate, and the middle of those that are tried."""

    build: Callable[[float], Build]
    center: float


def contenders() -> dict[str, Contender]:
    """All of them with a cosine schedule, and with weight decay on matrices alone."""
    full, exact = insgd.Full(3.0, 20, 128), insgd.Full(3.0, 1, None)
    return {
        "SGD": Contender(_sgd, 0.025),
        "AdamW": Contender(_adamw, 0.01),
        "Muon": Contender(_muon, 0.03),
        "INSGD": Contender(lambda rate: _insgd(rate, lambda _: insgd.MeanVariances()), 0.03),
        "INSGD budget": Contender(
            lambda rate: _insgd(
                rate, lambda found: found.within_budget(0.15, full, insgd.Scalar())
            ),
            0.03,
        ),
        LOW_RANK: Contender(lambda rate: _insgd(rate, lambda _: insgd.LowRank(rows=128)), 0.03),
        FULL: Contender(lambda rate: _insgd(rate, lambda _: full), 0.03),
        EXACT: Contender(lambda rate: _insgd(rate, lambda _: exact), 0.03),
    }


def _sgd(rate: float) -> Build:
    def build(params: Any, steps: int, explained: insgd.Explanation) -> Optimizer:
        del params
        sgd = optax.sgd(_cosine(rate, steps), momentum=0.9)
        return _plain(optax.chain(optax.add_decayed_weights(5e-4, _matrices), sgd))

    return build


def _adamw(rate: float) -> Build:
    def build(params: Any, steps: int, explained: insgd.Explanation) -> Optimizer:
        del params, explained
        return _plain(optax.adamw(_cosine(rate, steps), weight_decay=DECOUPLED, mask=_matrices))

    return build


def _muon(rate: float) -> Build:
    def build(params: Any, steps: int, explained: insgd.Explanation) -> Optimizer:
        muon = optax.contrib.muon(
            _cosine(rate, steps),
            weight_decay=DECOUPLED,
            weight_decay_mask=_matrices,
            adam_learning_rate=_cosine(rate / 3, steps),
            muon_weight_dimension_numbers=muon_dimensions(params),
        )
        return _plain(muon)

    return build


def _insgd(rate: float, choose: Callable[[insgd.Explanation], insgd.Structure]) -> Build:
    def build(params: Any, steps: int, explained: insgd.Explanation) -> Optimizer:
        del params
        structure = choose(explained)
        decayed: Any = {"weight_decay": 5e-4, "mask": _matrices, "layouts": explained.layouts}
        return Optimizer(
            insgd.insgd(_cosine(rate, steps), structure=structure, **decayed), structure
        )

    return build


def _plain(transform: optax.GradientTransformation) -> Optimizer:
    return Optimizer(optax.with_extra_args_support(transform), None)


def _cosine(rate: float, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(rate, steps)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
