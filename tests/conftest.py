"""Settings that hold for every test: 64-bit numbers, eight devices, no silent promotion."""

import os
from collections.abc import Callable, Iterator

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: left out of `make test`; ARGS='-m long' runs it")
    config.addinivalue_line(
        "markers", "framework: runs code of a framework, which need not stand strict promotion"
    )


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
