"""The form of a Replicate connection in Airflow. Data only: Airflow reads it before it can import anything."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "ai_usage_replicate",
    "hook-name": "Replicate (AI usage)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"password": "API token", "host": "Address"},
        "placeholders": {
            "password": "r8_… from replicate.com/account/api-tokens",
            "host": "https://api.replicate.com/v1 (leave empty)",
        },
    },
    "conn-fields": {
        "account_id": {
            "label": "User or organization",
            "description": "Its name at Replicate. Replicate tells whose token it is; with this, a token of anyone else is "
            "refused.",
            "schema": {"type": ["string", "null"]},
        },
        "account_name": {
            "label": "Display name",
            "description": "What to call the account in the marts.",
            "schema": {"type": ["string", "null"]},
        },
        "start_date": {
            "label": "First day",
            "description": "YYYY-MM-DD, UTC: where history begins. Without it: 365 days ago. A hundred predictions cost one "
            "call.",
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
