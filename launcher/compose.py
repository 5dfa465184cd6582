"""
A deployment in a folder of its own, driven through Compose as an operator would: started, asked, hurt, taken away.

For the tests of the deployment and for the benchmark of several workers; neither touches a deployment that is in use.
"""

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
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from urllib.request import ProxyHandler, Request, build_opener

PARTS = ("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "postgres")
_OPENER = build_opener(ProxyHandler({}))

# Asks the sandbox from inside its container, since none of its ports is open to the outside: several questions at once.
_ASK = """
import json, sys, urllib.error, urllib.request
answers = []
for method, path, content in json.load(sys.stdin):
    body = None if content is None else json.dumps(content).encode()
    asked = urllib.request.Request("http://127.0.0.1:8490" + path, data=body, method=method)
    try:
        answers.append([200, urllib.request.urlopen(asked, timeout=60).read().decode()])
    except urllib.error.HTTPError as error:
        answers.append([error.code, error.read().decode()])
json.dump(answers, sys.stdout)
"""

# The first child of the container's little init: the program itself.
_KILL = 'read -r child rest </proc/1/task/1/children; kill -9 "$child"'


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
    def from_clone(cls, repository: Path, folder: Path, *options: str) -> Iterator[Self]:
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
            command,
            cwd=self.folder,
            env=environment,
            input=content,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
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

    def ask(self, path: str) -> Any:
        """Read from the sandbox's own interface."""
        return self.ask_all([("GET", path, None)])[0]

    def ask_all(self, questions: Sequence[tuple[str, str, object]]) -> list[Any]:
        """Put several questions (method, path, content) to the sandbox; an answer is None where it refused."""
        told = self.execute("sandbox", "python", "-c", _ASK, content=json.dumps(list(questions)))
        return [json.loads(text, parse_float=Decimal) if status == 200 else None for status, text in json.loads(told)]

    def ui(self, path: str) -> tuple[int, bytes]:
        """Open a page of the UI the way a browser on the server would."""
        with _OPENER.open(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return answer.status, answer.read()

    def trigger_all(self) -> None:
        """Start every provider's DAG, through the API as any other program would."""
        env = self.env()
        login = {"username": env.get("AI_USAGE_UI_USER", "admin"), "password": env["AI_USAGE_UI_PASSWORD"]}
        token = self._post("/auth/token", login, {})["access_token"]
        for row in self.select("select dag_id from dag where dag_id like '%\\_usage' order by 1", "airflow"):
            self._post(
                f"/api/v2/dags/{row['dag_id']}/dagRuns", {"logical_date": None}, {"Authorization": f"Bearer {token}"}
            )

    def _post(self, path: str, content: object, headers: dict[str, str]) -> Any:
        body, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
        asked = Request(f"http://127.0.0.1:{self.port}{path}", data=body, headers=kind | headers)
        with _OPENER.open(asked, timeout=30) as answer:
            return json.load(answer)

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
