"""
Slices that change in every way, and what is told of it: by the versions, by the restatements, and after all else is lost.

dbt takes seconds to start, so the story is lived once (the fixture) and each test looks at one thing in it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ai_usage.orchestration.transform import transform
from tests.dbt.conftest import PROJECT, WITHOUT_THE_CLOCK, Dbt
from tests.dbt.settlement_oracle import at_share, expected_curve, expected_lookback, expected_settle_hours
from tests.dbt.versions import CONNECTION, Meters, Versions, cost, tokens

UP, DOWN, TO_ZERO, VANISHED, CAME, TWICE, CURRENCY, QUIET, REREAD = (date(2026, 5, n) for n in range(1, 10))
WEEK = [date(2026, 6, n) for n in range(1, 8)]
SETTLED = 80.0  # hours after the day; OpenAI's days settle after 72
TINY = "0.1234567890123456789"

Row = dict[str, Any]
COLUMNS = (
    "provider",
    "account_id",
    "connection_id",
    "stream",
    "scope",
    "usage_date",
    "meter",
    "currency",
    "cause",
    "old_state",
    "new_state",
    "old_value",
    "new_value",
    "delta",
    "was_settled",
    "was_published",
    "is_counted",
    "old_load_id",
    "new_load_id",
    "old_extracted_at",
    "new_extracted_at",
    "restated_at",
)


@dataclass
class Story:
    """What was seen on the way."""

    dbt: Dbt
    versions: Versions
    restatements: dict[str, list[Row]] = field(default_factory=dict)
    content: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    totals: dict[str, set[str]] = field(default_factory=dict)
    """Chapter → every row of ``int_slice_totals``, with its place on disk."""

    shown: list[tuple[Any, ...]] = field(default_factory=list)
    """Day → requests, input tokens, euros, as the marts had them before anything was lost."""
    curve: list[tuple[Any, ...]] = field(default_factory=list)
    recommendations: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Stream → its row, without provider and stream."""
    lookback: list[tuple[Any, ...]] = field(default_factory=list)

    def chapter(self, name: str, *arguments: str) -> None:
        """Build, and note what is there afterwards."""
        self.dbt.transform("--exclude-resource-type", "unit_test", *arguments)
        self.note(name)

    def note(self, name: str) -> None:
        """Note what is there."""
        query = self.dbt.warehouse.query
        rows = query(f"select {', '.join(COLUMNS)} from marts.restatements order by new_load_id, meter, currency")
        self.restatements[name] = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        self.totals[name] = {
            row[0] for row in query("select ctid::text || t::text from intermediate.int_slice_totals as t")
        }
        self.content[name] = {
            table: [row[0] for row in query(f"select {shown}::text from {table} as t order by 1")]
            for table, shown in self.tables().items()
        }

    def settle(self) -> None:
        """Note what the marts show, and what is told of settlement."""
        query = self.dbt.warehouse.query
        self.shown = query(
            "select usage_date, sum(requests), sum(input_tokens),"
            " sum(billed_cost) filter (where billed_currency = 'EUR') from marts.usage_daily group by 1 order by 1"
        )
        self.curve = query(
            "select stream, meter, hours_after_day_end, observed_slice_days, median_share, p95_share"
            " from marts.settlement_curve where provider = 'openai'"
        )
        rows = query("select * from marts.settlement_recommendations where provider = 'openai'")
        self.recommendations = {row[1]: row[2:] for row in rows}

    def tables(self) -> dict[str, str]:
        """Return what dbt makes, and how a row is shown: all tables, and the views that do not speak of this moment."""
        rows = self.dbt.warehouse.query(
            "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname in ('staging', 'intermediate', 'marts') and c.relname <> 'stg_ops__changed_days'"
            " and (c.relkind = 'r' or c.relkind = 'v'"
            " and (n.nspname = 'staging' and c.relname not like 'stg_ops%%' or c.relname = any(%s)))",
            ["coverage_calendar", "usage_monthly", "settlement_curve", "settlement_recommendations"],
        )
        clockless = {mart: shown.replace("(m)", "(t)") for mart, shown in WITHOUT_THE_CLOCK.items()}
        return {f"{schema}.{name}": clockless.get(name, "t") for schema, name in rows}

    def of(self, day: date, chapter: str = "changed") -> list[Row]:
        return [row for row in self.restatements[chapter] if row["usage_date"] == day]

    def changes(self, day: date, chapter: str = "changed") -> list[tuple[Any, ...]]:
        keys = ("meter", "currency", "old_value", "new_value", "delta", "was_settled")
        return [tuple(row[key] for key in keys) for row in self.of(day, chapter)]


