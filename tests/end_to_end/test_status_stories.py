"""
What the status and the event log say of each thing that goes wrong, from the first sign to the recovery.

Every story runs through the real code against the sandbox: the plan, each piece of work, the ledger, and the views as an
analyst reads them. Nothing is built in between: the views are live.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.core.errors import UsageError
from ai_usage.core.http import Limits
from ai_usage.orchestration import sync
from ai_usage.orchestration.sources import discover, next_run
from ai_usage.orchestration.warehouse_connection import open_warehouse
from ai_usage.providers.anthropic import Anthropic
from ai_usage.providers.fireworks import FireworksProvider
from ai_usage.providers.groq import GroqProvider
from ai_usage.providers.openai import OpenAIProvider
from ai_usage.providers.openrouter import OpenRouterProvider
from ai_usage.providers.replicate import ReplicateProvider
from ai_usage.warehouse import events, ledger
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from sandbox.connections import environment
from sandbox.service import Sandbox
from sandbox.simulators.groq import api_key, key_without_plan
from sandbox.simulators.replicate import token
from sandbox.truth.groq import COMPANY
from sandbox.truth.replicate import STUDIO, TINKERER
from tests.support.airflow import run_dag
from tests.support.warehouse import Cluster, TestWarehouse

pytestmark = pytest.mark.timeout(600)

HISTORY_DAYS = 12
RESEARCH = "210987654321"
CONNECTED = ("connected", None, 0)
Row = tuple[Any, ...]


@pytest.fixture(scope="module")
def stage(cluster: Cluster, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestWarehouse]:
    """A warehouse with the views of the status, built once: no story needs another build."""
    project, target = repository / "dbt_project", tmp_path_factory.getbasetemp() / "dbt_target"
    with cluster.warehouse() as warehouse:
        built = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("dbt")), "run"),
                *("--select", "+integration_status", "+integration_events"),
                *("--project-dir", str(project), "--profiles-dir", str(project)),
                *("--target-path", str(target), "--log-path", str(target / "logs")),
            ],
            env=os.environ | warehouse.environment() | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert built.returncode == 0, built.stdout
        yield warehouse


class Source:
    """One connection, read the way its DAG does it."""

    def __init__(self, warehouse: TestWarehouse, provider: str, connection_id: str) -> None:
        self.warehouse = warehouse
        self.provider = provider
        self.connection_id = connection_id
        self._runs = 0

    def run(self) -> list[UsageError]:
        """Plan, and do every piece of work; return the failures."""
        self._runs += 1
        provider, warehouse = providers.load(self.provider), open_warehouse()
        sources = discover(provider)
        with warehouse.session(LOADER) as session:
            ledger.note_sources(session, provider, sources, next_run("5 * * * *", datetime.now(UTC)))
        asked = sync.Request(connections=[self.connection_id]) if self.connection_id in sources else sync.Request()
        failures = []
        for work in sync.plan(provider, warehouse, sources, asked):
            try:
                sync.extract_and_load(provider, warehouse, work, f"{self.connection_id}/{self._runs}")
            except UsageError as error:
                failures.append(error)
        return failures

    def status(self) -> dict[str | None, Row]:
        """Return scope → state, kind of the worst problem, and how many problems are open."""
        rows = self.read("scope, state, problem_kind, open_problems", "integration_status")
        assert len({row[0] for row in rows}) == len(rows)
        return {row[0]: row[1:] for row in rows}

    def detail(self, columns: str, scope: str | None = None) -> Row:
        """Return columns of one row of the status."""
        (row,) = (row[1:] for row in self.read(f"scope, {columns}", "integration_status") if row[0] == scope)
        return row

    def stories(self) -> list[Row]:
        """Return what the event log says: place, kind, in how many runs, and how it ended; a single event ends at once."""
        return self.read(
            "scope, stream, kind, times_seen, case when is_open then 'open' else resolution end", "integration_events"
        )

    def read(self, columns: str, view: str) -> list[Row]:
        """Read as an analyst does."""
        order = "order by opened_at, event_id" if view == "integration_events" else "order by scope nulls first"
        with self.warehouse.as_reader() as session:
            return session.execute(
                f"select {columns} from marts.{view} where connection_id = %s {order}".encode(), (self.connection_id,)
            ).fetchall()


@pytest.fixture
def connect(
    stage: TestWarehouse, sandbox: Sandbox, airflow_metadata: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Connects one of the sandbox's connections, and only that, to the stage."""
    for one in (Anthropic, FireworksProvider, GroqProvider, OpenAIProvider, OpenRouterProvider, ReplicateProvider):
        # The providers' own pace and patience are for the real ones.
        monkeypatch.setattr(one, "limits", Limits(attempts=1))
    for name, value in stage.environment().items():
        monkeypatch.setenv(name, value)

    def connected(connection_id: str) -> Source:
        (found,) = [one for one in sandbox.connections() if one["connection_id"] == connection_id]
        for name, value in environment([found]).items():
            monkeypatch.setenv(name, value)
        return Source(stage, found["provider"], connection_id)

    yield connected


