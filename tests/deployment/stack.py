"""A stack in a folder of its own: started, asked, hurt and compared with the truth, all through Compose."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from tests.support.marts import DAILY, Places, normal

PARTS = ("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "postgres")
HISTORY_DAYS = 40
_OPENER = build_opener(ProxyHandler({}))

# Asks the sandbox from inside its container, since none of its ports is open to the outside.
_ASK = """
import sys, urllib.error, urllib.request
method, path = sys.argv[1:]
body = sys.stdin.buffer.read() or None
asked = urllib.request.Request("http://127.0.0.1:8490" + path, data=body, method=method)
try:
    sys.stdout.buffer.write(urllib.request.urlopen(asked, timeout=60).read())
except urllib.error.HTTPError as error:
    sys.exit(f"{error.code}: {error.read().decode()}")
"""

# The first child of the container's little init: the program itself.
_KILL = 'read -r child rest </proc/1/task/1/children && kill -9 "$child"'


class Failed(Exception):
    """A command that ended with something else than 0."""


@dataclass
class Stack:
    """One deployment."""

    folder: Path
    project: str
    port: int

    @classmethod
    @contextmanager
    def from_clone(cls, repository: Path, folder: Path, *options: str) -> Iterator[Stack]:
        """Put a fresh copy of what git knows into a folder, write its ``.env``, and take everything down at the end."""
        copy_of_tracked_files(repository, folder)
        stack = cls(folder, f"aiusage{folder.name.rstrip('0123456789')}{os.getpid()}", _free_port())
        stack.script("make-env", *options)
        with (folder / ".env").open("a") as file:
            file.write(f"AI_USAGE_UI_BIND=127.0.0.1:{stack.port}\n")
        try:
            yield stack
        finally:
            if not os.environ.get("AI_USAGE_TEST_KEEP_STACK"):
                stack.down()

    # ------------------------------------------------------------ commands

    def compose(self, *arguments: str, content: str | None = None, seconds: float = 900) -> str:
        """Run Compose in the folder; return what it printed."""
        program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        return self.run([*program, *arguments], content, seconds)

    def script(self, name: str, *arguments: str, seconds: float = 900) -> str:
        """Run one of the scripts in ``docker/``."""
        return self.run([f"docker/{name}", *arguments], None, seconds)

    def run(self, command: Sequence[str], content: str | None = None, seconds: float = 900) -> str:
        """Run a command in the folder; what it said is in the exception when it fails."""
        environment = os.environ | {"COMPOSE_PROJECT_NAME": self.project}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, input=content, capture_output=True, text=True, timeout=seconds
        )
        if done.returncode:
            raise Failed(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
        return done.stdout

    def execute(self, service: str, *command: str, content: str | None = None) -> str:
        """Run a command in a container."""
        return self.compose("exec", "-T", service, *command, content=content or "")

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers."""
        return self.compose("ps", "-q", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what Docker knows about a container."""
        described: dict[str, Any] = json.loads(self.run(["docker", "inspect", container]))[0]
        return described

    def env(self) -> dict[str, str]:
        """Return ``.env``."""
        lines = (self.folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    # ------------------------------------------------------------ life

    def up(self, *options: str, seconds: float = 600) -> None:
        """Build, start, and wait until every part is healthy."""
        self.compose("up", "--build", "-d", *options, seconds=1800)
        eventually(self.is_healthy, seconds, self.describe)

    def down(self) -> None:
        """Take everything away, data included."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")

    def is_healthy(self) -> bool:
        """Whether every part that has a health check passes it."""
        services = [*PARTS, *(["airflow-worker", "redis"] if "celery" in self.env()["COMPOSE_PROFILES"] else [])]
        states = [self.inspect(one)["State"] for service in services for one in self.containers(service)]
        return len(states) >= len(services) and all(
            state.get("Health", {}).get("Status") == "healthy" for state in states
        )

    def describe(self) -> str:
        """Return what a person would look at first."""
        return self.compose("ps", "-a") + self.compose("logs", "--tail", "40")

    def kill(self, service: str, number: int = 0) -> None:
        """End the program of a container with SIGKILL, as the kernel does when memory runs out."""
        self.run(["docker", "exec", self.containers(service)[number], "sh", "-c", _KILL])

    # ------------------------------------------------------------ what is in it

    def select(self, statement: str, database: str = "warehouse", user: str = "postgres") -> list[dict[str, Any]]:
        """Query a database from its own container."""
        names = {"postgres": "AI_USAGE_ADMIN_PASSWORD", "ai_usage_reader": "AI_USAGE_READER_PASSWORD"}
        psql = f"psql -h 127.0.0.1 -U {user} -d {database} -v ON_ERROR_STOP=1 -Atqf -"
        login = f"read -r PGPASSWORD; export PGPASSWORD; exec {psql}"
        asked = f"{self.env()[names[user]]}\nselect to_json(t) from ({statement}) t;\n"
        answer = self.execute("postgres", "sh", "-c", login, content=asked)
        return [json.loads(line, parse_float=Decimal) for line in answer.splitlines() if line]

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """Call the sandbox's own interface."""
        body = "" if content is None else json.dumps(content)
        return json.loads(
            self.execute("sandbox", "python", "-c", _ASK, method, path, content=body), parse_float=Decimal
        )

    def ui(self, path: str) -> tuple[int, bytes]:
        """Open a page of the UI the way a browser on the server would."""
        with _OPENER.open(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return answer.status, answer.read()

    def mart(self) -> Places:
        """Return ``usage_daily`` as an analyst sees it."""
        wanted = f"select {', '.join(DAILY)} from marts.usage_daily where model is not null"
        return normal(self.select(wanted, user="ai_usage_reader"))

    def truth(self) -> Places:
        """Return what the mart must hold, of all providers."""
        health = self.ask("GET", "/_health")
        first = date.fromisoformat(health["today"]) - timedelta(days=HISTORY_DAYS - 1)
        rows: list[Any] = []
        for provider in health["simulators"]:
            rows += self.ask("GET", f"/_truth?provider={provider}&first={first}&last={health['today']}")
        return normal(rows)

    def await_truth(self, seconds: float) -> None:
        """Wait until the mart equals the truth; what differs is in the failure."""
        true = self.truth()
        eventually(lambda: self._mart_or_nothing() == true, seconds, lambda: self._difference(true), every=10)
        keys = "usage_date, provider, account_id, region, model"
        assert self.select(f"select 1 from marts.usage_daily group by {keys} having count(*) > 1") == []

    def _mart_or_nothing(self) -> Places:
        """Return the mart, or nothing while it does not exist yet or the database is away."""
        try:
            return self.mart()
        except Failed:
            return {}

    def _difference(self, true: Places) -> str:
        stored = self._mart_or_nothing()
        wrong = sorted(
            (place for place in stored.keys() | true.keys() if stored.get(place) != true.get(place)), key=repr
        )
        told = [f"{place}: stored {stored.get(place)}, true {true.get(place)}" for place in wrong[:3]]
        runs = self.select("select dag_id, run_id, state from dag_run where state <> 'success'", "airflow")
        problems = self.select("select * from ops.problem where closed_at is null")
        return "\n".join([f"{len(wrong)} of {len(true)} places differ", *told, str(runs), str(problems)[:3000]])

    def restate(self, factor: int) -> int:
        """Let every provider correct yesterday and the day before, everywhere it can; return how many corrections."""
        health = self.ask("GET", "/_health")
        today = date.fromisoformat(health["today"])
        corrections = 0
        for provider in health["simulators"]:
            for day in (today - timedelta(days=1), today - timedelta(days=2)):
                rows = self.ask("GET", f"/_truth?provider={provider}&first={day}&last={day}")
                places = {(row["account_id"], region) for row in rows for region in (row["region"], "-")}
                for account, region in sorted(places, key=repr):
                    corrections += self._restate_one(
                        {"provider": provider, "account": account, "region": region, "day": str(day), "factor": factor}
                    )
        return corrections

    def _restate_one(self, correction: dict[str, object]) -> int:
        try:
            self.ask("POST", "/_restate", [correction])
        except Failed:
            return 0  # a place that this provider does not have
        return 1

    def trigger_all(self) -> None:
        """Start every provider's DAG, as a person would from a shell."""
        names = self.select("select dag_id from dag where dag_id like '%\\_usage'", "airflow")
        for name in sorted(row["dag_id"] for row in names):
            self.execute("airflow-scheduler", "airflow", "dags", "trigger", name)

    def await_work(self, seconds: float = 300) -> None:
        """Wait until tasks are running."""
        running = "select 1 from task_instance where state = 'running' and task_id like '%load%'"
        eventually(lambda: self.select(running, "airflow"), seconds, self.describe, every=1)


def copy_of_tracked_files(repository: Path, folder: Path) -> None:
    """Copy what git tracks, as it is now: what a fresh clone would have."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, target)


def eventually(
    is_true: Callable[[], object], seconds: float, describe: Callable[[], str] = str, every: float = 2
) -> None:
    """Wait for something; fail with a description."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s:\n{describe()}"
        time.sleep(every)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
