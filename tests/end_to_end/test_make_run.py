"""
The newcomer's command with everything real: PostgreSQL, Airflow's four processes, the sandbox, dbt; and its bad days.

It runs in a copy of the checkout, below a folder with a space in its name, so that it shares nothing with the one that the
tests run from but the virtual environment.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import psycopg
import pytest

from launcher import ports
from launcher.private_file import read_variables
from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.support.marts import DAILY, Places, Row, normal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOT_COPIED = (".git", ".state", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "target", "logs")


class Checkout:
    """A copy of the checkout, in which things are started and killed."""

    def __init__(self, folder: Path, repository: Path) -> None:
        import shutil

        self.folder = folder
        shutil.copytree(repository, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
        self.output = folder.parent / "output.txt"
        self._ui_port = ports.any_free()

    def start(self) -> subprocess.Popen[bytes]:
        """Start what ``make run`` starts once the environment exists."""
        return self._launch("run")

    def call(self, *arguments: str, **environment: str) -> int:
        """Run a command of the launcher to its end."""
        return self._launch(*arguments, **environment).wait(400)

    def _launch(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AI_USAGE"))}
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "launcher", *arguments],
                env=inherited | {"PYTHONPATH": str(self.folder), "AI_USAGE_UI_PORT": str(self._ui_port)} | environment,
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def says(self, text: str) -> bool:
        return text in self.output.read_text(errors="replace")

    def await_saying(self, launcher: subprocess.Popen[bytes], text: str, seconds: float = 300) -> None:
        eventually(lambda: self.says(text) or launcher.poll() is not None, seconds)
        assert self.says(text), f"never said {text!r}:\n{self.output.read_text()}"

    def processes(self) -> list[psutil.Process]:
        """Return every process that belongs to this checkout, PostgreSQL's included."""
        found = []
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                home = process.environ().get("AIRFLOW_HOME", "")
                if str(self.folder) in words + home and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def scheduler(self) -> psutil.Process | None:
        words = [(process, " ".join(process.cmdline())) for process in self.processes()]
        return next(
            (process for process, line in words if "airflow scheduler" in line and "guard.py" not in line), None
        )

    def variables(self) -> dict[str, str]:
        return read_variables(self.folder / ".state/env")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Query the marts as a reader."""
        known = self.variables()
        with psycopg.connect(
            host=known["AI_USAGE_DB_HOST"],
            port=known["AI_USAGE_DB_PORT"],
            dbname=known["AI_USAGE_DB_NAME"],
            user="ai_usage_reader",
            password=read_variables(self.folder / ".state/secrets")["reader_password"],
        ) as session:
            return session.execute(statement.encode()).fetchall()

    def truth(self) -> Places:
        """Ask the sandbox what the mart should hold, of all providers."""
        port = json.loads((self.folder / ".state/ports.json").read_text())["sandbox"]
        with urlopen(f"http://127.0.0.1:{port}/_health") as answer:
            health = json.load(answer)
        rows: list[Row] = []
        for provider in health["simulators"]:
            first = date.fromisoformat(health["today"]) - timedelta(days=39)
            address = f"http://127.0.0.1:{port}/_truth?provider={provider}&first={first}&last={health['today']}"
            with urlopen(address) as answer:
                rows += json.load(answer)
        return normal(rows)

    def mart(self) -> Places:
        rows = self.rows(f"select {', '.join(DAILY)} from marts.usage_daily where model is not null")
        return normal(dict(zip(DAILY, row, strict=True)) for row in rows)


def eventually(is_true: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_true():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("a folder") / "ai usage", repository)
    yield checkout
    checkout.call("clean")


def test_a_scheduler_killed_in_the_middle_of_the_work_loses_nothing(checkout: Checkout) -> None:
    launcher = checkout.start()
    checkout.await_saying(launcher, "running · plan")
    scheduler = checkout.scheduler()
    assert scheduler is not None
    scheduler.kill()

    checkout.await_saying(launcher, "Where to look next", 500)

    assert checkout.mart() == checkout.truth()
    doubled = checkout.rows(
        "select 1 from marts.usage_daily group by usage_date, provider, account_id, region, model having count(*) > 1"
    )
    assert doubled == []
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(60) == 0
    assert checkout.processes() == []


def test_a_killed_launcher_takes_everything_along_and_the_next_run_goes_on(checkout: Checkout) -> None:
    launcher = checkout.start()
    checkout.await_saying(launcher, "Airflow is healthy")
    launcher.kill()
    launcher.wait()
    assert eventually(lambda: not checkout.processes(), 60), [process.cmdline() for process in checkout.processes()]

    assert checkout.call("run", "--once") == 0, checkout.output.read_text()

    assert "Creating" not in checkout.output.read_text(), "a second run made everything anew"
    assert checkout.processes() == []


def test_a_backfill_from_the_command_line_needs_nothing_that_runs(checkout: Checkout) -> None:
    last = datetime.now(UTC).date() - timedelta(days=3)
    conf = {"from": str(last - timedelta(days=2)), "to": str(last), "connections": ["aws_bedrock_research"]}
    with Sandbox(moto=False) as sandbox:
        done = checkout.call(
            *("tool", "airflow", "dags", "test", "aws_bedrock_usage", "--conf", json.dumps(conf)),
            **environment(sandbox.connections()),
        )

    assert done == 0
    assert "All 3 sources were read" in checkout.output.read_text()
    assert checkout.processes() == []
