"""
End to end against the bare floor, and the hour in which nothing changed.

One throw-away stack, one sandbox. First one plain process reads all ten providers and runs dbt once, into an empty
warehouse. Then Airflow does the same, every provider's DAG triggered at once, until the marts hold everything. Then all
are triggered again with nothing new to read; then DAGs of the same shape whose tasks do nothing; then nobody asks for
anything for a minute.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ai_usage import providers
from bench.claims import Claim, table
from bench.cpu import spent
from bench.stack import POSTGRES, SANDBOX, SHAPE, Stack, throw_away_stack
from bench.tasks import TaskRun, by_task, task_runs

GOAL = 1.5
IDLE_SECONDS = 30.0
WARM_UP = 3
MARTS = "usage_marts"
_PATIENCE = 400.0
_POLL = 0.1
_BESIDE = (POSTGRES, SANDBOX)


@dataclass(frozen=True)
class Floor:
    """The plain process. All times are seconds."""

    wall: float
    cpu: float
    reading: float
    transforming: float
    providers: Mapping[str, float]
    pieces: Mapping[str, int]
    records: int


@dataclass(frozen=True)
class Cycle:
    """
    One cycle in Airflow. All times are seconds.

    :param fresh: from the first trigger until everything read was in the marts.
    :param quiet: until the last run had ended.
    :param cpu: processor time, part by part, until then.
    """

    fresh: float
    quiet: float
    cpu: Mapping[str, float]
    tasks: Sequence[TaskRun]
    marts_runs: int
    rewritten: int

    @property
    def airflow_cpu(self) -> float:
        """Airflow's processor seconds, its tasks included."""
        return airflow_share(self.cpu)


def airflow_share(cpu: Mapping[str, float]) -> float:
    """Return what Airflow's parts have used, its tasks included."""
    return sum(seconds for name, seconds in cpu.items() if name not in _BESIDE)


def run() -> list[Claim]:
    """Print what was measured, and return the claims."""
    names = providers.names()
    with throw_away_stack() as stack:
        floor = _floor(stack)
        _tell_floor(floor)
        real = [f"{name}_usage" for name in names]
        empty = [f"{name}_empty" for name in names]
        (stack.state.folder / "dags" / SHAPE).write_text(json.dumps(floor.pieces))
        stack.start_airflow({*real, *empty, MARTS})
        # The API server does much at its first requests; in the hours that follow it does not.
        _cycle(stack, empty[:WARM_UP])
        stack.fresh_warehouse()
        first = _cycle(stack, real)
        _tell_cycle("Airflow, everything new", first)
        unchanged = _cycle(stack, real)
        _tell_cycle("Airflow, nothing new", unchanged)
        nothing = _cycle(stack, empty)
        _tell_cycle("Airflow, the same tasks empty", nothing)
        idle = _idle(stack)
        _tell_idle(idle)
    return claims(floor, first, unchanged, nothing, airflow_share(idle))


def claims(floor: Floor, first: Cycle, unchanged: Cycle, nothing: Cycle, idle: float) -> list[Claim]:
    """Return what this benchmark claims."""
    ratio = first.fresh / floor.wall
    own = nothing.airflow_cpu / unchanged.airflow_cpu
    return [
        Claim(
            "trigger to fresh marts, ten providers: Airflow ÷ one plain process",
            f"{ratio:.2f} ({first.fresh:.1f} ÷ {floor.wall:.1f} s)",
            f"≤ {GOAL}",
            ratio <= GOAL,
        ),
        Claim(
            "an hour in which nothing changed: slices rewritten", f"{unchanged.rewritten}", "0", not unchanged.rewritten
        ),
        Claim(
            "an hour in which nothing changed: runs of dbt", f"{unchanged.marts_runs}", "0", not unchanged.marts_runs
        ),
        Claim(
            "an hour in which nothing changed: processor time",
            f"{unchanged.airflow_cpu:.0f} s, {own:.0%} of it with empty tasks",
            "",
            None,
        ),
        Claim("Airflow idle: processor time a minute", f"{idle:.1f} s", "", None),
    ]


