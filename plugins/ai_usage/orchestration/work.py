"""What passes between the steps of a sync: what a run was asked for, what is to be read, and what was read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NotRequired, TypedDict

from ai_usage.core.contract import Stream
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.slices import Window

MOST_DAYS_AT_ONCE = 1100
"""The longest history that one run may be asked for: three years, so that a typing error stays cheap."""
BEFORE_ALL_SOURCES = date(2010, 1, 1)
UNKNOWN_SCOPE = "?"
"""The scope of a connection that could not be asked for its scopes and has none on record."""


class Request(TypedDict):
    """
    What a run was asked for. Days are ISO, both included; without them the ledger decides.

    ``by_hand``: a person asked for it, so that days which wait for their next try are read as well. A run with days is
    always a person's.
    """

    first: NotRequired[str | None]
    last: NotRequired[str | None]
    connections: NotRequired[list[str] | None]
    by_hand: NotRequired[bool]


class Part(TypedDict):
    """A scope, and the windows of each stream to read of it; the last of them is read first."""

    scope: str
    windows: dict[str, list[tuple[str, str]]]


class Work(TypedDict):
    """One mapped task: a scope of a connection; several where there are many and the provider answers for several."""

    connection_id: str
    label: str
    parts: list[Part]


class Summary(TypedDict):
    """What one mapped task did."""

    label: str
    slices_changed: int
    records_written: int
    calls: int


def windows_of(part: Part, stream: Stream) -> list[Window]:
    """Return the planned windows of a stream."""
    planned = part["windows"].get(stream.name, [])
    return [Window(date.fromisoformat(first), date.fromisoformat(last)) for first, last in planned]


def selected(connection_ids: Sequence[str], request: Request) -> list[str]:
    """Return the connections that the run was asked for; refuse names that are no source."""
    wanted = request.get("connections")
    if not wanted:
        return list(connection_ids)
    if unknown := sorted(set(wanted) - set(connection_ids)):
        raise ConfigurationInvalid(
            f"These connections are no sources of this provider: {', '.join(unknown)}.",
            action=f"Choose among: {', '.join(connection_ids) or 'none is configured'}.",
        )
    return [connection_id for connection_id in connection_ids if connection_id in wanted]


def requested_window(request: Request, today: date) -> Window | None:
    """Return the window that a person asked for, or ``None``; refuse dates that make no sense."""
    first, last = day_of("from", request.get("first")), day_of("to", request.get("last"))
    if first is None and last is None:
        return None
    first, last = first or last or today, last or today
    if last < first:
        raise ConfigurationInvalid(f"'from' ({first}) is later than 'to' ({last}).", action="Swap the two dates.")
    if (last - first).days >= MOST_DAYS_AT_ONCE:
        raise ConfigurationInvalid(
            f"{first} to {last} is more than {MOST_DAYS_AT_ONCE} days.", action="Ask for it in several runs."
        )
    if first > today:
        raise ConfigurationInvalid(
            f"'from' ({first}) lies in the future.", action=f"Ask for days up to today, {today} (UTC)."
        )
    return Window(first, min(last, today))


def day_of(name: str, text: str | None) -> date | None:
    """Return the day that a field names, or ``None`` for an empty one; refuse what is no day, or no source can know."""
    if text in (None, ""):
        return None
    try:
        day = date.fromisoformat(str(text))
    except ValueError:
        raise ConfigurationInvalid(
            f"'{name}' is not a day: {str(text)[:40]!r}.", action="Write it as YYYY-MM-DD, for example 2026-08-31."
        ) from None
    if day < BEFORE_ALL_SOURCES:
        # The ledger answers for every day since the first, so a slip of the keyboard would cost it centuries.
        raise ConfigurationInvalid(
            f"'{name}' ({day}) is older than any source.", action=f"Name a day from {BEFORE_ALL_SOURCES} on."
        )
    return day
