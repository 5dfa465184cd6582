"""The PostgreSQL server of an instance: who may stop it, and what must be in it before anything else starts."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from launcher.errors import LauncherError
from launcher.postgres import Postgres
from launcher.private_file import write_private
from launcher.processes import Guarded, start_guarded
from launcher.settings import AIRFLOW_DATABASE, AIRFLOW_ROLE, WAREHOUSE_DATABASE
from launcher.state import Secrets, State
from launcher.terminal import Terminal

_POLL_SECONDS = 0.1


class Users:
    """
    Who uses the server: everybody holds a shared lock, and only who gets it alone may stop or replace the server.

    Locks of this kind end with the process that holds them, however it ends.
    """

    def __init__(self, state: State) -> None:
        """Open the lock file; takes no lock yet."""
        self._file = (state.postgres / "users.lock").open("a")

    def join(self) -> None:
        """Be a user; waits while somebody replaces the server."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def alone(self) -> bool:
        """Try to be the only user."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def keep_across_exec(self) -> None:
        """Stay a user after this process has become another program."""
        os.set_inheritable(self._file.fileno(), True)

    def leave(self) -> None:
        """Be no user any more."""
        self._file.close()


def take_over(server: Postgres, users: Users, terminal: Terminal) -> None:
    """Make sure that the server is ours to run: wait for other commands, end what a dead instance left."""
    waiting = False
    while not users.alone():
        if not waiting:
            terminal.say("Another command of this checkout uses the database; waiting for it to end …")
            waiting = True
        time.sleep(_POLL_SECONDS)
    if server.pid is not None:
        server.stop()


@contextlib.contextmanager
def borrow(server: Postgres, users: Users, terminal: Terminal) -> Iterator[None]:
    """Use the server for one command: started when nobody runs it, and then stopped when nobody needs it any more."""
    users.join()
    started = server.start()
    if started:
        terminal.note("PostgreSQL was not running; started it for this command.")
    try:
        yield
    finally:
        if started:
            while not users.alone() and server.started_here():
                time.sleep(_POLL_SECONDS)
            if server.started_here():
                server.stop()
                terminal.note("PostgreSQL stopped again.")
        users.leave()


@dataclass(frozen=True)
class _Migration:
    name: str
    guarded: Guarded
    log: Path


def prepare(
    state: State, server: Postgres, secrets: Secrets, environment: Mapping[str, str], terminal: Terminal
) -> None:
    """Create what is missing in the running server: logins, databases, tables of Airflow and of the warehouse."""
    with (state.postgres / "prepare.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _prepare(state, server, secrets, environment, terminal)


def _prepare(
    state: State, server: Postgres, secrets: Secrets, environment: Mapping[str, str], terminal: Terminal
) -> None:
    server.create_login(AIRFLOW_ROLE, secrets.airflow_db_password)
    server.create_database(AIRFLOW_DATABASE, owner=AIRFLOW_ROLE)
    server.create_database(WAREHOUSE_DATABASE)
    _close_to_others(server)
    warehouse = {
        **environment,
        "AI_USAGE_ADMIN_DSN": server.dsn(WAREHOUSE_DATABASE),
        "AI_USAGE_DB_PASSWORD": secrets.warehouse_password,
        "AI_USAGE_READER_PASSWORD": secrets.reader_password,
    }
    migrations = [_begin(state, "warehouse-migrate", ["ai_usage.warehouse.migrate"], warehouse)]
    airflow_is_new = not airflow_is_migrated(state, server)
    if airflow_is_new:
        terminal.say("Creating Airflow's tables …")
        migrations.append(_begin(state, "airflow-migrate", ["airflow", "db", "migrate"], environment))
    try:
        for migration in migrations:
            _finish(migration)
    finally:
        for migration in migrations:
            migration.guarded.stop(5)
    if airflow_is_new:
        _remember_airflow(state, server)


def release_orphans(server: Postgres) -> None:
    """
    Tell Airflow that no scheduler runs, which only somebody who holds the lock of the instance can know.

    A scheduler that was killed looks alive for half a minute. Its tasks would stay "running" for as long, and every run
    of the same DAG behind them would wait.
    """
    with contextlib.suppress(psycopg.Error), psycopg.connect(server.dsn(AIRFLOW_DATABASE)) as session:
        session.execute("update job set state = 'failed' where job_type = 'SchedulerJob' and state = 'running'")


def airflow_is_migrated(state: State, server: Postgres) -> bool:
    """Whether Airflow's tables are those of the installed version, found out without importing Airflow."""
    try:
        remembered = json.loads(_airflow_stamp(state).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(remembered == {"version": _airflow_version(), "revision": _airflow_revision(server)})


def _remember_airflow(state: State, server: Postgres) -> None:
    stamp = {"version": _airflow_version(), "revision": _airflow_revision(server)}
    write_private(_airflow_stamp(state), json.dumps(stamp))


def _airflow_stamp(state: State) -> Path:
    return state.airflow_home / "migrated.json"


def _airflow_version() -> str:
    # Providers bring tables of their own, and come and go with the lock: the whole set counts.
    names = sorted(
        f"{found.name}=={found.version}"
        for found in importlib.metadata.distributions()
        if found.name and found.name.startswith("apache-airflow")
    )
    return " ".join(names)


def _airflow_revision(server: Postgres) -> str | None:
    try:
        with psycopg.connect(server.dsn(AIRFLOW_DATABASE)) as session:
            row = session.execute("select version_num from alembic_version").fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.OperationalError):
        return None
    return str(row[0]) if row else None


def _close_to_others(server: Postgres) -> None:
    """Let no role into a database that is not its own: PostgreSQL's default lets every login in everywhere."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        for name in ("postgres", "template1", AIRFLOW_DATABASE):
            admin.execute(sql.SQL("revoke all on database {} from public").format(sql.Identifier(name)))


def _begin(state: State, name: str, module: list[str], environment: Mapping[str, str]) -> _Migration:
    path = state.logs / f"{name}.log"
    with path.open("wb") as log:
        guarded = start_guarded([sys.executable, "-P", "-m", *module], environment=environment, output=log, grace=2)
    return _Migration(name, guarded, path)


def _finish(migration: _Migration) -> None:
    while (status := migration.guarded.exit_status()) is None:
        time.sleep(_POLL_SECONDS)
    if status != 0:
        lines = [line for line in migration.log.read_text(errors="replace").splitlines() if line.strip()]
        raise LauncherError(
            f"{migration.name} failed: {' / '.join(lines[-3:]) or f'exit status {status}'}.",
            action=f"All it said is in {migration.log}",
        )
