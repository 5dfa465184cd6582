"""The fewest calls, from the limits of an API."""

from __future__ import annotations

import pytest

from ai_usage import providers
from bench.call_minima import RULES, Seen, pages, per_scope, records_of, series_of_cloudwatch


def seen(**facts: object) -> Seen:
    return Seen(**{"days": 30, "scopes": 1, "records": [], **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(("days", "calls"), [(1, 1), (31, 1), (32, 2), (62, 2), (63, 3)])
def test_a_started_page_of_days_is_a_call(days: int, calls: int) -> None:
    assert pages(31)(seen(days=days)) == calls


@pytest.mark.parametrize(("records", "calls"), [(0, 1), (100, 1), (101, 2)])
def test_a_list_without_records_is_a_call_too(records: int, calls: int) -> None:
    assert records_of(100)(seen(records=[{}] * records)) == calls


def test_what_is_asked_for_every_scope_is_asked_so_many_times() -> None:
    assert per_scope(pages(7))(seen(scopes=3)) == 3 * 5


def test_a_series_is_a_counter_of_a_model_in_a_region_however_many_days_it_has() -> None:
    monday = {"region": "us-east-1", "namespace": "AWS/Bedrock", "model_id": "a", "metrics": {"Invocations": 1}}
    tuesday = monday | {"metrics": {"Invocations": 2, "InputTokenCount": 3}}
    elsewhere = monday | {"region": "eu-west-1"}

    assert series_of_cloudwatch(seen(records=[monday, tuesday, elsewhere])) == 3


def test_every_stream_of_every_provider_has_a_rule() -> None:
    assert {name: set(rules) for name, rules in RULES.items()} == {
        provider.name: {stream.name for stream in provider.streams} for provider in providers.load_all()
    }
