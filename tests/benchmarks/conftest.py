"""What tests of benchmarks have in common."""

from collections.abc import Iterator

import jax
import pytest

from benchmarks.robustness.workloads import workload
from benchmarks.suite.workloads import task


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """In 32 bits, and no array of the test is kept."""
    with jax.enable_x64(False):
        yield
    workload.cache_clear()
    task.cache_clear()
