"""
Runs that take too long: Airflow's deadline alerts, and what they call.

Airflow's scheduler watches the deadline and has the callback run by the triggerer, so it works while the run itself hangs.
(Airflow could have an executor run it instead. But in 3.3 what an executor runs this way may not read connections from
Airflow's database, and the messages' receivers are connections.)
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

log = logging.getLogger(__name__)

DEADLINE = "AI_USAGE_RUN_DEADLINE_MINUTES"
"""Environment variable: how many minutes a run may take, waiting in the queue included."""
_DEADLINE_MINUTES = 180
KIND = "run_overdue"


class WatchedDag(DAG):
    """
    A DAG whose runs may have a deadline.

    ``airflow dags test`` runs a DAG in its own process, where nobody watches a deadline, and in Airflow 3.3 it breaks at the
    end of a good run of a DAG that has one. There it has none.
    """

    deadline: Any

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Run the DAG in this process."""
        watched, self.deadline = self.deadline, None
        try:
            return super().test(*args, **kwargs)
        finally:
            self.deadline = watched


def deadline() -> DeadlineAlert:
    """Return the deadline of a DAG's runs. Read when the DAG file is parsed; it costs no look-up."""
    return DeadlineAlert(
        name=f"{_minutes()} minutes",
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=_minutes()),
        callback=AsyncCallback(run_is_overdue),
    )


async def run_is_overdue(context: Mapping[str, Any]) -> None:
    """
    Open the problem of a run that is still under way at its deadline, and tell people.

    The end of a run of the same DAG ends the problem. A run that failed before its deadline was told of when it failed.

    :param context: what Airflow's scheduler knows of the run.
    """
    run = context["dag_run"]
    # In a thread: the triggerer's own thread has other things to watch.
    await asyncio.to_thread(_tell, str(run["dag_id"]), str(run["dag_run_id"]), str(run["state"]))


def _tell(dag_id: str, run_id: str, state: str) -> None:
    from ai_usage.orchestration.notifications import tell_news
    from ai_usage.orchestration.warehouse_connection import open_warehouse
    from ai_usage.warehouse import events
    from ai_usage.warehouse.place import Place
    from ai_usage.warehouse.roles import LOADER

    if state not in {"queued", "running"}:
        log.info("%s of %s has ended (%s).", run_id, dag_id, state)
        return
    warehouse = open_warehouse()
    with warehouse.session(LOADER) as session:
        events.open_problem(
            session,
            Place(dag_id.removesuffix("_usage") if dag_id.endswith("_usage") else "-", dag_id, None, None),
            "lateness",
            KIND,
            "error",
            f"A run has been under way for more than {_minutes()} minutes ({state}).",
            f"Open the run {run_id} of {dag_id} in Airflow: the log of the task that runs says what it waits for.",
            f"{dag_id}/{run_id}",
        )
    tell_news(warehouse)


def _minutes() -> int:
    text = os.environ.get(DEADLINE, "").strip()
    # A DAG file must parse whatever the environment holds.
    return int(text) if text.isdecimal() and 1 <= int(text) <= 7 * 24 * 60 else _DEADLINE_MINUTES
