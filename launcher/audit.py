"""
What can be said of the dependencies without a network: that the lock is whole, and that the environment is the lock.

``make audit`` runs it, and so does a test. It does not know of vulnerabilities: for those a network is needed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

LOCKS = tuple(f"requirements{name}.txt" for name in ("", "-local", "-server", "-dev", "-bootstrap"))
APART = ("requirements-bench.txt",)
"""Locks of environments of their own, whose versions need not agree with the others."""

NOT_LOCKED = frozenset({"pip", "setuptools", "wheel", "uv", "ai-usage-provider"})
"""What an environment has beside the lock: the installers, and this project's own entry points."""

_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?"
)
_HASH = re.compile(r"\s+--hash=sha256:[0-9a-f]{64}\s*\\?")


def problems_of_lock(text: str) -> Iterator[str]:
    """Yield what is wrong with a lock file: a line without an exact version, without hashes, or with an address."""
    current, hashes = "", 0
    for line in [*text.splitlines(), "end==0"]:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if _HASH.fullmatch(line):
            hashes += 1
            continue
        if current and not hashes:
            yield f"{current} has no hash"
        current, hashes = line.split(" ")[0], 0
        if not _LINE.fullmatch(line) or "://" in line or " @ " in line:
            yield f"{line.strip()[:80]!r} is no exact version"
            current = ""


def locked(text: str) -> dict[str, set[str]]:
    """Return name → the versions that hold for this machine."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and (match["marker"] is None or Marker(match["marker"]).evaluate()):
            found.setdefault(canonicalize_name(match["name"]), set()).add(match["version"])
    return found


def problems_of_environment(known: dict[str, set[str]]) -> Iterator[str]:
    """Yield what is installed and not locked, or in another version."""
    for one in distributions():
        name = canonicalize_name(one.metadata["Name"])
        if name in NOT_LOCKED:
            continue
        if name not in known:
            yield f"{name} {one.version} is installed and not locked"
        elif one.version not in known[name]:
            yield f"{name} is installed as {one.version} and locked as {', '.join(sorted(known[name]))}"


def problems_of_reasons(folder: Path) -> Iterator[str]:
    """Yield the requirements of our own for which nothing says why they are there."""
    decisions = (folder / "docs/decisions.md").read_text().lower()
    for path in sorted(folder.glob("requirements*.in")):
        text = path.read_text()
        has_heading = text.startswith("#")
        for line in text.splitlines():
            name = re.split(r"[\[<>=;~ ]", line)[0].lower().removeprefix("apache-").removeprefix("airflow-providers-")
            if not name or line.startswith(("#", "-")):
                continue
            is_capped = "==" in line or "<" in line
            if not has_heading or (is_capped and name not in decisions):
                yield f"nothing says why {path.name} has {line}"


def audit(folder: Path) -> list[str]:
    """Return everything that is wrong with the dependencies."""
    texts = {name: (folder / name).read_text() for name in (*LOCKS, *APART)}
    found = [f"{name}: {problem}" for name, text in texts.items() for problem in problems_of_lock(text)]
    known: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, versions in locked(texts[lock]).items():
            known.setdefault(name, set()).update(versions)
    found += [f"{name} is locked in two versions" for name, versions in known.items() if len(versions) > 1]
    return [*found, *problems_of_environment(known), *problems_of_reasons(folder)]


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    found = audit(Path(__file__).resolve().parents[1])
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print("The lock is whole, and the environment is the lock.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
