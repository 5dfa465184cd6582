"""The runner of dbt: what it claims, what it removes, and what a failure or a kill leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from ai_usage.orchestration.transform import Transformed, TransformFailed, check_all_history, transform
from tests.dbt.bedrock_ledger import BedrockLedger, record
from tests.support.warehouse import TestWarehouse

DAY, NEXT_DAY = date(2026, 3, 1), date(2026, 3, 2)
CONNECTION, REGION = "aws_bedrock_default", "eu-west-1"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Shared, as in production: the project is parsed once.
    return tmp_path_factory.mktemp("target")


@pytest.fixture
def ledger(warehouse: TestWarehouse) -> BedrockLedger:
    ledger = BedrockLedger(warehouse.admin_dsn)
    ledger.scope(CONNECTION, REGION, "111122223333")
    load(ledger, DAY, 10)
    return ledger


def load(ledger: BedrockLedger, day: date, requests: int) -> None:
    ledger.load(CONNECTION, REGION, day, [record("amazon.nova-pro-v1:0", {"Invocations": requests})])


def run(
    warehouse: TestWarehouse, repository: Path, target: Path, run_id: str, *, is_retry: bool = False
) -> Transformed:
    return transform(warehouse.warehouse, run_id, project=repository / "dbt_project", target=target, is_retry=is_retry)


def run_after_import(module: str, warehouse: TestWarehouse, repository: Path, target: Path, run_id: str) -> None:
    """In a process that knows nothing yet."""
    assert "dbt.cli.main" not in sys.modules
    import_module(module)
    run(warehouse, repository, target, run_id)


def requests(warehouse: TestWarehouse) -> list[tuple[date, int]]:
    return warehouse.query("select usage_date, requests::int from marts.usage_daily order by 1")


def problems(warehouse: TestWarehouse) -> list[tuple[str, str, str, str | None]]:
    return warehouse.query(
        "select provider, kind, severity, resolution from ops.problem"
        " where connection_id = 'usage_marts' and scope is null and stream is null and topic = 'transform'"
    )


def test_what_was_pending_is_built_and_taken_off_the_list(
    warehouse: TestWarehouse, ledger: BedrockLedger, repository: Path, target: Path
) -> None:
    done = run(warehouse, repository, target, "run")

    assert requests(warehouse) == [(DAY, 10)]
    assert ledger.pending() == []
    assert done.pairs == 1
    results = warehouse.query(
        "select count(*) filter (where status in ('success', 'pass')), count(*) from ops.dbt_node_result"
    )
    assert results == [(done.nodes_ok, done.nodes_ok)]
    assert warehouse.query("select succeeded, pairs_rebuilt from ops.dbt_run") == [(True, 1)]
    assert problems(warehouse) == []


def test_the_first_build_is_made_though_nothing_is_pending_and_then_dbt_is_not_even_started(
    warehouse: TestWarehouse, ledger: BedrockLedger, repository: Path, target: Path
) -> None:
    ledger.consume(ledger.pending())

    first, second = (run(warehouse, repository, target, f"run {n}") for n in range(2))

    assert (first.pairs, second) == (0, Transformed(pairs=0))
    assert first.nodes_ok > 50
    assert warehouse.query("select run_id, succeeded from ops.dbt_run") == [("run 0", True)]
    assert warehouse.query("select count(*) > 0 from marts.settlement_recommendations") == [(True,)]


def test_a_failure_names_the_node_and_a_retry_goes_on_there_with_what_was_claimed(
    warehouse: TestWarehouse, ledger: BedrockLedger, repository: Path, target: Path
) -> None:
    run(warehouse, repository, target, "first")
    load(ledger, DAY, 20)
    warehouse.query("revoke select on raw.aws_bedrock_metrics from ai_usage_transformer")
    warehouse.query("grant select (load_id, usage_date) on raw.aws_bedrock_metrics to ai_usage_transformer")

    with pytest.raises(
        TransformFailed,
        match=r"(int_usage_meters|stg_aws_bedrock\w+) \(error: Database Error in model \w+ \([^'\]]+\)\)",
    ):
        run(warehouse, repository, target, "second")

    assert requests(warehouse) == [(DAY, 10)], "readers lost the last good build"
    assert problems(warehouse) == [("-", "transform_failed", "error", None)]
    warehouse.query("grant select on raw.aws_bedrock_metrics to ai_usage_transformer")
    load(ledger, NEXT_DAY, 5)  # arrives between the tries: not claimed by this run

    run(warehouse, repository, target, "second", is_retry=True)

    # Neither a failed build nor a retry knows that every view is as the project says.
    runs = warehouse.query("select command, succeeded, views_digest is not null from ops.dbt_run order by started_at")
    assert runs == [("build", True, True), ("build", False, False), ("retry", True, False)]
    assert warehouse.query("select distinct usage_date, claimed_by from ops.pending_rebuild") == [(NEXT_DAY, None)]
    assert problems(warehouse) == [("-", "transform_failed", "error", "recovered")]
    run(warehouse, repository, target, "third")
    assert requests(warehouse) == [(DAY, 20), (NEXT_DAY, 5)]
    assert ledger.pending() == []


def test_a_test_over_all_of_history_finds_what_no_transform_would_look_at_again(
    warehouse: TestWarehouse, ledger: BedrockLedger, repository: Path, target: Path
) -> None:
    run(warehouse, repository, target, "run")
    load(ledger, NEXT_DAY, 5)
    warehouse.query("update marts.usage_daily set requests = 11 where usage_date = %s", DAY)
    run(warehouse, repository, target, "next day")

    with pytest.raises(TransformFailed, match="usage_daily_adds_up_to_the_meters"):
        check_all_history(warehouse.warehouse, "check", project=repository / "dbt_project", target=target)

    assert warehouse.query("select succeeded, nodes_failed from ops.dbt_run where command = 'test'") == [(False, 1)]
    assert problems(warehouse) == [], "the marts are up to date all the same"


@pytest.mark.parametrize("module", ["json", "dbt.cli.main"], ids=["from_nothing", "imported_beforehand"])
def test_a_transform_that_was_killed_leaves_its_days_to_the_next(
    warehouse: TestWarehouse, ledger: BedrockLedger, repository: Path, target: Path, module: str
) -> None:
    processes = multiprocessing.get_context("spawn")
    victim = processes.Process(target=run_after_import, args=(module, warehouse, repository, target, "killed"))
    victim.start()
    await_session(warehouse, "ai_usage_transform")
    assert victim.pid is not None
    dbt = psutil.Process(victim.pid).children(recursive=True)
    assert dbt, "dbt is no process of its own"
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert eventually(lambda: not any(map(is_at_work, dbt))), "dbt outlived the task that had started it"

    run(warehouse, repository, target, "next")

    assert requests(warehouse) == [(DAY, 10)]
    assert ledger.pending() == []


def test_two_transforms_at_once_take_turns(
    warehouse: TestWarehouse, ledger: BedrockLedger, repository: Path, target: Path
) -> None:
    processes = multiprocessing.get_context("spawn")
    pair = [processes.Process(target=run, args=(warehouse, repository, target, f"run {n}")) for n in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()

    assert [process.exitcode for process in pair] == [0, 0]
    assert requests(warehouse) == [(DAY, 10)]
    assert warehouse.query("select count(*) from ops.dbt_run") == [(1,)]


def test_the_password_is_in_no_artifact_and_no_log_of_dbt(
    warehouse: TestWarehouse, ledger: BedrockLedger, repository: Path, target: Path
) -> None:
    run(warehouse, repository, target, "run")

    written = [path for path in target.rglob("*") if path.is_file()]
    assert any(path.name == "run_results.json" for path in written)
    assert not [path for path in written if warehouse.warehouse.password.encode() in path.read_bytes()]


def await_session(warehouse: TestWarehouse, application: str) -> None:
    """Wait until dbt itself is at work."""
    seen = "select 1 from pg_stat_activity where application_name = %s"
    assert eventually(lambda: warehouse.query(seen, application)), f"{application} never connected"


def is_at_work(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def eventually(is_true: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if is_true():
            return True
        time.sleep(0.02)
    return False
