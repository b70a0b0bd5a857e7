"""Prints the oldest versions that `pyproject.toml` allows, as constraints for pip."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
floors = [*project["dependencies"], *extras["flax"], *extras["equinox"]]
pins = [each.replace(">=", "==") for each in floors]
jax = next(pin for pin in pins if pin.startswith("jax=="))
print("\n".join([*pins, jax.replace("jax", "jaxlib")]))
