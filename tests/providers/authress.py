"""Authress connections as Airflow makes them, and streams written by hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ai_usage.core.contract import Connection, Memory, Record
from ai_usage.core.slices import Window
from ai_usage.orchestration.clients import open_connection
from ai_usage.providers.authress import AuthressProvider
from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.providers.aws import TODAY

PROVIDER = AuthressProvider(today=lambda: TODAY)
STREAM = PROVIDER.streams[0]
DAY = date(2026, 8, 10)


def connect(monkeypatch: pytest.MonkeyPatch, connection_id: str = "authress_test", **fields: Any) -> Connection:
    """Return what the product makes of an Airflow connection, without pauses."""
    known = {"conn_type": "ai_usage_authress", "extra": {}} | fields
    monkeypatch.setenv(f"AIRFLOW_CONN_{connection_id.upper()}", json.dumps(known))
    return opened(connection_id)


def opened(connection_id: str) -> Connection:
    """Return a connection that Airflow knows, without pauses."""
    connection = open_connection(PROVIDER, connection_id, Memory())
    connection.client.landing._sleep = lambda _: None
    connection.client.landing.deadline = 20
    return connection


def of_sandbox(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, connection_id: str) -> Connection:
    """Return a connection of the sandbox."""
    for name, value in environment(sandbox.connections()).items():
        monkeypatch.setenv(name, value)
    return opened(connection_id)


def in_folder(monkeypatch: pytest.MonkeyPatch, folder: Path, **extra: Any) -> Connection:
    """Return a connection that reads a folder."""
    return connect(monkeypatch, extra={"location": str(folder)} | extra)


def extract(connection: Connection, first: date, last: date = TODAY) -> list[Record]:
    """Return the records of a window."""
    scope = PROVIDER.scopes(connection)[0]
    connection.journal.clear()
    return list(PROVIDER.extract(connection, STREAM, scope, Window(first, last)))


def counts(records: Iterable[Record]) -> dict[tuple[Any, ...], int]:
    """Return (day, resource, operation, result) → count."""
    return {
        (day, record["resource"], record["operation"], record.get("result")): record["count"] for day, record in records
    }


def notes(connection: Connection) -> list[str]:
    """Return the kinds of the notes that an extraction left."""
    return sorted({note.kind for note in connection.journal.notes})


def check(event_id: str, uri: str = "/documents/7", *, day: date = DAY, hour: int = 12, **more: Any) -> dict[str, Any]:
    """Return a permission check as Authress documents it."""
    detail = {
        "eventId": event_id,
        "user": {"userId": "user_secret_42"},
        "resource": {"resourceUri": uri},
        "permission": {"action": more.pop("action", "documents:read")},
        "authorizationResult": more.pop("result", "ALLOWED"),
    }
    return {"detail-type": "AuthorizationRequest", "time": f"{day}T{hour:02d}:42:06Z", "detail": detail | more}


def write(folder: Path, name: str, events: Iterable[Any], tail: bytes = b"", *, packed: bool = False) -> Path:
    """Write a file of a stream."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b"".join((event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n" for event in events)
    path.write_bytes(gzip.compress(content + tail) if packed else content + tail)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for a stream, with something in it long ago."""
    write(tmp_path, "2026/07/01/first.ndjson", [check("first", day=date(2026, 7, 1))])
    yield tmp_path
