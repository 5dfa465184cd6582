"""What the runs of the DAGs tell people, from the sandbox's faults to a webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ai_usage.core.http import Limits
from ai_usage.orchestration.notifications import tell_daily
from ai_usage.providers.groq import GroqProvider
from sandbox.service import Sandbox
from sandbox.truth.groq import COMPANY
from tests.core.http_server import Server, answer
from tests.support.airflow import run_dag
from tests.support.warehouse import Cluster, TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "groq_usage"
HISTORY_DAYS = 5


class Receiver(Server):
    """A webhook that keeps what it was told."""

    def told(self) -> list[dict[str, Any]]:
        """Return the messages since the last time."""
        told = [json.loads(request.body) for request in self.requests]
        self.requests.clear()
        return told

    def titles(self) -> list[str]:
        return [message["title"] for message in self.told()]


@pytest.fixture
def warehouse(cluster: Cluster) -> Iterator[TestWarehouse]:
    """One without marts yet: the first run of all is told too."""
    with cluster.warehouse() as fresh:
        yield fresh


@pytest.fixture(autouse=True)
def without_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroqProvider, "limits", Limits(attempts=1))


@pytest.fixture
def receiver(connected: TestWarehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.delenv("AIRFLOW_CONN_AI_USAGE_SMTP", raising=False)
    # One source, the well-known one: the others of the sandbox have oddities that are news as well.
    monkeypatch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", "{}")
    running = Receiver([answer(200)])
    with running:
        connection = {"conn_type": "http", "password": f"{running.url}/hook"}
        monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE_WEBHOOK", json.dumps(connection))
        yield running


def test_a_run_tells_of_a_problem_and_of_its_end_and_the_digest_tells_the_day(
    connected: TestWarehouse, sandbox: Sandbox, receiver: Receiver
) -> None:
    sandbox.faults.add("invalid_credentials", provider="groq", account=COMPANY.account_id)
    assert run_dag(DAG_ID).state == "failed"
    (message,) = receiver.told()
    assert message["title"].startswith("AI usage: groq_default: ")
    facts = {fact["name"]: fact["value"] for fact in message["facts"]}
    assert facts["Problem"].startswith("credential_rejected: ")
    assert facts["What to do"]
    assert run_dag(DAG_ID).state == "failed"
    assert receiver.told() == []

    sandbox.faults.clear()
    assert run_dag(DAG_ID).state == "success"
    (title,) = receiver.titles()
    assert title.startswith("AI usage: groq_default: recovered: ")

    assert run_dag("usage_marts").state == "success"
    assert tell_daily(connected.warehouse)
    (digest,) = receiver.told()
    yesterday = sandbox.clock.today() - timedelta(days=1)
    assert digest["title"] == f"AI usage on {yesterday}: 1 sources, none failing, 0 open problems"
    facts = {fact["name"]: fact["value"] for fact in digest["facts"]}
    assert facts["Coverage"].startswith("100 %: 1 of 1 slices")
    truth = sandbox.truth.expected_usage_daily("groq", yesterday, yesterday, [COMPANY.account_id])
    tokens = sum(row["input_tokens"] or 0 for row in truth)
    (used,) = next(one["lines"] for one in digest["sections"] if one["heading"] == "Usage and cost of the day")
    assert used.startswith("Groq: ")
    assert f", {tokens:,} input tokens, " in used


def test_a_receiver_that_is_gone_changes_the_colour_of_no_run(
    connected: TestWarehouse, sandbox: Sandbox, receiver: Receiver
) -> None:
    receiver.steps = [answer(404)]
    connected.query(
        "insert into ops.problem (provider, connection_id, topic, kind, severity, message)"
        " values ('groq', 'groq_gone', 'reading', 'unexpected', 'error', 'Something.')"
    )

    assert run_dag(DAG_ID).state == "success"

    assert len(receiver.requests) == 1
    assert connected.query("select kind from ops.problem where topic = 'notification' and resolved_at is null") == [
        ("notification_failed",)
    ]


def test_a_transform_that_is_given_up_is_told(connected: TestWarehouse, receiver: Receiver) -> None:
    connected.query("insert into ops.pending_rebuild (connection_id, usage_date) values ('groq_default', current_date)")
    # A missing right fails at once; what dbt fails with is tried again a minute later.
    connected.query("revoke update on ops.pending_rebuild from ai_usage_transformer")

    assert run_dag("usage_marts").state == "failed"

    (title,) = receiver.titles()
    assert title.startswith("AI usage: usage_marts: PostgreSQL at ")
    assert "permission denied for table pending_rebuild" in title


def test_the_first_run_has_the_marts_built_even_if_nothing_could_be_read(
    connected: TestWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = json.dumps({"conn_type": "ai_usage_groq", "password": ""})
    monkeypatch.setenv("AIRFLOW_CONN_GROQ_DEFAULT", broken)
    monkeypatch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", "{}")

    first = run_dag(DAG_ID)
    assert first.state == "failed"
    assert connected.query("select count(*) from ops.pending_rebuild") == [(0,)]
    assert first.states()["publish"] == ["success"]

    connected.query("insert into ops.dbt_run (invocation_id, command, succeeded) values ('one', 'build', true)")
    assert run_dag(DAG_ID).states()["publish"] == ["skipped"]
