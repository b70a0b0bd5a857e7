"""The suite's protocol: equal trials, paired runs, and a test split that is read once."""

import dataclasses
import inspect
from pathlib import Path

import numpy as np
import optax
import pytest
from PIL import Image

from benchmarks.__main__ import main, matching
from benchmarks.suite.contenders import MAIN, everyone, trials
from benchmarks.suite.methods import METHODS
from benchmarks.suite.page import write_page
from benchmarks.suite.protocol import TUNED, USUAL, Cell, Result, Row
from benchmarks.suite.results import is_done, path, read_all, write
from benchmarks.suite.speed import Speed
from benchmarks.suite.training import POINTS, Trainer, run_of
from benchmarks.suite.workloads import QUICK, names, task
from benchmarks.suite.workloads.cifar import CLASSES, FILES

pytestmark = [pytest.mark.framework, pytest.mark.usefixtures("as_users_run_it")]


@pytest.mark.parametrize("name", everyone())
def test_everyone_tries_as_many_rates_over_as_wide_a_range_around_the_usual_one(name):
    contender = everyone()[name]
    rates = trials(contender)
    assert len(rates) == 5
    place = 1 if name == "AdamW" else 2  # its best rates are higher
    assert rates[place] == contender.usual_rate(contender.headline)
    assert rates[-1] / rates[0] == pytest.approx(10**2.4)


def test_the_main_optimizers_are_among_all():
    assert set(MAIN) <= set(everyone())


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_workload_needs_no_folder_and_its_parts_share_no_example(name):
    chosen = task(name, None)
    parts = [{row.tobytes() for row in np.asarray(part.inputs)} for part in chosen.data]
    assert not parts[1] & parts[2]
    assert not parts[0] & (parts[1] | parts[2])
    assert chosen.steps % POINTS == 0


@pytest.mark.parametrize("name", ["digits", "drifting digits, batch 8"])
def test_an_epoch_has_every_example_once_in_an_order_of_the_seeds_own(name):
    chosen = task(name, None)
    orders = [chosen.rows(seed) for seed in (0, 1)]
    number = len(chosen.data.train.labels)
    epoch = orders[0].ravel()[:number]
    assert sorted(epoch) == list(range(number))
    assert (epoch == np.arange(number)).all() == (chosen.order is not None)
    assert (orders[0] == orders[1]).all() == (chosen.order is not None)


def _short(name: str) -> Trainer:
    chosen = dataclasses.replace(task(name, None), steps=10 * POINTS)
    return Trainer(chosen, everyone()["INSGD"])


# The suite gives the vectors beside Muon their own rate, which Optax 0.2.6 cannot.
HAS_MUON = "adam_learning_rate" in inspect.signature(optax.contrib.muon).parameters


@pytest.mark.parametrize("name", everyone())
def test_every_optimizer_lowers_the_loss_at_its_usual_rate(name):
    if "Muon" in name and not HAS_MUON:
        pytest.skip("this Optax's Muon has no adam_learning_rate")
    chosen = dataclasses.replace(task("digits", None), steps=20 * POINTS)
    contender = everyone()[name]
    found = Trainer(chosen, contender).trained(
        [run_of(0, contender.default_rate, "constant")], test=False
    )
    assert found.curve.loss[-1] < 2.0 < np.log(10)


def test_runs_together_have_the_scores_that_they_have_one_by_one():
    runs = [run_of(0, 0.02, "cosine"), run_of(1, 0.1, "constant", "balanced softmax")]
    together = _short("digits, imbalance 50")
    alone = Trainer(dataclasses.replace(together.task, together=False), together.contender)
    found, expected = (trainer.trained(runs, test=True) for trainer in (together, alone))
    np.testing.assert_allclose(found.curve.loss, expected.curve.loss, rtol=1e-3)
    np.testing.assert_allclose(found.test.recalls, expected.test.recalls, atol=4)  # an image or two


@pytest.mark.parametrize("method", [name for name in METHODS if name != "none"])
def test_a_method_for_rare_classes_helps_the_rarest(method):
    trainer = _short("digits, imbalance 50")
    runs = [run_of(0, 0.05, "constant"), run_of(0, 0.05, "constant", method)]
    plain, balanced = trainer.trained(runs, test=True).test.recalls
    assert balanced[-3:].mean() > plain[-3:].mean()


def test_tuning_does_not_read_the_test_data():
    trainer = _short("digits")
    found = trainer.trained([run_of(0, 0.02, "cosine")], test=False)
    assert found.test.loss.shape == (1,) and np.isnan(found.test.loss).all()
    assert found.test.recalls.shape == (1, 10) and np.isnan(found.test.recalls).all()


@pytest.mark.long
def test_tuning_calls_no_network_without_images(tmp_path):
    chosen = task("CIFAR-10, imbalance 10, ViT", _folder_of_cifar(tmp_path))
    short = dataclasses.replace(chosen, steps=POINTS, batch=4)
    found = Trainer(short, everyone()["INSGD"]).trained([run_of(0, 0.02, "cosine")], test=False)
    assert np.isfinite(found.curve.loss).all() and np.isnan(found.test.loss).all()


@pytest.mark.parametrize("together", [True, False])
def test_two_classes_have_an_accuracy_and_an_area_under_the_curve(together):
    chosen = dataclasses.replace(task("breast cancer", None), steps=POINTS, together=together)
    trainer = Trainer(chosen, everyone()["INSGD"])
    runs = [run_of(seed, 0.02, "cosine") for seed in range(2)]
    found, labels = trainer.trained(runs, test=True), chosen.data.test.labels
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(found.test_accuracy, found.test.recalls @ shares, rtol=1e-5)
    assert (found.test_auc > 0.5).all() and (found.test_auc <= 1).all()
    assert np.isnan(trainer.trained(runs, test=False).test_auc).all()


