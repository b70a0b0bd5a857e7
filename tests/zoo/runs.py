"""The zoo built and captured, each once per process however many tests look at it."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import insgd_optax as insgd
from reference import Power
from zoo.case import CASES, Case, Entry

Statistics = Mapping[str, insgd.InputMoments | None]


def each_case(dtype: str, *also: str, framework: bool = True) -> pytest.MarkDecorator:
    """Runs a test for every case in a dtype, or in the one that the case has instead.

    Cases without a framework run in the other dtypes as well: a framework's layers are made of the
    same equations, and compiling them is most of the time here.

    Tests of one case run in one process (`--dist loadgroup`), where they share what is computed.
    """
    return pytest.mark.parametrize(
        ("name", "dtype"),
        [
            pytest.param(entry.name, each, id=f"{entry.name}-{each}", marks=_marks(entry))
            for entry in CASES.values()
            for each in _dtypes(entry, dtype, also)
            if framework or not entry.framework
        ],
    )


def _dtypes(entry: Entry, dtype: str, also: Sequence[str]) -> list[str]:
    first = dtype if dtype in entry.dtypes else entry.dtypes[0]
    more = [] if entry.framework else [each for each in also if each in entry.dtypes]
    return list(dict.fromkeys([first, *more]))


def _marks(entry: Entry) -> list[pytest.MarkDecorator]:
    together = pytest.mark.xdist_group(entry.name)
    return [together, pytest.mark.framework] if entry.framework else [together]


@functools.cache
def built(name: str, dtype: str) -> Case:
    return CASES[name].build(jnp.dtype(dtype))


@functools.cache
def expected(name: str, dtype: str) -> Mapping[str, Power]:
    case = built(name, dtype)
    return case.expected(case.params, *case.args)


def capturing(case: Case, structure: insgd.Structure) -> Callable[..., Any]:
    """`insgd_optax.value_and_grad` of a case's loss."""
    return insgd.value_and_grad(case.loss, batch_argnums=case.batch_argnums, structure=structure)


@functools.cache
def diagonal(name: str, dtype: str) -> Statistics:
    case = built(name, dtype)
    return _statistics(name, dtype)(case.params, *case.args)[0]


@functools.cache
def scalar(name: str, dtype: str) -> Statistics:
    case = built(name, dtype)
    return _statistics(name, dtype)(case.params, *case.args)[1]


def of_halves(name: str, dtype: str) -> Iterator[tuple[Statistics, Statistics]]:
    """Diagonal and scalar statistics of the first, then of the second half of the examples."""
    case = built(name, dtype)
    for args in zip(*(_halves(case, place) for place in range(len(case.args))), strict=True):
        yield _statistics(name, dtype)(case.params, *args)


@functools.cache
def _statistics(name: str, dtype: str) -> Callable[..., tuple[Statistics, Statistics]]:
    """Both structures in one program, compiled in a hurry: compiling is most of the time here."""
    case = built(name, dtype)
    functions = [capturing(case, structure) for structure in (insgd.Diagonal(), insgd.Scalar())]
    return jax.jit(
        lambda params, *args: tuple(f(params, *args)[2] for f in functions),
        compiler_options={"xla_backend_optimization_level": 0},
    )


def _halves(case: Case, place: int) -> list[Any]:
    """An argument's examples in two parts; what is no batch of data stays whole."""
    argument = case.args[place]
    if case.batch_argnums is not None and place + 1 not in case.batch_argnums:
        return [argument, argument]

    def half(leaf: Any, which: int) -> Any:
        return jnp.split(leaf, 2, case.batch_axis)[which] if jnp.ndim(leaf) else leaf

    return [jax.tree.map(functools.partial(half, which=which), argument) for which in range(2)]
