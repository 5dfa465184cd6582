"""Processor time of process trees: what a part of the system has cost so far, children that have ended included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """
    Processor seconds of a tree of processes.

    :param own: of the processes that live.
    :param ended: of their children that have ended and were waited for, grandchildren included.
    """

    own: float = 0.0
    ended: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.own + self.ended


def usage_of(roots: Iterable[int]) -> Usage:
    """Return what the trees below some processes have used; a process that ends meanwhile counts with its parent."""
    own = ended = 0.0
    for process in _family(roots):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            own += times.user + times.system
            ended += times.children_user + times.children_system
    return Usage(own, ended)


def spent(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> dict[str, float]:
    """Return the seconds between two readings, part by part."""
    return {name: after[name].total - before[name].total for name in before}


def _family(roots: Iterable[int]) -> dict[psutil.Process, None]:
    found: dict[psutil.Process, None] = {}
    for pid in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            found |= dict.fromkeys([root, *root.children(recursive=True)])
    return found
