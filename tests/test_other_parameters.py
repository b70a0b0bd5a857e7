"""A state or statistics of other parameters are an error, not numbers read in the wrong place."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import insgd_optax as insgd
from battery.problems import assert_close, assert_says, every_optimizer, perceptron
from zoo.case import mean_square, normal

pytestmark = pytest.mark.usefixtures("without_type_checks")
X = normal(0, (8, 6), "float32")
STRUCTURE = insgd.Diagonal()


def network(first: str, second: str) -> tuple[Any, Any]:
    def loss(params, x):
        return mean_square(jnp.tanh(x @ params[first]) @ params[second])

    return loss, {first: normal(1, (6, 6), "float32"), second: normal(2, (6, 6), "float32")}


def step(optimizer: Any, state: Any, loss: Any, params: Any) -> Any:
    _, grads, stats = insgd.value_and_grad(loss, structure=STRUCTURE)(params, X)
    return optimizer.update(grads, state, params, input_stats=stats)


RENAMED = {
    "another place": ("z_in", "b_out"),
    "the same place": ("a_new", "b_out"),
    "swapped names": ("a_new", "b_new"),
}


@every_optimizer
@pytest.mark.parametrize("names", RENAMED.values(), ids=RENAMED)
def test_a_state_of_a_renamed_layer_is_an_error_that_names_it(make_optimizer, names):
    optimizer = make_optimizer(STRUCTURE)
    loss, params = network("a_in", "b_out")
    _, state = step(optimizer, optimizer.init(params), loss, params)
    with pytest.raises(ValueError) as error:
        step(optimizer, state, *network(*names))
    assert_says(error, f"'{names[0]}' of shape (6, 6)", "other parameters", "init()")


@every_optimizer
def test_a_state_of_the_same_layers_is_not_refused_in_or_out_of_jit(make_optimizer):
    optimizer = make_optimizer(STRUCTURE)
    loss, params = network("a_in", "b_out")
    _, state = step(optimizer, optimizer.init(params), loss, params)
    eager, _ = step(optimizer, state, loss, dict(reversed(params.items())))
    in_jit = jax.jit(lambda state, params: step(optimizer, state, loss, params))
    jitted, after = in_jit(state, params)
    jax.tree.map(assert_close, jitted, eager)
    insgd.check_state(after, params)


WRAPPERS = {
    "none": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx, optax.scale(0.1)),
    "masked": lambda tx: optax.masked(tx, {"a_in": True, "b_out": False}),
    "partition": lambda tx: optax.partition(
        {"x": tx, "y": optax.sgd(0.1)}, {"a_in": "x", "b_out": "y"}
    ),
    "hyperparameters": lambda tx: optax.chain(optax.inject_hyperparams(optax.scale)(0.1), tx),
}


@every_optimizer
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_check_state_finds_a_renamed_layer_through_wrappers(make_optimizer, wrapper: str):
    _, params = network("a_in", "b_out")
    state = WRAPPERS[wrapper](make_optimizer(STRUCTURE)).init(params)
    insgd.check_state(state, params)
    with pytest.raises(ValueError) as error:
        insgd.check_state(state, network("z_in", "b_out")[1])
    assert_says(error, "'z_in' of shape (6, 6)")


def test_check_state_sees_another_shape_and_another_layout():
    _, params = network("a_in", "b_out")
    layouts = {"a_in": insgd.Layout.of_matrix((6, 6))}
    state = insgd.scale_by_input(STRUCTURE, layouts=layouts).init(params)
    insgd.check_state(state, params, layouts=layouts)
    for other, other_layouts in (({**params, "a_in": jnp.ones((6, 7))}, layouts), (params, {})):
        with pytest.raises(ValueError) as error:
            insgd.check_state(state, other, layouts=other_layouts)
        assert_says(error, "'a_in'")


def test_check_state_says_where_it_cannot_work():
    _, params = network("a_in", "b_out")
    with pytest.raises(ValueError) as error:
        insgd.check_state(optax.sgd(0.1).init(params), params)
    assert_says(error, "not from an insgd_optax optimizer")
    with pytest.raises(ValueError) as error:
        jax.jit(insgd.check_state)(insgd.insgd().init(params), params)
    assert_says(error, "outside of jax.jit")


def test_the_fingerprints_do_not_change_between_runs_and_versions():
    _, params = network("a_in", "b_out")
    state: Any = insgd.scale_by_input(STRUCTURE).init(params)
    np.testing.assert_array_equal(state.fingerprints, [-2029690434, 783687692, 1463293817])
    assert state.fingerprints.dtype == jnp.int32


# Each two keep as many numbers, which mean something else.
ALIKE = {
    "the mean square and the mean magnitude": (insgd.Scalar(), insgd.Scalar(order=1)),
    "squares and frequencies": (insgd.Diagonal(), insgd.Frequency()),
    "another size": (insgd.Diagonal(), insgd.MeanVariances()),
}


@every_optimizer
@pytest.mark.parametrize("structures", ALIKE.values(), ids=ALIKE)
def test_a_state_of_another_structure_is_an_error_that_names_the_optimizers(
    make_optimizer, structures
):
    made_with, structure = structures
    loss, params = network("a_in", "b_out")
    state = make_optimizer(made_with).init(params)
    _, grads, stats = insgd.value_and_grad(loss, structure=structure)(params, X)
    with pytest.raises(ValueError) as error:
        make_optimizer(structure).update(grads, state, params, input_stats=stats)
    assert_says(error, "another structure", str(structure), "init()")
    insgd.check_state(state, params, structure=made_with)
    with pytest.raises(ValueError) as error:
        insgd.check_state(state, params, structure=structure)
    assert_says(error, "another structure", str(structure))


def test_a_state_may_go_on_with_another_damping():
    _, params = network("a_in", "b_out")
    state = insgd.insgd(structure=insgd.MeanVariances(damping=1.0)).init(params)
    insgd.check_state(state, params, structure=insgd.MeanVariances(damping=2.0))


@every_optimizer
@pytest.mark.parametrize("leaf", ["hidden/bias", "hidden/kernel"])
def test_an_update_whose_path_has_no_statistics_is_an_error_that_names_it(make_optimizer, leaf):
    problem = perceptron()
    optimizer = make_optimizer(STRUCTURE)
    grads, stats = problem.stats_of(structure=STRUCTURE)
    del stats[leaf]
    with pytest.raises(ValueError) as error:
        optimizer.update(grads, optimizer.init(grads), problem.params, input_stats=stats)
    assert_says(error, f"'{leaf}'", "None")


def test_an_optimizer_that_flattens_the_updates_is_an_error():
    problem = perceptron()
    optimizer = optax.flatten(insgd.insgd(0.1, structure=STRUCTURE))
    grads, stats = problem.stats_of(structure=STRUCTURE)
    with pytest.raises(ValueError) as error:
        optimizer.update(grads, optimizer.init(problem.params), problem.params, input_stats=stats)
    assert_says(error, "optax.flatten")


def test_a_vector_under_another_name_is_an_error():
    params = {"w": jnp.ones((6,), jnp.float32)}
    _, grads, stats = insgd.value_and_grad(lambda p, x: mean_square(x @ p["w"]))(params, X)
    optimizer = insgd.insgd(0.1)
    renamed = {"v": grads["w"]}
    with pytest.raises(ValueError) as error:
        optimizer.update(renamed, optimizer.init(renamed), renamed, input_stats=stats)
    assert_says(error, "'v' of shape (6,)", "['w']")


def test_a_head_of_another_size_is_an_error_with_both_shapes_also_under_jit():
    def loss_fn(params, rows):
        return jnp.sum(jnp.tanh(rows @ params["body"]) @ params["head"])

    def of(classes):
        return {"body": jnp.ones((3, 16)), "head": jnp.ones((16, classes))}

    optimizer = insgd.insgd()
    state = optimizer.init(of(7))
    _, grads, input_stats = insgd.value_and_grad(loss_fn)(of(10), jnp.ones((5, 3)))
    update = jax.jit(optimizer.update)
    with pytest.raises(
        ValueError, match=r"'head' of shape \(16, 10\) has a momentum of .*\(16, 7\)"
    ):
        update(grads, state, of(10), input_stats=input_stats)
