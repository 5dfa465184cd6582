"""
Add the sandbox's connections to Airflow, those that are not there yet, and start every provider's DAG once.

Runs at each start of the profile ``sandbox``. A connection that exists is left as it is, and so is a run that was started
before; what an earlier start did not get to is done by the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from ai_usage import providers

_API = "http://airflow-apiserver:8080"
_OFFER = "http://127.0.0.1:8490/_connections"
_RUN = "sandbox_connected"
# A small machine reads the DAG files in minutes, while every other part starts as well.
_PATIENCE_SECONDS = 600


def main() -> int:
    """Connect, and say what was added."""
    offer = ask()
    known = {one["conn_id"] for one in json.loads(airflow("connections", "list", "--output", "json"))}
    missing = [one for one in offer["connections"] if one["connection_id"] not in known]
    with tempfile.TemporaryDirectory() as folder:
        if missing:
            content = {one.pop("connection_id"): connection(one) for one in missing}
            airflow("connections", "import", write(Path(folder, "connections.json"), content))
            variables = {"ai_usage_connections": offer["variable"]}
            airflow("variables", "import", write(Path(folder, "variables.json"), variables))
    print(f"sandbox: {len(missing)} connections added, {len(known)} were there", file=sys.stderr)
    token = log_in()
    # Not every connection is a source: Authress has one for the place where its audit stream lies.
    for provider in sorted({one["provider"] for one in offer["connections"]} & set(providers.names())):
        start(f"{provider}_usage", token)
    return 0


def start(dag: str, token: str) -> None:
    """Trigger a DAG, as soon as Airflow has read its file: the run of this hour may have begun without connections."""
    until = time.monotonic() + _PATIENCE_SECONDS
    run = {"dag_run_id": _RUN, "logical_date": None}
    while True:
        try:
            call(f"/api/v2/dags/{dag}/dagRuns", run, {"Authorization": f"Bearer {token}"})
            break
        except HTTPError as error:
            if error.code == HTTPStatus.CONFLICT:  # an earlier start triggered it
                return
            if error.code != HTTPStatus.NOT_FOUND or time.monotonic() > until:
                raise
            time.sleep(3)
    print(f"sandbox: started {dag}", file=sys.stderr)


def log_in() -> str:
    """Return a token of Airflow's API, with the UI's first user."""
    user, password = os.environ.get("AI_USAGE_UI_USER", "admin"), os.environ["AI_USAGE_UI_PASSWORD"]
    token: str = call("/auth/token", {"username": user, "password": password}, {})["access_token"]
    return token


def call(path: str, content: object, headers: dict[str, str]) -> Any:
    """Post JSON to Airflow's API server and return its answer."""
    body = json.dumps(content).encode()
    asked = Request(  # noqa: S310 - the scheme is ours
        _API + path, data=body, headers={"Content-Type": "application/json"} | headers
    )
    with build_opener(ProxyHandler({})).open(asked, timeout=30) as answer:
        return json.load(answer)


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
