"""Authress from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.authress import SECRET_KEY, access_key
from sandbox.truth.authress import COMPANY, LAB
from tests.support.airflow import run_dag
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "authress_usage"
HISTORY_DAYS = 30
WITH_MOTO = True


def test_the_marts_equal_the_truth_and_stay_equal_whatever_lands_later(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    today, began = sandbox.clock.today(), sandbox.clock.today() - history
    # Asked for days before the streams began, too.
    first = run_dag(DAG_ID, {"from": str(began - timedelta(days=20)), "to": str(today)})
    assert first.state == "success"
    assert first.labels() == ["authress_company", "authress_default"]
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "authress", began)
    before = connected.query(
        "select distinct coverage, api_calls, model from marts.usage_daily where provider = 'authress' and usage_date < %s",
        began,
    )
    assert before == [("outside_retention", None, None)], "days before the stream began show as something they are not"
    commands = connected.query("select distinct model from marts.usage_daily where model like '%%commands%%'")
    assert commands == [("/commands",)]

    again = run_dag(DAG_ID)
    assert again.states()["publish"] == ["skipped"]
    assert connected.query(
        "select sum(records_written), sum(slices_changed) from ops.extraction where run_id = %s", again.ledger_run_id
    ) == [(0, 0)]

    restate(sandbox)
    run_dag(DAG_ID)
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "authress", began)
    told = connected.query("select kind, count(*) from ops.event where kind = 'schema_drift' group by 1")
    assert told == [("schema_drift", 2)], "each of the two streams has one kind of event that is not known"


def restate(sandbox: Sandbox) -> None:
    """Change the last days up, down and to nothing."""
    resource = COMPANY.uses[0].resource
    changes: list[tuple[str, int, dict[str, Any]]] = [
        (COMPANY.account_id, 1, {"factor": "3"}),
        (COMPANY.account_id, 2, {"factor": "0.3", "model": resource}),
        (COMPANY.account_id, 3, {"vanish": True}),
        (LAB.account_id, 1, {"factor": "0", "model": LAB.uses[0].resource}),
        (LAB.account_id, 2, {"vanish": True}),
    ]
    for account, days_ago, change in changes:
        day = sandbox.clock.today() - timedelta(days=days_ago)
        sandbox.truth.restate(provider="authress", account=account, region="-", day=day, **change)


def test_a_bucket_that_may_not_be_read_fails_alone_and_a_stream_that_never_came_is_no_failure(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    sandbox.faults.add("access_denied", provider="authress", operation="GetObject")
    lab = json.loads(os.environ["AIRFLOW_CONN_AUTHRESS_DEFAULT"])
    lab["extra"]["location"] = str(tmp_path)
    monkeypatch.setenv("AIRFLOW_CONN_AUTHRESS_DEFAULT", json.dumps(lab))

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed", "success"]
    told = connected.query(
        "select connection_id, kind, message, action from ops.event"
        " where kind in ('permission_missing', 'not_entitled') and stream is not null order by 1"
    )
    assert [(connection_id, kind) for connection_id, kind, _, _ in told] == [
        ("authress_company", "permission_missing"),
        ("authress_default", "not_entitled"),
    ]
    assert "s3:GetObject" in told[0][3]
    assert "Nothing has ever landed" in told[1][2]
    everything = str(connected.query("select string_agg(e::text, ' ') from ops.event as e"))
    everything += str(connected.query("select string_agg(c::text, ' ') from ops.connection_check as c"))
    for secret in (SECRET_KEY, *(access_key(account).rpartition(".")[2] for account in (COMPANY, LAB))):
        assert secret not in everything

    assert run_dag("usage_marts").state == "success"
    with connected.as_reader() as session:
        rows = session.execute(
            "select distinct account_id, model, api_calls, coverage from marts.usage_daily"
            " where provider = 'authress' order by 1"
        ).fetchall()
    assert rows == [
        (COMPANY.account_id, None, None, "failed"),
        (LAB.account_id, None, None, "not_entitled"),
    ]
