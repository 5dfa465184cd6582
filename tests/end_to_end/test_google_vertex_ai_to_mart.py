"""Google Vertex AI from the sandbox's BigQuery through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.google_vertex_ai import NO_DATA, keyfile
from sandbox.truth.google_vertex_ai import COMPANY, LAB, GoogleVertexAITruth
from tests.support.airflow import run_dag
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "google_vertex_ai_usage"
HISTORY_DAYS = 30


def test_the_marts_equal_the_truth_and_stay_equal_whatever_google_corrects(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    first_day = sandbox.clock.today() - history
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == [
        f"google_vertex_ai_default · {COMPANY.account_id}",
        f"google_vertex_ai_lab · {LAB.account_id}",
    ]
    # One paid query per billing account; verifying and planning ask for tables and estimates only.
    calls = sandbox.requests.to_json()["calls"]["google_vertex_ai"]
    assert calls[COMPANY.account_id]["-"]["jobs.query"] == calls[LAB.account_id]["-"]["jobs.query"] == 1
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "google_vertex_ai", first_day)
    assert_the_queue_shows_what_nobody_can_map(connected, sandbox, first_day)
    everything = str(connected.query("select string_agg(e::text, ' ') from ops.event as e"))
    everything += str(connected.query("select string_agg(c::text, ' ') from ops.connection_check as c"))
    assert "PRIVATE KEY" not in everything

    again = run_dag(DAG_ID)
    assert again.states()["publish"] == ["skipped"]
    assert connected.query(
        "select sum(records_written), sum(slices_changed) from ops.extraction where run_id = %s", again.ledger_run_id
    ) == [(0, 0)]

    correct(sandbox)
    sandbox.faults.add("small_pages", provider="google_vertex_ai", size=50)
    sandbox.faults.add("unknown_columns", provider="google_vertex_ai")
    assert run_dag(DAG_ID).state == "success"
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "google_vertex_ai", first_day)
    assert_the_queue_shows_what_nobody_can_map(connected, sandbox, first_day)
    assert connected.query("select count(*) from ops.event where kind = 'schema_drift'") == [(2,)]
    assert connected.query("select count(*) from ops.event where kind = 'restated'") == [(2,)]


def assert_the_queue_shows_what_nobody_can_map(warehouse: TestWarehouse, sandbox: Sandbox, first_day: Any) -> None:
    truth = sandbox.truth.of("google_vertex_ai")
    assert isinstance(truth, GoogleVertexAITruth)
    with warehouse.as_reader() as session:
        found = session.execute("select sku, billed_currency, net_cost from marts.unmapped_skus").fetchall()
        tokens = session.execute(
            "select count(*) from marts.usage_daily where model = any(%s) and (input_tokens, output_tokens) is not null",
            ([sku for sku, _, _ in found],),
        ).fetchall()
    expected: dict[str, Decimal] = truth.unmapped(first_day, sandbox.clock.today())
    assert {sku: cost for sku, _, cost in found} == expected
    assert {currency for _, currency, _ in found} == {COMPANY.currency}
    assert tokens == [(0,)], "nothing is guessed"


def correct(sandbox: Sandbox) -> None:
    """Change days up, down and to nothing, one of them long settled."""
    flash = COMPANY.lines[0].model
    changes: list[tuple[str, int, dict[str, Any]]] = [
        (COMPANY.account_id, 1, {"factor": "3"}),
        (COMPANY.account_id, 2, {"factor": "0.3", "model": flash}),
        (COMPANY.account_id, 20, {"factor": "0.5"}),
        (LAB.account_id, 2, {"factor": "0"}),
        (LAB.account_id, 9, {"vanish": True}),
    ]
    for account, days_ago, change in changes:
        day = sandbox.clock.today() - timedelta(days=days_ago)
        sandbox.truth.restate(provider="google_vertex_ai", account=account, region="-", day=day, **change)


def test_an_account_that_may_not_be_read_fails_alone_and_its_days_show_as_failed(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "AIRFLOW_CONN_GOOGLE_VERTEX_AI_LAB"
    found = json.loads(os.environ[name])
    found["extra"]["keyfile_dict"] = json.dumps(keyfile(LAB, f"{sandbox.url}/google_vertex_ai", NO_DATA))
    monkeypatch.setenv(name, json.dumps(found))

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed", "success"]
    (told,) = connected.query("select distinct message, action from ops.event where severity = 'error'")
    assert "may not read the table" in told[0]
    assert "roles/bigquery.dataViewer" in told[1]

    assert run_dag("usage_marts").state == "success"
    with connected.as_reader() as session:
        rows = session.execute(
            "select distinct model, input_tokens, net_cost, coverage from marts.usage_daily where account_id = %s",
            (LAB.account_id,),
        ).fetchall()
    assert rows == [(None, None, None, "failed")]
    first_day = sandbox.clock.today() - history
    assert_marts_equal_the_truth(connected, sandbox, "google_vertex_ai", first_day, without_accounts=[LAB.account_id])
