"""No scale of inputs or gradients, from 1e-15 to 1e15, flips the sign of a step or gives a NaN."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from battery.problems import convnet, every_structure, regression


def _is_finite(tree: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def _largest(leaf: Any) -> Any:
    return jnp.maximum(jnp.max(jnp.abs(leaf)), jnp.finfo(leaf.dtype).tiny)


# Their signs are those of a matrix product.
MIXING = (insgd.MeanVariances(), insgd.LowRank())
_scales = st.floats(-15, 15).map(lambda exponent: 10.0**exponent)


@pytest.mark.parametrize("structure", [insgd.Scalar(), insgd.Diagonal(), *MIXING])
@pytest.mark.parametrize("make_problem", [regression, convnet])
def test_no_scale_of_the_input_flips_a_sign_or_gives_a_nan(make_problem, structure):
    problem = make_problem()
    tx = insgd.scale_by_input(structure)
    # Without the decay that balances growth, which pulls at weights whatever their gradient is.
    whole = insgd.scale_by_insgd(structure, momentum=0.0)
    mixes_features = structure in MIXING
    grad_fn = insgd.value_and_grad(problem.loss_fn, structure=structure)

    @jax.jit
    def two_steps(params: Any, scales: Any) -> Any:
        history, chain = tx.init(params), whole.init(params)
        seen = []
        for i in range(2):
            batch = (scales[i] * problem.batch[0], problem.batch[1])
            _, grads, input_stats = grad_fn(params, batch)
            updates, history = tx.update(grads, history, params, input_stats=input_stats)
            moves, chain = whole.update(grads, chain, params, input_stats=input_stats)
            seen.append((grads, updates, moves))
        return seen, history

    @hypothesis.settings(max_examples=25, deadline=None)
    @hypothesis.given(st.tuples(_scales, _scales))
    def check(scales: tuple[float, float]) -> None:
        seen, history = two_steps(problem.params, jnp.asarray(scales, jnp.float32))
        assert _is_finite((seen, history))
        for step, (grads, updates, moves) in enumerate(seen):
            for grad, update, move in zip(
                *map(jax.tree.leaves, (grads, updates, moves)), strict=True
            ):
                assert jnp.all(jnp.sign(update) * jnp.sign(move) >= 0)
                if mixes_features:
                    assert jnp.sum(grad / _largest(grad) * (update / _largest(update))) >= 0
                    continue
                assert jnp.all(jnp.sign(grad) * jnp.sign(update) >= 0), "a sign was flipped"
                # Later a tiny gradient over the history of a huge input may underflow to zero.
                if step == 0:
                    assert jnp.all(jnp.sign(update) == jnp.sign(grad))
                    assert jnp.all(jnp.sign(move) == jnp.sign(grad))

    check()


@every_structure
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.floats(-37, 37))
def test_no_scale_of_the_gradient_alone_gives_a_nan_or_a_flip(structure, exponent):
    problem = regression()
    grads, input_stats = problem.stats_of(structure=structure)
    scaled = jax.tree.map(lambda leaf: leaf * jnp.asarray(10.0**exponent, leaf.dtype), grads)
    tx = insgd.scale_by_input(structure)
    updates, _ = tx.update(scaled, tx.init(scaled), input_stats=input_stats)
    for grad, update in zip(*map(jax.tree.leaves, (scaled, updates)), strict=True):
        assert not jnp.any(jnp.isnan(update))
        assert jnp.all(jnp.sign(grad) * jnp.sign(update) >= 0)


@pytest.mark.parametrize(
    "structure",
    [
        insgd.MeanVariance(),
        insgd.LowRank(rows=None),
        insgd.Full(rows=None),
        insgd.Full(rows=None, refresh_every=1),
    ],
    ids=["mean_variance", "low_rank", "full", "full_every_step"],
)
@pytest.mark.parametrize("make_problem", [regression, convnet])
def test_richer_structures_take_the_same_step_at_every_scale_of_the_input(make_problem, structure):
    """Their updates have signs of their own, but only one size: that of the gradient's unit."""
    problem = make_problem()
    tx = insgd.scale_by_input(structure)
    inputs, targets = problem.batch
    kernel = "weight" if "weight" in problem.params else "conv"

    @jax.jit
    def update_of(scale: Any) -> Any:
        _, stats = problem.stats_of(batch=(scale * inputs, targets), structure=structure)
        grads = jax.tree.map(jnp.ones_like, problem.params)
        updates, _ = tx.update(grads, tx.init(problem.params), input_stats=stats)
        return updates[kernel]

    reference = jax.tree.leaves(update_of(jnp.asarray(1.0, jnp.float32)))
    for scale in (1e-15, 1e-6, 1e6, 1e15):
        scaled = jax.tree.leaves(update_of(jnp.asarray(scale, jnp.float32)))
        for one, other in zip(reference, scaled, strict=True):
            if one.ndim > 1:
                np.testing.assert_allclose(other * scale**2, one, rtol=2e-3)
