"""dbt as a process: the same whether it starts from nothing or is forked from a process that has imported it."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ai_usage.orchestration.dbt_process import Dbt
from ai_usage.warehouse.session import Warehouse

# Nothing listens there: what these commands do needs no warehouse, or fails for want of one.
NOWHERE = Warehouse(host="127.0.0.1", port=1, dbname="none", user="nobody", password="canary-of-a-password")


@dataclass(frozen=True)
class Ended:
    """What the process that asked for dbt saw of it."""

    exit_code: int
    logged: list[tuple[str, str]]


@dataclass(frozen=True)
class Asker:
    """A process that knows nothing yet, and asks for dbt."""

    processes: ProcessPoolExecutor
    module: str
    repository: Path
    target: Path

    def before_it_asks(self, act: Callable[[Path], None], place: Path) -> None:
        """Let it do something, then ask."""
        self.processes.submit(act, place).result()

    def ask(self, *arguments: str, **environment: str) -> Ended:
        """Run dbt from it."""
        return self.begin(*arguments, **environment).result()

    def begin(self, *arguments: str, **environment: str) -> Future[Ended]:
        project = self.repository / "dbt_project"
        return self.processes.submit(ask, self.module, project, self.target, arguments, environment)


def ask(module: str, project: Path, target: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> Ended:
    import_module(module)
    logged: list[tuple[str, str]] = []
    log = logging.getLogger("ai_usage.orchestration.dbt_process")
    log.setLevel(logging.DEBUG)
    handler = logging.Handler()
    handler.emit = lambda record: logged.append((record.levelname, record.getMessage()))  # type: ignore[method-assign]
    log.addHandler(handler)
    # Airflow's tasks have streams on the same files as the ones that Python began with, and nobody else holds them.
    sys.stdout, sys.stderr = (os.fdopen(own, "w", buffering=1) for own in (1, 2))
    before = surroundings()
    exit_code = Dbt(NOWHERE, project, target).run(*arguments, **environment)
    assert surroundings() == before
    return Ended(exit_code, logged)


def surroundings() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "path": list(sys.path),
        "arguments": list(sys.argv),
    }


@pytest.fixture(params=["json", "dbt.cli.main"], ids=["from_nothing", "imported_beforehand"])
def asker(request: pytest.FixtureRequest, repository: Path, dbt_target: Path) -> Iterator[Asker]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        yield Asker(processes, request.param, repository, dbt_target)


def test_what_dbt_tells_reaches_the_log_at_its_level(asker: Asker) -> None:
    ended = asker.ask("ls", "--resource-type", "model", "--select", "usage_daily")

    assert ended.exit_code == 0
    assert ("INFO", "dbt: ai_usage.marts.usage_daily") in ended.logged


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (("ls", "--select", "no_such_model"), 2, "no_such_model"),
        (("no-such-command",), 2, "no-such-command"),
        (("run", "--select", "usage_daily"), 2, "Connection refused"),
    ],
)
def test_a_failure_has_its_exit_code_and_says_why(
    asker: Asker, arguments: tuple[str, ...], exit_code: int, told: str
) -> None:
    ended = asker.ask(*arguments)

    assert ended.exit_code == exit_code
    assert told in "".join(message for _, message in ended.logged)
    assert NOWHERE.password not in str(ended)


def test_dbt_imports_nothing_from_where_airflow_imports(asker: Asker, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "dbt_intruder.py").write_text(f"open({str(seen)!r}, 'w').close()")
    asker.before_it_asks(import_from, tmp_path)

    assert asker.ask("ls").exit_code == 0

    assert not seen.exists()


def import_from(place: Path) -> None:
    """Have a folder to import from, as Airflow has."""
    os.environ["PYTHONPATH"] = str(place)
    sys.path.insert(0, str(place))


def test_values_for_one_run_reach_dbt_alone(asker: Asker) -> None:
    ended = asker.ask("run", "--select", "usage_daily", AI_USAGE_DB_HOST="another-host.invalid")

    assert ended.exit_code == 2
    assert "another-host.invalid" in str(ended.logged)


class Waste:
    """What only the collector can end, and what must only end where it began."""

    def __init__(self, place: Path) -> None:
        self.place, self.home, self.itself = place, os.getpid(), self

    def __del__(self) -> None:
        (self.place / ("at_home" if os.getpid() == self.home else "elsewhere")).touch()


def leave_waste(place: Path) -> None:
    """Have something at the moment of each fork that the collector has not seen yet."""

    def waste() -> None:
        Waste(place)

    os.register_at_fork(before=waste)


def test_what_the_parent_has_left_is_not_collected_in_dbt(asker: Asker, tmp_path: Path) -> None:
    asker.before_it_asks(leave_waste, tmp_path)

    assert asker.ask("ls").exit_code == 0

    asker.processes.submit(gc.collect).result()
    assert [path.name for path in tmp_path.iterdir()] == ["at_home"]


LIST_FROM_A_PROCESS_OF_ITS_OWN = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from pathlib import Path
import dbt.cli.main
from ai_usage.orchestration.dbt_process import Dbt
from ai_usage.warehouse.session import Warehouse
nowhere = Warehouse(host="127.0.0.1", port=1, dbname="none", user="nobody", password="none")
sys.exit(Dbt(nowhere, Path(sys.argv[1]), Path(sys.argv[2])).run("ls"))
"""


def test_no_semaphore_of_dbt_outlives_it(repository: Path, dbt_target: Path) -> None:
    # Not from an asker: a process that was spawned shares the keeper of semaphores, which would not tell before its end.
    told = subprocess.run(
        [sys.executable, "-P", "-c", LIST_FROM_A_PROCESS_OF_ITS_OWN, str(repository / "dbt_project"), str(dbt_target)],
        env=os.environ | {"PYTHONPATH": str(repository / "plugins")},
        capture_output=True,
        text=True,
    )

    assert told.returncode == 0, told.stderr
    assert "ai_usage.marts.usage_daily" in told.stderr
    assert "leaked" not in told.stderr


def survive(place: Path) -> None:
    """Do something else than end when asked to end, as Airflow's tasks do."""
    signal.signal(signal.SIGTERM, lambda *_: (place / "handled").touch())


def test_a_signal_ends_dbt_and_not_by_what_the_parent_would_do(asker: Asker, tmp_path: Path) -> None:
    asker.before_it_asks(survive, tmp_path)
    parent = asker.processes.submit(os.getpid).result()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        asked = asker.begin("run", "--select", "usage_daily", AI_USAGE_DB_PORT=str(silent.getsockname()[1]))
        connection, _ = silent.accept()
        with connection:
            [dbt] = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
            os.kill(dbt, signal.SIGTERM)
            ended = asked.result(timeout=60)

    assert ended.exit_code == -signal.SIGTERM
    assert not (tmp_path / "handled").exists()
