"""From an Airflow connection in the environment to a working client, and everything that is refused on the way."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ai_usage.core.contract import Memory, Scope
from ai_usage.core.errors import ConfigurationInvalid, PermissionMissing, SourceUnavailable
from ai_usage.core.slices import Window
from ai_usage.orchestration.clients import find_connection, open_connection
from ai_usage.providers.aws_bedrock import PROVIDER, AwsBedrock
from sandbox.connections import environment
from sandbox.service import Sandbox
from sandbox.simulators.aws_bedrock import access_key, secret_key
from sandbox.truth.aws_bedrock import RESEARCH
from tests.providers.aws import TODAY, expected

ID = "aws_bedrock_research"
KEY, SECRET = access_key(RESEARCH), secret_key(RESEARCH)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(today=TODAY, moto=False) as running:
        yield running


@pytest.fixture(autouse=True)
def ambient_credentials(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay perfectly good credentials around: whoever falls back to them is found out by the sandbox's counter."""
    sandbox.requests.reset()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{sandbox.url}/aws_bedrock")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def define(monkeypatch: pytest.MonkeyPatch, connection_id: str = ID, **fields: Any) -> None:
    """Define an Airflow connection in the environment."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{connection_id.upper()}", json.dumps({"conn_type": "aws"} | fields))


def define_sandbox(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Define the sandbox's connection; ``changes`` go to its fields, those of ``extra`` to its extra."""
    found = next(one for one in sandbox.connections() if one["connection_id"] == ID)
    extra = {name: value for name, value in (found["extra"] | changes.pop("extra", {})).items() if value is not None}
    fields = {"login": found["login"], "password": found["password"]} | changes | {"extra": extra}
    define(monkeypatch, **{name: value for name, value in fields.items() if value is not None})


def read(days: int = 3, region: str = "us-east-1") -> Any:
    """Open the connection and extract; return the records."""
    bedrock = AwsBedrock(today=lambda: TODAY, sleep=lambda _: None)
    connection = open_connection(bedrock, ID, Memory())
    window = Window(TODAY.replace(day=TODAY.day - days), TODAY)
    return list(bedrock.extract(connection, bedrock.streams[0], Scope(region, region=region), window))


def refused(connection_id: str = ID) -> ConfigurationInvalid:
    """Open the connection, and return why that was refused."""
    with pytest.raises(ConfigurationInvalid) as caught:
        open_connection(PROVIDER, connection_id, Memory())
    assert caught.value.connection_id == connection_id
    for secret in (KEY, SECRET):
        assert secret not in str(caught.value)
    return caught.value


