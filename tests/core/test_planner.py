"""Which days are read, decided from what the ledger knows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from ai_usage.core.planner import Trouble, days_to_read, expected_days, look_back_of, state_of_answer, windows_to_read
from ai_usage.core.slices import SliceState, Window
from tests.support.loading import STREAM

TODAY = date(2026, 8, 20)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def test_a_new_source_is_read_as_far_back_as_the_provider_remembers() -> None:
    assert expected_days(STREAM, TODAY, None) == Window(ago(454), TODAY)


def test_a_configured_start_shortens_the_history_but_never_lengthens_it() -> None:
    assert expected_days(STREAM, TODAY, ago(30)) == Window(ago(30), TODAY)
    assert expected_days(STREAM, TODAY, ago(4000)) == Window(ago(454), TODAY)


def test_a_provider_that_never_forgets_is_read_from_a_year_ago() -> None:
    assert expected_days(replace(STREAM, retention_days=None), TODAY, None) == Window(ago(365), TODAY)


def test_a_start_in_the_future_still_covers_today() -> None:
    assert expected_days(STREAM, TODAY, TODAY + timedelta(days=9)) == Window(TODAY, TODAY)


@pytest.mark.parametrize(
    ("state", "is_read"),
    [
        (SliceState.MISSING, True),
        (SliceState.FAILED, True),
        (SliceState.NOT_ENTITLED, True),
        (SliceState.PROVISIONAL, True),
        (SliceState.FINAL, False),
        (SliceState.CONFIRMED_ZERO, False),
        (SliceState.OUTSIDE_RETENTION, False),
    ],
)
def test_what_is_not_settled_is_read_again(state: SliceState, is_read: bool) -> None:
    assert days_to_read(STREAM, {ago(100): state}, TODAY) == ([ago(100)] if is_read else [])


def test_the_look_back_is_read_whatever_its_state() -> None:
    states = {ago(n): SliceState.FINAL for n in range(10)}

    assert days_to_read(STREAM, states, TODAY) == [ago(3), ago(2), ago(1), TODAY]


def test_a_gap_the_provider_has_forgotten_is_left_alone() -> None:
    assert days_to_read(STREAM, {ago(455): SliceState.MISSING, ago(454): SliceState.MISSING}, TODAY) == [ago(454)]


@pytest.mark.parametrize(
    ("hours_after_the_day", "count", "state"),
    [
        (-3, 5, SliceState.PROVISIONAL),
        (47, 5, SliceState.PROVISIONAL),
        (47, 0, SliceState.PROVISIONAL),
        (48, 5, SliceState.FINAL),
        (48, 0, SliceState.CONFIRMED_ZERO),
    ],
)
def test_a_day_settles_some_time_after_it_ends(hours_after_the_day: int, count: int, state: SliceState) -> None:
    asked_at = datetime(2026, 8, 21, tzinfo=UTC) + timedelta(hours=hours_after_the_day)

    assert state_of_answer(STREAM, TODAY, count, asked_at) == state


def test_days_that_the_stream_does_not_give_yet_are_neither_expected_nor_read() -> None:
    completed_days_only = replace(STREAM, newest_days_ago=2)

    assert expected_days(completed_days_only, TODAY, ago(5)) == Window(ago(5), ago(2))
    assert expected_days(completed_days_only, TODAY, ago(1)) is None
    states = dict.fromkeys((TODAY, ago(1), ago(2)), SliceState.MISSING)
    assert days_to_read(completed_days_only, states, TODAY) == [ago(2)]


NOW = datetime(2026, 8, 20, 12, 15, tzinfo=UTC)


def spoilt(days_ago: int, tries: int = 1, hours_since: float = 1) -> Trouble:
    return Trouble(ago(days_ago), "response_invalid", tries, NOW - timedelta(hours=hours_since))


@pytest.mark.parametrize(
    ("tries", "hours"), [(1, 0), (2, 0), (3, 1), (4, 2), (5, 4), (6, 8), (7, 16), (8, 24), (9, 24), (4000, 24)]
)
def test_a_spoilt_day_is_tried_at_once_a_few_times_and_then_ever_more_rarely(tries: int, hours: int) -> None:
    trouble = spoilt(9, tries, hours_since=0)

    assert trouble.next_try_at == NOW + timedelta(hours=hours)
    assert trouble.waits(NOW) == (hours > 0)
    assert not trouble.waits(NOW + timedelta(hours=hours))


def test_a_run_that_begins_a_minute_early_is_the_one_that_the_wait_is_for() -> None:
    trouble = spoilt(9, tries=3, hours_since=0)

    assert not trouble.waits(NOW + timedelta(minutes=59))
    assert trouble.waits(NOW + timedelta(minutes=45))


def test_a_spoilt_day_is_asked_for_by_itself_and_after_the_good_ones() -> None:
    days = [ago(n) for n in range(10)]

    assert windows_to_read(days, 31, [spoilt(4)], NOW) == [
        Window(ago(4), ago(4)),
        Window(ago(9), ago(5)),
        Window(ago(3), TODAY),
    ]


def test_a_day_that_waits_is_not_asked_for_and_no_window_reaches_over_it() -> None:
    days = [ago(n) for n in range(10)]
    waiting = [spoilt(4, tries=4)]

    assert windows_to_read(days, 31, waiting, NOW) == [Window(ago(9), ago(5)), Window(ago(3), TODAY)]
    assert windows_to_read(days, 31, waiting) == windows_to_read(days, 31, [spoilt(4)], NOW)


def test_spoilt_days_in_a_row_share_a_call_and_others_do_not() -> None:
    troubles = [spoilt(9), spoilt(8), spoilt(7), spoilt(5), spoilt(3, tries=6), spoilt(2)]

    assert windows_to_read([trouble.day for trouble in troubles], 31, troubles, NOW) == [
        Window(ago(9), ago(7)),
        Window(ago(5), ago(5)),
        Window(ago(2), ago(2)),
    ]


@pytest.mark.parametrize(("chosen", "days"), [(None, 3), (0, 2), (1, 2), (2, 2), (30, 30)])
def test_the_look_back_may_be_chosen_but_never_below_what_days_take_to_settle(chosen: int | None, days: int) -> None:
    assert look_back_of(STREAM, chosen) == days
    states = {ago(n): SliceState.FINAL for n in range(60)}
    assert days_to_read(STREAM, states, TODAY, look_back_of(STREAM, chosen)) == [ago(n) for n in range(days, -1, -1)]
