"""Work in several processes, and what an interruption leaves of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.framework

SCRIPT = """
import functools, sys, time
from pathlib import Path
from benchmarks.shared.processes import in_processes

def begun(place, folder):
    Path(folder, str(place)).touch()
    time.sleep(60 if place < 2 else 0)
    return f"{place}"

if __name__ == "__main__":
    in_processes([functools.partial(begun, place, sys.argv[1]) for place in range(6)], 2)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interruption_starts_no_other_call(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(SCRIPT)
    folder.mkdir()
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    while len(list(folder.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: every process gets it
    assert process.wait(timeout=60) != 0
    assert {file.name for file in folder.iterdir()} == {"0", "1"}
