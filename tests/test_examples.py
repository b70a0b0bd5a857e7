"""Every example runs from its command, shortened, and leaves a figure that is not empty."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "examples"
SHORT = {
    "few_shot": "--steps 5 --seeds 1 --shots 2 5",
    "imbalanced_digits": "--steps 5 --seeds 1 --trials 2 --search-seeds 1",
    "language_model": "--steps 20",
    "linen_train_state": "--steps 20",
    "log_layers": "--steps 20",
    "nnx_loop": "--steps 60",
    "online_stream": "--steps 20",
    "sharded": "--steps 10",
    "train_folder": "--steps 10",
    "transfer": "--steps 10",
    "with_muon": "--steps 10",
}
MODULES = {"digits", "digits_task", "digits_training", "images", "report"}  # no commands


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / f"{words[0]}.py"), *words[1:]]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def test_no_example_is_left_out() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == set(SHORT) | MODULES


@pytest.mark.long
@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs_from_its_command_and_leaves_a_figure(name: str, tmp_path: Path) -> None:
    done = _run(name, *SHORT[name].split(), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "|" in done.stdout
    # The largest: train_folder writes images of digits too.
    figure = max(tmp_path.rglob("*.png"), key=lambda file: file.stat().st_size)
    pixels = np.asarray(Image.open(figure))
    assert pixels.std() > 5


@pytest.mark.long
def test_a_network_of_a_folder_is_saved_loaded_and_predicts(tmp_path: Path) -> None:
    assert _run("train_folder", "--steps", "60", "--out", str(tmp_path)).returncode == 0
    folder = tmp_path / "digits" / "test" / "0"
    done = _run("train_folder", "predict", str(tmp_path / "model.npz"), str(folder),
                "--out", str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + len(list(folder.iterdir()))
    right = [row for row in rows[1:] if row.split(",")[1] == "0"]
    assert len(right) > len(rows) / 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "nowhere"], "There is no nowhere"),
        (["--data", "{empty}"], "holds no images in class folders"),
        (["predict", "nowhere.npz", "{empty}"], "is missing, or no model"),
        (["--steps", "0"], "must be a whole number"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_clear_line(
    words: list[str], said: str, tmp_path: Path
) -> None:
    done = _run("train_folder", *(word.format(empty=tmp_path) for word in words))
    assert done.returncode != 0
    assert said in done.stderr and "Traceback" not in done.stderr
