"""What became of the task runs of a cycle, from Airflow's own record of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.stack import Stack


@dataclass(frozen=True)
class TaskRun:
    """One run of a task. A task that was skipped without a process has no times."""

    dag_id: str
    task_id: str
    map_index: int
    state: str
    scheduled: datetime | None
    queued: datetime | None
    started: datetime | None
    ended: datetime | None

    @property
    def label(self) -> str:
        """Its name."""
        return f"{self.dag_id}.{self.task_id}" + (f"[{self.map_index}]" if self.map_index >= 0 else "")


@dataclass(frozen=True)
class Summary:
    """
    All runs of one task; medians in seconds.

    :param waiting: from scheduled to handed to the executor.
    :param starting: from there to its process.
    :param working: from there to its end, imports included.
    """

    name: str
    runs: int
    waiting: float
    starting: float
    working: float
    working_in_all: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of its line in a table."""
        times = (self.waiting, self.starting, self.working, self.working_in_all)
        return self.name, f"{self.runs}", *(f"{seconds:.2f}" for seconds in times)


def task_runs(stack: Stack, since: datetime) -> list[TaskRun]:
    """Return the task runs that were scheduled since then and had a process."""
    rows = stack.airflow(
        """
        select dag_id, task_id, map_index, state, scheduled_dttm, queued_dttm, start_date, end_date
        from task_instance where scheduled_dttm >= %s order by start_date
        """,
        since,
    )
    return [TaskRun(*row) for row in rows]


def by_task(runs: Sequence[TaskRun]) -> list[Summary]:
    """Return one summary per task id, in the order of their first runs."""
    names = dict.fromkeys(run.task_id for run in runs)
    return [_summary(name, [run for run in runs if run.task_id == name]) for name in names]


def _summary(name: str, runs: Sequence[TaskRun]) -> Summary:
    working = _between([(run.started, run.ended) for run in runs])
    return Summary(
        name,
        len(runs),
        _median(_between([(run.scheduled, run.queued) for run in runs])),
        _median(_between([(run.queued, run.started) for run in runs])),
        _median(working),
        sum(working),
    )


def _between(pairs: Sequence[tuple[datetime | None, datetime | None]]) -> list[float]:
    return [(last - first).total_seconds() for first, last in pairs if first and last]


def _median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) if seconds else 0.0
