"""
The ledger: what is known about every slice, what was tried, and what was noticed.

Functions take an open session under the loader's role and leave committing to whoever opened it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from psycopg import sql
from psycopg.rows import class_row

from ai_usage.core.contract import Check, Journal, Memory, Provider, Scope
from ai_usage.core.division import DAYS_BEFORE_SUSPICION
from ai_usage.core.errors import KINDS_OF_ONE_ANSWER, ConfigurationInvalid, NotEntitled, UsageError, WrongAccount
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


# ---------------------------------------------------------------- connections and scopes


def register_scopes(session: Session, provider: Provider, connection_id: str, scopes: Sequence[Scope]) -> None:
    """
    Keep the connection and its scopes; that they could be asked for ends the story of a connection that could not be read.

    Raises :class:`WrongAccount` when a scope that has history now belongs to another account: adding one account's usage
    to another's would be silent and for ever.
    """
    _refuse_another_provider(session, provider, connection_id)
    account = next((scope for scope in scopes if scope.account_id), Scope())
    session.execute(
        """
        insert into ops.connection (connection_id, provider, account_id, account_name, last_attempt_at)
        values (%s, %s, %s, %s, now())
        on conflict (connection_id) do update set
            account_id = coalesce(excluded.account_id, ops.connection.account_id),
            account_name = coalesce(excluded.account_name, ops.connection.account_name),
            last_attempt_at = excluded.last_attempt_at
        """,
        (connection_id, provider.name, account.account_id, account.account_name),
    )
    for scope in scopes:
        register_scope(session, connection_id, scope)
    whole = Place(provider.name, connection_id, None, None)
    events.close_problem(session, whole, "reading", None)
    events.end_problems(session, whole, but=[scope.name for scope in scopes])


def _refuse_another_provider(session: Session, provider: Provider, connection_id: str) -> None:
    row = session.execute("select provider from ops.connection where connection_id = %s", (connection_id,)).fetchone()
    if row and row[0] != provider.name:
        raise ConfigurationInvalid(
            f"This connection has history of {row[0]} and cannot be read as {provider.name}.",
            action="Give the new source a connection id of its own.",
            connection_id=connection_id,
        )


def register_scope(session: Session, connection_id: str, scope: Scope) -> None:
    """Keep one scope; refuse one whose history belongs to another account."""
    known = session.execute(
        "select account_id from ops.scope where connection_id = %s and scope = %s", (connection_id, scope.name)
    ).fetchone()
    if known and known[0] and scope.account_id and known[0] != scope.account_id:
        raise WrongAccount(
            f"The credential belongs to account {scope.account_id}, but this connection's history to {known[0]}.",
            action=f"Restore a credential of {known[0]}, or add a new connection for {scope.account_id}.",
            connection_id=connection_id,
            scope=scope.name,
        )
    session.execute(
        """
        insert into ops.scope (connection_id, scope, account_id, account_name, region) values (%s, %s, %s, %s, %s)
        on conflict (connection_id, scope) do update set
            account_id = coalesce(excluded.account_id, ops.scope.account_id),
            account_name = coalesce(excluded.account_name, ops.scope.account_name),
            region = coalesce(excluded.region, ops.scope.region),
            last_seen_at = now()
        """,
        (connection_id, scope.name, scope.account_id, scope.account_name, scope.region),
    )


def note_sources(session: Session, provider: Provider, connection_ids: Sequence[str], next_run_at: datetime) -> None:
    """
    Keep which connections Airflow names as sources of a provider, and when it will be asked next.

    One that is no longer named keeps its history; its problems are over, because nobody asks it any more.
    """
    session.execute(
        "update ops.provider set planned_at = now(), next_run_at = %s where provider = %s", (next_run_at, provider.name)
    )
    named = list(connection_ids)
    back = session.execute(
        "select connection_id from ops.connection"
        " where provider = %s and connection_id = any(%s) and disconnected_at is not null for update",
        (provider.name, named),
    ).fetchall()
    session.execute(
        "update ops.connection set listed_at = now(), disconnected_at = null"
        " where provider = %s and connection_id = any(%s)",
        (provider.name, named),
    )
    gone = session.execute(
        "update ops.connection set disconnected_at = now()"
        " where provider = %s and connection_id <> all(%s) and disconnected_at is null returning connection_id",
        (provider.name, named),
    ).fetchall()
    for (connection_id,) in back:
        place = Place(provider.name, connection_id, None, None)
        events.record_event(session, place, "connected", "info", "Airflow names it as a source again.", None, None)
    for (connection_id,) in gone:
        place = Place(provider.name, connection_id, None, None)
        events.end_problems(session, place)
        events.record_event(session, place, "disconnected", "info", _DISCONNECTED, _IF_NOT_MEANT, None)


_DISCONNECTED = "Airflow no longer names this connection as a source. Its history stays."
_IF_NOT_MEANT = "Nothing, if that was meant; otherwise add it again under the same id, and what is missing is read."


def judge_usage(session: Session, provider: Provider, connection_id: str, run_id: str) -> None:
    """Tell of a connection that works and has never had usage, once all its days are read; end that story when it has."""
    place = Place(provider.name, connection_id, None, None)
    arguments = {"connection_id": connection_id, "streams": [one.name for one in provider.streams if one.is_usage]}
    used = session.execute(
        """
        select 1 from ops.load
        where connection_id = %(connection_id)s and stream = any(%(streams)s) and superseded_by is null
            and record_count > 0
        limit 1
        """,
        arguments,
    ).fetchone()
    if used:
        events.close_problem(session, place, "usage", run_id)
        return
    row = session.execute(
        """
        with slices as (
            select usage_date, state from ops.slice
            where connection_id = %(connection_id)s and stream = any(%(streams)s)
        ),
        empty as (
            select min(usage_date) as first, max(usage_date) as last, count(distinct usage_date) as days
            from slices where state = 'confirmed_zero'
        )
        select first, last, days from empty
        where days > 0 and not exists (
            select from slices where usage_date >= first and state in ('missing', 'failed')
        )
        """,
        arguments,
    ).fetchone()
    if row:
        first, last, days = row
        period = f"on the one settled day, {first}" if days == 1 else f"in the {days} days from {first} to {last}"
        happened = f"Connected, and nothing was used {period}."
        events.open_problem(
            session, place, "usage", "no_usage", "warning", happened, f"{_IF_EMPTY} {provider.if_empty}", run_id
        )


_IF_EMPTY = (
    "If there was usage, look in this order: the right organisation or account? May the credential read at that level? Do"
    " start_date and the regions, resources or projects of the connection include it? Is the provider's reporting delay"
    " over? Does the event log name a warning?"
)


def known_scopes(session: Session, connection_id: str) -> list[Scope]:
    """Return the scopes that the connection last had, for when the provider cannot be asked."""
    with session.cursor(row_factory=class_row(Scope)) as cursor:
        return cursor.execute(
            """
            select scope as name, account_id, account_name, region from ops.scope
            where connection_id = %(connection_id)s
                -- All scopes of one look have the same time; one that was taken out of the connection has an older one.
                and last_seen_at = (select max(last_seen_at) from ops.scope where connection_id = %(connection_id)s)
            order by 1
            """,
            {"connection_id": connection_id},
        ).fetchall()


def first_expected_day(session: Session, connection_id: str) -> date | None:
    """Return the first day the ledger answers for, or ``None`` for a connection that was never planned."""
    row = session.execute("select min(usage_date) from ops.slice where connection_id = %s", (connection_id,)).fetchone()
    return row[0] if row else None


def recall_names(session: Session, connection_id: str) -> Memory:
    """Return every name this connection has met, for sources that stop listing what is idle."""
    known: dict[tuple[str, str], set[str]] = {}
    rows = session.execute(
        "select stream, scope, name from ops.known_name where connection_id = %s", (connection_id,)
    ).fetchall()
    for stream, scope, name in rows:
        known.setdefault((stream, scope), set()).add(name)
    return Memory(known)


def keep_names(session: Session, connection_id: str, memory: Memory) -> None:
    """Keep what was learnt in this run; a name already known today costs no write."""
    with session.cursor() as cursor:
        cursor.executemany(
            """
            insert into ops.known_name (connection_id, stream, scope, name) values (%s, %s, %s, %s)
            on conflict (connection_id, stream, scope, name) do update set last_seen_at = now()
            where ops.known_name.last_seen_at < now() - interval '1 day'
            """,
            [(connection_id, *learnt) for learnt in sorted(memory.learnt)],
        )


def is_verified(session: Session, connection_id: str) -> bool:
    """Tell whether the connection's last verification found everything in order."""
    row = session.execute(
        "select coalesce(bool_and(passed is true), false) from ops.connection_check where connection_id = %s",
        (connection_id,),
    ).fetchone()
    return bool(row and row[0])


def keep_checks(session: Session, provider: Provider, connection_id: str, checks: Iterable[Check]) -> None:
    """Replace the connection's last verification."""
    session.execute("delete from ops.connection_check where connection_id = %s", (connection_id,))
    with session.cursor() as cursor:
        cursor.executemany(
            """
            insert into ops.connection_check
                (connection_id, provider, position, name, scope, passed, message, action, kind)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (connection_id, provider.name, n, c.name, c.scope, c.passed, c.message, c.action, c.kind)
                for n, c in enumerate(checks, start=1)
            ],
        )


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
