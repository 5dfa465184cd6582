from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import instance
from launcher.errors import LauncherError
from launcher.processes import is_running
from launcher.settings import INSTANCE_MARK
from launcher.state import State


def test_removing_takes_away_everything_that_was_created(state: State) -> None:
    state.secrets()
    state.write_ui_login("http://127.0.0.1:8080", "admin", "secret")

    state.remove()

    assert not state.folder.exists()


def test_something_that_is_not_ours_keeps_the_folder_from_being_removed(state: State) -> None:
    (state.folder / "thesis.txt").write_text("years of work")

    with pytest.raises(LauncherError, match=r"thesis\.txt"):
        state.remove()

    assert (state.folder / "thesis.txt").exists()
    assert state.logs.exists()


def test_a_link_in_the_place_of_the_folder_is_not_followed(place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "env").touch()
    (place / ".state").symlink_to(elsewhere)

    with pytest.raises(LauncherError, match="link"):
        State(place).remove()

    assert (elsewhere / "env").exists()


@pytest.mark.parametrize("character", ["$", "`", '"', ":"])
def test_a_path_that_the_programs_cannot_cope_with_is_named(place: Path, character: str) -> None:
    folder = place / f"odd{character}name"
    folder.mkdir()
    with pytest.raises(LauncherError, match="Move it to another folder"):
        State(folder).create()


def test_folders_with_secrets_are_closed_to_others(state: State) -> None:
    state.write_ui_login("http://127.0.0.1:8080", "admin", "secret")
    closed = [state.airflow_home, state.logs, state.sandbox]
    assert {folder.stat().st_mode & 0o777 for folder in closed} == {0o700}
    assert state.ui_login.stat().st_mode & 0o777 == 0o600


def test_there_is_one_instance_per_checkout_and_the_second_learns_where_it_is(state: State) -> None:
    with instance.only_instance(state):
        instance.describe(state, "http://127.0.0.1:8081")
        with (
            pytest.raises(instance.AlreadyRunningError, match=rf"process {os.getpid()}\).*http://127\.0\.0\.1:8081"),
            instance.only_instance(state),
        ):
            pass
        assert instance.is_up(state)
    assert not instance.is_up(state)
    assert instance.described(state) is None


def test_a_lock_whose_holder_was_killed_is_free(state: State, repository: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from launcher import instance; from launcher.state import State\n"
        "state = State(Path(sys.argv[1]))\n"
        "with instance.only_instance(state): instance.describe(state, 'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, state.root], cwd=repository, check=False)
    assert state.instance_file.exists()
    with instance.only_instance(state):
        pass


def test_stopping_ends_what_a_dead_instance_has_left(state: State) -> None:
    stray = subprocess.Popen(["sleep", "300"], env={"PATH": "/usr/bin:/bin", INSTANCE_MARK: str(state.folder)})
    other = subprocess.Popen(["sleep", "300"], env={"PATH": "/usr/bin:/bin", INSTANCE_MARK: "/another/checkout/.state"})
    try:
        assert instance.stop(state) is True
        assert not is_running(stray.pid)
        assert is_running(other.pid)
        assert instance.stop(state) is False
    finally:
        for process in (stray, other):
            process.kill()
            process.wait()
