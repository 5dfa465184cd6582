"""Settings of a connection, read with a clear refusal for what makes no sense."""

from __future__ import annotations

from ai_usage.core.contract import Connection
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.texts import without_keys

_YES = ("true", "1", "yes")
_NO = ("", "false", "0", "no", "none")


def flag(connection: Connection, name: str) -> bool:
    """
    Return a setting that is on or off; off where it is not set.

    :raises ConfigurationInvalid: if it is neither.
    """
    text = str(connection.options.get(name) or "").strip().lower()
    if text not in _YES + _NO:
        raise ConfigurationInvalid(
            f"{name} is {text[:20]!r}, which is neither true nor false.",
            action="Correct it in the connection, or leave it out.",
            connection_id=connection.connection_id,
        )
    return text in _YES


def text(connection: Connection, name: str) -> str | None:
    """
    Return a setting that is a text, or ``None`` where it is not set.

    :raises ConfigurationInvalid: if it is not a text in one line, or looks like a key that was pasted into the wrong field.
    """
    value = connection.options.get(name)
    if value is not None and not (isinstance(value, str) and value.strip().isprintable()):
        raise ConfigurationInvalid(
            f"{name} is not a text in one line.",
            action="Write it in quotes, or leave it out.",
            connection_id=connection.connection_id,
        )
    if value and without_keys(value) != value:
        raise ConfigurationInvalid(
            f"{name} looks like a key.",
            action="Put keys into the password field, where they are encrypted, and correct this setting.",
            connection_id=connection.connection_id,
        )
    return (value or "").strip() or None
