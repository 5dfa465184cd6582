"""Airflow's LocalExecutor, with what tasks import imported beforehand: it forks its workers, and they fork the tasks."""

from __future__ import annotations

from airflow.executors.local_executor import LocalExecutor

from ai_usage.orchestration.preloading import preload


class PreloadedLocalExecutor(LocalExecutor):
    """Imports first, forks then."""

    def start(self) -> None:
        """Start the workers."""
        if self.is_mp_using_fork:
            preload()
        super().start()
