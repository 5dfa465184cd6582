"""
The integration event log: what a person should know about a place, told once.

A failure and its recovery are one story. It stays open until what had failed is read again.
"""

from __future__ import annotations

from ai_usage.core.contract import Note
from ai_usage.core.errors import NotEntitled, UsageError
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.session import Session


def record_error(session: Session, place: Place, error: UsageError, run_id: str) -> None:
    """Tell what went wrong and what to do, once per story: a failure that repeats unchanged adds no second event."""
    if open_story(session, place) != (error.kind, error.happened):
        severity = "warning" if isinstance(error, NotEntitled) else "error"
        record_event(session, place, error.kind, severity, error.happened, error.action, run_id)


def record_note(session: Session, place: Place, note: Note, run_id: str) -> None:
    """Tell something noteworthy; once, unless it is news each time."""
    told = (
        not note.is_news
        and session.execute(
            """
        select 1 from ops.event
        where connection_id = %s and scope is not distinct from %s and stream is not distinct from %s
            and kind = %s and message = %s
        limit 1
        """,
            (place.connection_id, place.scope, place.stream, note.kind, note.message),
        ).fetchone()
    )
    if not told:
        record_event(session, place, note.kind, "warning", note.message, note.action, run_id)


def record_event(
    session: Session, place: Place, kind: str, severity: str, message: str, action: str | None, run_id: str | None
) -> None:
    """Append to the integration event log."""
    session.execute(
        """
        insert into ops.event (provider, connection_id, scope, stream, kind, severity, message, action, run_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (place.provider, place.connection_id, place.scope, place.stream, kind, severity, message, action, run_id),
    )


def open_story(session: Session, place: Place) -> tuple[str, str] | None:
    """Return kind and message of the failure that was told last and has not been told as recovered."""
    row = session.execute(
        """
        select kind, message from ops.event
        where connection_id = %s and scope is not distinct from %s and stream is not distinct from %s
            and (severity = 'error' or kind in ('recovered', 'not_entitled'))
        order by event_id desc limit 1
        """,
        (place.connection_id, place.scope, place.stream),
    ).fetchone()
    return None if row is None or row[0] == "recovered" else (row[0], row[1])


def close_story(session: Session, place: Place, run_id: str) -> None:
    """Tell that a place can be read again, if it could not, and nothing that is still to be read fails any more."""
    if not open_story(session, place):
        return
    still_failing = session.execute(
        """
        select 1 from ops.slice
        where connection_id = %s and scope = %s and stream = %s
            and error_kind is not null and state in ('failed', 'not_entitled', 'provisional')
        limit 1
        """,
        (place.connection_id, place.scope, place.stream),
    ).fetchone()
    if not still_failing:
        record_event(session, place, "recovered", "info", "Reading works again.", None, run_id)
