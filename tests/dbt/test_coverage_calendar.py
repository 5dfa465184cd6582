"""
The calendar, the months and the freshness of a warehouse with every kind of gap, against plain loops over the ledger.

dbt takes seconds to start, so there are two builds: one over a warehouse of an older version, one after things went wrong.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from tests.dbt.bedrock_ledger import BedrockLedger, record
from tests.dbt.conftest import Dbt, reader_session

pytestmark = pytest.mark.timeout(300)

NOVA, LLAMA = "amazon.nova-pro-v1:0", "meta.llama3-1-8b-instruct-v1:0"
EAST, WEST = "us-east-1", "eu-west-1"
ACCOUNT, OTHER = "123456789012", "210987654321"
HISTORY = 75
RETENTION = 455
LOADED = {"final", "provisional", "confirmed_zero"}
REFUSED = "first (eu-west-1): The role lacks cloudwatch:GetMetricData. Grant it."
NEVER_PLANNED = range(18, 21)
LOST, REFUSED_DAY, EMPTY_DAY, PAUSED_SINCE, GONE_SINCE, DISCONNECTED_SINCE = 30, 5, 12, 9, 7, 6
DELETED = 40
FORGOTTEN = range(RETENTION + 1, RETENTION + 4)

Place = tuple[str, str]


@dataclass
class World:
    """A day to count from, the warehouse, and what the ledger holds by now."""

    dbt: Dbt
    today: date
    account_of: dict[str, str]
    ended: dict[Place, date] = field(default_factory=dict)
    untouched: set[tuple[Any, ...]] = field(default_factory=set)
    """The rows of the tables of months that the second build left as they were."""

    def day(self, days_ago: int) -> date:
        return self.today - timedelta(days=days_ago)

    def known(self) -> dict[Place, dict[date, str]]:
        """Return place → day → state, as the ledger has it."""
        known: dict[Place, dict[date, str]] = defaultdict(dict)
        for connection, scope, day, state in self.dbt.warehouse.query(
            "select connection_id, scope, usage_date, state from ops.slice where stream = 'metrics'"
        ):
            known[connection, scope][day] = state
        return known

    def calendar(self) -> dict[tuple[str, str, date], tuple[str, bool]]:
        """Return (connection, scope, day) → (state, whether it counts): what the mart has to say."""
        known = self.known()
        seats: dict[tuple[str, str, date], list[tuple[Any, str, str]]] = defaultdict(list)
        for (connection, scope), days in known.items():
            last = max([min(self.today, self.ended.get((connection, scope), self.today)), *days])
            for n in range((last - min(days)).days + 1):
                day = min(days) + timedelta(days=n)
                hole = "outside_retention" if day <= self.today - timedelta(days=RETENTION) else "missing"
                state, is_hole = days.get(day, hole), day not in days
                latest = self.dbt.ledger.slices[connection, scope, day].reading if not is_hole else 0
                rank = (is_hole, state not in LOADED, -latest, connection)
                seats[self.account_of[connection], scope, day].append((rank, connection, state))
        return {
            (connection, scope, day): (state, place == min(places))
            for (_, scope, day), places in seats.items()
            for place in places
            for _, connection, state in [place]
        }

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask as an analyst."""
        with reader_session(self.dbt) as session:
            return session.execute(statement.encode(), values).fetchall()

    def row(self, connection: str, scope: str, days_ago: int) -> dict[str, Any]:
        """Return a row of the calendar."""
        columns = (
            "coverage, reason, is_loaded, age_hours, last_read_at, is_expected_to_change, expected_to_change_until"
        )
        ((*values,),) = self.ask(
            f"select {columns} from marts.coverage_calendar where connection_id = %s and scope = %s and usage_date = %s",
            *(connection, scope, self.day(days_ago)),
        )
        return dict(zip(columns.split(", "), values, strict=True))


def state_on(days_ago: int) -> str:
    return "final" if days_ago > 4 else "provisional"


