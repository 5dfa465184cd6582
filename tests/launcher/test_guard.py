from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from launcher.processes import Guarded, is_running, start_guarded

Eventually = Callable[[Callable[[], object]], None]

# A tree as Airflow's: a child, a grandchild in a session of its own, one whose parent has ended, one deaf to SIGTERM.
TREE = """
sleep 301 &
setsid sh -c 'sleep 302 & echo $! >> "$0"; wait' "$1" &
sh -c 'sleep 303 & echo $! >> "$0"' "$1"
sh -c 'trap "" TERM; echo $$ >> "$0"; while :; do sleep 304; done' "$1" &
wait
"""


def start(*command: str, grace: float = 10.0) -> Guarded:
    return start_guarded(
        command, environment={"PATH": "/usr/bin:/bin"}, output=subprocess.DEVNULL, grace=grace, stop_signal="TERM"
    )


@pytest.fixture
def notes(place: Path) -> Path:
    return place / "process ids"


def tree_below(guard: int, notes: Path, eventually: Eventually) -> list[int]:
    """Return every process of the tree, once it is complete."""

    def everybody() -> set[int]:
        noted = notes.read_text().split() if notes.exists() else []
        below = [process.pid for process in psutil.Process(guard).children(recursive=True)]
        return {int(line) for line in noted if line.isdecimal()} | set(below)

    eventually(lambda: len(everybody()) >= 7)
    return sorted(everybody())


def test_stopping_ends_the_whole_tree_however_deaf_or_detached(notes: Path, eventually: Eventually) -> None:
    guarded = start("sh", "-c", TREE, "sh", str(notes), grace=0.5)
    tree = tree_below(guarded.guard_pid, notes, eventually)

    guarded.stop(10)

    assert [pid for pid in tree if is_running(pid)] == []


def test_a_command_that_dies_takes_its_children_along(notes: Path, eventually: Eventually) -> None:
    guarded = start("sh", "-c", TREE, "sh", str(notes))
    tree = tree_below(guarded.guard_pid, notes, eventually)

    psutil.Process(guarded.guard_pid).children()[0].kill()

    eventually(lambda: guarded.exit_status() == 128 + 9)
    assert [pid for pid in tree if is_running(pid)] == []


def test_a_killed_starter_takes_the_whole_tree_along(notes: Path, eventually: Eventually, repository: Path) -> None:
    script = (
        "import subprocess, sys, time; from launcher.processes import start_guarded\n"
        "guarded = start_guarded(['sh', '-c', sys.argv[1], 'sh', sys.argv[2]], environment={'PATH': '/usr/bin:/bin'},"
        " output=subprocess.DEVNULL, grace=0.5); print(guarded.guard_pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, TREE, notes], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    guard = int(starter.stdout.readline())
    tree = tree_below(guard, notes, eventually)

    starter.kill()
    starter.wait()

    eventually(lambda: not any(is_running(pid) for pid in [guard, *tree]))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help exists on Linux only")
def test_a_killed_guard_takes_its_command_along(place: Path, eventually: Eventually) -> None:
    guarded = start("sleep", "300")
    eventually(lambda: psutil.Process(guarded.guard_pid).children())
    command = psutil.Process(guarded.guard_pid).children()[0].pid

    psutil.Process(guarded.guard_pid).kill()

    eventually(lambda: not is_running(command))


def test_a_command_is_given_its_time_to_end_by_itself(place: Path, eventually: Eventually) -> None:
    started, ended = place / "started", place / "ended"
    script = 'trap "sleep 0.3; touch \\"$1\\"; exit 7" TERM; touch "$0"; while :; do sleep 0.05; done'
    guarded = start("sh", "-c", script, str(started), str(ended))
    eventually(started.exists)

    began = time.monotonic()
    guarded.stop(10)

    assert ended.exists()
    assert guarded.exit_status() == 7
    assert time.monotonic() - began < 5


def test_the_exit_status_is_the_commands_own() -> None:
    guarded = start("sh", "-c", "exit 42")
    assert guarded.wait(10)
    assert guarded.exit_status() == 42


def test_a_command_that_does_not_exist_is_an_exit_status_like_a_shells() -> None:
    guarded = start("/no/such/program")
    assert guarded.wait(10)
    assert guarded.exit_status() == 127
