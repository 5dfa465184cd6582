"""What every way to tell people has in common: the Airflow connection behind it, and what can go wrong with it."""

from __future__ import annotations

from typing import Any

from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.orchestration.clients import find_connection


class NotDelivered(UsageError):
    """A message did not reach its receiver. It is told again with the next news."""

    kind = "notification_failed"
    is_permanent = False


def connection_of_receiver(connection_id: str) -> Any:
    """
    Return the Airflow connection that messages go through.

    :raises ConfigurationInvalid: if there is none of that name.
    """
    found = find_connection(connection_id)
    if found is None:
        raise ConfigurationInvalid(
            "There is no such connection.",
            action="Add it; docs/notifications.md shows how.",
            connection_id=connection_id,
        )
    return found


def unusable(found: Any, happened: str, action: str) -> ConfigurationInvalid:
    """Return the error of a connection that no message can go through."""
    return ConfigurationInvalid(
        happened, action=f"{action} docs/notifications.md shows how.", connection_id=found.conn_id
    )