def load(ledger: BedrockLedger, connection: str, region: str, today: date, *days_ago: int) -> None:
    for n in days_ago:
        tokens = {"Invocations": 1 + n, "InputTokenCount": 100 + n}
        ledger.load(connection, region, today - timedelta(days=n), [record(NOVA, tokens)], state_on(n))


def begin(ledger: BedrockLedger, today: date) -> None:
    """Two connections of one account, one of another that was taken out, and gaps of every kind."""
    for connection, region, account in (
        ("first", EAST, ACCOUNT),
        ("first", WEST, ACCOUNT),
        ("second", EAST, ACCOUNT),
        ("third", EAST, OTHER),
        ("third", WEST, OTHER),
    ):
        ledger.scope(connection, region, account, "Prod")
    days = [n for n in range(HISTORY) if n not in NEVER_PLANNED]
    load(ledger, "first", EAST, today, *days)
    load(ledger, "first", WEST, today, *(n for n in range(PAUSED_SINCE, HISTORY)))
    # It reads the same as the first, later, and closes one of its gaps.
    load(ledger, "second", EAST, today, *range(NEVER_PLANNED[1] - 4), NEVER_PLANNED[0], *range(21, 31))
    load(ledger, "third", EAST, today, *range(DISCONNECTED_SINCE + 2, HISTORY), *FORGOTTEN[::2])
    load(ledger, "third", WEST, today, *range(GONE_SINCE + 1, 50))
    ledger.load("first", WEST, today - timedelta(days=EMPTY_DAY), [], "confirmed_zero")


def go_wrong(ledger: BedrockLedger, dbt: Dbt, today: date) -> None:
    """A day is refused, one is lost, one is deleted."""
    ledger.mark("first", WEST, today - timedelta(days=LOST), "missing")
    ledger.mark("third", EAST, today - timedelta(days=REFUSED_DAY), "not_entitled")
    refused = today - timedelta(days=REFUSED_DAY)
    ledger.mark("first", WEST, refused, "failed")
    for message, ago in (("first (eu-west-1): An older refusal.", "2 hours"), (REFUSED, "1 hour")):
        dbt.warehouse.query(
            "insert into ops.extraction (provider, connection_id, stream, scope, window_first, window_last, run_id,"
            " started_at, finished_at, outcome, error_kind, error_message) values ('aws_bedrock', 'first', 'metrics',"
            " %s, %s, %s, 'test', now() - %s::interval, now(), 'failed', 'permission_missing', %s)",
            *(WEST, refused - timedelta(days=1), refused + timedelta(days=1), ago, message),
        )
    gone = today - timedelta(days=DELETED)
    dbt.warehouse.query("delete from ops.slice where connection_id = 'first' and usage_date = %s", gone)
    del ledger.slices["first", EAST, gone], ledger.slices["first", WEST, gone]


@pytest.fixture(scope="module")
def world(module_dbt: Dbt) -> Iterator[World]:
    now = datetime.now(UTC)
    if now.hour == 23 and now.minute >= 50:
        pytest.skip("within ten minutes of midnight UTC the warehouse and the test could live on different days")
    today, query = now.date(), module_dbt.warehouse.query
    # What an older version left: a table of the same name, with what readers were allowed.
    query(
        "create table marts.coverage_calendar (usage_date date, provider text);"
        "alter table marts.coverage_calendar owner to ai_usage_transformer;"
        "grant select on marts.coverage_calendar to ai_usage_reader"
    )
    begin(module_dbt.ledger, today)
    query("update ops.scope set last_seen_at = now()")
    query(
        "update ops.scope set last_seen_at = now() - %s * interval '1 day' where connection_id = 'third' and scope = %s",
        *(GONE_SINCE, WEST),
    )
    module_dbt.transform("--exclude-resource-type", "unit_test")
    months = row_versions(module_dbt)
    query(
        "update ops.connection set disconnected_at = now() - %s * interval '1 day' where connection_id = 'third'",
        DISCONNECTED_SINCE,
    )
    go_wrong(module_dbt.ledger, module_dbt, today)
    module_dbt.transform("--exclude-resource-type", "unit_test")
    made = World(module_dbt, today, {"first": ACCOUNT, "second": ACCOUNT, "third": OTHER})
    made.ended = {("third", EAST): made.day(DISCONNECTED_SINCE), ("third", WEST): made.day(GONE_SINCE)}
    made.untouched = months & row_versions(module_dbt)
    yield made


