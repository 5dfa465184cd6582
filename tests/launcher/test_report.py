from __future__ import annotations

import re
from decimal import Decimal

import psycopg

from launcher.postgres import Postgres
from launcher.report import usage_table

TABLE = """
drop schema if exists marts cascade;
create schema marts;
create table marts.usage_daily (
    usage_date date, provider text, account_id text, account_name text, region text, model text,
    requests numeric, api_calls numeric, input_tokens numeric, output_tokens numeric,
    billed_cost numeric, billed_currency text, coverage text
);
"""


def report(server: Postgres, *rows: tuple[object, ...]) -> list[str]:
    with psycopg.connect(server.dsn()) as session:
        session.execute(TABLE)
        for row in rows:
            session.execute("insert into marts.usage_daily values (%s,%s,%s,%s,%s,%s,%s,null,%s,%s,%s,%s,%s)", row)
    return usage_table(server.dsn()).splitlines()


def row(
    day: int,
    model: str | None,
    requests: int | None,
    coverage: str = "final",
    provider: str = "aws_bedrock",
    cost: str | None = None,
) -> tuple[object, ...]:
    tokens = None if requests is None else Decimal(requests * 1000)
    return (
        f"2026-08-{day:02}", provider, "123456789012", "Production", "us-east-1", model,
        requests, tokens, tokens, cost, cost and "USD", coverage,
    )  # fmt: skip


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_before_any_transform_the_report_says_that_there_was_none(server: Postgres) -> None:
    server.start()
    with psycopg.connect(server.dsn()) as session:
        session.execute("drop schema if exists marts cascade")
    assert usage_table(server.dsn()) == "marts.usage_daily does not exist yet: no transform has run."
    assert report(server) == ["marts.usage_daily is empty: no usage has been read yet."]


def test_numbers_are_exact_and_a_missing_day_is_not_a_zero(server: Postgres) -> None:
    server.start()
    lines = report(server, row(1, "anthropic/claude", 1_234_567), row(2, None, None, "failed"), row(3, "meta/llama", 0))

    known = ["aws_bedrock", "Production", "us-east-1"]
    assert [cells(line) for line in lines[4:7]] == [
        ["2026-08-03", *known, "meta/llama", "0", "-", "0", "0", "-", "final"],
        ["2026-08-02", *known, "-", "-", "-", "-", "-", "-", "failed"],
        ["2026-08-01", *known, "anthropic/claude", "1,234,567", "-", "1,234,567,000", "1,234,567,000", "-", "final"],
    ]
    assert cells(lines[-3]) == [
        *("aws_bedrock", "1", "2", "2026-08-01", "2026-08-03", "3"),
        *("1,234,567", "-", "1,234,567,000", "1,234,567,000", "-"),
    ]
    assert lines[-1] == "Coverage by row: final 2, failed 1."


def test_columns_are_aligned_and_long_names_keep_both_ends(server: Postgres) -> None:
    server.start()
    name = "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abcdef123456"
    lines = report(server, row(1, name, 1), row(2, "a", 1_000_000))

    assert "arn:aws:bedrock" in lines[5]
    assert "abcdef123456" in lines[5]
    assert len({line.index("final") for line in lines[4:6]}) == 1
    assert lines[4].index("1,000,000 ") + len("1,000,000") == lines[5].index(" 1 ") + 2


def test_every_provider_shows_its_newest_rows_and_the_sum_of_all(server: Postgres) -> None:
    server.start()
    lines = report(
        server,
        *(row(day, f"model/{number}", 1) for day in range(1, 31) for number in range(2)),
        row(2, "gpt-5", 7, provider="openai", cost="1234.567"),
        row(2, "gpt-5-mini", 3, provider="openai", cost="0.001"),
    )
    assert [cells(line)[:2] for line in lines[4:10]] == [
        *[["2026-08-30", "aws_bedrock"]] * 2,
        *[["2026-08-29", "aws_bedrock"]] * 2,
        *[["2026-08-02", "openai"]] * 2,
    ]
    assert cells(lines[8])[-2] == "1,234.57 USD"
    assert cells(lines[-4])[:7] == ["aws_bedrock", "1", "2", "2026-08-01", "2026-08-30", "60", "60"]
    assert cells(lines[-3])[-1] == "1,234.57 USD"
