"""What the end to end benchmark makes of its readings."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from bench.cpu import Usage, spent, usage_of
from bench.cycle import Cycle, Floor, claims
from bench.stack import NEVER, unscheduled
from bench.tasks import TaskRun, by_task

PARENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.5: pass"])
print("done", flush=True)
sys.stdin.read()
"""


def run(task_id: str, scheduled: float, queued: float, started: float, ended: float) -> TaskRun:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    times = [begin + timedelta(seconds=seconds) for seconds in (scheduled, queued, started, ended)]
    return TaskRun("openai_usage", task_id, -1, "success", *times)


def cycle(fresh: float = 60.0, rewritten: int = 0, marts_runs: int = 0, cpu: float = 40.0) -> Cycle:
    parts = {"postgresql": 5.0, "sandbox": 3.0, "scheduler": cpu - 10, "api-server": 10.0}
    return Cycle(fresh, fresh + 1, parts, [], marts_runs, rewritten)


FLOOR = Floor(50.0, 25.0, 38.0, 10.0, {}, {}, 1000)


def test_a_child_that_has_ended_counts_with_its_parent() -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        usage = usage_of([process.pid])
    finally:
        process.communicate()

    assert usage.ended >= 0.4
    assert usage.own < usage.total


def test_a_process_that_is_gone_has_used_nothing() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid = int(gone.stdout)
    assert not psutil.pid_exists(pid)

    assert usage_of([pid]) == Usage(0.0, 0.0)


def test_what_was_spent_is_told_part_by_part() -> None:
    assert spent({"a": Usage(1, 2), "b": Usage(0, 5)}, {"a": Usage(2, 4), "b": Usage(0, 5)}) == {"a": 3, "b": 0}


def test_runs_of_a_task_are_summed_up_by_their_medians() -> None:
    one, other = by_task([run("plan", 0, 1, 3, 7), run("read", 5, 5, 5, 6), run("plan", 0, 3, 3, 4)])

    assert (one.name, one.runs, one.waiting, one.starting, one.working, one.working_in_all) == ("plan", 2, 2, 1, 2.5, 5)
    assert other.cells == ("read", "1", "0.00", "0.00", "1.00", "1.00")


def test_the_files_of_the_providers_lose_their_schedule_and_nothing_else(repository: Path) -> None:
    for path in (repository / "dags").glob("*_usage.py"):
        text = path.read_text()
        changed = [line for line in unscheduled(text).splitlines() if line not in text.splitlines()]

        assert len(changed) == 1
        assert NEVER in changed[0]
    with pytest.raises(ValueError, match="one schedule"):
        unscheduled("dag = usage_dag('openai')")


@pytest.mark.parametrize(
    ("first", "unchanged", "unmet"),
    [
        (cycle(75.0), cycle(), []),
        (cycle(75.1), cycle(), ["trigger to fresh marts"]),
        (cycle(75.0), cycle(rewritten=1), ["slices rewritten"]),
        (cycle(75.0), cycle(marts_runs=1), ["runs of dbt"]),
    ],
)
def test_a_goal_that_was_missed_is_called_missed(first: Cycle, unchanged: Cycle, unmet: list[str]) -> None:
    missed = [claim.name for claim in claims(FLOOR, first, unchanged, cycle(cpu=30.0), 2.0) if claim.met is False]

    assert len(missed) == len(unmet)
    assert all(words in name for words, name in zip(unmet, missed, strict=True))


def test_the_share_of_empty_tasks_is_one_of_airflow_alone() -> None:
    (told,) = [
        one
        for one in claims(FLOOR, cycle(), cycle(cpu=40.0), cycle(cpu=30.0), 2.0)
        if "time" in one.name and "idle" not in one.name and one.met is None
    ]

    assert told.measured == "40 s, 75% of it with empty tasks"
