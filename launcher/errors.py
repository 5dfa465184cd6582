"""What stops the launcher, in words that say what to do."""

from __future__ import annotations


class LauncherError(Exception):
    """Something the user has to know or do; printed without a traceback."""

    def __init__(self, message: str, *, action: str = "") -> None:
        super().__init__(message)
        self.action = action

    def __str__(self) -> str:
        return f"{self.args[0]} {self.action}".rstrip()
