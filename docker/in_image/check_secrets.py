"""
Refuse to start on a secret that is missing, too short, or known to everybody.

Each part checks those it is given. The generated ones consist of letters, digits, ``-``, ``_`` and ``=``, so that they stand
in addresses and in JSON as they are; others are refused for the same reason.
"""

from __future__ import annotations

import os
import re
import sys
from base64 import urlsafe_b64decode

SECRETS = (
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AI_USAGE_ADMIN_PASSWORD",
    "AI_USAGE_AIRFLOW_DB_PASSWORD",
    "AI_USAGE_WAREHOUSE_PASSWORD",
    "AI_USAGE_READER_PASSWORD",
    "AI_USAGE_UI_PASSWORD",
)
_SHORTEST = 16
_WELL_KNOWN = re.compile(r"(?i)change.?me|password|secret|example|default|airflow|postgres|admin|12345|(.)\1{7}")
_PLAIN = re.compile(r"[A-Za-z0-9_=,-]+")


def complaints(environment: dict[str, str]) -> list[str]:
    """Return one sentence per secret that must not be used."""
    return [
        f"{name} {fault}." for name in SECRETS if name in environment and (fault := _fault(name, environment[name]))
    ]


def _fault(name: str, value: str) -> str | None:
    if len(value) < _SHORTEST:
        return f"is empty or shorter than {_SHORTEST} characters"
    if _WELL_KNOWN.search(value):
        return "looks like a default that anybody could guess"
    if not _PLAIN.fullmatch(value):
        return "has characters other than letters, digits, '-', '_' and '='"
    if name == "AIRFLOW__CORE__FERNET_KEY" and not all(_is_fernet(key) for key in value.split(",")):
        return "is no Fernet key (32 bytes in URL-safe base64; several are separated by commas, the newest first)"
    return None


def _is_fernet(key: str) -> bool:
    try:
        return len(urlsafe_b64decode(key)) == 32
    except ValueError:
        return False


if __name__ == "__main__":
    if found := complaints(dict(os.environ)):
        print(
            "This stack does not start on unsafe secrets:", *(f"  - {one}" for one in found), sep="\n", file=sys.stderr
        )
        print("`docker/make-env` writes good ones into .env; docs/deploy.md tells how to replace one.", file=sys.stderr)
        sys.exit(2)
