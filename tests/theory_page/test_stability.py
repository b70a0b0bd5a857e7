"""The largest stable step size, and what each structure does to the slowest mode."""

from theory import spectrum, stability
from theory_page.holding import assert_holds


def test_full_batches_are_stable_up_to_the_trace_over_the_largest_eigenvalue():
    """T10. μ < 2 tr(R)/λ_max(R), from 2 to 2d; slowest mode 1 - μ λ_min/tr(R). Derived there."""
    assert_holds(stability.t10())


def test_the_guard_keeps_heavy_tailed_steps_from_growing_and_its_absence_does_not():
    """The guard. λ_max of a batch is at most its power, so no step is expansive. Derived there."""
    assert_holds(stability.guard())


def test_each_structure_leaves_the_spread_of_eigenvalues_that_its_definition_predicts():
    """The structures. Scalar changes no ratio of eigenvalues, Full leaves its damping's."""
    assert_holds(spectrum.structures())
