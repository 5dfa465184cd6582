"""
The ground on which scenarios play: a sandbox whose providers have just changed their minds, and warehouses from before.

Every scenario begins with a warehouse that was read yesterday, so to say. Since then days were restated: up, down and to
nothing. A scenario ends well when its warehouse holds, record for record, what a warehouse holds that was read once,
afterwards, without any fault; and the marts of that one are compared with the truth. So what a scenario ends in is
exact, without a transform of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from ai_usage.core.errors import UsageError
from ai_usage.orchestration import sync
from ai_usage.orchestration.transform import transform
from sandbox.service import Sandbox
from tests.support import stack
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.stack import Content
from tests.support.warehouse import Cluster, TestWarehouse

HISTORY_DAYS = 4
PROJECT = Path(__file__).parents[2] / "dbt_project"
ABSENT = {"aws_bedrock": ["123456789012"], "authress": ["acc_sandbox_company"], "openai": ["org-SandboxLab"]}
"""Accounts that only a sandbox with moto answers for, and one that would only cost time."""
BEYOND_32_BITS = "10000"
"""A factor that makes numbers that no integer of 32 bits holds, and one of 63 bits does, whatever the day brings."""


@dataclass(frozen=True)
class Scenario:
    """
    One fault, and what becomes of it.

    :param number: as in the list of faults that this project wants to survive.
    :param kind: the problem that must be open while the fault lasts; ``None`` if nobody need notice.
    :param faults: what goes wrong, each a fault of the sandbox without its provider.
    :param is_new: whether the connection meets the fault at its very first run.
    :param notes: an event that must be told although nothing fails.
    :param most_calls: how many requests there may be at most while the fault lasts.
    :param others: whether other parts of the same provider must have been brought up to date all the same.
    """

    number: str
    sentence: str
    provider: str
    kind: str | None
    faults: Sequence[dict[str, Any]]
    is_new: bool = False
    notes: str | None = None
    most_calls: int | None = None
    others: bool = False

    def __str__(self) -> str:
        return f"{self.number} {self.provider}: {self.sentence}"


def quiet(number: str, sentence: str, provider: str, *faults: dict[str, Any], **more: Any) -> Scenario:
    """Return a scenario that nobody needs to notice."""
    return Scenario(number, sentence, provider, None, faults, **more)


def told(number: str, sentence: str, provider: str, kind: str, *faults: dict[str, Any], **more: Any) -> Scenario:
    """Return a scenario that ends in an open problem."""
    return Scenario(number, sentence, provider, kind, faults, **more)


def fault(kind: str, **more: Any) -> dict[str, Any]:
    """Return a fault of the scenario's provider."""
    return {"kind": kind, **more}


UNAVAILABLE, INVALID, LIMITED = "source_unavailable", "response_invalid", "rate_limited"
REJECTED, FORBIDDEN, CONFIGURATION = "credential_rejected", "permission_missing", "configuration_invalid"


@dataclass
class Ground:
    """See the module."""

    cluster: Cluster
    sandbox: Sandbox
    environment: pytest.MonkeyPatch
    earlier: TestWarehouse
    later: TestWarehouse
    before: dict[str, Content] = field(default_factory=dict)
    after: dict[str, Content] = field(default_factory=dict)

    @property
    def today(self) -> date:
        """The day on which everything plays."""
        return self.sandbox.clock.today()

    @contextmanager
    def warehouse(self, *, is_new: bool = False) -> Iterator[TestWarehouse]:
        """Make a warehouse as it was before the providers changed their minds, and the one that syncs use."""
        with self.cluster.warehouse(None if is_new else self.earlier) as made:
            self.use(made)
            self.sandbox.requests.reset()
            try:
                yield made
            finally:
                self.sandbox.faults.clear()

    def use(self, warehouse: TestWarehouse) -> None:
        """Let syncs write into a warehouse."""
        for name, value in warehouse.environment().items():
            self.environment.setenv(name, value)

    def sync(self, provider: str, run_id: str, request: sync.Request | None = None) -> list[UsageError]:
        """Run plan and all of its work."""
        return stack.run(provider, self.today, run_id, request)

    def play(self, scenario: Scenario) -> str:
        """Let a scenario happen; return how it ended."""
        name = scenario.provider
        with self.warehouse(is_new=scenario.is_new) as warehouse:
            for fault in scenario.faults:
                self.sandbox.faults.add(provider=name, **fault)
            failures = self.sync(name, "faulty")
            idle = [fault for fault in self.sandbox.faults.to_json() if not fault["hits"]]
            assert not idle, f"the fault never happened: {idle}"
            calls = self.sandbox.requests.count(provider=name)
            assert scenario.most_calls is None or calls <= scenario.most_calls, f"{calls} requests"
            assert not self.sandbox.requests.count(provider="stranger"), "a request went to another host"
            if scenario.kind is None:
                assert not failures, failures
                told = "exact at once"
            else:
                told = self._untouched(scenario, warehouse, failures) + "; exact after the fault"
            if scenario.notes:
                assert warehouse.query("select 1 from ops.event where kind = %s limit 1", scenario.notes)
                told += f", {scenario.notes} told"
            if scenario.kind is None:
                self.assert_exact(warehouse, name)
            self.sandbox.faults.clear()
            self.heal(warehouse, name)
            self.assert_no_secret(warehouse)
        return told

    def heal(self, warehouse: TestWarehouse, provider: str) -> None:
        """Run once more without any fault: everything is exact, and no story stays open."""
        failures = self.sync(provider, "healed")
        assert not failures, f"fails without a fault: {failures}"
        self.assert_exact(warehouse, provider)
        assert not (left := stack.open_problems(warehouse)), f"problems stay open: {left}"

    def assert_exact(self, warehouse: TestWarehouse, provider: str) -> None:
        """Compare with what one reading without any fault has stored."""
        assert_same(stack.content(warehouse, provider), self.after[provider])

    def assert_no_secret(self, warehouse: TestWarehouse) -> None:
        """Search everything that was written about the run for the credentials it used."""
        written = str(
            warehouse.query(
                """
                select string_agg(line, ' ') from (
                    select e::text as line from ops.event as e union all select p::text from ops.problem as p
                    union all select x::text from ops.extraction as x
                    union all select c::text from ops.connection_check as c
                ) as everything
                """
            )
        )
        leaked = [
            one["connection_id"] for one in self.sandbox.connections() if (one["password"] or "-none-") in written
        ]
        assert not leaked, f"the secrets of {leaked} were written down"

    def _untouched(self, scenario: Scenario, warehouse: TestWarehouse, failures: list[UsageError]) -> str:
        name = scenario.provider
        held = {} if scenario.is_new else self.before[name]
        now, lost, read = stack.content(warehouse, name), stack.failed_slots(warehouse, "faulty"), self._read(warehouse)
        assert failures or scenario.kind == "not_entitled", "nothing failed"
        for slot, here in now.items():
            was, true = held.get(slot), self.after[name].get(slot)
            if slot in lost or slot[:3] not in read:
                assert here.records == (was.records if was else ()), f"{slot} was touched"
                assert was or here.state in ("failed", "missing", "not_entitled"), f"{slot} looks {here.state}"
            else:
                assert here == true, f"{slot} is not what the provider says"
        assert not scenario.others or any(
            now.get(slot) == true != held.get(slot) for slot, true in self.after[name].items()
        )
        problems = stack.open_problems(warehouse)
        assert scenario.kind in {problem.kind for problem in problems}, f"told as {problems}"
        assert all(problem.action and problem.message for problem in problems), "a problem without a way out"
        return f"{scenario.kind} told, {len(lost)} days untouched"

    @staticmethod
    def _read(warehouse: TestWarehouse) -> set[tuple[str, str, str]]:
        return set(
            warehouse.query(
                "select distinct connection_id, stream, scope from ops.extraction"
                " where run_id = 'faulty' and outcome in ('loaded', 'unchanged')"
            )
        )


