"""
Deleting everything that was read from one connection.

It goes in steps, each committed by itself, so that it can be killed anywhere and done again: what is gone stays gone, and
what is left is found again. The order keeps the marts right at every moment:

1. The slices go, and with them, by a trigger of the table, their days are put on the list of what the marts must rebuild.
2. Raw records go, a few hundred versions at a time, each with its row in the ledger; then attempts, checks, problems, and
   whatever else the ledger has of it.
3. The marts are rebuilt, which is the caller's: whatever is on the list goes out of them.
4. The connection itself goes, and one event ``purged`` stays, with the counts of the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from psycopg import errors, sql

from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.warehouse import events
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import JANITOR, TRANSFORMER
from ai_usage.warehouse.session import Session, Warehouse

_VERSIONS_AT_ONCE = 500
_BEGUN = "Everything that was read of it is being deleted: "
_DONE = "Everything that was read of it was deleted: "

Counts = dict[str, int]


class PurgeUnfinished(UsageError):
    """A purge could not be finished; what it has deleted stays deleted."""

    kind = "purge_unfinished"
    is_permanent = False


def provider_of(session: Session, connection_id: str) -> str | None:
    """Return the provider whose history the connection holds; ``None`` if it has none."""
    row = session.execute("select provider from ops.connection where connection_id = %s", (connection_id,)).fetchone()
    return str(row[0]) if row else None


def count(session: Session, connection_id: str) -> Counts:
    """Return how much there is of a connection, thing by thing."""
    row = session.execute(
        """
        select
            (select count(*) from ops.slice where connection_id = %(id)s),
            (select count(*) from ops.load where connection_id = %(id)s),
            (
                select coalesce(sum(record_count), 0)::bigint from ops.load
                where connection_id = %(id)s and pruned_at is null
            ),
            (select count(*) from ops.extraction where connection_id = %(id)s),
            (select count(*) from ops.event where connection_id = %(id)s)
        """,
        {"id": connection_id},
    ).fetchone()
    assert row is not None
    names = ("slices", "versions", "records", "attempts", "events")
    return dict(zip(names, map(int, row), strict=True))


def begin(session: Session, place: Place, run_id: str) -> None:
    """Write down that a purge begins and of how much; one that goes on where another was killed keeps that one's words."""
    if _begun(session, place.connection_id) is not None:
        return
    counts = ", ".join(f"{number:,} {name}" for name, number in count(session, place.connection_id).items())
    events.record_event(session, place, "purge_begun", "info", f"{_BEGUN}{counts}.", None, run_id)


def _begun(session: Session, connection_id: str) -> str | None:
    """Return the counts of a purge that has begun and is not finished."""
    row = session.execute(
        "select message from ops.event where connection_id = %s and kind = 'purge_begun' order by event_id limit 1",
        (connection_id,),
    ).fetchone()
    return str(row[0]).removeprefix(_BEGUN) if row else None


def delete_readings(warehouse: Warehouse, place: Place, tell: Callable[[str], None]) -> None:
    """
    Delete slices, versions, raw records and attempts.

    :param tell: is told of each step, for a person who waits.
    :raises PurgeUnfinished: if the connection is being read at this moment.
    """
    connection_id = place.connection_id
    with _janitor(warehouse, connection_id) as session:
        tell(f"{_delete(session, 'slice', connection_id):,} slices deleted")
        while deleted := _delete_versions(session, place.provider, connection_id):
            tell(f"{deleted:,} versions and their records deleted")
        for table in _other_tables(session):
            tell(f"{_delete(session, table, connection_id):,} rows of ops.{table} deleted")


def _other_tables(session: Session) -> list[str]:
    """Return the tables of the ledger that have rows of a connection, apart from those whose turn is earlier or later."""
    rows = session.execute(
        """
        select class.relname::text
        from pg_class as class
        inner join pg_attribute as attribute on attribute.attrelid = class.oid
        where class.relnamespace = 'ops'::regnamespace and class.relkind = 'r' and attribute.attname = 'connection_id'
            and class.relname not in ('slice', 'load', 'scope', 'connection', 'event', 'pending_rebuild')
        order by class.relname
        """
    )
    return [name for (name,) in rows.fetchall()]