def row_versions(dbt: Dbt) -> set[tuple[Any, ...]]:
    """Return which version of which row the tables of months hold."""
    return set(
        dbt.warehouse.query(
            "select usage_month, 'usage', ctid::text, xmin::text from intermediate.int_usage_monthly"
            " union all select usage_month, 'coverage', ctid::text, xmin::text from intermediate.int_coverage_monthly"
        )
    )


def test_the_table_of_an_older_version_has_become_a_view_that_readers_may_read(world: World) -> None:
    assert world.dbt.warehouse.query(
        "select relkind::text from pg_class where oid = 'marts.coverage_calendar'::regclass"
    ) == [("v",)]
    assert world.ask("select count(*) > 100 from marts.coverage_calendar") == [(True,)]


def test_every_day_that_should_be_there_is_there_once_and_holes_are_missing(world: World) -> None:
    rows = world.ask("select connection_id, scope, usage_date, coverage, is_counted from marts.coverage_calendar")

    told = {(connection, scope, day): (coverage, counted) for connection, scope, day, coverage, counted in rows}
    assert len(told) == len(rows), "a day is told twice"
    assert told == world.calendar()
    assert {coverage for coverage, _ in told.values()} == {
        *LOADED,
        *("missing", "failed", "not_entitled", "outside_retention"),
    }


def test_what_another_connection_has_read_counts_instead_of_a_hole(world: World) -> None:
    def counted(days_ago: int) -> list[tuple[Any, ...]]:
        return world.ask(
            "select connection_id, coverage from marts.coverage_calendar"
            " where account_id = %s and scope = %s and usage_date = %s and is_counted",
            *(ACCOUNT, EAST, world.day(days_ago)),
        )

    assert counted(NEVER_PLANNED[0]) == [("second", "final")]
    assert counted(NEVER_PLANNED[1]) == [("first", "missing")]


def test_the_calendar_says_why_and_whether_it_will_change(world: World) -> None:
    settled = world.row("first", EAST, HISTORY - 1)
    assert settled["reason"] == "Read completely after the provider had settled it."
    assert (settled["is_expected_to_change"], settled["expected_to_change_until"]) == (False, None)
    assert settled["age_hours"] > 0

    today = world.row("first", EAST, 0)
    assert today["coverage"] == "provisional"
    assert today["is_expected_to_change"] is True
    # Three days after the end of the day.
    assert today["expected_to_change_until"].date() == world.today + timedelta(days=4)
    assert 0 <= today["age_hours"] < 1, "it was read on this run, however old the version"

    failed = world.row("first", WEST, REFUSED_DAY)
    assert failed["reason"] == REFUSED
    assert failed["is_expected_to_change"] is True
    assert failed["expected_to_change_until"].date() == world.today + timedelta(days=RETENTION - REFUSED_DAY)
    assert failed["age_hours"] is None

    never_planned = world.row("first", WEST, 1)
    assert never_planned["reason"] == "No reading of this day has reached the marts yet."
    assert (never_planned["is_loaded"], never_planned["is_expected_to_change"]) == (False, True)

    forgotten = world.row("third", EAST, FORGOTTEN[1])
    assert (forgotten["coverage"], forgotten["is_expected_to_change"]) == ("outside_retention", False)

    assert "had nothing" in world.row("first", WEST, EMPTY_DAY)["reason"]
    assert world.row("third", EAST, REFUSED_DAY)["reason"] == "The plan of the account does not include it."


