"""A run that is killed at any time goes on from its last checkpoint as if it had not been."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("killed_run.py")
STEPS = 100


def _run(folder: pathlib.Path, kills: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """The parameters at the end of a run, and what each kill left."""
    environment = {**os.environ, "JAX_ENABLE_X64": "0"}
    command = [sys.executable, str(SCRIPT), str(folder), str(STEPS), str(kills)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return dict(np.load(folder / "params.npz")), (folder / "killed.txt").read_text().splitlines()


@pytest.mark.long
def test_a_killed_run_ends_bit_by_bit_where_one_that_is_not_killed_does(tmp_path):
    expected, _ = _run(tmp_path / "whole", 0)
    actual, left = _run(tmp_path / "killed", 20)
    assert len(left) == 20
    assert left.count("in a save") >= 5
    for name, leaf in expected.items():
        np.testing.assert_array_equal(actual[name], leaf)
