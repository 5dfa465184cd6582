"""A proxy in front of PostgreSQL that kills the client's process between two of its messages."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType


class KillingProxy:
    """
    Forwards to a PostgreSQL server on loopback and counts what the client sends.

    ``kill_at`` is the number of the message before whose delivery the process ``victim`` gets SIGKILL; 0 kills nobody.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._lock = threading.Lock()
        self._striking = threading.Lock()
        self.kill_at = 0
        self.victim: int | None = None
        self.strike: Callable[[], None] | None = None
        """What to do instead of killing the victim: killing the server, say."""
        self.messages = 0

    def __enter__(self) -> KillingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    def arm(self, kill_at: int) -> None:
        """Begin to count again."""
        with self._lock:
            self.kill_at, self.messages, self.victim = kill_at, 0, None

    def rest(self) -> None:
        """Wait until a strike that has begun is over."""
        with self._striking:
            self.strike = None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # the server was killed
                    client.close()
                    continue
                threading.Thread(target=self._forward_questions, args=(client, server), daemon=True).start()
                threading.Thread(target=_forward, args=(server, client), daemon=True).start()

    def _forward_questions(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as ends:
            ends.callback(_hang_up, client)
            ends.callback(_hang_up, server)
            while data := client.recv(65536):
                with self._lock:
                    self.messages += 1
                    is_due = bool(self.kill_at) and self.messages == self.kill_at
                if is_due and self.strike:
                    with self._striking:
                        self.strike()
                    return
                if is_due and self.victim:
                    os.kill(self.victim, signal.SIGKILL)
                    return
                server.sendall(data)


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as ends:
        ends.callback(_hang_up, source)
        ends.callback(_hang_up, sink)
        while data := source.recv(65536):
            sink.sendall(data)


def _hang_up(line: socket.socket) -> None:
    """Close a socket for both sides at once; closing alone waits for the other thread's pending read."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()
