"""Fireworks AI from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import os
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.fireworks import admin_key, user_key
from sandbox.truth.fireworks import GAUGES, LAB, PRODUCTION
from tests.support.airflow import run_dag
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "fireworks_usage"
HISTORY_DAYS = 30


def sampled(warehouse: TestWarehouse) -> tuple[Decimal, ...]:
    """Return what readings have seen, once it is sure that they stand apart from everything counted."""
    (row,) = warehouse.query(
        """
        select sampled_seconds, sampled_requests, sampled_uncached_input_tokens, sampled_cache_read_tokens,
            num_nonnulls(requests, input_tokens, output_tokens, compute_seconds, billed_cost)
        from marts.usage_daily_detail where stream = 'throughput' and raw_model_id is not null
        """
    )
    assert row[4] == 0
    (mixed,) = warehouse.query(
        "select count(*) from marts.usage_daily_detail where stream <> 'throughput' and sampled_seconds is not null"
    )
    assert mixed == (0,)
    return row[:4]


def test_the_marts_equal_the_truth_and_stay_equal_whatever_fireworks_restates(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == [
        "fireworks_default · acme-prod",
        "fireworks_default · acme-research",
        "fireworks_lab · acme-lab",
    ]
    calls = sandbox.requests.to_json()["calls"]["fireworks"]
    # Each once for the verification of a new connection, once for the history. Accounts are listed by both, by the plan,
    # and by the tasks of both accounts that the key reaches.
    assert calls[PRODUCTION.account_id]["-"] == {"accounts": 4, "usage": 2, "summary": 2, "costs": 2, "metrics": 2}
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "fireworks", sandbox.clock.today() - history)
    seconds = sampled(connected)[0]
    assert 0 < seconds <= 60

    again = run_dag(DAG_ID)
    assert connected.query(
        "select stream, sum(slices_changed) from ops.extraction where run_id = %s group by 1 order by 1",
        again.ledger_run_id,
    ) == [("costs", 0), ("throughput", 1), ("usage", 0)]

    restate(sandbox)
    sandbox.faults.add("page_twice", provider="fireworks", operation="costs")
    sandbox.faults.add("row_twice", provider="fireworks", operation="usage")
    sandbox.faults.add("unknown_fields", provider="fireworks", account=LAB.account_id)
    run_dag(DAG_ID)
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "fireworks", sandbox.clock.today() - history)
    more, requests, uncached, cached = sampled(connected)
    assert seconds < more <= 180
    uncached_rate = GAUGES["prompt"] - GAUGES["cached"]
    assert (requests, uncached, cached) == (GAUGES["requests"] * more, uncached_rate * more, GAUGES["cached"] * more)
    told = connected.query("select stream, count(*) from ops.event where kind = 'schema_drift' group by 1 order by 1")
    assert told == [("costs", 4), ("usage", 4)]


def restate(sandbox: Sandbox) -> None:
    """Change the last days up, down and to nothing."""
    kimi = LAB.uses[0].model
    changes: list[tuple[str, int, dict[str, Any]]] = [
        (PRODUCTION.account_id, 1, {"factor": "3"}),
        (PRODUCTION.account_id, 2, {"factor": "0.3", "model": kimi}),
        (PRODUCTION.account_id, 3, {"vanish": True}),
        (LAB.account_id, 1, {"factor": "0", "model": kimi}),
        (LAB.account_id, 2, {"vanish": True}),
    ]
    for account, days_ago, change in changes:
        day = sandbox.clock.today() - timedelta(days=days_ago)
        sandbox.truth.restate(provider="fireworks", account=account, region="-", day=day, **change)


def test_a_key_without_rights_to_costs_fails_alone_and_a_wrong_account_is_never_taken_for_an_unused_one(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "AIRFLOW_CONN_FIREWORKS_LAB"
    settings = os.environ[name].replace(admin_key(LAB), user_key(LAB)).replace("accounts/acme-lab", "acme-lab, acme-lb")
    monkeypatch.setenv(name, settings)

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed", "failed", "success", "success"]
    errors = connected.query(
        "select distinct scope, stream, kind, message, action from ops.event where severity = 'error' order by 1, 2"
    )
    assert [error[:3] for error in errors] == [
        ("acme-lab", "costs", "permission_missing"),
        ("acme-lb", "costs", "configuration_invalid"),
        ("acme-lb", "throughput", "configuration_invalid"),
        ("acme-lb", "usage", "configuration_invalid"),
    ]
    assert "administrator" in errors[0][4]
    assert "it reaches acme-lab" in errors[1][3]
    everything = str(connected.query("select string_agg(e::text, ' ') from ops.event as e"))
    everything += str(connected.query("select string_agg(c::text, ' ') from ops.connection_check as c"))
    assert "fw_sandbox" not in everything

    assert run_dag("usage_marts").state == "success"
    days = history.days + 1
    with connected.as_reader() as session:
        rows = session.execute(
            "select account_id, model is null, count(distinct usage_date), sum(billed_cost) is null, min(coverage)"
            " from marts.usage_daily where account_id = 'acme-lb' or (account_id = 'acme-lab' and model is null)"
            " group by 1, 2 order by 1"
        ).fetchall()
    assert rows == [("acme-lab", True, days, True, "failed"), ("acme-lb", True, days, True, "failed")]
    first_day = sandbox.clock.today() - history
    (metered,) = connected.query(
        "select sum(input_tokens) from marts.usage_daily where account_id = 'acme-lab' and usage_date >= %s", first_day
    )
    truth = sandbox.truth.expected_usage_daily("fireworks", first_day, sandbox.clock.today(), [LAB.account_id])
    assert metered[0] == sum(row["input_tokens"] or 0 for row in truth) > 0
