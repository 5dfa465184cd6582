"""The form of a Fireworks AI connection in Airflow. Data only: Airflow reads it before it can import anything."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "ai_usage_fireworks",
    "hook-name": "Fireworks AI (AI usage)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"password": "API key", "host": "Address"},
        "placeholders": {
            "password": "fw_… of an administrator of the account",
            "host": "https://api.fireworks.ai/v1 (leave empty)",
        },
    },
    "conn-fields": {
        "accounts": {
            "label": "Accounts",
            "description": "Short names (the acme of accounts/acme), separated by commas. Without them: every account that "
            "the key reaches.",
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
        "readings_per_run": {
            "label": "Readings per run",
            "description": "How often a run reads the gauges of dedicated deployments, a minute apart, while any is up. "
            "Without it: 9 of the 10 minutes between two runs. The task lasts as long.",
            "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 60},
        },
    },
}
