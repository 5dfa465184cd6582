"""
``make run``: from a checkout to a filled mart, and then on until somebody ends it.

Everything is one thread that starts guarded processes and asks how they are. Whatever ends this process, its guards
notice and end what they guard.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg

from launcher import database, instance
from launcher.airflow_api import AirflowApi, ApiUnavailableError
from launcher.components import airflow_components, sandbox_component
from launcher.database import Users
from launcher.errors import LauncherError
from launcher.postgres import PortTakenError, Postgres
from launcher.private_file import write_variables
from launcher.progress import Follower, Watch
from launcher.report import usage_table
from launcher.settings import (
    READER_LOGIN,
    UI_USER,
    WAREHOUSE_DATABASE,
    choose_ports,
    process_environment,
    project_variables,
    remembered_ports,
    ui_url,
)
from launcher.sources import connect_sandbox, find_sources, sandbox_answers
from launcher.state import State
from launcher.supervisor import Component, Supervisor
from launcher.terminal import Terminal

MARTS_DAG = "usage_marts"
HOUSEKEEPING_DAG = "usage_housekeeping"
_DAG_PROCESSOR = "dag-processor"
_TICK_SECONDS = 0.25
_HEALTHY_SECONDS = 300.0
_PARSE_SECONDS = 180.0
_SANDBOX_SECONDS = 60.0
# The scheduler turns an asset event into a run within seconds; after this long nobody is going to.
_EVENT_SECONDS = 40.0
_DATABASE_RESTARTS = 5
_PORT_RACES = 5
_INTERRUPTED = 130
_EXAMPLE_QUERY = "select * from marts.usage_daily order by usage_date desc limit 20"


class Stopped(BaseException):
    """Somebody wants the end: Ctrl-C, SIGTERM, a closed terminal."""


@dataclass(frozen=True)
class Options:
    """How to run."""

    once: bool = False
    """End after the table has been printed."""
    end_with_parent: bool = False
    """End when the process that started this one does."""


def run(state: State, options: Options) -> int:
    """Run until stopped; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    terminal = Terminal()
    state.create()
    with instance.only_instance(state):
        session = Session(state, options, terminal)
        try:
            return session.run()
        except Stopped:
            return 0 if session.is_up else _INTERRUPTED
        except LauncherError as error:
            terminal.say(f"\n{error}")
            return 1
        finally:
            # From here on a second Ctrl-C must not leave half of it running.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            session.stop()


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


