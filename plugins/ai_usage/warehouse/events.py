"""
What a person should know about a place: problems as stories, and the log of what happened.

A problem of a place is a story (``ops.problem``): it opens, is counted quietly while it lasts, and ends when what was
wrong is right again. The log (``ops.event``) is only ever appended to: a row when a story opens and one when it recovers,
nothing for repeats, and a row for whatever stands by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ai_usage.core.contract import Note
from ai_usage.core.errors import NotEntitled, UsageError
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.session import Session

Topic = Literal["reading", "usage", "schema", "lateness", "transform", "notification"]
Resolution = Literal["recovered", "replaced", "disconnected"]

SCHEMA_DRIFT = "schema_drift"
_RECOVERED: dict[Topic, str] = {
    "reading": "Reading works again.",
    "usage": "Usage has come in.",
    "schema": "The answers have no unknown fields any more.",
    "lateness": "The data is on time again.",
    "transform": "The marts are built again.",
    "notification": "Messages are delivered again.",
}


# ---------------------------------------------------------------- stories


def open_problem(
    session: Session,
    place: Place,
    topic: Topic,
    kind: str,
    severity: Literal["warning", "error"],
    message: str,
    action: str | None,
    run_id: str | None,
) -> bool:
    """
    Tell of a problem; return whether that opened a story.

    The same kind again is counted, once a run, with the latest words. Another kind at the same place and topic ends the
    story as replaced and opens its own. Safe when several tasks tell of the same place at once.
    """
    problem_id, is_new = _tell(session, place, topic, kind, severity, message, action, run_id)
    if is_new:
        _append(session, place, kind, severity, message, action, run_id, problem_id)
    return is_new


def close_problem(
    session: Session, place: Place, topic: Topic, run_id: str | None, resolution: Resolution = "recovered"
) -> bool:
    """End the open story of a place and topic, if there is one; return whether there was."""
    row = session.execute(
        """
        update ops.problem set resolved_at = now(), resolution = %s
        where connection_id = %s and scope is not distinct from %s and stream is not distinct from %s and topic = %s
            and resolved_at is null
        returning problem_id
        """,
        (resolution, place.connection_id, place.scope, place.stream, topic),
    ).fetchone()
    if row and resolution == "recovered":
        _append(session, place, "recovered", "info", _RECOVERED[topic], None, run_id, row[0])
    return row is not None


def end_problems(session: Session, whole: Place, but: Sequence[str] | None = None) -> None:
    """
    End what is open of a connection that is not a source any more, whatever the topic.

    :param but: the scopes that it still has: only those of other scopes are ended, and those of the whole stay open.
    """
    session.execute(
        """
        update ops.problem set resolved_at = now(), resolution = 'disconnected'
        where connection_id = %(connection_id)s and resolved_at is null
            and (%(scopes)s::text[] is null or scope <> all(%(scopes)s))
        """,
        {"connection_id": whole.connection_id, "scopes": None if but is None else list(but)},
    )


def _tell(
    session: Session,
    place: Place,
    topic: Topic,
    kind: str,
    severity: str,
    message: str,
    action: str | None,
    run_id: str | None,
) -> tuple[int, bool]:
    """Open, count or replace; return the story's number and whether it is new."""
    while True:
        row = session.execute(
            """
            insert into ops.problem as known
                (provider, connection_id, scope, stream, topic, kind, severity, message, action, opened_run_id,
                last_seen_run_id)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (connection_id, scope, stream, topic) where resolved_at is null do update set
                severity = excluded.severity, message = excluded.message, action = excluded.action,
                last_seen_at = now(), last_seen_run_id = excluded.last_seen_run_id,
                -- Many windows and tries of one run meet the same: that is once.
                times_seen = known.times_seen
                    + case when known.last_seen_run_id = excluded.last_seen_run_id then 0 else 1 end
            where known.kind = excluded.kind
            returning problem_id, xmax = 0
            """,
            (
                place.provider,
                place.connection_id,
                place.scope,
                place.stream,
                topic,
                kind,
                severity,
                message,
                action,
                run_id,
                run_id,
            ),
        ).fetchone()
        if row:
            return row[0], row[1]
        # Another kind is open. Whoever else ends it first, the next round finds its place free or taken by our kind.
        close_problem(session, place, topic, run_id, "replaced")


