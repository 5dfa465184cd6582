"""dbt as a process: the same whether it starts from nothing or is forked from a process that has imported it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
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
    left: dict[str, Any]
    """What of the asking process could have been changed by dbt."""


@dataclass(frozen=True)
class Asker:
    """A process that knows nothing yet, and asks for dbt."""

    processes: ProcessPoolExecutor
    module: str
    repository: Path
    target: Path

    def ask(self, *arguments: str, place: Path | None = None, **environment: str) -> Ended:
        """Run dbt from it, with a folder to import from as Airflow has them."""
        asked = self.processes.submit(
            ask, self.module, place, self.repository / "dbt_project", self.target, arguments, environment
        )
        return asked.result()


def ask(
    module: str,
    place: Path | None,
    project: Path,
    target: Path,
    arguments: tuple[str, ...],
    environment: dict[str, str],
) -> Ended:
    import_module(module)
    if place:
        os.environ["PYTHONPATH"] = str(place)
        sys.path.insert(0, str(place))
    logged: list[tuple[str, str]] = []
    log = logging.getLogger("ai_usage.orchestration.dbt_process")
    log.setLevel(logging.DEBUG)
    handler = logging.Handler()
    handler.emit = lambda record: logged.append((record.levelname, record.getMessage()))  # type: ignore[method-assign]
    log.addHandler(handler)
    logging.root.addHandler(logging.StreamHandler())
    # Airflow's tasks have streams on the same files as the ones that Python began with, and nobody else holds them.
    sys.stdout, sys.stderr = (os.fdopen(own, "w", buffering=1) for own in (1, 2))
    before = surroundings()
    exit_code = Dbt(NOWHERE, project, target).run(*arguments, **environment)
    assert surroundings() == before
    return Ended(exit_code, logged, before)


def surroundings() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "path": list(sys.path),
        "arguments": list(sys.argv),
        "handlers": len(logging.root.handlers),
    }


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("target")


@pytest.fixture(params=["json", "dbt.cli.main"], ids=["from_nothing", "imported_beforehand"])
def asker(request: pytest.FixtureRequest, repository: Path, target: Path) -> Iterator[Asker]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        yield Asker(processes, request.param, repository, target)


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

    assert asker.ask("ls", place=tmp_path).exit_code == 0

    assert not seen.exists()


def test_values_for_one_run_reach_dbt_alone(asker: Asker) -> None:
    ended = asker.ask("run", "--select", "usage_daily", AI_USAGE_DB_HOST="another-host.invalid")

    assert ended.exit_code == 2
    assert "another-host.invalid" in str(ended.logged)
    assert "another-host.invalid" not in str(ended.left)
