"""The providers, one module each. A module is found by its name alone; nothing lists them."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from ai_usage.core.contract import Provider
from ai_usage.core.errors import ConfigurationInvalid


def names() -> list[str]:
    """Return the names of all providers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> Provider:
    """Return the provider of that name; the module keeps it as ``PROVIDER``."""
    if name not in names():
        raise ConfigurationInvalid(
            f"There is no provider named {name!r}.", action=f"The providers are: {', '.join(names())}."
        )
    provider: Provider = import_module(f"{__name__}.{name}").PROVIDER
    return provider


def load_all() -> list[Provider]:
    """Return every provider, by name."""
    return [load(name) for name in names()]
