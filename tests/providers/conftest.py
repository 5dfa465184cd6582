"""A sandbox for the tests of a provider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.service import Sandbox
from tests.providers.aws import TODAY


@pytest.fixture(scope="module")
def running_sandbox() -> Iterator[Sandbox]:
    """The sandbox without moto, on a fixed day."""
    with Sandbox(today=TODAY, moto=False) as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Iterator[Sandbox]:
    """The same, with no faults and no requests counted yet."""
    running_sandbox.requests.reset()
    yield running_sandbox
    running_sandbox.faults.clear()


@pytest.fixture(scope="module")
def moto_sandbox() -> Iterator[Sandbox]:
    """The sandbox with moto's CloudWatch server."""
    with Sandbox(today=TODAY, moto=True) as running:
        yield running
