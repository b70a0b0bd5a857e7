"""The optimizers whose cost is measured, each with the train step that a user would write."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

import insgd_optax as insgd
from benchmarks.gradient import gradient_of, muon_dimensions
from benchmarks.workloads import Workload

Step = Callable[..., Any]

# After how many updates Full computes its factors again; a round of as many steps holds one such.
REFRESH_EVERY = 20


# What a layer's structure may cost at most, as a share of its own work.
BUDGET = 0.15


@dataclasses.dataclass(frozen=True)
class Contender:
    """A train step, and the optimizer that makes its state.

    Attributes:
      step: from parameters, state and a batch to new parameters, new state and the loss.
      optimizer: makes the state that ``step`` takes first.
      announced: what `insgd.explain` says that a step takes, relative to SGD's.
    """

    step: Step
    optimizer: optax.GradientTransformation
    announced: float | None = None


def contenders(workload: Workload) -> dict[str, Contender]:
    """The peers and input normalization, by name; SGD comes first."""
    full = insgd.Full(damping=3.0, rows=128, refresh_every=REFRESH_EVERY)
    muon = optax.contrib.muon(0.01, muon_weight_dimension_numbers=muon_dimensions(workload.params))
    budget = _explained(workload, full).within_budget(BUDGET, full, insgd.Diagonal())
    return {
        "SGD": _contender(workload, optax.sgd(0.01, momentum=0.9)),
        "Adam": _contender(workload, optax.adam(1e-3)),
        "Muon": _contender(workload, muon),
        "INSGD, default": _contender(workload, insgd.insgd(), insgd.MeanVariances()),
        "Scalar": _captured(workload, insgd.Scalar()),
        "Diagonal": _captured(workload, insgd.Diagonal()),
        "MeanVariance": _captured(workload, insgd.MeanVariance()),
        "MeanVariances": _captured(workload, insgd.MeanVariances()),
        "LowRank": _captured(workload, insgd.LowRank(rows=128)),
        f"Full within {BUDGET:.0%}": _captured(workload, budget),
        "Full": _captured(workload, full),
    }


def _captured(workload: Workload, structure: insgd.Structure) -> Contender:
    """The structure alone, with SGD's steps."""
    explained = _explained(workload, structure)
    # Without layouts Full reserves room for every reading of a kernel's shape.
    settings = {"relative": 0.0, "layouts": explained.layouts}
    optimizer = insgd.insgd(0.01, structure=structure, **settings)
    return _contender(workload, optimizer, structure, 1 + explained.cost)


def _explained(workload: Workload, structure: insgd.Structure) -> insgd.Explanation:
    return insgd.explain(workload.loss_fn, workload.params, *workload.batch, structure=structure)


def _contender(
    workload: Workload,
    optimizer: optax.GradientTransformation,
    structure: insgd.Structure | None = None,
    announced: float | None = None,
) -> Contender:
    gradient = gradient_of(workload.loss_fn, structure)
    full_optimizer = optax.with_extra_args_support(optimizer)

    def step(params: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        loss, grads, extra = gradient(params, inputs, labels)
        updates, state = full_optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state, loss

    return Contender(step, optimizer, announced)
