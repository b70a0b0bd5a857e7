"""A run that Orbax saved and restored goes on bit by bit as one that was never stopped."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import insgd_optax as insgd
from battery.problems import convnet, perceptron

from .nnx_models import Changing, batch, loss_fn

pytestmark = pytest.mark.framework
OPTIMIZERS = {
    "default": lambda: insgd.insgd(),
    "without_momentum": lambda: insgd.insgd(momentum=None),
    "lengths_of_sgd": lambda: insgd.insgd(relative=0.0, momentum=0.0),
    "full": lambda: insgd.insgd(structure=insgd.Full()),
    "groups": lambda: insgd.insgd(num_groups=3),
}


def _restored(path: pathlib.Path, tree: Any, shapes: Any = None) -> Any:
    """The tree, saved and restored from shapes, dtypes and shardings alone; by default its own."""
    if shapes is None:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, shapes)


def _assert_identical(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make_problem", [perceptron, convnet])
def test_a_run_resumes_bit_by_bit(make_problem, name: str, tmp_path: pathlib.Path) -> None:
    problem, tx = make_problem(), OPTIMIZERS[name]()
    structure = insgd.Full() if name == "full" else insgd.MeanVariances()
    update = jax.jit(tx.update)

    def run(params: Any, state: Any, steps: int) -> tuple[Any, Any]:
        for _ in range(steps):
            grads, input_stats = problem.stats_of(params, structure=structure)
            extra = {"groups": jnp.arange(5) % 3} if name == "groups" else {}
            updates, state = update(grads, state, params, input_stats=input_stats, **extra)
            params = optax.apply_updates(params, updates)
        return params, state

    middle = run(problem.params, tx.init(problem.params), 3)
    restored = _restored(tmp_path / "checkpoint", middle)
    _assert_identical(restored, middle)
    _assert_identical(run(*restored, 3), run(*middle, 3))


@pytest.mark.parametrize("devices", [(8, 1), (1, 8), (8, 4)], ids=["8-1", "1-8", "8-4"])
def test_a_run_goes_on_on_another_number_of_devices(devices, tmp_path: pathlib.Path) -> None:
    problem, tx = perceptron(), insgd.insgd()
    rows = jax.random.normal(jax.random.key(0), (16, 4), jnp.float32)
    batch = rows, rows[:, :2]

    def placed(tree: Any, number: int) -> Any:
        mesh = jax.sharding.Mesh(jax.devices()[:number], ("data",))
        whole, split = (jax.NamedSharding(mesh, jax.P(*axis)) for axis in ((), ("data",)))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype,
                sharding=split if leaf.shape and leaf.shape[0] % number == 0 else whole,
            ),
            tree,
        )  # fmt: skip

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        _, grads, input_stats = insgd.value_and_grad(problem.loss_fn)(params, batch)
        updates, state = tx.update(grads, state, params, input_stats=input_stats)
        return optax.apply_updates(params, updates), state

    def stepped(run: Any, number: int) -> Any:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, placed((run, batch), number))
        run, here = jax.device_put((run, batch), shardings)
        for _ in range(3):
            run = step(*run, here)
        return run

    saved = stepped((problem.params, tx.init(problem.params)), devices[0])
    restored = _restored(tmp_path / "checkpoint", saved, placed(saved, devices[1]))
    for leaf in jax.tree.leaves(restored):
        assert len(leaf.sharding.device_set) == devices[1]
    _assert_identical(jax.device_get(restored), jax.device_get(saved))
    insgd.check_state(restored[1], restored[0])
    expected = jax.device_get(stepped(saved, devices[0]))
    actual = jax.device_get(stepped(restored, devices[1]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected
    )


@pytest.mark.usefixtures("without_type_checks")  # Orbax makes one of None on its way
def test_a_train_state_of_linen_resumes_bit_by_bit(tmp_path: pathlib.Path) -> None:
    problem = perceptron()
    grad_fn = insgd.value_and_grad(problem.loss_fn)

    @jax.jit
    def step(state: Any) -> Any:
        _, grads, input_stats = grad_fn(state.params, problem.batch)
        return state.apply_gradients(grads=grads, input_stats=input_stats)

    def run(state: Any) -> Any:
        return step(step(step(state)))

    new = insgd.linen.TrainState.create(
        apply_fn=problem.loss_fn, params=problem.params, tx=insgd.insgd()
    )
    middle = run(new)
    restored = _restored(tmp_path / "checkpoint", middle)
    assert type(restored) is type(middle)
    _assert_identical(run(restored), run(middle))


def test_an_nnx_model_and_optimizer_resume_bit_by_bit(tmp_path: pathlib.Path) -> None:
    @nnx.jit
    def step(model: Changing, optimizer: nnx.Optimizer) -> None:
        _, grads, input_stats = insgd.nnx.value_and_grad(loss_fn)(model, *batch())
        optimizer.update(model, grads, input_stats=input_stats)

    def new(seed: int) -> tuple[Changing, nnx.Optimizer]:
        model = Changing(nnx.Rngs(seed))
        return model, nnx.Optimizer(model, insgd.insgd(), wrt=nnx.Param)

    def numbers(pair: tuple[Changing, nnx.Optimizer]) -> Any:
        # A checkpoint takes raw keys alone.
        state = nnx.to_pure_dict(nnx.state(pair))
        is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
        return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)

    first = new(0)
    for _ in range(3):
        step(*first)
    saved = _restored(tmp_path / "checkpoint", numbers(first))
    second = new(1)
    step(*second)  # makes the variable that the loss adds
    state = nnx.state(second)
    typed = jax.tree.map(
        lambda x, y: jax.random.wrap_key_data(y) if x.dtype != y.dtype else y,
        nnx.to_pure_dict(state),
        saved,
    )
    nnx.replace_by_pure_dict(state, typed)
    nnx.update(second, state)
    for _ in range(3):
        step(*first)
        step(*second)
    _assert_identical(numbers(second), numbers(first))
