"""
A PostgreSQL server of our own, from the programs of a Python package: no installation, no daemon, no administrator.

It listens on 127.0.0.1 only, asks everybody for a password, and ends when the process that started it does. Data
survives any kind of end: nothing about durability is switched off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from launcher import pg_home, ports
from launcher.errors import LauncherError
from launcher.private_file import write_private
from launcher.processes import Guarded, start_guarded, wait_until_gone

SUPERUSER = "postgres"
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_STOP_SECONDS = 30.0
# Recovery after a crash replays the log; on a slow disk that takes minutes, and interrupting it only starts it over.
_START_SECONDS = 300.0
# Children of a killed server hold its shared memory until they notice.
_LEFTOVER_SECONDS = 15.0
_LOG_LIMIT_BYTES = 10_000_000
_SMALL_SHM_BYTES = 512 * 1024 * 1024

_SETTINGS = {
    "listen_addresses": ports.LOOPBACK,
    # TCP only: a socket path has a short length limit, and needs a folder that both users can enter.
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "random_page_cost": "1.1",
    "jit": "off",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    # A client that was killed must not hold its locks until it would next have been written to.
    "client_connection_check_interval": "5s",
    "tcp_keepalives_idle": "60",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",
}


class PortTakenError(LauncherError):
    """Somebody listens on the port that the server was told to use."""


class Postgres:
    """The server whose data belongs to ``folder``."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Prepare ``folder`` (made on first use); without ``port`` the last one is kept while it is free."""
        self.folder = Path(folder).absolute()
        self._home = pg_home.prepare(self.folder)
        self._wanted_port = port
        self._port: int | None = None
        self._guarded: Guarded | None = None
        self._log_start = 0

    @property
    def port(self) -> int:
        """TCP port of the running server, or the one it last had."""
        remembered = self._running_port() or self._port or self._remembered_port()
        if remembered is None:
            raise LauncherError(f"The PostgreSQL server of {self.folder} was never started.")
        return remembered

    @property
    def superuser_password(self) -> str:
        """Password of ``postgres``, generated on first use and kept in a file of mode 0600."""
        path = self.folder / "superuser_password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text().strip()

    @property
    def log_file(self) -> Path:
        """What the server had to say."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, or None."""
        lines = self._pid_file_lines()
        pid = int(lines[0]) if lines and lines[0].strip().isdigit() else None
        return pid if pid is not None and self._is_our_server(pid) else None

    def started_here(self) -> bool:
        """Whether the server runs and this object started it."""
        return self._guarded is not None and self._guarded.exit_status() is None

    def start(self) -> bool:
        """
        Make the server run and wait until it answers; True when it was started here, False when it already ran.

        Recovers from a crash and from a stale ``postmaster.pid``. The server stops when this process ends.
        """
        with self._start_lock():
            if self.pid is not None:
                self._wait_until_ready()
                return False
            self._create_data()
            self._start_server()
            return True

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, whoever started it; ``mode`` is PostgreSQL's own word: smart, fast or immediate."""
        pid = self.pid
        if pid is not None:
            self._signal(pid, _STOP_SIGNALS[mode])
            if wait_until_gone([pid], _STOP_SECONDS):
                self.kill()
        self._forget_guard()

    def kill(self) -> None:
        """End the whole server with SIGKILL, as a power cut would. The next start recovers."""
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                server = psutil.Process(pid)
                family = [server.pid, *(child.pid for child in server.children(recursive=True))]
                for member in family:
                    self._signal(member, signal.SIGKILL)
                wait_until_gone(family, _STOP_SECONDS)
        self._forget_guard()

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop("immediate")
        pg_home.remove(self.folder)

    def dsn(self, database: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """Return a connection URL; the password of ``postgres`` is filled in."""
        if password is None and user == SUPERUSER:
            password = self.superuser_password
        secret = "" if password is None else f":{quote(password, safe='')}"
        return f"postgresql://{quote(user, safe='')}{secret}@{ports.LOOPBACK}:{self.port}/{quote(database, safe='')}"

    def create_database(self, name: str, *, owner: str | None = None) -> None:
        """Create a database unless it exists; ``owner`` is an existing role."""
        with psycopg.connect(self.dsn(), autocommit=True) as admin:
            if admin.execute("select 1 from pg_database where datname = %s", (name,)).fetchone() is None:
                admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            if owner is not None:
                admin.execute(
                    sql.SQL("alter database {} owner to {}").format(sql.Identifier(name), sql.Identifier(owner))
                )

    def create_login(self, name: str, password: str) -> None:
        """Create a role that can log in, or give it this password."""
        role = sql.Identifier(name)
        with psycopg.connect(self.dsn(), autocommit=True) as admin:
            if admin.execute("select 1 from pg_roles where rolname = %s", (name,)).fetchone() is None:
                admin.execute(sql.SQL("create role {}").format(role))
            admin.execute(sql.SQL("alter role {} login password {}").format(role, sql.Literal(password)))

    @contextlib.contextmanager
    def _start_lock(self) -> Iterator[None]:
        with (self.folder / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _create_data(self) -> None:
        """Run initdb beside the final place, so that a half-made data directory is never mistaken for one."""
        if (self._home.data / "PG_VERSION").exists():
            return
        unfinished = self._home.root / "data.unfinished"
        password_file = self._home.root / "initdb.password"
        for leftover in (unfinished, self._home.data):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        write_private(password_file, self.superuser_password)
        if self._home.user is not None:
            os.chown(unfinished, *self._home.user)
            os.chown(password_file, *self._home.user)
        try:
            self._run_initdb(unfinished, password_file)
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(self._home.data)

    def _run_initdb(self, data: Path, password_file: Path) -> None:
        # The built-in C.UTF-8 sorts and folds case the same on every system, whatever locales are installed there.
        options = [
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        user, group = self._home.user or (None, None)
        made = subprocess.run(
            [self._home.programs / "initdb", "-D", data, "-U", SUPERUSER, f"--pwfile={password_file}", *options],
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            cwd="/",
            env=_server_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise LauncherError(
                f"PostgreSQL could not create its data directory {data}: {made.stderr.strip()[-600:]}",
                action="Check that the disk has room and the folder can be written.",
            )

    def _start_server(self) -> None:
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while True:
            self._remove_stale_pid_file()
            self._port = self._choose_port()
            self._start_once(self._port)
            if self._wait_until_ready():
                write_private(self.folder / "port", str(self._port))
                return
            problem = self._last_words()
            self._forget_guard()
            taken = "could not bind" in problem
            if taken and self._wanted_port is not None:
                raise PortTakenError(f"PostgreSQL cannot listen on port {self._port}: another program has it.")
            if not (taken or "shared memory block" in problem) or time.monotonic() > deadline:
                raise LauncherError(
                    f"PostgreSQL did not start: {problem or 'it said nothing'}.", action=f"Its log is {self.log_file}."
                )
            time.sleep(0.2)

    def _start_once(self, port: int) -> None:
        settings = {**_SETTINGS, "port": str(port), "dynamic_shared_memory_type": _shared_memory_type()}
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        too_long = self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT_BYTES
        with self.log_file.open("wb" if too_long else "ab") as log:
            self._log_start = log.tell()
            self._guarded = start_guarded(
                [self._home.programs / "postgres", "-D", self._home.data, *flags],
                environment=_server_environment(),
                output=log,
                folder=Path("/"),
                stop_signal="INT",
                grace=_STOP_SECONDS,
                user=self._home.user,
            )

    def _wait_until_ready(self) -> bool:
        """Wait until the server answers; False when it ended instead."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            lines = self._pid_file_lines()
            if len(lines) >= 8 and lines[7].strip() == "ready" and self.pid is not None:
                return True
            if self._guarded is not None and self._guarded.exit_status() is not None:
                return False
            if self._guarded is None and self.pid is None:
                return False
            time.sleep(0.02)
        raise LauncherError(
            f"PostgreSQL did not become ready within {_START_SECONDS:.0f} seconds.",
            action=f"Its log is {self.log_file}.",
        )

    def _choose_port(self) -> int:
        if self._wanted_port is not None:
            return self._wanted_port
        remembered = self._remembered_port()
        return remembered if remembered is not None and ports.is_free(remembered) else ports.any_free()

    def _remembered_port(self) -> int | None:
        try:
            return int((self.folder / "port").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _running_port(self) -> int | None:
        lines = self._pid_file_lines()
        return int(lines[3]) if len(lines) >= 4 and self.pid is not None else None

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self._home.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _is_our_server(self, pid: int) -> bool:
        """Whether ``pid`` is the server of this data directory and not a newcomer with the id of a dead one."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
                return False
            # A server works in its data directory, also after somebody renamed a folder above it.
            return self._home.data.samefile(process.cwd())
        except (psutil.NoSuchProcess, FileNotFoundError):
            return False

    def _remove_stale_pid_file(self) -> None:
        """PostgreSQL itself takes any process with the recorded id for its predecessor; we know better."""
        if self.pid is None:
            (self._home.data / "postmaster.pid").unlink(missing_ok=True)

    def _last_words(self) -> str:
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            said = log.read().decode(errors="replace")
        errors = [line for line in said.splitlines() if "FATAL" in line or "could not" in line or "PANIC" in line]
        return " ".join((errors or said.splitlines())[-3:])

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _forget_guard(self) -> None:
        if self._guarded is not None:
            self._guarded.stop(_STOP_SECONDS)
            self._guarded = None


def _server_environment() -> dict[str, str]:
    """Return the little that the server needs of our environment: PG* variables would change its mind."""
    kept = ("PATH", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _shared_memory_type() -> str:
    """Containers often have a /dev/shm too small for parallel queries; ordinary files do there."""
    shm = Path("/dev/shm")  # noqa: S108 - only measured
    if shm.exists() and shutil.disk_usage(shm).total < _SMALL_SHM_BYTES:
        return "mmap"
    return "posix"