def _floor(stack: Stack) -> Floor:
    stack.fresh_warehouse()
    wall, cpu, told = stack.run_floor()
    if told["nodes_failed"]:
        raise SystemExit(f"{told['nodes_failed']} dbt nodes failed.")
    return Floor(wall, cpu, told["reading"], told["transforming"], told["providers"], told["pieces"], told["records"])


def _cycle(stack: Stack, dag_ids: Sequence[str]) -> Cycle:
    versions = _loads(stack)
    usage, begun = stack.usage(), time.perf_counter()
    since = datetime.now().astimezone()
    run_ids = {dag_id: stack.api.trigger(dag_id, "measured") for dag_id in dag_ids}
    fresh = None
    while True:
        stack.tend()
        if _is_over(stack, run_ids):
            if fresh is None and not stack.warehouse("select from ops.pending_rebuild limit 1"):
                fresh = time.perf_counter() - begun
            if fresh is not None and not _marts_to_come(stack):
                break
        if time.perf_counter() - begun > _PATIENCE:
            raise SystemExit(f"The cycle did not end within {_PATIENCE:.0f} s; see {stack.state.logs}")
        time.sleep(_POLL)
    quiet = time.perf_counter() - begun
    cpu = spent(usage, stack.usage())
    tasks = task_runs(stack, since)
    if bad := [task for task in tasks if task.state not in {"success", "skipped"}]:
        raise SystemExit("\n".join(f"{task.label} is {task.state}:\n{stack.log_of(task.dag_id)}" for task in bad))
    marts_runs = sum(task.dag_id == MARTS for task in tasks)
    return Cycle(fresh, quiet, cpu, tasks, marts_runs, _loads(stack) - versions)


def _is_over(stack: Stack, run_ids: Mapping[str, str]) -> bool:
    rows = stack.airflow(
        "select count(*) from dag_run where run_id = any(%s) and dag_id = any(%s) and state not in ('success', 'failed')",
        list(run_ids.values()),
        list(run_ids),
    )
    return bool(rows[0][0] == 0)


def _marts_to_come(stack: Stack) -> bool:
    rows = stack.airflow(
        """
        select exists (select from asset_dag_run_queue)
            or exists (select from dag_run where dag_id = %s and state in ('queued', 'running'))
        """,
        MARTS,
    )
    return bool(rows[0][0])


def _loads(stack: Stack) -> int:
    return int(stack.warehouse("select count(*) from ops.load")[0][0])


def _idle(stack: Stack) -> dict[str, float]:
    before = stack.usage()
    time.sleep(IDLE_SECONDS)
    return {name: seconds * 60 / IDLE_SECONDS for name, seconds in spent(before, stack.usage()).items()}


def _tell_floor(floor: Floor) -> None:
    slowest = sorted(floor.providers.items(), key=lambda one: -one[1])
    print(
        f"One plain process: {floor.wall:.1f} s, {floor.cpu:.1f} s of processor time\n"
        f"  reading {sum(floor.pieces.values())} scopes, {floor.records:,} records: {floor.reading:.1f} s;"
        f" dbt: {floor.transforming:.1f} s; the rest is starting Python\n"
        f"  of the reading: {', '.join(f'{name} {seconds:.1f}' for name, seconds in slowest)}",
        flush=True,
    )


def _tell_cycle(title: str, cycle: Cycle) -> None:
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in cycle.cpu.items())
    print(
        f"{title}: fresh after {cycle.fresh:.1f} s, quiet after {cycle.quiet:.1f} s;"
        f" {cycle.airflow_cpu:.1f} s of processor time for {len(cycle.tasks)} tasks\n"
        f"  processor seconds by part: {parts}\n"
        f"  {cycle.rewritten} versions of slices written, {cycle.marts_runs} runs of {MARTS}"
    )
    header = ("task", "runs", "queued", "starting", "working", "working, all")
    print(table(header, [one.cells for one in by_task(cycle.tasks)], right=range(1, 6)), flush=True)


def _tell_idle(idle: Mapping[str, float]) -> None:
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in idle.items())
    print(f"Nobody asks for anything: processor seconds a minute by part: {parts}", flush=True)
