"""What explain announces that a structure costs, and the choice it makes within a budget."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd
from zoo.case import inputs, normal

FULL = insgd.Full(refresh_every=5, rows=16)
KERNEL = {"w": jnp.ones((3, 3, 4, 8))}


def _convolution(params: Any, x: Any) -> jax.Array:
    dims = ("NHWC", "HWIO", "NHWC")
    return jnp.mean(
        jnp.asarray(
            jax.lax.conv_general_dilated(x, params["w"], (2, 2), "SAME", dimension_numbers=dims)
        )
    )


def _dense(params: Any, x: Any) -> jax.Array:
    return jnp.mean(x @ params["w"])


def _twice(params: Any, x: Any) -> jax.Array:
    return jnp.mean(jnp.tanh(x @ params["w"]) @ params["w"])


def _recurrent(params: Any, x: Any) -> jax.Array:
    carry, _ = jax.lax.scan(lambda h, _: (jnp.tanh(h @ params["w"]), None), x, length=7)
    return jnp.mean(carry)


def _stacked(params: Any, x: Any) -> jax.Array:
    carry, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])
    return jnp.mean(carry)


@pytest.mark.parametrize(
    ("loss_fn", "params", "shape", "rows"),
    [
        (_dense, {"w": jnp.ones((5, 3))}, (8, 5), 8),
        (_dense, {"w": jnp.ones((5, 3))}, (8, 6, 5), 48),
        (_convolution, KERNEL, (2, 6, 6, 4), 2 * 3 * 3),
        (_twice, {"w": jnp.ones((5, 5))}, (8, 5), 16),
        (_recurrent, {"w": jnp.ones((5, 5))}, (8, 5), 56),
        (_stacked, {"w": jnp.ones((7, 5, 5))}, (8, 5), 8),
    ],
    ids=["dense", "positions", "convolution", "shared", "recurrent", "stacked"],
)
def test_the_rows_are_those_that_the_capture_counts(loss_fn, params, shape, rows):
    x = inputs(0, shape, "float64")
    (row,) = insgd.explain(loss_fn, params, x).rows
    _, _, stats = insgd.value_and_grad(loss_fn)(params, x)
    assert row.rows == rows
    np.testing.assert_array_equal(stats["w"].count, np.full(row.layout.groups, rows))


def test_the_announced_cost_is_the_work_by_hand():
    report = insgd.explain(_dense, {"w": jnp.ones((50, 20))}, jnp.ones((64, 50)), structure=FULL)
    own = 3 * 64 * 50 * 20
    by_hand = 16 * 50**2 + 7 / 3 * 50**3 / 5 + 5 * 50**2 * 20 + 1.4e6
    assert report.cost == pytest.approx(by_hand / own)
    assert f"{by_hand / own:.1%}" in str(report)


def test_the_announced_cost_of_a_few_directions_is_the_work_by_hand():
    structure = insgd.LowRank(rank=4, rows=16)
    report = insgd.explain(
        _dense, {"w": jnp.ones((50, 20))}, jnp.ones((64, 50)), structure=structure
    )
    sketched, factored = 2 * 16 * 50 * 4, 3 * 50 * 4**2 + 8 * 50 * 5
    applied = 50 * 20 * (2 * 4 * 8 + 5 * 8)
    assert report.cost == pytest.approx((sketched + factored + applied) / (3 * 64 * 50 * 20))


def test_a_lookup_costs_no_matrix_product():
    def loss_fn(params: Any, ids: Any) -> jax.Array:
        return jnp.mean(params["w"][ids])

    params = {"w": jnp.ones((10_000, 16))}
    assert insgd.explain(loss_fn, params, jnp.arange(32)).cost < 0.2


def _two_layers(params: Any, x: Any) -> jax.Array:
    return jnp.mean(jnp.sin(jnp.tanh(x @ params["wide"]) @ params["narrow"]))


PARAMS = {"narrow": normal(0, (6, 64), "float64"), "wide": normal(1, (64, 6), "float64")}


def _chosen(rows: int = 32) -> tuple[insgd.Structure, insgd.Explanation]:
    report = insgd.explain(_two_layers, PARAMS, jnp.ones((rows, 64)))
    return report.within_budget(42.0, FULL, insgd.Scalar()), report


def _update(structure: Any, x: Any, layouts: Any) -> Any:
    _, grads, stats = insgd.value_and_grad(_two_layers, structure=structure)(PARAMS, x)
    tx = insgd.scale_by_input(structure, layouts=layouts)
    return tx.update(grads, tx.init(PARAMS), PARAMS, input_stats=stats)[0]


def test_the_richest_structure_within_the_budget_is_taken_layer_by_layer():
    structure, _ = _chosen()
    report = insgd.explain(_two_layers, PARAMS, jnp.ones((32, 64)), structure=structure)
    assert [row.structure for row in report.rows] == [FULL, insgd.Scalar()]
    assert report.rows[0].cost <= 42


@pytest.mark.parametrize("rows", [1, 32, 500])
def test_every_layer_is_normalized_as_its_structure_alone_does_for_any_batch(rows):
    structure, report = _chosen()
    x = inputs(2, (rows, 64), "float64")
    mixed = _update(structure, x, report.layouts)
    for path, alone in {"narrow": FULL, "wide": insgd.Scalar()}.items():
        expected = _update(alone, x, report.layouts)[path]
        np.testing.assert_allclose(mixed[path], expected, rtol=1e-10)


def test_a_budget_of_nothing_takes_the_cheapest_and_one_without_end_the_richest():
    report = _chosen()[1]
    kinds = {0.0: insgd.Scalar(), 1e9: FULL}
    for fraction, kind in kinds.items():
        structure = report.within_budget(fraction, FULL, insgd.Scalar())
        assert {structure.for_layer(layout) for layout in report.layouts.values()} == {kind}


def test_a_layer_that_cannot_have_the_richest_gets_the_next():
    report = _chosen()[1]
    small = insgd.Full(max_inputs=10)
    structure = report.within_budget(1e9, small, insgd.MeanVariance(), insgd.Scalar())
    assert structure.for_layer(report.layouts["wide"]) == insgd.MeanVariance()


@pytest.mark.parametrize(
    ("fraction", "candidates", "words"),
    [
        (0.1, (), "richest first"),
        (-0.1, (FULL,), "fraction must be at least 0"),
    ],
)
def test_a_budget_that_makes_no_sense_is_an_error(fraction, candidates, words):
    with pytest.raises(ValueError, match=words):
        _chosen()[1].within_budget(fraction, *candidates)


def test_structures_that_are_refreshed_at_different_times_are_an_error():
    layouts = list(_chosen()[1].layouts.values())
    with pytest.raises(ValueError, match="different refresh_every"):
        insgd.PerLayer(((layouts[0], FULL), (layouts[1], insgd.Full(refresh_every=7))))


@pytest.mark.usefixtures("without_type_checks")
def test_a_candidate_that_is_no_structure_is_an_error():
    with pytest.raises(TypeError, match="must be a structure"):
        _chosen()[1].within_budget(0.1, insgd.Full, insgd.Diagonal())


def test_a_weight_that_is_used_several_times_is_announced_with_the_rows_of_all_uses():
    params, x = {"w": jnp.ones((5, 5))}, jnp.ones((64, 5))
    _, _, stats = insgd.value_and_grad(_recurrent, structure=FULL)(params, x)
    (row,) = insgd.explain(_recurrent, params, x, structure=FULL).rows
    assert row.uses == 7 and float(stats["w"].count[0]) == 7 * 16
    once = dataclasses.replace(row, uses=1)
    assert row.cost * row.work - once.cost * once.work == pytest.approx(6 * 16 * 5**2)


def test_without_layouts_a_usual_kernel_has_room_and_for_another_an_error_asks_for_them():
    structure, report = _chosen()
    x = inputs(2, (32, 64), "float64")
    alone, told = _update(structure, x, None), _update(structure, x, report.layouts)
    np.testing.assert_array_equal(alone["narrow"], told["narrow"])

    def turned(params: Any, x: Any) -> jax.Array:
        return jnp.mean(jnp.sin(x @ params["w"].T))

    params, x = {"w": jnp.ones((64, 6))}, jnp.ones((32, 6))
    structure = insgd.explain(turned, params, x).within_budget(1e9, FULL, insgd.Scalar())
    _, grads, stats = insgd.value_and_grad(turned, structure=structure)(params, x)
    tx = insgd.scale_by_input(structure)
    with pytest.raises(ValueError, match="layouts=layouts"):
        tx.update(grads, tx.init(params), params, input_stats=stats)
