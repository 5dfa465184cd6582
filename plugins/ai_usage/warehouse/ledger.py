"""
The ledger: what is known about every slice, what was tried, and what was noticed.

Functions take an open session under the loader's role and leave committing to whoever opened it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from psycopg import sql

from ai_usage.core.contract import Journal
from ai_usage.core.division import DAYS_BEFORE_SUSPICION
from ai_usage.core.errors import KINDS_OF_ONE_ANSWER, NotEntitled, UsageError
from ai_usage.core.planner import Trouble
from ai_usage.core.slices import SliceState, Window
from ai_usage.warehouse import events
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.session import Session


@dataclass(frozen=True)
class Attempt:
    """One try to read a window of a place."""

    extraction_id: int
    place: Place
    window: Window
    run_id: str
    started_at: datetime


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    records_read: int = 0
    records_written: int = 0
    slices_changed: int = 0


# ---------------------------------------------------------------- slices


def expect_slices(session: Session, place: Place, window: Window) -> None:
    """
    Make sure the ledger answers for every day of the window. One it answers for already costs no write.

    A day that was taken out of the ledger while its records are stored comes back with them.
    """
    session.execute(
        """
        insert into ops.slice (connection_id, usage_date, stream, scope, state, load_id)
        select %(connection_id)s, day::date, %(stream)s, %(scope)s, coalesce(stored.state, 'missing'), stored.load_id
        from generate_series(%(first)s::timestamp, %(last)s::timestamp, interval '1 day') as day
        left join ops.load as stored on
            stored.connection_id = %(connection_id)s and stored.stream = %(stream)s and stored.scope = %(scope)s
            and stored.usage_date = day::date and stored.superseded_by is null
        where not exists (
            select 1 from ops.slice
            where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
                and usage_date = day::date
        )
        on conflict do nothing
        """,
        _arguments(place, window),
    )


def first_expected_day(session: Session, connection_id: str) -> date | None:
    """Return the first day the ledger answers for, or ``None`` for a connection that was never planned."""
    row = session.execute("select min(usage_date) from ops.slice where connection_id = %s", (connection_id,)).fetchone()
    return row[0] if row else None


def first_day(session: Session, place: Place) -> date | None:
    """Return the first day the ledger answers for in a place, or ``None`` if it was never planned."""
    row = session.execute(
        "select min(usage_date) from ops.slice where connection_id = %s and stream = %s and scope = %s",
        (place.connection_id, place.stream, place.scope),
    ).fetchone()
    return row[0] if row else None


def troubles(session: Session, place: Place) -> list[Trouble]:
    """
    Return the days whose last answer made no sense, if the place made sense otherwise when it was last read.

    If it did not, the fault is the source's, and no day of it is to be treated apart. An answer without records does not
    show that it did, unless the days are few.
    """
    spoilt = session.execute(
        """
        select usage_date, error_kind, failed_attempts, last_attempt_at from ops.slice
        where connection_id = %s and stream = %s and scope = %s and error_kind = any(%s)
        order by usage_date
        """,
        (place.connection_id, place.stream, place.scope, sorted(KINDS_OF_ONE_ANSWER)),
    ).fetchall()
    if not spoilt:
        return []
    row = session.execute(
        """
        select max(records_read) from ops.extraction
        where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
            and outcome in ('loaded', 'unchanged')
            and run_id = (
                select run_id from ops.extraction
                where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
                order by started_at desc limit 1
            )
        """,
        vars(place),
    ).fetchone()
    assert row is not None
    makes_sense = row[0] is not None and (row[0] > 0 or len(spoilt) <= DAYS_BEFORE_SUSPICION)
    return [Trouble(*one) for one in spoilt] if makes_sense else []


def recommended_look_back(session: Session, provider: str, stream: str) -> int | None:
    """Return the look-back in days that a stream's restatements recommend; ``None`` without evidence."""
    row = session.execute(
        "select recommended_days from ops.lookback where provider = %s and stream = %s", (provider, stream)
    ).fetchone()
    return row[0] if row else None


