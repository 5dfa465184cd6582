"""``ai-usage export``: a mart as CSV or JSON, with a reader's rights."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, TextIO

from psycopg import sql

from ai_usage.commands import GOOD
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.warehouse.roles import READER
from ai_usage.warehouse.session import Session

SUMMARY = "write a mart as CSV or JSON, with a reader's rights"
DESCRIPTION = (
    "Write a table or view of schema marts to standard output, row by row, ordered by its day. It is read as\n"
    "ai_usage_reader, so nothing leaves that an analyst may not see. In CSV, a text that a spreadsheet would take for a\n"
    "formula gets an apostrophe in front; JSON is one array with a row a line, numbers exact."
)
EXAMPLES = """\
  ai-usage export > usage.csv
  ai-usage export --from 2026-10-01 --to 2026-10-31 --table usage_daily_detail > october.csv
  ai-usage export --table usage_monthly --format json | jq .
"""
BAD_MEANS = "does not occur"

_DAYS = ("usage_date", "usage_month", "month", "occurred_at", "restated_at", "opened_at")
"""The columns that --from and --to mean, by preference."""
_AT_ONCE = 2000
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_NEEDS_QUOTES = re.compile(r'[",\r\n]')
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--table", default="usage_daily", metavar="NAME", help="table or view in marts (usage_daily)")
    parser.add_argument("--from", dest="first", metavar="DAY", help="first UTC day, YYYY-MM-DD")
    parser.add_argument("--to", dest="last", metavar="DAY", help="last UTC day, included")
    parser.add_argument("--format", choices=("csv", "json"), default="csv", help="csv, or json")


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Write the rows as they come, without holding them all."""
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    first, last = _day("--from", options.first), _day("--to", options.last)
    with open_warehouse().session(READER, application="ai_usage export") as session:
        session.execute("set transaction isolation level repeatable read read only")
        columns = _columns(session, options.table)
        query = _query(options.table, columns, first, last)
        if options.json or options.format == "json":
            _write_json(session, query, answers)
        else:
            _write_csv(session, query, answers)
    return GOOD


def _columns(session: Session, table: str) -> list[str]:
    """Return the columns of a mart; refuse what is none, or what a reader may not read."""
    rows = session.execute(
        """
        select class.relname::text, array_agg(attribute.attname::text order by attribute.attnum)
        from pg_class as class
        inner join pg_attribute as attribute on attribute.attrelid = class.oid
        where class.relnamespace = 'marts'::regnamespace and class.relkind in ('r', 'v', 'm', 'p')
            and attribute.attnum > 0 and not attribute.attisdropped and has_table_privilege(class.oid, 'select')
        group by class.relname order by class.relname
        """
    ).fetchall()
    known: dict[str, list[str]] = dict(rows)
    if table not in known:
        raise ConfigurationInvalid(
            f"There is no mart {table!r} that a reader may see.",
            action=f"Choose among: {', '.join(known) or 'none has been built yet'}.",
        )
    return known[table]


def _query(table: str, columns: Sequence[str], first: date | None, last: date | None) -> sql.Composed:
    day = next((name for name in _DAYS if name in columns), None)
    if day is None and (first or last):
        raise ConfigurationInvalid(f"{table} has no day, so --from and --to mean nothing.", action="Leave them out.")
    conditions: list[sql.Composable] = []
    if day and first:
        conditions.append(sql.SQL("{}::date >= {}").format(sql.Identifier(day), sql.Literal(first)))
    if day and last:
        conditions.append(sql.SQL("{}::date <= {}").format(sql.Identifier(day), sql.Literal(last)))
    ordered = [day, *[name for name in columns if name != day]] if day else list(columns)
    return sql.SQL("select {} from marts.{} where {} order by {}").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.Identifier(table),
        sql.SQL(" and ").join(conditions) if conditions else sql.SQL("true"),
        sql.SQL(", ").join(map(sql.Identifier, ordered)),
    )


def _write_csv(session: Session, query: sql.Composed, answers: TextIO) -> None:
    with session.cursor(name="export") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute(query)
        answers.write(_line(column.name for column in cursor.description or []))
        for row in cursor:
            answers.write(_line(cell(value) for value in row))


def _line(cells: Iterable[str]) -> str:
    """Return a line of CSV. (The library's writer leaves a lone carriage return bare, which ends a line for others.)"""
    return ",".join('"' + one.replace('"', '""') + '"' if _NEEDS_QUOTES.search(one) else one for one in cells) + "\n"


def cell(value: Any) -> str:
    """Return a value as it goes into a cell of CSV: NULL empty, numbers whole, and no text that a spreadsheet runs."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _write_json(session: Session, query: sql.Composed, answers: TextIO) -> None:
    answers.write("[")
    for n, text in enumerate(_json_rows(session, query)):
        answers.write(f"{',' if n else ''}\n{text}")
    answers.write("\n]\n")


def _json_rows(session: Session, query: sql.Composed) -> Iterator[str]:
    with session.cursor(name="export") as cursor:
        cursor.itersize = _AT_ONCE
        cursor.execute(sql.SQL("select row_to_json(mart)::text from ({}) as mart").format(query))
        for (text,) in cursor:
            yield text


def _day(name: str, text: str | None) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigurationInvalid(
            f"{name} is not a day: {text[:40]!r}.", action="Write it as YYYY-MM-DD, for example 2026-08-31."
        ) from None
