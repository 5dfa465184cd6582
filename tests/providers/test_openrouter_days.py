"""What is stored stays: OpenRouter forgets after 30 days, the warehouse does not, and no fault undoes a day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from ai_usage.core.errors import UsageError
from ai_usage.core.http import Limits
from ai_usage.orchestration import sync
from ai_usage.orchestration.warehouse_connection import open_warehouse
from ai_usage.providers.openrouter import OpenRouterProvider
from sandbox.connections import environment
from sandbox.service import Sandbox
from sandbox.truth.openrouter import PERSON, OpenRouterTruth
from tests.support.warehouse import TestWarehouse

CONNECTION = "openrouter_personal"


class Quick(OpenRouterProvider):
    """The provider, without the pace that the real OpenRouter needs."""

    limits = Limits(attempts=2)


@pytest.fixture
def own_sandbox() -> Iterator[Sandbox]:
    """
    A sandbox that begins on the real day, by which the ledger settles days, and whose clock may be moved on.

    Its history begins 45 days ago.
    """
    with Sandbox(today=datetime.now(UTC).date(), moto=False, history_days=45) as running:
        yield running


@pytest.fixture
def connected(own_sandbox: Sandbox, warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch) -> TestWarehouse:
    """A warehouse, with connections for it and for the sandbox."""
    for name, value in (warehouse.environment() | environment(own_sandbox.connections())).items():
        monkeypatch.setenv(name, value)
    return warehouse


def run(sandbox: Sandbox, name: str, request: sync.Request | None = None) -> list[UsageError]:
    """Plan and read on the sandbox's day; return the failures."""
    provider, warehouse = Quick(today=sandbox.clock.today), open_warehouse()
    failures = []
    for piece in sync.plan(provider, warehouse, [CONNECTION], request or {}, sandbox.clock.today()):
        try:
            sync.extract_and_load(provider, warehouse, piece, name)
        except UsageError as error:
            failures.append(error)
    return failures


def stored(warehouse: TestWarehouse) -> dict[tuple[str, date], str]:
    """Return (report, day) → a hash of its records, as readers see them."""
    rows = []
    for stream in ("activity", "history"):
        rows += warehouse.query(
            f"""
            select stream, usage_date, md5(string_agg(record::text, '|' order by record::text))
            from raw.openrouter_{stream} inner join ops.load using (load_id, usage_date)
            where superseded_by is null group by 1, 2
            """
        )
    return {(stream, day): digest for stream, day, digest in rows}


def days(found: dict[tuple[str, date], str], stream: str) -> list[date]:
    return sorted(day for kind, day in found if kind == stream)


def test_a_day_that_openrouter_has_forgotten_stays_as_it_was_read_and_is_in_one_report_only(
    connected: TestWarehouse, own_sandbox: Sandbox
) -> None:
    first_day = own_sandbox.clock.today()
    used = [day for n in range(-39, 45) if (day := first_day - timedelta(days=n)) and would_be_used(own_sandbox, day)]
    assert run(own_sandbox, "first") == []
    before = stored(connected)
    assert max(days(before, "activity")) < first_day
    assert max(days(before, "history")) < min(days(before, "activity"))

    for number in (1, 2, 20, 40):
        own_sandbox.clock.move_to(first_day + timedelta(days=number))
        assert run(own_sandbox, f"day {number}") == []

    after = stored(connected)
    assert {place: after.get(place) for place in before} == before
    # As a list: a day in both reports would be there twice.
    assert sorted(days(after, "activity") + days(after, "history")) == sorted(used)


def would_be_used(sandbox: Sandbox, day: date) -> bool:
    """Return whether the day has any usage once it is over."""
    now = sandbox.clock.today()
    sandbox.clock.move_to(max(now, day + timedelta(days=1)))
    known = sandbox.truth.of("openrouter")
    assert isinstance(known, OpenRouterTruth)
    has_usage = any(known.used(PERSON, day))
    sandbox.clock.move_to(now)
    return has_usage


def test_days_that_nobody_read_in_time_come_from_analytics(connected: TestWarehouse, own_sandbox: Sandbox) -> None:
    first_day = own_sandbox.clock.today()
    assert run(own_sandbox, "first") == []
    own_sandbox.clock.move_to(first_day + timedelta(days=50))
    assert run(own_sandbox, "after a long silence") == []
    found = stored(connected)
    gap = {first_day + timedelta(days=n) for n in range(20)}
    assert gap & set(days(found, "history"))
    assert not gap & set(days(found, "activity"))


def test_a_backfill_by_hand_of_forgotten_days_changes_nothing(connected: TestWarehouse, own_sandbox: Sandbox) -> None:
    first_day = own_sandbox.clock.today()
    assert run(own_sandbox, "first") == []
    before = stored(connected)
    own_sandbox.clock.move_to(first_day + timedelta(days=20))
    request = sync.Request(first=(first_day - timedelta(days=29)).isoformat(), last=first_day.isoformat())
    assert run(own_sandbox, "by hand", request) == []
    after = stored(connected)
    assert {place: after.get(place) for place in before} == before


@pytest.mark.parametrize(
    "kind",
    [
        "invalid_credentials",
        "access_denied",
        "not_found",
        "throttling",
        "bare_throttling",
        "internal_error",
        "truncated_body",
        "html_body",
        "empty_object",
        "connection_reset",
        "missing_field",
        "contradicting_rows",
        "silent_pages",
    ],
)
def test_a_fault_leaves_every_slice_untouched_and_says_so_once(
    connected: TestWarehouse, own_sandbox: Sandbox, kind: str
) -> None:
    assert run(own_sandbox, "first") == []
    before = stored(connected)
    states = connected.query("select * from ops.slice where stream = 'activity' and load_id is not null order by 1, 2")
    own_sandbox.faults.add(kind, operation="getUserActivity")

    failures = [run(own_sandbox, f"again {n}")[0] for n in range(2)]

    assert stored(connected) == before
    now = connected.query("select * from ops.slice where stream = 'activity' and load_id is not null order by 1, 2")
    assert [row[:6] for row in now] == [row[:6] for row in states]
    events = connected.query("select kind, message from ops.event where severity = 'error' and stream = 'activity'")
    assert events == [(failures[0].kind, failures[0].happened)]
    own_sandbox.faults.clear()
    assert run(own_sandbox, "after all") == []
    assert stored(connected) == before


def test_new_fields_are_stored_and_told_once(connected: TestWarehouse, own_sandbox: Sandbox) -> None:
    own_sandbox.faults.add("unknown_fields")
    for n in range(2):
        assert run(own_sandbox, f"run {n}") == []
    kept = connected.query(
        "select distinct record -> 'extra_fields' from raw.openrouter_activity union"
        " select distinct record -> 'extra_fields' from raw.openrouter_history"
    )
    assert kept == [({"cached_tokens_v2": 17, "region_tag": "eu-west"},)]
    told = connected.query("select stream, count(*) from ops.event where kind = 'schema_drift' group by 1 order by 1")
    assert told == [("activity", 3), ("history", 3)]
    assert connected.query("select count(*) from raw.openrouter_activity where record::text like '%%diary%%'") == [(0,)]


def test_today_is_expected_and_stored_of_credits_only(connected: TestWarehouse, own_sandbox: Sandbox) -> None:
    today = own_sandbox.clock.today()
    assert run(own_sandbox, "first") == []
    assert connected.query("select count(*) from raw.openrouter_activity where usage_date >= %s", today) == [(0,)]
    assert connected.query("select distinct stream from ops.slice where usage_date >= %s", today) == [("credits",)]
