"""A loss with a shard_map inside: statistics are those of one device, or the error says why not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import insgd_optax as insgd
from battery.problems import assert_close, assert_says
from zoo.case import inputs, normal

X = inputs(0, (8, 6), "float64")
PARAMS = {
    "first": normal(1, (6, 5), "float64"),
    "bias": normal(2, (5,), "float64"),
    "stack": normal(3, (3, 5, 5), "float64"),
    "head": normal(4, (5, 2), "float64"),
}
WHOLE = dict.fromkeys(PARAMS, P())


def mean_of(y: Any) -> Any:
    return jnp.mean(y**2)


def mesh() -> Any:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def network(params: Any, x: Any) -> Any:
    x = jnp.tanh(x @ params["first"] + params["bias"][None])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])[0]
    return x @ params["head"]


def a_mean_on_each_device(**options: Any) -> Callable[..., Any]:
    def on_device(params: Any, x: Any) -> Any:
        return jax.lax.pmean(mean_of(network(params, x)), "data")

    specs = {"mesh": mesh(), "in_specs": (WHOLE, P("data")), "out_specs": P()}
    return jax.shard_map(on_device, **(specs | options))


def features_on_each_device(params: Any, x: Any) -> Any:
    mapped = jax.shard_map(network, mesh=mesh(), in_specs=(WHOLE, P("data")), out_specs=P("data"))
    return mean_of(mapped(params, x))


def partly_outside(params: Any, x: Any) -> Any:
    def hidden(first: Any, bias: Any, x: Any) -> Any:
        return jnp.tanh(x @ first + bias[None])

    split = P(("data", "model"))
    mapped = jax.shard_map(hidden, mesh=mesh(), in_specs=(P(), P(), split), out_specs=split)
    x = mapped(params["first"], params["bias"], x)
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])[0]
    return mean_of(x @ params["head"])


LOSSES = {
    "a mean on each device": a_mean_on_each_device(),
    "without checks of what varies": a_mean_on_each_device(check_vma=False),
    "one axis by hand": a_mean_on_each_device(axis_names={"data"}),
    "features on each device": features_on_each_device,
    "partly outside": partly_outside,
}


def reference(params: Any, x: Any) -> Any:
    return mean_of(network(params, x))


@pytest.mark.parametrize("structure", [insgd.MeanVariances(), insgd.Full(rows=None)])
@pytest.mark.parametrize("loss", LOSSES)
def test_statistics_and_gradients_are_those_of_one_device(loss: str, structure: Any):
    found, alone = (
        jax.jit(insgd.value_and_grad(each, structure=structure))(PARAMS, X)
        for each in (LOSSES[loss], reference)
    )
    assert_close(found[:2], alone[:2], rtol=1e-10)
    assert found[2].keys() == alone[2].keys()
    for path, moments in alone[2].items():
        if moments is None:
            assert found[2][path] is None
            continue
        np.testing.assert_allclose(found[2][path].sums, moments.sums, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(found[2][path].count, moments.count)
        assert found[2][path].bias == moments.bias


def test_explain_counts_the_rows_of_all_devices():
    found, alone = (
        {row.path: (row.rows, row.layout) for row in insgd.explain(each, PARAMS, X).rows}
        for each in (LOSSES["a mean on each device"], reference)
    )
    assert found == alone


@pytest.mark.parametrize("spec", [P("model"), P(None, "model")], ids=["inputs", "outputs"])
def test_a_weight_that_is_split_inside_of_the_loss_is_an_error_that_says_what_to_do(spec: Any):
    def on_device(weight: Any, x: Any) -> Any:
        whole = jax.lax.all_gather(weight, "model", axis=0 if spec == P("model") else 1, tiled=True)
        return jax.lax.psum(mean_of(x @ whole), ("data", "model"))

    mapped = jax.shard_map(on_device, mesh=mesh(), in_specs=(spec, P("data")), out_specs=P())
    params = {"kernel": normal(0, (6, 4), "float64"), "head": normal(1, (6, 2), "float64")}

    def loss(params: Any, x: Any) -> Any:
        return mapped(params["kernel"], x) + mean_of(x @ params["head"])

    with pytest.raises(ValueError) as error:
        insgd.value_and_grad(loss)(params, X)
    assert_says(error, "'kernel' of shape (6, 4)", "shard_map", "P() in in_specs")
