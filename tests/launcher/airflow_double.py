"""Airflow's REST API over real HTTP, as far as the launcher speaks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

TOKEN = "token-of-the-double"
PASSWORD = "right-password"


class AirflowDouble:
    """What the API serves and what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.connections: dict[str, dict[str, Any]] = {}
        self.variables: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        """Path → answers one after the other; the last one stays."""
        self.changes: list[tuple[str, str]] = []
        self.logins = 0
        self.tokens = {TOKEN}

    def answer(self, method: str, path: str, body: Any, authorization: str) -> tuple[int, Any]:
        if path == "/auth/token":
            self.logins += 1
            self.tokens.add(TOKEN)
            return (201, {"access_token": TOKEN}) if body["password"] == PASSWORD else (401, {"detail": "no"})
        if authorization.removeprefix("Bearer ") not in self.tokens and path != "/api/v2/monitor/health":
            return 401, {"detail": "Not authenticated"}
        if method != "GET":
            self.changes.append((method, path))
        if path in self.answers:
            planned = self.answers[path]
            return planned.pop(0) if len(planned) > 1 else planned[0]
        for name, key, store in (
            ("connections", "connection_id", self.connections),
            ("variables", "key", self.variables),
        ):
            if path.startswith(f"/api/v2/{name}"):
                return self._stored(method, path.removeprefix(f"/api/v2/{name}").strip("/"), body, name, key, store)
        return 404, {"detail": f"nothing at {path}"}

    @staticmethod
    def _stored(
        method: str, identity: str, body: Any, name: str, key: str, store: dict[str, dict[str, Any]]
    ) -> tuple[int, Any]:
        if method == "POST":
            if body[key] in store:
                return 409, {"detail": "exists"}
            store[body[key]] = body
            return 201, body
        if not identity:
            return 200, {name: list(store.values()), "total_entries": len(store)}
        if identity not in store:
            return 404, {"detail": "not found"}
        if method == "PATCH":
            store[identity] |= body
        return 200, store[identity]


@contextmanager
def airflow_double() -> Iterator[AirflowDouble]:
    """Serve a double for as long as the block runs."""
    double = AirflowDouble()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = urlsplit(self.path).path
            status, content = double.answer(self.command, path, body, self.headers.get("Authorization") or "")
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        double.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield double
        finally:
            server.shutdown()