def setting(connection_id: str) -> str:
    return f"AIRFLOW_CONN_{connection_id.upper()}"


def test_a_provider_that_was_never_connected_has_a_row_that_says_how(stage: TestWarehouse) -> None:
    with stage.as_reader() as session:
        rows = session.execute(
            "select label, connection_id, state, since, is_late, usage_rows_30d, open_problems, problem, action"
            " from marts.integration_status where provider = 'azure_openai'"
        ).fetchall()

    assert rows == [
        (
            *("Azure OpenAI", None, "not_connected", None, False, 0, 0),
            "There is no connection.",
            "Add the connection azure_openai_default in Airflow; docs/connections.md tells how.",
        )
    ]


def test_an_expired_key(connect: Any, sandbox: Sandbox) -> None:
    source = connect("anthropic_research")
    assert source.run() == []
    assert source.status() == {None: CONNECTED, "-": CONNECTED}
    before = source.detail("usage_rows_30d, newest_usage_date")
    assert before[0] > 0

    sandbox.faults.add("invalid_credentials", provider="anthropic")
    assert [error.kind for error in source.run()] == ["credential_rejected"]
    source.run()

    streams = len(providers.load("anthropic").streams)
    assert source.status() == {
        None: ("failing", "credential_rejected", streams),
        "-": ("failing", "credential_rejected", streams),
    }
    problem, action = source.detail("problem, action")
    assert "key" in problem
    assert "key" in action
    assert source.detail("usage_rows_30d, newest_usage_date") == before, "what was read stays"
    assert source.detail("since < last_attempt_at, last_success_at < since") == (True, True)
    failures = [story for story in source.stories() if story[2] == "credential_rejected"]
    assert sorted(failures) == sorted(
        ("-", stream.name, "credential_rejected", 2, "open") for stream in providers.load("anthropic").streams
    )

    sandbox.faults.clear()
    assert source.run() == []
    assert source.status() == {None: CONNECTED, "-": CONNECTED}
    assert source.detail("problem, since > now() - interval '1 minute'") == (None, True)
    assert {story[4] for story in source.stories() if story[2] == "credential_rejected"} == {"recovered"}


