"""A sandbox with all its accounts, Airflow's metadata, and a warehouse that both point to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ai_usage.orchestration.transform import transform
from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.support.airflow import migrate_metadata
from tests.support.warehouse import Cluster, TestWarehouse

HISTORY_DAYS = 20


@pytest.fixture(scope="session")
def airflow_metadata() -> None:
    """Airflow's own database."""
    migrate_metadata()


@pytest.fixture(scope="module")
def running_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """
    The sandbox on the day on which it starts.

    A module says with ``HISTORY_DAYS`` how far back its connections begin, and with ``WITH_MOTO`` whether it needs moto.
    """
    now = datetime.now(UTC)
    # The tasks read the real clock, so a run that would cross midnight begins its day a little later instead.
    if now.hour == 23 and now.minute >= 50:
        pytest.skip("within ten minutes of midnight UTC the sandbox and the tasks could live on different days")
    history_days = getattr(request.module, "HISTORY_DAYS", HISTORY_DAYS)
    moto = getattr(request.module, "WITH_MOTO", False)
    with Sandbox(today=now.date(), history_days=history_days, moto=moto) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Iterator[Sandbox]:
    """The same, without faults."""
    running_sandbox.faults.clear()
    running_sandbox.requests.reset()
    yield running_sandbox
    running_sandbox.faults.clear()


@pytest.fixture(autouse=True)
def own_dbt_target(monkeypatch: pytest.MonkeyPatch, dbt_target: Path) -> None:
    """Let Airflow's tasks write where the tests' dbt writes."""
    monkeypatch.setenv("AI_USAGE_DBT_TARGET", str(dbt_target))


@pytest.fixture(scope="session")
def standing(cluster: Cluster, repository: Path, dbt_target: Path) -> TestWarehouse:
    """A warehouse that has been transformed once, before anything was connected: its marts are there, and empty."""
    with cluster.warehouse() as fresh:
        transform(fresh.warehouse, "before", project=repository / "dbt_project", target=dbt_target)
        return cluster.set_aside(fresh, "standing")


@pytest.fixture
def warehouse(cluster: Cluster, standing: TestWarehouse) -> Iterator[TestWarehouse]:
    """A warehouse whose first build is behind it, so that no test waits for one; `make run` has the one from nothing."""
    with cluster.warehouse(like=standing) as fresh:
        yield fresh


@pytest.fixture
def connected(
    sandbox: Sandbox, warehouse: TestWarehouse, airflow_metadata: None, monkeypatch: pytest.MonkeyPatch
) -> TestWarehouse:
    """A warehouse, with Airflow connections for it and for the sandbox."""
    for name, value in (warehouse.environment() | environment(sandbox.connections())).items():
        monkeypatch.setenv(name, value)
    return warehouse


@pytest.fixture
def history(sandbox: Sandbox) -> timedelta:
    """How far back the sandbox's connections begin."""
    return sandbox.clock.today() - sandbox.truth.world.opened
