"""
The janitor: deletes what is kept twice or has had its time, and measures what is left.

Nothing here can change a number. What is deleted of ``raw`` are the records of versions that were replaced long ago, and
only once what they came to is kept; the version's row in ``ops.load`` stays. Everything goes in small transactions, so
that the work may be ended at any time, and the next run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg import sql

from ai_usage.warehouse.roles import JANITOR
from ai_usage.warehouse.session import Session, Warehouse

log = logging.getLogger(__name__)

VERSIONS_AT_ONCE = 500
ROWS_AT_ONCE = 5_000
KEPT = {
    "ops.extraction": timedelta(days=90),
    "ops.dbt_run": timedelta(days=90),
    "ops.event": timedelta(days=400),
    "ops.problem": timedelta(days=400),
    "ops.digest": timedelta(days=400),
    "ops.table_figures": timedelta(days=400),
}
"""How long each table keeps its rows. Longer than a year where somebody may want to compare with last year."""
MANY_DEAD_ROWS = 10_000

Stop = Callable[[], bool]


@dataclass
class Cleaned:
    """What the janitor did."""

    versions: int = 0
    records: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    is_complete: bool = True

    def __str__(self) -> str:
        others = ", ".join(f"{count} of {table}" for table, count in self.rows.items() if count)
        text = f"{self.versions} replaced versions pruned ({self.records} records); rows deleted: {others or 'none'}."
        return text if self.is_complete else f"{text} There is more: the next run goes on."


# ---------------------------------------------------------------- records of replaced versions


def prune_versions(warehouse: Warehouse, keep: timedelta, done: Cleaned, stop: Stop = lambda: False) -> None:
    """
    Delete the raw records of versions that were replaced longer ago than ``keep``.

    A version stays whole while one of these holds:

    - it is the current one of its slice;
    - what it came to is not kept in ``intermediate.int_slice_totals``: no build has measured it yet;
    - its slice is empty now, and it is the last version that was not: perhaps the provider has only forgotten.
    """
    with warehouse.session(JANITOR, application="ai_usage janitor") as session:
        if not _totals_are_kept(session):
            log.info("No transform has kept what versions came to yet: nothing is pruned.")
            return
        after: tuple[object, int] = ("-infinity", 0)
        while versions := _prunable(session, keep, after):
            after = (versions[-1].superseded_at, versions[-1].load_id)
            for table in sorted({version.table for version in versions}):
                load_ids = [version.load_id for version in versions if version.table == table]
                done.records += _delete_records(session, table, load_ids)
                done.versions += len(load_ids)
            session.commit()
            log.info("%d replaced versions pruned so far, %d records", done.versions, done.records)
            if stop():
                done.is_complete = False
                return


class _Version(NamedTuple):
    load_id: int
    superseded_at: datetime
    table: str


def _totals_are_kept(session: Session) -> bool:
    row = session.execute(
        "select has_table_privilege(to_regclass('intermediate.int_slice_totals')::oid, 'select') is true"
    ).fetchone()
    return bool(row and row[0])


def _prunable(session: Session, keep: timedelta, after: tuple[object, int]) -> list[_Version]:
    """Return the next versions that may go, in the order in which they were replaced."""
    rows = session.execute(
        """
        select old.load_id, old.superseded_at, old.provider || '_' || old.stream
        from ops.load as old
        where old.superseded_by is not null and old.pruned_at is null
            and old.superseded_at < now() - %(keep)s
            and (old.superseded_at, old.load_id) > (%(replaced)s::timestamptz, %(load_id)s)
            and exists (select 1 from intermediate.int_slice_totals as kept where kept.load_id = old.load_id)
            and (
                old.record_count = 0
                or exists (
                    select 1 from ops.load as now_current
                    where now_current.connection_id = old.connection_id and now_current.usage_date = old.usage_date
                        and now_current.stream = old.stream and now_current.scope = old.scope
                        and now_current.superseded_by is null and now_current.record_count > 0
                )
                or exists (
                    select 1 from ops.load as later
                    where later.connection_id = old.connection_id and later.usage_date = old.usage_date
                        and later.stream = old.stream and later.scope = old.scope
                        and later.superseded_by is not null and later.load_id > old.load_id
                        and later.record_count > 0 and later.pruned_at is null
                )
            )
        order by old.superseded_at, old.load_id
        limit %(limit)s
        """,
        {"keep": keep, "replaced": after[0], "load_id": after[1], "limit": VERSIONS_AT_ONCE},
    ).fetchall()
    return [_Version(*row) for row in rows]


def _delete_records(session: Session, table: str, load_ids: list[int]) -> int:
    session.execute("update ops.load set pruned_at = now() where load_id = any(%s)", (load_ids,))
    statement = sql.SQL("delete from raw.{} where load_id = any(%s)").format(sql.Identifier(table))
    return session.execute(statement, (load_ids,)).rowcount


# ---------------------------------------------------------------- what has had its time


def delete_old_rows(warehouse: Warehouse, done: Cleaned, stop: Stop = lambda: False) -> None:
    """Delete attempts, events, ended problems, results of dbt and figures that are older than :data:`KEPT` says."""
    for table, statement in _OLD_ROWS.items():
        done.rows[table] = 0
        while True:
            with warehouse.session(JANITOR, application="ai_usage janitor") as session:
                deleted = session.execute(statement.encode(), {"keep": KEPT[table], "limit": ROWS_AT_ONCE}).rowcount
            done.rows[table] += deleted
            if stop():
                done.is_complete = False
                return
            if deleted < ROWS_AT_ONCE:
                break


_OLD_ROWS = {
    # An attempt that brought a version home belongs to that version.
    "ops.extraction": """
        delete from ops.extraction where extraction_id in (
            select extraction_id from ops.extraction as attempt
            where started_at < now() - %(keep)s and outcome <> 'running'
                and not exists (select 1 from ops.load where ops.load.extraction_id = attempt.extraction_id)
            limit %(limit)s
        )
    """,
    "ops.event": """
        delete from ops.event where event_id in (
            select event_id from ops.event as event
            where occurred_at < now() - %(keep)s
                -- A story that goes on keeps its beginning.
                and not exists (
                    select 1 from ops.problem
                    where ops.problem.problem_id = event.problem_id and ops.problem.resolved_at is null
                )
            limit %(limit)s
        )
    """,
    "ops.problem": """
        delete from ops.problem where problem_id in (
            select problem_id from ops.problem where resolved_at < now() - %(keep)s limit %(limit)s
        )
    """,
    "ops.digest": """
        delete from ops.digest where digest_date in (
            select digest_date from ops.digest where digest_date < current_date - %(keep)s limit %(limit)s
        )
    """,
    "ops.dbt_run": """
        with old as (
            select invocation_id from ops.dbt_run
            where started_at < now() - %(keep)s
                -- When something last went well is known from here, however long ago.
                and invocation_id not in (
                    select distinct on (command) invocation_id from ops.dbt_run
                    where succeeded order by command, started_at desc
                )
            limit %(limit)s
        ),
        results as (
            delete from ops.dbt_node_result where invocation_id in (select invocation_id from old)
        )
        delete from ops.dbt_run where invocation_id in (select invocation_id from old)
    """,
    "ops.table_figures": """
        delete from ops.table_figures where (measured_at, table_schema, table_name) in (
            select measured_at, table_schema, table_name from ops.table_figures
            where measured_at < now() - %(keep)s limit %(limit)s
        )
    """,
}


# ---------------------------------------------------------------- figures


def measure_tables(warehouse: Warehouse) -> list[str]:
    """
    Keep how large each table is and how many of its rows are dead; return a sentence about each that needs a look.

    Rows are made dead by replacing them, and PostgreSQL clears them away by itself. Where it does not keep up, queries
    become slow long before anything fails.
    """
    with warehouse.session(JANITOR, application="ai_usage janitor") as session:
        rows = session.execute(
            """
            insert into ops.table_figures (measured_at, table_schema, table_name, live_rows, dead_rows, total_bytes,
                last_vacuum_at, last_analyze_at)
            select now(), schemaname, relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid),
                greatest(last_vacuum, last_autovacuum), greatest(last_analyze, last_autoanalyze)
            from pg_stat_user_tables
            where schemaname in ('raw', 'ops', 'staging', 'intermediate', 'marts')
            returning table_schema || '.' || table_name, live_rows, dead_rows, total_bytes
            """
        ).fetchall()
    log.info("%d tables measured, %d MB in all", len(rows), sum(row[3] for row in rows) // 1_000_000)
    for name, live, dead, size in sorted(rows, key=lambda row: -int(row[3]))[:5]:
        log.info("%s: %d MB, %d rows, %d dead", name, size // 1_000_000, live, dead)
    return [
        f"{name} has {dead} dead rows beside {live} live ones: autovacuum does not keep up. See that it runs, and that no"
        " session holds a transaction open for hours."
        for name, live, dead, _ in rows
        if dead > MANY_DEAD_ROWS and dead > live
    ]
