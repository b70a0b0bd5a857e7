"""The norms of every example's gradient, against gradients that are made one by one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd
from insgd_optax.trees import named_leaves
from zoo.case import inputs, integers, normal
from zoo.runs import built, each_case

QUICKLY = {"xla_backend_optimization_level": 0}


def _one_by_one(
    loss: Callable[..., Any], params: Any, args: tuple[Any, ...], batch: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Norms of the gradients that `jax.grad` makes of one example after the other."""
    flat, treedef = jax.tree.flatten(args)
    owners = [n for n, tree in enumerate(args, start=1) for _ in jax.tree.leaves(tree)]
    in_batch = [n in batch and jnp.ndim(leaf) > 0 for n, leaf in zip(owners, flat, strict=True)]

    def of_one(*example: Any) -> Any:
        alone = [leaf[None] if b else leaf for leaf, b in zip(example, in_batch, strict=True)]
        return jax.grad(loss)(params, *jax.tree.unflatten(treedef, alone))

    axes = [0 if b else None for b in in_batch]
    every = jax.jit(jax.vmap(of_one, axes), compiler_options=QUICKLY)(*flat)
    return {
        name: np.linalg.norm(np.abs(np.asarray(leaf)).reshape(len(leaf), -1), axis=1)
        for name, leaf in named_leaves(every)
    }


@each_case("float64", framework=False)
def test_norms_are_those_of_gradients_made_one_by_one(name, dtype):
    case = built(name, dtype)
    loss, args = case.loss, case.args
    if axis := case.batch_axis:
        loss = lambda params, x: case.loss(params, jnp.moveaxis(x, 0, axis))  # noqa: E731
        args = (jnp.moveaxis(args[0], axis, 0),)
    norms_of = insgd.example_gradient_norms(loss, batch_argnums=case.batch_argnums)
    norms = jax.jit(norms_of, compiler_options=QUICKLY)(case.params, *args)
    batch = case.batch_argnums or tuple(range(1, len(args) + 1))
    expected = _one_by_one(loss, case.params, args, batch)
    assert norms.keys() == expected.keys()
    tolerance = 1e-2 if name == "ragged_precision" else 1e-10  # layers in half precision
    for path, norm in norms.items():
        scale = max(1e-3, expected[path].max())
        np.testing.assert_allclose(norm, expected[path], rtol=0, atol=tolerance * scale)


def _tokens_loss(params: Any, tokens: jax.Array) -> jax.Array:
    """Looked up with nothing for what is no token, then a layer and a head for every token."""
    hidden = jnp.take(params["table"], tokens, axis=0, mode="fill", fill_value=0)
    return jnp.sum(jnp.sin(jnp.tanh(hidden @ params["w"]) @ params["head"]))


TOKENS = integers(3, (5, 4), 9).at[0].set(7).at[1, 2].set(-99).at[1, 3].set(99)


def test_tokens_that_come_twice_and_tokens_that_are_none_count_as_in_the_gradient():
    params = {
        "table": normal(0, (9, 6), "float64"),
        "w": normal(1, (6, 8), "float64"),
        "head": normal(2, (8, 9), "float64"),
    }
    norms = insgd.example_gradient_norms(_tokens_loss)(params, TOKENS)
    expected = _one_by_one(_tokens_loss, params, (TOKENS,), (1,))
    for path, norm in norms.items():
        np.testing.assert_allclose(norm, expected[path], rtol=1e-10)


def _bytes_of(function: Callable[..., Any], *args: Any) -> int:
    analysis = jax.jit(function).lower(*args).compile().memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


@pytest.mark.parametrize("space", [(), (8,)], ids=["one_row", "eight_rows"])
def test_norms_of_dense_layers_are_found_without_the_gradients(space):
    params = {"a": normal(0, (256, 256), "float32"), "b": normal(1, (256, 256), "float32")}
    x = inputs(2, (64, *space, 256), "float32")

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.tanh(x @ params["a"]) @ params["b"])

    gradients = 64 * 2 * 256 * 256 * 4
    assert _bytes_of(insgd.example_gradient_norms(loss), params, x) < gradients / 10


def test_a_mean_over_examples_and_a_sum_have_the_same_norms():
    x = inputs(0, (6, 5), "float64")
    params = {"w": normal(1, (5, 3), "float64")}
    of_mean, of_sum = (
        insgd.example_gradient_norms(lambda params, x, f=f: f(jnp.sum((x @ params["w"]) ** 2, 1)))
        for f in (jnp.mean, jnp.sum)
    )
    np.testing.assert_array_equal(of_mean(params, x)["w"], of_sum(params, x)["w"])


def test_what_is_returned_besides_the_loss_is_dropped_and_several_arguments_have_norms():
    x, w, b = inputs(0, (6, 5), "float64"), normal(1, (5, 3), "float64"), jnp.ones(3)

    def loss(w: jax.Array, b: jax.Array, x: jax.Array) -> Any:
        y = x @ w + b[None]
        return jnp.mean(jnp.sum(y, axis=1)), y

    norms = insgd.example_gradient_norms(loss, argnums=(0, 1), has_aux=True)(w, b, x)
    np.testing.assert_allclose(norms["0"], np.sqrt(3) * np.linalg.norm(x, axis=1), rtol=1e-12)
    np.testing.assert_allclose(norms["1"], np.full(6, np.sqrt(3)), rtol=1e-12)


