"""The optimizers whose cost is measured, each with the train step that a user would write."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

import insgd_optax as insgd
from benchmarks.workloads import Workload

Step = Callable[..., Any]

# After how many updates Full computes its factors again; a round of as many steps holds one such.
REFRESH_EVERY = 20


@dataclasses.dataclass(frozen=True)
class Contender:
    """A train step, and the optimizer that makes its state.

    Attributes:
      step: from parameters, state and a batch to new parameters, new state and the loss.
      optimizer: makes the state that ``step`` takes first.
    """

    step: Step
    optimizer: optax.GradientTransformation


def contenders(workload: Workload) -> dict[str, Contender]:
    """The peers and input normalization, by name; SGD comes first."""
    full = insgd.Full(damping=3.0, rows=128, refresh_every=REFRESH_EVERY)
    # Without layouts Full reserves room for every reading of a kernel's shape.
    layouts = insgd.explain(workload.loss_fn, workload.params, *workload.batch).layouts
    return {
        "SGD": _plain(workload, optax.sgd(0.01, momentum=0.9)),
        "Adam": _plain(workload, optax.adam(1e-3)),
        "Muon": _plain(workload, _muon(workload.params)),
        "INSGD, default": _captured(workload, insgd.Diagonal()),
        "Scalar": _captured(workload, insgd.Scalar(), relative=0.0),
        "Diagonal": _captured(workload, insgd.Diagonal(), relative=0.0),
        "MeanVariance": _captured(workload, insgd.MeanVariance(), relative=0.0),
        "Full": _captured(workload, full, relative=0.0, layouts=layouts),
    }


def _plain(workload: Workload, optimizer: optax.GradientTransformation) -> Contender:
    def step(params: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(workload.loss_fn)(params, inputs, labels)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return Contender(step, optimizer)


def _captured(workload: Workload, structure: insgd.Structure, **settings: Any) -> Contender:
    optimizer = insgd.insgd(0.01, structure=structure, **settings)
    grad_fn = insgd.value_and_grad(workload.loss_fn, structure=structure)

    def step(params: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> Any:
        loss, grads, input_stats = grad_fn(params, inputs, labels)
        updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state, loss

    return Contender(step, optimizer)


def _muon(params: Any) -> optax.GradientTransformation:
    def numbers(leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    # Muon's own default orthogonalizes matrices only: convolutions would be left to Adam.
    specs = jax.tree.map(numbers, params)
    return optax.contrib.muon(0.01, muon_weight_dimension_numbers=specs)
