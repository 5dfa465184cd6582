from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launcher.errors import LauncherError
from launcher.processes import is_running, marked_processes
from launcher.settings import INSTANCE_MARK
from launcher.supervisor import Component, Supervisor
from launcher.terminal import Terminal

Eventually = Callable[[Callable[[], object]], None]


def tended(supervisor: Supervisor, is_true: Callable[[], object]) -> Callable[[], object]:
    """Return the condition, looked at after the supervisor has done its work."""

    def look() -> object:
        supervisor.tend()
        return is_true()

    return look


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def supervisor(place: Path, said: io.StringIO) -> Iterator[Supervisor]:
    supervisor = Supervisor(str(place), Terminal(said))
    yield supervisor
    supervisor.stop()


def component(place: Path, script: str, name: str = "worker") -> Component:
    return Component(
        name, ["sh", "-c", script], {"PATH": "/usr/bin:/bin", "PLACE": str(place)}, place / f"{name}.log", grace=0.5
    )


def running(place: Path) -> list[int]:
    """Return the marked processes that are no guards."""
    return [
        pid
        for pid in marked_processes(INSTANCE_MARK, str(place))
        if "guard.py" not in str(psutil.Process(pid).cmdline())
    ]


def test_a_component_that_is_killed_is_started_again_and_said_so(
    supervisor: Supervisor, place: Path, said: io.StringIO, eventually: Eventually
) -> None:
    supervisor.start(component(place, "exec sleep 300"))
    eventually(lambda: running(place))
    (first,) = running(place)

    psutil.Process(first).kill()
    eventually(tended(supervisor, lambda: (now := running(place)) and now != [first]))

    assert "worker ended unexpectedly (killed by signal 9)" in said.getvalue()
    assert str(place / "worker.log") in said.getvalue()


def test_a_component_that_keeps_ending_is_given_up_with_the_place_of_its_log(
    supervisor: Supervisor, place: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr("launcher.supervisor._RESTARTS", 2)
    supervisor.start(component(place, "echo why; exit 3"))

    with pytest.raises(LauncherError, match=r"exit status 3.*worker\.log"):
        eventually(supervisor.tend)

    assert (place / "worker.log").read_text() == "why\n" * 3


def test_stopping_ends_every_component_and_its_children(
    supervisor: Supervisor, place: Path, eventually: Eventually
) -> None:
    for name in ("one", "two"):
        supervisor.start(component(place, "setsid sleep 300 & trap '' TERM; while :; do sleep 1; done", name))
    eventually(lambda: len(running(place)) >= 4)
    everybody = running(place)

    supervisor.stop()

    assert [pid for pid in everybody if is_running(pid)] == []


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are found through the kernel's help")
def test_a_killed_guard_leaves_no_stray_beside_the_new_component(
    supervisor: Supervisor, place: Path, eventually: Eventually
) -> None:
    supervisor.start(component(place, "sleep 301 & sleep 302 & wait"))
    eventually(lambda: len(running(place)) == 3)
    before = running(place)
    (guard,) = {psutil.Process(pid).ppid() for pid in before} - set(before)

    psutil.Process(guard).kill()
    eventually(tended(supervisor, lambda: not any(is_running(pid) for pid in before)))

    eventually(tended(supervisor, lambda: len(running(place)) == 3))
