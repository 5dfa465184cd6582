"""Keep a set of long-running commands alive, and end them all together."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from launcher.errors import LauncherError
from launcher.guard import adopt_orphans, descendants
from launcher.processes import Guarded, kill_tree, marked_processes, start_guarded, stop_processes
from launcher.settings import INSTANCE_MARK
from launcher.terminal import Terminal

_LOG_LIMIT_BYTES = 20_000_000
_GRACE_SECONDS = 4.0
_STOP_SECONDS = 10.0
# More than this many ends within the window mean that restarting does not help.
_RESTARTS = 6
_WINDOW_SECONDS = 600.0


@dataclass(frozen=True)
class Component:
    """One long-running command."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    grace: float = _GRACE_SECONDS
    """Seconds it gets to end by itself before it is killed."""


@dataclass
class _Running:
    component: Component
    guarded: Guarded | None
    ends: deque[float] = field(default_factory=deque)
    restart_at: float = 0.0


class Supervisor:
    """The running components of one instance; call :meth:`tend` often."""

    def __init__(self, mark: str, terminal: Terminal) -> None:
        """Mark every process with ``mark`` so that strays can be found."""
        self._mark = mark
        self._terminal = terminal
        self._running: dict[str, _Running] = {}
        # Should a guard be killed, what it guarded comes to us instead of going astray.
        adopt_orphans()

    def start(self, component: Component) -> None:
        """Start a component, and start it again whenever it ends."""
        self._running[component.name] = _Running(component, self._launch(component))

    def stop_one(self, name: str) -> None:
        """End one component for good."""
        running = self._running.pop(name, None)
        if running is not None and running.guarded is not None:
            running.guarded.stop(_STOP_SECONDS)

    def guard_pid(self, name: str) -> int | None:
        """Return the process below which all of a component is, or None while it is down."""
        running = self._running.get(name)
        return running.guarded.guard_pid if running is not None and running.guarded is not None else None

    def tend(self) -> None:
        """
        Restart what has ended.

        Raises :class:`LauncherError` when a component keeps ending.
        """
        now = time.monotonic()
        for running in self._running.values():
            if running.guarded is None:
                if now >= running.restart_at:
                    running.guarded = self._launch(running.component)
                continue
            status = running.guarded.exit_status()
            if status is not None:
                running.guarded = None
                self._kill_strays()
                self._plan_restart(running, status, now)

    def stop(self) -> None:
        """End everything, all at once; what does not end by itself is killed."""
        guards = [running.guarded for running in self._running.values() if running.guarded is not None]
        self._running.clear()
        for guarded in guards:
            guarded.request_stop()
        deadline = time.monotonic() + _STOP_SECONDS
        for guarded in guards:
            if not guarded.wait(max(deadline - time.monotonic(), 0.1)):
                kill_tree(guarded.guard_pid)
        self._kill_strays()

    def _launch(self, component: Component) -> Guarded:
        if component.log.exists() and component.log.stat().st_size > _LOG_LIMIT_BYTES:
            component.log.replace(component.log.with_suffix(".old.log"))
        with component.log.open("ab") as log:
            return start_guarded(
                component.command,
                environment={**component.environment, INSTANCE_MARK: self._mark},
                output=log,
                grace=component.grace,
            )

    def _plan_restart(self, running: _Running, status: int, now: float) -> None:
        name, log = running.component.name, running.component.log
        running.ends.append(now)
        while running.ends[0] < now - _WINDOW_SECONDS:
            running.ends.popleft()
        if len(running.ends) > _RESTARTS:
            raise LauncherError(
                f"{name} has ended {len(running.ends)} times within {_WINDOW_SECONDS / 60:.0f} minutes"
                f" (last exit status {status}).",
                action=f"Its log says why: {log}",
            )
        running.restart_at = now + min(2 ** (len(running.ends) - 1) - 1, 30)
        self._terminal.note(f"{name} ended unexpectedly ({_how(status)}); starting it again. Log: {log}")

    def _kill_strays(self) -> None:
        """End what belongs to this instance but is under no living guard any more."""
        guarded: set[int] = set()
        for running in self._running.values():
            if running.guarded is not None:
                guarded |= {running.guarded.guard_pid} | descendants(running.guarded.guard_pid)
        strays = [pid for pid in marked_processes(INSTANCE_MARK, self._mark) if pid not in guarded]
        if strays:
            stop_processes(strays, grace=0.5)
            self._reap(strays)

    @staticmethod
    def _reap(pids: Sequence[int]) -> None:
        ours = {child.pid for child in psutil.Process().children()}
        for pid in ours.intersection(pids):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _how(status: int) -> str:
    number = -status if status < 0 else status - 128
    return f"killed by signal {number}" if number > 0 else f"exit status {status}"
