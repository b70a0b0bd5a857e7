"""How many instructions a compiled step has: a measure of launches that has no noise."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import insgd_optax as insgd

WIDTH, BLOCKS = 16, 4
# Nothing is launched for these.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
CALLED = r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"


def instructions(text: str) -> int:
    """Instructions of all computations that are reached from the entry, fusion bodies aside."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = head[2]
            bodies[name], entry = [], name if head[1] else entry
        elif name and line.startswith("  "):
            bodies[name].append(line)
    reached, waiting, found = set(), [entry], 0
    while waiting:
        if (name := waiting.pop()) in reached:
            continue
        reached.add(name)
        for line in bodies.get(name, []):
            operation = re.search(r"= .*? ([\w\-]+)\(", line)
            kind = operation[1] if operation else ""
            found += kind not in FREE
            if kind in ("call", "while", "conditional"):
                waiting += re.findall(CALLED, line)
                branches = re.search(r"branch_computations=\{([^}]*)\}", line)
                waiting += re.findall(r"[\w.\-]+", branches[1]) if branches else []
    return found


def transformer() -> tuple[Any, Any]:
    """Blocks of an attention without softmax and a perceptron, in plain JAX."""
    keys = iter(jax.random.split(jax.random.key(0), 100))
    square, wide = (WIDTH, WIDTH), (WIDTH, 4 * WIDTH)
    shapes = {"query": square, "key": square, "value": square, "out": square}
    shapes |= {"up": wide, "down": wide[::-1]}

    def dense(shape: tuple[int, int]) -> Any:
        return {"kernel": jax.random.normal(next(keys), shape) / 4, "bias": jnp.zeros(shape[1])}

    params: Any = {
        f"block_{n}": {name: dense(shape) for name, shape in shapes.items()}
        | {"gain": jnp.ones(WIDTH), "offset": jnp.zeros(WIDTH)}
        for n in range(BLOCKS)
    }
    params["table"] = jax.random.normal(next(keys), (32, WIDTH))
    params["head"] = dense((WIDTH, 32))
    return params, jax.random.randint(next(keys), (8, 12), 0, 32)


def loss_fn(params: Any, ids: Any) -> Any:
    def dense(layer: Any, x: Any) -> Any:
        return x @ layer["kernel"] + layer["bias"][None, None]

    tokens = params["table"][ids]
    for n in range(BLOCKS):
        block = params[f"block_{n}"]
        normed = tokens / jnp.sqrt(jnp.mean(jnp.square(tokens), axis=-1, keepdims=True) + 1e-6)
        normed = normed * block["gain"][None, None] + block["offset"][None, None]
        query, key, value = (dense(block[name], normed) for name in ("query", "key", "value"))
        scores = jax.nn.softmax(jnp.einsum("btd,bsd->bts", query, key))
        tokens = tokens + dense(block["out"], jnp.einsum("bts,bsd->btd", scores, value))
        tokens = tokens + dense(block["down"], jax.nn.gelu(dense(block["up"], tokens)))
    logits = dense(params["head"], tokens)
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.roll(ids, -1, 1)).mean()


def compiled(optimizer: optax.GradientTransformation, captured: bool) -> int:
    tx = optax.with_extra_args_support(optimizer)

    def step(params: Any, state: Any, ids: Any) -> Any:
        extra = {}
        if captured:
            _, grads, extra["input_stats"] = insgd.value_and_grad(loss_fn)(params, ids)
        else:
            grads = jax.grad(loss_fn)(params, ids)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    params, ids = transformer()
    text = jax.jit(step).lower(params, tx.init(params), ids).compile().as_text()
    return instructions(text or "")


@pytest.mark.framework  # the peer's own arithmetic promotes dtypes
def test_a_step_launches_at_most_fourteen_tenths_of_adams_instructions():
    with jax.enable_x64(False):
        assert compiled(insgd.insgd(), True) <= 1.4 * compiled(optax.adam(1e-3), False)