def _begin(versions: Versions) -> None:
    for day in (UP, DOWN, TO_ZERO, VANISHED, TWICE, QUIET, REREAD, *WEEK):
        versions.read("embeddings", day, [tokens(10, 1_000), tokens(1, 2**70, "other")], SETTLED)
    versions.read("embeddings", CAME, [], SETTLED)
    versions.read("embeddings", UP, [tokens(10, 1_000), tokens(1, 2**70, "other")], SETTLED)
    versions.read("costs", CURRENCY, [cost("1.5"), cost(TINY)], 1)


def _change(versions: Versions) -> None:
    versions.read("embeddings", UP, [tokens(12, 1_500), tokens(1, 2**70, "other")], SETTLED + 1)
    versions.read("embeddings", DOWN, [tokens(10, 900), tokens(1, 2**70, "other")], SETTLED + 1)
    versions.read("embeddings", TO_ZERO, [tokens(0, 0)], SETTLED + 1)
    versions.read("embeddings", VANISHED, [], SETTLED + 1)
    versions.read("embeddings", CAME, [tokens(3, 0)], SETTLED + 1)
    versions.read("embeddings", REREAD, [tokens(10, 1_000, "renamed"), tokens(1, 2**70, "other")], SETTLED + 1)
    # Three versions between two builds: the transform was down, say.
    versions.read("embeddings", TWICE, [tokens(11, 1_100)], SETTLED + 1)
    versions.read("embeddings", TWICE, [], SETTLED + 2)
    versions.read("embeddings", TWICE, [tokens(7, 700)], SETTLED + 3)
    versions.read("costs", CURRENCY, [cost("2.5"), cost("1", "eur")], 2)
    versions.read("costs", CURRENCY, [cost("3", "eur")], SETTLED)
    _settle(versions)
    for day in WEEK:
        versions.read("embeddings", day, [tokens(10, 2_000), tokens(1, 2**70, "other")], SETTLED + 24 * day.day)


def _settle(versions: Versions) -> None:
    """Let days grow, shrink and stand still until they settle, most of them watched from their end on."""
    chance = random.Random(7)
    for number in range(24):
        day = date(2026, 3, 1) + timedelta(days=number)
        first = chance.choice([-3, 0.5, 5, 20]) if number < 20 else 30
        hours = sorted({first, *(chance.choice([1, 6, 11.5, 47, 71, 100, 130]) for _ in range(3))})
        for hour in (at for at in hours if at >= first):
            versions.read("moderations", day, [tokens(chance.randrange(1, 9), chance.randrange(1, 5_000))], hour)
        versions.read("moderations", day, versions.last["moderations", day], 140)
    # Too long ago to say much about today.
    versions.read("moderations", date(2025, 12, 1), [tokens(1, 1)], 1)
    versions.read("moderations", date(2025, 12, 1), [tokens(9, 9)], 2_000)


def _lose(story: Story) -> None:
    """Prune all superseded records but those of one day, and empty whatever can come back from raw."""
    query = story.dbt.warehouse.query
    for stream in ("embeddings", "costs"):
        query(
            f"with pruned as (update ops.load set pruned_at = now() where superseded_by is not null and usage_date <> %s"
            f" returning load_id) delete from raw.openai_{stream} using pruned"
            f" where pruned.load_id = openai_{stream}.load_id",
            UP,
        )
    for (name,) in query(
        "select schemaname || '.' || tablename from pg_tables"
        " where schemaname in ('staging', 'intermediate', 'marts') and tablename <> 'int_slice_totals'"
    ):
        query(f"truncate {name}")


def _purge(dbt: Dbt, day: date) -> None:
    """Delete a day from the ledger, which only a purge does."""
    dbt.warehouse.query("delete from ops.slice where usage_date = %s", day)
    dbt.warehouse.query("delete from raw.openai_embeddings where usage_date = %s", day)
    dbt.warehouse.query("delete from ops.load where usage_date = %s", day)


@pytest.fixture(scope="module")
def story(module_dbt: Dbt) -> Story:
    lived = Story(module_dbt, Versions(module_dbt.warehouse))
    _begin(lived.versions)
    lived.chapter("fresh")
    _change(lived.versions)
    lived.chapter("changed")
    lived.settle()
    _lose(lived)
    project, target = PROJECT, module_dbt.scratch / "target"
    transform(module_dbt.warehouse.warehouse, "run", project=project, target=target, full_refresh=True)
    lived.note("rebuilt")
    lived.lookback = module_dbt.warehouse.query(
        "select provider, stream, recommended_days, observed_days from ops.lookback"
    )
    # As if the rules of an earlier release had made something else of the same records.
    module_dbt.warehouse.query(
        "update intermediate.int_slice_totals set quantity = 5 where usage_date = %s and meter = 'requests'", QUIET
    )
    _purge(module_dbt, TO_ZERO)
    lived.chapter("new rules", "--full-refresh")
    module_dbt.warehouse.query("drop table intermediate.int_slice_totals cascade")
    lived.chapter("all lost", "--full-refresh")
    return lived


