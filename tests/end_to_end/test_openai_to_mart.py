"""OpenAI from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from ai_usage.core.http import Limits
from ai_usage.providers.openai import OpenAIProvider
from sandbox.service import Sandbox
from sandbox.simulators.openai import admin_key, project_key
from sandbox.truth import CURRENCY, DETAIL_KEYS, DETAIL_MEASURES, KEYS, MEASURES, add
from sandbox.truth.openai import COMPANY, LAB
from tests.support.airflow import run_dag
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "openai_usage"
HISTORY_DAYS = 30
COLUMNS = (*KEYS, *MEASURES, CURRENCY)
DETAIL_COLUMNS = (*DETAIL_KEYS, *DETAIL_MEASURES, CURRENCY)


@pytest.fixture(scope="module")
def running_sandbox() -> Iterator[Sandbox]:
    """The sandbox without moto, on the day on which it starts."""
    now = datetime.now(UTC)
    if now.hour == 23 and now.minute >= 50:
        pytest.skip("within ten minutes of midnight UTC the sandbox and the tasks could live on different days")
    with Sandbox(today=now.date(), history_days=HISTORY_DAYS, moto=False) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def own_dbt_target(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    # One folder for all tests, so that the project is parsed once.
    monkeypatch.setenv("AI_USAGE_DBT_TARGET", str(tmp_path_factory.getbasetemp() / "dbt_target"))
    # The real pace, one call a second, is for the real OpenAI.
    monkeypatch.setattr(OpenAIProvider, "limits", Limits())


def stored(warehouse: TestWarehouse, mart: str, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return the rows with usage, as an analyst sees them."""
    with warehouse.as_reader() as session:
        statement = f"select {', '.join(columns)} from marts.{mart} where model is not null"
        return by_key(session.execute(statement.encode()).fetchall())


def by_key(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows in the order of their texts; numbers may be spelt in several ways."""
    return sorted(rows, key=lambda row: [str(value) for value in row if isinstance(value, str | date)])


def window(sandbox: Sandbox) -> tuple[date, date]:
    today = sandbox.clock.today()
    return today - timedelta(days=HISTORY_DAYS - 1), today


def expected_daily(sandbox: Sandbox) -> list[tuple[Any, ...]]:
    rows = sandbox.truth.expected_usage_daily("openai", *window(sandbox))
    return by_key([tuple(row[column] for column in COLUMNS) for row in rows])


def expected_detail(sandbox: Sandbox) -> list[tuple[Any, ...]]:
    """Return the truth added up by place: keys and users that are not told apart share theirs."""
    places: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sandbox.truth.expected_detail("openai", *window(sandbox)):
        known = places.setdefault(
            tuple(row[name] for name in DETAIL_KEYS), row | dict.fromkeys((*DETAIL_MEASURES, CURRENCY))
        )
        known |= {name: add(known[name], row[name]) for name in DETAIL_MEASURES}
        known[CURRENCY] = known[CURRENCY] or row[CURRENCY]
    return by_key([tuple(row[column] for column in DETAIL_COLUMNS) for row in places.values()])


def test_the_marts_equal_the_truth_and_stay_equal_whatever_openai_restates(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == ["openai_default", "openai_lab"]
    # The verification of a new connection asks for costs and projects once more.
    calls = sandbox.requests.to_json()["calls"]["openai"]
    assert sum(calls[COMPANY.account_id]["-"].values()) == 12 + 2
    assert calls[COMPANY.account_id]["-"]["completions"] == 1
    assert run_dag("usage_marts").state == "success"
    assert stored(connected, "usage_daily", COLUMNS) == expected_daily(sandbox)
    assert stored(connected, "usage_daily_detail", DETAIL_COLUMNS) == expected_detail(sandbox)

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
    assert stored(connected, "usage_daily", COLUMNS) == expected_daily(sandbox)
    assert stored(connected, "usage_daily_detail", DETAIL_COLUMNS) == expected_detail(sandbox)
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
    connected: TestWarehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
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
    assert stored(connected, "usage_daily", COLUMNS) == [
        row for row in expected_daily(sandbox) if row[2] != LAB.account_id
    ]
