"""What a run has brought: the table of the marts, as text."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

_ROWS = 30
_COLUMNS = {
    "usage_date": "day",
    "provider": "provider",
    "account": "account",
    "region": "region",
    "model": "model",
    "requests": "requests",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "coverage": "coverage",
}
# Long resource names keep their two ends, which tell them apart.
_WIDEST = 48
_NUMBERS = ("requests", "input_tokens", "output_tokens")

_QUERY = """
select
    usage_date, provider, coalesce(nullif(account_name, ''), account_id) as account, region, model,
    requests, input_tokens, output_tokens, coverage
from marts.usage_daily
order by usage_date desc, provider, account, region, model
limit %s
"""
_TOTALS = """
select
    count(*) as rows, count(distinct usage_date) as days, min(usage_date) as first, max(usage_date) as last,
    sum(requests) as requests, sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens
from marts.usage_daily
"""
_COVERAGE = "select coverage, count(*) as rows from marts.usage_daily group by coverage order by rows desc, coverage"


def usage_table(reader_dsn: str) -> str:
    """Return the newest rows of ``marts.usage_daily`` and a total of all, read as the reader role."""
    try:
        with psycopg.connect(reader_dsn, row_factory=dict_row) as session:
            rows = session.execute(_QUERY, (_ROWS,)).fetchall()
            totals = session.execute(_TOTALS).fetchone() or {}
            coverage = session.execute(_COVERAGE).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege):
        return "marts.usage_daily does not exist yet: no transform has run."
    if not rows:
        return "marts.usage_daily is empty: no usage has been read yet."
    states = ", ".join(f"{state['coverage']} {state['rows']:,}" for state in coverage)
    return "\n".join(
        [
            f"marts.usage_daily, the newest {len(rows)} of {totals['rows']:,} rows:",
            "",
            *render(rows),
            "",
            f"All {totals['days']:,} days, {totals['first']} to {totals['last']}: {_cell(totals['requests'])} requests,"
            f" {_cell(totals['input_tokens'])} input tokens, {_cell(totals['output_tokens'])} output tokens.",
            f"Coverage by row: {states}.",
        ]
    )


def render(rows: list[dict[str, Any]]) -> list[str]:
    """Return aligned lines, numbers to the right; NULL is shown as ``-``, for it is not zero."""
    cells = [list(_COLUMNS.values())] + [[_cell(row[name]) for name in _COLUMNS] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            text.rjust(width) if name in _NUMBERS else text.ljust(width)
            for name, text, width in zip(_COLUMNS, line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, int | Decimal):
        return f"{value.normalize():,f}" if isinstance(value, Decimal) else f"{value:,}"
    text = str(value)
    half = _WIDEST // 2
    return text if len(text) <= _WIDEST else f"{text[: half - 1]}…{text[-half:]}"
