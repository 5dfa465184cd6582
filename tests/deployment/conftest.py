"""
The stack of ``docker-compose.yaml``, run for real.

What needs a Docker engine is collected only when ``make deployment`` asks for it (``AI_USAGE_TEST_DEPLOYMENT``): it builds
images and takes a long time. What can be told from the files alone is part of every test run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.stack import Deployed

collect_ignore_glob = [] if os.environ.get("AI_USAGE_TEST_DEPLOYMENT") else ["test_stack_*.py"]


@pytest.fixture(scope="module")
def local(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A fresh clone, its stack up with the LocalExecutor and the sandbox."""
    with Deployed.from_clone(repository, tmp_path_factory.mktemp("local"), "--sandbox") as stack:
        stack.up()
        yield stack


@pytest.fixture(scope="module")
def celery(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A fresh clone, its stack up with two Celery workers and the sandbox."""
    with Deployed.from_clone(repository, tmp_path_factory.mktemp("celery"), "--celery", "--sandbox") as stack:
        stack.up("--scale", "airflow-worker=2")
        yield stack
