"""Compat: isolates the differences between JAX versions in program equations and their names."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import jax
from jax import Array
from jax.core import Tracer
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

__all__ = ["ClosedJaxpr", "Jaxpr", "JaxprEqn", "Literal", "jaxpr_as_fun"]

# JAX has renamed these primitives over time (`pjit` to `jit`, `checkpoint` to `remat2`).
JIT = frozenset({"jit", "pjit"})
REMAT = frozenset({"checkpoint", "remat", "remat2", "remat3"})
CUSTOM_RULE = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
CALL = frozenset({"closed_call", "core_call"})
SHARD_MAP = frozenset({"shard_map"})

# For `jax.jit(..., inline=EARLY)`, which inlines already in the program that JAX traces. True did
# the same before JAX 0.12.
_Inline = getattr(jax, "Inline", None)
EARLY: Any = _Inline.JAX_EARLY if _Inline else True


def as_closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def called_program(equation: JaxprEqn) -> ClosedJaxpr:
    """The program that a call-like equation runs once on its operands."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in equation.params:
            return as_closed(equation.params[name])
    raise TypeError(f"{equation.primitive.name} does not call a program")


def is_call(equation: JaxprEqn) -> bool:
    return equation.primitive.name in JIT | REMAT | CUSTOM_RULE | CALL


def name_of_call(equation: JaxprEqn) -> str | None:
    """The name of the function that a ``jit`` equation calls; None for other equations."""
    return equation.params.get("name") if equation.primitive.name in JIT else None


def is_shard_map(equation: JaxprEqn) -> bool:
    return equation.primitive.name in SHARD_MAP


def mesh_axes(equation: JaxprEqn) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The mesh axes that each operand and each result of a ``shard_map`` is split over."""
    params = equation.params
    operands, results = (list(map(_axes_of, params[name])) for name in ("in_specs", "out_specs"))
    return operands, results


def manual_axes(equation: JaxprEqn) -> frozenset[str]:
    """The mesh axes that a ``shard_map`` makes manual."""
    names = ("newly_manual_axes", "manual_axes")  # JAX 0.9 and newer, then older
    return next(equation.params[name] for name in names if name in equation.params)


def _axes_of(spec: Any) -> tuple[str, ...]:
    parts = [part if isinstance(part, tuple) else (part,) for part in spec if part is not None]
    return tuple(axis for part in parts for axis in part)


def shard_map_like(equation: JaxprEqn, function: Callable[..., Any]) -> Callable[..., Any]:
    """``jax.shard_map`` of a function over the mesh of an equation.

    The function takes a replicated value before the equation's operands. It returns the list of the
    equation's results and a replicated value.
    """
    params = equation.params
    return jax.shard_map(
        function,
        mesh=params["mesh"],
        in_specs=(jax.sharding.PartitionSpec(), *params["in_specs"]),
        out_specs=(list(params["out_specs"]), jax.sharding.PartitionSpec()),
        axis_names=set(manual_axes(equation)),
        check_vma=params["check_vma"],
    )


def scan_sizes(equation: JaxprEqn) -> tuple[int, int]:
    """The numbers of constants and of carries, the first two parts of a scan's operands."""
    if "ft_in" in equation.params:  # JAX 0.11 and newer: a tree of constants, carries and xs
        constants, carries, _ = equation.params["ft_in"].unpack()
        return len(constants), len(carries)
    return equation.params["num_consts"], equation.params["num_carry"]


def is_literal(atom: Any) -> bool:
    return isinstance(atom, Literal)


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or a literal of a program."""
    return getattr(atom.aval, "shape", ())


def dtype_of(atom: Any) -> Any:
    """The dtype of a variable or a literal of a program."""
    return getattr(atom.aval, "dtype", None)


def evaluate(program: Jaxpr, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of a program's equation, in the name stack and context of its trace."""
    pairs = zip(equation.invars, operands, strict=True)
    values = {atom: operand for atom, operand in pairs if not is_literal(atom)}
    return list(evaluate_all(program, [equation], values).values())


def evaluate_all(
    program: Jaxpr, equations: Sequence[JaxprEqn], values: Mapping[Any, Any]
) -> dict[Any, Any]:
    """The results of some of a program's equations at these values, by variable.

    They run as a program. JAX changes how primitives are bound more often than how programs run.
    """
    part = part_of(program, equations)
    results = jaxpr_as_fun(part)(*(values[variable] for variable in part.jaxpr.invars))
    return dict(zip(part.jaxpr.outvars, results, strict=True))


