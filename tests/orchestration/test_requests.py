"""What a person may ask a run for, and what is refused."""

from __future__ import annotations

from datetime import date

import pytest

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.slices import Window
from ai_usage.orchestration.sync import SourcesFailed, Summary, Work, requested_window, selected, verdict

TODAY = date(2026, 8, 20)


def test_nothing_asked_leaves_the_choice_to_the_ledger() -> None:
    assert requested_window({}, TODAY) is None
    assert requested_window({"first": "", "last": None}, TODAY) is None


def test_both_days_are_included() -> None:
    assert requested_window({"first": "2026-08-01", "last": "2026-08-03"}, TODAY) == Window(
        date(2026, 8, 1), date(2026, 8, 3)
    )


def test_an_open_end_means_today_and_a_lone_end_means_that_day() -> None:
    assert requested_window({"first": "2026-08-18"}, TODAY) == Window(date(2026, 8, 18), TODAY)
    assert requested_window({"last": "2026-08-18"}, TODAY) == Window(date(2026, 8, 18), date(2026, 8, 18))


def test_the_future_is_cut_off() -> None:
    assert requested_window({"first": "2026-08-19", "last": "2027-01-01"}, TODAY) == Window(date(2026, 8, 19), TODAY)


@pytest.mark.parametrize(
    ("first", "last", "told"),
    [
        ("2026-08-05", "2026-08-01", "later than"),
        ("2026-09-01", "2026-09-02", "future"),
        ("1 August", None, "not a day"),
        ("2026-02-30", None, "not a day"),
        ("{{ conn.secret }}", None, "not a day"),
        ("2020-01-01", "2026-08-01", "more than"),
        ("0001-01-01", "0001-01-01", "older than any source"),
    ],
)
def test_dates_that_make_no_sense_are_refused_with_what_to_do(first: str, last: str | None, told: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=told) as refusal:
        requested_window({"first": first, "last": last}, TODAY)

    assert refusal.value.action


def test_a_choice_of_connections_keeps_their_order_and_refuses_strangers() -> None:
    assert selected(["a", "b", "c"], {"connections": ["c", "a"]}) == ["a", "c"]
    assert selected(["a", "b"], {"connections": None}) == ["a", "b"]
    with pytest.raises(ConfigurationInvalid, match="x"):
        selected(["a", "b"], {"connections": ["x"]})


def work(label: str) -> Work:
    return Work(connection_id=label, label=label, parts=[])


def summary(label: str) -> Summary:
    return Summary(label=label, slices_changed=1, records_written=2, calls=3)


def test_a_run_in_which_everything_was_read_says_how_much() -> None:
    assert verdict([work("a"), work("b")], [summary("a"), summary("b")], []) == (
        "All 2 sources were read: 2 slices changed, 4 records written."
    )


def test_a_run_with_a_failed_source_fails_and_names_it_with_its_reason() -> None:
    with pytest.raises(SourcesFailed, match=r"(?s)1 of 2 sources failed \(b\).*- b: the key was rejected"):
        verdict([work("a"), work("b")], [summary("a")], ["b: the key was rejected"])


def test_a_run_without_a_plan_fails() -> None:
    with pytest.raises(SourcesFailed, match="plan"):
        verdict(None, [], [])