def retire_gaps(session: Session, place: Place, first_readable: date) -> None:
    """Give up the gaps that the provider can no longer fill, and let stand what it can no longer change."""
    if first_readable == date.min:
        return
    session.execute(
        """
        with settled as (
            update ops.slice as slice set changed_at = now(),
                state = case when load.record_count > 0 then 'final' else 'confirmed_zero' end
            from ops.load as load
            where slice.connection_id = %(connection_id)s and slice.stream = %(stream)s and slice.scope = %(scope)s
                and slice.usage_date < %(first_readable)s and slice.state = 'provisional'
                and load.load_id = slice.load_id
            returning slice.load_id, slice.state
        )
        update ops.load as load set state = settled.state from settled where load.load_id = settled.load_id
        """,
        {**vars(place), "first_readable": first_readable},
    )
    session.execute(
        """
        update ops.slice set state = 'outside_retention', changed_at = now()
        where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
            and usage_date < %(first_readable)s and state in ('missing', 'failed', 'not_entitled')
        """,
        {**vars(place), "first_readable": first_readable},
    )


def slice_states(session: Session, place: Place) -> dict[date, SliceState]:
    """Return the state of every slice of a place."""
    rows = session.execute(
        "select usage_date, state from ops.slice where connection_id = %s and stream = %s and scope = %s",
        (place.connection_id, place.stream, place.scope),
    )
    return {usage_date: SliceState(state) for usage_date, state in rows}


def stored_records(session: Session, place: Place, day: date) -> list[dict[str, Any]]:
    """Return the records of a slice as readers see them, numbers exact."""
    statement = sql.SQL(
        """
        select source.record::text
        from raw.{} as source
        inner join ops.load as load on load.load_id = source.load_id
        where load.connection_id = %s and load.stream = %s and load.scope = %s and load.usage_date = %s
            and load.superseded_by is null
        """
    ).format(sql.Identifier(f"{place.provider}_{place.stream}"))
    rows = session.execute(statement, (place.connection_id, place.stream, place.scope, day))
    return [json.loads(record, parse_float=Decimal) for (record,) in rows]


# ---------------------------------------------------------------- attempts


def begin_attempt(session: Session, place: Place, window: Window, run_id: str) -> Attempt:
    """Record that a window is about to be read. An earlier attempt that never reported back is closed as aborted."""
    session.execute(
        """
        update ops.extraction set outcome = 'aborted', finished_at = now()
        where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s and outcome = 'running'
        """,
        _arguments(place, window),
    )
    row = session.execute(
        """
        insert into ops.extraction (provider, connection_id, stream, scope, window_first, window_last, run_id, started_at)
        values (%(provider)s, %(connection_id)s, %(stream)s, %(scope)s, %(first)s, %(last)s, %(run_id)s,
            clock_timestamp())
        returning extraction_id, started_at
        """,
        _arguments(place, window) | {"run_id": run_id},
    ).fetchone()
    assert row is not None
    return Attempt(row[0], place, window, run_id, row[1])


def read_in_run(session: Session, place: Place, run_id: str) -> set[Window]:
    """Return the windows of a place that an earlier try of the same run has already brought home."""
    rows = session.execute(
        """
        select window_first, window_last from ops.extraction
        where connection_id = %s and stream = %s and scope = %s and run_id = %s and outcome in ('loaded', 'unchanged')
        """,
        (place.connection_id, place.stream, place.scope, run_id),
    )
    return {Window(first, last) for first, last in rows}


def end_attempt(session: Session, attempt: Attempt, outcome: Outcome, journal: Journal) -> None:
    """Record that the window was read completely, close the story of an earlier failure, and keep the notes."""
    _finish(session, attempt, "loaded" if outcome.slices_changed else "unchanged", outcome, journal)
    place = attempt.place
    session.execute(
        """
        update ops.slice set error_kind = null, failed_attempts = 0, last_attempt_at = now()
        where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
            and usage_date between %(first)s and %(last)s and error_kind is not null
        """,
        _arguments(place, attempt.window),
    )
    # Always in this order, slices, connection, problems, so that two that write of one place never wait for each other.
    session.execute(
        "update ops.connection set last_success_at = now() where connection_id = %s", (place.connection_id,)
    )
    events.record_notes(session, place, journal.notes, attempt.run_id)
    events.close_story(session, place, attempt.run_id)


def fail_attempt(session: Session, attempt: Attempt, error: UsageError, journal: Journal) -> None:
    """
    Record that the window could not be read. Slices that were loaded before stay as they are.

    Works whatever happened before: it needs nothing of the transaction that failed.
    """
    end_in_failure(session, attempt, error, journal)
    fail_slices(session, attempt.place, attempt.window, error, attempt.run_id)


