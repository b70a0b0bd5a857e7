"""The machine and the package versions of a measurement."""

import os
import platform
from importlib import metadata

import jax


def machine() -> dict[str, str | int]:
    """A description to store with every number."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax", "flax")}
    # The cores that this process may use where the system tells: taskset can leave it fewer.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": jax.devices()[0].device_kind,
        "cores": usable or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }
