"""A server that repeats to its callers every secret it can think of, in every way in which a server can answer."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from sandbox.http import Delivery, Request, Response, Server

STATUSES = {"status_400": 400, "status_401": 401, "status_403": 403, "status_404": 404, "status_429": 429}
STATUSES |= {"status_500": 500}
FAULTS = (
    *STATUSES,
    "html",
    "html_403",
    "truncated",
    "reset",
    "redirect",
    "not_json",
    "payload",
    "no_token",
    "refused_connection",
)


class EvilServer:
    """
    Answers below ``/<fault>/`` with that fault.

    :param secrets: what it repeats, beside what it is sent.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = list(secrets)
        self.received: list[Request] = []
        self._server = Server(0, self._answer)

    def __enter__(self) -> EvilServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def url(self, fault: str) -> str:
        """Return the base address at which the fault happens."""
        return "http://127.0.0.1:9/refused" if fault == "refused_connection" else f"{self._server.url}/{fault}"

    def _answer(self, request: Request) -> Response:
        self.received.append(request)
        fault = request.path.split("/")[1]
        if "token" in request.path.rpartition("/")[2] and fault != "no_token":
            return _json({"access_token": token(fault), "expires_in": 3600, "token_type": "Bearer"})
        echo = self._echo(request)
        if fault in STATUSES:
            return _json(error(echo), STATUSES[fault])
        match fault:
            case "html":
                return Response(200, f"<html><body>{echo}</body></html>".encode(), {"Content-Type": "text/html"})
            case "html_403":
                return Response(403, f"<html><body>{echo}</body></html>".encode(), {"Content-Type": "text/html"})
            case "truncated":
                return Response(200, _json(error(echo)).body, {"Content-Type": "application/json"}, Delivery.CUT_SHORT)
            case "reset":
                return Response(200, _json(error(echo)).body, {"Content-Type": "application/json"}, Delivery.RESET)
            case "redirect":
                target = f"http://127.0.0.1:9/?key={quote(echo[:3000])}"
                return Response(302, b"", {"Location": target, "Content-Type": "text/plain"})
            case "not_json":
                return Response(200, echo.encode(), {"Content-Type": "text/plain"})
            case "payload":
                return _json(payload(echo, self.secrets))
            case _:
                return _json(error(echo), 400)

    def _echo(self, request: Request) -> str:
        sent = [f"{name}: {value}" for name, value in request.headers.items() if name != "host"]
        sent.append(request.body.decode("utf-8", "replace"))
        known = [*self.secrets, *(quote(secret, safe="") for secret in self.secrets)]
        known += [base64.b64encode(secret.encode()).decode() for secret in self.secrets]
        return " ".join(["You sent", *sent, "and I know", *known])


def token(fault: str) -> str:
    """Return the access token that is handed out: as secret as the credential it is given for."""
    return f"access-token-Canary%2B+/={fault}-0123456789"


def error(echo: str) -> dict[str, Any]:
    """Return an error in everybody's shape at once."""
    detail = {"message": echo, "reason": echo, "code": echo, "domain": echo, "type": echo, "target": echo}
    whole = detail | {"errors": [detail], "details": [detail], "status": echo, "param": echo, "innererror": detail}
    return whole | {"error": whole, "error_description": echo, "error_codes": [echo], "detail": echo, "title": echo}


def payload(echo: str, secrets: list[str]) -> dict[str, Any]:
    """Return an answer that goes a long way as anybody's, and repeats the secrets in all its texts."""
    texts: dict[str, Any] = {f"field_{n}": secret for n, secret in enumerate(secrets)}
    texts |= dict.fromkeys(("model", "name", "id", "project_id", "account_id", "description", "message"), echo)
    row = texts | {"amount": {"value": "1.0", "currency": echo}, "results": [texts], "metric": texts, "labels": texts}
    lists = ("data", "results", "value", "items", "rows", "usage", "accounts", "MetricDataResults")
    items = {name: [row] for name in lists}
    return items | texts | {"has_more": False, "next_page": None, "status": echo, "object": "page"}


def _json(content: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(content).encode(), {"Content-Type": "application/json"})
