"""
HTTP for the simulators: requests in, responses out, and the many ways in which a response can arrive broken.

The server listens on the loopback interface only.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from sandbox.errors import SandboxError

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """
    One request, read to its end.

    :param path: the path that follows the simulator's own prefix; begins with a slash.
    :param target: the whole request target as it came over the wire: what a client has signed.
    :param headers: by lower-case name.
    """

    method: str
    path: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def query(self) -> dict[str, str]:
        """The query string's last value of each name."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def form(self) -> dict[str, str]:
        """The form fields of an urlencoded body."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    def header(self, name: str) -> str:
        """Return one header, or an empty text."""
        return self.headers.get(name.lower(), "")


class Delivery(Enum):
    """How a response travels."""

    WHOLE = "whole"
    CUT_SHORT = "cut_short"  # announces its full length, sends half, closes politely
    RESET = "reset"  # sends half, then resets the connection
    DRIP = "drip"  # byte by byte
    CHUNK_CUT = "chunk_cut"  # in chunks, and closes before the last


@dataclass(frozen=True)
class Response:
    """
    One response.

    :param pause: seconds between two bytes of a dripping response.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery.WHOLE
    pause: float = 0.0


def json_response(content: Any, status: int = 200) -> Response:
    """Return a JSON response; dates and decimals, which JSON lacks, travel as text."""
    body = json.dumps(content, default=str, indent=2).encode() + b"\n"
    return Response(status, body, {"Content-Type": "application/json"})


class Server:
    """
    A threaded HTTP/1.1 server on the loopback interface.

    :param port: the port to take; 0 for any free one.
    :param handle: answers one request.
    :raises SandboxError: the port is taken.
    """

    def __init__(self, port: int, handle: Callable[[Request], Response]) -> None:
        handler = type("Handler", (_Handler,), {"answer": staticmethod(handle)})
        try:
            self._server = _ThreadingServer((LOOPBACK, port), handler)
        except OSError as error:
            raise SandboxError(f"Port {port} cannot be used ({error.strerror}). Choose another with --port.") from error
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="sandbox-http", daemon=True)

    @property
    def url(self) -> str:
        """The server's address, without a slash at its end."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _ThreadingServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up is what half of the faults are about, hence no news.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    answer: ClassVar[Callable[[Request], Response]]
    protocol_version = "HTTP/1.1"
    # The default, unbuffered, sends headers and body apart, and Nagle's algorithm then costs 40 ms per kept-alive call.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.headers.get("Transfer-Encoding"):
            self._send(json_response({"error": "send a Content-Length; chunked requests are not read here"}, 411))
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES:
            self._send(json_response({"error": f"more than {MAX_BODY_BYTES} bytes"}, 413))
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(length)
        request = Request(self.command, urlsplit(self.path).path or "/", self.path, headers, body)
        self._send(self._answer_or_apologise(request))

    do_POST = do_PUT = do_DELETE = do_GET

    def _answer_or_apologise(self, request: Request) -> Response:
        try:
            return type(self).answer(request)
        except SandboxError as error:
            return json_response({"error": str(error)}, 400)
        except Exception as error:
            traceback.print_exc()
            return json_response({"error": f"the sandbox itself failed: {error!r}"}, 500)

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.delivery is Delivery.CHUNK_CUT:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if response.delivery is Delivery.WHOLE:
            self.wfile.write(response.body)
        elif response.delivery is Delivery.DRIP:
            self._drip(response)
        else:
            self._break_off(response)

    def _drip(self, response: Response) -> None:
        for position in range(len(response.body)):
            self.wfile.write(response.body[position : position + 1])
            self.wfile.flush()
            time.sleep(response.pause)

    def _break_off(self, response: Response) -> None:
        half = response.body[: len(response.body) // 2]
        if response.delivery is Delivery.CHUNK_CUT:
            half = b"%x\r\n%s\r\n" % (len(half), half)
        self.wfile.write(half)
        self.wfile.flush()
        self.close_connection = True
        if response.delivery is Delivery.RESET:
            # A reset throws away what the client has not read yet, so leave it the time to read the half.
            time.sleep(0.05)
            # Without lingering, close() discards what is unsent and sends RST in place of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
            raise ConnectionResetError("as the fault demands")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: ``/_requests`` counts."""
