"""Which days are read, decided from what the ledger knows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from ai_usage.core.planner import days_to_read, expected_days, state_of_answer
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
