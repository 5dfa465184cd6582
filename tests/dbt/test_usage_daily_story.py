"""
One warehouse through its life: built, left alone, restated in every way, rebuilt from nothing.

dbt takes seconds to start, so the story is lived once (the fixture) and each test looks at one thing in it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import date

import psycopg
import pytest

from ai_usage import providers
from ai_usage.core.contract import Provider
from tests.dbt.bedrock_ledger import BedrockLedger, Record, record
from tests.dbt.conftest import MARTS, Dbt, Outcome, reader_session
from tests.dbt.oracle import Row, expected_usage_daily

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
SONNET_DIRECT = "anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "amazon.nova-pro-v1:0"
OPUS = "anthropic.claude-opus-4-7"
PROFILE = "ab12cd34ef56"
LLAMA = "meta.llama3-1-8b-instruct-v1:0"
ODD = "Ünïcode'; drop table x; --"

UP, DOWN, TO_ZERO, VANISHED, LATE, QUIET, UNTOUCHED = (date(2026, 5, day) for day in range(1, 8))
ACCOUNT = "123456789012"


def _usual(day: date, factor: int = 1) -> list[Record]:
    tokens = day.day * 1_000 * factor
    return [
        record(SONNET, {"Invocations": 3, "InputTokenCount": tokens, "CacheReadInputTokens": 9}),
        record(SONNET_DIRECT, {"InputTokenCount": tokens + 1, "CacheWriteInputTokenCount": 5}),
        record(NOVA, {"Invocations": 1, "InvocationThrottles": 2, "OutputImageCount": 4}),
        record(OPUS, {"Invocations": 8, "InputTokenCount": 2**70}),
        record(OPUS, {"Inferences": 2, "TotalInputTokens": 50}, namespace="AWS/BedrockMantle"),
        record(PROFILE, {"Invocations": 1}),
        record(ODD, {"Invocations": 1, "OutputTokenCount": 11}),
    ]


def _begin(ledger: BedrockLedger) -> None:
    """Two connections: one whose account is known, one whose account turns out later to be the same."""
    for region in ("us-east-1", "eu-west-1"):
        ledger.scope("aws_bedrock_default", region, ACCOUNT, "Production")
        ledger.scope("aws_second", region)
    for day in (UP, DOWN, TO_ZERO, VANISHED, LATE, QUIET, UNTOUCHED):
        ledger.load("aws_second", "us-east-1", day, _usual(day, factor=2))
        ledger.load("aws_bedrock_default", "us-east-1", day, _usual(day))
        ledger.mark("aws_second", "eu-west-1", day, "not_entitled")
        if day == LATE:
            ledger.mark("aws_bedrock_default", "eu-west-1", day, "failed")
        elif day == QUIET:
            ledger.load("aws_bedrock_default", "eu-west-1", day, [], "confirmed_zero")
        else:
            ledger.load("aws_bedrock_default", "eu-west-1", day, [record(NOVA, {"Invocations": 5})], "provisional")
    once = [record(LLAMA, {"Invocations": 5}), record(NOVA, {"Invocations": 5})]
    ledger.load("aws_bedrock_default", "eu-west-1", TO_ZERO, once)


def _change(ledger: BedrockLedger) -> None:
    ledger.load("aws_bedrock_default", "eu-west-1", UP, [record(NOVA, {"Invocations": 50})])
    ledger.load("aws_bedrock_default", "eu-west-1", DOWN, [record(NOVA, {"Invocations": 1})])
    ledger.load("aws_bedrock_default", "eu-west-1", TO_ZERO, [], "confirmed_zero")
    ledger.load("aws_bedrock_default", "eu-west-1", VANISHED, [record(PROFILE, {"Invocations": 5})])
    ledger.load("aws_bedrock_default", "eu-west-1", LATE, [record(SONNET, {"InputTokenCount": 7})])
    for region in ("us-east-1", "eu-west-1"):
        ledger.scope("aws_second", region, ACCOUNT)


@dataclass
class Story:
    """What was seen on the way."""

    dbt: Dbt
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    content: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    usage_daily: dict[str, list[Row]] = field(default_factory=dict)
    expected: dict[str, list[Row]] = field(default_factory=dict)
    versions: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    reader: list[str] = field(default_factory=list)
    """What a dashboard got that asked all through the full refresh: the number of rows, or the error."""

    def chapter(self, name: str, *arguments: str, **environment: str) -> None:
        """Build, and note what is there afterwards."""
        self.outcomes[name] = self.dbt.transform(*arguments, **environment)
        self.content[name] = self.dbt.content()
        self.usage_daily[name] = self.dbt.usage_daily()
        self.expected[name] = expected_usage_daily(self.dbt.ledger)
        self.versions[name] = self.dbt.row_versions()


@pytest.fixture(scope="module")
def story(module_dbt: Dbt) -> Story:
    lived = Story(module_dbt)
    without_unit_tests = ("--exclude-resource-type", "unit_test")
    _begin(module_dbt.ledger)
    lived.chapter("fresh")
    lived.chapter("nothing changed", *without_unit_tests)
    _change(module_dbt.ledger)
    lived.chapter("changed", *without_unit_tests, TZ="Asia/Kolkata", PGTZ="Asia/Kolkata")
    done = threading.Event()
    dashboard = threading.Thread(target=_ask_until, args=(lived, done))
    dashboard.start()
    try:
        lived.chapter("full refresh", "--full-refresh", *without_unit_tests)
    finally:
        done.set()
        dashboard.join()
    return lived


def _ask_until(story: Story, done: threading.Event) -> None:
    with reader_session(story.dbt) as session:
        while not done.wait(0.005):
            for mart in MARTS:
                try:
                    row = session.execute(f"select count(*) from marts.{mart}".encode()).fetchone()
                    story.reader.append(f"{mart}: {row and row[0]}")
                except psycopg.Error as error:
                    story.reader.append(f"{mart}: {error}")


@pytest.mark.parametrize("chapter", ["fresh", "nothing changed", "changed", "full refresh"])
def test_usage_daily_equals_what_the_ledger_implies(story: Story, chapter: str) -> None:
    assert story.usage_daily[chapter] == story.expected[chapter]


def test_every_model_test_and_unit_test_of_the_project_ran(story: Story) -> None:
    kinds = {result["unique_id"].split(".")[0] for result in story.outcomes["fresh"].results}

    assert kinds == {"model", "test", "unit_test"}
    assert set(story.outcomes["fresh"].statuses.values()) == {"success", "pass"}


def test_a_build_with_nothing_pending_writes_no_row_anywhere(story: Story) -> None:
    assert story.versions["nothing changed"] == story.versions["fresh"]


def test_days_that_did_not_change_keep_their_rows_untouched(story: Story) -> None:
    """All days of the second connection changed with its account, so the meters show it: they are per connection."""
    query = "select count(*) from intermediate.int_usage_meters where connection_id = 'aws_bedrock_default'"
    (kept,) = story.dbt.warehouse.query(f"{query} and usage_date = %s", UNTOUCHED)[0]
    before = set(story.versions["fresh"]["intermediate.int_usage_meters"])

    assert kept > 0
    assert len(before & set(story.versions["changed"]["intermediate.int_usage_meters"])) >= kept


def test_a_restatement_to_zero_leaves_no_row_behind(story: Story) -> None:
    def rows(chapter: str) -> list[Row]:
        return [row for row in story.usage_daily[chapter] if row[0] == TO_ZERO and row[4] == "eu-west-1"]

    assert {row[5] for row in rows("fresh")} >= {"amazon/nova-pro", "meta/llama3-1-8b-instruct"}
    assert rows("changed") == []


def test_a_model_that_a_restatement_took_away_is_no_longer_listed(story: Story) -> None:
    def models(chapter: str) -> set[str]:
        return {row.split(",")[1].strip('"') for row in story.content[chapter]["dim_model"]}

    assert LLAMA in models("fresh")
    assert models("fresh") - models("changed") == {LLAMA}


def test_a_failed_day_is_a_row_without_numbers_until_it_is_loaded(story: Story) -> None:
    def rows(chapter: str) -> list[Row]:
        return [row[4:] for row in story.usage_daily[chapter] if row[0] == LATE and row[2] == ACCOUNT]

    not_counted_by_cloudwatch = (None,) * 6
    missing = ("eu-west-1", None, None, None, None, None, None, None, None, *not_counted_by_cloudwatch, "failed")
    loaded = ("eu-west-1", "anthropic/claude-sonnet-4-5", 0, 7, 7, 0, 0, 0, 0, *not_counted_by_cloudwatch, "final")
    assert missing in rows("fresh")
    assert missing not in rows("changed")
    assert loaded in rows("changed")


def test_an_account_that_is_learnt_later_takes_its_placeholder_along(story: Story) -> None:
    def accounts(chapter: str) -> set[object]:
        return {row[2] for row in story.usage_daily[chapter]}

    assert accounts("fresh") == {ACCOUNT, "aws_second"}
    assert accounts("changed") == {ACCOUNT}
    assert [row.split(",")[1] for row in story.content["changed"]["dim_account"]] == [ACCOUNT]


def test_two_connections_of_one_account_are_not_added_up(story: Story) -> None:
    opus = [row for row in story.usage_daily["changed"] if row[0] == QUIET and row[5] == "anthropic/claude-opus-4-7"]

    assert [(row[6], row[7]) for row in opus] == [(10, 2**70 + 50)]


def test_a_full_refresh_gives_the_same_bytes(story: Story) -> None:
    """The incremental build ran on the clock of Kolkata, the full refresh on that of the machine."""
    assert story.content["full refresh"] == story.content["changed"]


def test_a_dashboard_sees_whole_tables_all_through_a_full_refresh(story: Story) -> None:
    whole = {f"{mart}: {len(rows)}" for mart, rows in story.content["changed"].items()}

    assert len(story.reader) > 100
    assert set(story.reader) == whole


def test_readers_may_read_the_marts_and_nothing_else(story: Story) -> None:
    with reader_session(story.dbt) as session:
        for mart in MARTS:
            assert session.execute(f"select count(*) from marts.{mart}".encode()).fetchone() != (0,)
        for forbidden in (
            "select 1 from raw.aws_bedrock_metrics",
            "select 1 from ops.slice",
            "select 1 from staging.stg_aws_bedrock__metrics",
            "select 1 from intermediate.int_usage_meters",
            "delete from marts.usage_daily",
            "create table marts.mine (a integer)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(forbidden.encode())


@pytest.mark.parametrize("provider", providers.load_all(), ids=lambda provider: provider.name)
def test_one_changed_day_is_found_by_index_from_the_ledger_to_the_raw_records(story: Story, provider: Provider) -> None:
    with psycopg.connect(story.dbt.warehouse.admin_dsn) as session:
        session.execute("set enable_seqscan = off")  # the tables of a test are too small for an index to pay
        plan = "\n".join(
            str(line)
            for (line,) in session.execute(
                f"explain select * from staging.stg_{provider.name}__meters where (connection_id, usage_date) in"
                " (select connection_id, usage_date from staging.stg_ops__changed_days)".encode()
            )
        )

    assert "Index Cond: ((usage_date = stg_ops__changed_days.usage_date)" in plan
    usage = [stream for stream in provider.streams if stream.is_usage]
    assert plan.count("Index Cond: (load_id = slices") >= len(usage), plan
    for stream in usage:
        assert f"Seq Scan on {provider.name}_{stream.name}" not in plan


def test_what_a_mart_says_about_its_columns_is_in_the_database(story: Story) -> None:
    undocumented = story.dbt.warehouse.query(
        "select c.relname, a.attname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " join pg_attribute a on a.attrelid = c.oid and a.attnum > 0"
        " where n.nspname = 'marts' and c.relkind in ('r', 'v') and col_description(c.oid, a.attnum) is null"
    )

    assert undocumented == []


def test_no_password_is_written_to_what_dbt_leaves_behind(story: Story) -> None:
    password = story.dbt.warehouse.warehouse.password.encode()
    written = [path for path in story.dbt.scratch.rglob("*") if path.is_file()]

    assert written
    assert [path for path in written if password in path.read_bytes()] == []
