"""TCP ports on the loopback address: which are free, who has the others."""

from __future__ import annotations

import contextlib
import socket

import psutil

from launcher.errors import LauncherError

LOOPBACK = "127.0.0.1"
_TRIES = 50


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now."""
    for family, address in ((socket.AF_INET, LOOPBACK), (socket.AF_INET, "0.0.0.0")):  # noqa: S104 - probing, not serving
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port whose last connections are still winding down counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def any_free() -> int:
    """Return a port that was free a moment ago, chosen by the system."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def choose(preferred: int, *, taken: frozenset[int] = frozenset()) -> int:
    """Return ``preferred`` or the next free port above it, leaving out the ``taken`` ones."""
    for port in range(preferred, min(preferred + _TRIES, 65536)):
        if port not in taken and is_free(port):
            return port
    return any_free()


def parse(text: str, *, variable: str) -> int:
    """Return the port that ``variable`` holds as ``text``."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise LauncherError(f"{variable} is not a port: {text!r}.", action="Set it to a number from 1 to 65535.")
    return int(text)


def require(port: int, *, variable: str) -> int:
    """Return ``port``, which the user asked for in ``variable``, or say who has it."""
    if not is_free(port):
        raise LauncherError(
            f"Port {port}, which {variable} asks for, is in use{_holder(port)}.",
            action=f"Stop that program, set {variable} to another port, or leave it unset to have one chosen.",
        )
    return port


def _holder(port: int) -> str:
    """Return `` by <name> (process <id>)`` where the system lets us know, else nothing."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
