"""Scenarios of group B: answers that arrive whole and say something odd, and providers that change their minds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ai_usage.orchestration.transform import transform
from sandbox.simulators.openai import ODD_NAMES
from tests.faults.conftest import Tell
from tests.faults.ground import (
    CONFIGURATION,
    INVALID,
    PROJECT,
    Ground,
    Scenario,
    assert_marts_are_true,
    assert_same,
    fault,
    quiet,
    told,
)
from tests.support import stack
from tests.support.victim import Forks

pytestmark = pytest.mark.timeout(300)

PROVIDERS = [
    "anthropic",
    "authress",
    "aws_bedrock",
    "azure_openai",
    "fireworks",
    "google_vertex_ai",
    "groq",
    "openai",
    "openrouter",
    "replicate",
]
DRIFT = "schema_drift"

SCENARIOS = [
    quiet("B1", "fields that no document names", "openai", fault("unknown_fields"), notes=DRIFT),
    quiet("B1", "fields that no document names", "anthropic", fault("unknown_fields"), notes=DRIFT),
    quiet("B1", "fields that no document names", "replicate", fault("unknown_fields"), notes=DRIFT),
    quiet("B1", "columns that no document names", "google_vertex_ai", fault("unknown_columns"), notes=DRIFT),
    told("B2", "rows without a required field", "fireworks", INVALID, fault("missing_field")),
    told("B2", "rows without a required field", "openrouter", INVALID, fault("missing_field")),
    told("B2", "series without their model", "groq", INVALID, fault("missing_label")),
    told("B2", "requests without their model", "groq", INVALID, fault("missing_label", operation="requests")),
    told("B2", "a list under another name", "fireworks", INVALID, fault("renamed_list")),
    told("B2", "a column that is gone", "google_vertex_ai", CONFIGURATION, fault("column_missing")),
    told("B3", "counts as texts", "anthropic", INVALID, fault("tokens_as_text")),
    told("B3", "a count with a fraction", "aws_bedrock", INVALID, fault("non_integer_value")),
    told("B3", "money as words", "google_vertex_ai", INVALID, fault("odd_number")),
    told("B3", "values as words", "groq", INVALID, fault("odd_value")),
    told("B6", "numbers that are none (NaN)", "anthropic", INVALID, fault("not_a_number")),
    told("B6", "numbers of five thousand digits", "openrouter", INVALID, fault("endless_number")),
    told("B6", "ten thousand lists inside each other", "replicate", INVALID, fault("deep_nesting")),
    told("B9", "a row of another kind", "openai", INVALID, fault("wrong_object", operation="costs"), others=True),
    quiet("B13", "every row twice", "openrouter", fault("duplicate_rows")),
    quiet("B13", "every series twice", "groq", fault("series_twice")),
    told("B13", "a row twice, with two numbers", "openrouter", INVALID, fault("contradicting_rows")),
    told("B13", "a day twice, with two numbers", "anthropic", INVALID, fault("bucket_twice")),
    told("B17", "fewer rows than were announced", "google_vertex_ai", INVALID, fault("rows_missing")),
    told("B13", "a row twice, with two numbers", "fireworks", INVALID, fault("contradicting_rows")),
    told("B19", "days that begin at noon", "azure_openai", INVALID, fault("noon_bins")),
    told("B19", "days that begin at half past six", "aws_bedrock", INVALID, fault("misaligned_timestamps")),
    told("B19", "days that begin at half past six", "anthropic", INVALID, fault("unaligned_buckets")),
    told("B3", "compute time below zero", "replicate", INVALID, fault("odd_number")),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_scenario(scenario: Scenario, ground: Ground, tell: Tell) -> None:
    tell(str(scenario))

    tell(str(scenario), ground.play(scenario))


def test_names_that_hurt(ground: Ground, tell: Tell, dbt_target: Path) -> None:
    tell("B8 openai: names that would hurt a statement, a template, a terminal, a page")
    with ground.warehouse() as warehouse:
        ground.sandbox.faults.add("odd_names", provider="openai", operation="completions")
        assert not ground.sync("openai", "faulty")
        transform(warehouse.warehouse, "odd", project=PROJECT, target=dbt_target)

        stored = {name for (name,) in warehouse.query("select distinct record ->> 'model' from raw.openai_completions")}
        shown = {name for (name,) in warehouse.query("select distinct raw_model_id from marts.usage_daily_detail")}
        expected = {name.replace("\0", "\N{REPLACEMENT CHARACTER}") for name in ODD_NAMES}
        assert expected <= stored, "a name was not stored as it came"
        assert expected <= shown, "a name did not reach the marts as it came"
        ground.sandbox.faults.clear()
        ground.heal(warehouse, "openai")
    tell("B8", "stored and shown letter by letter; exact after the fault")


@pytest.mark.parametrize("name", ["anthropic", "google_vertex_ai", "azure_openai"])
def test_time_zones_of_machines_and_sessions(ground: Ground, tell: Tell, name: str) -> None:
    tell(f"B19 {name}: a machine that lives in Kolkata, a session that lives in New York")
    with ground.warehouse() as warehouse:
        elsewhere = {"TZ": "Asia/Kolkata", "PGTZ": "America/New_York"}
        settings = {key: os.environ[key] for key in os.environ if key.startswith("AIRFLOW_")}
        assert Forks().run(stack.run_all, settings | elsewhere, [name], ground.today, "elsewhere")
        ground.assert_exact(warehouse, name)
    tell("B19", "exact at once")


@pytest.mark.parametrize("name", PROVIDERS)
def test_reading_again(ground: Ground, tell: Tell, name: str) -> None:
    tell(f"B12 {name}: the same days again, all of them, twice")
    everything = {"first": min(slot.usage_date for slot in ground.after[name]).isoformat(), "last": str(ground.today)}
    with ground.warehouse() as warehouse:
        for number in range(2):
            assert not ground.sync(name, f"again {number}", everything)  # type: ignore[arg-type]
            ground.assert_exact(warehouse, name)
        written = warehouse.query(
            "select coalesce(sum(slices_changed), 0) from ops.extraction as x"
            " inner join ops.stream as s using (provider, stream)"
            " where run_id = 'again 1' and s.is_usage and s.retention_days is distinct from 1 and provider <> 'groq'"
        )
        assert written == [(0,)]
    tell("B12", "exact, and the second time writes nothing")


# ---------------------------------------------------------------- the world itself is odd; the marts equal it


@pytest.fixture(scope="module")
def rows(ground: Ground, dbt_target: Path) -> Iterator[list[dict[str, Any]]]:
    """The true rows of all providers, which the marts have been found to equal."""
    assert_marts_are_true(ground, dbt_target, PROVIDERS)
    first = min(slot.usage_date for slot in ground.after["openai"])
    yield [row for name in PROVIDERS for row in ground.sandbox.truth.expected_detail(name, first, ground.today)]


def _is_long(value: Any) -> bool:
    return isinstance(value, Decimal) and len(value.as_tuple().digits) > 17


WORLD: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ("B4 openai: counts beyond 32 bits", lambda row: (row["input_tokens"] or 0) > 2**32),
    ("B5 all: money with more digits than a float holds", lambda row: _is_long(row["billed_cost"])),
    (
        "B10 all: credits and refunds below zero",
        lambda row: any((row[name] or 0) < 0 for name in ("billed_cost", "credits")),
    ),
    ("B11 all: money in another currency than dollars", lambda row: row["billed_currency"] not in (None, "USD")),
    ("B14 all: numbers that were never given are NULL and not 0", lambda row: row["input_tokens"] is None),
]


@pytest.mark.parametrize(("scenario", "is_there"), WORLD, ids=[name for name, _ in WORLD])
def test_the_marts_equal_an_odd_world(
    rows: list[dict[str, Any]], tell: Tell, scenario: str, is_there: Callable[[dict[str, Any]], bool]
) -> None:
    tell(scenario)

    assert any(map(is_there, rows)), "the sandbox says nothing of the kind: the comparison proves nothing"

    tell(scenario, "marts equal the truth, to the last digit")


def test_days_that_went_to_zero_or_vanished(ground: Ground, rows: list[dict[str, Any]], tell: Tell) -> None:
    tell("B15 all: days that were restated up, down, to zero, and to nothing")
    for name in PROVIDERS:
        before, after = ground.before[name], ground.after[name]
        assert any(len(after[slot].records) < len(before[slot].records) for slot in before), f"{name}: nothing vanished"
    today = ground.today
    with ground.later.as_reader() as reader:
        states = dict(
            reader.execute(
                "select coverage, count(*) from marts.usage_daily where usage_date = %s group by 1", (today,)
            ).fetchall()
        )
    assert set(states) <= {"provisional", "confirmed_zero"}, f"today counts as {states}"
    tell("B15", "marts equal the truth; what is not settled says so")


def test_a_warehouse_of_yesterday(ground: Ground, tell: Tell) -> None:
    tell("C24 all: a warehouse restored from yesterday's backup")
    with ground.warehouse() as warehouse:
        for name in PROVIDERS:
            assert not ground.sync(name, "after the restore")
            assert_same(stack.content(warehouse, name), ground.after[name])
    tell("C24", "one run of each provider, and everything is exact")
