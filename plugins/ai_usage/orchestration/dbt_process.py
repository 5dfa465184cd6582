"""
dbt as a process: its command line, its environment, its log and the artifact it leaves.

One process does all the work of an invocation. It ends with us, however we end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        program = str(Path(sys.executable).with_name("dbt"))
        folders = ["--project-dir", str(self.project), "--profiles-dir", str(self.project)]
        command = [program, "--log-format", "json", "--no-use-colors", "--log-path", str(self.target / "logs")]
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


# A task that gets SIGKILL cannot end its child, and dbt would go on beside the next transform. Linux ends it for us: this
# asks for a signal at the parent's death (prctl 1 is PR_SET_PDEATHSIG), and then becomes dbt.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    process = subprocess.Popen(
        [sys.executable, "-c", _END_WITH_PARENT, str(os.getpid()), *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            _log_event(line)
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}


def _log_event(line: str) -> None:
    try:
        info = json.loads(line)["info"]
        level, message = _LEVELS.get(info["level"], logging.DEBUG), info["msg"]
    except (ValueError, KeyError, TypeError):
        level, message = logging.INFO, line.rstrip()
    if message.strip():
        log.log(level, "dbt: %s", message)
