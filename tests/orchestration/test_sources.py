"""Which connections a provider has, found by name alone."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import pytest

from ai_usage.core.errors import ConfigurationInvalid, SourceUnavailable
from ai_usage.orchestration.sources import discover, next_run
from ai_usage.providers.aws_bedrock import PROVIDER
from tests.orchestration.test_clients import in_a_task

CONNECTION = json.dumps({"conn_type": "aws", "login": "key", "password": "secret"})


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_")):
            monkeypatch.delenv(name)


def test_a_provider_without_any_connection_is_not_connected() -> None:
    assert discover(PROVIDER) == []


def test_the_well_known_connection_is_found_if_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_BEDROCK_DEFAULT", CONNECTION)
    assert discover(PROVIDER) == ["aws_bedrock_default"]


def test_all_three_places_are_read_in_order_and_each_connection_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_BEDROCK_DEFAULT", CONNECTION)
    monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE__AWS_BEDROCK__PROD", CONNECTION)
    monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE__AWS_BEDROCK__DEV", CONNECTION)
    listed = ["team_b", "aws_bedrock_default", "team_a", "team_b", "ai_usage__aws_bedrock__prod"]
    monkeypatch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", json.dumps({"aws_bedrock": listed, "openai": ["other"]}))
    assert discover(PROVIDER) == [
        "aws_bedrock_default",
        "team_b",
        "team_a",
        "ai_usage__aws_bedrock__prod",
        "ai_usage__aws_bedrock__dev",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "AIRFLOW_CONN_AI_USAGE__OPENAI__PROD",
        "AIRFLOW_CONN_AI_USAGE__AWS_BEDROCK__",
        "AIRFLOW_CONN_AI_USAGE__AWS_BEDROCKS__PROD",
        "AIRFLOW_CONN_AWS_BEDROCK_PROD",
    ],
)
def test_other_connections_of_the_environment_are_not_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, CONNECTION)
    assert discover(PROVIDER) == []


def test_an_empty_environment_variable_defines_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE__AWS_BEDROCK__PROD", "")
    assert discover(PROVIDER) == []


def test_a_variable_without_the_provider_lists_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("{}", "", '{"openai": ["x"]}'):
        monkeypatch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", value)
        assert discover(PROVIDER) == []


@pytest.mark.parametrize(
    "value",
    [
        "{not json",
        "[]",
        '"aws_bedrock"',
        "null",
        '{"aws_bedrock": "one"}',
        '{"aws_bedrock": [1]}',
        '{"aws_bedrock": [""]}',
        '{"aws_bedrock": {"one": true}}',
    ],
)
def test_a_variable_that_is_not_what_it_should_be_is_an_error_with_an_example(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", value)
    with pytest.raises(ConfigurationInvalid) as caught:
        discover(PROVIDER)
    assert "ai_usage_connections" in caught.value.happened
    assert '{"aws_bedrock": [' in caught.value.action


def test_a_well_known_connection_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_BEDROCK_DEFAULT", "{broken")
    with pytest.raises(ConfigurationInvalid, match="AIRFLOW_CONN_AWS_BEDROCK_DEFAULT"):
        discover(PROVIDER)


def test_an_airflow_that_does_not_answer_is_not_taken_for_no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    in_a_task(monkeypatch, ErrorResponse(error=ErrorType.API_SERVER_ERROR))
    with pytest.raises(SourceUnavailable):
        discover(PROVIDER)


@pytest.mark.parametrize(
    ("schedule", "due"),
    [("5 * * * *", "2026-03-01T10:05"), ("45 */6 * * *", "2026-03-01T12:45"), ("*/10 * * * *", "2026-03-01T10:10")],
)
def test_the_next_run_is_the_schedules_next_minute_in_utc(schedule: str, due: str) -> None:
    now = datetime(2026, 3, 1, 10, 4, 30, tzinfo=UTC)

    assert next_run(schedule, now) == datetime.fromisoformat(due).replace(tzinfo=UTC)
