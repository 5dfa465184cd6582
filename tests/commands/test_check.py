"""``ai-usage check``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ai_usage.__main__ import main
from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.support.warehouse import TestWarehouse


@pytest.fixture
def sandbox(warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(today=datetime.now(UTC).date(), moto=False) as sandbox:
        for name, value in (warehouse.environment() | environment(sandbox.connections())).items():
            if "AWS_BEDROCK_DEFAULT" not in name:
                monkeypatch.setenv(name, value)
        yield sandbox


def test_a_good_connection_passes_every_check(
    warehouse: TestWarehouse, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    read = {one["connection_id"] for one in sandbox.connections()} - {"aws_bedrock_default"}

    assert main(["check"]) == 0

    assert read <= set(capsys.readouterr().out.splitlines())
    assert warehouse.query("select count(*) from ops.connection_check where passed is not true") == [(0,)]
    events = warehouse.query("select connection_id, kind from ops.event")
    assert sorted(events) == [(connection_id, "connected") for connection_id in sorted(read)]


def test_a_missing_permission_is_named_with_what_to_do(
    warehouse: TestWarehouse, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.faults.add("access_denied", provider="aws_bedrock", region="us-west-2", operation="ListMetrics")

    assert main(["check", "--json", "aws_bedrock_research"]) == 1

    failed = [
        check for check in json.loads(capsys.readouterr().out)["aws_bedrock_research"] if check["passed"] is False
    ]
    assert [(check["scope"], check["kind"]) for check in failed] == [("us-west-2", "permission_missing")]
    assert "cloudwatch:ListMetrics" in failed[0]["name"] + failed[0]["action"]


def test_a_stranger_is_refused(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nobody"]) == 2

    assert "nobody" in capsys.readouterr().err
