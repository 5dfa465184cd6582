"""The form of an Anthropic connection in Airflow. Data only: Airflow reads it before it can import anything."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "ai_usage_anthropic",
    "hook-name": "Anthropic (AI usage)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"password": "Admin API key", "host": "Address"},
        "placeholders": {
            "password": "sk-ant-admin01-… from the Claude Console, Settings, Admin keys",
            "host": "https://api.anthropic.com; change it only for a proxy of your own",
        },
    },
    "conn-fields": {
        "account_name": {
            "label": "Account name",
            "description": "What to call the organisation in the marts. Without it: the name Anthropic gives.",
            "schema": {"type": ["string", "null"]},
        },
        "account_id": {
            "label": "Organisation id",
            "description": "Optional, recommended: the organisation this is meant to be; another one's key is refused.",
            "schema": {"type": ["string", "null"]},
        },
        "start_date": {
            "label": "First day",
            "description": "YYYY-MM-DD, UTC: how far back the initial history goes. Without it: 365 days.",
            "schema": {"type": ["string", "null"], "format": "date"},
        },
        "lookback_days": {
            "label": "Look-back in days",
            "description": 'How many days back every run reads again, settled or not: a number, or "recommended". Without '
            "it: what this version of the project says.",
            "schema": {"type": ["string", "null"]},
        },
        "reports": {
            "label": "Reports",
            "description": "classic; or analytics, Anthropic's newer reports in beta, which also count requests.",
            "schema": {"type": ["string", "null"], "enum": ["classic", "analytics"], "default": "classic"},
        },
    },
}
