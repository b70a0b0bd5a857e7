"""Tables of any number of axes and indices, and experts, see what they are told to see."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from battery.problems import assert_close, assert_says
from zoo.case import mean_square, normal

IDS = jnp.asarray([[0, 2, 2], [4, 0, 2]])
OTHERS = jnp.asarray([[1, 1, 0], [2, 1, 1]])
GROUPS = insgd.Diagonal()

# A lookup, the table's shape, and its indices as one index into rows of the flat table.
LOOKUPS: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...]]] = {
    "rows of a matrix": (lambda t, i, j: t[i], (5, 4), (5,)),
    "matrices of a stack": (lambda t, i, j: t[i], (5, 2, 4), (5,)),
    "columns of the last axis": (lambda t, i, j: t[:, :, i], (2, 4, 5), (5,)),
    "rows at two indices": (lambda t, i, j: t[i, j], (5, 3, 4), (5, 3)),
    "numbers at two indices": (lambda t, i, j: t[i, j], (5, 3), (5, 3)),
    "a middle axis left whole": (lambda t, i, j: t[i, :, j], (5, 4, 3), (5, 3)),
    "four axes at two indices": (lambda t, i, j: t[i, j], (5, 3, 2, 4), (5, 3)),
}


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_table_counts_how_often_each_of_its_entries_is_read(lookup: str, jitted: bool):
    read, shape, indexed = LOOKUPS[lookup]

    def loss(params, i, j):
        return jnp.sum(jnp.sin(read(params["table"], i, j)))

    grad_fn = insgd.value_and_grad(loss, structure=GROUPS)
    params = {"table": normal(0, shape, "float32")}
    _, grads, stats = (jax.jit(grad_fn) if jitted else grad_fn)(params, IDS, OTHERS)
    moments: Any = stats["table"]
    counts = np.zeros(indexed)
    np.add.at(counts, (np.asarray(IDS), np.asarray(OTHERS))[: len(indexed)], 1)
    assert moments.layout.one_hot
    assert_close(moments.sums[0], counts.ravel())
    assert float(moments.count[0]) == IDS.size
    # In the layout's matrix the rows that are read are those with a gradient.
    rows = moments.layout.split(grads["table"])[0]
    np.testing.assert_array_equal(np.any(rows != 0, axis=1), counts.ravel() > 0)


def test_a_bias_added_to_rows_of_two_axes_is_that_of_the_table():
    def loss(params, i):
        return jnp.sum(jnp.sin(params["table"][i] + params["bias"][None, None]))

    params = {"table": normal(0, (5, 2, 4), "float32"), "bias": normal(1, (2, 4), "float32")}
    _, _, stats = insgd.value_and_grad(loss)(params, IDS)
    moments: Any = stats["table"]
    assert moments.bias.path == "bias"
    assert moments.bias.layout.matrices == (1, 1, 8)


CHOICES: dict[str, Callable[..., Any]] = {
    "an einsum": lambda w, i, x: jnp.einsum("bi,bio->bo", x, w[i]),
    "a cast and a mask on the way": lambda w, i, x: jnp.einsum("bi,boi->bo", x, (w[i] * 2).mT),
    "under vmap": lambda w, i, x: jax.vmap(lambda i, x: x @ w[i])(i, x),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_stack_of_matrices_that_the_batch_chooses_from_is_an_error_that_says_so(choice: str):
    def loss(params, i, x):
        return mean_square(CHOICES[choice](params["experts"], i, x) @ params["head"])

    params = {"experts": normal(0, (5, 4, 6), "float32"), "head": normal(1, (6, 2), "float32")}
    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(loss)(params, IDS[0], normal(2, (3, 4), "float32"))
    assert_says(error, "'experts' of shape (5, 4, 6)", "stack of matrices", "ragged_dot")


SIZES = jnp.asarray([3, 0, 4, 2], jnp.int32)


def expert_loss(params: Any, x: Any, sizes: Any) -> Any:
    return mean_square(jnp.sin(jax.lax.ragged_dot(x, params["experts"], sizes)))


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_every_expert_sees_its_own_rows(jitted: bool):
    x = normal(1, (12, 6), "float32")  # three rows are no expert's
    params = {"experts": normal(0, (4, 6, 5), "float32")}
    grad_fn = insgd.value_and_grad(expert_loss)
    _, _, stats = (jax.jit(grad_fn) if jitted else grad_fn)(params, x, SIZES)
    moments: Any = stats["experts"]
    stretches = np.split(np.asarray(x), [3, 3, 7, 9])[:4]
    sums = np.stack([np.concatenate([rows.sum(0), (rows**2).sum(0)]) for rows in stretches])
    assert_close(moments.sums, sums)
    assert_close(moments.count, SIZES)
    assert moments.layout.matrices == (4, 6, 5)


def test_experts_can_be_trained_and_an_unseen_one_does_not_move():
    x, params = normal(1, (9, 6), "float32"), {"experts": normal(0, (4, 6, 5), "float32")}
    optimizer = insgd.insgd(layouts=insgd.explain(expert_loss, params, x, SIZES).layouts)
    _, grads, stats = insgd.value_and_grad(expert_loss)(params, x, SIZES)
    state = optimizer.init(params)
    updates: Any = optimizer.update(grads, state, params, input_stats=stats)[0]
    moved = jnp.any(updates["experts"] != 0, axis=(1, 2))
    np.testing.assert_array_equal(moved, SIZES > 0)


def test_the_rows_of_experts_can_be_normalized_one_by_one():
    x, params = normal(1, (9, 6), "float32"), {"experts": normal(0, (4, 6, 5), "float32")}
    per_example = insgd.PerExample(exponent=2)
    _, grads, _ = insgd.value_and_grad(expert_loss, per_example=per_example)(params, x, SIZES)
    result = jax.lax.ragged_dot(x, params["experts"], SIZES)
    cotangents = jax.grad(lambda result: mean_square(jnp.sin(result)))(result)
    scaled = np.asarray(x / jnp.sum(x**2, axis=1, keepdims=True))
    expected = np.einsum("ri,ro->io", scaled[3:7], np.asarray(cotangents)[3:7])
    assert_close(grads["experts"][2], expected, rtol=1e-4)


def test_the_whole_second_moment_of_experts_is_an_error_that_names_other_structures():
    params = {"experts": normal(0, (4, 6, 5), "float32")}
    with pytest.raises(TypeError) as error:
        insgd.value_and_grad(expert_loss, structure=insgd.Full())(
            params, normal(1, (9, 6), "float32"), SIZES
        )
    assert_says(error, "ragged_dot", "Diagonal()")
