"""The form of an Authress connection in Airflow. Data only: Airflow reads it before it can import anything."""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "ai_usage_authress",
    "hook-name": "Authress (API usage)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "login", "port", "extra"],
        "relabeling": {"password": "Access key (optional)", "host": "API address"},
        "placeholders": {
            "password": "of a service client without rights; only to verify the account",
            "host": "https://login.example.com for a custom domain; otherwise leave empty",
        },
    },
    "conn-fields": {
        "location": {
            "label": "Where the audit stream lands",
            "description": "s3://bucket/folder, gs://bucket/folder, or a folder such as /data/authress for trials.",
            "schema": {"type": ["string", "null"]},
        },
        "storage_connection": {
            "label": "Connection of the bucket",
            "description": "The id of an Airflow connection of type aws (S3) or google_cloud_platform (Google) that may "
            "list and read the bucket.",
            "schema": {"type": ["string", "null"]},
        },
        "day_folders": {
            "label": "Folders of days",
            "description": "How names begin. Without it {year}/{month}/{day}, as Firehose writes them; none if names say "
            "nothing of days.",
            "schema": {"type": ["string", "null"]},
        },
        "resource_templates": {
            "label": "Resource templates",
            "description": "Separated by commas, the first that fits counts: /organizations/{id}/documents/{id}. Without "
            "them, every second part of a path counts as an id.",
            "schema": {"type": ["string", "null"]},
        },
        "events": {
            "label": "What to count",
            "description": "checks (the default); beside it perhaps access_changes and logins, separated by commas.",
            "schema": {"type": ["string", "null"]},
        },
        "account_id": {
            "label": "Account id",
            "description": "acc-…; the access key's own if there is one.",
            "schema": {"type": ["string", "null"]},
        },
        "account_name": {
            "label": "Account name",
            "description": "What to call the account in the marts.",
            "schema": {"type": ["string", "null"]},
        },
        "start_date": {
            "label": "First day",
            "description": "YYYY-MM-DD, UTC: where history begins. Without it: 365 days ago; never before the first object.",
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
