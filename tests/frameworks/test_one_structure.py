"""Every entry has the same default structure, and a model in the wrong entry is told the right."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import insgd_optax as insgd
from battery.problems import assert_says

from .nnx_models import Block, Changing, batch, loss_fn

ENTRIES = [insgd.value_and_grad, insgd.nnx.value_and_grad, insgd.equinox.value_and_grad]
OPTIMIZERS = [insgd.insgd, insgd.scale_by_insgd, insgd.scale_by_input]


@pytest.mark.parametrize("function", [*ENTRIES, *OPTIMIZERS], ids=lambda f: f.__module__)
def test_the_structure_need_not_be_said(function):
    assert inspect.signature(function).parameters["structure"].default == insgd.MeanVariances()


@pytest.mark.parametrize("entry", ENTRIES[1:], ids=lambda f: f.__module__)
def test_an_entry_has_the_options_of_value_and_grad(entry):
    def options(function):
        parameters = inspect.signature(function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    assert options(entry) == options(insgd.value_and_grad)


@pytest.mark.framework
@pytest.mark.parametrize("make_model", [Block, Changing])
def test_an_nnx_module_is_an_error_that_names_the_entry_for_it(make_model):
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(loss_fn)(make_model(nnx.Rngs(0)), *batch())
    assert_says(error, "insgd_optax.nnx.value_and_grad", make_model.__name__, "running averages")


@pytest.mark.framework
def test_an_nnx_state_with_counts_is_an_error_that_names_the_leaf():
    graph, state = nnx.split(Changing(nnx.Rngs(0)))
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(lambda state, *batch: loss_fn(nnx.merge(graph, state), *batch))(
            state, *batch()
        )
    assert_says(error, "'calls'", "int64", "insgd_optax.nnx.value_and_grad")


def test_an_equinox_module_with_functions_is_an_error_that_names_the_entry_for_it():
    model = eqx.nn.MLP(4, 4, 8, 1, key=jax.random.key(0))
    grad_fn = insgd.value_and_grad(lambda model, x: jnp.mean(jax.vmap(model)(x)))
    with pytest.raises(TypeError) as error:
        grad_fn(model, batch()[0])
    assert_says(error, "insgd_optax.equinox.value_and_grad", "'activation'")


def test_an_integer_among_the_parameters_is_an_error_that_names_it():
    params = {"kernel": jnp.ones((4, 2)), "step": jnp.array(3)}
    grad_fn = insgd.value_and_grad(lambda params, x: jnp.mean(x @ params["kernel"]))
    with pytest.raises(TypeError) as error:
        grad_fn(params, batch()[0])
    assert_says(error, "'step'", "int64", "argument 0")
