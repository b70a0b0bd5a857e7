"""What one step of normalized LMS does to one example."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
from hypothesis.extra import numpy as hypothesis_numpy

import insgd_optax as insgd
from theory import identities
from theory.filters import filter_path
from theory_page.holding import assert_holds

few = hypothesis.settings(max_examples=30, deadline=None)
vectors = hypothesis_numpy.arrays(float, 4, elements=st.floats(-1e3, 1e3)).filter(
    lambda vector: bool((vector**2).sum() > 1e-6)
)
step_sizes = st.floats(0.01, 3.0)


@jax.jit
def _one_step(step_size, eps, x, target, start):
    path = filter_path(insgd.nlms(step_size, eps), x[None, None], target[None, None], start)
    return path.before[0, 0], path.after[0, 0], path.weights[1]


def test_nlms_leaves_the_predicted_share_of_the_error():
    """T1. e_post = (1 - μ‖x‖² / (ε + ‖x‖²)) e, and none for μ = 1 and ε = 0. Sayed (2003)."""
    assert_holds(identities.t1())

    @few
    @hypothesis.given(step_sizes, st.floats(0, 1e3), vectors)
    def check(step_size: float, eps: float, x) -> None:
        numbers = jnp.asarray(step_size), jnp.asarray(eps), jnp.asarray(x)
        before, after, _ = _one_step(*numbers, jnp.asarray(1.0), jnp.zeros(4))
        power = (x**2).sum()
        assert abs(after / before - (1 - step_size * power / (eps + power))) < 1e-10

    check()


def test_every_step_along_the_input_conserves_energy():
    """T2. ‖w̃_i‖² + e_a²/‖x‖² = ‖w̃_{i-1}‖² + e_p²/‖x‖², whatever the divisor. Sayed (2003)."""
    assert_holds(identities.t2())


def test_without_noise_nlms_removes_the_predicted_part_of_the_weight_error():
    """T3. ‖w̃‖² falls by μ(2 - μ) e²/‖x‖², so it never grows iff 0 ≤ μ ≤ 2. From T1 and T2."""
    assert_holds(identities.t3())

    @few
    @hypothesis.given(step_sizes, vectors, vectors)
    def check(step_size: float, x, error) -> None:
        # The best weights are zero: the weights are the error.
        numbers = jnp.asarray(step_size), jnp.asarray(0.0), jnp.asarray(x)
        before, _, moved = _one_step(*numbers, jnp.asarray(0.0), jnp.asarray(error))
        length = (error**2).sum()
        promised = step_size * (2 - step_size) * before**2 / (x**2).sum() / length
        assert abs(1 - (moved**2).sum() / length - promised) < 1e-10

    check()


def test_nlms_on_a_dead_zone_is_set_membership_filtering():
    """T14. On max(|e| - γ, 0)²/2 it leaves |e_post| = γ, or does not move. Diniz."""
    assert_holds(identities.t14())


def test_at_a_step_size_of_one_the_error_energy_stays_below_the_noise_energy():
    """T21. Σ e_a²/‖x‖² ≤ ‖w̃_0‖² + Σ v²/‖x‖², with the rest left in w̃. From T1 and T2."""
    assert_holds(identities.t21())