def test_a_result_comes_back_from_its_file_and_is_run_again_for_other_settings(
    tmp_path, monkeypatch
):
    cell = Cell("digits", "INSGD", 2)
    curve = np.array([[1.5, np.nan], [0.25, 1e-9]])
    row = Row(
        0.02, TUNED, "cosine", "none", curve, curve, curve[1], np.ones((2, 10)), curve[1], curve[0]
    )
    result = Result("cosine", {0.02: 97.5, 0.3: 0.0}, [row], Speed(1e-3, 1.1, 1.0))
    assert not is_done(cell, tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks", "run", "--data", str(tmp_path)])
    write(cell, result, tmp_path)
    assert str(tmp_path.parent) not in path(cell, tmp_path).read_text()
    found = read_all(tmp_path).boards["digits"]["INSGD"]
    np.testing.assert_allclose(found.rows[0].losses, curve)
    np.testing.assert_allclose(found.rows[0].test_auc, curve[0])
    assert found.tried == result.tried
    assert is_done(cell, tmp_path)
    assert not is_done(dataclasses.replace(cell, seeds=3), tmp_path)


def test_a_page_is_made_of_what_is_there_also_where_peers_differ(tmp_path):
    curve = np.linspace(50, 90, 10)[:, None] * np.ones((1, 2))

    def result(factor: float) -> Result:
        rows = [
            Row(0.1, kind, schedule, "none", curve, factor * curve, curve[-1],
                factor * 90 * np.ones((2, 10)))
            for kind in (TUNED, USUAL) for schedule in ("cosine", "constant")
        ]  # fmt: skip
        return Result("cosine", {0.1: 90.0}, rows, Speed(1e-3, 1.0, 1.0))

    found = {"a": {"SGD": result(1.0), "INSGD": result(1.05)}, "b": {"Muon": result(1.0)}}
    areas = [row._replace(test_accuracy=80 * np.ones(2), test_auc=np.array([0.9, 0.92]))
             for row in result(1.0).rows]  # fmt: skip
    found["PneumoniaMNIST"] = {"SGD": result(1.0)._replace(rows=areas)}
    found["PneumoniaMNIST"]["INSGD"] = found["PneumoniaMNIST"]["SGD"]
    found |= {"c": {"Muon": result(1.0), "INSGD": result(0.9)}, "d": {"INSGD": result(1.0)}}
    page = write_page(found, tmp_path)
    assert "2 of 3 workloads (67%); goal 80 %: **not met**" in page
    assert "| INSGD | 80.0 ± 0.0, 0.910 | 80.0 ± 0.0, 0.910 |" in page and "0.944" in page
    assert "## a" in page and "## b" not in page and "## d" not in page
    assert (tmp_path / "report.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--workload", "nothing"], "no workload with 'nothing'"),
        (["run", "--data", "/nothing"], "/nothing does not exist"),
        (["run", "--suite", "full"], "needs --data"),
        (["run", "--steps", "15"], "multiple of 10"),
    ],
)
def test_a_command_that_would_do_nothing_says_so(arguments, expected, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert expected in capsys.readouterr().err


def test_a_folder_of_class_folders_is_a_workload_whatever_else_lies_in_it(tmp_path):
    for name in ("ill", "well"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".DS_Store").write_bytes(b"")
        for number in range(10):
            pixels = np.full((40, 40, 3), 20 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (name,) = set(names(tmp_path)) - set(QUICK)
    chosen = task(name, tmp_path)
    assert chosen.classes == ("ill", "well")
    assert chosen.data.train.inputs.shape == (12, 32, 32, 3)


def _folder_of_cifar(folder: Path) -> Path:
    """CIFAR-10's layout with few images: 60 for training and 4 for the test of each class."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 60), ("test", 4)):
        for name in CLASSES:
            place = folder / FILES[0] / part / name
            place.mkdir(parents=True)
            for image in range(number):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{image:04}.png")
    return folder


@pytest.mark.long
def test_the_workloads_for_a_gpu_run_at_a_reduced_size(tmp_path):
    data = _folder_of_cifar(tmp_path)
    name, other = names(data, "gpu")
    assert name.replace("100", "50") == other
    cell = Cell(name, "INSGD", 1, data, steps=POINTS)
    assert cell.settings()["steps"] == POINTS
    small = dataclasses.replace(cell.task, batch=4)
    assert small.counts.tolist() == [10] * 10
    found = Trainer(small, everyone()["INSGD"]).trained([run_of(0, 0.02, "cosine")], test=True)
    assert np.isfinite(found.test.loss).all()


def test_a_name_chooses_itself_and_a_word_all_names_with_it():
    known = ["digits", "digits, imbalance 50", "breast cancer"]
    assert matching("digits", known) == ["digits"]
    assert matching("Digit", known) == known[:2]
    assert matching("", known) == known


@pytest.mark.parametrize("suite", ["quick", "full"])
def test_the_committed_report_is_that_of_the_committed_results(suite, tmp_path):
    committed = Path(__file__).parents[2] / "benchmarks" / "report" / suite
    (tmp_path / suite).mkdir()
    found = read_all(committed)
    page = write_page(found.boards, tmp_path / suite, found.left_out)
    assert page == (committed / "report.md").read_text()
