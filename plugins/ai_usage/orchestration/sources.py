"""
Which connections a provider has.

Airflow's Task SDK can look a connection up but not list them, so a source is found by one of three names: the
provider's well-known ``<provider>_default``; an entry in the Airflow Variable ``ai_usage_connections``; or an
environment variable ``AIRFLOW_CONN_AI_USAGE__<PROVIDER>__<NAME>``.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

from ai_usage.core.contract import Provider
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.orchestration.clients import ask_airflow_itself, find_connection

VARIABLE = "ai_usage_connections"
_EXAMPLE = '{"aws_bedrock": ["aws_bedrock_prod", "aws_bedrock_dev"]}'


def discover(provider: Provider) -> list[str]:
    """
    Return the ids of the provider's connections: the well-known one, those of the Variable, those of the environment.

    An empty list means that the provider is not connected, which is not an error. A listed connection need not exist:
    that is found out, and said, when it is opened.

    :raises ConfigurationInvalid: if the Variable is not what it should be.
    :raises SourceUnavailable: if Airflow itself does not answer.
    """
    well_known = f"{provider.name}_default"
    found = [well_known] if find_connection(well_known) is not None else []
    found += _from_variable(provider.name)
    found += _from_environment(provider.name)
    return list(dict.fromkeys(found))


def next_run(schedule: str, after: datetime) -> datetime:
    """Return when a cron schedule in UTC is due next."""
    from croniter import croniter  # type: ignore[import-untyped]

    due: datetime = croniter(schedule, after).get_next(datetime)
    return due


def _from_variable(provider_name: str) -> list[str]:
    """Return the connection ids that the Variable lists for the provider."""
    listed = _variable()
    ids = listed.get(provider_name, []) if isinstance(listed, dict) else None
    if not isinstance(ids, list) or not all(isinstance(one, str) and one.strip() for one in ids):
        raise ConfigurationInvalid(
            f"The Airflow Variable {VARIABLE} is not a JSON object that lists connection ids under provider names.",
            action=f"Correct it (Admin, Variables), for example: {_EXAMPLE}",
        )
    return [one.strip() for one in ids]


def _variable() -> Any:
    """Return the Variable's JSON; ``{}`` if there is none, ``None`` if it is no JSON."""
    from airflow.sdk import Variable
    from airflow.sdk.execution_time.comms import GetVariable

    text = Variable.get(VARIABLE, default=None)
    if text is None:
        ask_airflow_itself(GetVariable(key=VARIABLE))
        return {}
    try:
        return json.loads(text) if text.strip() else {}
    except ValueError:
        return None


def _from_environment(provider_name: str) -> list[str]:
    """Return the connection ids that the environment defines for the provider, by name."""
    prefix = f"AIRFLOW_CONN_AI_USAGE__{provider_name.upper()}__"
    return sorted(
        name.removeprefix("AIRFLOW_CONN_").lower()
        for name, value in os.environ.items()
        if name.startswith(prefix) and len(name) > len(prefix) and value.strip()
    )
