"""
Taking a source out of Airflow, wherever Airflow keeps it.

What stands in Airflow's own database is deleted here. What stands in the environment or in a secrets backend belongs to
whoever deploys; of that it is said exactly what to remove.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from ai_usage.core.errors import ConfigurationInvalid, SourceUnavailable
from ai_usage.orchestration.sources import VARIABLE


@dataclass
class Removal:
    """What was taken out, and what only a person can take out. Both are sentences."""

    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def remove_source(provider_name: str, connection_id: str, *, keep_connection: bool = False) -> Removal:
    """
    Take a connection out of Airflow's database, and out of the Variable that lists sources; both or neither.

    :param keep_connection: take it off the list only; other DAGs use the same connection.
    :raises SourceUnavailable: if Airflow's database does not answer. Nothing has changed then.
    :raises ConfigurationInvalid: if the Variable is not what it should be, or the list is not where the source comes from.
    """
    removal = Removal()
    if keep_connection and _is_found_by_name(provider_name, connection_id):
        raise ConfigurationInvalid(
            "It is a source because of its name, not because of a list.",
            action="Disconnect it without --keep-connection, or give it another id in Airflow.",
            connection_id=connection_id,
        )
    _remove_from_database(provider_name, connection_id, keep_connection, removal)
    _name_the_environment(provider_name, connection_id, keep_connection, removal)
    if not keep_connection:
        removal.left += [
            f"Remove the connection {connection_id} from the secrets backend {name}."
            for name in _backends(connection_id)
        ]
    return removal


def _is_found_by_name(provider_name: str, connection_id: str) -> bool:
    return connection_id == f"{provider_name}_default" or connection_id.startswith(f"ai_usage__{provider_name}__")


def _remove_from_database(provider_name: str, connection_id: str, keep_connection: bool, removal: Removal) -> None:
    from airflow.models import Connection, Variable
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_session() as session:
            stored = session.scalars(select(Variable).where(Variable.key == VARIABLE).with_for_update()).one_or_none()
            if stored is not None and (shorter := _without(stored.get_val(), provider_name, connection_id)) is not None:
                stored.set_val(shorter)
                removal.removed.append(f"The entry {connection_id} in the Airflow Variable {VARIABLE}.")
            found = session.scalars(select(Connection).where(Connection.conn_id == connection_id)).one_or_none()
            if found is not None and not keep_connection:
                session.delete(found)
                removal.removed.append(f"The connection {connection_id} in Airflow's database.")
    except SQLAlchemyError as error:
        # The text of the error may carry the statement's values.
        raise SourceUnavailable(
            f"Airflow's database did not take the change ({type(error).__name__}).",
            action="Nothing was changed. See that it is up and migrated, and try again.",
            connection_id=connection_id,
        ) from None


def _without(text: str | None, provider_name: str, connection_id: str) -> str | None:
    """Return the Variable's JSON without the connection; ``None`` if it does not list it."""
    try:
        listed: Any = json.loads(text) if text and text.strip() else {}
        ids = [str(one).strip() for one in listed.get(provider_name, [])]
    except (ValueError, AttributeError, TypeError):
        raise ConfigurationInvalid(
            f"The Airflow Variable {VARIABLE} is not a JSON object that lists connection ids under provider names.",
            action="Correct it (Admin, Variables), and try again.",
        ) from None
    if connection_id not in ids:
        return None
    kept = [one for one in ids if one != connection_id]
    others = {name: value for name, value in listed.items() if name != provider_name}
    return json.dumps(others | ({provider_name: kept} if kept else {}))


def _name_the_environment(provider_name: str, connection_id: str, keep_connection: bool, removal: Removal) -> None:
    connection_variable = f"AIRFLOW_CONN_{connection_id.upper()}"
    if not keep_connection and os.environ.get(connection_variable):
        removal.left.append(f"Remove {connection_variable} from the environment of Airflow's processes.")
    list_variable = f"AIRFLOW_VAR_{VARIABLE.upper()}"
    listed = os.environ.get(list_variable)
    if listed and (shorter := _without(listed, provider_name, connection_id)) is not None:
        removal.left.append(f"Set {list_variable} in the environment of Airflow's processes to {shorter}")


def _backends(connection_id: str) -> list[str]:
    """Return the secrets backends, apart from the environment and Airflow's database, that know the connection."""
    from airflow.configuration import ensure_secrets_loaded
    from airflow.secrets.environment_variables import EnvironmentVariablesBackend
    from airflow.secrets.metastore import MetastoreBackend

    names = []
    for backend in ensure_secrets_loaded():
        if isinstance(backend, EnvironmentVariablesBackend | MetastoreBackend):
            continue
        try:
            is_known = backend.get_connection(conn_id=connection_id) is not None
        except Exception:  # noqa: BLE001 - a backend may raise anything; Airflow itself goes on to the next one
            is_known = False
        if is_known:
            names.append(type(backend).__name__)
    return names
