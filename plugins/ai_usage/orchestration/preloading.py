"""
What tasks import of others, imported before tasks are forked.

A module that the parent of all tasks has imported is there in each of them; any other is imported anew by every task, which
takes more processor time than what most tasks then do. The parent is the scheduler, or a worker of Celery.
"""

from __future__ import annotations

import logging
from importlib import import_module

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
    "dbt.adapters.postgres",
    "dbt.cli.main",
    "dbt.task.build",
    "google.auth.transport.requests",
    "jinja2.ext",
    "jwt",
    "packaging.requirements",
    "psycopg",
    "requests",
)
"""What tasks import of others. Our own modules stay out, so that a task runs them as they are on the disk."""


def preload() -> None:
    """Import what tasks are going to need; what cannot be imported is their business."""
    for name in MODULES:
        try:
            import_module(name)
        except ImportError as error:
            log.warning("%s could not be imported beforehand: %s", name, error)
