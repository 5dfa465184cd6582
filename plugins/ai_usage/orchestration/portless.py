"""
The **Test** button of connections that have no port.

Airflow's page sends port 0 for them. Airflow 3.3.1 and 3.3.2 take that for another address than the stored one, keep the
stored key back, and answer ``400 Bad Request``, so that no connection without a port can be tested from the page. Later
versions of Airflow take 0 for no port, as is done here; then this module has nothing left to do.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ROUTE = "/api/v2/connections/test"


class PortlessConnections:
    """
    Takes a port of 0 out of what the page asks to have tested: what is not named is what is stored.

    :param app: the application around which it stands, as ASGI has it.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a call on."""
        is_test = scope["type"] == "http" and scope["method"] == "POST" and str(scope["path"]).endswith(ROUTE)
        await self._app(scope, _Rewritten(receive) if is_test else receive, send)


class _Rewritten:
    """A request whose body is read whole and handed on in one piece."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_read = False

    async def __call__(self) -> Message:
        if self._is_read:
            return await self._receive()
        self._is_read = True
        body, more = b"", True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            body, more = body + message.get("body", b""), message.get("more_body", False)
        return {"type": "http.request", "body": without_port_zero(body), "more_body": False}


def without_port_zero(body: bytes) -> bytes:
    """Return the body without its port if that is 0, and anything else as it is."""
    try:
        asked = json.loads(body)
    except ValueError:
        return body
    if not isinstance(asked, dict) or asked.get("port") != 0:
        return body
    del asked["port"]
    return json.dumps(asked).encode()
