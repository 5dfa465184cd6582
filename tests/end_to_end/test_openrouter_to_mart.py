"""OpenRouter from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.openrouter import inference_key, management_key
from sandbox.truth import CURRENCY, DETAIL_KEYS, DETAIL_MEASURES, KEYS, MEASURES, add
from sandbox.truth.openrouter import ORGANISATION, PERSON
from tests.support.airflow import run_dag
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "openrouter_usage"
HISTORY_DAYS = 40
"""More than activity has, so that the oldest days come from analytics."""
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


def in_order(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return sorted((tuple(row[column] for column in columns) for row in rows), key=str)


def stored(warehouse: TestWarehouse, mart: str, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return the rows with usage, as an analyst sees them."""
    with warehouse.as_reader() as session:
        statement = f"select {', '.join(columns)} from marts.{mart} where model is not null"
        return sorted(session.execute(statement.encode()).fetchall(), key=str)


def expected_daily(sandbox: Sandbox) -> list[tuple[Any, ...]]:
    today = sandbox.clock.today()
    first = today - timedelta(days=HISTORY_DAYS - 1)
    return in_order(sandbox.truth.expected_usage_daily("openrouter", first, today), COLUMNS)


def expected_detail(sandbox: Sandbox) -> list[tuple[Any, ...]]:
    """Return the truth added up by place: keys that were deleted, and twins of one name, share theirs."""
    today = sandbox.clock.today()
    places: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in sandbox.truth.expected_detail("openrouter", today - timedelta(days=HISTORY_DAYS - 1), today):
        known = places.setdefault(tuple(row[name] for name in DETAIL_KEYS), dict.fromkeys(DETAIL_MEASURES) | row)
        if known is not row and known != row:
            known |= {name: add(known[name], row[name]) for name in DETAIL_MEASURES}
    return in_order(list(places.values()), DETAIL_COLUMNS)


def test_the_marts_equal_the_truth_and_stay_equal_whatever_openrouter_restates(
    connected: TestWarehouse, sandbox: Sandbox
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == ["openrouter_default", "openrouter_personal"]
    assert run_dag("usage_marts").state == "success"
    assert stored(connected, "usage_daily", COLUMNS) == expected_daily(sandbox)
    assert stored(connected, "usage_daily_detail", DETAIL_COLUMNS) == expected_detail(sandbox)
    today = sandbox.clock.today()
    assert connected.query(
        "select stream, min(usage_date), max(usage_date) from raw.openrouter_activity"
        " inner join ops.load using (load_id, usage_date) where superseded_by is null group by 1"
    )[0][1] >= today - timedelta(days=30)
    assert connected.query("select max(usage_date) from raw.openrouter_history")[0][0] < today - timedelta(days=30)

    again = run_dag(DAG_ID)
    assert again.states()["publish"] == ["skipped"]
    assert connected.query(
        "select sum(records_written), sum(slices_changed) from ops.extraction where run_id = %s", again.ledger_run_id
    ) == [(0, 0)]

    restate(sandbox)
    run_dag(DAG_ID)
    assert run_dag("usage_marts").state == "success"
    assert stored(connected, "usage_daily", COLUMNS) == expected_daily(sandbox)
    assert stored(connected, "usage_daily_detail", DETAIL_COLUMNS) == expected_detail(sandbox)


def restate(sandbox: Sandbox) -> None:
    """Change the last days up, down and to nothing."""
    sonnet = ORGANISATION.uses[0].route.permaslug
    changes: list[tuple[str, int, dict[str, Any]]] = [
        (ORGANISATION.account_id, 1, {"factor": "3"}),
        (ORGANISATION.account_id, 2, {"factor": "0.3", "model": sonnet}),
        (ORGANISATION.account_id, 3, {"vanish": True}),
        (PERSON.account_id, 1, {"factor": "0", "model": sonnet}),
        (PERSON.account_id, 2, {"vanish": True}),
    ]
    for account, days_ago, change in changes:
        day = sandbox.clock.today() - timedelta(days=days_ago)
        sandbox.truth.restate(provider="openrouter", account=account, region="-", day=day, **change)


def test_the_wrong_kind_of_key_fails_alone_and_says_which_one_is_needed(
    connected: TestWarehouse, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    name = "AIRFLOW_CONN_OPENROUTER_PERSONAL"
    monkeypatch.setenv(name, os.environ[name].replace(management_key(PERSON), inference_key(PERSON)))

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed", "success"]
    ((connection_id, message, action),) = connected.query(
        "select distinct connection_id, message, action from ops.event where severity = 'error' and stream = 'activity'"
    )
    assert connection_id == "openrouter_personal"
    assert "inference key" in message
    assert "openrouter.ai/settings/management-keys" in action
    everything = str(connected.query("select string_agg(e::text, ' ') from ops.event as e"))
    everything += str(connected.query("select string_agg(c::text, ' ') from ops.connection_check as c"))
    assert inference_key(PERSON) not in everything
    assert management_key(ORGANISATION) not in everything