def test_a_large_half_precision_example_has_a_finite_norm():
    x = jnp.full((2, 4), 300, jnp.float16)
    loss = lambda w, x: jnp.mean((x @ w).astype(jnp.float32))  # noqa: E731
    norm = insgd.example_gradient_norms(loss)(jnp.full((4, 1), 0.01, jnp.float16), x)[""]
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, [600, 600], rtol=1e-3)


def test_an_example_that_is_not_finite_spoils_no_other():
    x = inputs(0, (3, 5), "float64").at[1, 2].set(jnp.nan)
    norms = insgd.example_gradient_norms(lambda w, x: jnp.mean(x @ w))(jnp.ones((5, 2)), x)[""]
    assert np.isfinite(norms).tolist() == [True, False, True]


def test_a_batch_that_is_closed_over_or_of_two_lengths_is_an_error_that_says_what_to_pass():
    x, w = jnp.ones((4, 3)), jnp.ones((3, 2))
    with pytest.raises(ValueError, match=r"shapes \[\].*batch_argnums"):
        insgd.example_gradient_norms(lambda w: jnp.mean(x @ w))(w)
    with pytest.raises(ValueError, match=r"\(4, 3\), \(5, 3\).*batch_argnums"):
        insgd.example_gradient_norms(lambda w, x, y: jnp.mean(x @ w) + y.sum())(
            w, x, jnp.ones((5, 3))
        )


def _taken(mode: str | None) -> Callable[..., jax.Array]:
    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        read = params["table"].at[tokens].get(mode=mode) if mode else params["table"][tokens]
        return jnp.nansum(jnp.sin(read))

    return loss


@pytest.mark.parametrize("mode", [None, "clip", "fill", "promise_in_bounds"])
@pytest.mark.parametrize("tokens", [1, 3], ids=["one_token", "three_tokens"])
def test_a_token_outside_of_the_table_counts_as_in_the_gradient(mode, tokens):
    params = {"table": normal(0, (7, 4), "float64")}
    outside = jnp.array([0, 6, 7, 99, -3, -99])
    batch = jnp.stack([outside, *(tokens - 1) * [outside[::-1]]], axis=1)
    norms = insgd.example_gradient_norms(_taken(mode))(params, batch)
    expected = _one_by_one(_taken(mode), params, (batch,), (1,))
    np.testing.assert_allclose(norms["table"], expected["table"], rtol=1e-10)


@pytest.mark.parametrize("varying", [False, True], ids=["shared_weights", "varying_weights"])
def test_inside_shard_map_norms_are_those_of_the_examples_of_each_device(varying):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"w": normal(0, (5, 3), "float64"), "b": normal(1, (3,), "float64")}
    x = inputs(2, (16, 5), "float64")

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(x @ params["w"] + params["b"][None]))

    def norms_of(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        if varying:  # a gradient that is not summed over the devices
            params = jax.tree.map(lambda leaf: leaf + jnp.zeros_like(x).sum(), params)
        return insgd.example_gradient_norms(loss)(params, x)

    sharded = jax.shard_map(norms_of, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    expected = _one_by_one(loss, params, (x,), (1,))
    for path, norm in jax.jit(sharded)(params, x).items():
        np.testing.assert_allclose(norm, expected[path], rtol=1e-10)


@pytest.mark.parametrize("shape", [(4, 0, 5), (0, 2, 5)], ids=["no_rows", "no_examples"])
def test_nothing_to_look_at_has_no_norm(shape):
    norms = insgd.example_gradient_norms(lambda w, x: jnp.sum(x @ w))
    assert norms(jnp.ones((5, 3)), jnp.ones(shape))[""].tolist() == [0.0] * shape[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex128"])
def test_a_norm_has_the_precision_of_its_own_gradient(dtype):
    w, labels = normal(0, (6, 5), "float64").astype(dtype), jnp.ones(4, jnp.float64)
    x = normal(1, (4, 6), "float64").astype(dtype)

    def loss(w: jax.Array, x: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.sum(jnp.real(x @ w).astype(jnp.float64).sum(1) * labels)

    norm = insgd.example_gradient_norms(loss)(w, x, labels)[""]
    wide = "float64" if dtype in ("float64", "complex128") else "float32"
    assert norm.dtype == wide
    exact = np.sqrt(5) * np.linalg.norm(np.asarray(x, np.complex128), axis=1)
    np.testing.assert_allclose(norm, exact, rtol=1e-12 if wide == "float64" else 1e-3)


@pytest.mark.parametrize("loss", [lambda w, x: jnp.sum((x @ w) ** 2), lambda w, x: jnp.sum(w**2)])
def test_no_gradient_flows_through_the_norms(loss):
    def total(w: jax.Array) -> jax.Array:
        return jnp.sum(insgd.example_gradient_norms(loss)(w, inputs(0, (4, 5), "float64"))[""])

    assert not np.any(jax.grad(total)(normal(1, (5, 3), "float64")))
