from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from launcher.errors import LauncherError
from launcher.postgres import PortTakenError, Postgres
from launcher.processes import is_running

Eventually = Callable[[Callable[[], object]], None]


def remember(server: Postgres, text: str) -> None:
    with psycopg.connect(server.dsn()) as session:
        session.execute("drop table if exists memory; create table memory (text text)")
        session.execute("insert into memory values (%s)", (text,))


def remembered(server: Postgres) -> list[str]:
    with psycopg.connect(server.dsn()) as session:
        return [str(text) for (text,) in session.execute("select text from memory order by 1")]


def test_a_server_listens_on_the_loopback_address_only_and_asks_for_the_password(server: Postgres) -> None:
    server.start()

    listening = {
        connection.laddr.ip
        for connection in psutil.Process(server.pid).net_connections(kind="all")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn(password="guess"))
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(server.dsn(user="somebody"))


def test_the_password_lies_in_a_file_that_only_its_owner_can_read(server: Postgres) -> None:
    assert len(server.superuser_password) >= 32
    assert (server.folder / "superuser_password").stat().st_mode & 0o777 == 0o600


def test_text_is_utf8_and_sorts_the_same_everywhere(server: Postgres) -> None:
    server.start()
    with psycopg.connect(server.dsn()) as session:
        row = session.execute(
            "select current_setting('server_encoding'), upper('ü'), (select string_agg(c, '' order by c)"
            " from unnest(array['b', 'A', 'a', 'B', 'ä']) as c)"
        ).fetchone()
    assert row == ("UTF8", "Ü", "ABabä")


def test_a_running_server_is_used_as_it_is(server: Postgres) -> None:
    assert server.start() is True
    other = Postgres(server.folder)

    assert other.start() is False
    assert (other.pid, other.port) == (server.pid, server.port)


def test_what_was_committed_survives_a_kill_of_the_whole_server(server: Postgres) -> None:
    server.start()
    remember(server, "committed")
    family = [child.pid for child in psutil.Process(server.pid).children()]

    server.kill()

    assert server.pid is None
    assert not any(is_running(pid) for pid in family)
    assert server.start() is True
    assert remembered(server) == ["committed"]


def test_a_pid_file_that_names_a_stranger_does_not_stop_a_start(server: Postgres) -> None:
    server.start()
    remember(server, "still here")
    file = server._home.data / "postmaster.pid"
    lines = file.read_text().splitlines()
    server.kill()
    # After a restart of the machine the recorded id may belong to anybody, a process of the same user included.
    stranger = subprocess.Popen(["sleep", "60"], user=file.parent.stat().st_uid)
    file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
    try:
        assert server.pid is None
        server.start()
        assert remembered(server) == ["still here"]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_data_directory_that_was_never_finished_is_made_anew(place: Path) -> None:
    server = Postgres(place / "pg")
    for name in ("data", "data.unfinished"):
        (server._home.root / name).mkdir()
        (server._home.root / name / "half.conf").touch()

    try:
        server.start()

        assert not (server._home.data / "half.conf").exists()
        assert not (server._home.root / "data.unfinished").exists()
        assert not (server._home.root / "initdb.password").exists()
    finally:
        server.remove()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_ends_with_the_process_that_started_it(
    server: Postgres, number: int, eventually: Eventually, repository: Path
) -> None:
    script = (
        "import sys, time; from pathlib import Path; from launcher.postgres import Postgres\n"
        "server = Postgres(Path(sys.argv[1])); server.start(); print(server.pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, server.folder], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert server.pid == pid

    starter.send_signal(number)
    starter.wait()

    eventually(lambda: not is_running(pid))
    # A clean end, though nobody was left to ask for one: PostgreSQL removes this file last of all.
    assert not (server._home.data / "postmaster.pid").exists()


def test_a_port_that_is_asked_for_and_taken_is_refused(server: Postgres) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(port)):
            Postgres(server.folder, port=port).start()


def test_a_port_that_nobody_asked_for_changes_when_it_is_taken_meanwhile(server: Postgres) -> None:
    server.start()
    before = server.port
    server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", before))
        other.listen()
        server.start()
        assert server.port != before
    during = server.port
    server.stop()

    server.start()

    assert server.port == during


def test_a_server_works_below_a_closed_folder_and_leaves_nothing_behind(tmp_path: Path) -> None:
    closed = tmp_path / "closed to others"
    closed.mkdir(mode=0o700)
    above = [closed, *closed.parents]
    before = [folder.stat().st_mode for folder in above]
    server = Postgres(closed / "pg")
    try:
        server.start()
        remember(server, "reachable")
        assert [folder.stat().st_mode for folder in above] == before, "a permission above was changed"
        pid, root = server.pid, server._home.root
        assert pid is not None
    finally:
        server.remove()
    assert not is_running(pid)
    assert not root.exists()
    assert list(closed.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server has its data elsewhere")
class TestAsRoot:
    @pytest.fixture
    def closed(self, tmp_path: Path) -> Path:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o700)
        return folder

    def test_the_server_runs_as_another_user(self, server: Postgres) -> None:
        server.start()
        assert psutil.Process(server.pid).uids().real != 0

    def test_data_that_must_lie_elsewhere_is_found_through_a_pointer_after_the_folder_was_moved(
        self, closed: Path
    ) -> None:
        server = Postgres(closed / "pg")
        server.start()
        remember(server, "moved")
        server.stop()
        assert not (server.folder / "data").exists()
        server.folder.rename(closed / "renamed")
        moved = Postgres(closed / "renamed")
        try:
            moved.start()
            assert remembered(moved) == ["moved"]
        finally:
            moved.remove()

    def test_a_copied_folder_gets_data_of_its_own(self, closed: Path) -> None:
        server = Postgres(closed / "pg")
        server.start()
        shutil.copytree(server.folder, closed / "copy")
        copy = Postgres(closed / "copy")
        try:
            copy.start()
            assert copy.pid != server.pid
            assert copy._home.root != server._home.root
        finally:
            copy.remove()
            assert server.pid is not None
            server.remove()

    def test_a_folder_elsewhere_that_somebody_else_could_have_made_is_refused(self, closed: Path) -> None:
        server = Postgres(closed / "pg")
        root = server._home.root
        root.chmod(0o777)
        try:
            with pytest.raises(LauncherError, match=str(root)):
                Postgres(closed / "pg")
        finally:
            root.chmod(0o710)
            server.remove()