def test_a_source_that_was_taken_out_is_expected_no_longer(world: World) -> None:
    assert world.ask(
        "select scope, max(usage_date), bool_or(is_expected_to_change) from marts.coverage_calendar"
        " where connection_id = 'third' group by scope order by scope"
    ) == [(WEST, world.day(GONE_SINCE), False), (EAST, world.day(REFUSED_DAY), False)]
    assert world.ask("select count(*) from marts.source_freshness where connection_id = 'third'") == [(0,)]


def test_freshness_tells_how_far_the_slowest_part_of_a_source_is_behind(world: World) -> None:
    rows = world.ask(
        "select connection_id, newest_expected_day, newest_covered_day, days_behind, is_fresh, last_read_at is not null"
        " from marts.source_freshness order by connection_id"
    )

    assert rows == [
        ("first", world.today, world.day(PAUSED_SINCE), PAUSED_SINCE, False, True),
        ("second", world.today, world.today, 0, True, True),
    ]


def month_of(day: date) -> date:
    return day.replace(day=1)


def expected_shares(world: World) -> dict[tuple[date, str, str], Fraction]:
    """Return (month, account, region) → covered days by days that should be there."""
    days: dict[tuple[date, str, str], list[bool]] = defaultdict(list)
    for (connection, scope, day), (state, is_counted) in world.calendar().items():
        if is_counted:
            days[month_of(day), world.account_of[connection], scope].append(state in LOADED)
    return {place: Fraction(sum(known), len(known)) for place, known in days.items()}


def test_a_month_carries_the_exact_share_of_what_should_be_there(world: World) -> None:
    expected = expected_shares(world)
    rows = world.ask(
        "select usage_month, account_id, region, model, requests, covered_share, covered_days, expected_days"
        " from marts.usage_monthly"
    )

    told = {(month, account, region): Fraction(covered, whole) for month, account, region, *_, covered, whole in rows}
    assert {place: share for place, share in expected.items() if place in told} == told
    for *_, model, requests, share, covered, whole in rows:
        assert abs(share - Decimal(covered) / whole) < Decimal("1e-15")
        assert (share == 1) == (covered == whole)
        assert (requests is None) == (model is None)
    lacking = {place for place, share in expected.items() if share < 1}
    assert {(*place,) for *place, model, _, _, _, _ in rows if model is None} == lacking
    whole_months = {place for place, share in told.items() if share == 1}
    assert whole_months, "no month is whole: the test compares nothing"
    # A month in which no day is known: the source was connected, and its days are in no table at all.
    nothing = [place for place, share in expected.items() if share == 0]
    assert nothing
    assert set(nothing) <= lacking


def test_months_are_the_sums_of_their_days(world: World) -> None:
    columns = "requests, input_tokens, output_tokens"
    sums: dict[tuple[Any, ...], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 3)
    for day, account, region, model, *numbers in world.ask(
        f"select usage_date, account_id, region, model, {columns} from marts.usage_daily where model is not null"
    ):
        place = (month_of(day), account, region, model)
        sums[place] = [a + b for a, b in zip(sums[place], numbers, strict=True)]

    rows = world.ask(
        f"select usage_month, account_id, region, model, {columns} from marts.usage_monthly where model is not null"
    )

    assert {tuple(place): list(numbers) for *place, a, b, c in rows for numbers in [(a, b, c)]} == sums
    assert len(rows) == len(sums) > 4


def test_only_months_with_a_changed_day_are_added_up_again(world: World) -> None:
    changed = {month_of(world.day(n)) for n in (LOST, REFUSED_DAY, DELETED)}
    months = {month for month, *_ in world.untouched}

    assert {(kind) for _, kind, *_ in world.untouched} == {"usage", "coverage"}
    assert months == {month for month, *_ in expected_shares(world)} - changed - months_without_slices(world)


def months_without_slices(world: World) -> set[date]:
    loaded = {month_of(day) for days in world.known().values() for day in days}
    return {month for month, *_ in expected_shares(world)} - loaded