def assert_same(now: Content, true: Content) -> None:
    """Compare slice by slice; tell of the first that differ."""
    differing = sorted(slot for slot in now.keys() | true.keys() if now.get(slot) != true.get(slot))
    told = [f"{slot}: {str(now.get(slot))[:300]} is not {str(true.get(slot))[:300]}" for slot in differing[:3]]
    assert not differing, f"{len(differing)} slices differ: " + "\n".join(told)


@contextmanager
def prepared(cluster: Cluster, today: date, names: Sequence[str]) -> Iterator[Ground]:
    """Read the providers, let them change their minds, and read them again into another warehouse."""
    with ExitStack() as ends:
        sandbox = ends.enter_context(Sandbox(today=today, moto=False, history_days=HISTORY_DAYS))
        environment = ends.enter_context(pytest.MonkeyPatch.context())
        for owner, name, value in stack.impatient():
            environment.setattr(owner, name, value)
        for name, value in stack.connections(sandbox, ["openai_lab"]).items():
            environment.setenv(name, value)
        earlier, later = ends.enter_context(cluster.warehouse()), ends.enter_context(cluster.warehouse())
        ground = Ground(cluster, sandbox, environment, earlier, later)
        ground.before = _read_all(ground, earlier, names)
        for name in names:
            change_minds(sandbox, name)
        ground.after = _read_all(ground, later, names)
        for name in names:
            assert ground.before[name] != ground.after[name], f"{name} did not change its mind"
        yield ground


def _read_all(ground: Ground, warehouse: TestWarehouse, names: Sequence[str]) -> dict[str, Content]:
    ground.use(warehouse)
    for name in names:
        failures = ground.sync(name, "clean")
        assert not failures, failures
    return {name: stack.content(warehouse, name) for name in names}


def change_minds(sandbox: Sandbox, provider: str) -> None:
    """Restate the last days: one place to nothing, one beyond 32 bits, the others up and down."""
    changes: list[dict[str, Any]] = [{"vanish": True}, {"factor": "3"}, {"factor": "0.5"}, {"factor": "0"}]
    days: tuple[int, ...] = (1, 2)
    if provider == "openai":
        changes[1], days = {"factor": BEYOND_32_BITS}, (1, 2, 3)
    for number, place in enumerate(stack.restatable(sandbox, provider, days, ABSENT.get(provider, ()))):
        stack.restate(sandbox, provider, place, **changes[number % len(changes)])


def assert_marts_are_true(
    ground: Ground, target: Path, names: Sequence[str], before: Callable[[], None] | None = None
) -> None:
    """Build the marts of the warehouse that was read without a fault, and compare them with the truth."""
    if before:
        before()
    transform(ground.later.warehouse, "truth", project=PROJECT, target=target)
    for name in names:
        first = ground.today - timedelta(days=HISTORY_DAYS - 1)
        assert_marts_equal_the_truth(ground.later, ground.sandbox, name, first, ABSENT.get(name, ()))
