"""
The registry of sources: which connections there are, what they consist of, what they are called, and whether they work.

Functions take an open session under the loader's role and leave committing to whoever opened it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from psycopg.rows import class_row

from ai_usage.core.contract import Check, Memory, Provider, Scope
from ai_usage.core.errors import ConfigurationInvalid, WrongAccount
from ai_usage.warehouse import events
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.session import Session

# ---------------------------------------------------------------- scopes


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


# ---------------------------------------------------------------- who is listed


def note_sources(session: Session, provider: Provider, connection_ids: Sequence[str], next_run_at: datetime) -> None:
    """
    Keep which connections the scheduler's Airflow names as sources of a provider, and when it will ask them next.

    One that is no longer named keeps its history; its problems are over, because nobody asks it any more.
    """
    session.execute(
        "update ops.provider set planned_at = now(), next_run_at = %s where provider = %s", (next_run_at, provider.name)
    )
    note_listed(session, provider, connection_ids)
    gone = session.execute(
        "update ops.connection set disconnected_at = now()"
        " where provider = %s and connection_id <> all(%s) and disconnected_at is null returning connection_id",
        (provider.name, list(connection_ids)),
    ).fetchall()
    for (connection_id,) in gone:
        place = Place(provider.name, connection_id, None, None)
        events.end_problems(session, place)
        events.record_event(session, place, "disconnected", "info", _DISCONNECTED, _IF_NOT_MEANT, None)


def note_listed(session: Session, provider: Provider, connection_ids: Sequence[str]) -> None:
    """Keep that connections are sources of a provider, now or again; of others nothing is said."""
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
    for (connection_id,) in back:
        place = Place(provider.name, connection_id, None, None)
        events.record_event(session, place, "connected", "info", "Airflow names it as a source again.", None, None)


_DISCONNECTED = "Airflow no longer names this connection as a source. Its history stays."
_IF_NOT_MEANT = "Nothing, if that was meant; otherwise add it again under the same id, and what is missing is read."


# ---------------------------------------------------------------- names and checks


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


# ---------------------------------------------------------------- usage


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
            select from slices
            where usage_date >= first
                -- Some sources say nothing of today before it has usage.
                and (state = 'failed' or (state = 'missing' and usage_date < current_date))
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
