"""The programs behind ``bin/``: each runs in the project's environment, from any folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from launcher import database, pg_home, ports
from launcher.database import Users
from launcher.errors import LauncherError
from launcher.postgres import SUPERUSER, Postgres
from launcher.private_file import write_variables
from launcher.settings import (
    READER_LOGIN,
    UI_USER,
    WAREHOUSE_DATABASE,
    Ports,
    choose_ports,
    process_environment,
    project_variables,
    remembered_ports,
    ui_url,
)
from launcher.state import Secrets, State
from launcher.terminal import Terminal


@dataclass(frozen=True)
class _Place:
    """Where a tool runs."""

    state: State
    ports: Ports
    secrets: Secrets
    environment: dict[str, str]


_Command = tuple[list[str], dict[str, str]]


def run_tool(state: State, name: str, arguments: list[str]) -> int:
    """Run ``name`` (airflow, dbt, psql, ai-usage) with the database up; does not return when it already was."""
    if name not in _TOOLS:
        raise LauncherError(f"There is no tool {name!r}.", action=f"There are: {', '.join(_TOOLS)}.")
    terminal = Terminal(sys.stderr)
    is_new = not state.env_file.exists()
    state.create()
    users = Users(state)
    users.join()
    server = Postgres(state.postgres)
    place = _place(state, server)
    command, environment = _TOOLS[name](place, arguments)
    if server.pid is not None and not is_new:
        users.keep_across_exec()
        os.execve(command[0], command, environment)  # noqa: S606 - no shell is the point
    if is_new:
        state.write_ui_login(ui_url(place.ports.ui), UI_USER, place.secrets.ui_password)
    server = Postgres(state.postgres, place.ports.database)
    with database.borrow(server, users, terminal):
        if is_new or not database.airflow_is_migrated(state, server):
            database.prepare(state, server, place.secrets, place.environment, terminal)
        return _run(command, environment)


def _place(state: State, server: Postgres) -> _Place:
    """Gather the last run's settings; the database's port is chosen anew when nobody listens there."""
    secrets = state.secrets()
    last = remembered_ports(state)
    if server.pid is not None:
        chosen = replace(last, database=server.port)
    else:
        chosen = choose_ports(state, os.environ, keep=frozenset(asdict(last)) - {"database"})
    variables = project_variables(state, chosen, secrets)
    write_variables(state.env_file, variables)
    return _Place(state, chosen, secrets, process_environment(variables))


def _airflow(place: _Place, arguments: list[str]) -> _Command:
    return [sys.executable, "-P", "-m", "airflow", *arguments], place.environment


def _ai_usage(place: _Place, arguments: list[str]) -> _Command:
    return [sys.executable, "-P", "-m", "ai_usage", *arguments], place.environment


def _dbt(place: _Place, arguments: list[str]) -> _Command:
    ours = {
        "DBT_PROJECT_DIR": str(place.state.root / "dbt_project"),
        "DBT_PROFILES_DIR": str(place.state.root / "dbt_project"),
        "DBT_TARGET_PATH": str(place.state.dbt / "target"),
        "DBT_LOG_PATH": str(place.state.dbt / "logs"),
    }
    # dbt imports every top-level module that is called dbt_something: our folders stay off its path.
    others = {name: value for name, value in place.environment.items() if name != "PYTHONPATH"}
    # By this interpreter, whatever the script's first line says: the repository may have been moved since.
    script = str(Path(sys.executable).with_name("dbt"))
    return [sys.executable, "-P", script, *arguments], others | ours


def _psql(place: _Place, arguments: list[str]) -> _Command:
    program = pg_home.programs_folder() / "psql"
    path = str(program) if program.exists() else shutil.which("psql")
    if path is None:
        raise LauncherError("There is no psql.", action="Run `make setup`, or install a PostgreSQL client.")
    admin = arguments[:1] == ["--admin"]
    password = Postgres(place.state.postgres).superuser_password if admin else place.secrets.reader_password
    login = {
        "PGHOST": ports.LOOPBACK,
        "PGPORT": str(place.ports.database),
        "PGDATABASE": WAREHOUSE_DATABASE,
        "PGUSER": SUPERUSER if admin else READER_LOGIN,
        "PGPASSWORD": password,
        "PGCONNECT_TIMEOUT": "10",
    }
    return [path, *arguments[1 if admin else 0 :]], place.environment | login


_TOOLS: dict[str, Callable[[_Place, list[str]], _Command]] = {
    "airflow": _airflow,
    "dbt": _dbt,
    "psql": _psql,
    "ai-usage": _ai_usage,
}


def _run(command: list[str], environment: Mapping[str, str]) -> int:
    """Run in the foreground; Ctrl-C is the command's, the end of the terminal is passed on."""
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, env=dict(environment), preexec_fn=_restore_interrupt)  # noqa: PLW1509
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, _frame: process.send_signal(received))
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, ignored)
    return 128 - status if status < 0 else status


def _restore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