# ---------------------------------------------------------------- reading


def record_error(session: Session, place: Place, error: UsageError, run_id: str) -> None:
    """Tell what went wrong with reading, and what to do."""
    severity: Literal["warning", "error"] = "warning" if isinstance(error, NotEntitled) else "error"
    open_problem(session, place, "reading", error.kind, severity, error.happened, error.action, run_id)


def close_story(session: Session, place: Place, run_id: str | None) -> None:
    """Tell that a place can be read again, if it could not, and nothing that is still to be read fails any more."""
    still_failing = session.execute(
        """
        select 1
        from ops.slice as slice
        left join ops.stream as promise on promise.provider = %s and promise.stream = slice.stream
        where slice.connection_id = %s and slice.scope = %s and slice.stream = %s and slice.error_kind is not null
            and (
                slice.state in ('failed', 'not_entitled', 'provisional')
                -- A settled day of the look-back is read again too.
                or (slice.load_id is not null and slice.usage_date >= current_date - promise.lookback_days)
            )
        limit 1
        """,
        (place.provider, place.connection_id, place.scope, place.stream),
    ).fetchone()
    if not still_failing:
        close_problem(session, place, "reading", run_id)


def record_notes(session: Session, place: Place, notes: Sequence[Note], run_id: str) -> None:
    """Tell what a reading noticed. Fields that nobody knows are one story of the place; the rest stands by itself."""
    drift = [note for note in notes if note.kind == SCHEMA_DRIFT]
    if drift:
        _record_drift(session, place, drift, run_id)
    for note in notes:
        if note.kind != SCHEMA_DRIFT and (note.is_news or not _is_told(session, place, note)):
            record_event(session, place, note.kind, "warning", note.message, note.action, run_id)


def record_note(session: Session, place: Place, note: Note, run_id: str) -> None:
    """Tell something noteworthy; once, unless it is news each time."""
    record_notes(session, place, [note], run_id)


def close_drift(session: Session, place: Place, run_id: str) -> None:
    """End the story of unknown fields after a run has read all it had to of a place, unless it met them itself."""
    met = session.execute(
        """
        select 1 from ops.problem
        where connection_id = %s and scope is not distinct from %s and stream is not distinct from %s
            and topic = 'schema' and resolved_at is null and last_seen_run_id = %s
        """,
        (place.connection_id, place.scope, place.stream, run_id),
    ).fetchone()
    if not met:
        close_problem(session, place, "schema", run_id)


def _record_drift(session: Session, place: Place, drift: Sequence[Note], run_id: str) -> None:
    """Open or count the story; the log names every field, each once in a story."""
    first = drift[0]
    more = f" And {len(drift) - 1} more like this: the event log names them." if len(drift) > 1 else ""
    problem_id, _ = _tell(session, place, "schema", SCHEMA_DRIFT, "warning", first.message + more, first.action, run_id)
    rows = session.execute("select message from ops.event where problem_id = %s", (problem_id,)).fetchall()
    told = {message for (message,) in rows}
    for note in drift:
        if note.message not in told:
            told.add(note.message)
            _append(session, place, note.kind, "warning", note.message, note.action, run_id, problem_id)


def _is_told(session: Session, place: Place, note: Note) -> bool:
    row = session.execute(
        """
        select 1 from ops.event
        where connection_id = %s and scope is not distinct from %s and stream is not distinct from %s
            and kind = %s and message = %s
        limit 1
        """,
        (place.connection_id, place.scope, place.stream, note.kind, note.message),
    ).fetchone()
    return row is not None


# ---------------------------------------------------------------- the log


def record_event(
    session: Session, place: Place, kind: str, severity: str, message: str, action: str | None, run_id: str | None
) -> None:
    """Append something that stands by itself to the integration event log."""
    _append(session, place, kind, severity, message, action, run_id, None)


def _append(
    session: Session,
    place: Place,
    kind: str,
    severity: str,
    message: str,
    action: str | None,
    run_id: str | None,
    problem_id: int | None,
) -> None:
    session.execute(
        """
        insert into ops.event
            (provider, connection_id, scope, stream, kind, severity, message, action, run_id, problem_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            place.provider,
            place.connection_id,
            place.scope,
            place.stream,
            kind,
            severity,
            message,
            action,
            run_id,
            problem_id,
        ),
    )
