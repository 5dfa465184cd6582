"""
A day is lost, of every provider and in every way: no mart shows a zero for it, and its month says that it is not whole.

All ten providers are read from the sandbox into one warehouse, as the DAGs' tasks do it; then days are lost, and then they
are read again.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.core.contract import Provider
from ai_usage.core.errors import UsageError
from ai_usage.core.http import Limits
from ai_usage.core.http_provider import HttpProvider
from ai_usage.orchestration import sync
from ai_usage.orchestration.transform import transform
from sandbox.connections import environment
from sandbox.service import Sandbox
from sandbox.truth import DETAIL_MEASURES, KEYS, MEASURES
from tests.support.airflow import REPOSITORY
from tests.support.marts import added_up, usage_daily
from tests.support.warehouse import Cluster, TestWarehouse

pytestmark = pytest.mark.timeout(600)

HISTORY_DAYS = 9
SEED = int(os.environ.get("DROPPED_DAY_SEED") or random.SystemRandom().randrange(10**6))
MONTHLY_MEASURES = tuple("stored_byte_days" if measure == "stored_bytes" else measure for measure in MEASURES)
MARTS = {"usage_daily": MEASURES, "usage_daily_detail": DETAIL_MEASURES, "usage_monthly": MONTHLY_MEASURES}


@dataclass(frozen=True)
class Loss:
    """
    A day of a connection that is lost: ``refused`` by the source as a whole, or, of one stream and scope, ``deleted``
    from the ledger or with its ``load lost``.
    """

    way: str
    provider: str
    connection_id: str
    accounts: frozenset[str]
    day: date
    stream: str | None = None
    scope: str | None = None

    @property
    def place(self) -> str:
        """The condition that finds it in a table with these columns."""
        found = f"connection_id = '{self.connection_id}' and usage_date = '{self.day}'"
        return found + (f" and stream = '{self.stream}' and scope = '{self.scope}'" if self.stream else "")


@dataclass
class World:
    """The sandbox, the warehouse, and what was lost of it."""

    sandbox: Sandbox
    warehouse: TestWarehouse
    target: Path
    losses: tuple[Loss, ...] = ()

    @property
    def today(self) -> date:
        return self.sandbox.clock.today()

    def sync(self, provider: Provider, request: sync.Request, run_id: str) -> list[UsageError]:
        """Run plan and every piece of work; return the failures."""
        named = [str(one["connection_id"]) for one in self.sandbox.connections() if one["provider"] == provider.name]
        failures = []
        for work in sync.plan(provider, self.warehouse.warehouse, named, request, self.today):
            try:
                sync.extract_and_load(provider, self.warehouse.warehouse, work, run_id)
            except UsageError as error:
                failures.append(error)
        return failures

    def build(self) -> None:
        """Bring the marts up to date."""
        transform(self.warehouse.warehouse, "test", project=REPOSITORY / "dbt_project", target=self.target)

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask as an analyst."""
        with self.warehouse.as_reader() as session:
            return session.execute(statement.encode(), values).fetchall()

    def lost_days(self, provider: str) -> set[tuple[str, date]]:
        """Return the accounts and days that lack something."""
        return {(account, loss.day) for loss in self.losses if loss.provider == provider for account in loss.accounts}


