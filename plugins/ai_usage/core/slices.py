"""
The slice: the atom of the system.

A slice is one (connection, stream, scope, usage_date). Loads replace whole slices; the ledger, the planner and the
marts speak of nothing smaller. Days are UTC, windows include both ends.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import NamedTuple

ONE_DAY = timedelta(days=1)
WHOLE_CONNECTION = "-"
"""The scope of a stream that has none: the connection as a whole."""


class SliceState(StrEnum):
    """What is known about one slice."""

    FINAL = "final"
    PROVISIONAL = "provisional"  # loaded, but the provider may still change it
    CONFIRMED_ZERO = "confirmed_zero"  # asked, answered, settled: nothing there
    MISSING = "missing"  # expected, never loaded
    FAILED = "failed"
    NOT_ENTITLED = "not_entitled"
    OUTSIDE_RETENTION = "outside_retention"  # the provider can no longer tell

    @property
    def is_loaded(self) -> bool:
        """Whether the slice's records are in the warehouse (none at all being an answer too)."""
        return self in {SliceState.FINAL, SliceState.PROVISIONAL, SliceState.CONFIRMED_ZERO}


class SliceKey(NamedTuple):
    """The identity of a slice."""

    connection_id: str
    stream: str
    scope: str
    usage_date: date


@dataclass(frozen=True, order=True)
class Window:
    """Consecutive UTC days, first and last included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"a window cannot end ({self.last}) before it begins ({self.first})")

    @property
    def days(self) -> Iterator[date]:
        """Every day of the window, in order."""
        return (self.first + ONE_DAY * n for n in range(len(self)))

    @property
    def start_at(self) -> datetime:
        """The first instant of the window."""
        return midnight(self.first)

    @property
    def end_at(self) -> datetime:
        """The first instant after the window."""
        return midnight(self.last + ONE_DAY)

    def until(self, last: date) -> Window | None:
        """Return the part up to a day, or ``None`` if there is none."""
        return Window(self.first, min(self.last, last)) if self.first <= last else None

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and self.first <= day <= self.last

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}..{self.last}"


def midnight(day: date) -> datetime:
    """Return the instant at which a UTC day begins."""
    return datetime.combine(day, time(), tzinfo=UTC)


def windows_covering(days: Iterable[date], max_days: int, avoid: Collection[date] = ()) -> list[Window]:
    """
    Return the fewest windows of at most ``max_days`` that hold all the days, each trimmed to days that are needed.

    :param avoid: days that no window may span, because they would spoil the answer for the others.
    """
    borders = sorted(set(avoid))
    windows: list[Window] = []
    for day in sorted(set(days)):
        if windows and (day - windows[-1].first).days < max_days and not _any_between(borders, windows[-1].last, day):
            windows[-1] = Window(windows[-1].first, day)
        else:
            windows.append(Window(day, day))
    return windows


def _any_between(ordered: Sequence[date], after: date, before: date) -> bool:
    return bisect_left(ordered, before) > bisect_right(ordered, after)
