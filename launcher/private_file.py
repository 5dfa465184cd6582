"""Files that only their owner can read: written whole or not at all."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def write_private(path: Path, text: str) -> None:
    """Write ``text`` with mode 0600; a reader sees the old file or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


def write_variables(path: Path, variables: Mapping[str, str]) -> None:
    """Write ``NAME=value`` lines, quoted so that a shell that sources the file gets the same values as we do."""
    for name in variables:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not the name of a variable: {name!r}")
    lines = (f"{name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
    write_private(path, "".join(lines))


def read_variables(path: Path) -> dict[str, str]:
    """Read what :func:`write_variables` wrote; nothing in it is evaluated. A file that is not there is empty."""
    try:
        words = shlex.split(path.read_text())
    except FileNotFoundError:
        return {}
    pairs = (word.partition("=") for word in words)
    return {name: value for name, equals, value in pairs if equals and _NAME.fullmatch(name)}
