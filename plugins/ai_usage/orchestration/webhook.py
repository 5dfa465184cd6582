"""
Messages to a webhook: Slack, Teams, or anything that takes JSON.

The address of a webhook is a secret: whoever knows it can write into the channel. It appears in no log and no error, which
is why the call is made with Python's own client: it logs nothing, where ``urllib3`` logs every path it asks for.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

import certifi
from airflow.sdk import BaseNotifier

from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.core.http.address import checked_base_url, is_loopback
from ai_usage.core.http.deadline import DeadlineExceededError, call_within
from ai_usage.core.http.limits import retry_after
from ai_usage.orchestration.clients import find_connection
from ai_usage.orchestration.messages import Message
from ai_usage.orchestration.settings import extra_of

WEBHOOK = "ai_usage_webhook"

Format = Literal["slack", "teams", "json"]
_FORMATS: Mapping[str, Callable[[Message], dict[str, Any]]] = {
    "slack": Message.as_slack,
    "teams": Message.as_teams,
    "json": Message.as_json,
}
_HOSTS: Mapping[str, Format] = {
    "hooks.slack.com": "slack",
    "hooks.slack-gov.com": "slack",
    ".webhook.office.com": "teams",
    ".logic.azure.com": "teams",
    ".powerplatform.com": "teams",
}
_ATTEMPTS = 3
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_READ_TIMEOUT = 10.0
_ANSWER_TIMEOUT = 15.0
_LONGEST_WAIT = 10.0
_MOST_BYTES_OF_ANSWER = 4096


class NotDelivered(UsageError):
    """A message did not reach its receiver. It is told again with the next news."""

    kind = "notification_failed"
    is_permanent = False


@dataclass(frozen=True)
class Receiver:
    """
    Where messages go.

    :param url: the whole address, secret part included; never shown.
    :param token: sent as a bearer token, where the receiver wants one.
    """

    url: str
    format: Format
    token: str | None = None

    def __repr__(self) -> str:
        return f"Receiver(format={self.format!r})"


class WebhookNotifier(BaseNotifier):
    """
    Sends one message to the webhook of an Airflow connection.

    :param message: what to tell.
    :param http_conn_id: the connection, of type ``http``.
    :param sleep: how to wait between attempts; only tests give another.

    Nothing of it is a template: words of a provider must not be run by Airflow's renderer.
    """

    template_fields = ()

    def __init__(
        self, message: Message, http_conn_id: str = WEBHOOK, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        super().__init__()
        self._message = message
        self._connection_id = http_conn_id
        self._sleep = sleep

    def notify(self, context: Any) -> None:  # noqa: ARG002 - Airflow hands it to every notifier
        """
        Send the message.

        :raises ConfigurationInvalid: if the connection is not usable.
        :raises NotDelivered: if the receiver does not take the message.
        """
        found = find_connection(self._connection_id)
        if found is None:
            raise ConfigurationInvalid(
                "There is no such connection.",
                action="Add it; docs/notifications.md shows how.",
                connection_id=self._connection_id,
            )
        receiver = receiver_of(found)
        body = json.dumps(_FORMATS[receiver.format](self._message), ensure_ascii=True).encode()
        self._post(receiver, body)

    def _post(self, receiver: Receiver, body: bytes) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                status, wait = call_within(_ANSWER_TIMEOUT, _post_once, receiver, body)
            except DeadlineExceededError:
                status, wait, happened = 0, None, "The receiver did not answer in time."
            except (OSError, HTTPException, ValueError) as error:
                # Only the kind of the error: its text may hold the address.
                status, wait, happened = 0, None, f"The receiver could not be reached ({type(error).__name__})."
            else:
                if 200 <= status < 300:
                    return
                happened = f"The receiver answered {status}."
            if attempt == _ATTEMPTS or (status and status not in _TRY_AGAIN):
                raise NotDelivered(
                    happened,
                    action="See that the webhook still exists and takes this format. What was not told is told again.",
                    connection_id=self._connection_id,
                )
            self._sleep(min(_LONGEST_WAIT, wait if wait is not None else float(attempt)))


def receiver_of(found: Any) -> Receiver:
    """
    Return the receiver that an Airflow connection describes.

    :raises ConfigurationInvalid: if it does not; the address itself is never repeated.
    """
    extra = extra_of(found)
    if found.conn_type != "http":
        raise _invalid(found, f"It is of type {str(found.conn_type)[:40]!r}.", "Make it a connection of type http.")
    password = (found.password or "").strip()
    is_whole = password.lower().startswith(("https://", "http://"))
    url = _checked(found, password if is_whole else _address(found))
    wanted = extra.get("format")
    if wanted is not None and wanted not in _FORMATS:
        raise _invalid(found, "Its format is unknown.", "Set format to slack, teams or json, or leave it out.")
    return Receiver(url, wanted or _format_of(urlsplit(url).hostname or ""), None if is_whole else password or None)


def _address(found: Any) -> str:
    """Return the address from the connection's fields: host (with or without scheme), port and schema."""
    host = (found.host or "").strip()
    if not host or "://" in host:
        return host
    name, slash, path = host.partition("/")
    port = f":{found.port}" if found.port else ""
    return f"{found.schema or 'https'}://{name}{port}{slash}{path}"


def _checked(found: Any, url: str) -> str:
    """Return the address if it may be called; its query, in which Teams keeps a signature, is allowed."""
    try:
        parts = urlsplit(url)
        checked_base_url(urlunsplit(parts._replace(query="")), connection_id=found.conn_id)
    except ValueError:
        parts = None
    if parts is None or not parts.query.isprintable() or not parts.query.isascii() or " " in parts.query:
        raise _invalid(found, "Its address is not one.", "Put the whole https address into the field password.")
    return url


def _format_of(host: str) -> Format:
    return next(
        (format_ for name, format_ in _HOSTS.items() if host == name or (name[0] == "." and host.endswith(name))),
        "json",
    )


def _invalid(found: Any, happened: str, action: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        happened, action=f"{action} docs/notifications.md shows how.", connection_id=found.conn_id
    )


class _NoRedirect(HTTPRedirectHandler):
    """Takes a redirect for the refusal it is: the message goes to the address that was given, or nowhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""
        return


def _post_once(receiver: Receiver, body: bytes) -> tuple[int, float | None]:
    """Return the status of the answer and the seconds that it asks to wait."""
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "ai-usage"}
    if receiver.token:
        headers["Authorization"] = f"Bearer {receiver.token}"
    request = Request(receiver.url, data=body, headers=headers, method="POST")  # noqa: S310 - checked: http or https
    try:
        with _opener(receiver.url).open(request, timeout=_READ_TIMEOUT) as answer:
            answer.read(_MOST_BYTES_OF_ANSWER)
            return int(answer.status), None
    except HTTPError as refusal:
        with refusal:
            return int(refusal.code), retry_after(refusal.headers.get("Retry-After"))


def _opener(url: str) -> OpenerDirector:
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where()
    handlers: list[Any] = [_NoRedirect(), HTTPSHandler(context=ssl.create_default_context(cafile=bundle))]
    if is_loopback(urlsplit(url).hostname):
        handlers.append(ProxyHandler({}))
    return build_opener(*handlers)
