"""The compared optimizers, each with its usual learning rate."""

import dataclasses
import functools
import inspect
from collections.abc import Callable

import jax
import optax
from jaxtyping import PyTree

import insgd_optax as insgd
from benchmarks.shared.gradient import muon_dimensions

OURS = "INSGD"
# Muon leaves vectors to Adam. Here both rates are scaled by the same factor.
MUON_RATE, ADAM_RATE = 0.02, 1e-3
SCHEDULED = 2.0  # as in docs/choosing.md

Maker = Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]


def _as_trained(state: optax.OptState, params: optax.Params) -> optax.Params:
    del state
    return params


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer as a function of its learning rate.

    Attributes:
      name: its name in tables.
      make: builds the optimizer from a learning rate or schedule.
      default_rate: its usual learning rate.
      structure: the input statistics that it needs. None for none.
      evaluated: maps its state and the parameters to the parameters to test.
      headline: the schedule that it is designed for.
      scheduled: the factor on its usual rate when that is the peak of a schedule that ends at zero.
      higher: how many places the suite's trials lie above the usual rate.
    """

    name: str
    make: Maker
    default_rate: float
    structure: insgd.Structure | None = None
    evaluated: Callable[[optax.OptState, optax.Params], optax.Params] = _as_trained
    headline: str = "cosine"
    scheduled: float = 1.0
    higher: int = 0

    def usual_rate(self, schedule: str) -> float:
        return self.default_rate * (1.0 if schedule == "constant" else self.scheduled)

    def optimizer(self, rate: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.make(rate))


def contenders() -> dict[str, Contender]:
    """The peers and our default without any settings, by name."""
    ours = inspect.signature(insgd.insgd).parameters
    rate, structure = ours["learning_rate"].default, ours["structure"].default
    everyone = (
        Contender("SGD", functools.partial(optax.sgd, momentum=0.9), 0.1),
        Contender("Adam", optax.adam, ADAM_RATE),
        Contender("Muon", _muon, MUON_RATE),
        Contender(OURS, insgd.insgd, rate, structure, scheduled=SCHEDULED),
    )
    return {contender.name: contender for contender in everyone}


def _muon(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    share = ADAM_RATE / MUON_RATE
    adam_rate = (lambda count: share * rate(count)) if callable(rate) else share * rate
    return optax.contrib.muon(
        rate, adam_learning_rate=adam_rate, muon_weight_dimension_numbers=_kernels
    )


def _kernels(params: optax.Params) -> PyTree:
    """Every kernel as a matrix. Embeddings and vectors go to Adam, as Muon's authors advise.

    The kernel of the head goes to Muon too, although the authors leave it to Adam.

    In Flax's attention query, key and value kernels have the shape (inputs, heads, features). The
    output kernel has (heads, features, outputs).
    """

    def numbers(path: tuple, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        *layers, name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if name != "kernel":
            return None
        if layers[-1:] in (["query"], ["key"], ["value"]):
            return optax.contrib.MuonDimensionNumbers((0,), tuple(range(1, leaf.ndim)))
        return muon_dimensions(leaf)

    return jax.tree_util.tree_map_with_path(numbers, params)
