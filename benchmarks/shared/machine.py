"""The machine and the versions that a measurement was made with."""

import os
import platform
from importlib import metadata

import jax


def machine() -> dict[str, str | int]:
    """What to write beside every number."""
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "optax", "flax")}
    # Where the system says so, the cores that this process may use: taskset leaves it fewer.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": jax.devices()[0].device_kind,
        "cores": usable or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }
