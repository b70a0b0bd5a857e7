"""Biases: the leaf that is added to a layer's result is known from the trace, not from names."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import insgd_optax as insgd
from zoo.case import CASES, normal
from zoo.runs import built

X = normal(0, (6, 5), "float32")
W, SQUARE, B = (
    normal(1, (5, 4), "float32"),
    normal(2, (5, 5), "float32"),
    normal(3, (4,), "float32"),
)
B5 = normal(4, (5,), "float32")
Found = dict[str, str]


def biases(loss: Callable[..., Any], params: Any, *args: Any) -> Found:
    """The bias's path by the weight's."""
    _, _, stats = jax.jit(insgd.value_and_grad(loss, strict=False))(params, *args)
    return {path: each.bias.path for path, each in stats.items() if each and each.bias}


def of_result(result: Callable[..., Any], params: Any, *args: Any) -> Found:
    return biases(lambda params, *args: jnp.sum(jnp.sin(result(params, *args))), params, *args)


def dense(p: Any, x: Any) -> Any:
    return x @ p["w"] + p["b"][None]


def in_bfloat16(p: Any, x: Any) -> Any:
    return dense(*jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (p, x)))


def of_a_function_with_its_own_rule(p: Any, x: Any) -> Any:
    rule = jax.custom_jvp(lambda w, b, x: x @ w + b[None])
    rule.defjvp(lambda primals, tangents: (rule(*primals), rule(*primals)))
    return rule(p["w"], p["b"], x)


def added_inside_another_jit(p: Any, x: Any) -> Any:
    return jax.jit(lambda h, b: h + b[None])(x @ p["w"], p["b"])


def per_example(p: Any, x: Any) -> Any:
    return jax.vmap(lambda row: p["w"].T @ row + p["b"])(x)


def in_a_branch(p: Any, x: Any) -> Any:
    return lax.cond(x[0, 0] > 0, lambda: dense(p, x), lambda: x[:, :4])


def over_micro_batches(p: Any, x: Any) -> Any:
    return lax.scan(lambda c, row: (c, dense(p, row[None])), None, x)[1]


def twice(p: Any, x: Any) -> Any:
    return dense(p, jnp.sin(dense(p, x)) @ jnp.ones((4, 5), x.dtype))


def moved_before_it_is_added(p: Any, x: Any) -> Any:
    heads = (x @ p["w"]).reshape(2, 3, 2, 2).transpose(2, 0, 1, 3)
    return heads + p["b"].reshape(2, 1, 1, 2)


def with_a_normalized_weight(p: Any, x: Any) -> Any:
    return x @ (p["w"] / jnp.linalg.norm(p["w"])) + p["b"][None]


def printed(p: Any, x: Any) -> Any:
    result = x @ p["w"]
    jax.debug.callback(lambda *_: None, result, p["b"])
    return result + p["b"][None]


@pytest.mark.parametrize(
    "result",
    [
        dense, in_bfloat16, of_a_function_with_its_own_rule, added_inside_another_jit, per_example,
        in_a_branch, over_micro_batches, twice, moved_before_it_is_added, printed,
        with_a_normalized_weight, jax.jit(dense), jax.checkpoint(dense),
    ],
)  # fmt: skip
def test_what_is_added_to_a_layers_result_is_its_bias(result: Callable[..., Any]):
    assert of_result(result, {"w": W, "b": B}, X) == {"w": "b"}


def one_hot(p: Any, x: Any) -> Any:
    return jax.nn.one_hot(jnp.arange(3), 5, dtype=x.dtype) * x[:3] @ p["w"] + p["b"][None]


def test_a_loss_with_operations_on_nothing_has_biases():
    assert of_result(one_hot, {"w": W, "b": B}, X) == {"w": "b"}


@pytest.mark.parametrize("weight", [(5,), (5, 1)])
def test_a_number_is_the_bias_of_a_layer_with_one_output(weight: tuple[int, ...]):
    params = {"w": normal(1, weight, "float32"), "b": jnp.zeros((), jnp.float32)}
    assert of_result(lambda p, x: (x @ p["w"]).ravel() + p["b"], params, X) == {"w": "b"}


@pytest.mark.parametrize(
    "penalty",
    [
        lambda p: jnp.sum(p["b"] ** 2),
        lambda p: sum(jnp.sum(leaf**2) for leaf in p.values()),
        lambda p: jnp.linalg.norm(p["b"]),
    ],
)
def test_a_penalty_on_a_bias_in_the_loss_leaves_it_a_bias(penalty: Callable[..., Any]):
    def loss(p: Any, x: Any) -> Any:
        return jnp.sum(jnp.sin(dense(p, x))) + 0.1 * penalty(p)

    assert biases(loss, {"w": W, "b": B}, X) == {"w": "b"}


def lstm(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["w"] + x @ p["v"] + p["b"][None])


def gain(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["w"]) * p["b"][None]


def behind_a_nonlinearity(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["w"]) + p["b"][None]


def behind_a_norm(p: Any, x: Any) -> Any:
    result = x @ p["w"]
    return result / jnp.linalg.norm(result, axis=1, keepdims=True) + p["b"][None]


def subtracted(p: Any, x: Any) -> Any:
    return x @ p["w"] - p["b"][None]


def doubled(p: Any, x: Any) -> Any:
    return x @ p["w"] + 2 * p["b"][None]


def used_twice(p: Any, x: Any) -> Any:
    return dense(p, x) * p["b"][None]


def of_two_weights(p: Any, x: Any) -> Any:
    return jnp.sin(x @ p["w"] + p["b"][None]) + jnp.cos(x @ p["v"] + p["b"][None])


def of_one_use_of_two(p: Any, x: Any) -> Any:
    return jnp.sin(x @ p["w"] + p["b"][None]) + jnp.cos(x @ p["w"])


def two_for_two_uses(p: Any, x: Any) -> Any:
    return jnp.sin(x @ p["w"] + p["b"][None]) + jnp.cos(x @ p["w"] + p["c"][None])


def result_used_without_it(p: Any, x: Any) -> Any:
    result = x @ p["w"]
    return jnp.sin(result + p["b"][None]) * result


def of_a_sum_of_weights(p: Any, x: Any) -> Any:
    return x @ (p["w"] + p["v"]) + p["b"][None]


def one_number_for_all(p: Any, x: Any) -> Any:
    return x @ p["w"] + p["b"][0]


def chosen_by_the_data(p: Any, x: Any) -> Any:
    shift = lax.cond(x[0, 0] > 0, lambda: p["b"], lambda: x[0, :4])
    return x @ p["w"] + p["b"][None] + shift[None]


def of_one_weight_and_half_of_another(p: Any, x: Any) -> Any:
    return of_two_weights(p, x) + x @ p["v"]


def one_for_each_row(p: Any, x: Any) -> Any:
    return x[:4] @ p["w"] + p["b"][:, None]


def one_for_a_stack(p: Any, x: Any) -> Any:
    return lax.scan(lambda h, w: (jnp.tanh(h @ w + p["e"][None]), None), x[:5], p["stack"])[0]


def one_weight_for_a_stack_of_them(p: Any, x: Any) -> Any:
    return lax.scan(lambda h, b: (jnp.tanh(h @ p["u"] + b[None]), None), x[:5], p["rows"])[0]


def result_in_a_loops_carry_too(p: Any, x: Any) -> Any:
    result = x @ p["w"]
    turned, _ = lax.scan(lambda h, _: (jnp.tanh(h), None), result, None, length=2)
    return turned * (result + p["b"][None])


def result_of_another_branch(p: Any, x: Any) -> Any:
    result = x @ p["w"]
    return lax.cond(x[0, 0] > 0, lambda: result + p["b"][None], lambda: result)


def one_for_each_position(p: Any, x: Any) -> Any:
    return x.reshape(3, 2, 5) @ p["w"] + p["positions"]


@pytest.mark.filterwarnings("ignore:No layer")  # some cases leave some of the leaves unused
@pytest.mark.parametrize(
    "result",
    [
        lstm, gain, behind_a_nonlinearity, behind_a_norm, subtracted, doubled, used_twice,
        of_two_weights, of_one_use_of_two, two_for_two_uses, result_used_without_it,
        of_a_sum_of_weights, one_number_for_all, chosen_by_the_data, one_for_each_position,
        of_one_weight_and_half_of_another, one_for_each_row, one_for_a_stack,
        one_weight_for_a_stack_of_them, result_in_a_loops_carry_too, result_of_another_branch,
    ],
)  # fmt: skip
def test_no_bias_is_guessed(result: Callable[..., Any]):
    positions = normal(6, (1, 2, 4), "float32")
    params = {"w": W, "v": 2 * W, "b": B, "c": 2 * B, "positions": positions}
    params |= {"u": SQUARE, "e": B5, "stack": jnp.stack([SQUARE] * 5), "rows": jnp.stack([B5] * 5)}
    assert of_result(result, params, X) == {}


def test_the_first_of_two_is_the_bias():
    params = {"w": W, "b": B, "c": 2 * B}
    assert of_result(lambda p, x: dense(p, x) + p["c"][None], params, X) == {"w": "b"}


def convolved(p: Any, x: Any) -> Any:
    groups = x.shape[-1] // p["w"].shape[-2]
    axes = ("NWC", "WIO", "NWC")
    y = lax.conv_general_dilated(
        x, p["w"], (1,), "SAME", dimension_numbers=axes, feature_group_count=groups
    )
    return y + p["b"].reshape(1, 1, -1)


def looked_up(p: Any, x: Any) -> Any:
    return p["w"][(x[:, 0] > 0).astype(int)] + p["b"][None]


def looked_up_alone(p: Any, x: Any) -> Any:
    row = lax.dynamic_slice_in_dim(p["w"], (x[0, 0] > 0).astype(int), 1)
    return row + p["b"][None]


def ensemble(p: Any, x: Any) -> Any:
    return jax.vmap(lambda w, b: x @ w + b[None])(p["w"], p["b"])


def members(p: Any, x: Any) -> Any:
    return jax.vmap(lambda w, b, x: x @ w + b[None])(p["w"], p["b"], x)


def stacked(p: Any, x: Any) -> Any:
    return lax.scan(lambda h, layer: (jnp.tanh(dense(layer, h)), None), x, p)[0]


def stacked_in_two_stages(p: Any, x: Any) -> Any:
    staged = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), p)
    return lax.scan(lambda h, stage: (stacked(stage, h), None), x, staged)[0]


def stacked_behind(p: Any, x: Any) -> Any:
    layers = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), p)
    return stacked(layers, x)


def heads(p: Any, x: Any) -> Any:
    return jnp.einsum("bi,ihk->bhk", x, p["w"]) + p["b"][None]


def heads_in_another_order(p: Any, x: Any) -> Any:
    return jnp.einsum("bi,ihk->bkh", x, p["w"]) + p["b"].reshape(2, 3)[None]


def batched(seed: int, *shape: int) -> jax.Array:
    return normal(seed, shape, "float32")


# The result, the shapes of weight, bias and input, and where the entry of the bias lies that
# belongs to each output of each group.
LAYERS: dict[str, tuple[Callable[..., Any], Any, Any, Any, Any]] = {
    "convolution": (convolved, (3, 4, 6), (6,), (2, 7, 4), np.arange(6)[None]),
    "grouped_convolution": (convolved, (3, 2, 6), (6,), (2, 7, 4), np.arange(6).reshape(2, 3)),
    "depthwise": (convolved, (3, 1, 8), (8,), (2, 7, 4), np.arange(8).reshape(4, 2)),
    "lookup": (looked_up, (7, 4), (4,), (6, 5), np.arange(4)[None]),
    "lookup_of_one_row": (looked_up_alone, (7, 4), (4,), (6, 5), np.arange(4)[None]),
    "ensemble": (ensemble, (3, 5, 4), (3, 4), (6, 5), np.arange(12)[None]),  # one wide layer
    "members": (members, (3, 5, 4), (3, 4), (3, 6, 5), np.arange(12).reshape(3, 4)),
    "stack": (stacked, (4, 5, 5), (4, 5), (6, 5), np.arange(20).reshape(4, 5)),
    "two_stages": (
        stacked_in_two_stages, (4, 5, 5), (4, 5), (6, 5), np.arange(20).reshape(4, 5)
    ),
    "stack_along_the_last_axis": (
        stacked_behind, (5, 5, 3), (5, 3), (6, 5), np.arange(15).reshape(5, 3).T
    ),
    "heads": (heads, (5, 3, 2), (3, 2), (6, 5), np.arange(6)[None]),
    "heads_in_another_order": (
        heads_in_another_order, (5, 3, 2), (6,), (6, 5), np.arange(6).reshape(2, 3).T.reshape(1, 6)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_bias_has_a_row_for_each_matrix_in_the_order_of_its_outputs(name: str):
    result, weight, bias, rows, order = LAYERS[name]
    params = {"w": batched(1, *weight), "b": batched(2, *bias)}
    _, _, stats = jax.jit(
        insgd.value_and_grad(lambda params, x: jnp.sum(jnp.sin(result(params, x))))
    )(params, batched(3, *rows))
    found, layout = stats["w"].bias, stats["w"].layout
    assert found is not None and found.path == "b"
    numbers = found.layout.split(jnp.arange(1.0 * np.prod(bias)).reshape(bias))
    assert numbers.shape == (layout.groups, 1, layout.outputs)
    np.testing.assert_array_equal(numbers[:, 0], order)
    np.testing.assert_array_equal(found.layout.merge(numbers).ravel(), np.arange(np.prod(bias)))


@pytest.mark.parametrize("moved", ["dense", "heads", "heads_in_another_order", "ensemble"])
def test_a_layer_with_its_bias_is_one_matrix_on_inputs_with_a_one(moved: str):
    """``x W + b`` is ``(x, 1) [W; b]``, by the two layouts alone."""
    result, weight, bias, rows, _ = LAYERS.get(moved, (dense, (5, 4), (4,), (6, 5), None))
    params, x = {"w": batched(1, *weight), "b": batched(2, *bias)}, batched(3, *rows)

    def loss(params: Any, x: Any) -> Any:
        return jnp.sum(jnp.sin(result(params, x)))

    value, _, stats = jax.jit(insgd.value_and_grad(loss))(params, x)
    layout, row = stats["w"].layout, stats["w"].bias.layout
    matrices = jnp.concatenate([layout.split(params["w"]), row.split(params["b"])], axis=1)
    augmented = jnp.concatenate([x, jnp.ones((len(x), 1), x.dtype)], axis=1)
    outputs = jnp.einsum("ri,gio->rgo", augmented, matrices)
    np.testing.assert_allclose(jnp.sum(jnp.sin(outputs)), value, rtol=1e-5)


def test_containers_and_names_and_other_layers_play_no_role():
    flat = {"b2": B5, "w1": W, "w2": normal(7, (4, 5), "float32"), "b1": B}
    nested = {"x": {"w": flat["w1"], "y": flat["b1"]}, "a": [flat["b2"], flat["w2"]]}

    def net(w1: Any, b1: Any, w2: Any, b2: Any, x: Any) -> Any:
        return jnp.tanh(x @ w1 + b1[None]) @ w2 + b2[None]

    of_flat = of_result(lambda p, x: net(p["w1"], p["b1"], p["w2"], p["b2"], x), flat, X)
    of_nested = of_result(lambda p, x: net(p["x"]["w"], p["x"]["y"], *p["a"][::-1], x), nested, X)
    assert of_flat == {"w1": "b1", "w2": "b2"}
    assert of_nested == {"x/w": "x/y", "a/1": "a/0"}


def test_explain_says_whose_bias_a_leaf_is():
    def loss(p: Any, x: Any) -> Any:
        return jnp.sum(heads(p, x)) + jnp.sum(p["b"] ** 2)

    params = {"w": batched(1, 5, 3, 2), "b": batched(2, 3, 2)}
    notes = {row.path: row.note for row in insgd.explain(loss, params, X).rows}
    assert notes == {"w": "", "b": "bias of 'w'"}


# The layers of each model that have a bias, and the names that their parameters have.
FRAMEWORKS: dict[str, tuple[list[str], str, str]] = {
    "linen_mlp": (["layers_0/", "layers_3/"], "kernel", "bias"),
    "linen_cnn": (["ConvTranspose_0/", "Conv_0/", "Conv_1/", "Dense_0/"], "kernel", "bias"),
    "linen_attention": (["query/", "key/", "value/", "out/"], "kernel", "bias"),
    "linen_lstm": (["cell/hf/", "cell/hg/", "cell/hi/", "cell/ho/"], "kernel", "bias"),
    "linen_scan_on_axis_1": (["ScanLayer_0/Dense_0/"], "kernel", "bias"),
    "linen_remat_scan": (["Dense_0/"], "kernel", "bias"),
    "linen_batch_norm_and_dropout": (["Dense_0/", "Dense_1/"], "kernel", "bias"),
    "nnx_cnn": (["conv/", "dilated/", "head/"], "kernel", "bias"),
    "nnx_attention": (["query/", "key/", "value/", "out/"], "kernel", "bias"),
    "nnx_scan_of_remat": (["blocks/linear/"], "kernel", "bias"),
    "nnx_vmap_ensemble": (["blocks/linear/"], "kernel", "bias"),
    "equinox_mlp": (["layers/0/", "layers/1/"], "weight", "bias"),
    "equinox_conv": (["0/", "1/"], "weight", "bias"),
    "equinox_lstm": ([], "", ""),  # one bias for a sum of two products
    "haiku_conv": (["conv2_d/", "depthwise_conv2_d/", "linear/"], "w", "b"),
    "haiku_layer_stack": (["__layer_stack_no_per_layer/linear/"], "w", "b"),
}


@pytest.mark.framework
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_layers_of_every_framework_have_their_biases(name: str):
    layers, weight, bias = FRAMEWORKS[name]
    case = built(name, CASES[name].dtypes[0])
    report = insgd.explain(case.loss, case.params, *case.args, batch_argnums=case.batch_argnums)
    of = {row.path: row.note for row in report.rows if row.note.startswith("bias of")}
    assert of == {layer + bias: f"bias of '{layer}{weight}'" for layer in layers}


def test_a_known_bias_keeps_its_plain_gradient():
    params = {"w": W, "b": B}
    loss = lambda p, x: jnp.sum(jnp.sin(dense(p, x)))  # noqa: E731
    _, grads, stats = jax.jit(insgd.value_and_grad(loss))(params, X)
    assert stats["b"] is None
    tx = insgd.scale_by_input()
    updates, _ = tx.update(grads, tx.init(params), params, input_stats=stats)
    np.testing.assert_array_equal(updates["b"], grads["b"])
