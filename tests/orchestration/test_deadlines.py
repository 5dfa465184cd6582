"""A run that takes too long is told of while it still runs, by a callback that Airflow can carry out as it stands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.orchestration import deadlines
from tests.core.http_server import Server, answer
from tests.support.airflow import REPOSITORY
from tests.support.warehouse import TestWarehouse

DAGS = [*(f"{name}_usage" for name in providers.names()), "usage_marts"]


@pytest.fixture(scope="module")
def serialized() -> dict[str, dict[str, Any]]:
    """Every DAG as Airflow's scheduler keeps it."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    return {
        dag_id: json.loads(json.dumps(DagSerialization.to_dict(dag)))["dag"]
        for dag_id, dag in DagBag(str(REPOSITORY / "dags")).dags.items()
    }


@pytest.fixture
def receiver(warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name, value in warehouse.environment().items():
        monkeypatch.setenv(name, value)
    with Server([answer(200)]) as running:
        connection = {"conn_type": "http", "password": f"{running.url}/hook"}
        monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE_WEBHOOK", json.dumps(connection))
        monkeypatch.delenv("AIRFLOW_CONN_AI_USAGE_SMTP", raising=False)
        yield running


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_dag_has_a_deadline_that_airflow_can_keep(serialized: dict[str, dict[str, Any]], dag_id: str) -> None:
    (alert,) = serialized[dag_id]["deadline"]

    assert "DagRunQueuedAtDeadline" in json.dumps(alert)
    assert callback_of(alert)["path"] == "ai_usage.orchestration.deadlines.run_is_overdue"


def callback_of(alert: Any) -> dict[str, Any]:
    """Return the description of the callback, wherever it stands in what Airflow keeps."""
    if isinstance(alert, dict):
        if "path" in alert and "kwargs" in alert:
            return alert
        for value in alert.values():
            if found := callback_of(value):
                return found
    return {}


def miss(alert: Any, dag_id: str, state: str) -> str:
    """Carry the callback out with Airflow's own trigger, as its triggerer does, and return how that ended."""
    from airflow.triggers.callback import CallbackTrigger

    context = {"dag_run": what_the_scheduler_knows(dag_id, state), "deadline": {"id": "1"}}
    trigger = CallbackTrigger(callback_of(alert)["path"], {"context": context})

    async def run() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    return str(asyncio.run(run())[-1]["state"])


def what_the_scheduler_knows(dag_id: str, state: str) -> dict[str, Any]:
    """Describe a run with the model that Airflow's scheduler describes it with."""
    from airflow.api_fastapi.core_api.datamodels.dag_run import DAGRunResponse

    nothing = {name: None for name, field in DAGRunResponse.model_fields.items() if "None" in str(field.annotation)}
    now = datetime.now(UTC)
    run = DAGRunResponse.model_validate(
        nothing
        | {
            "dag_run_id": "scheduled__1",
            "dag_id": dag_id,
            "dag_display_name": dag_id,
            "state": state,
            "run_type": "scheduled",
            "run_after": now,
            "queued_at": now,
            "triggered_by": "timetable",
            "conf": {},
            "dag_versions": [],
        }
    )
    described: dict[str, Any] = run.model_dump(mode="json")
    return described


def problems(warehouse: TestWarehouse) -> list[tuple[Any, ...]]:
    return warehouse.query("select provider, connection_id, kind, resolved_at is null from ops.problem")


def test_a_run_that_hangs_is_a_problem_and_the_end_of_the_next_ends_it(
    serialized: dict[str, dict[str, Any]], warehouse: TestWarehouse, receiver: Server
) -> None:
    from ai_usage.orchestration.notifications import after_run

    (alert,) = serialized["groq_usage"]["deadline"]

    assert miss(alert, "groq_usage", "running") == "success"

    assert problems(warehouse) == [("groq", "groq_usage", "run_overdue", True)]
    # Late data is told when it stays late; a run that hangs is told at once.
    assert titles(receiver) == ["AI usage: groq_usage: A run has been under way for more than 180 minutes (running)."]
    after_run(warehouse.warehouse, "groq_usage", "groq")
    assert problems(warehouse) == [("groq", "groq_usage", "run_overdue", False)]
    assert titles(receiver)[0].startswith("AI usage: groq_usage: recovered: A run has been under way")


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_run_that_has_ended_is_not_told_again(
    serialized: dict[str, dict[str, Any]], warehouse: TestWarehouse, receiver: Server, state: str
) -> None:
    (alert,) = serialized["usage_marts"]["deadline"]

    assert miss(alert, "usage_marts", state) == "success"

    assert problems(warehouse) == []
    assert receiver.requests == []


@pytest.mark.parametrize(("setting", "minutes"), [("30", 30), ("", 180), ("soon", 180), ("0", 180), ("99999999", 180)])
def test_the_deadline_can_be_set_and_a_wrong_setting_breaks_no_dag(
    monkeypatch: pytest.MonkeyPatch, setting: str, minutes: int
) -> None:
    monkeypatch.setenv(deadlines.DEADLINE, setting)

    assert deadlines.deadline().interval.total_seconds() == minutes * 60


def titles(receiver: Server) -> list[str]:
    told = [json.loads(request.body)["title"] for request in receiver.requests]
    receiver.requests.clear()
    return told
