"""The form of an OpenAI connection in Airflow. Data only: Airflow reads it before it can import anything."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "ai_usage_openai",
    "hook-name": "OpenAI (AI usage)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"password": "Admin key", "host": "Address"},
        "placeholders": {
            "password": "sk-admin-… from platform.openai.com/settings/organization/admin-keys",
            "host": "https://api.openai.com/v1 (leave empty)",
        },
    },
    "conn-fields": {
        "account_id": {
            "label": "Organization id",
            "description": "org-…, from the organization's settings. The API does not tell it, so the marts show the "
            "connection's id without it.",
            "schema": {"type": ["string", "null"]},
        },
        "account_name": {
            "label": "Organization name",
            "description": "What to call the organization in the marts.",
            "schema": {"type": ["string", "null"]},
        },
        "start_date": {
            "label": "First day",
            "description": "YYYY-MM-DD, UTC: where history begins. Without it: 365 days ago.",
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
            "description": "Tells usage and costs of a project apart by the id of the API key. Costs no further call.",
            "schema": {"type": ["boolean", "null"], "default": False},
        },
        "per_user": {
            "label": "Numbers per user",
            "description": "Tells usage apart by the id of the user who owns the key; in raw only. Costs no further call.",
            "schema": {"type": ["boolean", "null"], "default": False},
        },
    },
}
