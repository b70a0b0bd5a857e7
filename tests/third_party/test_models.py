"""Models that others wrote: their gradients, what their layers meet, and three steps.

`make zoo` runs them, with numbers of 32 bits: the packages are made for these.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

import insgd_optax as insgd
from third_party import physics, sequences, vision  # noqa: F401 (they register their models)
from third_party.model import MODELS, Model, why_missing
from zoo.recorded import recorded

pytestmark = pytest.mark.framework
each_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in MODELS]
)


@functools.cache
def built(name: str) -> tuple[Model, Callable[..., Any]]:
    """A model, and its compiled gradient with statistics."""
    package, build = MODELS[name]
    if missing := why_missing(package):
        pytest.skip(missing)
    model = build()
    return model, jax.jit(insgd.value_and_grad(model.loss))


@each_model
def test_its_value_and_gradients_are_those_of_jax(name: str):
    model, grad_fn = built(name)
    found = grad_fn(model.params, *model.batch)[:2]
    expected = jax.jit(jax.value_and_grad(model.loss))(model.params, *model.batch)

    def check(one: jax.Array, other: jax.Array) -> None:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.max(np.abs(other), initial=0))

    jax.tree.map(check, found, expected)


@each_model
def test_its_statistics_are_what_its_weights_met(name: str):
    model, grad_fn = built(name)
    input_stats = grad_fn(model.params, *model.batch)[2]
    met = recorded(model.loss, model.params, *model.batch)
    of_layers = {path: moments for path, moments in input_stats.items() if moments is not None}
    assert all(moments.layout.exact for moments in of_layers.values())
    others = [path for path in met if path not in of_layers and path not in model.biases]
    assert not [path for path in others if met[path].rows.any()]
    told_apart = [path for path in of_layers if met[path].rows.all()]
    assert bool(told_apart) != bool(model.unseen)
    for path in told_apart:
        found, expected = np.asarray(of_layers[path].per_weight()), met[path].mean_square
        np.testing.assert_allclose(found, expected, 0, 1e-5 * np.max(expected), err_msg=path)


@each_model
def test_three_steps_lower_its_loss(name: str):
    model, grad_fn = built(name)
    tx = insgd.insgd()
    update = jax.jit(tx.update)
    params, state, losses = model.params, tx.init(model.params), []
    for _ in range(3):
        loss, grads, input_stats = grad_fn(params, *model.batch)
        updates, state = update(grads, state, params, input_stats=input_stats)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    losses.append(float(grad_fn(params, *model.batch)[0]))
    assert np.all(np.isfinite(losses)) and losses[-1] < losses[0], losses


def test_ten_models_have_a_package_that_imports():
    missing = {package: why_missing(package) for package, _ in MODELS.values()}
    assert sum(not missing[package] for package, _ in MODELS.values()) >= 10, missing
