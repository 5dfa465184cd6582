"""The table of scenarios at the end of a test run, and the ground they play on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ai_usage import providers
from tests.faults.ground import Ground, prepared
from tests.support.warehouse import Cluster

Tell = Callable[..., None]


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Ground]:
    """The ground for the scenarios of a module, with the providers it names."""
    now = datetime.now(UTC)
    if now.hour == 23 and now.minute >= 50:
        pytest.skip("within ten minutes of midnight UTC two days could meet")
    with prepared(cluster, now.date(), getattr(request.module, "PROVIDERS", providers.names())) as made:
        yield made


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for what dbt writes, so that the project is parsed once."""
    return tmp_path_factory.mktemp("dbt_target")


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Put a row into the table of scenarios; called again, it completes the row with how it ended."""

    def tell(scenario: str, outcome: str | None = None) -> None:
        record_property("scenario" if outcome is None else "outcome", scenario if outcome is None else outcome)

    return tell
