"""The form of an OpenRouter connection in Airflow. Data only: Airflow reads it before it can import anything."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "ai_usage_openrouter",
    "hook-name": "OpenRouter (AI usage)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"password": "Management key", "host": "Address"},
        "placeholders": {
            "password": "sk-or-v1-… from openrouter.ai/settings/management-keys",
            "host": "leave empty; a management key goes to openrouter.ai only",
        },
    },
    "conn-fields": {
        "account_name": {
            "label": "Account name",
            "description": "What to call the account in the marts.",
            "schema": {"type": ["string", "null"]},
        },
        "account_id": {
            "label": "Account id",
            "description": "OpenRouter tells no id of an account. Any name that stays the same will do; without one, the "
            "connection's id stands for the account.",
            "schema": {"type": ["string", "null"]},
        },
        "start_date": {
            "label": "First day",
            "description": "YYYY-MM-DD, UTC. Days older than 30 days come from analytics, without endpoints. Without it: "
            "365 days.",
            "schema": {"type": ["string", "null"], "format": "date"},
        },
        "lookback_days": {
            "label": "Look-back in days",
            "description": 'How many days back every run reads again, settled or not: a number, or "recommended". Without '
            "it: what this version of the project says.",
            "schema": {"type": ["string", "null"]},
        },
        "per_key": {
            "label": "Numbers per API key",
            "description": "Costs one more call for each API key in every run.",
            "schema": {"type": ["boolean", "null"], "default": False},
        },
    },
}
