"""
The DAG of one provider: ``plan → extract_load (one per connection and scope) → publish, verdict``.

A DAG file names the provider and the schedule; everything else is the same for all of them. Tasks import what they need
when they run, so that parsing a DAG file costs no more than Airflow itself.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Asset, Param, TriggerRule, get_current_context, task

from ai_usage.orchestration.deadlines import WatchedDag, deadline
from ai_usage.orchestration.retries import RetryByKind

if TYPE_CHECKING:
    from ai_usage.orchestration.sync import Request, Summary, Work

log = logging.getLogger(__name__)

RAW_USAGE = Asset(name="ai_usage_raw", uri="x-ai-usage://raw/usage")
"""Raw usage of any provider. Its events say what changed and start the transform."""

PARAMS = {
    "from": Param(
        None,
        type=["null", "string"],
        format="date",
        title="From (UTC day, included)",
        description="Leave both days empty to read whatever the ledger finds missing, failed or not settled.",
    ),
    "to": Param(None, type=["null", "string"], format="date", title="To (UTC day, included)"),
    "connections": Param(
        None,
        type=["null", "array"],
        items={"type": "string"},
        title="Connections",
        description="Connection ids, one a line. Leave empty for all connections of this provider.",
    ),
}


def usage_dag(provider_name: str, *, schedule: str, doc: str | None) -> DAG:
    """
    Return the DAG ``<provider>_usage``.

    :param schedule: cron expression in UTC; hourly for providers that report within the hour.
    :param doc: the page for the person on call, usually the DAG file's docstring.
    """
    with WatchedDag(
        dag_id=f"{provider_name}_usage",
        schedule=schedule,
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        params=PARAMS,
        deadline=deadline(),
        tags=["usage", provider_name],
        doc_md=doc,
        default_args={
            "owner": "ai_usage",
            "retries": 3,
            "retry_delay": timedelta(minutes=1),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=15),
            "retry_policy": RetryByKind(),
        },
    ) as dag:
        planned = _plan(provider_name, schedule)
        loaded = _extract_load.partial(provider_name=provider_name).expand(work=planned)
        loaded >> [_publish(provider_name), _verdict(provider_name)]
    return dag


@task.short_circuit(task_id="plan")
def _plan(provider_name: str, schedule: str) -> list[Work]:
    """Ask the ledger what is missing. A provider without a connection costs this one task and nothing more."""
    from ai_usage import providers
    from ai_usage.orchestration.sources import discover, next_run
    from ai_usage.orchestration.sync import plan
    from ai_usage.orchestration.warehouse_connection import open_warehouse
    from ai_usage.warehouse import ledger
    from ai_usage.warehouse.roles import LOADER

    provider, warehouse = providers.load(provider_name), open_warehouse()
    connection_ids = discover(provider)
    with warehouse.session(LOADER) as session:
        ledger.note_sources(session, provider, connection_ids, next_run(schedule, datetime.now(UTC)))
    if not connection_ids:
        log.info(
            "%s is not connected: there is no connection %s_default, and none is listed in the Variable"
            " ai_usage_connections. docs/connections.md tells how to add one.",
            provider.label,
            provider_name,
        )
        return []
    work = plan(provider, warehouse, connection_ids, _request())
    for piece in work:
        log.info("%s: %s", piece["label"], piece["parts"])
    if not work:
        log.info("Every slice is settled: there is nothing to read.")
    return work


@task(task_id="extract_load", map_index_template="{{ label }}", max_active_tis_per_dagrun=4)
def _extract_load(provider_name: str, work: Work) -> Summary:
    """Read the planned windows of one scope and store them, whole slices at a time."""
    context: Any = get_current_context()
    context["label"] = work["label"]
    from ai_usage import providers
    from ai_usage.orchestration.sync import extract_and_load
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    return extract_and_load(providers.load(provider_name), open_warehouse(), work, _run_id(context))


@task(task_id="publish", trigger_rule=TriggerRule.ALL_DONE, outlets=[RAW_USAGE])
def _publish(provider_name: str) -> None:
    """Tell the transform that slices changed, with a summary; stay silent when none did and the marts exist."""
    from airflow.sdk.exceptions import AirflowSkipException

    from ai_usage.orchestration.warehouse_connection import open_warehouse
    from ai_usage.warehouse import ledger
    from ai_usage.warehouse.roles import LOADER

    context: Any = get_current_context()
    with open_warehouse().session(LOADER) as session:
        pairs = ledger.pending_pairs(session)
        # A first connection that cannot be read changes no slice, and yet its status has to be seen.
        is_first = not ledger.was_ever_built(session)
    if not pairs and not is_first:
        raise AirflowSkipException("No slice changed: the marts are up to date.")
    summaries = _summaries(context)
    context["outlet_events"][RAW_USAGE].extra = {
        "provider": provider_name,
        "days_to_rebuild": pairs,
        "sources_read": len(summaries),
        "slices_changed": sum(summary["slices_changed"] for summary in summaries),
        "records_written": sum(summary["records_written"] for summary in summaries),
    }


# A failed source is told here once, however often its own task was tried; trying to tell it again helps nobody.
@task(task_id="verdict", trigger_rule=TriggerRule.ALL_DONE)
def _verdict(provider_name: str) -> None:
    """
    Fail the run when any source failed, so that red means something to do and green means nothing to do.

    Before that, people are told what is new.
    """
    from ai_usage.orchestration.notifications import after_run
    from ai_usage.orchestration.sync import verdict
    from ai_usage.orchestration.warehouse_connection import open_warehouse
    from ai_usage.warehouse import ledger
    from ai_usage.warehouse.roles import LOADER

    context: Any = get_current_context()
    warehouse = open_warehouse()
    after_run(warehouse, context["dag_run"].dag_id, provider_name)
    with warehouse.session(LOADER) as session:
        problems = [text for _, _, text in ledger.run_problems(session, _run_id(context))]
    log.info("%s", verdict(context["ti"].xcom_pull(task_ids="plan"), _summaries(context), problems))


def _summaries(context: Any) -> list[Summary]:
    pulled: Any = context["ti"].xcom_pull(task_ids="extract_load")
    # Airflow hands over the value itself, not a list, when there is only one mapped task.
    several: list[Any] = [pulled] if isinstance(pulled, dict) else list(pulled or [])
    return [summary for summary in several if summary]


def _run_id(context: Any) -> str:
    return f"{context['dag_run'].dag_id}/{context['dag_run'].run_id}"


def _request() -> Request:
    context: Any = get_current_context()
    params = context["params"]
    return {
        "first": params["from"],
        "last": params["to"],
        "connections": params["connections"],
        "by_hand": context["dag_run"].run_type == "manual",
    }
