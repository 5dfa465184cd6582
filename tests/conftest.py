"""A real PostgreSQL server for the whole test run, and a fresh, migrated warehouse for whoever asks."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Airflow reads its settings when it is first imported, which a test module may do while pytest collects it; so the tests'
# own installation is named before anything else happens.
_AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="ai_usage_airflow_"))
atexit.register(shutil.rmtree, _AIRFLOW_HOME, ignore_errors=True)
_REPOSITORY = Path(__file__).resolve().parents[1]
for _name in [name for name in os.environ if name.startswith(("AIRFLOW_", "AI_USAGE_"))]:
    if not _name.startswith("AI_USAGE_TEST_"):  # what is said to the tests themselves
        del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": str(_AIRFLOW_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(_REPOSITORY / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(_REPOSITORY / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_AIRFLOW_HOME}/airflow.db",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "DO_NOT_TRACK": "1",
}

from tests.support.outcomes import pytest_terminal_summary  # noqa: E402, F401 - a hook, found by its name
from tests.support.warehouse import Cluster, TestWarehouse  # noqa: E402


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of the checkout."""
    return _REPOSITORY


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A PostgreSQL server that lives as long as the test run."""
    with Cluster(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def warehouse(cluster: Cluster) -> Iterator[TestWarehouse]:
    """A freshly migrated warehouse."""
    with cluster.warehouse() as fresh:
        yield fresh
