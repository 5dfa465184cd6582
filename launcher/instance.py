"""One running instance per checkout: who runs, where its UI is, and how to end it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from launcher.errors import LauncherError
from launcher.postgres import Postgres
from launcher.private_file import write_private
from launcher.processes import is_running, kill_tree, marked_processes, stop_processes
from launcher.settings import INSTANCE_MARK
from launcher.state import State

_STOP_SECONDS = 25.0


@dataclass(frozen=True)
class Instance:
    """What a running instance says of itself."""

    pid: int
    ui: str


class AlreadyRunningError(LauncherError):
    """Another instance of this checkout runs."""


@contextlib.contextmanager
def only_instance(state: State) -> Iterator[None]:
    """Be the one instance of this checkout, or raise :class:`AlreadyRunningError`."""
    with state.run_lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            running = described(state)
            where = f" (process {running.pid}); its UI: {running.ui}" if running else ""
            raise AlreadyRunningError(
                f"This checkout is already running{where}.", action="`make stop` ends it."
            ) from None
        try:
            yield
        finally:
            state.instance_file.unlink(missing_ok=True)


def describe(state: State, ui: str) -> None:
    """Let others know where this instance is."""
    write_private(state.instance_file, json.dumps(asdict(Instance(os.getpid(), ui))))


def described(state: State) -> Instance | None:
    """Return what the instance that holds the lock says of itself."""
    try:
        return Instance(**json.loads(state.instance_file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_up(state: State) -> bool:
    """Whether an instance runs, or is starting or stopping."""
    if not state.run_lock.exists():
        return False
    with state.run_lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def stop(state: State) -> bool:
    """End the running instance and whatever of this checkout is left from a dead one; True when there was something."""
    found = False
    running = described(state)
    if is_up(state):
        found = True
        if running is None:
            raise LauncherError("An instance is just starting.", action="Try again in a few seconds.")
        _end(running.pid, state)
    strays = marked_processes(INSTANCE_MARK, str(state.folder))
    if strays:
        found = True
        stop_processes(strays, grace=2)
    if (state.postgres / "superuser_password").exists():
        server = Postgres(state.postgres)
        if server.pid is not None:
            found = True
            server.stop()
    return found


def _end(pid: int, state: State) -> None:
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, signal.SIGTERM)
        except PermissionError:
            raise LauncherError(
                f"Process {pid} belongs to another user.", action="Run `make stop` as the user who ran `make run`."
            ) from None
    deadline = time.monotonic() + _STOP_SECONDS
    while is_up(state):
        if time.monotonic() > deadline and is_running(pid):
            kill_tree(pid)
            return
        time.sleep(0.1)
