"""DAG runs in this process: Airflow's own task runner, connections and XCom, without its scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def migrate_metadata() -> None:
    """Create the metadata database that ``tests.conftest`` names."""
    from airflow.utils.db import initdb

    initdb()


class Run:
    """A finished DAG run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    @property
    def state(self) -> str:
        """``success`` or ``failed``."""
        return str(self._run.state)

    @property
    def ledger_run_id(self) -> str:
        """The run as the ledger names it."""
        return f"{self._run.dag_id}/{self._run.run_id}"

    def states(self) -> dict[str, list[str]]:
        """Return task id → the states of its instances, in order."""
        found: dict[str, list[str]] = {}
        for instance in sorted(self._run.get_task_instances(), key=lambda ti: (ti.task_id, ti.map_index)):
            found.setdefault(instance.task_id, []).append(str(instance.state))
        return found

    def labels(self) -> list[str]:
        """Return what the mapped tasks are called in the grid."""
        return sorted(ti.rendered_map_index for ti in self._run.get_task_instances() if ti.rendered_map_index)


def run_dag(dag_id: str, conf: Mapping[str, Any] | None = None) -> Run:
    """Run a DAG of this repository to its end."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(str(REPOSITORY / "dags")).dags[dag_id]
    return Run(dag.test(run_conf=dict(conf or {})))
