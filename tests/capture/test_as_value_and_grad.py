"""What `jax.value_and_grad` accepts and keeps as it is, `value_and_grad` does too."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import Primitive

import insgd_optax as insgd
from battery.problems import assert_close
from zoo.case import mean_square, normal

X = normal(0, (8, 4), "float32")
PARAMS = {"w": normal(1, (4, 8), "float32")}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Metrics:
    mean: Any
    name: Any


AUX: dict[str, Callable[[Any], Any]] = {
    "text": lambda h: "mlp",
    "a number": lambda h: 3,
    "nothing": lambda h: None,
    "a function": lambda h: jnp.tanh,
    "arrays of NumPy": lambda h: np.arange(3),
    "arrays beside text": lambda h: {"h": h, "name": "mlp", "n": 3, "on": True},
    "a dataclass": lambda h: Metrics(h.mean(), "mlp"),
    "integers": lambda h: (jnp.argmax(h), "mlp"),
}


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("of", AUX)
def test_aux_comes_back_as_from_jax(of: str, jitted: bool):
    def loss(params, x):
        h = x @ params["w"]
        return mean_square(h), AUX[of](h)

    def results(value_and_grad):
        kept = []

        def step(params, x):
            (value, aux), *_ = value_and_grad(loss, has_aux=True)(params, x)
            arrays, others = {}, []
            for place, leaf in enumerate(jax.tree.leaves(aux)):
                if isinstance(leaf, jax.Array):
                    arrays[place] = leaf
                else:
                    others.append(leaf)
            kept.append((type(aux), others))
            return value, arrays

        return (jax.jit(step) if jitted else step)(PARAMS, X), kept[-1]

    (ours, (our_type, our_others)) = results(insgd.value_and_grad)
    (jaxs, (jax_type, jax_others)) = results(jax.value_and_grad)
    jax.tree.map(assert_close, ours, jaxs)
    assert our_type is jax_type
    np.testing.assert_equal(our_others, jax_others)


def test_flags_names_and_functions_among_the_arguments_stay_as_they_are():
    def loss(params, x, flag, name, activation, *, power):
        assert flag is True
        assert name == "mlp"
        return jnp.sum(activation(x @ params["w"]) ** power)

    _, _, stats = insgd.value_and_grad(loss)(PARAMS, X, True, "mlp", jnp.tanh, power=2)
    assert stats["w"] is not None


only_elsewhere = Primitive("only_elsewhere")
only_elsewhere.def_abstract_eval(lambda x: x)


def of_platform(x: Any, w: Any) -> Any:
    return jax.lax.platform_dependent(
        x, w, default=lambda x, w: x @ w, tpu=lambda x, w: only_elsewhere.bind(x @ w)
    )


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_a_branch_of_another_platform_is_not_compiled(jitted: bool):
    def loss(params, x):
        return mean_square(of_platform(x, jax.lax.stop_gradient(params["w"])) @ params["v"])

    params = {**PARAMS, "v": normal(2, (8, 2), "float32")}
    grad_fn = insgd.value_and_grad(loss, structure=insgd.Diagonal())
    stats: Any = (jax.jit(grad_fn) if jitted else grad_fn)(params, X)[2]
    assert_close(stats["v"].sums[0], jnp.sum((X @ PARAMS["w"]) ** 2, 0))


@pytest.mark.parametrize("abstract", ["parameters", "batch", "both"])
def test_explain_needs_shapes_alone(abstract: str):
    def loss(params, x):
        return mean_square(jnp.tanh(x @ params["w"] + params["b"][None]))

    params = {**PARAMS, "b": jnp.ones((8,), jnp.float32)}
    shapes = jax.eval_shape(lambda: (params, X))
    given = (
        shapes[0] if abstract != "batch" else params,
        shapes[1] if abstract != "parameters" else X,
    )
    assert str(insgd.explain(loss, *given)) == str(insgd.explain(loss, params, X))


@pytest.mark.parametrize("make", [lambda: insgd.insgd(), lambda: insgd.insgd(0.01, momentum=0.5)])
def test_a_weakly_typed_parameter_causes_no_more_traces_than_with_adam(make):
    def loss(params, x):
        return mean_square(jnp.where(x > 1, x, params["slope"] * x) @ params["w"])

    def traces(optimizer, has_statistics):
        count = 0

        @jax.jit
        def step(params, state):
            nonlocal count
            count += 1
            _, grads, *stats = grad_fn(params, X)
            extra = {"input_stats": stats[0]} if stats else {}
            updates, state = optimizer.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        grad_fn = (insgd if has_statistics else jax).value_and_grad(loss)
        params = {"slope": jnp.asarray(0.25), **PARAMS}
        state = optimizer.init(params)
        for _ in range(5):
            params, state = step(params, state)
        return count

    with jax.numpy_dtype_promotion("standard"):
        assert traces(make(), True) <= traces(optax.adam(0.1), False)


def test_under_jit_the_loss_is_called_once():
    calls = 0

    def loss(params, x):
        nonlocal calls
        calls += 1
        return mean_square(x @ params["w"])

    jax.jit(insgd.value_and_grad(loss))(PARAMS, X)
    assert calls == 1
