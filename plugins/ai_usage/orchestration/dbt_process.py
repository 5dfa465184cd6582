"""
dbt as a process: its command line, its environment, its log and the artifact it leaves.

One process does all the work of an invocation. It ends with us, however we end. Where dbt has been imported beforehand, as
the executor does, the process is a fork that has dbt already; elsewhere it starts from nothing. Importing is most of what a
short invocation costs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import signal
import site
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from typing import Any, NoReturn

from ai_usage.warehouse.session import Warehouse

log = logging.getLogger(__name__)

APPLICATION = "ai_usage_transform"
"""How dbt's sessions are named in PostgreSQL when the transform runs them."""


@dataclass(frozen=True)
class Dbt:
    """
    The project against a warehouse.

    :param target: dbt's folder for artifacts; invocations share it, so that the parsed project is reused.
    """

    warehouse: Warehouse
    project: Path
    target: Path

    def run(self, *arguments: str, **environment: str) -> int:
        """Run one command of dbt, hand its events to the log as they come, and return its exit code."""
        folders = ["--project-dir", str(self.project), "--profiles-dir", str(self.project)]
        command = ["--log-format", "json", "--no-use-colors", "--log-path", str(self.target / "logs")]
        command += [*arguments, *folders, "--target-path", str(self.target)]
        return _run(command, _environment(self.warehouse) | environment)

    def artifact(self) -> dict[str, Any]:
        """Return ``run_results.json`` of the last invocation; nothing if there is none to read."""
        try:
            content: dict[str, Any] = json.loads((self.target / "run_results.json").read_text())
            return content
        except (OSError, ValueError):
            return {}


def _environment(warehouse: Warehouse) -> dict[str, str]:
    """Return dbt's environment: the login goes by here alone, never by arguments, which dbt writes to its artifacts."""
    # dbt imports every top-level module named dbt_* that it can find, so Airflow's path additions stay out.
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    return inherited | {
        "AI_USAGE_DB_HOST": warehouse.host,
        "AI_USAGE_DB_PORT": str(warehouse.port),
        "AI_USAGE_DB_NAME": warehouse.dbname,
        "AI_USAGE_DB_USER": warehouse.user,
        "DBT_ENV_SECRET_AI_USAGE_DB_PASSWORD": warehouse.password,
        "AI_USAGE_DB_SSLMODE": warehouse.sslmode,
        "AI_USAGE_DBT_APPLICATION": APPLICATION,
        # A reader that holds a table must not stop the transform for ever; dbt's own sessions notice a dead client.
        "PGOPTIONS": "-c lock_timeout=10min -c client_connection_check_interval=10s",
        "DO_NOT_TRACK": "1",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


def _run(arguments: Sequence[str], environment: dict[str, str]) -> int:
    """Run dbt in a process of its own, hand what it prints to the log, and return its exit code."""
    reading, writing = os.pipe()
    parent, child = os.getpid(), _fork()
    if not child:
        _become_dbt(parent, writing, list(arguments), environment)
    os.close(writing)
    exit_code = None
    try:
        with os.fdopen(reading, encoding="utf-8", errors="replace") as printed:
            for line in printed:
                _log_event(line)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return exit_code
    finally:
        if exit_code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _fork() -> int:
    """Fork, and let the child never collect what the parent has left: some of it ends threads or connections."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        child = os.fork()
        if not child:
            gc.freeze()
        return child
    finally:
        if collecting:
            gc.enable()


def _become_dbt(parent: int, output: int, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    """Be dbt in a process that has just been forked, and end with it; never return into what the parent was about."""
    exit_code = 2
    try:
        # Ctrl-C at a terminal is for the parent, who ends us then.
        os.setsid()
        _end_with(parent)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if "dbt.cli.main" in sys.modules:
            exit_code = _invoke(arguments, environment)
        else:
            program = str(Path(sys.executable).with_name("dbt"))
            os.execve(program, [program, *arguments], environment)  # noqa: S606 - no shell is the point
    except BaseException:  # noqa: BLE001 - there is nobody to hand it to
        os.write(2, traceback.format_exc().encode())
    finally:
        # What the parent wanted to do at its end is the parent's.
        os._exit(exit_code)


def _end_with(parent: int) -> None:
    """Have this process killed when its parent dies: a task that gets SIGKILL cannot end dbt, which would outlive it."""
    if sys.platform == "linux":
        end_with_parent = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(end_with_parent, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _invoke(arguments: list[str], environment: dict[str, str]) -> int:
    """Run dbt's command line in this process, in the surroundings that a process of its own would have."""
    from dbt.cli.main import cli

    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["dbt", *arguments]
    _forget_the_parent()
    # Redirected, not replaced: a stream of the parent that nobody holds any more would close our output at its end.
    output = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    with output, redirect_stdout(output), redirect_stderr(output):
        try:
            cli(arguments, prog_name="dbt")
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            # dbt's locks are semaphores of the system, which the end of a forked process does not take with it.
            util._run_finalizers()  # type: ignore[attr-defined] # it has no public name
    return 0


def _forget_the_parent() -> None:
    """Take back what Airflow has set for its task: what it does on a signal, and where it imports from."""
    warnings.simplefilter("ignore")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # dbt imports every top-level module named dbt_* that it can find.
    places = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix, site.getuserbase())}
    sys.path = [entry for entry in sys.path if entry and places & set(Path(entry).resolve().parents)]


_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}


def _log_event(line: str) -> None:
    try:
        info = json.loads(line)["info"]
        level, message = _LEVELS.get(info["level"], logging.DEBUG), info["msg"]
    except (ValueError, KeyError, TypeError):
        level, message = logging.INFO, line.rstrip()
    if message.strip():
        log.log(level, "dbt: %s", message)
