"""Once a day, as Airflow runs it: old versions are pruned without a change in any mart, and all of history is tested."""

from __future__ import annotations

import os
from datetime import date, timedelta
from pathlib import Path

import pytest

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.orchestration import housekeeping
from ai_usage.orchestration.transform import TransformFailed
from tests.dbt.bedrock_ledger import BedrockLedger, record
from tests.support.airflow import run_dag
from tests.support.warehouse import TestWarehouse

CONNECTION, REGION = "aws_bedrock_default", "eu-west-1"
FIRST = date(2026, 3, 1)
DAYS = 5


@pytest.fixture
def connected(warehouse: TestWarehouse, airflow_metadata: None, monkeypatch: pytest.MonkeyPatch) -> TestWarehouse:
    """A warehouse that Airflow's tasks find; no source is needed."""
    for name, value in warehouse.environment().items():
        monkeypatch.setenv(name, value)
    return warehouse


def marts(warehouse: TestWarehouse) -> dict[str, str]:
    """Return mart → a hash of its rows, and the same of what is kept of every version."""
    tables = ("marts.usage_daily", "marts.usage_daily_detail", "marts.restatements", "intermediate.int_slice_totals")
    return {
        name: warehouse.query(f"select md5(string_agg(t::text, '|' order by t::text)) from {name} as t")[0][0]
        for name in tables
    }


def raw_versions(warehouse: TestWarehouse) -> set[int]:
    return {load_id for (load_id,) in warehouse.query("select distinct load_id from raw.aws_bedrock_metrics")}


def test_a_day_of_housekeeping(connected: TestWarehouse, repository: Path) -> None:
    ledger = BedrockLedger(connected.admin_dsn)
    ledger.scope(CONNECTION, REGION, "111122223333")
    for requests in (10, 20, 30):
        for number in range(DAYS):
            ledger.load(
                CONNECTION,
                REGION,
                FIRST + timedelta(days=number),
                [record("amazon.nova-pro-v1:0", {"Invocations": requests + number})],
            )
        if requests != 20:  # the second versions are never seen by a build
            assert run_dag("usage_marts").state == "success"
    current = {load_id for (load_id,) in connected.query("select load_id from ops.slice")}
    connected.query("update ops.load set superseded_at = now() - interval '31 days' where superseded_by is not null")
    before, versions = marts(connected), raw_versions(connected)
    assert len(versions) == 3 * DAYS

    # A number of the past that is wrong is found, though no transform touches its day, and people are told of it.
    connected.query("update marts.usage_daily set requests = requests + 1 where usage_date = %s", FIRST)
    with pytest.raises(TransformFailed, match="usage_daily_adds_up_to_the_meters"):
        housekeeping.check(
            connected.warehouse,
            "check",
            project=repository / "dbt_project",
            target=Path(os.environ["AI_USAGE_DBT_TARGET"]),
        )
    problem = "select kind, connection_id from ops.problem where resolved_at is null and topic = 'transform'"
    assert connected.query(problem) == [("transform_failed", "usage_housekeeping")]
    connected.query("update marts.usage_daily set requests = requests - 1 where usage_date = %s", FIRST)

    run = run_dag("usage_housekeeping")

    assert run.state == "success"
    assert run.states() == {"check": ["success"], "clean": ["success"], "tell": ["success"]}
    assert connected.query(problem) == []
    assert current <= raw_versions(connected) < versions
    measured = connected.query("select count(distinct load_id) from intermediate.int_slice_totals")[0][0]
    assert len(raw_versions(connected)) == len(versions) - (measured - DAYS), "what was not measured stays"
    assert marts(connected) == before
    assert connected.query("select succeeded from ops.dbt_run where command = 'test' order by started_at") == [
        (False,),
        (True,),
    ]
    assert connected.query("select count(*) > 20 from ops.table_figures") == [(True,)]

    # A rebuild from what is left tells the same.
    assert run_dag("usage_marts", {"full_refresh": True}).state == "success"
    assert marts(connected) == before


@pytest.mark.parametrize(("text", "days"), [("", 30), ("7", 7), ("365", 365)])
def test_how_long_replaced_versions_stay_can_be_set(monkeypatch: pytest.MonkeyPatch, text: str, days: int) -> None:
    monkeypatch.setenv(housekeeping.KEEP_SETTING, text)

    assert housekeeping.days_to_keep() == days


@pytest.mark.parametrize("nonsense", ["0", "-5", "a month", "1.5", "99999"])
def test_a_setting_that_makes_no_sense_is_refused_and_nothing_is_deleted(
    connected: TestWarehouse, monkeypatch: pytest.MonkeyPatch, nonsense: str
) -> None:
    monkeypatch.setenv(housekeeping.KEEP_SETTING, nonsense)

    with pytest.raises(ConfigurationInvalid, match=housekeeping.KEEP_SETTING):
        housekeeping.clean(connected.warehouse)

    assert connected.query("select count(*) from ops.table_figures") == [(0,)]
