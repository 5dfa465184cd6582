"""Gaps and failures heal without a person; a bad day waits ever longer, and its neighbours never wait for it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from ai_usage.core.errors import ConfigurationInvalid, ResponseInvalid, UsageError
from ai_usage.core.http import Limits
from ai_usage.core.slices import Window
from ai_usage.orchestration import sync
from ai_usage.orchestration.warehouse_connection import open_warehouse
from ai_usage.providers.openai import OpenAIProvider
from ai_usage.warehouse import ledger
from ai_usage.warehouse.roles import LOADER
from sandbox.connections import environment
from sandbox.service import Sandbox
from sandbox.truth.openai import COMPANY, OpenAITruth
from tests.support.loading import PLACE, prepare
from tests.support.warehouse import TestWarehouse

CONNECTION = "openai_default"
VARIABLE = f"AIRFLOW_CONN_{CONNECTION.upper()}"
HISTORY_DAYS = 20


class OneStream(OpenAIProvider):
    """The provider with one stream, without the pace and the patience that the real OpenAI needs."""

    limits = Limits(attempts=1)
    streams = (replace(OpenAIProvider().stream("completions"), lookback_days=3),)


class Forgetful(OneStream):
    """The same, if OpenAI forgot after a month."""

    streams = (replace(OneStream.streams[0], retention_days=30),)


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox(today=datetime.now(UTC).date(), moto=False, history_days=HISTORY_DAYS) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Iterator[Sandbox]:
    yield running
    running.faults.clear()


@pytest.fixture
def connected(sandbox: Sandbox, warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch) -> TestWarehouse:
    for name, value in (warehouse.environment() | environment(sandbox.connections())).items():
        monkeypatch.setenv(name, value)
    return warehouse


def plan(
    sandbox: Sandbox, request: sync.Request | None = None, *, later: timedelta = timedelta(0), forgetful: bool = False
) -> list[tuple[str, str]]:
    """Return the windows that a run would read."""
    provider = (Forgetful if forgetful else OneStream)(today=sandbox.clock.today)
    today = sandbox.clock.today() + later
    work = sync.plan(provider, open_warehouse(), [CONNECTION], request or {}, today)
    return [window for piece in work for part in piece["parts"] for window in part["windows"]["completions"]]


def run(sandbox: Sandbox, run_id: str, request: sync.Request | None = None) -> UsageError | str:
    """Plan and read as a DAG run does; return the failure, or what the verdict says."""
    provider, warehouse = OneStream(today=sandbox.clock.today), open_warehouse()
    work = sync.plan(provider, warehouse, [CONNECTION], request or {}, sandbox.clock.today())
    sandbox.requests.reset()
    try:
        summaries = [sync.extract_and_load(provider, warehouse, piece, run_id) for piece in work]
    except UsageError as error:
        return error
    with warehouse.session(LOADER) as session:
        return sync.verdict(work, summaries, [text for _, _, text in ledger.run_problems(session, run_id)])


def calls(sandbox: Sandbox) -> int:
    return sandbox.requests.count(operation="completions")


def days_in(warehouse: TestWarehouse, *states: str) -> list[date]:
    return [
        day
        for (day,) in warehouse.query(
            "select usage_date from ops.slice where state = any(%s) order by usage_date", list(states)
        )
    ]


def day_with_usage(sandbox: Sandbox) -> date:
    """Return a day older than what every run reads on which the source has something to tell."""
    truth = sandbox.truth.of("openai")
    assert isinstance(truth, OpenAITruth)
    days = (sandbox.clock.today() - timedelta(days=n) for n in range(8, HISTORY_DAYS))
    return next(day for day in days if any(truth.used(COMPANY, "completions", day)))


def days_with_usage(warehouse: TestWarehouse) -> list[date]:
    return [
        day
        for (day,) in warehouse.query(
            "select usage_date from ops.load where record_count > 0 and superseded_by is null order by usage_date"
        )
    ]


def open_problems(warehouse: TestWarehouse) -> list[tuple[str, int]]:
    return warehouse.query("select kind, times_seen from ops.problem where resolved_at is null and topic = 'reading'")


def hours_pass(warehouse: TestWarehouse, hours: float) -> None:
    warehouse.query(
        "update ops.slice set last_attempt_at = last_attempt_at - make_interval(mins => %s)", int(hours * 60)
    )


def test_a_bad_day_is_found_waits_ever_longer_and_is_healed_when_the_source_is(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    bad = day_with_usage(sandbox)
    sandbox.faults.add("missing_field", operation="completions", day=bad.isoformat())

    first = run(sandbox, "1")

    # In the first run: it stands alone, everything else is read, nothing is told of the others.
    assert isinstance(first, ResponseInvalid)
    assert days_in(connected, "failed", "missing") == [bad]
    assert len(days_in(connected, "final", "provisional", "confirmed_zero")) == HISTORY_DAYS - 1
    assert calls(sandbox) <= 2 + 2 * 5
    assert open_problems(connected) == [("response_invalid", 1)]

    # Two more tries at once, by itself, beside what is read anyway.
    for number in ("2", "3"):
        alone, *others = plan(sandbox)
        assert alone == (bad.isoformat(), bad.isoformat())
        assert others
        assert not any(first <= bad.isoformat() <= last for first, last in others)
        assert isinstance(run(sandbox, number), ResponseInvalid)

    # Then it waits: runs are green, and the problem stays open.
    assert bad.isoformat() not in str(plan(sandbox))
    assert str(run(sandbox, "4")).startswith("All 1 sources were read")
    assert open_problems(connected) == [("response_invalid", 3)]
    # A person does not wait.
    assert (bad.isoformat(), bad.isoformat()) in plan(sandbox, {"by_hand": True})
    assert (bad.isoformat(), bad.isoformat()) in plan(sandbox, {"first": (bad - timedelta(days=1)).isoformat()})

    # After an hour it is asked for again, and after two hours more.
    hours_pass(connected, 1)
    assert isinstance(run(sandbox, "5"), ResponseInvalid)
    hours_pass(connected, 1)
    assert bad.isoformat() not in str(plan(sandbox))
    hours_pass(connected, 1)
    sandbox.faults.clear()
    assert str(run(sandbox, "6")).startswith("All 1 sources were read")

    assert days_in(connected, "failed", "missing") == []
    assert open_problems(connected) == []
    assert connected.query("select resolution, times_seen from ops.problem where topic = 'reading'") == [
        ("recovered", 4)
    ]


def test_several_bad_days_are_each_found_while_a_day_that_is_read_already_stays_as_it_is(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    assert isinstance(run(sandbox, "good"), str)
    before = connected.query("select usage_date, load_id from ops.slice order by 1")
    bad = days_with_usage(connected)[-4::2]
    for day in bad:
        sandbox.faults.add("missing_field", operation="completions", day=day.isoformat())

    asked: sync.Request = {"first": bad[0].isoformat()}
    assert isinstance(run(sandbox, "bad", asked), ResponseInvalid)

    assert connected.query("select usage_date from ops.slice where error_kind is not null order by 1") == [
        (day,) for day in bad
    ]
    assert connected.query("select usage_date, load_id from ops.slice order by 1") == before
    outcomes = dict(connected.query("select outcome, count(*) from ops.extraction where run_id = 'bad' group by 1"))
    assert outcomes["failed"] + outcomes.get("unchanged", 0) == calls(sandbox), "the journal has every attempt"


def test_a_source_that_makes_no_sense_at_all_is_asked_in_every_run_and_seen_to_recover_at_once(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    sandbox.faults.add("missing_field", operation="completions")

    for number in range(5):
        assert isinstance(run(sandbox, str(number)), ResponseInvalid)
        assert calls(sandbox) <= 3 * 5 + 5

    assert len(days_in(connected, "failed")) > HISTORY_DAYS / 2
    assert open_problems(connected) == [("response_invalid", 5)]
    sandbox.faults.clear()
    assert str(run(sandbox, "healed")).startswith("All 1 sources were read")
    assert calls(sandbox) == len(plan(sandbox)), "it is asked in the widest windows"
    assert days_in(connected, "failed", "missing") == []
    assert open_problems(connected) == []


def test_a_fault_of_the_source_is_asked_again_in_each_run_however_often_it_failed(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    sandbox.faults.add("invalid_credentials", operation="completions")
    for number in range(5):
        run(sandbox, str(number))
        assert calls(sandbox) == 1
    assert connected.query("select distinct failed_attempts from ops.slice") == [(5,)]
    sandbox.faults.clear()

    assert str(run(sandbox, "new key")).startswith("All 1 sources were read")
    assert days_in(connected, "failed", "missing") == []


# ---------------------------------------------------------------- no holes


def test_a_day_that_is_not_in_the_ledger_is_planned_again_and_read(connected: TestWarehouse, sandbox: Sandbox) -> None:
    run(sandbox, "all")
    today = sandbox.clock.today()
    lost = [today - timedelta(days=n) for n in (12, 11, 7)]
    connected.query("update ops.slice set load_id = null, state = 'missing' where usage_date = %s", lost[0])
    connected.query("delete from ops.slice where usage_date = any(%s)", lost[1:])

    assert str(run(sandbox, "next")).startswith("All 1 sources were read")

    assert len(days_in(connected, "final", "provisional", "confirmed_zero")) == HISTORY_DAYS
    assert connected.query("select count(*) from ops.slice where load_id is null") == [(0,)]


@pytest.mark.parametrize("request_of_a_person", [{}, {"first": "today"}])
def test_a_pause_longer_than_the_source_remembers_leaves_no_hole(
    connected: TestWarehouse, sandbox: Sandbox, request_of_a_person: sync.Request
) -> None:
    today, pause = sandbox.clock.today(), timedelta(days=75)
    plan(sandbox, forgetful=True)
    first = min(days_in(connected, "missing"))
    after_it = today + pause
    if request_of_a_person:
        request_of_a_person = {"first": after_it.isoformat()}

    planned = plan(sandbox, request_of_a_person, later=pause, forgetful=True)

    every_day = [first + timedelta(days=n) for n in range((after_it - first).days + 1)]
    oldest = after_it - timedelta(days=29)
    assert days_in(connected, "missing", "outside_retention") == every_day
    assert days_in(connected, "outside_retention") == [day for day in every_day if day < oldest]
    assert min(first for first, _ in planned) == (after_it if request_of_a_person else oldest).isoformat()


def test_planning_twice_writes_nothing(connected: TestWarehouse, sandbox: Sandbox) -> None:
    plan(sandbox)
    before = connected.query("select max(xmin::text::bigint), count(*) from ops.slice")
    connected.query("delete from ops.pending_rebuild")

    plan(sandbox)

    assert connected.query("select max(xmin::text::bigint), count(*) from ops.slice") == before
    assert connected.query("select * from ops.pending_rebuild") == []


def test_a_plan_costs_milliseconds_a_place_with_four_years_of_history_in_many_places(warehouse: TestWarehouse) -> None:
    prepare(warehouse)
    with psycopg.connect(warehouse.admin_dsn, autocommit=True) as admin:
        admin.execute("alter table ops.slice disable trigger slice_inserted")
        admin.execute(
            "insert into ops.scope (connection_id, scope) select %s, 'scope-' || n from generate_series(1, 100) as n",
            (PLACE.connection_id,),
        )
        admin.execute(
            "insert into ops.slice (connection_id, usage_date, stream, scope, state)"
            " select connection_id, day::date, %s, scope, 'outside_retention' from ops.scope"
            " cross join generate_series('2022-01-01'::timestamp, '2025-12-31'::timestamp, '1 day') as day",
            (PLACE.stream,),
        )
        admin.execute("analyze ops.slice")
    took = []
    with warehouse.warehouse.session(LOADER) as session:
        for _ in range(7):
            began = time.perf_counter()
            first = ledger.first_day(session, PLACE)
            assert first == date(2022, 1, 1)
            ledger.expect_slices(session, PLACE, Window(first, date(2025, 12, 31)))
            ledger.retire_gaps(session, PLACE, date(2025, 1, 1))
            assert ledger.troubles(session, PLACE) == []
            assert len(ledger.slice_states(session, PLACE)) == 4 * 365 + 1
            took.append(time.perf_counter() - began)

    # The best of several, so that a busy machine does not decide. Without the index of the place it takes ten times as long.
    assert min(took) < 0.04, took


# ---------------------------------------------------------------- the look-back


def look_back_of(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, days: object) -> int:
    """Return how many days before today are read, all of them being settled."""
    connection = json.loads(os.environ[VARIABLE])
    connection["extra"] = {**connection["extra"], "lookback_days": days}
    monkeypatch.setenv(VARIABLE, json.dumps(connection))
    ((first, _),) = plan(sandbox)
    return (sandbox.clock.today() - date.fromisoformat(first)).days


def test_the_look_back_follows_the_connection(
    connected: TestWarehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(sandbox, "all")
    connected.query("update ops.slice set state = 'final' where state = 'provisional'")
    connected.query("update ops.slice set state = 'final' where state = 'confirmed_zero'")

    assert look_back_of(sandbox, monkeypatch, None) == 3
    assert look_back_of(sandbox, monkeypatch, "") == 3
    assert look_back_of(sandbox, monkeypatch, 9) == 9
    assert look_back_of(sandbox, monkeypatch, "12") == 12
    assert look_back_of(sandbox, monkeypatch, 0) == 3, "fewer than it takes to settle"
    assert look_back_of(sandbox, monkeypatch, "recommended") == 3, "nothing is known yet"
    connected.query("insert into ops.lookback values ('openai', 'completions', 6, 40, now())")
    assert look_back_of(sandbox, monkeypatch, "Recommended") == 6
    connected.query("update ops.lookback set recommended_days = 1")
    assert look_back_of(sandbox, monkeypatch, "recommended") == 3, "fewer than it takes to settle"


@pytest.mark.parametrize("nonsense", ["-1", "3.5", "401", "a week", "٣", True])
def test_a_look_back_that_makes_no_sense_is_refused_with_what_to_do(
    connected: TestWarehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, nonsense: object
) -> None:
    connection = json.loads(os.environ[VARIABLE])
    connection["extra"] = {**connection["extra"], "lookback_days": nonsense}
    monkeypatch.setenv(VARIABLE, json.dumps(connection))

    failure = run(sandbox, "run")

    assert isinstance(failure, ConfigurationInvalid)
    assert "lookback_days" in str(failure)
    assert "recommended" in failure.action
    assert failure.connection_id == CONNECTION