def test_the_first_version_of_a_slice_is_no_restatement(story: Story) -> None:
    assert story.restatements["fresh"] == []
    assert story.of(QUIET) == []


def test_a_value_that_goes_up_is_told_with_both_values_and_the_difference(story: Story) -> None:
    assert story.changes(UP) == [
        ("requests", None, 11, 13, 2, True),
        ("uncached_input_tokens", None, 2**70 + 1_000, 2**70 + 1_500, 500, True),
    ]


def test_a_value_that_goes_down_is_told_alone_if_the_other_meters_stand_still(story: Story) -> None:
    assert story.changes(DOWN) == [("uncached_input_tokens", None, 2**70 + 1_000, 2**70 + 900, -100, True)]


def test_a_value_that_goes_to_zero_has_a_new_value_and_one_that_vanished_has_none(story: Story) -> None:
    both = [("requests", None, 11), ("uncached_input_tokens", None, 2**70 + 1_000)]

    assert story.changes(TO_ZERO) == [(*one, 0, -one[2], True) for one in both]
    assert story.changes(VANISHED) == [(*one, None, -one[2], True) for one in both]
    assert {row["new_state"] for row in story.of(VANISHED)} == {"confirmed_zero"}


def test_a_meter_that_comes_to_an_empty_day_is_told_unless_it_counts_nothing(story: Story) -> None:
    assert story.changes(CAME) == [("requests", None, None, 3, 3, True)]
    assert story.of(CAME)[0]["old_state"] == "confirmed_zero"


def test_a_version_with_the_same_values_under_other_names_restates_nothing(story: Story) -> None:
    assert len(story.versions.told["embeddings", REREAD]) == 2
    assert story.of(REREAD) == []


def test_money_is_told_by_currency_and_to_the_last_digit(story: Story) -> None:
    first = Decimal("1.5") + Decimal(TINY)

    assert story.changes(CURRENCY) == [
        ("billed_cost", "EUR", None, 1, 1, False),
        ("billed_cost", "USD", first, Decimal("2.5"), Decimal("2.5") - first, False),
        ("billed_cost", "EUR", 1, 3, 2, False),
        ("billed_cost", "USD", Decimal("2.5"), None, Decimal("-2.5"), False),
    ]


def test_versions_that_no_build_had_seen_are_told_one_by_one(story: Story) -> None:
    told = [(row["meter"], row["old_value"], row["new_value"], row["was_published"]) for row in story.of(TWICE)]

    assert told == [
        # The first change left the number of requests as it was.
        ("uncached_input_tokens", 2**70 + 1_000, 1_100, True),
        ("requests", 11, None, False),
        ("uncached_input_tokens", 1_100, None, False),
        ("requests", None, 7, False),
        ("uncached_input_tokens", None, 700, False),
    ]


def test_a_restated_week_is_told_day_by_day_with_the_time_of_both_readings(story: Story) -> None:
    told = [
        (row["usage_date"], row["delta"], row["old_extracted_at"], row["new_extracted_at"], row["was_settled"])
        for row in story.restatements["changed"]
        if row["usage_date"] in WEEK
    ]
    times = {day: [at for at, _ in story.versions.told["embeddings", day]] for day in WEEK}

    assert told == [(day, 1_000, *times[day], True) for day in WEEK]


def test_a_restatement_names_the_account_and_the_versions(story: Story) -> None:
    (row,) = story.of(DOWN)
    loads = story.dbt.warehouse.query(
        "select load_id, loaded_at from ops.load where usage_date = %s order by load_id", DOWN
    )

    assert (row["provider"], row["account_id"], row["connection_id"]) == ("openai", "org-1", CONNECTION)
    assert (row["stream"], row["scope"], row["is_counted"], row["cause"]) == ("embeddings", "-", True, "provider")
    assert [row["old_load_id"], row["new_load_id"]] == [load_id for load_id, _ in loads]
    assert row["restated_at"] == loads[1][1]


@pytest.mark.parametrize("chapter", ["changed", "rebuilt"])
def test_the_first_value_and_all_differences_add_up_to_the_last_value(story: Story, chapter: str) -> None:
    for (stream, day), told in story.versions.told.items():
        added: Meters = dict(told[0][1])
        for row in story.restatements[chapter]:
            if (row["stream"], row["usage_date"]) == (stream, day):
                meter = (row["meter"], row["currency"])
                added[meter] = added.get(meter, Decimal(0)) + row["delta"]
        last = told[-1][1]
        assert {meter: value for meter, value in added.items() if value} == {
            meter: value for meter, value in last.items() if value
        }, (stream, day)


