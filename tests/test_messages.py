"""Errors say which leaf, which shapes, why, and the call that fixes it. These tests read them."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd
from battery.problems import (
    Problem,
    assert_close,
    assert_says,
    every_optimizer,
    perceptron,
    regression,
)

pytestmark = pytest.mark.usefixtures("without_type_checks")


@every_optimizer
def test_missing_statistics_are_an_error_with_the_recipe(make_optimizer):
    problem = perceptron()
    tx = make_optimizer(insgd.Diagonal())
    with pytest.raises((TypeError, ValueError)) as error:
        tx.update(problem.params, tx.init(problem.params), problem.params)
    assert_says(error, "input_stats=", "value_and_grad")


@pytest.mark.framework  # MultiSteps divides float32 by int32
def test_statistics_dropped_by_a_wrapper_are_an_error_and_not_plain_sgd():
    # As a plain transformation `MultiSteps` hands no extra argument on.
    problem = perceptron()
    accumulating = optax.MultiSteps(insgd.scale_by_input(), 2).gradient_transformation()
    tx = optax.chain(accumulating, optax.scale(-0.1))
    grads, input_stats = problem.stats_of()
    with pytest.raises((TypeError, ValueError)) as error:
        tx.update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    assert_says(error, "input_stats")


@every_optimizer
@pytest.mark.parametrize(
    ("captured", "asked"),
    [(insgd.Scalar(), insgd.Diagonal()), (insgd.Diagonal(), insgd.Scalar())],
)
def test_a_structure_that_differs_between_the_halves_is_an_error_naming_both(
    make_optimizer, captured, asked
):
    problem = perceptron()
    grads, input_stats = problem.stats_of(structure=captured)
    tx = make_optimizer(asked)
    with pytest.raises((TypeError, ValueError)) as error:
        tx.update(grads, tx.init(problem.params), problem.params, input_stats=input_stats)
    assert_says(error, f"value_and_grad(loss_fn, structure=insgd_optax.{asked!r})")
    assert_says(error, f"insgd(..., structure=insgd_optax.{captured!r})")


def test_statistics_of_another_model_are_an_error_naming_the_missing_leaves():
    problem = perceptron()
    _, other_stats = regression().stats_of()
    tx = insgd.scale_by_input()
    with pytest.raises((KeyError, ValueError)) as error:
        tx.update(problem.params, tx.init(problem.params), input_stats=other_stats)
    assert_says(error, "hidden/kernel", "head/kernel", "weight")


def test_statistics_without_one_leaf_are_an_error_naming_it():
    problem = perceptron()
    grads, input_stats = problem.stats_of()
    del input_stats["head/kernel"]
    tx = insgd.scale_by_input()
    with pytest.raises((KeyError, ValueError)) as error:
        tx.update(grads, tx.init(grads), input_stats=input_stats)
    assert_says(error, "head/kernel", "(3, 2)")


def test_statistics_of_a_leaf_of_another_shape_are_an_error_naming_both_shapes():
    problem = perceptron()
    _, input_stats = problem.stats_of()
    grads = {**problem.params, "head": {"kernel": jnp.ones((5, 2)), "bias": jnp.ones((2,))}}
    tx = insgd.scale_by_input()
    with pytest.raises(ValueError) as error:
        tx.update(grads, tx.init(grads), input_stats=input_stats)
    assert_says(error, "head/kernel", "(5, 2)", "(3, 2)")


def test_statistics_that_are_no_dict_of_moments_are_an_error():
    problem = perceptron()
    grads, _ = problem.stats_of()
    tx = insgd.scale_by_input()
    with pytest.raises((TypeError, ValueError)) as error:
        tx.update(grads, tx.init(grads), input_stats=grads)
    assert_says(error, "input_stats", "value_and_grad")


def test_gradients_and_statistics_swapped_from_the_returned_triple_are_an_error():
    problem = perceptron()
    grads, input_stats = problem.stats_of()
    tx = insgd.scale_by_input()
    with pytest.raises((TypeError, KeyError, ValueError)) as error:
        tx.update(input_stats, tx.init(problem.params), input_stats=grads)
    assert len(str(error.value)) > 20


def _with_masked() -> Problem:
    """A matrix whose mask is batch data is applied to the batch, and so is no layer's weight."""
    problem = regression()
    params = {**problem.params, "mixing": jnp.ones((4, 4), jnp.float32)}

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        for name in params.keys() - problem.params.keys():
            inputs = inputs @ (params[name] * batch[0][:4])
        return problem.loss_fn(params, (inputs, targets))

    return Problem(params, problem.batch, loss_fn)


def test_a_matrix_that_is_no_layers_weight_is_an_error_with_path_shape_reason_and_fix():
    with pytest.raises(ValueError) as error:
        _with_masked().stats_of()
    assert_says(error, "mixing", "(4, 4)", "strict=False", "explain")


def test_without_strict_it_is_one_warning_and_the_leaf_passes_with_factor_one():
    problem = _with_masked()
    grad_fn = insgd.value_and_grad(problem.loss_fn, strict=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, grads, input_stats = grad_fn(problem.params, problem.batch)
    ours = [warning for warning in caught if "mixing" in str(warning.message)]
    assert len(ours) == 1
    assert "(4, 4)" in str(ours[0].message)
    assert input_stats["mixing"] is None
    tx = insgd.scale_by_input()
    updates, _ = tx.update(grads, tx.init(grads), input_stats=input_stats)
    assert_close(updates["mixing"], grads["mixing"], rtol=0.0)
    assert not jnp.allclose(updates["weight"], grads["weight"])


def test_without_strict_several_such_leaves_still_give_one_warning():
    problem = _with_masked()
    params = {**problem.params, "other": jnp.ones((4, 4), jnp.float32)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        insgd.value_and_grad(problem.loss_fn, strict=False)(params, problem.batch)
    ours = [str(w.message) for w in caught if "mixing" in str(w.message)]
    assert len(ours) == 1
    assert "'other' of shape (4, 4)" in ours[0]


def test_a_batch_that_was_closed_over_is_an_error_that_says_so():
    problem = perceptron()
    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(lambda params: problem.loss_fn(params, problem.batch))(problem.params)
    assert_says(error, "closes over", "argument")


def test_a_batch_excluded_by_batch_argnums_is_an_error_that_names_the_option():
    problem = perceptron()
    grad_fn = insgd.value_and_grad(
        lambda params, batch, scale: scale * problem.loss_fn(params, batch), batch_argnums=2
    )
    with pytest.raises(ValueError) as error:
        grad_fn(problem.params, problem.batch, jnp.asarray(1.0, jnp.float32))
    assert_says(error, "batch_argnums")


def test_a_model_in_which_nothing_is_captured_is_an_error():
    params = {"scale": jnp.ones((3,))}
    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(lambda p, x: jnp.sum((x * p["scale"]) ** 2))(params, jnp.ones((3,)))
    assert_says(error, "scale")
