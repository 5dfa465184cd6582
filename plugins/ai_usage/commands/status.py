"""``ai-usage status``: what is known of every source."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any, TextIO

from psycopg import sql

from ai_usage.commands import BAD, GOOD
from ai_usage.commands.output import print_json, printable, table
from ai_usage.warehouse.roles import LOADER, READER
from ai_usage.warehouse.session import Session, Warehouse

SUMMARY = "show what is known of every source: state, last success, newest day, open problem"
DESCRIPTION = (
    "The table marts.integration_status; before the first transform, what the ledger knows. No provider is asked:\n"
    "`ai-usage check` does that."
)
EXAMPLES = """\
  ai-usage status
  ai-usage status --json | jq '.[] | select(.state == "failing")'
"""
BAD_MEANS = "a source is failing"

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: there are none."""


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Show the status of every source."""
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    rows = _status(open_warehouse())
    if options.json:
        print_json(rows, answers)
    else:
        _print(rows, answers)
    return BAD if any(row["state"] == "failing" for row in rows) else GOOD


def _status(warehouse: Warehouse) -> list[Row]:
    with warehouse.session(READER) as session:
        is_built = session.execute(
            "select 1 from pg_class where relnamespace = 'marts'::regnamespace and relname = 'integration_status'"
        ).fetchone()
        if is_built:
            return _rows(session, "select * from marts.integration_status")
    with warehouse.session(LOADER) as session:
        return _rows(session, _FROM_THE_LEDGER)


def _rows(session: Session, statement: str) -> list[Row]:
    wrapped = sql.SQL("select row_to_json(found)::text from ({}) as found").format(sql.SQL(statement))
    rows = session.execute(wrapped).fetchall()
    return [json.loads(text) for (text,) in rows]


_FROM_THE_LEDGER = """
select
    provider.provider,
    connection.connection_id,
    case
        when connection.connection_id is null or connection.disconnected_at is not null then 'not_connected'
        when problem.severity = 'error' then 'failing'
        when problem.kind = 'not_entitled' then 'not_entitled'
        when problem.kind is not null then 'degraded'
        else 'connected'
    end as state,
    connection.last_success_at,
    (
        select max(slice.usage_date) from ops.slice as slice
        where slice.connection_id = connection.connection_id and slice.load_id is not null
    ) as newest_usage_date,
    problem.message as problem,
    problem.action
from ops.provider as provider
left join ops.connection as connection on connection.provider = provider.provider
left join lateral (
    select one.severity, one.kind, one.message, one.action from ops.problem as one
    where one.connection_id = connection.connection_id and one.resolved_at is null
    order by one.severity = 'error' desc, one.opened_at limit 1
) as problem on true
order by provider.provider, connection.connection_id
"""


def _print(rows: list[Row], answers: TextIO) -> None:
    heads = [name for name in _SHOWN if rows and name in rows[0]]
    lines = [[_short(row[name]) for name in heads] for row in rows]
    answers.write(table([name.replace("_", " ") for name in heads], lines) + "\n")
    told: set[tuple[Any, ...]] = set()
    for row in rows:
        story = tuple(row.get(name) for name in ("provider", "connection_id", "problem"))
        # A connection's row repeats the problem of its parts.
        if row.get("problem") and story not in told:
            told.add(story)
            place = " · ".join(str(row[name]) for name in ("connection_id", "scope") if row.get(name))
            answers.write(f"\n{printable(place or row['provider'])}: {printable(row['problem'])}\n")
            if row.get("action"):
                answers.write(f"  → {printable(row['action'])}\n")


def _short(value: Any) -> Any:
    """Return a moment to the minute, and everything else as it is."""
    found = _MOMENT.match(value) if isinstance(value, str) else None
    return f"{found[1]} {found[2]}" if found else value


_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d")
_SHOWN = (
    "provider",
    "connection_id",
    "scope",
    "state",
    "since",
    "last_success_at",
    "next_expected_at",
    "newest_usage_date",
)