def part_of(program: Jaxpr, equations: Sequence[JaxprEqn]) -> ClosedJaxpr:
    """Some of a program's equations, as a program that maps all they read to all they compute."""
    made = dict.fromkeys(variable for equation in equations for variable in equation.outvars)
    atoms = [atom for equation in equations for atom in equation.invars if not is_literal(atom)]
    part = program.replace(
        constvars=[],
        invars=list(dict.fromkeys(atom for atom in atoms if atom not in made)),
        outvars=list(made),
        eqns=list(equations),
        effects=frozenset().union(*(equation.effects for equation in equations)),
        debug_info=program.debug_info._replace(arg_names=None, result_paths=None),
    )
    return ClosedJaxpr(part, ())


def branches_of_platforms(
    choice: JaxprEqn, branches: Sequence[Callable[..., Any]]
) -> dict[str, Callable[..., Any]]:
    """The branches of ``jax.lax.platform_dependent`` by platform; empty for other conditionals."""
    found = {}
    platforms = choice.params.get("branches_platforms") or [()] * len(branches)
    for names, branch in zip(platforms, branches, strict=True):
        found |= dict.fromkeys(("default",) if names is None else names, branch)
    return found


def jit_like(equation: JaxprEqn, function: Callable[..., Any]) -> Callable[..., Any]:
    """``jax.jit`` of a function with the name and the shardings of a ``jit`` equation.

    The function returns the list of the equation's results and another value.
    """
    function.__name__ = equation.params.get("name", "jit")
    before = tuple(map(_specified, equation.params.get("in_shardings", ())))
    after = list(map(_specified, equation.params.get("out_shardings", ())))
    options: dict[str, Any] = {}
    if any(sharding is not None for sharding in before):
        options["in_shardings"] = before
    if any(sharding is not None for sharding in after):
        options["out_shardings"] = (after, None)
    return jax.jit(function, **options)


def _specified(sharding: Any) -> Any:
    return None if type(sharding).__name__ == "UnspecifiedValue" else sharding


def varying_axes(array: Any) -> frozenset[str]:
    """The mesh axes that an array, or the shape of one, varies over inside ``shard_map``.

    They are part of its type. The set is empty elsewhere, under ``check_vma=False`` and under
    ``jax.pmap``.
    """
    typed = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
    for name in ("mat", "manual_axis_type"):  # JAX 0.10 and newer, for an array and for a shape
        if (manual := getattr(typed, name, None)) is not None:
            return manual.varying
    return getattr(typed, "vma", None) or frozenset()


def varying_over(array: Array, axes: Collection[str]) -> Array:
    """The array, marked as also varying over these mesh axes of ``shard_map``."""
    missing = tuple(sorted(set(axes) - varying_axes(array)))
    if not missing:
        return array
    if (pcast := getattr(jax.lax, "pcast", None)) is not None:  # newer than JAX 0.8
        return pcast(array, missing, to="varying")
    return getattr(jax.lax, "pvary")(array, missing)  # noqa: B009 (removed in newer versions)


def context_of(equation: JaxprEqn) -> AbstractContextManager[Any]:
    """The context that an equation was traced in. Inside ``auto_axes`` the mesh is different."""
    return equation.ctx.manager


@contextmanager
def place_of(equation: JaxprEqn) -> Iterator[None]:
    """Restores the context, the name scope and the user's line of an equation's trace."""
    source = equation.source_info
    scope = source_info_util.current_name_stack() + source.name_stack
    line = source_info_util.user_context(source.traceback, name_stack=scope)
    with line, context_of(equation):
        yield


def without_place(equation: JaxprEqn) -> JaxprEqn:
    """The equation without its name scope and its line."""
    return equation.replace(source_info=source_info_util.new_source_info())


def is_staged() -> bool:
    """Whether operations are traced into a program here (``jit``), instead of run one by one.

    An operation without operands tells, because ``vmap`` or ``grad`` alone still run it.
    """
    return isinstance(jax.lax.iota("int32", 1), Tracer)


def stack_of(equation: JaxprEqn) -> tuple[Any, ...]:
    """The origin of an equation in the user's code: its file and line, and its callers."""
    traceback = equation.source_info.traceback
    line = re.match(r"(.+?):(\d+)", source_info_util.summarize(equation.source_info))
    if not line or not traceback:
        return ()
    codes, positions = traceback.raw_frames()
    calls = [code.co_filename for code in codes].index(line[1]) + 1
    return line.groups(), codes[calls:], positions[calls:]
