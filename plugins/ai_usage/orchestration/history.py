"""How far back a connection is to be read: the two settings that every connection has, whatever its provider."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from ai_usage.core.contract import Connection
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.orchestration.work import day_of

RECOMMENDED = "recommended"
"""The look-back that a stream's own restatements recommend."""
MOST_DAYS_TO_LOOK_BACK = 400


class History(NamedTuple):
    """
    How far back to read.

    :param start: the first day of history; ``None`` for as far as the provider remembers.
    :param look_back: how many days back to read whatever their state: a number, ``recommended``, or ``None`` for each
        stream's own.
    """

    start: date | None = None
    look_back: int | str | None = None


def history_of(connection: Connection) -> History:
    """
    Return what the connection says.

    :raises ConfigurationInvalid: if it makes no sense.
    """
    try:
        return History(day_of("start_date", connection.options.get("start_date")), _look_back(connection))
    except ConfigurationInvalid as error:
        raise error.at(connection.connection_id) from None


def _look_back(connection: Connection) -> int | str | None:
    value = connection.options.get("lookback_days")
    text = "" if value is None else str(value).strip().lower()
    if text in ("", RECOMMENDED):
        return text or None
    if text.isascii() and text.isdigit() and int(text) <= MOST_DAYS_TO_LOOK_BACK:
        return int(text)
    raise ConfigurationInvalid(
        f"lookback_days is {text[:20]!r}, which is neither a number of days nor {RECOMMENDED!r}.",
        action=f"Write a number from 0 to {MOST_DAYS_TO_LOOK_BACK}, or {RECOMMENDED}, or leave it out.",
    )
