"""What a run has brought: the marts in short, as text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

_ROWS_PER_PROVIDER = 4
# Long resource names keep their two ends, which tell them apart.
_WIDEST = 48


class Column(NamedTuple):
    """A column of a table: where its cells come from, and what stands above them."""

    name: str
    title: str
    is_number: bool = False


_NUMBERS = (
    Column("requests", "requests", is_number=True),
    Column("api_calls", "API calls", is_number=True),
    Column("input_tokens", "input tokens", is_number=True),
    Column("output_tokens", "output tokens", is_number=True),
    Column("cost", "billed", is_number=True),
)
_NEWEST = (
    Column("usage_date", "day"),
    Column("provider", "provider"),
    Column("account", "account"),
    Column("region", "region"),
    Column("model", "model"),
    *_NUMBERS,
    Column("coverage", "coverage"),
)
_TOTALS = (
    Column("provider", "provider"),
    Column("accounts", "accounts", is_number=True),
    Column("models", "models", is_number=True),
    Column("first_day", "first day"),
    Column("last_day", "last day"),
    Column("row_count", "rows", is_number=True),
    *_NUMBERS,
)

# The newest rows that say something, of each provider; cents are enough here.
_NEWEST_QUERY = """
with ranked as (
    select *, row_number() over (
        partition by provider
        order by usage_date desc, coalesce(requests, api_calls) desc nulls last, billed_cost desc nulls last, model
    ) as place
    from marts.usage_daily
)

select
    usage_date, provider, coalesce(nullif(account_name, ''), account_id) as account, region, model,
    requests, api_calls, input_tokens, output_tokens, coverage,
    to_char(billed_cost, 'FM999,999,999,990.00') || ' ' || billed_currency as cost
from ranked
where place <= %s
order by provider, place
"""
_TOTALS_QUERY = """
with costs as (
    select provider, to_char(sum(billed_cost), 'FM999,999,999,990.00') || ' ' || billed_currency as cost
    from marts.usage_daily
    where billed_currency is not null
    group by provider, billed_currency
)

select
    provider, count(distinct account_id) as accounts, count(distinct model) as models,
    min(usage_date) as first_day, max(usage_date) as last_day, count(*) as row_count,
    sum(requests) as requests, sum(api_calls) as api_calls,
    sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens,
    (select string_agg(costs.cost, ', ' order by costs.cost) from costs where costs.provider = daily.provider) as cost
from marts.usage_daily as daily
group by provider
order by provider
"""
_COVERAGE_QUERY = """
select coverage, count(*) as row_count from marts.usage_daily group by coverage order by row_count desc, coverage
"""


def usage_table(reader_dsn: str) -> str:
    """Return the newest rows of ``marts.usage_daily`` of each provider and a total, read as the reader role."""
    try:
        with psycopg.connect(reader_dsn, row_factory=dict_row) as session:
            newest = session.execute(_NEWEST_QUERY, (_ROWS_PER_PROVIDER,)).fetchall()
            totals = session.execute(_TOTALS_QUERY).fetchall()
            coverage = session.execute(_COVERAGE_QUERY).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege):
        return "marts.usage_daily does not exist yet: no transform has run."
    if not newest:
        return "marts.usage_daily is empty: no usage has been read yet."
    states = ", ".join(f"{state['coverage']} {state['row_count']:,}" for state in coverage)
    return "\n".join(
        [
            f"marts.usage_daily, the newest rows of each provider (at most {_ROWS_PER_PROVIDER}):",
            "",
            *render(newest, _NEWEST),
            "",
            f"All {sum(total['row_count'] for total in totals):,} rows, by provider:",
            "",
            *render(totals, _TOTALS),
            "",
            f"Coverage by row: {states}.",
        ]
    )


def render(rows: list[dict[str, Any]], columns: Sequence[Column]) -> list[str]:
    """Return aligned lines, numbers to the right; NULL is shown as ``-``, for it is not zero."""
    cells = [[column.title for column in columns]] + [[_cell(row[column.name]) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = [
        "  ".join(
            text.rjust(width) if column.is_number else text.ljust(width)
            for column, text, width in zip(columns, line, widths, strict=True)
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
