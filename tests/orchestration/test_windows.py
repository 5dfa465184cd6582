"""Windows are read newest first, scopes may share a task, and what cannot be read keeps nothing else from being read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

import pytest

from ai_usage.core.contract import Connection, Scope
from ai_usage.core.errors import CredentialRejected, PermissionMissing, SourceUnavailable, UsageError
from ai_usage.core.http import Limits
from ai_usage.orchestration import sync
from ai_usage.orchestration.warehouse_connection import open_warehouse
from ai_usage.providers.openai import OpenAIProvider
from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.support.warehouse import TestWarehouse

CONNECTION = "openai_default"
WINDOWS = 3
HISTORY_DAYS = 31 * WINDOWS


class Quick(OpenAIProvider):
    """The provider, without the pace and the patience that the real OpenAI needs."""

    limits = Limits(attempts=1)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(today=datetime.now(UTC).date(), moto=False, history_days=HISTORY_DAYS) as running:
        yield running


@pytest.fixture
def connected(sandbox: Sandbox, warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch) -> TestWarehouse:
    for name, value in (warehouse.environment() | environment(sandbox.connections())).items():
        monkeypatch.setenv(name, value)
    return warehouse


def read_completions(sandbox: Sandbox, run_id: str = "run") -> UsageError | None:
    """Plan, read the one stream, and return what went wrong."""
    provider, warehouse = Quick(today=sandbox.clock.today), open_warehouse()
    (work,) = sync.plan(provider, warehouse, [CONNECTION], {}, sandbox.clock.today())
    (part,) = work["parts"]
    part["windows"] = {"completions": part["windows"]["completions"]}
    sandbox.requests.reset()
    try:
        sync.extract_and_load(provider, warehouse, work, run_id)
    except UsageError as error:
        return error
    return None


def failed_days(warehouse: TestWarehouse) -> tuple[date, date] | None:
    ((first, last, days),) = warehouse.query(
        "select min(usage_date), max(usage_date), count(*) from ops.slice"
        " where stream = 'completions' and state = 'failed'"
    )
    assert days == (0 if first is None else (last - first).days + 1)
    return (first, last) if days else None


def stories(warehouse: TestWarehouse) -> list[str]:
    return [
        kind for (kind,) in warehouse.query("select kind from ops.event where stream = 'completions' order by event_id")
    ]


def test_an_answer_that_makes_no_sense_once_is_made_good_in_the_same_run(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    sandbox.faults.add("missing_field", operation="completions", times=1)

    assert read_completions(sandbox) is None

    # The newest window is asked for first, and again in two halves.
    assert sandbox.requests.count(operation="completions") == WINDOWS + 2
    assert failed_days(connected) is None
    assert stories(connected) == [], "nobody needs to know"
    outcomes = connected.query(
        "select outcome, count(*) from ops.extraction where run_id = 'run' group by 1 order by 1"
    )
    assert outcomes == [("failed", 1), ("loaded", WINDOWS + 1)], "the journal tells what happened"


def test_a_key_that_is_refused_is_not_shown_for_every_window(connected: TestWarehouse, sandbox: Sandbox) -> None:
    sandbox.faults.add("invalid_credentials", operation="completions")

    failure = read_completions(sandbox)

    assert isinstance(failure, CredentialRejected)
    assert sandbox.requests.count(operation="completions") == 1
    today = sandbox.clock.today()
    assert failed_days(connected) == (today - timedelta(days=HISTORY_DAYS - 1), today)


def test_what_may_pass_by_itself_decides_whether_the_task_tries_again(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    sandbox.faults.add("missing_field", operation="completions", times=1)
    sandbox.faults.add("service_unavailable", operation="completions", after=2)

    failure = read_completions(sandbox)

    assert isinstance(failure, SourceUnavailable)
    assert not failure.is_permanent


class ManyParts(Quick):
    """The same organization under many names, of which one task may read fifty."""

    streams = (Quick().stream("embeddings"),)
    scopes_per_task = 50
    number = 14

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        return [Scope(f"part-{n:02}", account_id=f"account-{n:02}") for n in range(self.number)]


def plan_parts(sandbox: Sandbox, provider: ManyParts) -> list[sync.Work]:
    return sync.plan(provider, open_warehouse(), [CONNECTION], {"first": "2026-01-01"}, sandbox.clock.today())


def test_many_scopes_share_a_task_where_the_provider_answers_for_many(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    provider = ManyParts(today=sandbox.clock.today)
    (work,) = plan_parts(sandbox, provider)
    assert work["label"] == "openai_default · part-00 and 13 more"
    assert [part["scope"] for part in work["parts"]] == [f"part-{n:02}" for n in range(14)]

    provider.number = sync.SCOPES_OF_THEIR_OWN
    assert len(plan_parts(sandbox, provider)) == sync.SCOPES_OF_THEIR_OWN
    assert len(sync.plan(Quick(today=sandbox.clock.today), open_warehouse(), [CONNECTION], {})) == 1


def test_a_scope_that_fails_leaves_those_it_shares_a_task_with_alone(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    provider = ManyParts(today=sandbox.clock.today)
    (work,) = plan_parts(sandbox, provider)
    for part in work["parts"]:
        part["windows"]["embeddings"] = part["windows"]["embeddings"][-1:]
    sandbox.faults.add("access_denied", operation="embeddings", after=2, times=1)

    with pytest.raises(PermissionMissing):
        sync.extract_and_load(provider, open_warehouse(), work, "run")

    states = connected.query("select scope, outcome from ops.extraction where run_id = 'run' order by 1")
    assert states == [(f"part-{n:02}", "failed" if n == 2 else "loaded") for n in range(14)]
