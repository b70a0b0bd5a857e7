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


def _restored(path: pathlib.Path, tree: Any) -> Any:
    """The tree after a way through a checkpoint, restored from shapes and dtypes alone."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))


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
