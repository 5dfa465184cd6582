"""Anthropic from its two generations of reports through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.truth import KEYS, MEASURES
from sandbox.truth.anthropic import CODE_EXECUTION, PRODUCTION, RESEARCH
from tests.support.airflow import run_dag
from tests.support.marts import assert_marts_equal_the_truth, usage_daily
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "anthropic_usage"


def test_the_marts_equal_the_truth_and_stay_equal_whatever_anthropic_restates(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == ["anthropic_default", "anthropic_research"]
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "anthropic", sandbox.clock.today() - history)
    assert_every_measure_is_there(usage_daily(connected, "anthropic"))

    written = "select sum(records_written), sum(slices_changed) from ops.extraction where run_id = %s"
    assert connected.query(written, run_dag(DAG_ID).ledger_run_id) == [(0, 0)]

    restate(sandbox)
    assert run_dag(DAG_ID).state == "success"
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "anthropic", sandbox.clock.today() - history)


def assert_every_measure_is_there(rows: list[dict[str, Any]]) -> None:
    """Guard against a truth that says nothing: what each generation gives is a number somewhere, the rest nowhere."""
    given: Mapping[str, set[str]] = {
        account: {name for row in rows if row["account_id"] == account for name in MEASURES if row[name]}
        for account in (PRODUCTION.id, RESEARCH.id)
    }
    classic = {
        "input_tokens",
        "uncached_input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "output_tokens",
        "server_tool_requests",
        "billed_cost",
    }
    assert given == {PRODUCTION.id: classic, RESEARCH.id: classic | {"requests"}}
    costs = [row["billed_cost"] for row in rows if row["billed_cost"] is not None]
    assert all(isinstance(cost, Decimal) for cost in costs)
    assert {row["model"] for row in rows if row["account_id"] == PRODUCTION.id} > {
        "anthropic/claude-haiku-4-5",
        CODE_EXECUTION,
        "Web Search Usage",
    }
    assert {row["region"] for row in rows} == {"us", "global", "unspecified"}


def restate(sandbox: Sandbox) -> None:
    """Change the last days up, down and to zero, and let one geography of a day vanish."""
    today = sandbox.clock.today()
    changes: list[tuple[str, str, int, dict[str, Any]]] = [
        (PRODUCTION.id, "us", 1, {"factor": "3"}),
        (PRODUCTION.id, "global", 2, {"factor": "0"}),
        (PRODUCTION.id, "unspecified", 1, {"vanish": True}),
        (RESEARCH.id, "global", 1, {"factor": "0.5"}),
        (RESEARCH.id, "unspecified", 2, {"vanish": True}),
    ]
    for account, region, days_ago, change in changes:
        day = today - timedelta(days=days_ago)
        sandbox.truth.restate(provider="anthropic", account=account, region=region, day=day, **change)


def test_a_first_run_and_thirty_days_cost_the_calls_that_the_documentation_names(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    last = sandbox.clock.today() - timedelta(days=2)
    first = last - timedelta(days=29)
    conf = {"from": first.isoformat(), "to": last.isoformat(), "connections": ["anthropic_default"]}

    assert run_dag(DAG_ID, conf).state == "success"

    def counted() -> dict[str, int]:
        return dict(sandbox.requests.to_json()["calls"]["anthropic"][PRODUCTION.id]["-"])

    # The verification of a new connection asks everything once; planning and reading ask who the key belongs to.
    assert counted() == {"me": 3, "workspaces": 2, "usage_report/messages": 2, "cost_report": 2}
    sandbox.requests.reset()
    assert run_dag(DAG_ID, conf).state == "success"
    assert counted() == {"me": 2, "workspaces": 1, "usage_report/messages": 1, "cost_report": 1}
    assert connected.query("select distinct window_first, window_last from ops.extraction") == [(first, last)]


def test_a_report_that_is_refused_leaves_the_other_and_shows_as_unknown_never_as_zero(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    sandbox.faults.add("access_denied", provider="anthropic", account=PRODUCTION.id, operation="cost_report")

    assert run_dag(DAG_ID).state == "failed"
    assert run_dag("usage_marts").state == "success"

    (event,) = connected.query("select stream, action from ops.event where kind = 'permission_missing'")
    assert event[0] == "costs"
    assert "Admin API key" in event[1]
    today = sandbox.clock.today()
    expected = sandbox.truth.expected_usage_daily("anthropic", today - history, today, [PRODUCTION.id])
    tokens = {
        tuple(row[key] for key in KEYS): row["output_tokens"] for row in expected if row["output_tokens"] is not None
    }
    rows = [row for row in usage_daily(connected, "anthropic") if row["account_id"] == PRODUCTION.id]
    assert {tuple(row[key] for key in KEYS): row["output_tokens"] for row in rows} == tokens
    assert {row["billed_cost"] for row in rows} == {None}
    unknown = connected.query(
        "select count(distinct usage_date) from marts.usage_daily"
        " where account_id = %s and model is null and coverage = 'failed' and billed_cost is null",
        PRODUCTION.id,
    )
    assert unknown == [(history.days + 1,)]
