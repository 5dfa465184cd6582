"""How Celery's workers are set up: as Airflow does it, and with what tasks import imported before they are forked."""

from __future__ import annotations

from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG

from ai_usage.orchestration.preloading import MODULES

CONFIG = {**DEFAULT_CELERY_CONFIG, "imports": MODULES}
"""The value of Airflow's option ``[celery] celery_config_options``."""
