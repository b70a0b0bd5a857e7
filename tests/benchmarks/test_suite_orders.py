"""Workloads with phases: --steps makes each phase shorter, and the default order stays."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks.suite.contenders import everyone
from benchmarks.suite.task import POINTS
from benchmarks.suite.training import Trainer, run_of
from benchmarks.suite.workloads import task
from benchmarks.suite.workloads.cifar import CLASSES, EARLY, FILES

pytestmark = [pytest.mark.framework, pytest.mark.usefixtures("as_users_run_it")]
DRIFTING = "drifting digits, batch 8"


@pytest.mark.parametrize("batch", [1, 8])
def test_the_default_order_of_drifting_digits_is_one_pass(batch):
    chosen = task(f"drifting digits, batch {batch}", None)
    expected = np.arange(8000).reshape(8000 // batch, batch)
    np.testing.assert_array_equal(chosen.rows(3), expected)


def test_more_steps_than_a_pass_of_drifting_digits_are_an_error_that_names_the_most():
    longer = dataclasses.replace(task(DRIFTING, None), steps=2000)
    with pytest.raises(ValueError, match=r"has 1000 steps.* not 2000"):
        Trainer(longer, everyone()["INSGD"]).trained([run_of(0, 0.02, "cosine")], test=False)


def test_a_short_run_of_drifting_digits_sees_the_darkest_images_half_way():
    short = dataclasses.replace(task(DRIFTING, None), steps=2 * POINTS)
    assert short.rows(0).shape == (20, 8)
    batch = jax.tree.map(lambda array: array[:8], short.data.train)
    changed = [
        short.change(jax.random.key(0), batch, jnp.int32(number), short.steps).inputs
        for number in range(short.steps)
    ]
    shares = np.asarray(changed).sum(axis=(1, 2)) / batch.inputs.sum()
    assert shares.argmin() == 10 and shares[0] == pytest.approx(1)
    assert shares[10] == pytest.approx(0.1, abs=1e-6)


def _folder_of_cifar(folder: Path) -> Path:
    """CIFAR-10's layout: 104 images of a class to train, of which validation takes 100."""
    for part, number in (("train", 104), ("test", 1)):
        for label, name in enumerate(CLASSES):
            place = folder / FILES[0] / part / name
            place.mkdir(parents=True)
            for image in range(number):
                Image.fromarray(np.full((2, 2, 3), label, np.uint8)).save(place / f"{image:04}.png")
    return folder


@pytest.mark.parametrize("steps", [20, 700, 1400])
def test_a_transfer_of_any_length_has_both_halves(steps, tmp_path):
    whole = task("CIFAR-10, transfer", _folder_of_cifar(tmp_path))
    chosen = dataclasses.replace(whole, steps=steps)
    rows = chosen.rows(0)
    assert rows.shape == (steps, chosen.batch)
    labels = chosen.data.train.labels[rows]
    assert labels[: steps // 2].max() < EARLY <= labels[steps // 2 :].min()


def test_the_default_order_of_the_transfer_is_that_of_the_committed_results(tmp_path):
    chosen = task("CIFAR-10, transfer", _folder_of_cifar(tmp_path))
    rows = chosen.rows(5)
    rng, early = np.random.default_rng(5), np.arange(4 * EARLY)
    first = np.concatenate([rng.permutation(early) for _ in range(350 * 64 // len(early))])
    np.testing.assert_array_equal(rows[:350].ravel(), first[: 350 * 64])
    assert rows.shape == (700, 64)
