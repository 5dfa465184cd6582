"""
Airflow's LocalExecutor, with what tasks import imported beforehand.

It forks its workers from the scheduler and every task from a worker. A module that the scheduler has imported is there in
each of them; any other is imported by every task anew, which costs more than most tasks' work.
"""

from __future__ import annotations

import logging
from importlib import import_module

from airflow.executors.local_executor import LocalExecutor

log = logging.getLogger(__name__)

MODULES = (
    "aiosmtplib",
    "airflow.dag_processing.dagbag",
    "airflow.providers.amazon.aws.hooks.base_aws",
    "airflow.providers.google.common.hooks.base_google",
    "airflow.providers.standard.operators.python",
    "airflow.providers.standard.decorators.short_circuit",
    "airflow.providers.standard.decorators.python",
    "airflow.sdk.execution_time.task_runner",
    "boto3",
    "botocore.docs",
    "croniter",
    "cryptography.hazmat.primitives.asymmetric.rsa",
    "google.auth.transport.requests",
    "jinja2.ext",
    "jwt",
    "packaging.requirements",
    "psycopg",
    "requests",
)


class PreloadedLocalExecutor(LocalExecutor):
    """Imports first, forks then. Our own modules stay out, so that a task runs them as they are on disk."""

    def start(self) -> None:
        """Start the workers."""
        if self.is_mp_using_fork:
            preload()
        super().start()


def preload() -> None:
    """Import what tasks are going to need. What is not installed, no task can need."""
    for name in MODULES:
        try:
            import_module(name)
        except ImportError as error:
            log.warning("%s could not be imported beforehand: %s", name, error)
