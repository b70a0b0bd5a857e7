"""Full and LowRank with many layers: jaxlib's batched LAPACK calls hang on as few cores."""

import functools
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
import insgd_optax as insgd
rng = np.random.default_rng(0)
sizes = [(n, b) for n, b in ((144, 7), (288, 6), (27, 3), (100, 9), (64, 4))]
shapes = {f"{n}_{i}": (n, 3) for n, b in sizes for i in range(b)}
params = {name: jnp.asarray(rng.normal(size=shape), "float32") for name, shape in shapes.items()}
x = jnp.asarray(rng.normal(size=(40, 288)), "float32")
full = insgd.%s
loss_fn = lambda p, x: sum(jnp.mean(jnp.sin(x[:, :len(w)] @ w)) for w in p.values())
grad_fn, tx = insgd.value_and_grad(loss_fn, structure=full), insgd.scale_by_input(full)
@jax.jit
def step(state):
    _, grads, stats = grad_fn(params, x)
    return tx.update(grads, state, params, input_stats=stats)
state = tx.init(params)
for _ in range(40):
    updates, state = jax.block_until_ready(step(state))
seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tx.init(params))
steps = jax.jit(jax.vmap(step))
for _ in range(5):
    _, seeds = jax.block_until_ready(steps(seeds))
print("finished", bool(jnp.all(jnp.isfinite(updates["144_0"]))))
"""


@pytest.mark.parametrize(
    "structure",
    [
        "Full(0.1, refresh_every=1, rows=None)",  # with a Cholesky factor
        "Full(0.0, refresh_every=1, rows=None)",  # with eigenvalues
        "LowRank()",
    ],
)
def test_factors_of_many_layers_are_computed_on_two_threads_without_waiting_forever(structure):
    environment = {**os.environ, "XLA_FLAGS": "", "PJRT_NPROC": "2", "NPROC": "2"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % structure],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["finished", "True"], done.stderr


LAYERS = {f"w{n}": jax.random.normal(jax.random.key(n), (6, 3), jnp.float64) for n in range(3)}
X = jax.random.normal(jax.random.key(9), (20, 6), jnp.float64)
every_structure = pytest.mark.parametrize(
    "structure",
    [insgd.Full(refresh_every=2, rows=None), insgd.LowRank(2)],
    ids=["full", "low_rank"],
)


def _loss(params: Any, x: Any) -> jax.Array:
    return sum((jnp.mean(jnp.sin(x @ weight)) for weight in params.values()), jnp.zeros(()))


def _updates(params: Any, exponent: Any, structure: Any) -> Any:
    optimizer = insgd.scale_by_input(structure, exponent=exponent)
    _, grads, stats = insgd.value_and_grad(_loss, structure=structure)(params, X)
    return optimizer.update(grads, optimizer.init(params), params, input_stats=stats)[0]


def _assert_close(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), actual, expected)


@every_structure
@pytest.mark.parametrize("exponent", [-1.0, -0.5])
def test_an_exponent_may_be_traced_and_mapped_over(exponent, structure):
    updates = functools.partial(_updates, structure=structure)
    expected = updates(LAYERS, exponent)
    _assert_close(jax.jit(updates)(LAYERS, jnp.asarray(exponent)), expected)
    mapped = jax.jit(jax.vmap(updates, in_axes=(None, 0)))(LAYERS, jnp.array([exponent, -0.7]))
    _assert_close(jax.tree.map(lambda leaf: leaf[0], mapped), expected)


@every_structure
def test_seeds_may_be_mapped_over(structure):
    updates = functools.partial(_updates, structure=structure)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), LAYERS)
    mapped = jax.jit(jax.vmap(updates, in_axes=(0, None)))(both, -1.0)
    _assert_close(jax.tree.map(lambda leaf: leaf[0], mapped), updates(LAYERS, -1.0))
