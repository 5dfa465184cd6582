"""OpenRouter from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.openrouter import inference_key, management_key
from sandbox.truth.openrouter import ORGANISATION, PERSON, OpenRouterTruth
from tests.support.airflow import run_dag
from tests.support.marts import assert_marts_equal_the_truth
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "openrouter_usage"
HISTORY_DAYS = 40
"""More than activity has, so that the oldest days come from analytics."""


def test_the_marts_equal_the_truth_and_stay_equal_whatever_openrouter_restates(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == ["openrouter_default", "openrouter_personal"]
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "openrouter", sandbox.clock.today() - history)
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
    assert_marts_equal_the_truth(connected, sandbox, "openrouter", sandbox.clock.today() - history)


def test_credits_are_told_as_they_stand_and_their_lack_takes_nothing_from_the_usage(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    today = sandbox.clock.today()
    sandbox.faults.add("access_denied", operation="getCredits", account=PERSON.account_id)
    assert run_dag(DAG_ID).state == "failed"
    assert run_dag("usage_marts").state == "success"

    assert_marts_equal_the_truth(connected, sandbox, "openrouter", today - history)
    with connected.as_reader() as session:
        balances = session.execute(
            "select usage_date, account_id, credits_bought, credits_used, credits_left, currency"
            " from marts.credit_balances"
        ).fetchall()
        lacking = session.execute("select count(*) from marts.usage_daily where model is null").fetchone()
    known = sandbox.truth.of("openrouter")
    assert isinstance(known, OpenRouterTruth)
    bought, used = known.credits(ORGANISATION).values()
    assert used > 0
    assert balances == [(today, ORGANISATION.account_id, bought, used, bought - used, "USD")]
    assert lacking == (0,)


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
