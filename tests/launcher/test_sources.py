from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from launcher.airflow_api import AirflowApi, ApiUnavailableError
from launcher.errors import LauncherError
from launcher.sources import VARIABLE, connect_sandbox, find_sources
from sandbox.service import Sandbox
from tests.launcher.airflow_double import PASSWORD, AirflowDouble, airflow_double

PROVIDERS = ["aws_bedrock"]


@pytest.fixture
def airflow() -> Iterator[AirflowDouble]:
    with airflow_double() as double:
        yield double


@pytest.fixture
def api(airflow: AirflowDouble) -> AirflowApi:
    return AirflowApi(airflow.url, "admin", PASSWORD)


@pytest.fixture(scope="module")
def sandbox_port() -> Iterator[int]:
    with Sandbox(moto=False, history_days=2) as sandbox:
        yield int(sandbox.url.rpartition(":")[2])


def add(airflow: AirflowDouble, identity: str, description: str | None = None) -> None:
    airflow.connections[identity] = {"connection_id": identity, "conn_type": "aws", "description": description}


def list_in_variable(airflow: AirflowDouble, *ids: str) -> None:
    airflow.variables[VARIABLE] = {"key": VARIABLE, "value": json.dumps({"aws_bedrock": list(ids)})}


def test_nothing_configured_is_nothing_found(airflow: AirflowDouble, api: AirflowApi) -> None:
    add(airflow, "some_database")
    assert find_sources(api, PROVIDERS, {}).real == []


@pytest.mark.parametrize(
    ("where", "identity"),
    [
        ("stored under the well-known id", "aws_bedrock_default"),
        ("listed in the variable", "aws_bedrock_prod"),
        ("listed in the variable of the environment", "aws_bedrock_prod"),
        ("in the environment under the well-known id", "aws_bedrock_default"),
        ("in the environment under our prefix", "ai_usage__aws_bedrock__prod"),
    ],
)
def test_a_real_connection_is_found_where_a_dag_would_find_it(
    airflow: AirflowDouble, api: AirflowApi, where: str, identity: str
) -> None:
    environment = {}
    if where.startswith("in the environment"):
        environment[f"AIRFLOW_CONN_{identity.upper()}"] = "{}"
    else:
        add(airflow, identity)
    if where == "listed in the variable":
        list_in_variable(airflow, identity)
    if where == "listed in the variable of the environment":
        environment["AIRFLOW_VAR_AI_USAGE_CONNECTIONS"] = json.dumps({"aws_bedrock": [identity]})

    assert find_sources(api, PROVIDERS, environment).real == [identity]


def test_the_sandbox_is_connected_and_not_taken_for_real_the_next_time(
    airflow: AirflowDouble, api: AirflowApi, sandbox_port: int
) -> None:
    added = connect_sandbox(api, sandbox_port)

    found = find_sources(api, PROVIDERS, {})
    assert found.real == []
    assert sorted(found.sandbox) == sorted(added) == sorted(airflow.connections)
    for connection in airflow.connections.values():
        assert connection["description"].startswith("AI usage sandbox")
        assert f"127.0.0.1:{sandbox_port}" in json.dumps(connection)


def test_connecting_the_sandbox_again_changes_nothing(
    airflow: AirflowDouble, api: AirflowApi, sandbox_port: int
) -> None:
    connect_sandbox(api, sandbox_port)
    airflow.changes.clear()

    connect_sandbox(api, sandbox_port)

    assert airflow.changes == []


def test_a_sandbox_that_has_moved_to_another_port_is_found_again(
    airflow: AirflowDouble, api: AirflowApi, sandbox_port: int
) -> None:
    connect_sandbox(api, sandbox_port)
    for name, field in (("aws_bedrock_research", "extra"), ("openai_default", "host")):
        airflow.connections[name][field] = airflow.connections[name][field].replace(str(sandbox_port), "1")

    connect_sandbox(api, sandbox_port)

    assert f"127.0.0.1:{sandbox_port}" in airflow.connections["aws_bedrock_research"]["extra"]
    assert f"127.0.0.1:{sandbox_port}" in airflow.connections["openai_default"]["host"]


def test_what_the_variable_already_lists_stays(airflow: AirflowDouble, api: AirflowApi, sandbox_port: int) -> None:
    airflow.variables[VARIABLE] = {"key": VARIABLE, "value": json.dumps({"some_provider": ["prod"]})}
    connect_sandbox(api, sandbox_port)
    listed = json.loads(airflow.variables[VARIABLE]["value"])
    assert listed["some_provider"] == ["prod"]
    assert listed["aws_bedrock"]


def test_a_variable_that_is_no_json_is_left_for_its_author(
    airflow: AirflowDouble, api: AirflowApi, sandbox_port: int
) -> None:
    airflow.variables[VARIABLE] = {"key": VARIABLE, "value": "aws_bedrock: [x]"}
    connect_sandbox(api, sandbox_port)
    assert airflow.variables[VARIABLE]["value"] == "aws_bedrock: [x]"


def test_a_real_connection_of_the_same_name_is_not_overwritten(
    airflow: AirflowDouble, api: AirflowApi, sandbox_port: int
) -> None:
    add(airflow, "aws_bedrock_research", "Our own account")
    connect_sandbox(api, sandbox_port)
    assert airflow.connections["aws_bedrock_research"]["description"] == "Our own account"


def test_a_token_that_has_expired_is_renewed(airflow: AirflowDouble, api: AirflowApi) -> None:
    api.connections()
    airflow.tokens.clear()
    api.connections()
    assert airflow.logins == 2


def test_an_api_that_is_down_is_told_apart_from_one_that_refuses(airflow: AirflowDouble) -> None:
    airflow.answers["/api/v2/dags"] = [(503, {})]
    with pytest.raises(ApiUnavailableError, match="503"):
        AirflowApi(airflow.url, "admin", PASSWORD).dags()
    with pytest.raises(ApiUnavailableError, match="does not answer"):
        AirflowApi("http://127.0.0.1:9", "admin", PASSWORD).dags()
    with pytest.raises(LauncherError, match="refused our own login") as refused:
        AirflowApi(airflow.url, "admin", "wrong").dags()
    assert not isinstance(refused.value, ApiUnavailableError)


def test_a_refusal_never_repeats_what_was_sent(airflow: AirflowDouble, api: AirflowApi) -> None:
    detail = [{"loc": ["body", "conn_type"], "msg": "Field required", "input": {"password": "very-secret"}}]
    airflow.answers["/api/v2/connections"] = [(422, {"detail": detail})]
    with pytest.raises(LauncherError, match=r"422 body\.conn_type: Field required") as refused:
        api.put_connection({"connection_id": "x", "password": "very-secret"}, exists=False)
    assert "very-secret" not in str(refused.value)
