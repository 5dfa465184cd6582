"""
A random schedule: rounds of faults, restatements, kills and runs at once over all providers, then one healthy run.

Everything follows from the seed: what the providers say, what goes wrong, and when.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ai_usage import providers
from ai_usage.core.errors import UsageError
from ai_usage.orchestration.transform import transform
from ai_usage.warehouse.janitor import Cleaned, drop_passing_scopes
from ai_usage.warehouse.session import Warehouse
from sandbox import faults, simulators
from sandbox.service import Sandbox
from tests.support import stack
from tests.support.killing_proxy import KillingProxy
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.victim import Forks, Victim
from tests.support.warehouse import Cluster, TestWarehouse

PROJECT = Path(__file__).parents[2] / "dbt_project"
ABSENT = {"aws_bedrock": ["123456789012"], "authress": ["acc_sandbox_company"]}
"""Accounts that only a sandbox with moto answers for."""
SLOW = frozenset({"slow_drip", "gzip_bomb"})
LIES = frozenset(
    {
        # Whole, well-formed answers that say something else than the truth: nobody could tell.
        "nothing",
        "odd_names",
        # Replicate may have a status that we do not know; of a run that has ended, it is taken as it stands.
        "unknown_status",
        # Rates that are taken at other moments: docs/providers/groq.md says by how much days are off.
        "out_of_phase",
        # Seen where both families of metrics are told; some resources tell one only, and of them the wrong one.
        "families_differ",
    }
)
NARROWED = {"gap": {"operation": "tokens_in"}}
"""A hole in all of Groq's series at once looks like idleness; where requests go on, it can be told."""


@dataclass
class Round:
    """One disturbed run."""

    names: list[str]
    how: str
    faults: list[dict[str, object]]
    restated: list[str]
    kill_at: int

    def __str__(self) -> str:
        told = ", ".join(f"{fault['provider']}:{fault['kind']}" for fault in self.faults) or "no faults"
        return f"{self.how} at {self.kill_at} of {' '.join(self.names)}; {told}; restated {', '.join(self.restated)}"


def play(seed: int, cluster: Cluster, target: Path) -> list[str]:
    """Play the schedule of a seed; return what happened. Whatever is not as it must be raises."""
    chance = random.Random(seed)
    today = datetime.now(UTC).date()
    history = chance.randint(3, 6)
    told = [f"seed {seed}: {history} days"]
    with (
        Sandbox(seed=seed, today=today, moto=False, history_days=history) as sandbox,
        cluster.warehouse() as warehouse,
        KillingProxy(cluster.postgres.port) as proxy,
    ):
        victim = Victim(warehouse, sandbox, proxy)
        try:
            for number in range(chance.randint(2, 3)):
                told.append(_disturb(f"round {number}", chance, sandbox, victim, cluster, history))
                if chance.random() < 0.25:
                    told.append(_transform_disturbed(chance, cluster, warehouse, target, f"early {number}"))
            sandbox.faults.clear()
            # A minute later, so that providers that count calls per minute begin anew.
            sandbox.requests.reset()
            victim.sync(providers.names(), "healthy")
            # Tomorrow's housekeeping, which finds that what a fault made a provider name is named no more.
            drop_passing_scopes(warehouse.warehouse, Cleaned(), gone_for=timedelta(0))
            _assert_healthy(warehouse)
            transform(warehouse.warehouse, "last", project=PROJECT, target=target)
            first = today - timedelta(days=history - 1)
            for name in providers.names():
                assert_marts_equal_the_truth(warehouse, sandbox, name, first, ABSENT.get(name, ()))
            _assert_whole(warehouse)
        except BaseException:
            print("\n".join(told))
            raise
    return told


