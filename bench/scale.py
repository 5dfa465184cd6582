"""
The same backfill with 1, 2 and 4 Celery workers, against a sandbox that answers as slowly as real providers do.

Each size starts from nothing: a fresh copy of the repository, its stack by Compose, empty databases. The backfill is what
happens after connecting: the first runs of all ten providers, and no others. Time counts from the moment the DAGs are let go
until the last source is loaded, by Airflow's own record of the tasks. A worker takes a fixed number of tasks at once, so
that workers, not slots, are what there is more of. The marts are not built meanwhile: that is one process, whatever there is
of workers.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.claims import Claim, table
from launcher.compose import Stack, eventually

WORKERS = (1, 2, 4)
LATENCY_MS = int(os.environ.get("AI_USAGE_BENCH_LATENCY_MS", "700"))
HISTORY_DAYS = int(os.environ.get("AI_USAGE_BENCH_HISTORY_DAYS", "40"))
TASKS_PER_WORKER = 2
PATIENCE_SECONDS = 1800

_PAUSED = "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION: 'True'"
_BY_HAND = "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE: 'False'"
_OVERRIDE = f"""
# DAGs wait until everything stands, so that all sizes begin alike; only what was asked for runs then, nothing by schedule.
version: "3.8"
services:
  airflow-scheduler: {{environment: {{{_PAUSED}, {_BY_HAND}}}}}
  airflow-dag-processor: {{environment: {{{_PAUSED}}}}}
"""

_LOADED = """
select
    count(*) as tasks,
    extract(epoch from max(ti.end_date) - min(dr.start_date)) as seconds,
    sum(extract(epoch from ti.end_date - ti.start_date)) as busy_seconds,
    max(extract(epoch from ti.end_date - ti.start_date)) as longest_seconds
from task_instance as ti
inner join dag_run as dr using (dag_id, run_id)
where dr.run_id = 'sandbox_connected' and ti.task_id = 'extract_load' and ti.state = 'success'
"""
_OPEN = "select 1 from dag_run where run_id = 'sandbox_connected' and state in ('queued', 'running')"
_READ = "select count(*) as windows, sum(calls) as calls, sum(records_read) as records from ops.extraction"


@dataclass(frozen=True)
class Measured:
    """One backfill."""

    workers: int
    loaded_seconds: float
    busy_seconds: float
    longest_seconds: float
    tasks: int
    calls: int
    records: int
    cpu_seconds: float


def run() -> list[Claim]:
    """Print the table, and claim the speed-up."""
    print(
        f"Scale-out: the first load of all ten providers, {HISTORY_DAYS} days, every call answered {LATENCY_MS} ms late,"
        f" {TASKS_PER_WORKER} tasks at once in a worker, {os.cpu_count()} cores for everything"
    )
    repository = Path(__file__).resolve().parents[1]
    measured = [_backfill(repository, workers) for workers in WORKERS]
    one = measured[0].loaded_seconds
    rows = [
        (
            str(this.workers),
            f"{this.loaded_seconds:.0f}",
            f"{one / this.loaded_seconds:.2f}",
            str(this.tasks),
            str(this.calls),
            str(this.records),
            f"{this.busy_seconds:.0f}",
            f"{this.longest_seconds:.0f}",
            f"{this.cpu_seconds:.0f}",
        )
        for this in measured
    ]
    header = ("workers", "seconds", "speed-up", "tasks", "calls", "records", "task seconds", "longest", "CPU seconds")
    print(table(header, rows, right=range(len(header))))
    told = ", ".join(f"{this.workers}: {one / this.loaded_seconds:.2f}" for this in measured)
    return [Claim("speed-up of a backfill by workers", told, "", None)]


def _backfill(repository: Path, workers: int) -> Measured:
    with (
        tempfile.TemporaryDirectory(prefix=f"scale{workers}") as folder,
        Stack.from_clone(repository, Path(folder), "--celery", "--sandbox") as stack,
    ):
        (stack.folder / "docker-compose.override.yaml").write_text(_OVERRIDE)
        with (stack.folder / ".env").open("a") as file:
            file.write(f"AI_USAGE_WORKER_TASKS={TASKS_PER_WORKER}\nAI_USAGE_PARALLEL_TASKS=16\n")
            file.write(f"AI_USAGE_SANDBOX_HISTORY_DAYS={HISTORY_DAYS}\n")
        stack.up("--scale", f"airflow-worker={workers}")
        _say(f"{workers} workers: healthy")
        queued = "select 1 from dag_run where run_id = 'sandbox_connected' having count(*) = 10"
        eventually(lambda: stack.select(queued, "airflow"), 300, stack.describe)
        slow = {"kind": "latency", "milliseconds": LATENCY_MS}
        stack.ask_all(
            [("POST", "/_faults", [slow | {"provider": name}]) for name in stack.ask("/_health")["simulators"]]
        )
        before = _cpu_seconds()
        stack.execute("airflow-scheduler", "airflow", "dags", "unpause", "--treat-dag-id-as-regex", "--yes", ".*_usage")
        eventually(lambda: not stack.select(_OPEN, "airflow"), PATIENCE_SECONDS, stack.describe)
        spent = _cpu_seconds() - before
        loaded, read = stack.select(_LOADED, "airflow")[0], stack.select(_READ)[0]
        _say(f"{workers} workers: loaded in {loaded['seconds']:.0f} s")
        return Measured(
            workers=workers,
            loaded_seconds=float(loaded["seconds"]),
            busy_seconds=float(loaded["busy_seconds"]),
            longest_seconds=float(loaded["longest_seconds"]),
            tasks=int(loaded["tasks"]),
            calls=int(read["calls"]),
            records=int(read["records"]),
            cpu_seconds=spent,
        )


def _cpu_seconds() -> float:
    """Return the processor time that this machine has spent since its start, on anything but waiting."""
    user, nice, system, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = subprocess.run(["getconf", "CLK_TCK"], check=True, capture_output=True, text=True).stdout
    return (int(user) + int(nice) + int(system)) / int(ticks)


def _say(text: str) -> None:
    print(f"  {text}", flush=True)
