"""
Whether an Airflow part does its work: ``healthy.py scheduler``, exit status 0 or 1.

The API server tells of all parts by the heartbeats in the database. A part asks for itself, so that one whose process lives
but does nothing is found out too.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.request import ProxyHandler, build_opener

_API = os.environ.get("AI_USAGE_API_ADDRESS", "http://airflow-apiserver:8080")


def main(part: str) -> int:
    """Ask the API server about one part; about itself: whether it answers."""
    try:
        with build_opener(ProxyHandler({})).open(f"{_API}/api/v2/monitor/health", timeout=8) as answer:
            health = json.load(answer)
    except (OSError, ValueError) as error:
        print(f"the API server does not answer: {error}")
        return 1
    status = health.get("metadatabase" if part == "api_server" else part, {}).get("status")
    print(f"{part}: {status}")
    return 0 if status == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
