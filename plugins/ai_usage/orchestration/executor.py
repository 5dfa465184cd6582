"""
Airflow's LocalExecutor, with what tasks import imported beforehand.

It forks its workers from the scheduler, and every task from a worker. A module that the scheduler has imported is there in
all of them; any other is imported anew by every task, which took more processor time than what most tasks then did.
"""

from __future__ import annotations

import logging
from importlib import import_module

from airflow.executors.local_executor import LocalExecutor

log = logging.getLogger(__name__)

# Left out is google.cloud.bigquery: it brings pandas, 85 MB in the scheduler for a DAG that runs six times a day.
MODULES = (
    "aiosmtplib",
    "airflow.dag_processing.dagbag",
    "airflow.providers.amazon.aws.hooks.base_aws",
    "airflow.providers.google.common.hooks.base_google",
    "airflow.providers.smtp.hooks.smtp",
    "airflow.providers.smtp.notifications.smtp",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.decorators.short_circuit",
    "airflow.sdk.execution_time.task_runner",
    "boto3.s3.transfer",
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
"""What tasks import of others. Our own modules stay out, so that a task runs them as they are on the disk."""


class PreloadedLocalExecutor(LocalExecutor):
    """Imports first, forks then."""

    def start(self) -> None:
        """Start the workers."""
        if self.is_mp_using_fork:
            preload()
        super().start()


def preload() -> None:
    """Import what tasks are going to need; what cannot be imported is their business."""
    for name in MODULES:
        try:
            import_module(name)
        except ImportError as error:
            log.warning("%s could not be imported beforehand: %s", name, error)
