"""What the launcher says, on a terminal or into a log; a terminal that has gone is no reason to fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from datetime import datetime
from typing import TextIO


class Terminal:
    """A stream of lines, with one at its bottom that may change."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Use ``stream``; standard output unless given."""
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._shown = ""

    def say(self, text: str = "") -> None:
        """Print a line, or several."""
        self._clear()
        self._write(f"{text}\n")

    def note(self, text: str) -> None:
        """Print a line with the time of day, for what happens by itself."""
        self.say(f"[{datetime.now().astimezone():%H:%M:%S}] {text}")

    def progress(self, text: str) -> None:
        """Show what is being waited for: in place on a terminal, and not at all in a log."""
        if self._live and text != self._shown:
            self._clear()
            self._shown = text[: shutil.get_terminal_size().columns - 1]
            self._write(self._shown)

    def _clear(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = ""

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
