"""A step that runs device by device, where statistics have to be added over the devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd
from zoo.case import normal

PARAMS = {"w": normal(0, (8, 4), "float64"), "b": jnp.zeros(4)}
# The inputs of the last device are 64 times as large as those of the first.
INPUTS = normal(1, (64, 8), "float64") * jnp.arange(1.0, 65.0)[:, None]
STRUCTURES = [  # with all rows: without axis_name each device draws its own
    insgd.Scalar(),
    insgd.Diagonal(),
    insgd.Frequency(),
    insgd.MeanVariance(),
    insgd.LowRank(rank=4, rows=None),
    insgd.Full(rows=None),
    insgd.PerLayer(),
    insgd.MeanVariances(),
]
DRAWN = [insgd.LowRank(rank=4, rows=16), insgd.Full(rows=16, refresh_every=3)]
every_structure = pytest.mark.parametrize(
    "structure", STRUCTURES, ids=lambda each: type(each).__name__
)
or_with_drawn_rows = pytest.mark.parametrize(
    "structure", [*STRUCTURES, *DRAWN],
    ids=[*(type(each).__name__ for each in STRUCTURES), "LowRank-drawn", "Full-drawn"],
)  # fmt: skip
TRANSFORMATIONS = {
    "insgd": insgd.insgd(),
    "scale_by_input": insgd.scale_by_input(),
    "on_white_inputs": insgd.on_white_inputs(optax.adam(1e-2)),
    "multi_steps": insgd.multi_steps(insgd.insgd(), 2),
    "relative_step": optax.chain(insgd.scale_by_input(), insgd.relative_step()),
    "masked": optax.masked(insgd.insgd(), {"w": True, "b": True}),
}


def loss_fn(params: Any, x: Any) -> jax.Array:
    return jnp.mean((jnp.tanh(x @ params["w"] + params["b"][None]) - 1) ** 2)


def _mesh(*axes: str) -> Any:
    shape = {1: (8,), 2: (4, 2)}[len(axes)]
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes))


def _step(
    tx: Any, axis: Any, structure: Any = None, reduce: Any = jax.lax.psum, **options: Any
) -> Any:
    """The usual data-parallel step; without ``reduce`` the statistics stay each device's own."""
    options |= {} if structure is None else {"structure": structure}

    def step(params: Any, state: Any, x: Any) -> Any:
        def loss(params: Any, x: Any) -> jax.Array:
            return loss_fn(params, x) if axis is None else jax.lax.pmean(loss_fn(params, x), axis)

        _, grads, stats = insgd.value_and_grad(loss, **options)(params, x)
        if axis is not None:
            grads = jax.lax.pmean(grads, axis)
            stats = reduce(stats, axis) if reduce else stats
        updates, state = tx.update(grads, state, params, input_stats=stats)
        return optax.apply_updates(params, updates), state

    return step


def _sharded(step: Any, axes: tuple[str, ...], check_vma: bool = True) -> Any:
    mesh, specs = _mesh(*axes), (P(), P(), P(axes))
    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma)
    )


def _run(step: Any, params: Any, state: Any, x: Any = INPUTS, steps: int = 20) -> Any:
    for _ in range(steps):
        params, state = step(params, state, x)
    return params, state


def _stacked(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * 8), tree)


@functools.cache
def _alone(structure: Any) -> Any:
    tx = insgd.insgd(structure=structure)
    return _run(jax.jit(_step(tx, None, structure)), PARAMS, tx.init(PARAMS))[0]


@pytest.mark.parametrize("reduce", [jax.lax.psum, jax.lax.pmean], ids=["psum", "pmean"])
@pytest.mark.parametrize("check_vma", [True, False])
@every_structure
def test_statistics_added_over_devices_step_as_one_device_does(structure, check_vma, reduce):
    tx, axes = insgd.insgd(structure=structure), ("data", "more")
    sharded = _sharded(_step(tx, axes, structure, reduce), axes, check_vma)
    spread, state = _run(sharded, PARAMS, tx.init(PARAMS))
    alone = _alone(structure)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), alone, spread)
    insgd.check_state(state, spread)


@pytest.mark.parametrize("check_vma", [True, False])
@or_with_drawn_rows
def test_with_axis_name_a_step_is_that_of_one_device_whatever_rows_are_drawn(structure, check_vma):
    tx, axes = insgd.insgd(structure=structure), ("data", "more")
    sharded = _sharded(_step(tx, axes, structure, None, axis_name=axes), axes, check_vma)
    spread, state = _run(sharded, PARAMS, tx.init(PARAMS))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), _alone(structure), spread
    )
    insgd.check_state(state, spread)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_statistics_of_one_device_for_gradients_of_all_are_an_error_that_names_the_axis(name):
    tx = TRANSFORMATIONS[name]
    sharded = _sharded(_step(tx, "data", reduce=None), ("data",))
    with pytest.raises(ValueError, match=r"'w' of shape \(8, 4\) vary.*\['data'\]") as error:
        sharded(PARAMS, tx.init(PARAMS), INPUTS)
    assert "input_stats = jax.lax.psum(input_stats, 'data')" in str(error.value)


