"""The step-time workloads for a GPU, at a size for a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.step_time.__main__ import measure
from benchmarks.step_time.report import write_report
from benchmarks.step_time.workloads import large_workloads

pytestmark = [pytest.mark.framework, pytest.mark.usefixtures("as_users_run_it"), pytest.mark.long]


@pytest.mark.parametrize("name", ["transformer-110m", "resnet50"])
def test_a_large_workload_is_measured_in_half_precision_and_its_weights_stay_in_full(
    name, tmp_path
):
    (workload,) = large_workloads(name, reduced=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(workload.params)} == {jnp.dtype("float32")}
    text = str(
        jax.make_jaxpr(workload.loss_fn)(workload.params, workload.statistics, *workload.batch)
    )
    assert "bf16" in text
    costs = measure(workload, rounds=1, steps=1, optimizers=["INSGD, default"])
    assert set(costs) == {"SGD", "Adam", "INSGD, default"}
    write_report(tmp_path, {"rounds": 1, "steps": 1, "warm_up": 1}, {name: costs})
    assert np.isfinite(costs["INSGD, default"].step[0])
