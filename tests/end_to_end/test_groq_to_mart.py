"""Groq from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.groq import api_key, key_without_plan
from sandbox.truth.groq import COMPANY, LAB, TOKENS_IN, TOKENS_OUT
from tests.support.airflow import Run, run_dag
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "groq_usage"
HISTORY_DAYS = 30


def test_the_marts_equal_the_truth_and_stay_equal_whatever_groq_restates_or_forgets(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == ["groq_default", "groq_lab"]
    # The verification of a new connection asks twice more; a first day without usage is asked about.
    calls = sandbox.requests.to_json()["calls"]["groq"][COMPANY.account_id]["-"]
    assert calls.pop("query") in (1, 2)
    assert calls == {"requests": 1, TOKENS_IN: 1, TOKENS_OUT: 1, "names": 1}
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "groq", sandbox.clock.today() - history)

    again = run_dag(DAG_ID)
    assert settled_days_changed(connected, sandbox, again) == 0

    restate(sandbox)
    sandbox.faults.add("series_twice", provider="groq")
    sandbox.faults.add("unknown_fields", provider="groq", account=COMPANY.account_id)
    run_dag(DAG_ID)
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "groq", sandbox.clock.today() - history)
    told = connected.query("select count(*) from ops.event where kind = 'schema_drift'")
    sandbox.faults.clear()

    # A month later Groq has forgotten most of it: what was read stays, and nothing of it becomes a zero.
    sandbox.faults.add("forgets", provider="groq", size=9)
    first_day = (sandbox.clock.today() - history).isoformat()
    forgetful = run_dag(DAG_ID, {"from": first_day, "to": sandbox.clock.today().isoformat()})
    assert forgetful.state == "success"
    assert settled_days_changed(connected, sandbox, forgetful) == 0
    assert connected.query("select distinct connection_id from ops.event where kind = 'days_unknown' order by 1") == [
        ("groq_default",),
        ("groq_lab",),
    ]
    assert connected.query("select count(*) from ops.event where kind = 'schema_drift'") == told


def settled_days_changed(warehouse: TestWarehouse, sandbox: Sandbox, run: Run) -> int:
    """Return how many slices a run has loaded anew, today aside: it gains a point every five minutes."""
    ((changed,),) = warehouse.query(
        "select count(*) from ops.load where run_id = %s and usage_date < %s",
        run.ledger_run_id,
        sandbox.clock.today(),
    )
    return int(changed)


def restate(sandbox: Sandbox) -> None:
    """Change the last days up, down and to nothing."""
    changes: list[tuple[str, int, dict[str, Any]]] = [
        (COMPANY.account_id, 1, {"factor": "3"}),
        (COMPANY.account_id, 2, {"factor": "0.3", "model": COMPANY.uses[0].raw_model}),
        (COMPANY.account_id, 3, {"vanish": True}),
        (LAB.account_id, 1, {"factor": "0", "model": LAB.uses[1].raw_model}),
        (LAB.account_id, 2, {"vanish": True}),
    ]
    for account, days_ago, change in changes:
        day = sandbox.clock.today() - timedelta(days=days_ago)
        sandbox.truth.restate(provider="groq", account=account, region="-", day=day, **change)


def test_a_missing_plan_and_forgotten_days_leave_the_runs_green_and_the_days_without_numbers(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "AIRFLOW_CONN_GROQ_LAB"
    monkeypatch.setenv(name, os.environ[name].replace(api_key(LAB), key_without_plan(LAB)))
    sandbox.faults.add("forgets", provider="groq", account=COMPANY.account_id, size=12)

    run = run_dag(DAG_ID)

    assert run.state == "success"
    assert run.states()["extract_load"] == ["success", "success"]
    ((severity, message, action),) = connected.query(
        "select severity, message, action from ops.event where kind = 'not_entitled' and stream = 'usage'"
    )
    assert severity == "warning"
    assert "Enterprise plan" in message
    assert "sales team" in action
    (told,) = connected.query("select message, action from ops.connection_check where kind = 'not_entitled'")
    assert "Enterprise plan" in told[0]
    assert "sales team" in told[1]
    assert run_dag(DAG_ID).state == "success"
    assert connected.query("select count(*) from ops.event where kind = 'not_entitled' and stream = 'usage'") == [(1,)]
    everything = str(connected.query("select string_agg(e::text, ' ') from ops.event as e"))
    everything += str(connected.query("select string_agg(c::text, ' ') from ops.connection_check as c"))
    assert key_without_plan(LAB) not in everything
    assert api_key(COMPANY) not in everything

    assert run_dag("usage_marts").state == "success"
    with connected.as_reader() as session:
        rows = session.execute(
            "select distinct model, requests, input_tokens, coverage from marts.usage_daily where account_id = %s",
            (LAB.account_id,),
        ).fetchall()
        assert rows == [(None, None, None, "not_entitled")]
        unknown = session.execute(
            "select usage_date from marts.usage_daily where account_id = %s and coverage = 'missing' and model is null"
            " and requests is null order by 1",
            (COMPANY.account_id,),
        ).fetchall()
    today = sandbox.clock.today()
    kept = sandbox.truth.expected_usage_daily("groq", today - timedelta(days=11), today, [COMPANY.account_id])
    oldest = min(row["usage_date"] for row in kept)
    days = [today - history + timedelta(days=n) for n in range(history.days + 1)]
    assert [day for (day,) in unknown] == [day for day in days if day < oldest]
    assert_marts_equal_the_truth(connected, sandbox, "groq", oldest, without_accounts=[LAB.account_id])