class Session:
    """One run, from start to stop."""

    def __init__(self, state: State, options: Options, terminal: Terminal) -> None:
        """Prepare; starts nothing."""
        self._state = state
        self._options = options
        self._terminal = terminal
        self._parent = os.getppid()
        self._began = time.monotonic()
        self._began_at = self._connected_at = datetime.now(UTC)
        self._secrets = state.secrets()
        self._ports = remembered_ports(state)
        self._supervisor = Supervisor(str(state.folder), terminal)
        self._server: Postgres | None = None
        self._database_restarts = 0
        self._delayed: list[Component] = []
        self._cleanup = ExitStack()
        self.is_up = False

    def run(self) -> int:
        """Go through all steps; raises :class:`Stopped` when somebody wants the end."""
        instance.describe(self._state, "")
        server = self._start_database()
        is_new = not database.airflow_is_migrated(self._state, server)
        database.prepare(self._state, server, self._secrets, self._environment, self._terminal)
        database.release_orphans(server)
        self._start_airflow(is_new=is_new)
        api = AirflowApi(ui_url(self._ports.ui), UI_USER, self._secrets.ui_password)
        self._wait_until_healthy(api)
        follower = Follower(api, self._terminal, self._pause, self._state.airflow_logs)
        self._connect_sources(api)
        self._connected_at = datetime.now(UTC)
        for component in self._delayed:
            self._supervisor.start(component)
        dags = self._wait_until_parsed(api, follower)
        succeeded = self._run_providers(api, follower, dags) and self._run_marts(api, follower, dags, server)
        self.is_up = True
        self._terminal.say()
        self._terminal.say(usage_table(self._reader_dsn(server)))
        self._say_what_next()
        if self._options.once:
            return 0 if succeeded else 1
        if HOUSEKEEPING_DAG in dags:
            api.unpause(HOUSEKEEPING_DAG)
        while True:
            self._pause(60)

    def stop(self) -> None:
        """End everything that this session has started."""
        if self._server is None:
            self._cleanup.close()
            return
        self._terminal.say("\nStopping …")
        began = time.monotonic()
        self._supervisor.stop()
        self._server.stop()
        self._cleanup.close()
        self._terminal.say(f"Stopped in {time.monotonic() - began:.0f} s. `make run` goes on where this ended.")

    def _start_database(self) -> Postgres:
        users = Users(self._state)
        self._cleanup.callback(users.leave)
        database.take_over(Postgres(self._state.postgres), users, self._terminal)
        self._server = self._start_server()
        users.join()
        self._say_moved_ports()
        self._terminal.say(f"PostgreSQL listens on 127.0.0.1:{self._ports.database} ({self._elapsed()})")
        variables = project_variables(self._state, self._ports, self._secrets)
        write_variables(self._state.env_file, variables)
        self._state.write_ui_login(ui_url(self._ports.ui), UI_USER, self._secrets.ui_password)
        self._environment = process_environment(variables)
        return self._server

    def _start_server(self) -> Postgres:
        for _ in range(_PORT_RACES):
            self._ports = choose_ports(self._state, os.environ)
            server = Postgres(self._state.postgres, self._ports.database)
            try:
                server.start()
            except PortTakenError:
                # Free a moment ago: somebody else started at the same time. The next choice is another one.
                continue
            return server
        raise LauncherError(
            "No free port was found for PostgreSQL.", action="Set AI_USAGE_DB_PORT to a port that nobody else uses."
        )

    def _start_airflow(self, *, is_new: bool) -> None:
        # The one address that others may rely on from now on.
        instance.describe(self._state, ui_url(self._ports.ui))
        for component in airflow_components(self._state, self._environment):
            # On the very first start the DAGs wait for their sources: their first run shall find something to read.
            if component.name == _DAG_PROCESSOR and is_new:
                self._delayed.append(component)
            else:
                self._supervisor.start(component)
        self._terminal.say(f"Airflow is starting; logs are in {self._state.logs} ({self._elapsed()})")

    def _wait_until_healthy(self, api: AirflowApi) -> None:
        deadline = time.monotonic() + _HEALTHY_SECONDS
        while True:
            waiting = self._unhealthy(api)
            if not waiting:
                break
            if time.monotonic() > deadline:
                raise LauncherError(
                    f"Airflow did not become healthy within {_HEALTHY_SECONDS:.0f} seconds: {', '.join(waiting)}.",
                    action=f"The logs in {self._state.logs} say why.",
                )
            self._terminal.progress(f"… waiting for {', '.join(waiting)} ({self._elapsed()})")
            self._pause(0.5)
        self._terminal.say(
            f"Airflow is healthy: {ui_url(self._ports.ui)}  user {UI_USER}, password {self._secrets.ui_password}"
            f" ({self._elapsed()})"
        )

    def _unhealthy(self, api: AirflowApi) -> list[str]:
        """Return the parts that do not run yet; a heartbeat from before this start does not count."""
        try:
            beats = api.health()
        except ApiUnavailableError:
            return ["api-server"]
        delayed = {component.name.replace("-", "_") for component in self._delayed}
        return [
            name
            for name, since in beats.items()
            if since is not None and since < self._began_at and name not in delayed
        ]

    def _connect_sources(self, api: AirflowApi) -> None:
        providers = self._providers()
        sources = find_sources(api, providers, self._environment)
        if sources.real:
            self._terminal.say(f"Connected sources: {', '.join(sources.real)}")
        if sources.real and sources.sandbox:
            self._terminal.say(
                f"Beside them are connections to the sandbox: {', '.join(sources.sandbox)}. Their numbers are invented;"
                " delete them in the UI (Admin, Connections) and from the Variable ai_usage_connections when you no"
                " longer want them."
            )
        if providers and (sources.sandbox or not sources.real):
            self._start_sandbox()
        if providers and not sources.real:
            added = connect_sandbox(api, self._ports.sandbox)
            self._terminal.say(
                "No provider is connected, so the SANDBOX stands in: local servers that speak the providers' APIs and"
                f" answer with invented usage. Its connections: {', '.join(added)}.\n"
                "To use your own: replace one of them in the UI (Admin, Connections), or set AIRFLOW_CONN_…; "
                "see docs/connections.md."
            )

    def _start_sandbox(self) -> None:
        self._supervisor.start(sandbox_component(self._state, self._environment, self._ports))
        deadline = time.monotonic() + _SANDBOX_SECONDS
        while not sandbox_answers(self._ports.sandbox):
            if time.monotonic() > deadline:
                raise LauncherError("The sandbox does not answer.", action=f"See {self._state.logs / 'sandbox.log'}")
            self._terminal.progress("… waiting for the sandbox")
            self._pause(0.3)

    def _providers(self) -> list[str]:
        return sorted(path.stem.removesuffix("_usage") for path in (self._state.root / "dags").glob("*_usage.py"))

    def _wait_until_parsed(self, api: AirflowApi, follower: Follower) -> list[str]:
        """Return the DAGs there are, once every DAG file has been read; say which ones cannot be."""
        files = {path.stem for path in (self._state.root / "dags").glob("*.py")}
        deadline = time.monotonic() + _PARSE_SECONDS
        while True:
            dags = {str(dag["dag_id"]) for dag in follower.patiently(api.dags)}
            broken = {Path(name).stem: trace for name, trace in follower.patiently(api.import_errors).items()}
            missing = files - dags - broken.keys()
            if not missing or time.monotonic() > deadline:
                break
            self._terminal.progress(f"… waiting for the DAG files to be read: {', '.join(sorted(missing))}")
            self._pause(0.5)
        for name, trace in sorted(broken.items()):
            self._terminal.say(f"dags/{name}.py does not load: {trace.strip().splitlines()[-1]}")
        if missing:
            self._terminal.say(f"No DAG appeared for: {', '.join(sorted(missing))}. See dag-processor.log.")
        return sorted(dags)

    def _run_providers(self, api: AirflowApi, follower: Follower, dags: list[str]) -> bool:
        """Follow one run of every provider DAG that began after the sources were connected."""
        wanted = [dag for dag in dags if dag.endswith("_usage")]
        if not wanted:
            self._terminal.say("There are no provider DAGs yet.")
            return True
        self._terminal.say(f"\nRunning {', '.join(wanted)} through the scheduler ({self._elapsed()})")
        watches: list[Watch] = []
        for dag in wanted:
            api.unpause(dag)
            # A run that an earlier session left half done goes on first; the schedule may have begun one already.
            watches += self._unfinished_runs(api, follower, dag)
            watches += self._fresh_runs(api, follower, dag) or [self._trigger(api, follower, dag)]
        return follower.follow(watches)

    def _run_marts(self, api: AirflowApi, follower: Follower, dags: list[str], server: Postgres) -> bool:
        """Follow the transforms that the loaded slices have set off, until nothing waits to be built."""
        if MARTS_DAG not in dags:
            return True
        api.unpause(MARTS_DAG)
        seen: set[Watch] = set()
        waited_since = time.monotonic()
        while True:
            known = self._unfinished_runs(api, follower, MARTS_DAG) + self._fresh_runs(api, follower, MARTS_DAG)
            new = [watch for watch in known if watch not in seen]
            if not new and pending_rebuilds(server) and time.monotonic() - waited_since > _EVENT_SECONDS:
                # An earlier session ended between a load and its event: what it loaded still waits.
                new = [self._trigger(api, follower, MARTS_DAG)]
            if new:
                seen.update(new)
                if not follower.follow(new):
                    return False
                waited_since = time.monotonic()
            elif not pending_rebuilds(server):
                return True
            else:
                self._terminal.progress("… waiting for the transform to start")
                self._pause(0.5)

    def _fresh_runs(self, api: AirflowApi, follower: Follower, dag_id: str) -> list[Watch]:
        """Return the runs that saw, or will see, the sources as they are now; oldest first."""
        runs = follower.patiently(partial(api.latest_runs, dag_id))
        return [Watch(dag_id, str(run["dag_run_id"])) for run in reversed(runs) if self._is_fresh(run)]

    def _unfinished_runs(self, api: AirflowApi, follower: Follower, dag_id: str) -> list[Watch]:
        """Return the runs that were under way before the sources were connected; oldest first."""
        runs = follower.patiently(partial(api.latest_runs, dag_id))
        return [
            Watch(dag_id, str(run["dag_run_id"]))
            for run in reversed(runs)
            if run["state"] == "running" and not self._is_fresh(run)
        ]

    def _is_fresh(self, run: dict[str, Any]) -> bool:
        return not run["start_date"] or datetime.fromisoformat(run["start_date"]) > self._connected_at

    @staticmethod
    def _trigger(api: AirflowApi, follower: Follower, dag_id: str) -> Watch:
        return Watch(dag_id, follower.patiently(partial(api.trigger, dag_id, "Started by make run")))

    def _reader_dsn(self, server: Postgres) -> str:
        return server.dsn(WAREHOUSE_DATABASE, READER_LOGIN, self._secrets.reader_password)

    def _say_moved_ports(self) -> None:
        """Say where a port that people know by heart is another one this time."""
        preferred = type(self._ports)()
        for name, label in (("ui", "The UI's"), ("database", "PostgreSQL's")):
            mine, usual = getattr(self._ports, name), getattr(preferred, name)
            if mine != usual:
                self._terminal.say(f"{label} port is {mine} (the usual {usual} was taken when it was chosen).")

    def _say_what_next(self) -> None:
        programs = _relative(self._state.root / "bin")
        lines = [
            "",
            "Where to look next",
            f"  Airflow       {ui_url(self._ports.ui)}   user {UI_USER}, password in {_relative(self._state.ui_login)}",
            f"  the marts     {programs}/psql -c '{_EXAMPLE_QUERY}'",
            f"  a backfill    {programs}/airflow dags test aws_bedrock_usage --conf '{self._example_window()}'",
            f"  the guide     {_relative(self._state.root / 'README.md')}, {_relative(self._state.root / 'docs')}/",
            f"  the logs      {_relative(self._state.logs)}",
        ]
        if not self._options.once:
            lines += ["", f"Up after {self._elapsed()}. Running until Ctrl-C, or `make stop` from another terminal."]
        self._terminal.say("\n".join(lines))

    def _example_window(self) -> str:
        today = self._began_at.date()
        return json.dumps({"from": f"{today - timedelta(days=10)}", "to": f"{today - timedelta(days=1)}"})

    def _pause(self, seconds: float) -> None:
        """Wait, and keep everything alive meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            self._tend()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _TICK_SECONDS))

    def _tend(self) -> None:
        if self._options.end_with_parent and os.getppid() != self._parent:
            raise Stopped
        if self._server is not None and not self._server.started_here():
            self._database_restarts += 1
            if self._database_restarts > _DATABASE_RESTARTS:
                raise LauncherError("PostgreSQL keeps ending.", action=f"Its log says why: {self._server.log_file}")
            self._terminal.note("PostgreSQL ended unexpectedly; starting it again.")
            self._server.start()
        self._supervisor.tend()

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:.0f} s"


def pending_rebuilds(server: Postgres) -> int:
    """Return how many loaded changes no transform has taken up yet."""
    try:
        with psycopg.connect(server.dsn(WAREHOUSE_DATABASE)) as session:
            row = session.execute("select count(*) from ops.pending_rebuild").fetchone()
    except psycopg.OperationalError:
        # On its way up again after a crash: ask later.
        return 1
    return int(row[0]) if row else 0


def _relative(path: Path) -> str:
    """Return a path as one would type it here."""
    try:
        shown = path.relative_to(Path.cwd())
    except ValueError:
        shown = path
    return f"'{shown}'" if " " in str(shown) else str(shown)
