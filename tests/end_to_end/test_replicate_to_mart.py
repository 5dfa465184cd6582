"""Replicate from the sandbox through Airflow and dbt to the marts, against the sandbox's truth."""

from __future__ import annotations

import contextlib
import os
from datetime import date, timedelta
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.simulators.replicate import CONTENT, token
from sandbox.truth import DETAIL_KEYS, DETAIL_MEASURES
from sandbox.truth.replicate import STUDIO, TINKERER, Account, ReplicateTruth
from tests.support.airflow import run_dag
from tests.support.marts import added_up, assert_marts_equal_the_truth, usage_daily_detail
from tests.support.warehouse import TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAG_ID = "replicate_usage"
HISTORY_DAYS = 30
CANARY = CONTENT.split()[0]


def states(warehouse: TestWarehouse, stream: str = "predictions") -> dict[date, str]:
    return dict(
        warehouse.query(
            "select usage_date, state from ops.slice where connection_id = 'replicate_default' and stream = %s", stream
        )
    )


def test_the_marts_equal_the_truth_whatever_changes_and_wait_for_runs_that_have_not_ended(
    connected: TestWarehouse, sandbox: Sandbox, history: timedelta
) -> None:
    today = sandbox.clock.today()
    first_day = today - history
    first = run_dag(DAG_ID)
    assert first.state == "success"
    assert first.labels() == ["replicate_default", "replicate_tinkerer"]
    truth = sandbox.truth.of("replicate")
    assert isinstance(truth, ReplicateTruth)
    runs = {n: len(truth.runs(STUDIO, "predictions", today - timedelta(days=n))) for n in range(30)}
    # One window, and one page for the verification of a new connection.
    calls = sandbox.requests.to_json()["calls"]["replicate"][STUDIO.account_id]["-"]
    assert calls["predictions"] == 1 + ceil(sum(runs[n] for n in range(30)) / 100)
    # Once to plan, once to read.
    assert (calls["trainings"], calls["account"]) == (1 + 1, 1 + 2)
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "replicate", first_day)

    # A day that is over for good, but for a run that is still under way.
    waiting = today - timedelta(days=4)
    assert {run.status for run in truth.runs(STUDIO, "predictions", waiting)} > {"processing"}
    assert states(connected)[waiting] == "provisional"
    assert states(connected)[today - timedelta(days=5)] == "final"

    again = run_dag(DAG_ID)
    assert again.states()["publish"] == ["skipped"]
    assert connected.query(
        "select sum(records_written), sum(slices_changed) from ops.extraction where run_id = %s", again.ledger_run_id
    ) == [(0, 0)]
    read_again = connected.query(
        "select window_first, window_last from ops.extraction"
        " where run_id = %s and connection_id = 'replicate_default' and stream = 'predictions'",
        again.ledger_run_id,
    )
    assert read_again == [(waiting, today)]

    changes: list[tuple[Account, int, dict[str, Any]]] = [
        (STUDIO, 1, {"factor": "0.5"}),
        (STUDIO, 2, {"factor": "0", "model": STUDIO.uses[0].model}),
        (TINKERER, 1, {"vanish": True}),
        # Only trainings are left of this day, and they are going to be listed among the predictions as well.
        *((TINKERER, 2, {"factor": "0", "model": use.model}) for use in TINKERER.uses if use.kind == "predictions"),
    ]
    for account, days_ago, change in changes:
        day = today - timedelta(days=days_ago)
        sandbox.truth.restate(provider="replicate", account=account.account_id, region="-", day=day, **change)
    sandbox.faults.add("page_twice", provider="replicate")
    sandbox.faults.add("unknown_fields", provider="replicate", account=TINKERER.account_id)
    sandbox.faults.add("mixed_lists", provider="replicate", operation="predictions")
    assert truth.runs(TINKERER, "trainings", today - timedelta(days=2))
    assert not truth.runs(TINKERER, "predictions", today - timedelta(days=2))
    assert run_dag(DAG_ID).state == "success"
    assert run_dag("usage_marts").state == "success"
    assert_marts_equal_the_truth(connected, sandbox, "replicate", first_day)

    # Five days later at Replicate: what was under way has ended.
    sandbox.faults.clear()
    try:
        sandbox.clock.move_to(today + timedelta(days=5))
        assert run_dag(DAG_ID).state == "success"
        assert run_dag("usage_marts").state == "success"
        expected = sandbox.truth.expected_detail("replicate", first_day, today)
        found = usage_daily_detail(connected, "replicate")
        assert added_up(found, DETAIL_KEYS, DETAIL_MEASURES) == added_up(expected, DETAIL_KEYS, DETAIL_MEASURES)
        assert not any("/processing/" in row["endpoint"] for row in found)
        assert states(connected)[waiting] == "final"
    finally:
        sandbox.clock.move_to(today)


def test_nothing_that_people_said_reaches_a_table_a_file_or_a_log(
    connected: TestWarehouse,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    caplog.set_level("DEBUG")
    # Every way in which content could slip through: new fields, refusals that quote it, pages that are none, wrong forms.
    sandbox.faults.add("unknown_fields", provider="replicate", account=STUDIO.account_id)
    sandbox.faults.add(
        "internal_error", provider="replicate", account=STUDIO.account_id, operation="predictions", times=1
    )
    sandbox.faults.add("odd_name", provider="replicate", account=TINKERER.account_id, operation="predictions")
    sandbox.faults.add("bad_request", provider="replicate", account=TINKERER.account_id, operation="trainings")

    run = run_dag(DAG_ID)

    assert run.state == "failed"
    assert sorted(run.states()["extract_load"]) == ["failed", "success"]
    assert run_dag("usage_marts").state == "success"
    kept = connected.query("select record ->> 'id' from raw.replicate_predictions limit 1")[0][0]
    tables = everything_in(connected)
    assert kept in tables["raw.replicate_predictions"], "the search would find what is there"
    assert "is not of the known form" in tables["ops.event"]
    assert [name for name, text in tables.items() if CANARY in text] == []

    connected.query("checkpoint")
    (folder,) = connected.query("show data_directory")[0]
    assert files_with(kept, Path(folder)), "the search would find what is there"
    assert files_with(CANARY, Path(folder), tmp_path) == []

    out, err = capfd.readouterr()
    assert "is not of the known form" in caplog.text + out + err
    assert CANARY not in caplog.text + out + err
    assert files_with(CANARY, Path(os.environ["AIRFLOW_HOME"])) == []
    for secret in (token(STUDIO), token(TINKERER)):
        assert secret not in "".join(tables.values()) + caplog.text + out + err

    with connected.as_reader() as session:
        rows = session.execute(
            "select distinct model, requests, compute_seconds, coverage from marts.usage_daily where account_id = %s",
            (TINKERER.account_id,),
        ).fetchall()
    assert rows == [(None, None, None, "failed")]


def everything_in(warehouse: TestWarehouse) -> dict[str, str]:
    """Return every table of the warehouse as text."""
    names = warehouse.query(
        "select format('%%I.%%I', schemaname, tablename) from pg_tables"
        " where schemaname not in ('pg_catalog', 'information_schema')"
    )
    return {
        name: str(warehouse.query(f"select coalesce(string_agg(t::text, ' '), '') from {name} as t")[0][0])
        for (name,) in names
    }


def files_with(text: str, *folders: Path) -> list[Path]:
    """Return every file that holds the text: tables, journals, logs."""
    found = []
    for path in [path for folder in folders for path in folder.rglob("*")]:
        # A server that runs removes files at any time.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(path)
    return found
