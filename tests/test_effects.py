"""Prints, callbacks and checks in a loss happen as in `jax.value_and_grad`, and as often."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify, io_callback

import insgd_optax as insgd

PARAMS = {"w": jnp.eye(3, dtype=jnp.float32)}
ROWS = jnp.arange(6.0, dtype=jnp.float32).reshape(2, 3)
Step = Callable[[jax.Array], jax.Array]
seen: list[str] = []


def _note(*values: Any) -> None:
    seen.append(" ".join(str(np.asarray(value)) for value in values))


def _note_and_return(value: Any) -> Any:
    _note(value)
    return np.float32(2)


def _scalar() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jnp.float32)


def _called(h: jax.Array) -> jax.Array:
    total = jax.lax.stop_gradient(h.sum())
    return h * jax.pure_callback(_note_and_return, _scalar(), total)


def _logged(h: jax.Array) -> jax.Array:
    io_callback(_note, None, jax.lax.stop_gradient(h.sum()), ordered=True)
    return h


def _returning(effect: Callable[..., Any], **settings: Any) -> Step:
    def then_return(h: jax.Array) -> jax.Array:
        effect(_note, h.sum(), **settings)
        return h

    return then_return


def _constant(h: jax.Array) -> jax.Array:
    jax.debug.callback(_note)
    return h


EFFECTS: dict[str, Step] = {
    "debug_callback": _returning(jax.debug.callback),
    "ordered_debug_callback": _returning(jax.debug.callback, ordered=True),
    "constant": _constant,
    "pure_callback": _called,
    "io_callback": _logged,
    "io_callback_of_what_is_differentiated": _returning(io_callback, result_shape_dtypes=None),
}


def _layer(h: jax.Array, weight: jax.Array, effect: Step) -> jax.Array:
    return effect(jnp.tanh(h @ weight))


def _in_scan(h: jax.Array, weight: jax.Array, effect: Step) -> jax.Array:
    return jax.lax.scan(lambda h, _: (_layer(h, weight, effect), None), h, None, length=2)[0]


def _in_cond(h: jax.Array, weight: jax.Array, effect: Step) -> jax.Array:
    taken = lambda h: _layer(h, weight, effect)  # noqa: E731
    return jax.lax.cond(h[0, 1] > 0, taken, lambda h: h, h)


def _in_custom_rule(h: jax.Array, weight: jax.Array, effect: Step) -> jax.Array:
    rule = jax.custom_vjp(lambda h, weight: _layer(h, weight, effect))
    rule.defvjp(
        lambda h, weight: (_layer(h, weight, effect), weight), lambda weight, g: (g, 0 * weight)
    )
    return rule(h, weight)


def _in_an_activation(h: jax.Array, weight: jax.Array, effect: Step) -> jax.Array:
    return jax.jit(lambda h: effect(jnp.tanh(h)))(h @ weight)


PLACES: dict[str, Callable[..., jax.Array]] = {
    "alone": _layer,
    "jit": lambda h, weight, effect: jax.jit(lambda h, w: _layer(h, w, effect))(h, weight),
    "remat": lambda h, weight, effect: jax.checkpoint(lambda h, w: _layer(h, w, effect))(h, weight),
    "scan": _in_scan,
    "cond": _in_cond,
    "activation": _in_an_activation,
    "custom_rule": _in_custom_rule,
}


def _outcome(function: Callable[..., Any], *args: Any) -> tuple[Any, list[str]]:
    """The results, or the type of the error, and what the effects noted."""
    seen.clear()
    try:
        results = jax.block_until_ready(function(*args))
    except Exception as error:
        results = type(error)
    jax.effects_barrier()
    return results, list(seen)


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("place", PLACES)
def test_an_effect_happens_as_in_jax_wherever_it_stands(place: str, effect: str, jitted: bool):
    def loss(params: Any, rows: jax.Array) -> jax.Array:
        return jnp.sum(PLACES[place](rows, params["w"], EFFECTS[effect]))

    def captured(*args: Any) -> Any:
        return insgd.value_and_grad(loss)(*args)[:2]

    functions = jax.value_and_grad(loss), captured
    expected, found = (_outcome(jax.jit(f) if jitted else f, PARAMS, ROWS) for f in functions)
    if isinstance(expected[0], type):  # JAX allows no such effect there
        assert found[0] is expected[0]
        return
    jax.tree.map(np.testing.assert_array_equal, found[0], expected[0])
    if effect == "pure_callback":  # may run as often as one likes
        assert set(found[1]) == set(expected[1])
    else:
        assert found[1] == expected[1]


def test_a_print_shows_its_numbers(capfd: pytest.CaptureFixture[str]):
    def loss(params: Any, rows: jax.Array) -> jax.Array:
        outputs = rows @ params["w"]
        jax.debug.print("sum {}, weight {}", outputs.sum(), params["w"][0, 0])
        return jnp.sum(outputs)

    jax.jit(insgd.value_and_grad(loss))(PARAMS, ROWS)
    jax.effects_barrier()
    assert capfd.readouterr().out == "sum 15.0, weight 1.0\n"


@pytest.mark.parametrize("largest", [10.0, 1.0])
def test_a_check_fails_where_it_fails_in_jax(largest: float):
    def loss(params: Any, rows: jax.Array) -> jax.Array:
        outputs = rows @ params["w"]
        checkify.check(jnp.all(outputs < largest), "an output is too large")
        return jnp.sum(outputs)

    error, _ = checkify.checkify(jax.jit(insgd.value_and_grad(loss)))(PARAMS, ROWS)
    expected, _ = checkify.checkify(jax.jit(jax.value_and_grad(loss)))(PARAMS, ROWS)
    assert (error.get() is None) == (expected.get() is None) == (largest == 10.0)


def test_a_loss_with_a_print_can_be_explained_and_its_examples_measured():
    def loss(params: Any, rows: jax.Array) -> jax.Array:
        jax.debug.callback(_note, params["w"].sum())
        return jnp.sum(rows @ params["w"])

    assert insgd.explain(loss, PARAMS, ROWS).rows[0].equations == ("dot_general",)
    norms = jax.jit(insgd.example_gradient_norms(loss))(PARAMS, ROWS)
    np.testing.assert_allclose(norms["w"], np.sqrt(3 * np.sum(np.square(ROWS), axis=1)), rtol=1e-6)
