"""Filters that use more than one power of the input."""

from theory import projection
from theory_page.holding import assert_holds


def test_with_a_batchs_own_second_moment_every_row_keeps_the_same_share_of_its_error():
    """T12. Affine projection: e_post = (1 - μ) e for K ≤ d rows. Sayed (2003)."""
    assert_holds(projection.t12())


def test_a_damped_second_moment_is_affine_projection_and_for_one_row_normalized_lms():
    """T13. (XᵀX/K + λI)⁻¹Xᵀe/K = Xᵀ(XXᵀ + KλI)⁻¹e; K = 1 is ε-NLMS. Benzing (2022), FOOF."""
    assert_holds(projection.t13())


def test_a_history_of_the_second_moment_is_recursive_least_squares():
    """T15. Exact after d noise-free samples; misadjustment d(1 - λ)/(1 + λ). Sayed (2003)."""
    assert_holds(projection.t15())


def test_a_cosine_transform_and_a_power_each_whiten_a_correlated_signal():
    """T16. The spread of AR(1) falls from ((1 + ρ)/(1 - ρ))² to 1 + ρ. Farhang-Boroujeny."""
    assert_holds(projection.t16())
