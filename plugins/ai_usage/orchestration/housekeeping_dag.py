"""
The DAG of what is done once a day: clean, check, tell.

The three do not wait for each other: each is red by itself, and a red one keeps the others from nothing.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task

from ai_usage.orchestration.deadlines import WatchedDag, deadline
from ai_usage.orchestration.retries import RetryByKind

log = logging.getLogger(__name__)

_REPOSITORY = Path(__file__).resolve().parents[3]


def housekeeping_dag(*, schedule: str, doc: str | None) -> DAG:
    """
    Return the DAG ``usage_housekeeping``.

    :param schedule: cron expression in UTC; once a day.
    """
    with WatchedDag(
        dag_id="usage_housekeeping",
        schedule=schedule,
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        deadline=deadline(),
        tags=["housekeeping"],
        doc_md=doc,
        default_args={
            "owner": "ai_usage",
            "retries": 2,
            "retry_delay": timedelta(minutes=5),
            "retry_policy": RetryByKind(),
        },
    ) as dag:
        _clean()
        _check()
        _tell()
    return dag


@task(task_id="clean")
def _clean() -> str:
    """Delete what has had its time, in small steps, and keep the figures of every table."""
    from ai_usage.orchestration.housekeeping import clean
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    done = clean(open_warehouse())
    log.info("%s", done)
    return done


def _tell_of_failure(context: Any) -> None:  # noqa: ARG001 - Airflow hands it over
    """Tell people of a test that failed; what it found stands in the warehouse."""
    from ai_usage.orchestration.notifications import tell_news
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    tell_news(open_warehouse())


@task(task_id="check", on_failure_callback=_tell_of_failure)
def _check() -> str:
    """Run dbt's tests over all of history, and tell which sources have not answered lately."""
    from ai_usage.orchestration.housekeeping import check
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    context: Any = get_current_context()
    found = check(
        open_warehouse(),
        f"usage_housekeeping/{context['dag_run'].run_id}",
        project=Path(os.environ.get("AI_USAGE_DBT_PROJECT", _REPOSITORY / "dbt_project")),
        target=Path(os.environ.get("AI_USAGE_DBT_TARGET", Path(os.environ["AIRFLOW_HOME"]) / "dbt_target")),
    )
    log.info("%s", found)
    return found


@task(task_id="tell")
def _tell() -> bool:
    """Look for late data, tell people what is new, and send the digest of yesterday; return whether it was sent."""
    from ai_usage.orchestration.notifications import tell_daily
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    return tell_daily(open_warehouse())
