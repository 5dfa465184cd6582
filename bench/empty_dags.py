"""
DAGs of the same shape as the providers', whose tasks do nothing: what Airflow itself costs.

The benchmark copies this file into the folder of DAGs, and beside it how many readings each plan leads to.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from airflow.sdk import DAG, TriggerRule, task

SHAPE = Path(__file__).with_name("shape.json")


def empty_dag(name: str) -> DAG:
    """Return ``plan → extract_load (mapped) → publish, verdict`` without anything in it."""
    with DAG(dag_id=f"{name}_empty", schedule=None, start_date=datetime(2026, 1, 1), max_active_runs=1) as dag:

        @task.short_circuit(task_id="plan")
        def plan() -> list[int]:
            pieces: dict[str, int] = json.loads(SHAPE.read_text())
            return list(range(pieces[name]))

        @task(task_id="extract_load", max_active_tis_per_dagrun=4)
        def extract_load(work: int) -> int:
            return work

        @task(task_id="publish", trigger_rule=TriggerRule.ALL_DONE)
        def publish() -> None:
            pass

        @task(task_id="verdict", trigger_rule=TriggerRule.ALL_DONE)
        def verdict() -> None:
            pass

        extract_load.expand(work=plan()) >> [publish(), verdict()]
    return dag


for path in sorted(SHAPE.parent.glob("*_usage.py")):
    name = path.stem.removesuffix("_usage")
    globals()[f"{name}_empty"] = empty_dag(name)
