"""A throw-away stack: PostgreSQL, the sandbox and Airflow's four processes, as ``make run`` starts them."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import requests

from ai_usage.warehouse.roles import RolePasswords
from bench.cpu import Usage, usage_of
from bench.server import fresh_warehouse
from launcher import database
from launcher.airflow_api import AirflowApi, ApiUnavailableError
from launcher.components import airflow_components, sandbox_component
from launcher.ports import LOOPBACK, any_free
from launcher.postgres import Postgres
from launcher.settings import (
    AIRFLOW_DATABASE,
    UI_USER,
    WAREHOUSE_DATABASE,
    Ports,
    process_environment,
    project_variables,
    ui_url,
)
from launcher.sources import connect_sandbox, sandbox_answers
from launcher.state import State
from launcher.supervisor import Component, Supervisor
from launcher.terminal import Terminal
from sandbox.connections import environment as connections_environment

ROOT = Path(__file__).resolve().parents[1]
EMPTY_DAGS = Path(__file__).with_name("empty_dags.py")
SHAPE = "shape.json"
SANDBOX = "sandbox"
POSTGRES = "postgresql"
NEVER = "0 0 29 2 *"
"""A schedule that does not come due while anything is measured; every measured run is triggered."""
_PATIENCE = 300.0
_MARK = "bench"


class Stack:
    """The parts; those that are not needed yet are not started."""

    def __init__(self, state: State, terminal: Terminal) -> None:
        self._terminal = terminal
        self._secrets = state.secrets()
        # Not those that `make run` prefers: it may start in between.
        self._ports = Ports(**{field.name: any_free() for field in fields(Ports)})
        self.state = state
        self.server = Postgres(state.postgres, self._ports.database)
        self._supervisor = Supervisor(f"{_MARK} {state.folder}", terminal)
        dags = state.folder / "dags"
        self.environment = process_environment(project_variables(state, self._ports, self._secrets)) | {
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AI_USAGE_DBT_TARGET": str(state.dbt),
        }
        copy_dags(dags)
        self.api = AirflowApi(ui_url(self._ports.ui), UI_USER, self._secrets.ui_password)
        self._roots: dict[str, Callable[[], int | None]] = {POSTGRES: lambda: self.server.pid}

    def start_database_and_sandbox(self) -> None:
        """Start what both ways of reading need."""
        self.server.start()
        database.prepare(self.state, self.server, self._secrets, self.environment, self._terminal)
        component = sandbox_component(self.state, self.environment, self._ports)
        # Noon of today, for good: some simulators tell of today as it goes on, and then something has changed.
        today = f"{datetime.now(UTC).date()}"
        self._start(replace(component, command=[*component.command, "--today", today]))
        self._await(lambda: sandbox_answers(self._ports.sandbox), "the sandbox")
        # Live gauges are new at every look; without them nothing changes until somebody changes it.
        requests.post(
            f"{self._sandbox}/_faults", json={"provider": "fireworks", "kind": "no_gauges"}, timeout=30
        ).raise_for_status()

    def start_airflow(self, dag_ids: set[str]) -> None:
        """Start Airflow, connect the sandbox, and wait until its DAGs are there and switched on."""
        self.state.write_ui_login(ui_url(self._ports.ui), UI_USER, self._secrets.ui_password)
        for component in airflow_components(self.state, self.environment):
            self._start(component)
        self._await(self._is_healthy, "Airflow")
        connect_sandbox(self.api, self._ports.sandbox)
        self._await(lambda: dag_ids <= {str(dag["dag_id"]) for dag in self.api.dags()}, "the DAGs")
        for dag_id in sorted(dag_ids):
            self.api.unpause(dag_id)

    def stop(self) -> None:
        """End everything and remove the database."""
        self._supervisor.stop()
        self.server.remove()

    def tend(self) -> None:
        """Start again what has ended, and say so."""
        self._supervisor.tend()

    def fresh_warehouse(self) -> None:
        """Make the warehouse empty, and dbt's folder too."""
        fresh_warehouse(self.server, WAREHOUSE_DATABASE, self._passwords)
        shutil.rmtree(self.state.dbt)
        self.state.dbt.mkdir(mode=0o700)

    def usage(self) -> dict[str, Usage]:
        """Return the processor time so far, part by part."""
        return {name: usage_of([pid] if (pid := root()) else []) for name, root in self._roots.items()}

    def warehouse(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the warehouse."""
        return self._query(WAREHOUSE_DATABASE, statement)

    def airflow(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask Airflow's metadata."""
        return self._query(AIRFLOW_DATABASE, statement, *values)

    def log_of(self, dag_id: str) -> str:
        """Return the end of what the newest log of a DAG's tasks says."""
        logs = sorted(
            (self.state.airflow_logs / f"dag_id={dag_id}").rglob("*.log"), key=lambda path: path.stat().st_mtime
        )
        return logs[-1].read_text(errors="replace")[-3000:] if logs else "no log"

    def run_floor(self) -> tuple[float, float, dict[str, Any]]:
        """Run the bare floor in a process of its own; return its wall and processor seconds, and what it told."""
        offer = requests.get(f"{self._sandbox}/_connections", timeout=30).json()
        surroundings = self.environment | connections_environment(offer["connections"])
        surroundings["PYTHONPATH"] = f"{ROOT / 'plugins'}:{ROOT}"
        before, begun = _ended_children(), time.perf_counter()
        log = self.state.logs / "floor.log"
        with log.open("wb") as complaints:
            told = subprocess.run(
                [sys.executable, "-P", "-m", "bench.floor", str(self.state.dbt)],
                env=surroundings,
                stdout=subprocess.PIPE,
                stderr=complaints,
                check=False,
            )
        wall = time.perf_counter() - begun
        if told.returncode:
            raise SystemExit(f"The bare floor failed:\n{log.read_text(errors='replace')[-3000:]}")
        return wall, _ended_children() - before, json.loads(told.stdout.splitlines()[-1])

    @property
    def _sandbox(self) -> str:
        return f"http://{LOOPBACK}:{self._ports.sandbox}"

    @property
    def _passwords(self) -> RolePasswords:
        return RolePasswords(self._secrets.warehouse_password, self._secrets.reader_password)

    def _query(self, name: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.dsn(name)) as session:
            return session.execute(statement.encode(), values or None).fetchall()

    def _start(self, component: Component) -> None:
        self._supervisor.start(component)
        name = component.name
        self._roots[name] = lambda: self._supervisor.guard_pid(name)

    def _is_healthy(self) -> bool:
        try:
            return all(beat is None or beat.year > 1 for beat in self.api.health().values())
        except ApiUnavailableError:
            return False

    def _await(self, is_there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not is_there():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} did not come up; see {self.state.logs}")
            self.tend()
            time.sleep(0.3)


@contextmanager
def throw_away_stack() -> Iterator[Stack]:
    """Yield a stack in a folder of its own; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ai_usage_bench_") as folder:
        state = State(ROOT, Path(folder) / "state")
        state.create()
        stack = Stack(state, Terminal(sys.stderr))
        try:
            stack.start_database_and_sandbox()
            yield stack
        finally:
            stack.stop()


def copy_dags(folder: Path) -> None:
    """Put the DAG files into a folder, the providers' without their schedule, and the empty ones beside them."""
    folder.mkdir()
    for path in sorted((ROOT / "dags").glob("*_usage.py")):
        (folder / path.name).write_text(unscheduled(path.read_text()))
    shutil.copy(ROOT / "dags" / "usage_marts.py", folder)
    shutil.copy(EMPTY_DAGS, folder)


def unscheduled(dag_file: str) -> str:
    """Return a provider's DAG file with a schedule that does not come due."""
    text, times = re.subn(r'schedule="[^"]*"', f'schedule="{NEVER}"', dag_file)
    if times != 1:
        raise ValueError(f"A provider's DAG file names one schedule, not {times}.")
    return text


def _ended_children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
