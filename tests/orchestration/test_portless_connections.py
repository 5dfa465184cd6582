"""Airflow's own API, asked for a test the way its page asks: with port 0 and without the key."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from ai_usage import connection_types
from ai_usage.orchestration.portless import ROUTE, PortlessConnections, without_port_zero
from tests.core.http_server import Server, answer

KEY = "canary-key-6d1f0a93b2c84e57"

PRESS_TEST = """
import json, sys

stored, asked = json.loads(sys.argv[1])
from airflow.utils.db import initdb
initdb()
from airflow.api_fastapi.app import create_app
from starlette.testclient import TestClient

with TestClient(create_app(), base_url="http://127.0.0.1") as page:
    page.headers["Authorization"] = "Bearer " + page.get("/auth/token").json()["access_token"]
    assert page.post("/api/v2/connections", json=stored).status_code == 201
    answered = page.post("/api/v2/connections/test", json=asked)
print(json.dumps([answered.status_code, answered.json()]), file=sys.stderr)
"""


def press_test(repository: Path, home: Path, stored: dict[str, Any], asked: dict[str, Any]) -> tuple[int, Any]:
    """Store a connection, and return what Airflow answers to the button."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PRESS_TEST, json.dumps([stored, asked])],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": str(repository / "plugins"),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-this-test-" * 4,
        },
    )
    assert done.returncode == 0, done.stderr
    status, answered = json.loads(done.stderr.splitlines()[-1])
    return status, answered


def test_the_button_uses_the_stored_key_of_a_connection_without_a_port(repository: Path, tmp_path: Path) -> None:
    conn_type = connection_types.load(connection_types.names()[0])["connection-type"]
    with Server([answer(401, b"{}")]) as server:
        stored = {"connection_id": "portless", "conn_type": conn_type, "host": server.url, "password": KEY}
        asked = stored | {"password": "***", "port": 0, "schema": "", "login": "", "description": "", "extra": "{}"}
        status, answered = press_test(repository, tmp_path, stored, asked)

    assert status == 200
    assert answered["status"] is False
    assert server.requests, answered
    assert any(KEY in value for value in server.requests[0].headers.values())


def test_only_a_port_of_zero_is_taken_out() -> None:
    assert json.loads(without_port_zero(b'{"port": 0, "host": "a"}')) == {"host": "a"}
    for body in (b'{"port": 8443}', b'{"port": null}', b'{"host": "a"}', b"[0]", b"not json", b"", b"\xff"):
        assert without_port_zero(body) == body


@pytest.mark.parametrize(
    ("method", "path", "is_rewritten"),
    [
        ("POST", ROUTE, True),
        ("POST", f"/prefix{ROUTE}", True),
        ("POST", "/api/v2/connections", False),
        ("GET", ROUTE, False),
    ],
)
def test_only_tests_are_touched_and_a_body_in_pieces_arrives_whole(method: str, path: str, is_rewritten: bool) -> None:
    pieces = [b'{"connection_id": "a", ', b'"port": 0}']
    arrived: list[bytes] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(_: MutableMapping[str, Any]) -> None:
        raise AssertionError

    async def app(_: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            arrived.append(message["body"])
            more = message["more_body"]

    asyncio.run(PortlessConnections(app)({"type": "http", "method": method, "path": path}, receive, send))

    assert ("port" not in json.loads(b"".join(arrived))) is is_rewritten
    assert json.loads(b"".join(arrived))["connection_id"] == "a"


def test_a_client_that_goes_away_is_passed_on() -> None:
    async def gone() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def app(_: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.disconnect"

    async def send(_: MutableMapping[str, Any]) -> None:
        raise AssertionError

    asyncio.run(PortlessConnections(app)({"type": "http", "method": "POST", "path": ROUTE}, gone, send))
