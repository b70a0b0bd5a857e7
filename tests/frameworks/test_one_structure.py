"""Every entry has the same default structure and the same options."""

import inspect

import pytest

import insgd_optax as insgd

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
