"""The DAG of the transform: one task, one dbt process."""

from __future__ import annotations

import logging
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

from ai_usage.orchestration.deadlines import WatchedDag, deadline
from ai_usage.orchestration.retries import RetryByKind
from ai_usage.orchestration.usage_dag import RAW_USAGE

log = logging.getLogger(__name__)

_REPOSITORY = Path(__file__).resolve().parents[3]


def marts_dag(*, doc: str | None) -> DAG:
    """Return the DAG ``usage_marts``."""
    with WatchedDag(
        dag_id="usage_marts",
        schedule=[RAW_USAGE],
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        deadline=deadline(),
        params={"full_refresh": Param(False, type="boolean", title="Rebuild all of history")},
        tags=["marts", "dbt"],
        doc_md=doc,
        default_args={
            "owner": "ai_usage",
            "retries": 2,
            "retry_delay": timedelta(minutes=1),
            "retry_policy": RetryByKind(),
        },
    ) as dag:
        _build()
    return dag


def _tell_of_failure(context: Any) -> None:  # noqa: ARG001 - Airflow hands it over
    """Tell people of a transform that was given up; what happened stands in the warehouse."""
    from ai_usage.orchestration.notifications import tell_news
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    tell_news(open_warehouse())


@task(task_id="build", on_failure_callback=_tell_of_failure)
def _build() -> str:
    """Rebuild and test what changed, and say how much that was."""
    from ai_usage.orchestration.notifications import after_run
    from ai_usage.orchestration.transform import transform
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    context: Any = get_current_context()
    warehouse = open_warehouse()
    done = transform(
        warehouse,
        f"usage_marts/{context['dag_run'].run_id}",
        project=Path(os.environ.get("AI_USAGE_DBT_PROJECT", _REPOSITORY / "dbt_project")),
        target=Path(os.environ.get("AI_USAGE_DBT_TARGET", Path(os.environ["AIRFLOW_HOME"]) / "dbt_target")),
        full_refresh=bool(context["params"]["full_refresh"]),
        is_retry=context["ti"].try_number > 1,
    )
    after_run(warehouse, context["dag_run"].dag_id, "-")
    log.info("%s", done)
    return str(done)
