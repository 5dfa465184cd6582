"""
Two Celery workers: from nothing to the truth, with a worker, the broker and the database killed on the way.

The tests of this file build on each other, in their order.
"""

from __future__ import annotations

import pytest

from tests.deployment.stack import Deployed, eventually

pytestmark = pytest.mark.timeout(3600)  # building the images may take long


def test_a_worker_that_is_killed_during_a_load_costs_nothing_but_time(celery: Deployed) -> None:
    assert len(celery.containers("airflow-worker")) == 2
    celery.await_work()

    celery.kill("airflow-worker", number=1)

    celery.await_truth(1200)
    eventually(celery.is_healthy, 300, celery.describe)


def test_both_workers_work(celery: Deployed) -> None:
    hosts = celery.select("select distinct hostname from task_instance where hostname <> ''", "airflow")

    assert len(hosts) >= 2


@pytest.mark.parametrize("service", ["redis", "postgres"])
def test_a_killed_broker_or_database_loses_nothing(celery: Deployed, service: str) -> None:
    assert celery.restate(factor=3 if service == "redis" else 2) > 10
    celery.trigger_all()
    celery.await_work()

    celery.kill(service)

    celery.await_truth(1200)
    eventually(celery.is_healthy, 300, celery.describe)
