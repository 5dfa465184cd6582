"""One sandbox with both its accounts, Airflow's metadata, and a warehouse that both point to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.support.airflow import migrate_metadata
from tests.support.warehouse import TestWarehouse

HISTORY_DAYS = 20


@pytest.fixture(scope="session")
def airflow_metadata() -> None:
    """Airflow's own database."""
    migrate_metadata()


@pytest.fixture(scope="module")
def running_sandbox() -> Iterator[Sandbox]:
    """The sandbox, moto included, on the day on which it starts."""
    now = datetime.now(UTC)
    # The tasks read the real clock, so a run that would cross midnight begins its day a little later instead.
    if now.hour == 23 and now.minute >= 50:
        pytest.skip("within ten minutes of midnight UTC the sandbox and the tasks could live on different days")
    with Sandbox(today=now.date(), history_days=HISTORY_DAYS) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Iterator[Sandbox]:
    """The same, without faults."""
    running_sandbox.faults.clear()
    running_sandbox.requests.reset()
    yield running_sandbox
    running_sandbox.faults.clear()


@pytest.fixture
def connected(
    sandbox: Sandbox, warehouse: TestWarehouse, airflow_metadata: None, monkeypatch: pytest.MonkeyPatch
) -> TestWarehouse:
    """A warehouse, with Airflow connections for it and for the sandbox."""
    for name, value in (warehouse.environment() | environment(sandbox.connections())).items():
        monkeypatch.setenv(name, value)
    return warehouse


@pytest.fixture(scope="session")
def history() -> timedelta:
    """How far back the sandbox's connections begin."""
    return timedelta(days=HISTORY_DAYS - 1)
