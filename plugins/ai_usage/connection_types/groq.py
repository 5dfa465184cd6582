"""The form of a Groq connection in Airflow. Data only: Airflow reads it before it can import anything."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "ai_usage_groq",
    "hook-name": "Groq (AI usage)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"password": "API key", "host": "Address"},
        "placeholders": {
            "password": "gsk_… of an organization on Groq's Enterprise plan, from console.groq.com/keys",
            "host": "https://api.groq.com/v1/metrics/prometheus (leave empty)",
        },
    },
    "conn-fields": {
        "account_id": {
            "label": "Organization id",
            "description": "org_…, from the organization's settings. The API does not tell it, so the marts show the "
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
            "description": "YYYY-MM-DD, UTC: where history begins, at most 90 days ago. Days that Groq knows nothing of "
            "stay missing.",
            "schema": {"type": ["string", "null"], "format": "date"},
        },
        "lookback_days": {
            "label": "Look-back in days",
            "description": 'How many days back every run reads again, settled or not: a number, or "recommended". Without '
            "it: what this version of the project says.",
            "schema": {"type": ["string", "null"]},
        },
    },
}
