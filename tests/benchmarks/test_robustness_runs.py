"""All runs of a cell are one program, and each is as it would be alone."""

import dataclasses

import numpy as np
import pytest

from benchmarks.robustness import cell as cells
from benchmarks.robustness.cell import Cell, trained
from benchmarks.robustness.workloads import workload

pytestmark = [pytest.mark.framework, pytest.mark.usefixtures("as_users_run_it")]


def test_runs_together_have_the_scores_that_they_have_one_by_one(monkeypatch: pytest.MonkeyPatch):
    cell = Cell("relu-mlp", 8, "Adam", 100, 1)
    together = trained(cell)
    alone = dataclasses.replace(workload("relu-mlp"), together=False)
    monkeypatch.setattr(cells, "workload", lambda name: alone)
    one_by_one = trained(cell)
    np.testing.assert_allclose(together.start, one_by_one.start, atol=0.01)
    # By rounding, a few images of 360 may fall on the other side.
    np.testing.assert_allclose(together.scores, one_by_one.scores, atol=2)
    assert together.scores[:, 2].min() > together.start.max() + 20
