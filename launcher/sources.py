"""Whether any provider is connected, and the sandbox for those who have no key to begin with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from launcher import ports
from launcher.airflow_api import AirflowApi

VARIABLE = "ai_usage_connections"
_VARIABLE_NOTE = "Connections beside each provider's <provider>_default, as JSON: provider → list of connection ids."
_SANDBOX_MARK = "AI usage sandbox"
_LOOPBACK_ADDRESS = re.compile(r"127\.0\.0\.1:\d+")


@dataclass(frozen=True)
class Sources:
    """The provider connections that Airflow knows."""

    real: list[str]
    sandbox: list[str]


def find_sources(api: AirflowApi, providers: list[str], environment: Mapping[str, str]) -> Sources:
    """Tell real connections from the sandbox's; a connection counts when a provider DAG would read it."""
    stored = {str(one["connection_id"]): one for one in api.connections()}
    named = [f"{provider}_default" for provider in providers if f"{provider}_default" in stored]
    named += [f"{provider}_default" for provider in providers if _from_environment(f"{provider}_default", environment)]
    named += _listed(environment.get(f"AIRFLOW_VAR_{VARIABLE.upper()}") or api.variable(VARIABLE))
    named += sorted(
        name.removeprefix("AIRFLOW_CONN_").lower()
        for name, value in environment.items()
        if name.startswith("AIRFLOW_CONN_AI_USAGE__") and value.strip()
    )
    # Added with the mark but not listed: taken out of the Variable by hand, and not to be put back as if unknown.
    sandbox = [identity for identity, one in stored.items() if _is_sandbox(one)]
    real = [
        identity
        for identity in dict.fromkeys(named)
        if identity not in sandbox or _from_environment(identity, environment)
    ]
    return Sources(real, sandbox)


def sandbox_answers(port: int) -> bool:
    """Whether the sandbox is up."""
    try:
        return bool(_sandbox(port, "/_health").get("ok"))
    except requests.RequestException:
        return False


def connect_sandbox(api: AirflowApi, port: int) -> list[str]:
    """Add the sandbox's connections to Airflow, or correct their addresses; return the ids of all of them."""
    offer = _sandbox(port, "/_connections")
    stored = {str(one["connection_id"]): one for one in api.connections()}
    for wanted in offer["connections"]:
        connection = {name: value for name, value in wanted.items() if name != "provider"}
        connection["extra"] = json.dumps(connection.get("extra", {}))
        present = stored.get(connection["connection_id"])
        moved = present is not None and _is_sandbox(present) and _addresses(present) != _addresses(connection)
        if present is None or (moved and present.get("login") == connection.get("login")):
            api.put_connection(connection, exists=present is not None)
    _merge_variable(api, offer["variable"])
    return [str(one["connection_id"]) for one in offer["connections"]]


def _merge_variable(api: AirflowApi, wanted: dict[str, list[str]]) -> None:
    text = api.variable(VARIABLE)
    try:
        present = json.loads(text or "{}")
    except ValueError:
        # The provider DAGs say what is wrong with it; overwriting it would destroy what somebody meant.
        return
    merged = dict(present)
    for provider, ids in wanted.items():
        merged[provider] = list(dict.fromkeys([*merged.get(provider, []), *ids]))
    if merged != present:
        api.put_variable(VARIABLE, json.dumps(merged), _VARIABLE_NOTE, exists=text is not None)


def _listed(text: str | None) -> list[str]:
    try:
        content = json.loads(text or "{}")
    except ValueError:
        return []
    if not isinstance(content, dict):
        return []
    return [str(identity) for ids in content.values() if isinstance(ids, list) for identity in ids]


def _from_environment(identity: str, environment: Mapping[str, str]) -> bool:
    return bool(environment.get(f"AIRFLOW_CONN_{identity.upper()}", "").strip())


def _is_sandbox(connection: Mapping[str, Any]) -> bool:
    # Somebody may have put a real account into it and left the description: what points elsewhere is not ours to touch.
    return str(connection.get("description") or "").startswith(_SANDBOX_MARK) and bool(_addresses(connection))


def _addresses(connection: Mapping[str, Any]) -> set[str]:
    return set(_LOOPBACK_ADDRESS.findall(json.dumps(connection)))


def _sandbox(port: int, path: str) -> Any:
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://{ports.LOOPBACK}:{port}{path}", timeout=10)
        answer.raise_for_status()
        return answer.json()
