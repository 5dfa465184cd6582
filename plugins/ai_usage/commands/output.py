"""How answers look: text for people, JSON for programs, both with exact numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TextIO


def print_json(answer: Any, answers: TextIO) -> None:
    """Write an answer as JSON; numbers keep every digit."""
    answers.write(_json(answer, "\n") + "\n")


def _json(value: Any, line: str) -> str:
    """Return JSON as ``json.dumps(indent=2)`` writes it, but with decimals as the numbers they are."""
    inner = line + "  "
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dict) and value:
        parts = [f"{json.dumps(str(name), ensure_ascii=False)}: {_json(one, inner)}" for name, one in value.items()]
        return "{" + inner + ("," + inner).join(parts) + line + "}"
    if isinstance(value, list | tuple) and value:
        return "[" + inner + ("," + inner).join(_json(one, inner) for one in value) + line + "]"
    if isinstance(value, date | datetime):
        return json.dumps(value.isoformat())
    return json.dumps(value, ensure_ascii=False)


def on_one_line(value: Any) -> str:
    """Return JSON on one line, numbers exact."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(str(k), ensure_ascii=False)}: {on_one_line(v)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(on_one_line, value)) + "]"
    return _json(value, "\n")


def number(value: Any) -> str:
    """Return a number as people read it: thousands apart, no digit lost."""
    return "–" if value is None else format(value, ",f" if isinstance(value, Decimal) else ",")


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in columns."""
    cells = [list(heads), *[["–" if cell is None else printable(cell) for cell in row] for row in rows]]
    widths = [max(len(row[n]) for row in cells) for n in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def printable(text: Any) -> str:
    """Return a text without what could steer a terminal: names come from providers."""
    return "".join(character if character.isprintable() else "�" for character in str(text))


def tell(line: str) -> None:
    """Tell whoever waits how it goes."""
    sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


def confirm(question: str) -> bool:
    """Ask a person; without one to ask the answer is no."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
