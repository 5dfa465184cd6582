"""Azure OpenAI from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.azure_openai import COMPANY, FLEET_READER, LAB_READER
from sandbox.truth.azure_openai import FLEET, LAB, LAB_EAST, PROD, PRODUCTION, RESEARCH, SHARED
from tests.support.airflow import run_dag
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "azure_openai_usage"
HISTORY_DAYS = 30


def test_the_marts_equal_the_truth_and_stay_equal_whatever_azure_restates(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == sorted(
        [
            f"azure_openai_default · {PRODUCTION.account_id}/rg-ai/aoai-prod",
            f"azure_openai_default · {PRODUCTION.account_id}/rg-ai/aoai-shared",
            f"azure_openai_default · {PRODUCTION.account_id}/rg-eu/aoai-shared",
            f"azure_openai_default · {RESEARCH.account_id}/rg-research/ais-research",
            f"azure_openai_lab · {LAB.account_id}/rg-lab/lab-east",
            f"azure_openai_lab · {LAB.account_id}/rg-other/lab-north",
        ]
    )
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "azure_openai", sandbox.clock.today() - history)

    again = run_dag(DAG_ID)
    assert again.states()["publish"] == ["skipped"]
    assert connected.query(
        "select sum(records_written), sum(slices_changed) from ops.extraction where run_id = %s", again.ledger_run_id
    ) == [(0, 0)]

    restate(sandbox)
    sandbox.faults.add("page_twice", provider="azure_openai")
    sandbox.faults.add("fewer_dimensions", provider="azure_openai", account=LAB.account_id)
    run_dag(DAG_ID)
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "azure_openai", sandbox.clock.today() - history)

    with connected.as_reader() as session:
        ((deployments,),) = session.execute(
            "select count(distinct endpoint) from marts.usage_daily_detail where project_name = %s", (PROD.name,)
        ).fetchall()
    assert deployments > 10, "more time series than Azure Monitor sends by itself"


def restate(sandbox: Sandbox) -> None:
    """Change the last days up, down and to nothing."""
    changes: list[tuple[str, str, int, dict[str, Any]]] = [
        (PRODUCTION.account_id, PROD.location, 1, {"factor": "3"}),
        (PRODUCTION.account_id, PROD.location, 2, {"factor": "0.3", "model": "gpt-4o-2024-11-20"}),
        (PRODUCTION.account_id, SHARED.location, 2, {"vanish": True}),
        (LAB.account_id, LAB_EAST.location, 1, {"factor": "0", "model": "gpt-4o-2024-11-20"}),
        (RESEARCH.account_id, "eastus2", 3, {"vanish": True, "model": "claude-opus-4-6:1"}),
    ]
    for account, region, days_ago, change in changes:
        day = sandbox.clock.today() - timedelta(days=days_ago)
        sandbox.truth.restate(provider="azure_openai", account=account, region=region, day=day, **change)


def test_a_resource_that_may_not_be_read_fails_alone_and_its_days_show_as_failed(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    where = {"account": PRODUCTION.account_id, "region": SHARED.location}
    sandbox.faults.add("access_denied", provider="azure_openai", operation="metrics", **where)

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed"] + ["success"] * 5
    ((message, action),) = connected.query(
        "select distinct message, action from ops.event where severity = 'error' and scope = %s",
        f"{PRODUCTION.account_id}/rg-ai/aoai-shared",
    )
    assert "microsoft.insights/metrics/read" in message
    assert "Monitoring Reader" in action
    everything = json.dumps(connected.query("select string_agg(e::text, ' ') from ops.event as e"))
    everything += json.dumps(connected.query("select string_agg(c::text, ' ') from ops.connection_check as c"))
    for principal in (COMPANY, LAB_READER):
        assert principal.secret not in everything
        assert f"eyJ0.{principal.client_id}" not in everything

    assert run_dag("usage_marts").state == "success"
    with connected.as_reader() as session:
        rows = session.execute(
            "select distinct model, requests, coverage from marts.usage_daily where account_id = %s and region = %s",
            (PRODUCTION.account_id, SHARED.location),
        ).fetchall()
    assert rows == [(None, None, "failed")]

    sandbox.faults.clear()
    assert run_dag(DAG_ID).state == "success"
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "azure_openai", sandbox.clock.today() - history)


def test_many_resources_share_tasks_and_are_asked_for_fifty_at_a_time(
    connected: TestWarehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "AIRFLOW_CONN_AZURE_OPENAI_DEFAULT"
    company = json.loads(os.environ[name])
    monkeypatch.setenv(name, json.dumps(company | {"login": FLEET_READER.client_id, "password": FLEET_READER.secret}))
    last = sandbox.clock.today() - timedelta(days=2)
    conf = {"from": str(last - timedelta(days=2)), "to": str(last), "connections": ["azure_openai_default"]}

    run = run_dag(DAG_ID, conf)

    assert run.state == "success"
    fleet = f"azure_openai_default · {FLEET[0].subscription}/rg-fleet"
    assert run.labels() == [
        f"{fleet}/fleet-001 and 49 more",
        f"{fleet}/fleet-051 and 49 more",
        f"{fleet}/fleet-101 and 19 more",
    ]
    assert connected.query("select count(distinct scope), count(*) from ops.slice where state <> 'missing'") == [
        (len(FLEET), 3 * len(FLEET))
    ]
    # Three questions are put to the plain API for the first resource of each task, and when the connection is verified;
    # all others go in batches.
    account = FLEET[0].subscription
    assert sandbox.requests.count("azure_openai", account, None, "metrics") == 3 * 3 + 3
    assert sandbox.requests.count("azure_openai", account, None, "batch") == 3 * 3 + 3
