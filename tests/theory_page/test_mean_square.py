"""Averages over Gaussian inputs, with the tolerances that the experiments' comments give."""

from theory import lms, mean_square
from theory_page.holding import assert_holds


def test_nlms_contracts_the_mean_square_error_at_the_predicted_rate():
    """T4. E‖w̃‖² contracts by 1 - μ(2 - μ)/d. The mean of T3."""
    assert_holds(mean_square.t4())


def test_nlms_under_noise_settles_at_the_predicted_excess_error():
    """T5. μ/(2 - μ) · d/(d - 2) noise variances. Derived there; textbooks give the limit."""
    assert_holds(mean_square.t5())


def test_a_running_power_contracts_at_the_predicted_rate():
    """T7. 1 - 2μ/d + μ²(b + d + 1)/(b d²) for batches of b. Derived in the experiment."""
    assert_holds(mean_square.t7())


def test_a_running_power_is_unstable_above_its_own_bound_and_stable_below():
    """T8. μ < 2 d b/(b + d + 1), not μ < 2. From T7."""
    assert_holds(mean_square.t8())


def test_a_running_power_under_noise_settles_at_the_predicted_excess_error():
    """T9. (μ²/(b d)) / (2μ/d - μ²(b + d + 1)/(b d²)) noise variances. From T7."""
    assert_holds(mean_square.t9())


def test_lms_is_the_running_power_of_single_examples():
    """T11. Excess error m s_x² d/(2 - m s_x²(d + 2)); in the mean m < 2/λ_max. Sayed (2003)."""
    assert_holds(lms.t11())
