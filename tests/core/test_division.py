"""A window whose answer makes no sense is asked for in parts: the bad days are found, the others read, in few calls."""

from __future__ import annotations

from datetime import date, timedelta
from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from ai_usage.core.division import MOST_PARTS, Division
from ai_usage.core.slices import Window

FIRST = date(2026, 1, 1)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def window(first: int, last: int) -> Window:
    return Window(day(first), day(last))


class Asked:
    """A source that makes no sense on its bad days, asked to the end."""

    def __init__(self, windows: list[Window], bad: set[date], empty: frozenset[date] = frozenset()) -> None:
        self.division = Division(windows)
        self.calls = 0
        self.read: set[date] = set()
        self.found_bad: set[date] = set()
        while part := self.division.take():
            self.calls += 1
            if not bad & set(part.days):
                assert not self.read & set(part.days), "a day was read twice"
                self.read |= set(part.days)
                self.division.answered(with_records=bool(set(part.days) - empty))
            elif not self.division.made_no_sense():
                assert len(part) == 1
                self.found_bad.add(part.first)
        self.set_aside = {one for part in self.division.set_aside() for one in part.days}
        self.left_over = {one for part in self.division.left_over for one in part.days}


def test_one_bad_day_is_found_and_all_others_are_read() -> None:
    for number in range(31):
        asked = Asked([window(0, 30)], {day(number)})

        assert asked.found_bad == {day(number)}
        assert len(asked.read) == 30
        assert asked.calls <= 1 + 2 * ceil(log2(31))


def test_good_windows_cost_one_call_each_the_last_first() -> None:
    division = Division([window(0, 30), window(31, 61)])

    assert division.take() == window(31, 61)
    division.answered(with_records=True)
    assert (division.take(), division.take()) == (window(0, 30), None)


def test_a_source_that_makes_no_sense_at_all_is_not_asked_for_every_day() -> None:
    for days in (2, 7, 31, 180, 455):
        asked = Asked([window(0, days - 1)], {day(n) for n in range(days)})

        assert asked.calls <= 3 * ceil(log2(days)) + 5
        assert asked.read == set()
        assert asked.set_aside | asked.found_bad == {day(n) for n in range(days)}


def test_more_windows_of_a_source_that_makes_no_sense_cost_one_call_each() -> None:
    one = Asked([window(0, 30)], {day(n) for n in range(400)})
    twelve = Asked([window(n * 31, n * 31 + 30) for n in range(12)], {day(n) for n in range(400)})

    assert twelve.calls == one.calls + 11


def test_a_window_that_is_bad_as_a_whole_does_not_keep_the_others_from_being_divided() -> None:
    asked = Asked([window(0, 30), window(31, 61), window(62, 92)], {*window(62, 92).days, day(40)})

    assert asked.read == {*window(0, 30).days, *window(31, 61).days} - {day(40)}
    assert asked.found_bad >= {day(40)}
    assert asked.calls < 3 * 12 + 11


def test_days_without_use_do_not_show_that_a_source_makes_sense() -> None:
    weekends = frozenset(day(n) for n in range(455) if n % 7 in (5, 6))
    every_workday = {day(n) for n in range(455)} - weekends

    asked = Asked([window(0, 454)], every_workday, weekends)

    assert asked.calls <= 3 * ceil(log2(455)) + 8


def test_days_that_are_bad_at_the_newest_end_do_not_hide_the_good_ones() -> None:
    asked = Asked([window(0, 30)], set(window(26, 30).days))

    assert asked.read == set(window(0, 25).days)
    assert asked.found_bad == set(window(26, 30).days)


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=5),
    st.sets(st.integers(0, 449), max_size=450),
)
def test_every_day_ends_as_read_or_bad_or_left_for_later_and_the_calls_stay_bounded(
    lengths: list[int], bad_numbers: set[int]
) -> None:
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    windows = [window(first, first + length - 1) for first, length in zip(starts, lengths, strict=True)]
    every_day = {one for part in windows for one in part.days}
    bad = {day(number) for number in bad_numbers} & every_day

    asked = Asked(windows, bad)

    assert asked.calls <= len(windows) + MOST_PARTS
    assert asked.read | asked.found_bad | asked.set_aside | asked.left_over == every_day
    assert not asked.read & bad
    assert asked.found_bad <= bad
    # Nothing is set aside of a window of which anything was read.
    for part in windows:
        assert not (asked.set_aside & set(part.days) and asked.read & set(part.days))


@given(st.integers(1, 92), st.sets(st.integers(0, 91), max_size=2))
def test_two_bad_days_never_cost_a_good_one(length: int, numbers: set[int]) -> None:
    bad = {day(number) for number in numbers if number < length}

    asked = Asked([window(0, length - 1)], bad)

    assert asked.found_bad == bad
    assert asked.read == set(window(0, length - 1).days) - bad
