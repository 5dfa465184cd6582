"""moto's CloudWatch, filled from the truth and read by boto3."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sandbox import Sandbox, SandboxError
from sandbox.truth.aws_bedrock import PRODUCTION

Connect = Callable[..., Any]
MOTO = "aws_bedrock_default"
TODAY = date(2026, 8, 15)
FIRST = TODAY - timedelta(days=19)


def read_usage(client: Any) -> dict[tuple[date, str, str], dict[str, int]]:
    """Read every series with just a model: (day, namespace, model id) → metric → sum."""
    listed: dict[tuple[str, str, str], dict[str, Any]] = {}
    for page in client.get_paginator("list_metrics").paginate():
        for metric in page["Metrics"]:
            if [one["Name"] for one in metric["Dimensions"]] in (["ModelId"], ["Model"]):
                listed[metric["Namespace"], metric["Dimensions"][0]["Value"], metric["MetricName"]] = metric
    keys = list(listed)
    answer = client.get_metric_data(
        MetricDataQueries=[
            {"Id": f"q{number}", "MetricStat": {"Metric": listed[key], "Period": 86400, "Stat": "Sum"}}
            for number, key in enumerate(keys)
        ],
        StartTime=datetime.combine(FIRST - timedelta(days=3), time(), tzinfo=UTC),
        EndTime=datetime.combine(TODAY + timedelta(days=1), time(), tzinfo=UTC),
    )
    found: dict[tuple[date, str, str], dict[str, int]] = {}
    for result in answer["MetricDataResults"]:
        namespace, model, metric = keys[int(result["Id"][1:])]
        for moment, value in zip(result["Timestamps"], result["Values"], strict=True):
            found.setdefault((moment.date(), namespace, model), {})[metric] = int(value)
    return found


def expected(sandbox: Sandbox, region: str) -> dict[tuple[date, str, str], tuple[int, int, int]]:
    return {
        (row["usage_date"], row["endpoint"], row["raw_model_id"]): (
            row["requests"],
            row["input_tokens"],
            row["output_tokens"],
        )
        for row in sandbox.truth.expected_detail("aws_bedrock", date(2026, 1, 1), TODAY, [PRODUCTION.account_id])
        if row["region"] == region
    }


def counted(metrics: dict[str, int]) -> tuple[int, int, int]:
    inputs = (
        "InputTokenCount",
        "CacheReadInputTokenCount",
        "CacheReadInputTokens",
        "CacheWriteInputTokenCount",
        "CacheWriteInputTokens",
        "TotalInputTokens",
    )
    return (
        metrics.get("Invocations", 0) + metrics.get("Inferences", 0),
        sum(metrics.get(name, 0) for name in inputs),
        metrics.get("OutputTokenCount", 0) + metrics.get("TotalOutputTokens", 0),
    )


def usage(sandbox: Sandbox, connect: Connect, region: str) -> dict[tuple[date, str, str], tuple[int, int, int]]:
    return {key: counted(metrics) for key, metrics in read_usage(connect(sandbox, MOTO, region)).items()}


@pytest.mark.parametrize("region", PRODUCTION.regions)
def test_what_is_read_from_moto_is_the_truth(sandbox_with_moto: Sandbox, connect: Connect, region: str) -> None:
    assert usage(sandbox_with_moto, connect, region) == expected(sandbox_with_moto, region)


def test_a_restatement_reaches_moto_at_once(sandbox_with_moto: Sandbox, connect: Connect) -> None:
    sandbox, place = sandbox_with_moto, {"account": PRODUCTION.account_id, "region": "us-east-1"}
    changes: list[dict[str, Any]] = [{"factor": 2}, {"factor": "0.5"}, {"factor": 0}, {"vanish": True}]
    before = usage(sandbox, connect, "us-east-1")
    days = sorted({day for day, _, _ in before})
    for day, change in zip(days, changes, strict=False):
        sandbox.truth.restate(provider="aws_bedrock", day=day, **place, **change)
    after = usage(sandbox, connect, "us-east-1")
    for day in days[:4]:
        sandbox.truth.restate(provider="aws_bedrock", day=day, **place, factor=1)

    assert after != before
    assert days[2] in {day for day, _, _ in after}
    assert days[3] not in {day for day, _, _ in after}
    assert usage(sandbox, connect, "us-east-1") == before


def test_moto_follows_the_clock_into_the_next_day(sandbox_with_moto: Sandbox, connect: Connect) -> None:
    sandbox_with_moto.clock.move_to(TODAY + timedelta(days=1))
    try:
        found = usage(sandbox_with_moto, connect, "eu-west-1")
        truth = expected(sandbox_with_moto, "eu-west-1")
    finally:
        sandbox_with_moto.clock.move_to(TODAY)

    assert {key: found[key] for key in truth} == truth


def test_the_account_is_told_by_motos_own_sts(sandbox_with_moto: Sandbox, connect: Connect) -> None:
    sts = connect(sandbox_with_moto, MOTO, "eu-west-1", "sts")

    assert sts.get_caller_identity()["Account"] == PRODUCTION.account_id
    role = f"arn:aws:iam::{PRODUCTION.account_id}:role/usage-reader"
    session = sts.assume_role(RoleArn=role, RoleSessionName="me")["Credentials"]
    assumed = connect(
        sandbox_with_moto,
        MOTO,
        "eu-west-1",
        "sts",
        aws_access_key_id=session["AccessKeyId"],
        aws_secret_access_key=session["SecretAccessKey"],
        aws_session_token=session["SessionToken"],
    )
    assert "assumed-role/usage-reader" in assumed.get_caller_identity()["Arn"]


@pytest.mark.parametrize(
    ("wrong", "expected_code"),
    [
        ({"aws_access_key_id": "SANDBOXNOBODY"}, "InvalidClientTokenId"),
        ({"aws_secret_access_key": "another"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": "EXPIREDKEY"}, "ExpiredToken"),
    ],
)
def test_moto_is_not_reached_with_wrong_credentials(
    sandbox_with_moto: Sandbox, connect: Connect, wrong: dict[str, str], expected_code: str
) -> None:
    with pytest.raises(ClientError) as refused:
        connect(sandbox_with_moto, MOTO, "us-east-1", **wrong).list_metrics()
    assert refused.value.response["Error"]["Code"] == expected_code


def test_calls_to_moto_are_counted_and_those_that_fill_it_are_not(sandbox_with_moto: Sandbox, connect: Connect) -> None:
    sandbox_with_moto.requests.reset()
    connect(sandbox_with_moto, MOTO, "us-east-1").list_metrics()

    assert sandbox_with_moto.requests.to_json() == {
        "total": 1,
        "calls": {"aws_bedrock": {PRODUCTION.account_id: {"us-east-1": {"ListMetrics": 1}}}},
    }


def test_refusals_hit_moto_and_faults_in_its_content_do_not(sandbox_with_moto: Sandbox, connect: Connect) -> None:
    client = connect(sandbox_with_moto, MOTO, "us-east-1")
    everything = client.list_metrics()["Metrics"]
    sandbox_with_moto.faults.add("small_pages")
    sandbox_with_moto.faults.add("truncated_body")
    sandbox_with_moto.faults.add("access_denied", operation="ListMetrics", times=1)
    try:
        with pytest.raises(ClientError, match="cloudwatch:ListMetrics"):
            client.list_metrics()
        assert client.list_metrics()["Metrics"] == everything
        assert [fault["hits"] for fault in sandbox_with_moto.faults.to_json()] == [0, 0, 1]
    finally:
        sandbox_with_moto.faults.clear()


def test_a_second_moto_in_the_same_process_is_refused(sandbox_with_moto: Sandbox) -> None:
    with pytest.raises(SandboxError, match="one world per process"):
        Sandbox(seed=1).start()
    assert MOTO in [connection["connection_id"] for connection in sandbox_with_moto.connections()]
