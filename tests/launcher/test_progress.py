from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.airflow_api import AirflowApi
from launcher.progress import Follower, Watch, log_file, reason
from launcher.terminal import Terminal
from tests.launcher.airflow_double import PASSWORD, AirflowDouble, airflow_double

RUN = "/api/v2/dags/aws_bedrock_usage/dagRuns/manual"
WATCH = Watch("aws_bedrock_usage", "manual")


@pytest.fixture
def airflow() -> Iterator[AirflowDouble]:
    with airflow_double() as double:
        yield double


def task(task_id: str, state: str | None, map_index: int = -1, label: str | None = None) -> dict[str, Any]:
    return {
        "dag_id": "aws_bedrock_usage",
        "dag_run_id": "manual",
        "task_id": task_id,
        "state": state,
        "map_index": map_index,
        "rendered_map_index": label,
        "try_number": 2,
    }


def serve(airflow: AirflowDouble, *steps: tuple[str, list[dict[str, Any]]]) -> None:
    airflow.answers[RUN] = [(200, {"state": state}) for state, _ in steps]
    airflow.answers[f"{RUN}/taskInstances"] = [
        (200, {"task_instances": tasks, "total_entries": len(tasks)}) for _, tasks in steps
    ]


def follow(airflow: AirflowDouble) -> tuple[bool, list[str]]:
    said = io.StringIO()
    follower = Follower(
        AirflowApi(airflow.url, "admin", PASSWORD), Terminal(said), lambda _: None, Path("/state/airflow/logs")
    )
    succeeded = follower.follow([WATCH])
    return succeeded, [line.partition("] ")[2] or line for line in said.getvalue().splitlines()]


def test_every_change_is_said_once_and_in_order(airflow: AirflowDouble) -> None:
    mapped = [task("extract_load", "success", 0), task("extract_load", "running", 1)]
    serve(
        airflow,
        ("queued", [task("plan", None)]),
        ("running", [task("plan", "running")]),
        ("running", [task("plan", "running")]),
        ("running", [task("plan", "success"), *mapped]),
        ("success", [task("plan", "success"), task("extract_load", "success", 0), task("extract_load", "success", 1)]),
    )
    assert follow(airflow) == (
        True,
        [
            "aws_bedrock_usage: queued",
            "aws_bedrock_usage: running · plan running",
            "aws_bedrock_usage: running · plan ok · extract_load 1/2 ok",
            "aws_bedrock_usage: success · plan ok · extract_load 2/2 ok",
        ],
    )


def test_a_failure_is_shown_with_the_tasks_own_message_and_the_place_of_its_log(airflow: AirflowDouble) -> None:
    failed = task("extract_load", "failed", 1, "aws_bedrock_prod · eu-west-1")
    serve(airflow, ("failed", [task("plan", "success"), task("extract_load", "success", 0), failed]))
    events = [
        {"event": "Reading", "level": "info"},
        {
            "event": "Task failed with exception",
            "level": "error",
            "error_detail": [{"exc_type": "PermissionMissing", "exc_value": "GetMetricData is not allowed."}],
        },
        {"event": "Done", "level": "info"},
    ]
    airflow.answers[f"{RUN}/taskInstances/extract_load/logs/2"] = [(200, {"content": events})]

    succeeded, said = follow(airflow)

    assert succeeded is False
    assert said[-2:] == [
        "    failed: aws_bedrock_usage.extract_load [aws_bedrock_prod · eu-west-1]: GetMetricData is not allowed.",
        "            log: /state/airflow/logs/dag_id=aws_bedrock_usage/run_id=manual/task_id=extract_load/map_index=1"
        "/attempt=2.log",
    ]


def test_an_api_server_that_is_restarted_meanwhile_is_waited_for(airflow: AirflowDouble) -> None:
    serve(airflow, ("success", [task("plan", "success")]))
    airflow.answers[RUN] = [(503, {}), (503, {}), *airflow.answers[RUN]]
    assert follow(airflow)[0] is True


def test_a_log_without_an_exception_gives_its_last_error() -> None:
    assert reason([{"event": "first", "level": "error"}, {"event": "last", "level": "error"}]) == "last"
    assert reason([{"event": "all well", "level": "info"}]) == ""


def test_the_log_of_a_task_that_is_not_mapped_has_no_map_index() -> None:
    assert log_file(Path("/l"), task("plan", "failed")) == Path(
        "/l/dag_id=aws_bedrock_usage/run_id=manual/task_id=plan/attempt=2.log"
    )
