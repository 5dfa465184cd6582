"""
After any schedule of faults, restatements and kills, and one healthy run, every mart of every provider is exact.

One schedule runs each time, another every day; ``make soak`` plays 200, ``AI_USAGE_TEST_SEED=…`` repeats one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults import schedule
from tests.support.warehouse import Cluster

IN_PASSING = 1


def _seeds() -> list[int]:
    # Every worker must come to the same list, so the day decides and not chance.
    first = os.environ.get("AI_USAGE_TEST_SEED") or datetime.now(UTC).date().toordinal() * 1000
    count = os.environ.get("AI_USAGE_TEST_SCHEDULES") or (1 if "AI_USAGE_TEST_SEED" in os.environ else IN_PASSING)
    return list(range(int(first), int(first) + int(count)))


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server that nobody else needs, because it will be killed."""
    with Cluster(tmp_path_factory.mktemp("killed") / "postgres") as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", _seeds())
def test_after_a_healthy_run_every_mart_is_exact(seed: int, own_cluster: Cluster, dbt_target: Path) -> None:
    print(f"AI_USAGE_TEST_SEED={seed} repeats this schedule")
    for line in schedule.play(seed, own_cluster, dbt_target):
        print(line)
