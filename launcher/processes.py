"""Start commands under a guard, and find out about processes by their id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

_GUARD = Path(__file__).with_name("guard.py")


class Guarded:
    """A command with its guard: it ends at the latest when this process does, and takes everything below it along."""

    def __init__(self, guard: subprocess.Popen[bytes]) -> None:
        self._guard = guard

    @property
    def guard_pid(self) -> int:
        """The guard's process id; the command and all its children are below it."""
        return self._guard.pid

    def exit_status(self) -> int | None:
        """Return how the command ended, or None while it runs."""
        return self._guard.poll()

    def request_stop(self) -> None:
        """Ask the command to stop and return at once."""
        if self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._guard.terminate()

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the command and all its children; False when they are still there after ``timeout``."""
        try:
            self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        if self._guard.stdin:
            self._guard.stdin.close()
        return True

    def stop(self, timeout: float) -> None:
        """Stop the command; after ``timeout`` seconds everything below it is killed."""
        self.request_stop()
        if not self.wait(timeout):
            kill_tree(self._guard.pid)
            self.wait(timeout)


def start_guarded(
    command: Sequence[str | os.PathLike[str]],
    *,
    environment: Mapping[str, str],
    output: IO[bytes] | int,
    folder: Path | None = None,
    stop_signal: str = "TERM",
    grace: float = 10.0,
    user: tuple[int, int] | None = None,
) -> Guarded:
    """
    Start ``command`` under a guard.

    ``output`` takes standard output and error. ``grace`` is the time in seconds between the stop signal and SIGKILL.
    ``user`` is the (user id, group id) that root hands the command to.
    """
    options = ["--stop-signal", stop_signal, "--grace", str(grace)]
    if user is not None:
        options += ["--uid", str(user[0]), "--gid", str(user[1])]
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", _GUARD, *options, "--", *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=dict(environment),
        start_new_session=True,
    )
    return Guarded(guard)


def kill_tree(root: int) -> None:
    """Kill a process and everything below it, children first, so that nothing is restarted or orphaned meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        for child in reversed(process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()


def wait_until_gone(pids: Sequence[int], timeout: float) -> list[int]:
    """Wait until none of ``pids`` runs; return those that still do after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    left = list(pids)
    while left := [pid for pid in left if is_running(pid)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    return left


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended (a zombie has)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def marked_processes(variable: str, value: str) -> list[int]:
    """Return the processes, other than this one, that were started with ``variable=value`` in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.append(process.pid)
    return found


def stop_processes(pids: Sequence[int], grace: float) -> None:
    """End processes that nobody guards any more: SIGTERM, ``grace`` seconds, SIGKILL."""
    for signal_number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal_number)
        pids = wait_until_gone(pids, patience)
        if not pids:
            return