def end_in_failure(session: Session, attempt: Attempt, error: UsageError, journal: Journal) -> None:
    """Record how an attempt ended, and nothing about its days: parts of the window will tell about them."""
    _finish(session, attempt, "failed", Outcome(), journal, error)


def fail_slices(session: Session, place: Place, window: Window, error: UsageError, run_id: str) -> None:
    """Record that days could not be read, and tell it. Slices that were loaded before stay as they are."""
    state = SliceState.NOT_ENTITLED if isinstance(error, NotEntitled) else SliceState.FAILED
    session.execute(
        """
        update ops.slice set
            state = case when load_id is null and state <> 'outside_retention' then %(state)s else state end,
            changed_at = case when load_id is null and state <> %(state)s then now() else changed_at end,
            error_kind = %(error_kind)s, failed_attempts = failed_attempts + 1, last_attempt_at = now()
        where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
            and usage_date between %(first)s and %(last)s
        """,
        _arguments(place, window) | {"state": state, "error_kind": error.kind},
    )
    session.execute(
        "update ops.connection set last_attempt_at = now() where connection_id = %s", (place.connection_id,)
    )
    events.record_error(session, place, error, run_id)


def fail_connection(session: Session, provider: str, connection_id: str, error: UsageError, run_id: str) -> None:
    """Record that a connection could not even be asked what there is to read."""
    session.execute(
        "insert into ops.connection (connection_id, provider, last_attempt_at) values (%s, %s, now())"
        " on conflict (connection_id) do update set last_attempt_at = excluded.last_attempt_at",
        (connection_id, provider),
    )
    session.execute(
        """
        insert into ops.extraction (provider, connection_id, stream, scope, window_first, window_last, run_id,
            finished_at, outcome, error_kind, error_message)
        values (%s, %s, '-', '-', current_date, current_date, %s, now(), 'failed', %s, %s)
        """,
        (provider, connection_id, run_id, error.kind, str(error)),
    )
    events.record_error(session, Place(provider, connection_id, None, None), error, run_id)


def _finish(
    session: Session,
    attempt: Attempt,
    verdict: str,
    outcome: Outcome,
    journal: Journal,
    error: UsageError | None = None,
) -> None:
    session.execute(
        """
        update ops.extraction set finished_at = clock_timestamp(), outcome = %s, error_kind = %s, error_message = %s,
            calls = %s, retries = %s, throttled = %s, bytes_received = %s,
            records_read = %s, records_written = %s, slices_changed = %s
        where extraction_id = %s
        """,
        (
            verdict,
            error.kind if error else None,
            str(error) if error else None,
            journal.calls,
            journal.retries,
            journal.throttled,
            journal.bytes_received,
            outcome.records_read,
            outcome.records_written,
            outcome.slices_changed,
            attempt.extraction_id,
        ),
    )


# ---------------------------------------------------------------- runs


def run_problems(session: Session, run_id: str) -> list[tuple[str, str, str]]:
    """Return (connection_id, scope, error text) of every failure that no later attempt of this run has looked into."""
    return session.execute(
        """
        select connection_id, scope, error_message
        from ops.extraction as attempt
        where run_id = %(run_id)s and outcome = 'failed' and error_kind <> 'not_entitled'
            and not exists (
                select 1 from ops.extraction as later
                where later.run_id = %(run_id)s and later.extraction_id > attempt.extraction_id
                    and later.connection_id = attempt.connection_id and later.stream = attempt.stream
                    and later.scope = attempt.scope
                    and later.window_first >= attempt.window_first and later.window_last <= attempt.window_last
            )
        order by 1, 2
        """,
        {"run_id": run_id},
    ).fetchall()


def pending_pairs(session: Session) -> int:
    """Return how many (connection, usage_date) pairs wait for the marts."""
    row = session.execute(
        "select count(*) from (select distinct connection_id, usage_date from ops.pending_rebuild) as pair"
    ).fetchone()
    assert row is not None
    return int(row[0])


def was_ever_built(session: Session) -> bool:
    """Tell whether a transform has ever succeeded, so that the marts exist."""
    row = session.execute(
        "select 1 from ops.dbt_run where succeeded and command in ('build', 'retry') limit 1"
    ).fetchone()
    return row is not None


def _arguments(place: Place, window: Window) -> dict[str, Any]:
    return {
        "provider": place.provider,
        "connection_id": place.connection_id,
        "stream": place.stream,
        "scope": place.scope,
        "first": window.first,
        "last": window.last,
    }