def test_the_last_version_is_what_the_marts_show(story: Story) -> None:
    last: dict[date, Meters] = {}
    for (_, day), told in sorted(story.versions.told.items()):
        last.setdefault(day, {}).update(told[-1][1])

    for day, requests, input_tokens, euros in story.shown:
        assert (requests or 0) == last[day].get(("requests", None), 0)
        assert (input_tokens or 0) == last[day].get(("uncached_input_tokens", None), 0)
        assert (euros or 0) == last[day].get(("billed_cost", "EUR"), 0)
    assert len(story.shown) == len({day for day, meters in last.items() if meters})


def test_a_version_that_is_known_is_never_written_again(story: Story) -> None:
    assert story.totals["fresh"] <= story.totals["changed"]
    assert story.totals["rebuilt"] == story.totals["changed"]


def test_everything_comes_back_from_raw_row_for_row(story: Story) -> None:
    before, after = story.content["changed"], story.content["rebuilt"]

    assert {"marts.usage_daily", "marts.restatements", "staging.stg_openai__meters"} <= before.keys() == after.keys()
    assert all(before[table] for table in ("marts.usage_daily", "marts.restatements", "marts.settlement_curve"))
    assert [table for table in before if before[table] != after[table]] == []


def test_what_was_told_stays_when_its_records_are_pruned(story: Story) -> None:
    (left,) = story.dbt.warehouse.query(
        "select count(*) from raw.openai_embeddings inner join ops.load using (load_id, usage_date)"
        " where superseded_by is not null and usage_date <> %s",
        UP,
    )

    assert left == (0,)
    assert story.restatements["rebuilt"] == story.restatements["changed"]


def test_a_change_of_the_rules_is_told_as_such_and_keeps_the_sum_right(story: Story) -> None:
    (row,) = story.of(QUIET, "new rules")

    assert (row["cause"], row["meter"], row["old_value"], row["new_value"]) == ("rules", "requests", 5, 11)
    assert (row["was_settled"], row["old_load_id"]) == (False, row["new_load_id"])
    others = [row for row in story.restatements["new rules"] if row["usage_date"] != QUIET]
    assert others == [row for row in story.restatements["changed"] if row["usage_date"] != TO_ZERO]


def test_what_is_purged_from_the_ledger_is_told_no_more(story: Story) -> None:
    assert story.of(TO_ZERO, "rebuilt") != [] == story.of(TO_ZERO, "new rules")
    assert [row for row in story.totals["rebuilt"] if str(TO_ZERO) in row]
    assert [row for row in story.totals["new rules"] if str(TO_ZERO) in row] == []


def test_without_the_kept_versions_what_raw_still_has_is_told(story: Story) -> None:
    """The one table that a rebuild from raw cannot bring back: pruned versions are known there alone."""

    def facts(chapter: str) -> list[Row]:
        return [row | {"was_published": None} for row in story.of(UP, chapter)]

    assert facts("all lost") == facts("changed") != []
    assert {row["usage_date"] for row in story.restatements["all lost"]} == {UP}


def test_readers_may_read_what_is_told(story: Story) -> None:
    with story.dbt.warehouse.as_reader() as session:
        for mart in ("restatements", "settlement_curve", "settlement_recommendations"):
            assert session.execute(f"select count(*) from marts.{mart}".encode()).fetchone() != (0,)


def test_the_settlement_curve_is_that_of_the_versions(story: Story) -> None:
    told = {(stream, meter, hours): (slices, median, p95) for stream, meter, hours, slices, median, p95 in story.curve}
    expected = expected_curve(story.versions.told)

    assert told == expected
    assert len([share for _, share, _ in expected.values() if 0 < share < 1]) > 3, (
        "the story tells nothing of growing days"
    )


def test_the_recommended_look_back_follows_from_days_that_were_watched(story: Story) -> None:
    hours = expected_settle_hours(story.versions.told)
    watched = hours["moderations"]
    lookback = expected_lookback(at_share(watched, 95), 3)

    assert len(watched) == 20 < len([day for stream, day in story.versions.told if stream == "moderations"])
    assert story.recommendations["moderations"] == (
        20,
        at_share(watched, 50),
        at_share(watched, 95),
        72,
        7,
        lookback,
        True,
    )
    assert story.recommendations["costs"] == (1, 80, 80, 72, 7, None, False), "one day is no evidence"
    assert story.recommendations["embeddings"] == (0, None, None, 72, 7, None, False), "nobody saw these days settle"


def test_a_transform_keeps_the_recommendations_for_the_planner(story: Story) -> None:
    ((_, _, _, _, _, days, _),) = [row for row in story.recommendations.values() if row[-1]]

    assert story.lookback == [("openai", "moderations", days, 20)]