def test_the_error_names_the_one_axis_that_was_forgotten():
    def forgotten(stats: Any, axes: Any) -> Any:
        return jax.lax.psum(stats, axes[0])

    tx = insgd.insgd()
    sharded = _sharded(_step(tx, ("data", "more"), reduce=forgotten), ("data", "more"))
    with pytest.raises(ValueError, match=r"psum\(input_stats, 'more'\)"):
        sharded(PARAMS, tx.init(PARAMS), INPUTS)


def test_a_model_for_each_device_keeps_its_own_statistics():
    tx = insgd.insgd()

    def own(params: Any, state: Any, x: Any) -> Any:
        params, state = jax.tree.map(lambda leaf: leaf[0], (params, state))
        return jax.tree.map(lambda leaf: leaf[None], _step(tx, None)(params, state, x))

    mapped = jax.shard_map(own, mesh=_mesh("data"), in_specs=P("data"), out_specs=P("data"))
    models, _ = jax.jit(mapped)(_stacked(PARAMS), _stacked(tx.init(PARAMS)), INPUTS)
    last, _ = jax.jit(_step(tx, None))(PARAMS, tx.init(PARAMS), INPUTS[56:])
    np.testing.assert_allclose(models["w"][7], last["w"], rtol=1e-10)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_branch_that_does_not_use_a_layer_has_sums_that_vary_as_those_of_the_others(taken):
    def loss(params: Any, x: Any, taken: Any) -> jax.Array:
        return jax.lax.cond(taken > 0, lambda: loss_fn(params, x), lambda: 0.1 * jnp.sum(x))

    def stats_of(params: Any, x: Any) -> Any:
        taken_there = jnp.asarray(taken) + 0 * jnp.sum(x).astype(int)
        _, _, stats = insgd.value_and_grad(loss)(params, x, taken_there)
        return jax.lax.psum(stats["w"], "data")

    mapped = jax.shard_map(stats_of, mesh=_mesh("data"), in_specs=(P(), P("data")), out_specs=P())
    found = jax.jit(mapped)(PARAMS, INPUTS)
    whole: Any = insgd.value_and_grad(loss)(PARAMS, INPUTS, jnp.asarray(taken))[2]
    np.testing.assert_allclose(found.sums, whole["w"].sums, rtol=1e-10)
    np.testing.assert_array_equal(found.count, whole["w"].count)


def _pmapped(reduce: Any, structure: Any = None, **options: Any) -> Any:
    tx = insgd.insgd() if structure is None else insgd.insgd(structure=structure)
    step = jax.pmap(_step(tx, "data", structure, reduce, **options), axis_name="data")
    return _run(step, _stacked(PARAMS), _stacked(tx.init(PARAMS)), INPUTS.reshape(8, 8, 8))


def test_under_pmap_a_check_finds_states_that_went_their_own_ways():
    params, state = _pmapped(None)
    with pytest.raises(ValueError, match=r"is not the same on .*\n.*\n.*psum\(input_stats"):
        insgd.check_state(state, params, pmapped=True)
    params, state = _pmapped(jax.lax.psum)
    insgd.check_state(state, params, pmapped=True)


@every_structure
def test_under_pmap_statistics_added_over_devices_step_as_one_device_does(structure):
    params, _ = _pmapped(jax.lax.psum, structure)
    np.testing.assert_allclose(params["w"][3], _alone(structure)["w"], rtol=1e-10)


@or_with_drawn_rows
def test_under_pmap_with_axis_name_a_step_is_that_of_one_device(structure):
    params, state = _pmapped(None, structure, axis_name="data")
    np.testing.assert_allclose(params["w"][3], _alone(structure)["w"], rtol=1e-10)
    insgd.check_state(state, params, pmapped=True)


def test_without_checked_types_a_check_finds_states_that_went_their_own_ways():
    tx = insgd.insgd()
    for reduce in (None, jax.lax.psum):
        sharded = _sharded(_step(tx, "data", reduce=reduce), ("data",), check_vma=False)
        params, state = _run(sharded, PARAMS, tx.init(PARAMS))
        if reduce:
            insgd.check_state(state, params)
        else:
            with pytest.raises(ValueError, match="is not the same on"):
                insgd.check_state(state, params)


@pytest.mark.parametrize(
    "tracker",
    [insgd.track_groups(3), insgd.scale_by_class_frequency("head")],
    ids=["groups", "head"],
)
def test_groups_of_one_device_are_an_error_that_says_how_to_add_them(tracker):
    head = {"head": jnp.ones((2, 3))}

    def step(state: Any, labels: Any) -> Any:
        return tracker.update(head, state, groups=labels)[1]

    mapped = jax.shard_map(step, mesh=_mesh("data"), in_specs=(P(), P("data")), out_specs=P())
    with pytest.raises(ValueError, match=r"psum\(insgd_optax.group_sums\(labels, 3\), 'data'\)"):
        jax.jit(mapped)(tracker.init(head), jnp.arange(8) % 3)


def test_a_mean_over_devices_that_saw_less_than_one_row_each_is_the_mean_of_the_rows():
    layout = insgd.Layout.of_matrix((2, 3))
    eighth = insgd.InputMoments(
        jnp.array([[0.5, 1.0]]), jnp.array([0.125]), layout, insgd.Diagonal()
    )
    np.testing.assert_allclose(eighth.mean(), [[4.0, 8.0]])
