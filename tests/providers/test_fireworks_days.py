"""Readings of live gauges in the warehouse: a day gathers them run by run, and other days lack nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ai_usage.core.errors import UsageError
from ai_usage.core.http import Limits
from ai_usage.orchestration import sync
from ai_usage.orchestration.warehouse_connection import open_warehouse
from ai_usage.providers.fireworks import FireworksProvider
from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.support.warehouse import TestWarehouse

CONNECTION = "fireworks_default"
DAY = timedelta(days=1)


class Quick(FireworksProvider):
    """The provider, without the pace that the real Fireworks needs."""

    limits = Limits(attempts=2)


@pytest.fixture
def own_sandbox() -> Iterator[Sandbox]:
    """A sandbox on the real day, by which the ledger settles days, and whose clock may be moved on."""
    with Sandbox(today=datetime.now(UTC).date(), moto=False, history_days=3) as running:
        yield running


@pytest.fixture
def connected(own_sandbox: Sandbox, warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch) -> TestWarehouse:
    """A warehouse, with connections for it and for the sandbox."""
    for name, value in (warehouse.environment() | environment(own_sandbox.connections())).items():
        monkeypatch.setenv(name, value)
    return warehouse


def run(sandbox: Sandbox, name: str, at: timedelta, request: sync.Request | None = None) -> list[UsageError]:
    """Plan and read on the sandbox's day, so long after its midnight; return the failures."""
    now = datetime.combine(sandbox.clock.today(), datetime.min.time(), tzinfo=UTC) + at
    provider, warehouse = Quick(now=lambda: now), open_warehouse()
    sandbox.requests.reset()
    failures = []
    for piece in sync.plan(provider, warehouse, [CONNECTION], request or {}, sandbox.clock.today()):
        try:
            sync.extract_and_load(provider, warehouse, piece, name)
        except UsageError as error:
            failures.append(error)
    return failures


def gathered(warehouse: TestWarehouse) -> list[tuple[Any, ...]]:
    """Return day, seconds, longest gap and tokens, as readers see them."""
    return warehouse.query(
        """
        select usage_date, (record ->> 'sampled_seconds')::numeric, (record ->> 'longest_gap_seconds')::numeric,
            (record ->> 'prompt_tokens')::numeric
        from raw.fireworks_throughput inner join ops.load using (load_id, usage_date)
        where superseded_by is null order by 1
        """
    )


def states(warehouse: TestWarehouse, scope: str = "acme-prod") -> dict[date, str]:
    return dict(
        warehouse.query(
            "select usage_date, state from ops.slice where stream = 'throughput' and scope = %s order by 1", scope
        )
    )


def test_a_day_gathers_its_readings_and_settles_when_it_is_over(connected: TestWarehouse, own_sandbox: Sandbox) -> None:
    today = own_sandbox.clock.today()
    rate = Decimal("1843.25")
    assert run(own_sandbox, "first", timedelta(hours=9)) == []
    assert run(own_sandbox, "second", timedelta(hours=9, seconds=45)) == []
    assert run(own_sandbox, "third", timedelta(hours=10)) == []
    assert gathered(connected) == [(today, 165, 3495, rate * 165)]
    assert run(own_sandbox, "third", timedelta(hours=11)) == [], "a run's second try reads nothing again"
    assert gathered(connected) == [(today, 165, 3495, rate * 165)]
    assert states(connected) == {today: "provisional"}
    assert states(connected, "acme-research") == {today: "provisional"}

    own_sandbox.clock.move_to(today + DAY)
    assert run(own_sandbox, "next day", timedelta(seconds=20)) == []
    assert gathered(connected) == [(today, 165, 3495, rate * 165), (today + DAY, 20, 0, rate * 20)]
    assert states(connected) == {today: "final", today + DAY: "provisional"}
    # No reading saw a deployment there.
    assert states(connected, "acme-research")[today] == "confirmed_zero"
    (loads,) = connected.query(
        "select count(*) from ops.load where stream = 'throughput' and usage_date = %s and superseded_by is null"
        " and state = 'provisional'",
        today,
    )
    assert loads == (0,)


def test_days_on_which_nobody_read_the_gauges_are_not_expected_of_them(
    connected: TestWarehouse, own_sandbox: Sandbox
) -> None:
    today = own_sandbox.clock.today()
    long_ago: sync.Request = {"first": (today - 9 * DAY).isoformat(), "last": (today - DAY).isoformat()}
    assert run(own_sandbox, "a backfill", timedelta(hours=9), long_ago) == []
    assert states(connected) == {}
    until_today: sync.Request = {"first": (today - 9 * DAY).isoformat()}
    assert run(own_sandbox, "a backfill until today", timedelta(hours=9), until_today) == []
    assert states(connected) == {today: "provisional"}
    own_sandbox.clock.move_to(today + 3 * DAY)
    assert run(own_sandbox, "after a break", timedelta(hours=9)) == []
    assert states(connected) == {today: "final", today + 3 * DAY: "provisional"}


def test_a_failed_reading_leaves_what_is_stored(connected: TestWarehouse, own_sandbox: Sandbox) -> None:
    today = own_sandbox.clock.today()
    assert run(own_sandbox, "good", timedelta(hours=9)) == []
    own_sandbox.faults.add("internal_error", provider="fireworks", operation="metrics")
    assert len(run(own_sandbox, "bad", timedelta(hours=10))) == 2
    assert [row[:2] for row in gathered(connected)] == [(today, 60)]
    assert states(connected) == {today: "provisional"}