def test_a_connection_that_lacks_its_key(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = connect("openrouter_personal")
    good = os.environ[setting(source.connection_id)]
    monkeypatch.setenv(setting(source.connection_id), json.dumps(json.loads(good) | {"password": ""}))

    assert [error.kind for error in source.run()] == ["configuration_invalid"]
    source.run()

    assert source.status() == {None: ("failing", "configuration_invalid", 1)}
    assert source.stories() == [(None, None, "configuration_invalid", 2, "open")]

    monkeypatch.setenv(setting(source.connection_id), good)
    assert source.run() == []
    assert source.status()[None] == CONNECTED
    assert (None, None, "configuration_invalid", 2, "recovered") in source.stories()


def test_a_permission_that_was_revoked_in_one_region(connect: Any, sandbox: Sandbox) -> None:
    source = connect("aws_bedrock_research")
    good = {None: CONNECTED, "eu-central-1": CONNECTED, "us-east-1": CONNECTED, "us-west-2": CONNECTED}
    assert run_dag("aws_bedrock_usage").state == "success"
    assert source.status() == good
    assert source.detail("next_expected_at > now(), is_late") == (True, False)

    sandbox.faults.add(
        "access_denied", provider="aws_bedrock", account=RESEARCH, region="us-west-2", operation="GetMetricData"
    )
    assert run_dag("aws_bedrock_usage").state == "failed"
    assert [error.kind for error in source.run()] == ["permission_missing"]

    denied = ("failing", "permission_missing", 1)
    assert source.status() == good | {None: ("degraded", "permission_missing", 1), "us-west-2": denied}
    problem, action = source.detail("problem, action")
    assert problem.startswith("us-west-2: ")
    assert "cloudwatch:GetMetricData" in problem + action
    assert ("us-west-2", "metrics", "permission_missing", 2, "open") in source.stories()
    account = source.detail("account_id, account_name, region", "us-west-2")
    assert account == (RESEARCH, "Sandbox research", "us-west-2")

    sandbox.faults.clear()
    assert source.run() == []
    assert source.status() == good
    assert source.stories() == [
        (None, None, "connected", 1, None),
        ("us-west-2", "metrics", "permission_missing", 2, "recovered"),
    ]


def test_a_plan_that_is_missing(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = connect("groq_default")
    good = os.environ[setting(source.connection_id)]
    lacking = good.replace(api_key(COMPANY), key_without_plan(COMPANY))
    monkeypatch.setenv(setting(source.connection_id), lacking)

    assert run_dag("groq_usage").state == "success", "a plan is no failure"

    refused = ("not_entitled", "not_entitled", 1)
    assert source.status() == {None: refused, "-": refused}
    assert "Enterprise plan" in source.detail("problem")[0]
    assert source.stories() == [("-", "usage", "not_entitled", 1, "open")]

    monkeypatch.setenv(setting(source.connection_id), good)
    assert source.run() == []
    assert source.status() == {None: CONNECTED, "-": CONNECTED}
    assert ("-", "usage", "not_entitled", 1, "recovered") in source.stories()


def test_a_provider_that_is_down_for_six_hours(connect: Any, sandbox: Sandbox) -> None:
    source = connect("openai_default")
    assert source.run() == []
    sandbox.faults.add("service_unavailable", provider="openai")

    for _ in range(6):
        assert {error.kind for error in source.run()} == {"source_unavailable"}

    streams = [stream.name for stream in providers.load("openai").streams]
    down = ("failing", "source_unavailable", len(streams))
    assert source.status() == {None: down, "-": down}
    outage = [story for story in source.stories() if story[2] == "source_unavailable"]
    assert sorted(outage) == sorted(("-", stream, "source_unavailable", 6, "open") for stream in streams)
    told = "select count(*) from ops.event where connection_id = 'openai_default' and kind = 'source_unavailable'"
    assert source.warehouse.query(told) == [(len(streams),)], "an outage that goes on is told once"

    sandbox.faults.clear()
    assert source.run() == []
    assert source.status() == {None: CONNECTED, "-": CONNECTED}
    over = [story for story in source.stories() if story[2] == "source_unavailable"]
    assert sorted(over) == sorted(("-", stream, "source_unavailable", 6, "recovered") for stream in streams)
    assert source.warehouse.query(told) == [(len(streams),)]


def test_a_week_that_is_restated(connect: Any, sandbox: Sandbox) -> None:
    source = connect("openai_lab")
    assert source.run() == []
    today = sandbox.clock.today()
    settled = [today - timedelta(days=n) for n in range(7, 3, -1)]
    for day in settled:
        sandbox.truth.restate(provider="openai", account="org-SandboxLab", region="-", day=day, factor="2")

    assert source.run() == []

    assert source.status() == {None: CONNECTED, "-": CONNECTED}
    restated = source.read("stream, message, is_open, severity", "integration_events")
    told = [row[1:] for row in restated if row[0] == "completions"]
    assert told == [(f"The provider changed settled days: {', '.join(map(str, settled))}.", False, "warning")]
    count = len(restated)

    assert source.run() == []
    assert len(source.stories()) == count


def test_fields_that_nobody_knows(connect: Any, sandbox: Sandbox) -> None:
    source = connect("fireworks_lab")
    scope = "acme-lab"
    assert source.run() == []
    assert source.status() == {None: CONNECTED, scope: CONNECTED}
    sandbox.faults.add("unknown_fields", provider="fireworks")

    assert source.run() == []
    assert source.run() == []

    drift = ("connected", "schema_drift", 2)
    assert source.status() == {None: drift, scope: drift}
    assert "does not know" in source.detail("problem")[0]
    stories = [story for story in source.stories() if story[2] == "schema_drift"]
    assert sorted(stories) == [
        (scope, "costs", "schema_drift", 2, "open"),
        (scope, "usage", "schema_drift", 2, "open"),
    ]

    sandbox.faults.clear()
    assert source.run() == []
    assert source.status() == {None: CONNECTED, scope: CONNECTED}
    over = [story for story in source.stories() if story[2] == "schema_drift"]
    assert sorted(over) == [
        (scope, "costs", "schema_drift", 2, "recovered"),
        (scope, "usage", "schema_drift", 2, "recovered"),
    ]


def test_a_connection_that_works_and_has_no_usage(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    used = connect("aws_bedrock_research")
    settings = json.loads(os.environ[setting(used.connection_id)])
    source = Source(used.warehouse, "aws_bedrock", "ai_usage__aws_bedrock__quiet")
    monkeypatch.setenv(
        setting(source.connection_id),
        json.dumps(settings | {"extra": settings["extra"] | {"regions": ["ap-south-1"], "model_ids": []}}),
    )

    assert source.run() == []

    quiet = ("connected", "no_usage", 1)
    assert source.status() == {None: quiet, "ap-south-1": CONNECTED}
    problem, action, rows, newest = source.detail("problem, action, usage_rows_30d, newest_usage_date")
    assert problem.startswith(f"Connected, and nothing was used in the {HISTORY_DAYS - 4} days from ")
    assert "organisation or account" in action
    assert providers.load("aws_bedrock").if_empty in action
    assert (rows, newest) == (0, None)
    assert (None, None, "no_usage", 1, "open") in source.stories()

    monkeypatch.setenv(setting(source.connection_id), json.dumps(settings))
    assert source.run() == []
    good = {None: CONNECTED, "eu-central-1": CONNECTED, "us-east-1": CONNECTED, "us-west-2": CONNECTED}
    assert source.status() == good, "a region that was taken out has no row"
    assert (None, None, "no_usage", 1, "recovered") in source.stories()


def test_a_credential_of_another_account(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = connect("replicate_default")
    assert source.run() == []
    before = source.detail("account_id, usage_rows_30d")
    good = os.environ[setting(source.connection_id)]
    monkeypatch.setenv(setting(source.connection_id), good.replace(token(STUDIO), token(TINKERER)))

    assert [error.kind for error in source.run()] == ["wrong_account"]

    wrong = ("failing", "wrong_account", 2)
    assert source.status() == {None: wrong, "-": wrong}
    problem, action = source.detail("problem, action")
    assert TINKERER.account_id in problem
    assert STUDIO.account_id in problem
    assert "new connection" in action
    assert source.detail("account_id, usage_rows_30d") == before, "nothing of the other account came in"

    monkeypatch.setenv(setting(source.connection_id), good)
    assert source.run() == []
    assert source.status() == {None: CONNECTED, "-": CONNECTED}
    assert {story[4] for story in source.stories() if story[2] == "wrong_account"} == {"recovered"}


def test_a_connection_that_is_taken_out_and_comes_back(
    connect: Any, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = connect("openrouter_default")
    assert source.run() == []
    sandbox.faults.add("invalid_credentials", provider="openrouter")
    source.run()
    assert source.status()[None][0] == "failing"
    kept = os.environ[setting(source.connection_id)]
    monkeypatch.delenv(setting(source.connection_id))

    source.run()

    out = ("not_connected", "disconnected", 0)
    assert source.status() == {None: out, "-": out}
    assert source.detail("next_expected_at, is_late, since is not null, usage_rows_30d > 0") == (
        *(None, False, True, True),
    )
    ended = [story for story in source.stories() if story[2] == "credential_rejected"]
    assert ended
    assert {story[4] for story in ended} == {"disconnected"}
    assert source.stories()[-1][2] == "disconnected"

    sandbox.faults.clear()
    monkeypatch.setenv(setting(source.connection_id), kept)
    assert source.run() == []
    assert source.status() == {None: CONNECTED, "-": CONNECTED}
    assert source.stories()[-1][:3] == (None, None, "connected")


def test_a_dag_that_is_paused(connect: Any) -> None:
    source = connect("google_vertex_ai_lab")
    assert source.run() == []
    scope = "0F00BA-112233-445566"
    assert source.status() == {None: CONNECTED, scope: CONNECTED}
    # Three hours pass in which nobody plans.
    source.warehouse.query(
        "update ops.provider set planned_at = planned_at - interval '3 hours', next_run_at = now() - interval '2 hours'"
        " where provider = 'google_vertex_ai'"
    )
    source.warehouse.query(
        "update ops.connection set last_attempt_at = last_attempt_at - interval '3 hours',"
        " last_success_at = last_success_at - interval '3 hours' where connection_id = %s",
        source.connection_id,
    )

    late = ("degraded", "sync_late", 0)
    assert source.status() == {None: late, scope: late}
    problem, action, is_late = source.detail("problem, action, is_late")
    assert problem.startswith("The sync that was due at ")
    assert "google_vertex_ai_usage is paused" in action
    assert is_late

    assert source.run() == []
    assert source.status() == {None: CONNECTED, scope: CONNECTED}


def test_data_that_is_late_in_one_scope(connect: Any) -> None:
    source = connect("azure_openai_lab")
    assert source.run() == []
    good = source.status()
    first, *others = sorted(scope for scope in good if scope)
    assert others
    place = Place(source.provider, source.connection_id, None, first)

    with open_warehouse().session(LOADER) as session:
        events.open_problem(session, place, "lateness", "data_late", "warning", "Two days late.", "Look.", "a run")
    late = ("degraded", "data_late", 1)
    assert source.status() == good | {None: late, first: late}
    assert source.detail("problem, action") == (f"{first}: Two days late.", "Look.")

    with open_warehouse().session(LOADER) as session:
        events.close_problem(session, place, "lateness", "another run")
    assert source.status() == good


def test_the_status_stays_quick_beside_a_long_history(connect: Any) -> None:
    source = connect("azure_openai_default")
    assert source.run() == []
    # Four years of daily loads and an attempt every hour, of every scope.
    source.warehouse.query(
        """
        insert into ops.extraction (provider, connection_id, stream, scope, window_first, window_last, run_id, started_at,
            finished_at, outcome)
        select 'azure_openai', connection_id, 'usage', scope, current_date, current_date, 'old', long_ago, long_ago,
            'unchanged'
        from ops.scope, generate_series(now() - interval '2 years', now() - interval '1 day', '1 hour') as long_ago
        where connection_id = %s
        """,
        source.connection_id,
    )
    source.warehouse.query(
        """
        insert into ops.load (provider, connection_id, stream, scope, usage_date, state, record_count, digest,
            extracted_at, extraction_id, run_id)
        select 'azure_openai', scope.connection_id, 'usage', scope.scope, day::date, 'final', 1, '', day,
            (select max(extraction_id) from ops.extraction), 'old'
        from ops.scope as scope, generate_series(current_date - 1500, current_date - 60, '1 day') as day
        where scope.connection_id = %s
        """,
        source.connection_id,
    )
    source.warehouse.query("analyze")

    with source.warehouse.as_reader() as session:
        session.execute("set statement_timeout = '2s'")
        (plan,) = session.execute("explain (analyze, format json) select * from marts.integration_status").fetchone()
    assert plan[0]["Execution Time"] < 500
