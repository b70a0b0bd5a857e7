"""The measured optimizers."""

import dataclasses

import optax

import insgd_optax as insgd
from benchmarks.shared.contender import OURS, Contender, contenders
from benchmarks.step_time.workloads import Workload

# Full recomputes its factors after this many updates. A round has the same number of steps.
REFRESH_EVERY = 20
# The largest allowed cost of a structure, as a share of its layer's own work.
BUDGET = 0.15
DEFAULT = "INSGD, default"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An optimizer, and the cost of its step relative to SGD's according to `insgd.explain`."""

    contender: Contender
    announced: float | None = None


def candidates(workload: Workload) -> dict[str, Candidate]:
    """The peers and input normalization by name. SGD comes first."""
    full = insgd.Full(damping=3.0, rows=128, refresh_every=REFRESH_EVERY)
    budget = _explained(workload, full).within_budget(BUDGET, full, insgd.Diagonal())
    structures = {
        "Scalar": insgd.Scalar(),
        "Diagonal": insgd.Diagonal(),
        "MeanVariance": insgd.MeanVariance(),
        "MeanVariances": insgd.MeanVariances(),
        "LowRank": insgd.LowRank(rows=128),
        f"Full within {BUDGET:.0%}": budget,
        "Full": full,
    }
    names = {name: DEFAULT if name == OURS else name for name in contenders()}
    whole = {names[name]: Candidate(each) for name, each in contenders().items()}
    return whole | {name: _alone(workload, name, each) for name, each in structures.items()}


def _alone(workload: Workload, name: str, structure: insgd.Structure) -> Candidate:
    """The structure with SGD's steps, without relative ones."""
    explained = _explained(workload, structure)
    # Without layouts Full reserves room for every reading of a kernel's shape.
    settings = {"relative": 0.0, "layouts": explained.layouts}

    def make(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
        return insgd.insgd(rate, structure=structure, **settings)

    return Candidate(Contender(name, make, 0.01, structure), 1 + explained.cost)


def _explained(workload: Workload, structure: insgd.Structure) -> insgd.Explanation:
    arguments = workload.params, workload.statistics, *workload.batch
    options = {"batch_argnums": (2, 3), "structure": structure}
    return insgd.explain(workload.loss_fn, *arguments, **options)