def _disturb(
    run_id: str, chance: random.Random, sandbox: Sandbox, victim: Victim, cluster: Cluster, history: int
) -> str:
    names = providers.names()
    chance.shuffle(names)
    this = Round(
        names=names[: chance.randint(3, 7)],
        how=chance.choices(["plain", "killed", "database killed", "at once"], [3, 4, 1, 2])[0],
        faults=[],
        restated=[],
        kill_at=chance.choice([chance.randint(1, 40), chance.randint(1, 400)]),
    )
    for _ in range(chance.randint(0, 4)):
        this.restated.append(_restate(chance, sandbox, min(history - 1, 2)))
    sandbox.faults.clear()
    for name in this.names:
        for _ in range(chance.choice([0, 1, 1, 2])):
            this.faults.append(_fault(chance, name))
            sandbox.faults.add(**this.faults[-1])  # type: ignore[arg-type]
    if this.how == "plain":
        victim.sync(this.names, run_id)
    elif this.how == "at once":
        victim.sync_at_once([this.names, this.names[::-1]], run_id)
    else:
        is_database = this.how == "database killed"
        victim.sync_killed(this.names, run_id, this.kill_at, cluster.postgres.kill if is_database else None)
        cluster.postgres.start()
    return str(this)


def _fault(chance: random.Random, name: str) -> dict[str, object]:
    simulator = simulators.load(name)
    kind = chance.choice(sorted((faults.SHARED | set(simulator.fault_kinds)) - SLOW - LIES))
    return {
        "kind": kind,
        "provider": name,
        "after": chance.choice([0, 0, 1, 2, 3, 5, 8]),
        "times": chance.choice([1, 1, 2, 5, None]),
        **NARROWED.get(kind, {}),
    }


def _restate(chance: random.Random, sandbox: Sandbox, oldest: int) -> str:
    name = chance.choice(providers.names())
    places = stack.restatable(sandbox, name, range(1, oldest + 1), ABSENT.get(name, ()))
    if not places:
        return f"nothing of {name}"
    place = chance.choice(places)
    change: dict[str, Any] = chance.choice(
        [{"factor": "0"}, {"factor": "0.5"}, {"factor": "1"}, {"factor": "3"}, {"vanish": True}]
    )
    stack.restate(sandbox, name, place, **change)
    return f"{name} {place.account} {place.region} {place.day} {change}"


# ---------------------------------------------------------------- transforms


def transform_quietly(warehouse: Warehouse, run_id: str, target: Path) -> None:
    """Transform, in a process of its own, whatever comes of it."""
    try:
        transform(warehouse, run_id, project=PROJECT, target=target)
    except UsageError as error:
        print(error)


def _transform_disturbed(
    chance: random.Random, cluster: Cluster, warehouse: TestWarehouse, target: Path, run_id: str
) -> str:
    """Transform half-loaded slices: to its end, or killed, or with the database killed under it."""
    how = chance.choice(["whole", "killed", "database killed"])
    forks = Forks()
    process = forks.start(transform_quietly, warehouse.warehouse, run_id, target)
    if how != "whole":
        time.sleep(chance.uniform(1.0, 12.0))
        if how == "killed":
            process.kill()
        else:
            cluster.postgres.kill()
    forks.join(process)
    cluster.postgres.start()
    return f"transform {how}"


# ---------------------------------------------------------------- afterwards


def _assert_healthy(warehouse: TestWarehouse) -> None:
    failed = warehouse.query(
        "select connection_id, stream, scope, error_message from ops.extraction where run_id = 'healthy'"
        " and outcome not in ('loaded', 'unchanged')"
    )
    assert not failed, f"the healthy run failed: {failed}"
    assert not (still := stack.open_problems(warehouse)), f"problems stay open although all is well: {still}"
    lacking = warehouse.query(
        "select connection_id, stream, scope, usage_date, state from ops.slice"
        " where state in ('missing', 'failed', 'not_entitled')"
    )
    assert not lacking, f"slices are lacking after a healthy run: {lacking}"


def _assert_whole(warehouse: TestWarehouse) -> None:
    """The marts know of no day that is lacking."""
    with warehouse.as_reader() as reader:
        lacking = reader.execute(
            "select account_id, usage_date, coverage from marts.usage_daily where model is null"
            " and coverage in ('missing', 'failed', 'not_entitled')"
        ).fetchall()
    assert not lacking, f"the marts lack {lacking}"


def seeds(first: int, count: int) -> Sequence[int]:
    """Return the seeds of a batch."""
    return range(first, first + count)
