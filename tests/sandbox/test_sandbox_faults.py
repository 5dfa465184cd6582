"""Every fault does what its name says, to whom it names, as often as it says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError, ReadTimeoutError
from urllib3.exceptions import ProtocolError

import sandbox.faults
import sandbox.simulators.aws_bedrock
from sandbox import Sandbox, SandboxError

Connect = Callable[..., Any]
Call = Callable[..., Any]
DOUBLE = "aws_bedrock_research"
METRIC = {
    "Namespace": "AWS/Bedrock",
    "MetricName": "Invocations",
    "Dimensions": [{"Name": "ModelId", "Value": "us.anthropic.claude-sonnet-4-6"}],
}
KINDS = sandbox.faults.SHARED | set(sandbox.simulators.aws_bedrock.SIMULATOR.fault_kinds)


@pytest.fixture
def read(sandbox: Sandbox, connect: Connect) -> Callable[..., dict[str, Any]]:
    """Read a month of one model's invocations, one page of them."""
    client = connect(sandbox, DOUBLE, "us-east-1")

    def read(**request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = client.get_metric_data(
            MetricDataQueries=[
                {"Id": name, "MetricStat": {"Metric": METRIC, "Period": 86400, "Stat": "Sum"}} for name in ("a", "b")
            ],
            StartTime=datetime(2026, 7, 1, tzinfo=UTC),
            EndTime=datetime(2026, 8, 1, tzinfo=UTC),
            **request,
        )
        return answer

    return read


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("access_denied", "AccessDenied"),
        ("throttling", "Throttling"),
        ("internal_error", "InternalServiceError"),
        ("service_unavailable", "ServiceUnavailable"),
        ("invalid_credentials", "InvalidClientTokenId"),
        ("expired_token", "ExpiredToken"),
        ("opt_in_region_disabled", "InvalidClientTokenId"),
    ],
)
def test_a_refusal_is_in_awss_words_in_both_protocols(
    sandbox: Sandbox, connect: Connect, kind: str, expected: str
) -> None:
    sandbox.faults.add(kind)

    assert code(connect(sandbox, DOUBLE, "us-east-1").list_metrics) == expected
    assert code(connect(sandbox, DOUBLE, "us-east-1", "sts").get_caller_identity) == expected


def test_every_refusal_is_tried_above() -> None:
    refusals = test_a_refusal_is_in_awss_words_in_both_protocols.pytestmark[0].args[1]  # type: ignore[attr-defined]

    assert {kind for kind, _ in refusals} == sandbox.faults.REFUSALS


