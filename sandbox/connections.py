"""The Airflow connections and the Variable with which the product reads the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.contract import Simulator

VARIABLE = "ai_usage_connections"
"""The Airflow Variable that names the connections beside each provider's ``<provider>_default``."""

Connection = dict[str, Any]


def connections(base_url: str, simulators: Mapping[str, Simulator]) -> list[Connection]:
    """
    Return every simulator's connections.

    :param base_url: the main server's address, without a slash at its end.
    :returns: ``connection_id``, ``conn_type``, ``login``, ``password``, ``extra`` (an object), ``description``, and the
        ``provider`` it belongs to.
    """
    return [
        {"provider": name} | connection
        for name, simulator in simulators.items()
        for connection in simulator.connections(f"{base_url}/{name}")
    ]


def variable(connections: Iterable[Connection]) -> dict[str, list[str]]:
    """Return the Variable's value: provider → the connections that are not its default one."""
    named: dict[str, list[str]] = {}
    for connection in connections:
        if connection["connection_id"] != f"{connection['provider']}_default":
            named.setdefault(connection["provider"], []).append(connection["connection_id"])
    return named


def environment(connections: Iterable[Connection]) -> dict[str, str]:
    """Return the same as environment variables that Airflow reads."""
    connections = list(connections)
    lines = {
        f"AIRFLOW_CONN_{connection['connection_id'].upper()}": json.dumps(
            {name: value for name, value in connection.items() if name not in ("provider", "connection_id")}
        )
        for connection in connections
    }
    return lines | {f"AIRFLOW_VAR_{VARIABLE.upper()}": json.dumps(variable(connections))}
