"""Windows and days."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_usage.core.slices import Window, windows_covering

DAYS = st.dates(date(2025, 1, 1), date(2026, 12, 31))


def test_a_window_holds_both_ends() -> None:
    window = Window(date(2026, 2, 27), date(2026, 3, 1))

    assert list(window.days) == [date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 1)]
    assert len(window) == 3
    assert (window.end_at - window.start_at) == timedelta(days=3)


def test_a_window_cannot_end_before_it_begins() -> None:
    with pytest.raises(ValueError, match="before it begins"):
        Window(date(2026, 3, 2), date(2026, 3, 1))


@given(st.sets(DAYS, max_size=60), st.integers(1, 90))
def test_windows_hold_every_day_asked_for_and_stay_within_the_limit(days: set[date], limit: int) -> None:
    windows = windows_covering(days, limit)

    assert all(any(day in window for window in windows) for day in days)
    assert all(len(window) <= limit for window in windows)
    assert all(window.first in days and window.last in days for window in windows)
    assert all(left.last < right.first for left, right in pairwise(windows))


@given(st.sets(DAYS, min_size=1, max_size=60), st.integers(1, 90))
def test_no_fewer_windows_would_do(days: set[date], limit: int) -> None:
    # A lower bound: days further apart than the limit can never share a window.
    apart, last = 0, None
    for day in sorted(days):
        if last is None or (day - last).days >= limit:
            apart, last = apart + 1, day

    assert len(windows_covering(days, limit)) == apart


@given(st.sets(DAYS, max_size=60), st.sets(DAYS, max_size=20), st.integers(1, 90))
def test_no_window_reaches_over_a_day_to_avoid(days: set[date], avoid: set[date], limit: int) -> None:
    windows = windows_covering(days - avoid, limit, avoid)

    assert all(any(day in window for window in windows) for day in days - avoid)
    assert not any(day in window for window in windows for day in avoid)
    assert all(left.last < right.first for left, right in pairwise(windows))