def test_the_sandboxs_own_connection_reads_the_truth_and_logs_no_secret(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for name, value in environment(sandbox.connections()).items():
        monkeypatch.setenv(name, value)
    first = TODAY.replace(day=TODAY.day - 3)
    assert read() == expected(sandbox, RESEARCH, "us-east-1", first, TODAY)
    assert SECRET not in caplog.text


def test_a_connection_as_a_uri_reads_just_the_same(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.parse import quote, urlencode

    url = f"{sandbox.url}/aws_bedrock"
    extra = json.dumps({"regions": "us-east-1,eu-central-1", "endpoint_url": url})
    uri = f"aws://{quote(KEY)}:{quote(SECRET)}@/?{urlencode({'__extra__': extra})}"
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", uri)
    connection = open_connection(PROVIDER, ID, Memory())
    assert [scope.name for scope in PROVIDER.scopes(connection)] == ["us-east-1", "eu-central-1"]
    assert read()


def test_options_hold_our_settings_and_nothing_secret(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "aws_session_token": None,
        "my_api_key": "canary-1",
        "session_kwargs": {"aws_session_token": "canary-2"},
        "assume_role_kwargs": {"ExternalId": "canary-3"},
        "config_kwargs": {"user_agent_extra": "canary-4"},
    }
    define_sandbox(sandbox, monkeypatch, extra=secrets)
    connection = open_connection(PROVIDER, ID, Memory())
    assert set(connection.options) == {
        "region_name",
        "regions",
        "account_id",
        "account_name",
        "start_date",
        "model_ids",
    }
    assert "canary" not in repr(connection.options)
    for secret in (KEY, SECRET):
        assert secret not in repr(connection)


def test_memory_is_handed_on(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    define_sandbox(sandbox, monkeypatch)
    memory = Memory()
    assert open_connection(PROVIDER, ID, memory).memory is memory


# ---------------------------------------------------------------- never someone else's credentials


def test_a_missing_connection_never_falls_back_to_credentials_that_lie_around(sandbox: Sandbox) -> None:
    error = refused("aws_nowhere")
    assert "no such connection" in str(error)
    assert "AIRFLOW_CONN_AWS_NOWHERE" in str(error)
    assert sandbox.requests.count() == 0


def test_a_connection_without_a_credential_is_refused(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    define_sandbox(sandbox, monkeypatch, login=None, password=None)
    assert "no credential" in str(refused())
    assert sandbox.requests.count() == 0


def test_ambient_credentials_are_used_only_when_the_connection_says_so(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    define_sandbox(sandbox, monkeypatch, login=None, password=None, extra={"ambient_credentials": True})
    assert read()


@pytest.mark.parametrize("said", ["true", 1, "yes", False])
def test_saying_so_takes_a_plain_true(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, said: object) -> None:
    define_sandbox(sandbox, monkeypatch, login=None, password=None, extra={"ambient_credentials": said})
    refused()


@pytest.mark.parametrize(
    "fields",
    [
        {"password": None},
        {"login": None},
        {"login": "", "password": SECRET},
        {"login": None, "password": None, "extra": {"aws_access_key_id": KEY}},
        {"login": None, "password": None, "extra": {"session_kwargs": {"aws_secret_access_key": SECRET}}},
    ],
)
def test_half_a_key_is_refused(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]) -> None:
    define_sandbox(sandbox, monkeypatch, **fields)
    assert "one half" in str(refused())


def test_a_key_that_was_pasted_with_a_line_break_is_refused(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    define_sandbox(sandbox, monkeypatch, password=f"{SECRET}\n")
    assert "line breaks" in str(refused())


def test_a_key_in_the_extra_is_a_key(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET}
    define_sandbox(sandbox, monkeypatch, login=None, password=None, extra=keys)
    assert read()


def test_a_connection_that_is_deleted_after_it_was_opened_does_not_fall_back(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    define_sandbox(sandbox, monkeypatch)
    connection = open_connection(PROVIDER, ID, Memory())
    monkeypatch.delenv(f"AIRFLOW_CONN_{ID.upper()}")
    with pytest.raises(ConfigurationInvalid, match="disappeared"):
        PROVIDER.scopes(connection)
    assert sandbox.requests.count() == 0


# ---------------------------------------------------------------- roles


def test_a_role_is_assumed_once_for_all_regions(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    role = f"arn:aws:iam::{RESEARCH.account_id}:role/usage-reader"
    define_sandbox(sandbox, monkeypatch, extra={"role_arn": role})
    connection = open_connection(PROVIDER, ID, Memory())
    assert all(check.passed for check in PROVIDER.check(connection))
    assert sandbox.requests.count(operation="AssumeRole") == 1


def test_a_role_that_may_not_be_assumed_is_a_missing_permission(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    define_sandbox(sandbox, monkeypatch, extra={"role_arn": "arn:aws:iam::999999999999:role/not-ours"})
    with pytest.raises(PermissionMissing) as caught:
        PROVIDER.scopes(open_connection(PROVIDER, ID, Memory()))
    assert caught.value.permission == "sts:AssumeRole"
    assert "arn:aws" not in str(caught.value)


def test_a_profile_that_does_not_exist_is_a_matter_of_configuration(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    define_sandbox(sandbox, monkeypatch, login=None, password=None, extra={"profile_name": "nobody"})
    with pytest.raises(ConfigurationInvalid, match="ProfileNotFound"):
        PROVIDER.scopes(open_connection(PROVIDER, ID, Memory()))


# ---------------------------------------------------------------- what else is refused


def test_a_connection_of_another_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    define(monkeypatch, conn_type="http", login=KEY, password=SECRET)
    assert "type 'http'" in str(refused())


@pytest.mark.parametrize("extra", ["{not json", '["a list"]', '"text"'])
def test_an_extra_that_is_no_object_is_refused(monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    define(monkeypatch, login=KEY, password=SECRET, extra=extra)
    assert "not a JSON object" in str(refused())


@pytest.mark.parametrize("value", ["{broken", "https://a://b://c"])
def test_a_connection_that_airflow_cannot_read_is_not_taken_for_missing(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", value)
    assert "neither a connection in JSON nor one in URI form" in str(refused())


@pytest.mark.parametrize(
    "extra",
    [
        {"endpoint_url": "http://monitoring.example.com"},
        {"endpoint_url": "https://user:password@monitoring.example.com"},
        {"service_config": {"sts": {"endpoint_url": "http://169.254.169.254"}}},
        {"service_config": {"cloudwatch": {"endpoint_url": "ftp://localhost"}}},
        {"service_config": ["cloudwatch"]},
        {"verify": False},
        {"verify": ""},
    ],
)
def test_settings_that_would_show_the_credential_to_others_are_refused(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    define(monkeypatch, login=KEY, password=SECRET, extra=extra)
    refused()


def test_config_kwargs_that_botocore_does_not_know_are_refused(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    define_sandbox(sandbox, monkeypatch, extra={"config_kwargs": {"no_such_setting": 1}})
    with pytest.raises(ConfigurationInvalid, match="config_kwargs"):
        PROVIDER.scopes(open_connection(PROVIDER, ID, Memory()))


# ---------------------------------------------------------------- botocore's settings


def test_clients_have_timeouts_bounded_retries_and_a_name(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    define_sandbox(sandbox, monkeypatch)
    config = open_connection(PROVIDER, ID, Memory()).client.client("cloudwatch", "us-east-1").meta.config
    assert (config.connect_timeout, config.read_timeout) == (10, 60)
    assert config.retries["mode"] == "standard"
    assert config.retries["total_max_attempts"] == 5
    assert config.user_agent_extra == "ai-usage-elt"


def test_the_connections_own_settings_win(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    kwargs = {"read_timeout": 7, "retries": {"mode": "standard", "total_max_attempts": 2}}
    define_sandbox(sandbox, monkeypatch, extra={"config_kwargs": kwargs})
    config = open_connection(PROVIDER, ID, Memory()).client.client("cloudwatch", "us-east-1").meta.config
    assert (config.connect_timeout, config.read_timeout, config.retries["total_max_attempts"]) == (10, 7, 2)


def test_a_proxy_does_not_come_between_us_and_loopback(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    define_sandbox(sandbox, monkeypatch)
    assert read()


def test_one_client_is_made_per_service_and_region(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    define_sandbox(sandbox, monkeypatch)
    clients = open_connection(PROVIDER, ID, Memory()).client
    assert clients.client("sts", "us-east-1") is clients.client("sts", "us-east-1")
    assert clients.client("sts", "us-east-1") is not clients.client("sts", "us-west-2")


# ---------------------------------------------------------------- Airflow's own outages


class Supervisor:
    """The other end of the Task SDK's wire, answering every question in the same way."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def send(self, _: Any) -> Any:
        """Answer."""
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def in_a_task(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """Put the process into a task whose supervisor answers so."""
    from airflow.sdk.execution_time import task_runner

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(answer), raising=False)


def test_an_api_server_that_does_not_answer_is_an_outage_and_not_a_missing_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    trouble = ErrorResponse(error=ErrorType.API_SERVER_ERROR)
    for answer in (trouble, AirflowRuntimeError(trouble), ConnectionResetError()):
        in_a_task(monkeypatch, answer)
        with pytest.raises(SourceUnavailable, match="API server"):
            find_connection(ID)


def test_a_connection_that_the_api_server_does_not_know_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    in_a_task(monkeypatch, ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND))
    assert find_connection(ID) is None


def test_a_connection_that_airflow_keeps_from_us_is_not_taken_for_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    in_a_task(monkeypatch, ErrorResponse(error=ErrorType.PERMISSION_DENIED))
    with pytest.raises(ConfigurationInvalid, match="does not let this task read"):
        find_connection(ID)


def test_importing_the_module_does_not_import_airflow() -> None:
    import subprocess

    code = "import sys, ai_usage.orchestration.clients, ai_usage.orchestration.sources; print('airflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_python_path())
    assert done.stdout.strip() == "False"


def _python_path() -> dict[str, str]:
    import os
    from pathlib import Path

    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "plugins")}