@pytest.fixture(scope="module")
def world(
    cluster: Cluster, running_sandbox: Sandbox, airflow_metadata: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    print(f"DROPPED_DAY_SEED={SEED}")
    with pytest.MonkeyPatch.context() as patch, cluster.warehouse() as warehouse:
        made = World(running_sandbox, warehouse, tmp_path_factory.mktemp("dbt"))
        for name, value in (warehouse.environment() | environment(running_sandbox.connections())).items():
            patch.setenv(name, value)
        for provider in providers.load_all():
            if isinstance(provider, HttpProvider):
                patch.setattr(type(provider), "limits", Limits())  # the pace is for the real ones
            assert made.sync(provider, {}, "first") == []
        made.losses = tuple(lose_days(made, random.Random(SEED)))
        made.build()
        yield made


def lose_days(world: World, chance: random.Random) -> Iterator[Loss]:
    """Lose three days of the first connection of every provider."""
    for provider in providers.load_all():
        places = world.warehouse.query(
            "select s.connection_id, coalesce(c.account_id, s.connection_id), s.stream, s.scope, s.usage_date"
            " from ops.slice as s inner join ops.scope as c using (connection_id, scope)"
            " inner join ops.load as l using (load_id)"
            " where l.provider = %s and l.record_count > 0 and s.usage_date <= %s and s.stream = any(%s)"
            " and s.connection_id = (select min(connection_id) from ops.load where provider = l.provider)"
            " order by 1, 2, 3, 4, 5",
            *(provider.name, world.today - timedelta(days=2), [one.name for one in provider.streams if one.is_usage]),
        )
        days = chance.sample(sorted({day for *_, day in places}), 3)
        for way, day in zip(("refused", "deleted", "load lost"), days, strict=True):
            connection_id, account, stream, scope, _ = chance.choice([place for place in places if place[4] == day])
            if way == "refused":
                loss = Loss(way, provider.name, connection_id, frozenset(place[1] for place in places), day)
                refuse(world, provider, loss)
            else:
                loss = Loss(way, provider.name, connection_id, frozenset([account]), day, stream, scope)
                world.warehouse.query(
                    f"delete from ops.slice where {loss.place}"
                    if way == "deleted"
                    else f"update ops.slice set state = 'missing', load_id = null where {loss.place}"
                )
            yield loss


def refuse(world: World, provider: Provider, loss: Loss) -> None:
    """Forget a whole day of a connection, and let the source refuse to tell it again."""
    world.warehouse.query(f"delete from ops.slice where {loss.place}")
    # With the versions, or the next plan would find the day again in the ledger.
    world.warehouse.query(f"delete from ops.load where {loss.place}")
    request: sync.Request = {
        "first": loss.day.isoformat(),
        "last": loss.day.isoformat(),
        "connections": [loss.connection_id],
    }
    with pytest.MonkeyPatch.context() as patch:
        if provider.name == "authress":  # it is read from a folder, which the sandbox has no faults for
            name = f"AIRFLOW_CONN_{loss.connection_id.upper()}"
            connection = json.loads(os.environ[name])
            connection["extra"]["location"] += "/nowhere"
            patch.setenv(name, json.dumps(connection))
        world.sandbox.faults.add("access_denied", provider=provider.name)
        try:
            assert world.sync(provider, request, "refused"), f"{provider.name} was not refused"
        finally:
            world.sandbox.faults.clear()


def numbers(world: World, mart: str, condition: str) -> list[tuple[Any, ...]]:
    """Return the measures of the rows that a condition finds in a mart."""
    return world.ask(f"select {', '.join(MARTS[mart])} from marts.{mart} where {condition}")


def test_a_lost_day_of_any_provider_has_no_number_at_the_finest_grain(world: World) -> None:
    for loss in world.losses:
        rows = numbers(world, "usage_daily_detail", loss.place)

        assert {value for row in rows for value in row} <= {None}, loss
        # A row without numbers stands for what the ledger knows to be lacking.
        assert bool(rows) == (loss.way != "deleted"), loss


def test_the_calendar_names_every_lost_day_and_says_why(world: World) -> None:
    for loss in world.losses:
        rows = world.ask(f"select distinct coverage, reason, is_loaded from marts.coverage_calendar where {loss.place}")

        ((coverage, reason, is_loaded), *more) = rows
        assert not is_loaded
        if loss.way == "refused":
            assert {coverage, *(row[0] for row in more)} == {"failed"}, loss
            assert loss.connection_id in reason
        else:
            assert (coverage, more) == ("missing", [])


def test_no_day_shows_a_zero_or_a_sum_that_is_not_the_truth(world: World) -> None:
    for provider in providers.names():
        assert len({day for _, day in world.lost_days(provider)}) == 3
    assert_days_are_true(world, lost=True)


def assert_days_are_true(world: World, *, lost: bool) -> None:
    """
    Compare what is told of the connected accounts with the truth.

    :param lost: whether the lost days may have less.
    """
    first = world.sandbox.truth.world.opened
    yesterday = world.today - timedelta(days=1)  # today goes on
    compared = 0
    for provider in providers.names():
        told = added_up(usage_daily(world.warehouse, provider), KEYS, MEASURES)
        truth = added_up(world.sandbox.truth.expected_usage_daily(provider, first, yesterday), KEYS, MEASURES)
        lacking = world.lost_days(provider) if lost else set()
        accounts = {key[2] for key in told}
        for key, true in truth.items():
            day, account = key[0], key[2]
            if (account, day) in lacking:
                assert_is_part_of(told.get(key, {}), true)
            elif account in accounts:
                assert told[key] == true
                compared += 1
        assert told.keys() - truth.keys() <= {key for key in told if key[0] == world.today}
    assert compared > 100


def assert_is_part_of(told: Mapping[str, Any], true: Mapping[str, Any]) -> None:
    """Fail if a measure is zero, or more, where the truth is not."""
    for measure in MEASURES:
        value, whole = told.get(measure), true[measure]
        if value is not None:
            assert whole is not None
            assert abs(value) <= abs(whole)
            assert (value == 0) <= (whole == 0), f"{measure} is shown as zero"


def test_the_month_of_every_lost_day_says_what_it_lacks(world: World) -> None:
    for loss, account in [(one, account) for one in world.losses for account in sorted(one.accounts)]:
        month = loss.day.replace(day=1)
        where = f"provider = '{loss.provider}' and account_id = '{account}' and usage_month = '{month}'"
        rows = world.ask(
            f"select model, covered_share, covered_days, expected_days from marts.usage_monthly where {where}"
        )

        lacking = [row for row in rows if row[1] < 1]
        assert any(model is None for model, *_ in lacking), loss
        for _, share, covered, whole in rows:
            assert abs(share - Decimal(covered) / whole) < Decimal("1e-15")
        for row in numbers(world, "usage_monthly", f"{where} and model is null"):
            assert {*row} == {None}
        if loss.provider != "aws_bedrock":  # each of its scopes is a region; the others are of an account as a whole
            assert lacking == rows, loss


def test_shares_of_the_months_are_those_of_the_calendar(world: World) -> None:
    from_calendar = world.ask(
        "select date_trunc('month', usage_date)::date, provider, account_id, region,"
        " count(*) filter (where is_loaded), count(*) from marts.coverage_calendar where is_counted"
        " group by 1, 2, 3, 4 having bool_or(not is_loaded) order by 1, 2, 3, 4"
    )
    from_months = world.ask(
        "select usage_month, provider, account_id, region, covered_days, expected_days from marts.usage_monthly"
        " where model is null order by 1, 2, 3, 4"
    )

    assert from_months == from_calendar
    assert {provider for _, provider, *_ in from_months} == set(providers.names())


def test_once_the_days_are_read_again_every_number_is_the_truth_and_every_month_is_whole(world: World) -> None:
    for provider in providers.load_all():
        connections = sorted({loss.connection_id for loss in world.losses if loss.provider == provider.name})
        assert world.sync(provider, {"connections": connections}, "healed") == []
    world.build()

    assert (
        world.ask(
            "select connection_id, stream, scope, usage_date, reason from marts.coverage_calendar where not is_loaded"
        )
        == []
    )
    assert world.ask("select provider, account_id, region from marts.usage_monthly where covered_share < 1") == []
    assert world.ask("select connection_id from marts.source_freshness where not is_fresh") == []
    assert_days_are_true(world, lost=False)