def test_a_missing_permission_is_named(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    sandbox.faults.add("access_denied", operation="GetMetricData")

    with pytest.raises(ClientError, match="not authorized to perform: cloudwatch:GetMetricData"):
        read()


def test_the_short_code_and_the_modern_one_are_both_there(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    sandbox.faults.add("access_denied")

    with pytest.raises(ClientError) as refused:
        read()
    assert refused.value.response["Error"]["QueryErrorCode"] == "AccessDeniedException"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_fault_hits_only_whom_it_names(sandbox: Sandbox, connect: Connect) -> None:
    sandbox.faults.add("throttling", region="us-west-2", operation="ListMetrics", account="210987654321")
    sandbox.faults.add("throttling", account="123456789012")
    west, east = (connect(sandbox, DOUBLE, region) for region in ("us-west-2", "us-east-1"))

    assert code(west.list_metrics) == "Throttling"
    assert east.list_metrics()["Metrics"]
    assert connect(sandbox, DOUBLE, "us-west-2", "sts").get_caller_identity()["Account"] == "210987654321"


def test_a_fault_waits_its_turn_and_ends(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    sandbox.faults.add("expired_token", after=1, times=2)
    sandbox.faults.add("internal_error", after=1, times=1)

    def outcome() -> str:
        try:
            read()
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "fine"

    assert [outcome() for _ in range(5)] == ["fine", "ExpiredToken", "ExpiredToken", "InternalServiceError", "fine"]


@pytest.mark.parametrize("kind", ["truncated_body", "html_body", "empty_body", "empty_object"])
def test_boto3_takes_an_unreadable_answer_for_an_empty_success(
    sandbox: Sandbox, read: Callable[..., Any], kind: str
) -> None:
    sandbox.faults.add(kind, operation="GetMetricData", times=1)

    assert read().keys() == {"ResponseMetadata"}
    assert read()["MetricDataResults"][0]["Values"]


def test_a_reset_connection_is_an_error(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    sandbox.faults.add("connection_reset", times=1)

    with pytest.raises((HTTPClientError, ConnectionResetError, ProtocolError)):
        read()
    assert read()["MetricDataResults"][0]["Values"]


@pytest.mark.parametrize(("kind", "error"), [("truncated_body", IncompleteRead), ("connection_reset", OSError)])
def test_half_of_the_body_arrives_and_then_nothing(sandbox: Sandbox, kind: str, error: type[Exception]) -> None:
    sandbox.faults.add(kind)
    connection = HTTPConnection(sandbox.url.removeprefix("http://"), timeout=5)
    connection.request("POST", "/aws_bedrock/", body=b"{}")
    answer = connection.getresponse()
    announced = int(answer.headers["Content-Length"])
    half = answer.read(announced // 2)

    assert len(half) == announced // 2
    with pytest.raises(error):
        answer.read()
    connection.close()


def test_a_dripping_answer_arrives_whole_and_slowly(sandbox: Sandbox, connect: Connect) -> None:
    sandbox.faults.add("slow_drip", milliseconds=2)
    began = time.monotonic()
    connect(sandbox, DOUBLE, "us-east-1", "sts").get_caller_identity()

    assert time.monotonic() - began > 0.5


def test_a_late_answer_is_late(sandbox: Sandbox, connect: Connect) -> None:
    sandbox.faults.add("latency", milliseconds=900, times=1)
    impatient = Config(read_timeout=0.2, retries={"total_max_attempts": 1})

    with pytest.raises(ReadTimeoutError):
        connect(sandbox, DOUBLE, "us-east-1", config=impatient).list_metrics()
    assert connect(sandbox, DOUBLE, "us-east-1").list_metrics()["Metrics"]


def statuses(answer: dict[str, Any]) -> list[str]:
    return [result["StatusCode"] for result in answer["MetricDataResults"]]


def test_small_pages_are_small(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    whole = read()
    sandbox.faults.add("small_pages", size=3)
    first = read()
    second = read(NextToken=first["NextToken"])

    assert [len(result["Values"]) for result in first["MetricDataResults"]] == [3, 0]
    assert statuses(first) == ["PartialData", "PartialData"]
    assert second["MetricDataResults"][0]["Values"] == whole["MetricDataResults"][0]["Values"][3:6]


def test_repeated_ids_hold_the_whole_between_them(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    whole = read()["MetricDataResults"]
    sandbox.faults.add("repeated_ids")
    pieces = read()["MetricDataResults"]

    assert [piece["Id"] for piece in pieces] == ["a", "a", "b", "b"]
    assert pieces[0]["Values"] + pieces[1]["Values"] == whole[0]["Values"]


def test_partial_data_for_ever_never_ends(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    sandbox.faults.add("partial_data_forever")
    answer, tokens = read(), set()
    for _ in range(5):
        tokens.add(answer["NextToken"])
        assert statuses(answer) == ["PartialData", "PartialData"]
        answer = read(NextToken=answer["NextToken"])

    assert len(tokens) == 5


def test_partial_data_without_a_token_is_half_of_it(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    whole = sum(len(result["Values"]) for result in read()["MetricDataResults"])
    sandbox.faults.add("partial_data_without_token")
    answer = read()

    assert "NextToken" not in answer
    assert statuses(answer) == ["PartialData", "PartialData"]
    assert sum(len(result["Values"]) for result in answer["MetricDataResults"]) == whole // 2


@pytest.mark.parametrize(
    ("kind", "status"), [("result_internal_error", "InternalError"), ("result_forbidden", "Forbidden")]
)
def test_one_result_can_fail_alone(sandbox: Sandbox, read: Callable[..., Any], kind: str, status: str) -> None:
    sandbox.faults.add(kind, times=1)

    assert statuses(read()) == [status, "Complete"]
    assert statuses(read()) == ["Complete", "Complete"]


def test_a_looping_cursor_names_itself(sandbox: Sandbox, connect: Connect, read: Callable[..., Any]) -> None:
    sandbox.faults.add("cursor_loop")
    client = connect(sandbox, DOUBLE, "us-east-1")
    token = read()["NextToken"]
    listed = client.list_metrics()["NextToken"]

    assert read(NextToken=token)["NextToken"] == token
    assert client.list_metrics(NextToken=listed)["NextToken"] == listed


def test_two_cursors_can_name_each_other(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    sandbox.faults.add("cursor_ping_pong")
    tokens = [read()["NextToken"]]
    for _ in range(3):
        tokens.append(read(NextToken=tokens[-1])["NextToken"])

    assert tokens[0] == tokens[2] != tokens[1] == tokens[3]


def test_days_and_numbers_can_be_off(sandbox: Sandbox, read: Callable[..., Any]) -> None:
    sandbox.faults.add("misaligned_timestamps")
    sandbox.faults.add("non_integer_value")
    result = read()["MetricDataResults"][0]

    assert {(moment.hour, moment.minute) for moment in result["Timestamps"]} == {(6, 30)}
    assert not any(value.is_integer() for value in result["Values"])


def test_faults_are_switched_over_http(sandbox: Sandbox, call: Call, read: Callable[..., Any]) -> None:
    faults = [
        {"provider": "aws_bedrock", "kind": "throttling", "times": 1},
        {"provider": "aws_bedrock", "kind": "internal_error"},
    ]
    _, on = call(f"{sandbox.url}/_faults", "POST", faults)
    assert code(read) == "Throttling"
    assert [fault["hits"] for fault in call(f"{sandbox.url}/_faults")[1]] == [1, 0]
    call(f"{sandbox.url}/_faults?number={on[1]['number']}", "DELETE")
    assert statuses(read()) == ["Complete", "Complete"]
    call(f"{sandbox.url}/_faults", "DELETE")
    assert call(f"{sandbox.url}/_faults") == (200, [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "no_such_fault"},
        {"kind": "throttling", "provider": "nobody"},
        {"kind": "throttling", "times": "often"},
        {"kind": "throttling", "times": True},
        {"kind": "throttling", "after": -1},
        {"kind": "throttling", "after": None},
        {"kind": "throttling", "place": "here"},
        {"provider": "aws_bedrock"},
        "throttling",
    ],
)
def test_a_wrong_fault_is_refused_with_all_that_came_with_it(sandbox: Sandbox, call: Call, wrong: Any) -> None:
    status, answer = call(f"{sandbox.url}/_faults", "POST", [{"kind": "throttling"}, wrong])

    assert status == 400
    assert answer["error"]
    assert sandbox.faults.to_json() == []


def test_an_unknown_kind_is_refused_in_python_too(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError, match="no_such_fault"):
        sandbox.faults.add("no_such_fault")


def test_every_fault_is_described_where_people_look() -> None:
    docstrings = f"{sandbox.faults.__doc__}\n{sandbox.simulators.aws_bedrock.__doc__}"
    in_docstrings = set(re.findall(r"^([a-z_]+_?[a-z_]*)  +\S", docstrings, re.MULTILINE)) - {"kind"}
    readme = (Path(sandbox.faults.__file__).parent / "README.md").read_text()
    in_readme = set(
        re.findall(r"^\| `([a-z_]+)` \| (?:refusal|gateway|delivery|delay|CloudWatch)", readme, re.MULTILINE)
    )

    assert in_docstrings == KINDS
    assert in_readme == KINDS
