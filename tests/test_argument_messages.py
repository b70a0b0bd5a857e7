"""A wrong argument is an error that says what would be right."""

import jax
import jax.numpy as jnp
import pytest

import insgd_optax as insgd
from battery.problems import assert_says, every_optimizer, every_structure, regression

pytestmark = pytest.mark.usefixtures("without_type_checks")


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1, float("nan")])
@every_optimizer
@every_structure
def test_a_decay_outside_its_range_is_an_error_with_the_value(make_optimizer, structure, decay):
    with pytest.raises(ValueError) as error:
        make_optimizer(structure, decay=decay)
    assert_says(error, "decay", str(decay), "[0, 1)")


@pytest.mark.parametrize("eps", [-1e-3, -1.0])
@every_optimizer
@every_structure
def test_a_negative_eps_is_an_error_with_the_value(make_optimizer, structure, eps):
    with pytest.raises(ValueError) as error:
        make_optimizer(structure, eps=eps)
    assert_says(error, "eps", str(eps))


@pytest.mark.parametrize("structure", ["diagonal", insgd.Diagonal, 1.0])
@every_optimizer
def test_what_is_no_structure_is_an_error_that_shows_one(make_optimizer, structure):
    with pytest.raises((TypeError, ValueError)) as error:
        make_optimizer(structure)
    assert_says(error, "structure", "Diagonal()")


@pytest.mark.parametrize("structure", ["diagonal", insgd.Diagonal, 1.0])
def test_what_is_no_structure_is_an_error_in_the_capture_too(structure):
    with pytest.raises((TypeError, ValueError)) as error:
        insgd.value_and_grad(regression().loss_fn, structure=structure)
    assert_says(error, "structure", "Diagonal()")


@pytest.mark.parametrize("argnums", [2, -3, (0, 5)])
def test_argnums_that_name_no_argument_are_an_error(argnums):
    problem = regression()
    with pytest.raises((TypeError, ValueError)) as error:
        insgd.value_and_grad(problem.loss_fn, argnums=argnums)(problem.params, problem.batch)
    assert_says(error, "argnums")


@pytest.mark.parametrize("argnums", ["0", 0.5])
def test_argnums_that_are_no_positions_are_the_type_error_that_jax_gives(argnums):
    problem = regression()
    with pytest.raises(TypeError):
        jax.value_and_grad(problem.loss_fn, argnums=argnums)(problem.params, problem.batch)
    with pytest.raises(TypeError):
        insgd.value_and_grad(problem.loss_fn, argnums=argnums)(problem.params, problem.batch)


@pytest.mark.parametrize("batch_argnums", [7, (1, 9)])
def test_batch_argnums_that_name_no_argument_are_an_error(batch_argnums):
    problem = regression()
    grad_fn = insgd.value_and_grad(problem.loss_fn, batch_argnums=batch_argnums)
    with pytest.raises((TypeError, ValueError)) as error:
        grad_fn(problem.params, problem.batch)
    assert_says(error, "batch_argnums")


def test_batch_argnums_that_name_the_parameters_are_an_error():
    problem = regression()
    with pytest.raises((TypeError, ValueError)) as error:
        insgd.value_and_grad(problem.loss_fn, batch_argnums=(0, 1))(problem.params, problem.batch)
    assert_says(error, "batch_argnums", "argnums")


def test_a_vector_loss_is_the_error_that_jax_gives():
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(lambda w, x: x @ w)(jnp.ones((3,)), jnp.ones((2, 3)))
    assert_says(error, "scalar")
