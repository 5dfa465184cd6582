"""A real PostgreSQL server for the whole test run, and a fresh, migrated warehouse for whoever asks."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from bench.airflow_home import settings
from bench.processes import ROOT

# Airflow reads its settings when it is first imported, which a test module may do while pytest collects it; so the tests'
# own installation is named before anything else happens.
_AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="ai_usage_airflow_"))
atexit.register(shutil.rmtree, _AIRFLOW_HOME, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith(("AIRFLOW_", "AI_USAGE_"))]:
    if not _name.startswith("AI_USAGE_TEST_"):  # what is said to the tests themselves
        del os.environ[_name]
os.environ |= settings(_AIRFLOW_HOME)

from ai_usage.orchestration.preloading import MODULES  # noqa: E402
from tests.support.outcomes import pytest_terminal_summary  # noqa: E402, F401 - a hook, found by its name
from tests.support.warehouse import Cluster, TestWarehouse  # noqa: E402

_LONG = ("end_to_end", "faults", "dbt", "commands", "security", "orchestration", "launcher")
"""The folders whose files take long, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long files begin first: one that begins last keeps one worker busy and the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def rank(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return item.path not in slow, _LONG.index(folder) if folder in _LONG else len(_LONG)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def without_pace() -> None:
    """Let no test wait for the pace that a real provider wants; that a pace is kept has tests of its own."""
    from ai_usage import providers
    from ai_usage.core.http_provider import HttpProvider

    for provider in providers.load_all():
        if isinstance(provider, HttpProvider):
            type(provider).limits = replace(provider.limits, calls_per_minute=None)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL server that lives as long as the test run."""
    with Cluster(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(scope="session")
def dbt_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for what dbt writes in all tests that do not look into it, so that the project is parsed once."""
    # As the executor has them, so that no build begins with imports.
    for name in MODULES:
        if name.startswith("dbt."):
            import_module(name)
    return tmp_path_factory.getbasetemp() / "dbt_target"


@pytest.fixture
def warehouse(cluster: Cluster) -> Iterator[TestWarehouse]:
    """A freshly migrated warehouse."""
    with cluster.warehouse() as fresh:
        yield fresh
