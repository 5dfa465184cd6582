"""The simulators, one module each. A module is found by its name alone; names with a leading underscore are helpers."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from sandbox.contract import Simulator


def names() -> list[str]:
    """Return the names of all simulators, which are their providers' names."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> type[Simulator]:
    """Return a simulator's class; its module keeps it as ``SIMULATOR``."""
    simulator: type[Simulator] = import_module(f"{__name__}.{name}").SIMULATOR
    return simulator
