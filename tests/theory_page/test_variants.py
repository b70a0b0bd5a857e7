"""Units of the input, the logarithm, the l1 norm and the history of the paper."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis.extra import numpy as hypothesis_numpy

import insgd_optax as insgd
from theory import variants
from theory.filters import filter_path, filtering_problem, nlms
from theory_page.holding import assert_holds

few = hypothesis.settings(max_examples=30, deadline=None)


@jax.jit
def _errors_in_another_unit(c):
    inputs, targets, start = filtering_problem(1, 50, 3)
    return filter_path(nlms(0.8), c * inputs, targets, start / c).before


@jax.jit
def _share_left_by_l1(step_size, x):
    tx = insgd.nlms(step_size, eps=0.0, order=1)
    return filter_path(tx, x[None, None], jnp.ones((1, 1)), jnp.zeros(4), order=1).after[0, 0]


def test_nlms_predicts_the_same_in_every_unit_of_the_input_and_the_log_and_l1_do_not():
    """T6. x → c x, w → w/c changes no prediction with ε = 0. Derived in the experiment."""
    assert_holds(variants.t6())
    reference = np.asarray(_errors_in_another_unit(jnp.asarray(1.0)))

    @few
    @hypothesis.given(st.floats(-6, 6))
    def check(exponent: float) -> None:
        errors = _errors_in_another_unit(jnp.asarray(10.0**exponent))
        np.testing.assert_allclose(errors, reference, rtol=1e-9, atol=1e-9)

    check()


def test_the_logarithm_leaves_the_predicted_share_of_the_error():
    """T17. It leaves 1 - μP/log P, stable iff μ < 2 log(P)/P. The paper's Algorithm 1."""
    assert_holds(variants.t17())


def test_the_clipped_logarithm_never_turns_the_step_and_gives_none_without_input():
    """T18. 100 times the gradient up to P = e^0.01, nothing at P = 0. The paper's Algorithm 1."""
    assert_holds(variants.t18())


def test_a_gradient_over_the_l1_norm_is_no_projection_and_the_sign_over_it_is():
    """T19. It leaves 1 - μ‖x‖₂²/‖x‖₁ of the error; e sign(x)/‖x‖₁ leaves none. By Hölder."""
    assert_holds(variants.t19())
    vectors = hypothesis_numpy.arrays(float, 4, elements=st.floats(-100, 100))

    @few
    @hypothesis.given(st.floats(0.01, 3.0), vectors.filter(lambda x: bool(np.abs(x).max() > 1e-3)))
    def check(step_size: float, x) -> None:
        left = _share_left_by_l1(jnp.asarray(step_size), jnp.asarray(x))
        taken = step_size * (x**2).sum() / np.abs(x).sum()
        assert abs(left - (1 - taken)) < 1e-10 * (1 + taken)

    check()


def test_a_history_that_starts_at_its_first_value_keeps_a_constant_power():
    """T20. P_k = P for all k; β = 0 takes each batch's own power. The paper's Algorithm 1."""
    assert_holds(variants.t20())