def test_a_month_of_one_provider_is_found_without_reading_all_of_history(world: World) -> None:
    places, days, query = 30, 3000, world.dbt.warehouse.query
    query(
        "insert into ops.connection (connection_id, provider) values ('long', 'groq');"
        "insert into ops.scope (connection_id, scope) select 'long', 'part-' || n from generate_series(1, 30) as n"
    )
    query(
        "insert into intermediate.int_coverage_calendar (provider, account_id, region, connection_id, stream, scope,"
        " coverage, is_loaded, record_count, is_counted, usage_date)"
        " select 'groq', 'acme', 'unspecified', 'long', 'usage', 'part-' || part, 'final', true, 1, true,"
        " %s::date - day from generate_series(1, %s) as part cross join generate_series(0, %s) as day",
        *(world.today, places, days),
    )
    query("analyze intermediate.int_coverage_calendar")
    first, last = world.day(1000), world.day(971)
    try:
        assert world.ask("select count(*) from marts.coverage_calendar where provider = 'groq'") == [
            (places * (days + 1),)
        ]
        month = rows_read(
            world,
            "select * from marts.coverage_calendar where provider = 'groq' and usage_date between %s and %s",
            *(first, last),
        )
        # The rows themselves, a probe for each of them, and a few for each place.
        assert places * 30 <= month <= places * 30 * 2 + 10 * (places + 10)
        assert rows_read(world, "select * from marts.usage_monthly where usage_month = %s", month_of(first)) < 1000
        assert rows_read(world, "select * from marts.source_freshness") < 1000
        # What a build does for the months that changed, as it was built last.
        (compiled,) = (world.dbt.scratch / "target/compiled").rglob("int_coverage_monthly.sql")
        assert 0 < rows_read(world, compiled.read_text()) < 1000
    finally:
        query("delete from intermediate.int_coverage_calendar where connection_id = 'long'")
        query(
            "delete from ops.scope where connection_id = 'long'; delete from ops.connection where connection_id = 'long'"
        )


def test_somebody_in_the_middle_of_a_query_does_not_hold_up_a_build_nor_later_readers(world: World) -> None:
    views = ("coverage_calendar", "usage_monthly", "source_freshness")
    with world.dbt.warehouse.as_reader() as reader:
        for view in views:
            reader.execute(f"select count(*) from marts.{view}".encode())

        outcome = world.dbt.run("run", "--select", *views, PGOPTIONS="-c lock_timeout=2s")

    assert outcome.exit_code == 0, outcome.output
    assert outcome.statuses == dict.fromkeys(views, "success")


def test_no_view_of_the_marts_stands_on_a_table_that_a_full_refresh_swaps(world: World) -> None:
    nodes = json.loads((world.dbt.scratch / "target/manifest.json").read_text())["nodes"]
    views = [name for name, node in nodes.items() if node["config"].get("materialized") == "view"]
    below = [name for name in views if nodes[name]["schema"] == "marts"]
    swapped, seen = [], set()
    while below:
        name = below.pop()
        seen.add(name)
        if name in views:
            below += [parent for parent in nodes[name]["depends_on"]["nodes"] if parent in nodes]
        elif nodes[name]["config"]["full_refresh"] is not False:
            swapped.append(name)

    assert "model.ai_usage.int_coverage_calendar" in seen
    assert swapped == []


def rows_read(world: World, statement: str, *values: object) -> int:
    """Return how many rows of the calendar's table a query looks at, those it throws away among them."""
    ((plan,),) = world.dbt.warehouse.query(f"explain (analyze, timing off, format json) {statement}", *values)
    plan = json.loads(plan) if isinstance(plan, str) else plan
    read = 0
    nodes = [plan[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node.get("Relation Name") == "int_coverage_calendar":
            seen = (
                node["Actual Rows"]
                + node.get("Rows Removed by Filter", 0)
                + node.get("Rows Removed by Index Recheck", 0)
            )
            read += round(seen * node["Actual Loops"])
    return read
