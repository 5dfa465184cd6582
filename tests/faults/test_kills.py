"""
SIGKILL between any two messages of a sync, to the syncing process or to PostgreSQL: nothing lost, nothing doubled.

The process under test runs the same plan, extraction and load as Airflow's tasks. It talks to PostgreSQL through a proxy
that counts its messages and strikes before one of them, chosen at random.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.support import bedrock
from tests.support.killing_proxy import KillingProxy
from tests.support.warehouse import Cluster, TestWarehouse

KILLS = 50
HISTORY_DAYS = 12


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A server that nobody else needs, because it will be killed."""
    with Cluster(tmp_path / "postgres") as cluster:
        yield cluster


class Victim:
    """Runs syncs in processes of their own."""

    def __init__(self, warehouse: TestWarehouse, sandbox: Sandbox, proxy: KillingProxy, today: date) -> None:
        self._environment = warehouse.environment() | environment(sandbox.connections())
        here = warehouse.warehouse
        self._environment["AIRFLOW_CONN_AI_USAGE_WAREHOUSE"] = (
            f"postgresql://{here.user}:{here.password}@127.0.0.1:{proxy.port}/{here.dbname}"
        )
        self._proxy = proxy
        self._today = today
        # A fork of a server that has imported everything starts in milliseconds, and shares no thread with the tests.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.support.bedrock", "airflow.providers.amazon.aws.hooks.base_aws"])

    def sync(self, run_id: str, kill_at: int = 0) -> bool:
        """Sync once, killed before its message number ``kill_at``; tell whether it lived to the end."""
        self._proxy.arm(kill_at)
        process = self._processes.Process(target=bedrock.run_or_exit, args=(self._environment, self._today, run_id))
        process.start()
        self._proxy.victim = process.pid
        process.join(120)
        return process.exitcode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_kills_at_random_points_lose_nothing_and_double_nothing(own_cluster: Cluster) -> None:
    seed = int(os.environ.get("AI_USAGE_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed {seed}: set AI_USAGE_TEST_SEED to repeat this run")
    chance = random.Random(seed)
    today = datetime.now(UTC).date()
    first = today - timedelta(days=HISTORY_DAYS - 1)
    with (
        Sandbox(today=today, history_days=HISTORY_DAYS, moto=False) as sandbox,
        own_cluster.warehouse() as warehouse,
        KillingProxy(own_cluster.postgres.port) as proxy,
    ):
        victim = Victim(warehouse, sandbox, proxy, today)
        killed = 0
        for number in range(KILLS):
            before = bedrock.stored(warehouse)
            _restate(sandbox, chance, first, today)
            truth = bedrock.truth(sandbox, first, today)
            proxy.strike = own_cluster.postgres.kill if number % 5 == 4 else None
            killed += not victim.sync(f"killed {number}", kill_at=chance.randint(1, 60))
            proxy.rest()
            own_cluster.postgres.start()
            _every_slice_is_old_or_new(bedrock.stored(warehouse), before, truth)
            if chance.random() < 0.5:  # otherwise the next kill falls upon what this one left
                assert victim.sync(f"whole {number}")
                assert bedrock.stored(warehouse) == truth
        assert victim.sync("last")
        assert bedrock.stored(warehouse) == bedrock.truth(sandbox, first, today)
        assert killed > KILLS // 2, "most strikes came after the end: they prove nothing"


def _restate(sandbox: Sandbox, chance: random.Random, first: date, today: date) -> None:
    """Make the provider change its mind about a few region-days: up, down, to zero, and back."""
    for _ in range(3):
        sandbox.truth.restate(
            provider=bedrock.PROVIDER,
            account="210987654321",
            region=chance.choice(["us-east-1", "us-west-2", "eu-central-1"]),
            day=chance.choice([today - timedelta(days=n) for n in range(3)]),
            factor=chance.choice(["0", "0.5", "1", "3"]),
        )


def _every_slice_is_old_or_new(now: bedrock.Stored, before: bedrock.Stored, truth: bedrock.Stored) -> None:
    def by_slice(stored: bedrock.Stored) -> dict[tuple[object, ...], dict[tuple[object, ...], dict[str, int]]]:
        slices: dict[tuple[object, ...], dict[tuple[object, ...], dict[str, int]]] = {}
        for key, metrics in stored.items():
            slices.setdefault(key[:2], {})[key[2:]] = metrics
        return slices

    old, new, seen = by_slice(before), by_slice(truth), by_slice(now)
    for place in old.keys() | new.keys() | seen.keys():
        assert seen.get(place) in (old.get(place), new.get(place)), f"{place} is a mixture"
