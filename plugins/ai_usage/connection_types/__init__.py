"""
The forms of the connection types that are ours, one data-only module each, called like its provider.

A module holds ``CONNECTION_TYPE``, an entry for ``connection-types`` in Airflow's description of a provider package,
without its hook class, which follows from the name. Airflow reads all of this while it is itself being imported: so
nothing here may import Airflow, nor anything that does or that takes time.
"""

from __future__ import annotations

import pkgutil
from copy import deepcopy
from importlib import import_module
from typing import Any

HOOKS = "ai_usage.orchestration.hooks"


def names() -> list[str]:
    """Return the names of the providers that have a connection type of their own."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> dict[str, Any]:
    """Return one connection type as Airflow wants it."""
    declared: dict[str, Any] = import_module(f"{__name__}.{name}").CONNECTION_TYPE
    # A copy, because Airflow writes into what it is given.
    return deepcopy(declared) | {"hook-class-name": f"{HOOKS}.{hook_class(name)}"}


def hook_class(name: str) -> str:
    """Return the name of a provider's hook class: ``OpenaiHook``."""
    return "".join(word.title() for word in name.split("_")) + "Hook"
