"""AWS Bedrock from CloudWatch's doubles through Airflow and dbt to the mart, against the sandbox's truth."""

from __future__ import annotations

import json
import os
from datetime import date, timedelta
from typing import Any

import pytest

from sandbox.service import Sandbox
from tests.support.airflow import run_dag
from tests.support.marts import Places, normal, usage_daily
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "aws_bedrock_usage"
RESEARCH = "210987654321"
PRODUCTION = "123456789012"
WITH_MOTO = True


def mart(warehouse: TestWarehouse) -> Places:
    """Return the rows with usage, as an analyst sees them."""
    return normal(usage_daily(warehouse, "aws_bedrock"))


def truth(sandbox: Sandbox, history: timedelta) -> Places:
    today = sandbox.clock.today()
    return normal(sandbox.truth.expected_usage_daily("aws_bedrock", today - history, today))


def build() -> str:
    return run_dag("usage_marts").state


def test_the_mart_equals_the_truth_and_stays_equal_whatever_the_provider_restates(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == [
        "aws_bedrock_default · eu-west-1",
        "aws_bedrock_default · us-east-1",
        "aws_bedrock_research · eu-central-1",
        "aws_bedrock_research · us-east-1",
        "aws_bedrock_research · us-west-2",
    ]
    assert build() == "success"
    assert mart(connected) == truth(sandbox, history)
    before = snapshot(connected)

    again = run_dag(DAG_ID)
    assert again.states()["publish"] == ["skipped"]
    written = connected.query(
        "select sum(records_written), sum(slices_changed) from ops.extraction where run_id = %s", again.ledger_run_id
    )
    assert written == [(0, 0)]
    assert build() == "success"
    assert snapshot(connected) == before, "a run in which nothing changed has changed something"

    restate(sandbox)
    run_dag(DAG_ID)
    assert build() == "success"
    assert mart(connected) == truth(sandbox, history)
    assert mart(connected) != before["usage_daily"]

    changed = marts(connected)
    assert run_dag("usage_marts", {"full_refresh": True}).state == "success"
    assert marts(connected) == changed, "a full refresh tells another story"


def restate(sandbox: Sandbox) -> None:
    """Change the last days up, down and to zero, and let one day of a region vanish."""
    today = sandbox.clock.today()
    changes: list[tuple[str, str, int, dict[str, Any]]] = [
        (RESEARCH, "us-east-1", 1, {"factor": "3"}),
        (RESEARCH, "us-west-2", 1, {"factor": "0.5"}),
        (RESEARCH, "us-west-2", 2, {"factor": "0"}),
        (RESEARCH, "eu-central-1", 2, {"vanish": True}),
        (PRODUCTION, "us-east-1", 3, {"factor": "2"}),
        (PRODUCTION, "eu-west-1", 1, {"vanish": True}),
    ]
    for account, region, days_ago, change in changes:
        day = today - timedelta(days=days_ago)
        sandbox.truth.restate(provider="aws_bedrock", account=account, region=region, day=day, **change)


def marts(warehouse: TestWarehouse) -> dict[str, str]:
    """Return mart → a hash of its ordered rows."""
    rows = dict.fromkeys(("usage_daily", "usage_daily_detail", "usage_monthly", "dim_model", "dim_account"), "t::text")
    rows["coverage_calendar"] = "(to_jsonb(t) - 'age_hours')::text"  # that one grows by itself
    return {
        name: warehouse.query(f"select md5(string_agg({row}, '|' order by {row})) from marts.{name} as t")[0][0]
        for name, row in rows.items()
    }


def snapshot(warehouse: TestWarehouse) -> dict[str, Any]:
    """Return everything a run without changes must leave alone, down to the versions of the rows."""
    tables = ["raw.aws_bedrock_metrics", "ops.load", "ops.slice"]
    tables += ["marts.usage_daily", "marts.usage_daily_detail", "intermediate.int_coverage_calendar"]
    return {
        table: warehouse.query(f"select md5(string_agg(xmin::text || t::text, '|' order by t::text)) from {table} as t")
        for table in tables
    } | {"usage_daily": mart(warehouse)}


def test_a_denied_region_fails_alone_and_shows_as_unknown_never_as_zero(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    sandbox.faults.add(
        "access_denied", provider="aws_bedrock", account=RESEARCH, region="us-west-2", operation="GetMetricData"
    )

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed", "success", "success", "success", "success"]
    assert run.states()["verdict"] == ["failed"]
    states = connected.query(
        "select scope, state, count(*) from ops.slice where connection_id = 'aws_bedrock_research'"
        " and (state = 'failed' or scope = 'us-west-2') group by 1, 2"
    )
    assert states == [("us-west-2", "failed", history.days + 1)]
    (event,) = connected.query(
        "select scope, message, action from ops.event where kind = 'permission_missing' and severity = 'error'"
    )
    assert event[0] == "us-west-2"
    assert "cloudwatch:GetMetricData" in event[1] + event[2]
    assert "us-west-2" in event[1] + event[2]

    assert build() == "success"
    with connected.as_reader() as session:
        unknown = session.execute(
            "select usage_date, model, requests, input_tokens, output_tokens, coverage from marts.usage_daily"
            " where account_id = %s and region = 'us-west-2' order by 1",
            (RESEARCH,),
        ).fetchall()
    today = sandbox.clock.today()
    days = [today - history + timedelta(days=n) for n in range(history.days + 1)]
    assert unknown == [(day, None, None, None, None, "failed") for day in days]
    others = {key: row for key, row in truth(sandbox, history).items() if (key[2], key[4]) != (RESEARCH, "us-west-2")}
    assert mart(connected) == others

    sandbox.faults.clear()
    assert run_dag(DAG_ID).state == "success"
    assert build() == "success"
    assert mart(connected) == truth(sandbox, history)
    assert connected.query("select scope from ops.event where kind = 'recovered'") == [("us-west-2",)]


def test_a_backfill_reads_the_days_it_was_asked_for_and_no_others(connected: TestWarehouse, sandbox: Sandbox) -> None:
    last = sandbox.clock.today() - timedelta(days=5)
    first = last - timedelta(days=29)
    conf = {"from": first.isoformat(), "to": last.isoformat(), "connections": ["aws_bedrock_research"]}

    run = run_dag(DAG_ID, conf)

    assert run.state == "success"
    windows = connected.query("select distinct connection_id, window_first, window_last from ops.extraction")
    assert windows == [("aws_bedrock_research", first, last)]
    regions = 3
    data_calls = sandbox.requests.count("aws_bedrock", RESEARCH, None, "GetMetricData")
    # One question at the verification of the new connection, and one for the whole month.
    assert data_calls == 2 * regions


@pytest.mark.parametrize(
    "conf", [{"from": "yesterday"}, {"from": "2026-02-02", "to": "2026-02-01"}, {"connections": ["nobody"]}]
)
def test_a_request_that_makes_no_sense_is_refused_and_asks_the_provider_nothing(
    connected: TestWarehouse, sandbox: Sandbox, conf: dict[str, Any]
) -> None:
    try:
        state = run_dag(DAG_ID, conf).state
    except Exception as refusal:  # Airflow's own form validation refuses before there is a run
        assert "from" in str(refusal)
        state = "failed"

    assert state == "failed"
    assert sandbox.requests.to_json()["total"] == 0


def test_a_provider_without_a_connection_costs_one_task_and_is_no_failure(
    warehouse: TestWarehouse, airflow_metadata: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in warehouse.environment().items():
        monkeypatch.setenv(name, value)

    run = run_dag(DAG_ID)

    assert run.state == "success"
    assert run.states() == {
        "plan": ["success"],
        "extract_load": ["skipped"],
        "publish": ["skipped"],
        "verdict": ["skipped"],
    }
    assert warehouse.query("select count(*) from ops.extraction") == [(0,)]


def test_a_rejected_key_is_told_with_what_to_do_and_is_not_tried_again(
    connected: TestWarehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = {"endpoint_url": f"{sandbox.url}/aws_bedrock"}
    unknown_key = {
        "conn_type": "aws",
        "login": "AKIAUNKNOWNKEY000000",
        "password": "canary-secret-7f3a91",
        "extra": {"regions": ["us-east-1"], "service_config": {"cloudwatch": double, "sts": double}},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_BEDROCK_RESEARCH", json.dumps(unknown_key))

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed", "success", "success"]
    (event,) = connected.query("select connection_id, action from ops.event where kind = 'credential_rejected'")
    assert event[0] == "aws_bedrock_research"
    assert event[1]
    assert "AWS does not know" in str(
        connected.query("select error_message from ops.extraction where outcome = 'failed'")
    )
    everything = connected.query("select string_agg(e::text, ' ') from ops.event as e")[0][0]
    everything += str(connected.query("select string_agg(c::text, ' ') from ops.connection_check as c")[0][0])
    assert "canary-secret" not in everything
    assert "AKIAUNKNOWNKEY" not in everything


def test_a_key_that_was_put_right_closes_the_story(
    connected: TestWarehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = os.environ["AIRFLOW_CONN_AWS_BEDROCK_RESEARCH"]
    monkeypatch.setenv("AIRFLOW_CONN_AWS_BEDROCK_RESEARCH", json.dumps(json.loads(good) | {"password": "mistyped-key"}))
    assert run_dag(DAG_ID, {"connections": ["aws_bedrock_research"]}).state == "failed"

    monkeypatch.setenv("AIRFLOW_CONN_AWS_BEDROCK_RESEARCH", good)
    assert run_dag(DAG_ID, {"connections": ["aws_bedrock_research"]}).state == "success"

    story = connected.query("select kind from ops.event where scope is null order by event_id")
    assert story == [("credential_rejected",), ("connected",), ("recovered",)]
    assert connected.query("select count(*) from ops.connection_check where passed is not true") == [(0,)]


def test_a_region_taken_out_of_the_connection_does_not_come_back_during_an_outage(
    connected: TestWarehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = {"connections": ["aws_bedrock_research"]}
    assert run_dag(DAG_ID, only).state == "success"
    connection = json.loads(os.environ["AIRFLOW_CONN_AWS_BEDROCK_RESEARCH"])
    connection["extra"]["regions"] = ["us-east-1"]
    monkeypatch.setenv("AIRFLOW_CONN_AWS_BEDROCK_RESEARCH", json.dumps(connection))
    assert run_dag(DAG_ID, only).state == "success"

    monkeypatch.setenv("AIRFLOW_CONN_AWS_BEDROCK_RESEARCH", json.dumps(connection | {"password": "mistyped-key"}))
    outage = run_dag(DAG_ID, only)

    assert outage.state == "failed"
    assert connected.query(
        "select distinct scope from ops.extraction where run_id = %s and outcome = 'failed'", outage.ledger_run_id
    ) == [("us-east-1",)]


def test_the_day_is_the_utc_day_wherever_the_process_runs(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    monkeypatch.setenv("PGTZ", "America/New_York")

    assert run_dag(DAG_ID).state == "success"
    assert build() == "success"

    assert mart(connected) == truth(sandbox, history)
    newest: date = connected.query("select max(usage_date) from ops.slice")[0][0]
    assert newest == sandbox.clock.today()
