"""The one folder in which everything lives that a run creates, and the secrets in it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from base64 import urlsafe_b64encode
from dataclasses import dataclass, fields
from pathlib import Path

from launcher import pg_home
from launcher.errors import LauncherError
from launcher.private_file import read_variables, write_private, write_variables

# What may lie in the folder. Anything else was put there by somebody, and is not ours to delete.
_OURS = frozenset(
    [
        *(
            "venv",
            "uv",
            "uv-cache",
            "setup.lock",
            "run.lock",
            "instance.json",
            "secrets",
            "env",
            "ports.json",
            "ui_login",
        ),
        *("pg", "airflow", "logs", "sandbox", "dbt", "bench", "tests"),
    ]
)

# PostgreSQL's initdb quotes paths for a shell, Airflow expands variables in its settings, and search paths split at ":".
_UNUSABLE = frozenset('$`"\\:\n')


@dataclass(frozen=True)
class Secrets:
    """What is generated once and never shown, except for the password of the UI."""

    fernet_key: str
    api_secret: str
    jwt_secret: str
    airflow_db_password: str
    warehouse_password: str
    reader_password: str
    ui_password: str


class State:
    """The state folder of one checkout."""

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        """Take the repository's folder, and the state folder where it is another than usual; creates nothing."""
        self.root = root.resolve()
        self.folder = self.root / ".state" if folder is None else folder.resolve()
        self.env_file = self.folder / "env"
        self.postgres = self.folder / "pg"
        self.airflow_home = self.folder / "airflow"
        self.airflow_logs = self.airflow_home / "logs"
        self.logs = self.folder / "logs"
        self.sandbox = self.folder / "sandbox"
        self.dbt = self.folder / "dbt"
        self.ui_login = self.folder / "ui_login"
        self.run_lock = self.folder / "run.lock"
        self.instance_file = self.folder / "instance.json"
        self.ports_file = self.folder / "ports.json"

    def create(self) -> None:
        """Make the folders that every command relies on; those with secrets or data closed to other users."""
        if unusable := sorted(set(str(self.root)) & _UNUSABLE):
            raise LauncherError(
                f"The path of this checkout, {self.root}, has a character in it that breaks the programs used here:"
                f" {' '.join(unusable)}",
                action="Move it to another folder; spaces, quotes and accents are fine.",
            )
        try:
            self.folder.mkdir(exist_ok=True)
            for folder in (self.airflow_home, self.logs, self.sandbox, self.dbt):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o700)
            # The server's user passes through here to its data; to list it is another matter.
            self.postgres.mkdir(exist_ok=True)
            self.postgres.chmod(0o711)
        except OSError as error:
            raise LauncherError(
                f"{self.folder} cannot be written: {error.strerror} ({error.filename}).",
                action="Run this as the user who owns it, or remove it with `make clean`.",
            ) from error

    def secrets(self) -> Secrets:
        """Return the secrets; what is missing is generated and kept, mode 0600."""
        path = self.folder / "secrets"
        known = read_variables(path)
        wanted = {field.name: known.get(field.name) or _generate(field.name) for field in fields(Secrets)}
        if wanted != known:
            write_variables(path, wanted)
        return Secrets(**wanted)

    def write_ui_login(self, ui_url: str, user: str, password: str) -> None:
        """Write the login where people find it, and where Airflow's simple auth manager reads it."""
        write_private(self.ui_login, f"{ui_url}\nuser: {user}\npassword: {password}\n")
        write_private(self.airflow_home / "passwords.json", json.dumps({user: password}))

    def remove(self) -> None:
        """Delete the folder and the database's folder outside; refuses when it holds something that is not ours."""
        if self.folder.is_symlink():
            raise LauncherError(f"{self.folder} is a link to another place.", action="Remove the link yourself.")
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise LauncherError(f"{self.folder} is not a folder.", action="Remove it yourself; it was not made here.")
        strangers = sorted(set(os.listdir(self.folder)) - _OURS)  # noqa: PTH208 - names are all that is wanted
        if strangers:
            raise LauncherError(
                f"{self.folder} holds something that this project did not put there: {', '.join(strangers[:5])}.",
                action="Move it elsewhere or remove it, then run `make clean` again.",
            )
        try:
            pg_home.remove(self.postgres)
            shutil.rmtree(self.folder)
        except PermissionError as error:
            raise LauncherError(
                f"{error.filename} belongs to another user.", action="Run `make clean` as the user who ran `make run`."
            ) from error


def _generate(name: str) -> str:
    if name == "fernet_key":
        return urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(12 if name == "ui_password" else 32)