@contextmanager
def _janitor(warehouse: Warehouse, connection_id: str) -> Iterator[Session]:
    with warehouse.session(JANITOR, application="ai_usage purge") as session:
        try:
            yield session
            session.commit()
        except errors.ForeignKeyViolation:
            session.rollback()
            raise PurgeUnfinished(
                "Something of it was read while it was being deleted.",
                action="Wait until no task reads it any more, then run the command again; it goes on from here.",
                connection_id=connection_id,
            ) from None


def _delete(session: Session, table: str, connection_id: str) -> int:
    """Delete a connection's rows of a table of the ledger, for good, and return how many there were."""
    statement = sql.SQL("delete from ops.{} where connection_id = %s").format(sql.Identifier(table))
    gone = session.execute(statement, (connection_id,)).rowcount
    session.commit()
    return gone


def _delete_versions(session: Session, provider: str, connection_id: str) -> int:
    """Delete the oldest versions with their raw records; an older one refers to a newer one, never the other way round."""
    loads = session.execute(
        "select load_id, stream from ops.load where connection_id = %s order by load_id limit %s",
        (connection_id, _VERSIONS_AT_ONCE),
    ).fetchall()
    for stream in sorted({stream for _, stream in loads}):
        table = f"{provider}_{stream}"
        if session.execute("select to_regclass(%s)", (f"raw.{table}",)).fetchone() == (None,):
            continue  # a stream that no longer exists
        ids = [load_id for load_id, of_stream in loads if of_stream == stream]
        session.execute(sql.SQL("delete from raw.{} where load_id = any(%s)").format(sql.Identifier(table)), (ids,))
    session.execute("delete from ops.load where load_id = any(%s)", ([load_id for load_id, _ in loads],))
    session.commit()
    return len(loads)


def sweep(warehouse: Warehouse, connection_id: str, schemas: Iterable[str]) -> None:
    """Delete what tables of dbt still hold of the connection: those that a rebuild of days does not reach."""
    with warehouse.session(TRANSFORMER, application="ai_usage purge") as session:
        tables = session.execute(
            """
            select space.nspname, class.relname
            from pg_class as class
            inner join pg_namespace as space on space.oid = class.relnamespace
            inner join pg_attribute as attribute on attribute.attrelid = class.oid
            where space.nspname = any(%s) and class.relkind = 'r'
                and attribute.attname = 'connection_id' and not attribute.attisdropped
            order by 1, 2
            """,
            (list(schemas),),
        ).fetchall()
        for schema, table in tables:
            statement = sql.SQL("delete from {}.{} where connection_id = %s")
            session.execute(statement.format(sql.Identifier(schema), sql.Identifier(table)), (connection_id,))
            session.commit()


def finish(warehouse: Warehouse, place: Place, run_id: str) -> str:
    """
    Delete the connection itself, leave the one event that tells of it, and return its words.

    :raises PurgeUnfinished: if the marts have not been rebuilt, or the connection was read again meanwhile.
    """
    connection_id = place.connection_id
    with _janitor(warehouse, connection_id) as session:
        waiting = session.execute(
            "select 1 from ops.pending_rebuild where connection_id = %s limit 1", (connection_id,)
        ).fetchone()
        if waiting:
            raise PurgeUnfinished(
                "Its records are deleted, but the marts have not been rebuilt without them yet.",
                action="Run the command again; it goes on from here.",
                connection_id=connection_id,
            )
        message = _DONE + (_begun(session, connection_id) or "nothing was left.")
        for table in ("scope", "connection", "event"):
            statement = sql.SQL("delete from ops.{} where connection_id = %s").format(sql.Identifier(table))
            session.execute(statement, (connection_id,))
        events.record_event(session, place, "purged", "info", message, None, run_id)
    return message


def refuse_a_source(connection_id: str, listed: Iterable[str]) -> None:
    """Refuse to delete the history of a connection that the next run would read again."""
    if connection_id in listed:
        raise ConfigurationInvalid(
            "It is still a source, so the next run would read everything again.",
            action=f"Run `bin/ai-usage disconnect {connection_id}` first.",
            connection_id=connection_id,
        )
