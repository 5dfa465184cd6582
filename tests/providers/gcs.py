"""As much of Google Cloud Storage, over HTTP on loopback, as is needed to list and read a bucket."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

BUCKET = "landing"
TOKEN = "token-of-the-service-account"
_KEY = generate_private_key(65537, 2048)

Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class FakeStorage:
    """
    One bucket, and the token endpoint of a service account.

    :param spoil: is given the operation and the answer, and may return another.
    """

    page_size: int = 1000
    objects: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    spoil: Callable[[str, Answer], Answer] = lambda _, answer: answer

    def __enter__(self) -> FakeStorage:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                status, content, headers = fake.answer(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                if "Content-Length" in headers:  # one that is not true
                    self.close_connection = True

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def connection_extra(self) -> dict[str, Any]:
        """Return the extra of an Airflow connection with a service account's key."""
        pem = _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        key = {
            "type": "service_account",
            "project_id": "a-project",
            "private_key_id": "k1",
            "private_key": pem,
            "client_email": "reader@a-project.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        return {"keyfile_dict": json.dumps(key), "project": "a-project", "api_endpoint": self.url}

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if (method, parts.path) == ("POST", "/token"):
            self.calls.append("token")
            assert parse_qs(body.decode())["assertion"]
            return self._spoilt("token", _json({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}))
        if headers.get("Authorization", headers.get("authorization")) != f"Bearer {TOKEN}":
            return _error(401, "Invalid Credentials")
        if parts.path == f"/storage/v1/b/{BUCKET}/o":
            self.calls.append("list")
            return self._spoilt("list", self._list(query))
        prefix = f"/download/storage/v1/b/{BUCKET}/o/"
        if parts.path.startswith(prefix) and query.get("alt") == "media":
            self.calls.append("get")
            return self._spoilt("get", self._get(unquote(parts.path.removeprefix(prefix)), query))
        return _error(404, f"nothing at {parts.path}")

    def _spoilt(self, operation: str, answer: Answer) -> Answer:
        return self.spoil(operation, answer)

    def _list(self, query: dict[str, str]) -> Answer:
        start, end = query.get("startOffset", ""), query.get("endOffset")
        names = [
            name
            for name in sorted(self.objects)
            if name.startswith(query.get("prefix", "")) and name >= start and (end is None or name < end)
        ]
        begin = int(query.get("pageToken", "0"))
        size = min(self.page_size, int(query["maxResults"]))
        items = [
            {
                "name": name,
                "size": str(len(self.objects[name])),
                "generation": str(generation_of(self.objects[name])),
                "updated": datetime(2026, 8, 10, tzinfo=UTC).isoformat().replace("+00:00", ".123Z"),
            }
            for name in names[begin : begin + size]
        ]
        page: dict[str, Any] = {"kind": "storage#objects"} | ({"items": items} if items else {})
        return _json(page | ({"nextPageToken": str(begin + size)} if begin + size < len(names) else {}))

    def _get(self, name: str, query: dict[str, str]) -> Answer:
        content = self.objects.get(name)
        if content is None or query.get("generation") != str(generation_of(content)):
            return _error(404, "No such object")
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        return 200, content, {"Content-Type": "application/json", "X-Goog-Hash": f"md5={digest}"}


def generation_of(content: bytes) -> int:
    """Return a number that changes with the content."""
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big")


def _json(content: Any, status: int = 200) -> Answer:
    return status, json.dumps(content).encode(), {"Content-Type": "application/json"}


def _error(status: int, message: str) -> Answer:
    return _json({"error": {"code": status, "message": message}}, status)
