"""
Run one command so that it can never outlive the process that asked for it.

``python guard.py [options] -- command …`` starts the command in a session of its own and stays beside it. The command
and everything below it is stopped when the starter closes the pipe on standard input (or dies in any way, ``kill -9``
included), when the guard receives SIGTERM, and when the command itself ends and leaves children behind.

The guard stays free of imports beyond the standard library: it is started once per process of the project and lives as
long, so every module it loads is paid for many times.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.5
# After SIGKILL a process needs a moment to leave the table; one that is still there after this is stuck in the kernel.
_KILL_SECONDS = 5.0


def _prctl(option: int, value: int) -> None:
    """Call prctl where there is one; elsewhere the pipe on standard input alone has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process, so that none escapes to init (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def process_parents() -> dict[int, int]:
    """Return pid → parent pid of every process of this machine; zombies are left out, for they have ended."""
    if Path("/proc/self/stat").exists():
        return dict(_parents_from_proc())
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in listing.splitlines())
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


def _parents_from_proc() -> Iterable[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name in brackets may itself hold spaces and brackets: what follows the last one is regular.
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                yield int(entry.name), int(parent)


def descendants(root: int) -> set[int]:
    """Return every living process below ``root``, at any depth, without ``root`` itself."""
    children: dict[int, list[int]] = {}
    for pid, parent in process_parents().items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def send(pid: int, signal_number: int) -> None:
    """Send a signal; a process that has ended meanwhile is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal_number)


class Guard:
    """One guarded command."""

    def __init__(self, command: list[str], *, stop_signal: int, grace: float, uid: int | None, gid: int | None) -> None:
        self._command = command
        self._stop_signal = stop_signal
        self._grace = grace
        self._uid = uid
        self._gid = gid
        self._starter = os.getppid()
        self._stop_requested = False
        self._status: int | None = None

    def run(self) -> int:
        """Run to the end and return the command's exit status, as a shell would give it."""
        adopt_orphans()
        wakeup_read, wakeup_write = os.pipe()
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The starter's terminal may send these to the whole group; stopping is the starter's decision.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        child = self._spawn()
        while self._status is None and not self._stop_requested:
            self._wait(wakeup_read, _POLL_SECONDS, watch_starter=True)
            self._reap(child.pid)
        if self._status is None:
            self._stop(child.pid, wakeup_read)
        self._kill_rest(child.pid)
        child.returncode = self._status
        return 128 - self._status if self._status is not None and self._status < 0 else self._status or 0

    def _spawn(self) -> subprocess.Popen[bytes]:
        guard = os.getpid()

        def bind_to_guard() -> None:
            # After the change of identity, which clears this setting. Should the guard be killed, the kernel tells the
            # command to stop.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            _prctl(_PR_SET_PDEATHSIG, self._stop_signal)
            if os.getppid() != guard:
                os._exit(1)

        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            user=self._uid,
            group=self._gid,
            extra_groups=[] if self._uid is not None else None,
            preexec_fn=bind_to_guard,  # noqa: PLW1509 - this process never has a second thread
        )

    def _on_terminate(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_requested = True

    def _wait(self, wakeup: int, seconds: float, *, watch_starter: bool) -> None:
        readable, _, _ = select.select([wakeup, 0] if watch_starter else [wakeup], [], [], seconds)
        if wakeup in readable:
            os.read(wakeup, 512)
        if (0 in readable and not os.read(0, 512)) or os.getppid() != self._starter:
            self._stop_requested = True

    def _reap(self, command: int) -> None:
        """Collect every ended child, adopted orphans included; remember how the command itself ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == command:
                    self._status = os.waitstatus_to_exitcode(status)

    def _stop(self, command: int, wakeup: int) -> None:
        send(command, self._stop_signal)
        deadline = time.monotonic() + self._grace
        while self._status is None and (left := deadline - time.monotonic()) > 0:
            self._wait(wakeup, min(left, _POLL_SECONDS), watch_starter=False)
            self._reap(command)

    def _kill_rest(self, command: int) -> None:
        """Kill what is left of the command's tree, wherever it moved itself to."""
        deadline = time.monotonic() + _KILL_SECONDS
        while time.monotonic() < deadline:
            left = descendants(os.getpid())
            if not left:
                break
            for pid in left:
                send(pid, signal.SIGKILL)
            time.sleep(0.02)
            self._reap(command)
        self._reap(command)


def main(arguments: list[str]) -> int:
    """Guard the command given on the command line."""
    parser = argparse.ArgumentParser(prog="guard", description="Run a command that cannot outlive its starter.")
    parser.add_argument("--stop-signal", default="TERM", help="first signal when stopping (default: TERM)")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds between that signal and SIGKILL")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    guard = Guard(
        options.command,
        stop_signal=signal.Signals[f"SIG{options.stop_signal}"],
        grace=options.grace,
        uid=options.uid,
        gid=options.gid,
    )
    try:
        return guard.run()
    except OSError as error:
        print(f"Cannot run {options.command[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
