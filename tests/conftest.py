"""Settings that hold for every test: 64-bit numbers, eight devices, no silent promotion."""

import functools
import gc
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

# Most of the time goes into compiling thousands of small programs. None is worth optimizing:
# without these passes one compiles in half the time (newer ones do not know the last). Each is
# saved, so that the other worker and the next run need not compile it again.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"
    + (
        " --xla_cpu_use_fusion_emitters=false"
        if version("jax").startswith(("0.8.", "0.9.", "0.10."))
        else ""
    ),
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# The threads of two workers wait for each other busily: eigenvalues of 288 rows took 300 times
# as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jaxtyping
import pytest
from jax._src.interpreters import mlir

jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64", "1") == "1")
# JAX keeps its traces and compiled programs. Searching them for garbage as often as Python does by
# default slows the tests down by about a tenth.
gc.set_threshold(100_000, 50, 100)
# To make a context of MLIR takes a quarter of the time of a small program, and one does for all.
if make_context := getattr(mlir, "make_ir_context", None):
    mlir.make_ir_context = functools.cache(make_context)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: left out of `make test`; `make test-all` runs it")
    config.addinivalue_line(
        "markers", "framework: runs code of a framework, which need not stand strict promotion"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the cases of a test as long, but for the first and the last."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for each in cases.values():
        for item in each[1:-1]:
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def no_silent_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Arrays of different rank or dtype may not meet, except inside frameworks' own layers."""
    if "framework" in request.keywords:
        yield
        return
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A function that gives a new PRNG key with every call, the same ones in every run."""
    keys = iter(range(1_000_000))
    return lambda: jax.random.key(next(keys))


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """Users run without beartype, which would speak before the library does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
