"""
The kinds of clients: one module per kind, each with ``open_client(provider, found)``.

It is handed the provider and the Airflow connection, and returns the settings without secrets and the client that holds
the credential. Nothing lists the kinds: :attr:`~ai_usage.core.contract.Provider.client_kind` is the module's name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ai_usage.core.contract import Provider
from ai_usage.orchestration.settings import Opened


def open_client(provider: Provider, found: Any) -> Opened:
    """Return what the provider's kind of client makes of an Airflow connection."""
    opened: Opened = import_module(f"{__name__}.{provider.client_kind}").open_client(provider, found)
    return opened
