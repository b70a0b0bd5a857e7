"""A foreseeable mistake in a call of a gradient function is an error that names the fix."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import insgd_optax as insgd
from battery.problems import assert_says
from zoo.case import mean_square, normal

pytestmark = [pytest.mark.usefixtures("without_type_checks"), pytest.mark.framework]
X, LABELS = normal(0, (6, 4), "float32"), jnp.arange(6) % 3
PARAMS = {"first": normal(1, (4, 8), "float32"), "second": normal(2, (8, 3), "float32")}
every_gradient = pytest.mark.parametrize(
    "of", [insgd.value_and_grad, insgd.example_gradient_norms], ids=["value_and_grad", "norms"]
)


def loss(params: Any, x: Any, labels: Any = LABELS) -> Any:
    logits = jnp.tanh(x @ params["first"]) @ params["second"]
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(x)), labels[: len(x)]])


class Net(nnx.Module):
    def __init__(self, layer: Callable[..., Any]):
        self.first = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.second = layer(rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.second(self.first(x))


def nnx_loss(model: Any, x: Any) -> Any:
    return mean_square(model(x))


LAYERS = {
    "BatchStat": lambda rngs: nnx.BatchNorm(4, rngs=rngs),
    "RngCount": lambda rngs: nnx.Dropout(0.5, rngs=rngs),
}


@every_gradient
@pytest.mark.parametrize("held", LAYERS)
def test_an_nnx_model_with_more_than_parameters_is_an_error_with_the_recipe(of, held: str):
    with pytest.raises(TypeError) as error:
        of(nnx_loss)(Net(LAYERS[held]), X)
    assert_says(
        error, "Argument 0", "Net", held, "nnx.split", "insgd_optax.nnx.value_and_grad(loss_fn)"
    )


def test_a_whole_nnx_state_is_an_error_with_the_recipe():
    graph, state = nnx.split(Net(LAYERS["BatchStat"]))
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(lambda state, x: nnx_loss(nnx.merge(graph, state), x))(state, X)
    assert_says(error, "BatchStat", "nnx.split(model, nnx.Param, ...)")


def test_an_nnx_model_of_parameters_alone_is_captured():
    model = Net(lambda rngs: nnx.Linear(4, 2, rngs=rngs))
    _, _, stats = insgd.value_and_grad(nnx_loss)(model, X)
    assert stats["first/kernel"] is not None


@every_gradient
def test_an_equinox_model_is_an_error_with_the_recipe(of):
    model = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
    with pytest.raises(TypeError) as error:
        of(lambda model, x: mean_square(jax.vmap(model)(x)))(model, X)
    assert_says(error, "activation", "eqx.partition", "insgd_optax.equinox.value_and_grad(loss_fn)")


@every_gradient
@pytest.mark.parametrize("leaf", [jnp.array(3), jnp.array([True]), 3, "name", jnp.tanh])
def test_a_leaf_without_a_gradient_is_an_error_with_its_path_and_type(of, leaf: Any):
    kind = str(leaf.dtype) if isinstance(leaf, jax.Array) else type(leaf).__name__
    with pytest.raises(TypeError) as error:
        of(loss)({**PARAMS, "step": {"count": leaf}}, X)
    assert_says(error, "Argument 0", "step/count", kind, "argnums")


def test_a_forgotten_has_aux_is_an_error_that_names_it():
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(lambda params, x: (loss(params, x), 1.0))(PARAMS, X)
    assert_says(error, "has_aux=True", "tuple")


@pytest.mark.parametrize("result", [lambda value: value, lambda value: (value, 1, 2)])
def test_has_aux_without_aux_is_an_error_that_says_what_was_returned(result):
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(lambda p, x: result(loss(p, x)), has_aux=True)(PARAMS, X)
    assert_says(error, "(loss, aux)", "pair")


def test_a_batch_in_an_unregistered_dataclass_is_an_error_that_names_the_class():
    @dataclasses.dataclass
    class Batch:
        inputs: Any
        labels: Any

    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(lambda p, b: loss(p, b.inputs, b.labels))(PARAMS, Batch(X, LABELS))
    assert_says(error, "Argument 1", "Batch", "register_dataclass")


def test_a_batch_in_an_object_is_an_error_that_names_its_class():
    class Batch:
        def __init__(self):
            self.inputs = X

    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(lambda p, *, batch: loss(p, batch.inputs))(PARAMS, batch=Batch())
    assert_says(error, "Argument batch", "Batch", "dict")


def looked_up(params: Any, x: Any) -> Any:
    return mean_square(params["kernel"][x])


def convolved_one_by_one(params: Any, x: Any) -> Any:
    def one(x: Any) -> Any:
        return jax.lax.conv(x[None], params["kernel"], (1,), "SAME")

    return mean_square(jax.vmap(one)(x))


@pytest.mark.parametrize(
    ("of_batch", "batch"),
    [
        (looked_up, jnp.zeros((0, 3), jnp.int32)),
        (convolved_one_by_one, jnp.zeros((0, 4, 3), jnp.float32)),
    ],
)
def test_a_batch_without_rows_that_jax_drops_is_named_and_empty_parameters_are_not(of_batch, batch):
    params = {"kernel": normal(0, (4, 4, 3), "float32"), "nothing": jnp.zeros(0, jnp.float32)}
    with pytest.raises(ValueError) as raised:
        insgd.value_and_grad(of_batch)(params, batch)
    assert_says(raised, f"Argument 1 of the loss has no rows (shape {batch.shape})")
    assert "Argument 0 of the loss has no rows" not in str(raised.value)


def test_parameters_last_without_argnums_are_an_error_that_names_their_place():
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(lambda x, labels, p: loss(p, x, labels))(X, LABELS, PARAMS)
    assert_says(error, "Argument 0", "argument 2", "argnums=2")


def test_an_array_that_is_trained_beside_labels_and_a_batch_of_several_arrays_is_captured():
    batch = {"x": X, "more": X + 1}
    _, _, stats = insgd.value_and_grad(
        lambda w, batch, labels: mean_square((batch["x"] + batch["more"]) @ w)
    )(PARAMS["first"], batch, LABELS)
    assert stats[""] is not None


def test_a_frozen_base_that_is_taken_for_data_is_named_with_the_option():
    def adapted(adapter, base, x):
        return mean_square(x @ (base + adapter["down"] @ adapter["up"]))

    adapter = {"down": jnp.ones((4, 2)), "up": jnp.ones((2, 8))}
    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(adapted)(adapter, PARAMS["first"], X)
    assert_says(error, "'down'", "argument 1", "`add`", "frozen base", "batch_argnums")
    _, _, stats = insgd.value_and_grad(adapted, batch_argnums=2)(adapter, PARAMS["first"], X)
    assert stats["down"] is not None


@dataclasses.dataclass(frozen=True)
class WithoutApply:
    order: int = 2
    refresh_every: int = 1

    def for_layer(self, layout: Any) -> Any:
        return self


def test_a_structure_that_lacks_methods_is_an_error_that_lists_them():
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(loss, structure=WithoutApply())  # type: ignore[arg-type]
    assert_says(error, "WithoutApply", "apply", "factor", "observe")
    assert "for_layer" not in str(error.value)
