"""From the id of an Airflow connection to the connection that a provider reads with."""

from __future__ import annotations

import os
from typing import Any

from ai_usage.core.contract import Connection, Journal, Memory, Provider
from ai_usage.core.errors import ConfigurationInvalid, SourceUnavailable
from ai_usage.orchestration.client_kinds import open_client


def open_connection(provider: Provider, connection_id: str, memory: Memory) -> Connection:
    """
    Return the connection with a client that is ready to use. Nothing is asked of the provider yet.

    Works in a task and in a plain process whose connections come from ``AIRFLOW_CONN_*``.

    :raises ConfigurationInvalid: if there is no such connection, or it is not one of the provider's. A missing
        connection never falls back to credentials that happen to lie around on the machine.
    :raises SourceUnavailable: if Airflow itself does not answer.
    """
    found = find_connection(connection_id)
    if found is None:
        raise ConfigurationInvalid(
            "There is no such connection.",
            action=f"Add it in Airflow (Admin, Connections) or as {_environment_name(connection_id)}.",
            connection_id=connection_id,
        )
    if found.conn_type != provider.connection_type:
        raise ConfigurationInvalid(
            f"It is a connection of type {str(found.conn_type or 'unknown')!r}, {provider.label} needs "
            f"{provider.connection_type!r}.",
            action="Correct its type, or name another connection.",
            connection_id=connection_id,
        )
    opened = open_client(provider, found)
    journal = opened.journal or Journal()
    return Connection(connection_id, dict(opened.options), opened.client, journal=journal, memory=memory)


def find_connection(connection_id: str) -> Any | None:
    """
    Return the Airflow connection, or ``None`` if there is none.

    Airflow's own look-up says "not defined" also when its API server does not answer, and when the value of an
    environment variable cannot be read. Both must not pass for "not connected".
    """
    from airflow.sdk import Connection as AirflowConnection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return AirflowConnection.get(connection_id)
    except AirflowNotFoundException:
        is_missing = True
    except PermissionError:
        is_missing = False
    if not is_missing:
        raise ConfigurationInvalid(
            "Airflow does not let this task read the connection.",
            action="Check who may use it (team, secrets backend).",
            connection_id=connection_id,
        )
    if os.environ.get(_environment_name(connection_id)):
        raise ConfigurationInvalid(
            f"{_environment_name(connection_id)} is set, but is neither a connection in JSON nor one in URI form.",
            action="Correct it; bin/airflow connections get shows how Airflow reads it.",
            connection_id=connection_id,
        )
    from airflow.sdk.execution_time.comms import GetConnection

    ask_airflow_itself(GetConnection(conn_id=connection_id), connection_id)
    return None


def ask_airflow_itself(question: Any, connection_id: str | None = None) -> None:
    """
    Make sure that what Airflow did not find is really not there.

    :param question: a message of the Task SDK to the supervisor of this task.
    :raises SourceUnavailable: if the API server did not answer it. Outside of tasks there is nobody to ask.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse

    supervisor = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if supervisor is None:
        return
    try:
        answer = supervisor.send(question)
    except AirflowRuntimeError as error:
        answer = error.error
    except OSError:
        answer = ErrorResponse()
    if isinstance(answer, ErrorResponse) and answer.error not in {
        ErrorType.CONNECTION_NOT_FOUND,
        ErrorType.VARIABLE_NOT_FOUND,
    }:
        raise SourceUnavailable(
            f"Airflow's API server did not answer ({answer.error.value}).",
            action="Nothing to do at once: the task tries again. If it stays, look at the API server.",
            connection_id=connection_id,
        )


def _environment_name(connection_id: str) -> str:
    return f"AIRFLOW_CONN_{connection_id.upper()}"
