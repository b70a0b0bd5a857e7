"""Several processes, each with its own part of the batch, step as one process does."""

import functools
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("one_host.py")
TIMEOUT, TRIES = 150, 3


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _together(processes: int, out: pathlib.Path) -> tuple[bool, str]:
    """Whether all of the processes came to their end, and what they said."""
    port = str(_free_port())
    # One device a process: those of the tests' own settings would be eight.
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_ENABLE_X64": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), port, str(processes), str(number), str(out)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip
    said = []
    try:
        for process in started:
            said.append(process.communicate(timeout=TIMEOUT)[0])
    except subprocess.TimeoutExpired:
        said.append(f"no end after {TIMEOUT} seconds")
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return all(process.returncode == 0 for process in started), "\n".join(said)


@functools.cache
def _trained(processes: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "params.npz"
        for _ in range(TRIES):  # another program may take the port before the processes do
            ended, said = _together(processes, out)
            if ended:
                return dict(np.load(out))
            if "address" not in said.lower():
                break
    if "gloo" in said and ("not available" in said or "Unrecognized" in said):
        pytest.skip("this jaxlib has no collectives between processes on a CPU")
    raise AssertionError(said)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_with_parts_of_the_batch_step_as_one_process_does(processes: int) -> None:
    alone, together = _trained(1), _trained(processes)
    for name, leaf in alone.items():
        apart = np.linalg.norm(together[name] - leaf) / np.linalg.norm(leaf)
        assert apart < 1e-5, (name, apart)
