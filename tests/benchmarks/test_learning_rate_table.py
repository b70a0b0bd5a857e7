"""The width of an optimizer's good learning rates, by hand."""

import numpy as np
import pytest

from benchmarks.learning_rate.table import _longest_run


@pytest.mark.parametrize(
    ("good", "decades"), [([0, 1, 1, 1, 0, 1], 1.0), ([0, 0, 0], 0.0), ([0, 1, 0], 0.0)]
)
def test_a_run_of_good_rates_is_as_wide_as_from_its_first_to_its_last(good, decades):
    assert _longest_run(np.array(good, bool)) == pytest.approx(decades)
