"""The zoo built and captured, each once per process however many tests look at it."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import insgd_optax as insgd
import jax
import jax.numpy as jnp
import pytest
from reference import Power

from zoo.case import CASES, Case

Result = tuple[Any, Any, Mapping[str, insgd.InputMoments | None]]


def each_case(*dtypes: str, framework: bool = True) -> pytest.MarkDecorator:
    """Runs a test for every case in each of the dtypes that the case has."""
    return pytest.mark.parametrize(
        ("name", "dtype"),
        [
            pytest.param(
                entry.name, dtype, id=f"{entry.name}-{dtype}",
                marks=[pytest.mark.framework] if entry.framework else [],
            )
            for entry in CASES.values()
            for dtype in dtypes
            if dtype in entry.dtypes and (framework or not entry.framework)
        ],
    )  # fmt: skip


@functools.cache
def built(name: str, dtype: str) -> Case:
    return CASES[name].build(jnp.dtype(dtype))


@functools.cache
def expected(name: str, dtype: str) -> Mapping[str, Power]:
    case = built(name, dtype)
    return case.expected(case.params, *case.args)


@functools.cache
def captured(name: str, dtype: str, structure: insgd.Structure, jit: bool = True) -> Result:
    case = built(name, dtype)
    return capturing(case, structure, jit)(case.params, *case.args)


@functools.cache
def capturing(case: Case, structure: insgd.Structure, jit: bool = True):
    """`insgd_optax.value_and_grad` of a case's loss."""
    function = insgd.value_and_grad(
        case.loss, batch_argnums=case.batch_argnums, structure=structure
    )
    return jax.jit(function) if jit else function


def seen_leaves(stats: Mapping[str, insgd.InputMoments | None]) -> dict[str, insgd.InputMoments]:
    return {path: moments for path, moments in stats.items() if moments is not None}


def halves(case: Case) -> Iterable[tuple[Any, ...]]:
    """The case's arguments with the first and with the second half of its examples."""
    axis = case.batch_axis
    data = range(len(case.args) + 1) if case.batch_argnums is None else case.batch_argnums

    def half(place: int, argument: Any, second: bool) -> Any:
        def cut(leaf: Any) -> Any:
            if place not in data or jnp.ndim(leaf) == 0:
                return leaf
            return jnp.split(leaf, 2, axis)[second]

        return jax.tree.map(cut, argument)

    for second in (False, True):
        yield tuple(half(place, arg, second) for place, arg in enumerate(case.args, start=1))
