"""
Add the sandbox's connections to Airflow, those that are not there yet, and start every provider's DAG once.

Runs once at each start of the profile ``sandbox``; a connection that exists is left as it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

_OFFER = "http://127.0.0.1:8490/_connections"
_PATIENCE_SECONDS = 120


def main() -> int:
    """Connect, and say what was added."""
    offer = ask()
    known = {one["conn_id"] for one in json.loads(airflow("connections", "list", "--output", "json"))}
    missing = [one for one in offer["connections"] if one["connection_id"] not in known]
    with tempfile.TemporaryDirectory() as folder:
        if missing:
            content = {one.pop("connection_id"): connection(one) for one in missing}
            airflow("connections", "import", write(Path(folder, "connections.json"), content))
            airflow(
                "variables",
                "import",
                write(Path(folder, "variables.json"), {"ai_usage_connections": offer["variable"]}),
            )
    print(f"sandbox: {len(missing)} connections added, {len(known)} were there", file=sys.stderr)
    return 0


def connection(offered: dict[str, Any]) -> dict[str, Any]:
    """Return a connection in the form that Airflow imports."""
    fields = ("conn_type", "description", "host", "login", "password", "schema", "port")
    return {name: offered[name] for name in fields if offered.get(name)} | {
        "extra": json.dumps(offered.get("extra", {}))
    }


def ask() -> dict[str, Any]:
    """Return what the sandbox offers, once it can be reached through this container's loopback."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with build_opener(ProxyHandler({})).open(_OFFER, timeout=5) as answer:
                offer: dict[str, Any] = json.load(answer)
                return offer
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def write(path: Path, content: object) -> str:
    """Write JSON and return where."""
    path.write_text(json.dumps(content))
    return str(path)


def airflow(*arguments: str) -> str:
    """Run one of Airflow's commands and return what it printed."""
    return subprocess.run(["airflow", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
