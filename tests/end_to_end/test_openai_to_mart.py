"""OpenAI from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.openai import admin_key, project_key
from sandbox.truth.openai import COMPANY, LAB
from tests.support.airflow import run_dag
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "openai_usage"
HISTORY_DAYS = 30


def test_the_marts_equal_the_truth_and_stay_equal_whatever_openai_restates(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == ["openai_default", "openai_lab"]
    # The verification of a new connection asks for costs and projects once more.
    calls = sandbox.requests.to_json()["calls"]["openai"]
    assert sum(calls[COMPANY.account_id]["-"].values()) == 12 + 2
    assert calls[COMPANY.account_id]["-"]["completions"] == 1
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "openai", sandbox.clock.today() - history)

    again = run_dag(DAG_ID)
    assert again.states()["publish"] == ["skipped"]
    assert connected.query(
        "select sum(records_written), sum(slices_changed) from ops.extraction where run_id = %s", again.ledger_run_id
    ) == [(0, 0)]

    restate(sandbox)
    sandbox.faults.add("page_twice", provider="openai")
    sandbox.faults.add("unknown_fields", provider="openai", account=LAB.account_id)
    run_dag(DAG_ID)
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "openai", sandbox.clock.today() - history)
    told = connected.query(
        "select stream, message, count(*) from ops.event where kind = 'schema_drift' group by 1, 2 order by 1, 2"
    )
    assert len(told) == 5 * 5, "five fields on each of the five endpoints that the lab uses"
    assert {count for _, _, count in told} == {1}

    run_dag(DAG_ID)
    assert connected.query("select count(*) from ops.event where kind = 'schema_drift'") == [(25,)]


def restate(sandbox: Sandbox) -> None:
    """Change the last days up, down and to nothing."""
    mini = COMPANY.uses[0].raw_model
    changes: list[tuple[str, int, dict[str, Any]]] = [
        (COMPANY.account_id, 1, {"factor": "3"}),
        (COMPANY.account_id, 2, {"factor": "0.3", "model": mini}),
        (COMPANY.account_id, 3, {"vanish": True}),
        (LAB.account_id, 1, {"factor": "0", "model": mini}),
        (LAB.account_id, 2, {"vanish": True}),
    ]
    for account, days_ago, change in changes:
        day = sandbox.clock.today() - timedelta(days=days_ago)
        sandbox.truth.restate(provider="openai", account=account, region="-", day=day, **change)


def test_the_wrong_kind_of_key_fails_alone_and_its_days_show_as_failed(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "AIRFLOW_CONN_OPENAI_LAB"
    monkeypatch.setenv(name, os.environ[name].replace(admin_key(LAB), project_key(LAB)))

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed", "success"]
    ((message, action),) = connected.query(
        "select distinct message, action from ops.event where severity = 'error' and connection_id = 'openai_lab'"
        " and stream = 'completions'"
    )
    assert "api.usage.read" in message
    assert "admin-keys" in action
    (told,) = connected.query("select message from ops.connection_check where kind = 'permission_missing'")
    assert "key for calling models" in told[0]
    everything = str(connected.query("select string_agg(e::text, ' ') from ops.event as e"))
    everything += str(connected.query("select string_agg(c::text, ' ') from ops.connection_check as c"))
    assert project_key(LAB) not in everything
    assert admin_key(COMPANY) not in everything

    assert run_dag("usage_marts").state == "success"
    with connected.as_reader() as session:
        rows = session.execute(
            "select distinct model, requests, billed_cost, coverage from marts.usage_daily where account_id = %s",
            (LAB.account_id,),
        ).fetchall()
    assert rows == [(None, None, None, "failed")]
    first_day = sandbox.clock.today() - history
    assert_marts_equal_the_truth(connected, sandbox, "openai", first_day, without_accounts=[LAB.account_id])
