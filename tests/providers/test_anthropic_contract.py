"""Anthropic's documented answers, word for word, and what becomes of them when they change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from ai_usage.core.contract import Connection, Record, Scope, Stream
from ai_usage.core.errors import ResponseInvalid
from ai_usage.core.slices import Window
from ai_usage.providers.anthropic import Anthropic
from tests.core.http_server import Server, Step, ok
from tests.providers.test_anthropic import COSTS, USAGE, connect

FIRST, LAST = date(2026, 9, 1), date(2026, 9, 2)
KEY = "sk-ant-admin01-canary-7f3a91%+/="

WORKSPACES = {
    "data": [
        {
            "id": "wrkspc_01DemoSearch",
            "type": "workspace",
            "name": "Search",
            "display_color": "#6C5BB9",
            "created_at": "2025-10-30T23:58:27.427722Z",
            "archived_at": None,
            "data_residency": {"workspace_geo": "us"},
        }
    ],
    "first_id": "wrkspc_01DemoSearch",
    "last_id": "wrkspc_01DemoSearch",
    "has_more": False,
}
USAGE_PAGES: list[dict[str, Any]] = [
    {
        "data": [
            {
                "starting_at": "2026-09-01T00:00:00Z",
                "ending_at": "2026-09-02T00:00:00Z",
                "results": [
                    {
                        "uncached_input_tokens": 48210,
                        "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 6144},
                        "cache_read_input_tokens": 120880,
                        "output_tokens": 15320,
                        "server_tool_use": {"web_search_requests": 3},
                        "account_id": None,
                        "api_key_id": "apikey_01Demo7Keys",
                        "context_window": "0-200k",
                        "inference_geo": "global",
                        "model": "claude-sonnet-5",
                        "service_account_id": None,
                        "service_tier": "standard",
                        "workspace_id": "wrkspc_01DemoSearch",
                    },
                    {
                        "uncached_input_tokens": 900,
                        "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
                        "cache_read_input_tokens": 0,
                        "output_tokens": 410,
                        "server_tool_use": {"web_search_requests": 0},
                        "account_id": None,
                        "api_key_id": None,
                        "context_window": "0-200k",
                        "inference_geo": "not_available",
                        "model": "claude-haiku-4-5-20251001",
                        "service_account_id": None,
                        "service_tier": "standard",
                        "workspace_id": None,
                    },
                ],
            }
        ],
        "has_more": True,
        "next_page": "page_MjAyNi0wOS0wMlQwMDowMDowMFo=",
    },
    {
        "data": [{"starting_at": "2026-09-02T00:00:00Z", "ending_at": "2026-09-03T00:00:00Z", "results": []}],
        "has_more": False,
        "next_page": None,
    },
]
COST_PAGE: dict[str, Any] = {
    "data": [
        {
            "starting_at": "2026-09-01T00:00:00Z",
            "ending_at": "2026-09-02T00:00:00Z",
            "results": [
                {
                    "amount": "14.463000",
                    "currency": "USD",
                    "description": "Claude Sonnet 5 Usage - Input Tokens",
                    "cost_type": "tokens",
                    "token_type": "uncached_input_tokens",
                    "model": "claude-sonnet-5",
                    "service_tier": "standard",
                    "context_window": "0-200k",
                    "inference_geo": "global",
                    "workspace_id": "wrkspc_01DemoSearch",
                },
                {
                    "amount": "3",
                    "currency": "USD",
                    "description": "Web Search Usage",
                    "cost_type": "web_search",
                    "token_type": None,
                    "model": None,
                    "service_tier": None,
                    "context_window": None,
                    "inference_geo": None,
                    "workspace_id": "wrkspc_01DemoSearch",
                },
            ],
        },
        {"starting_at": "2026-09-02T00:00:00Z", "ending_at": "2026-09-03T00:00:00Z", "results": []},
    ],
    "has_more": False,
    "next_page": None,
}
_GROUP = dict.fromkeys(
    (
        "actor",
        "actor_type",
        "agent_id",
        "api_key_id",
        "claude_tag_category",
        "claude_tag_user_id",
        "context_window",
        "deployment_id",
        "environment_id",
        "inference_geo",
        "model",
        "organization_id",
        "product",
        "rbac_group_id",
        "service_tier",
        "session_id",
        "slack_channel_id",
        "speed",
        "user_profile_id",
        "workspace_id",
    )
) | {"model": "claude-sonnet-5", "workspace_id": "wrkspc_01DemoSearch"}
ANALYTICS_USAGE_PAGE: dict[str, Any] = {
    "data": [
        {
            "starting_at": "2026-09-01T00:00:00Z",
            "ending_at": "2026-09-02T00:00:00Z",
            "group": _GROUP,
            "usage": {
                "uncached_input_tokens": 48210,
                "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 6144},
                "cache_read_input_tokens": 120880,
                "output_tokens": 15320,
                "total_tokens": 190554,
                "requests": 212,
                "server_tool_use": {"web_search_requests": 3},
            },
        }
    ],
    "has_more": False,
    "next_page": None,
    "data_refreshed_at": "2026-09-02T04:00:00Z",
}
ANALYTICS_COST_PAGE: dict[str, Any] = {
    "data": [
        {
            "starting_at": "2026-09-01T00:00:00Z",
            "ending_at": "2026-09-02T00:00:00Z",
            "group": _GROUP | {"cost_type": "tokens", "token_type": "output_tokens"},
            "cost": {"amount": "22.980000", "currency": "USD", "list_amount": "28.725", "requests": None},
        }
    ],
    "has_more": False,
    "next_page": None,
}


class Double:
    """A server that gives the workspaces, then the answers; and a connection to it."""

    def __init__(self, *answers: dict[str, Any], **options: Any) -> None:
        steps: list[Step] = [ok(WORKSPACES), *(ok(answer) for answer in answers)]
        self.server = Server(steps)
        self._options = options

    def __enter__(self) -> Double:
        self.server.__enter__()
        self.connection: Connection = connect(self.server.url, KEY, **self._options)
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.__exit__(None, None, None)

    def read(
        self, stream: Stream, first: date = FIRST, last: date = LAST, today: date = date(2026, 9, 10)
    ) -> list[Record]:
        anthropic = Anthropic(today=lambda: today)
        return list(anthropic.extract(self.connection, stream, Scope(), Window(first, last)))

    def asked(self, number: int) -> list[tuple[str, str]]:
        return sorted(parse_qsl(urlsplit(self.server.requests[number].target).query))


def changed(page: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the page with its first row changed; ``...`` takes a field away."""
    page = copy.deepcopy(page)
    first = page["data"][0]
    row = first["results"][0] if "results" in first else first.get("usage") or first["cost"]
    row.update(changes)
    for name in [name for name, value in changes.items() if value is ...]:
        del row[name]
    return page


# ---------------------------------------------------------------- as documented


def test_the_documented_usage_is_kept_under_anthropics_names() -> None:
    with Double(*USAGE_PAGES) as double:
        records = double.read(USAGE)
    assert [day for day, _ in records] == [FIRST, FIRST]
    assert records[0].record == {
        "report": "classic",
        "workspace_id": "wrkspc_01DemoSearch",
        "workspace_name": "Search",
        "api_key_id": "apikey_01Demo7Keys",
        "model": "claude-sonnet-5",
        "service_tier": "standard",
        "context_window": "0-200k",
        "inference_geo": "global",
        "uncached_input_tokens": 48210,
        "cache_read_input_tokens": 120880,
        "output_tokens": 15320,
        "cache_creation": {"ephemeral_5m_input_tokens": 6144, "ephemeral_1h_input_tokens": 0},
        "server_tool_use": {"web_search_requests": 3},
    }
    assert records[1].record["workspace_id"] is records[1].record["api_key_id"] is None
    assert double.connection.journal.notes == []


def test_days_end_at_the_next_midnight_and_every_dimension_is_asked_for() -> None:
    with Double(*USAGE_PAGES) as double:
        double.read(USAGE)
        first, second = double.asked(1), double.asked(2)
    assert ("starting_at", "2026-09-01T00:00:00Z") in first
    assert ("ending_at", "2026-09-03T00:00:00Z") in first
    assert ("bucket_width", "1d") in first
    assert [value for name, value in first if name == "group_by[]"] == [
        "api_key_id",
        "context_window",
        "inference_geo",
        "model",
        "service_tier",
        "workspace_id",
    ]
    assert set(second) - set(first) == {("page", "page_MjAyNi0wOS0wMlQwMDowMDowMFo=")}
    assert set(first) < set(second)


def test_the_key_travels_in_its_header_alone() -> None:
    with Double(COST_PAGE) as double:
        double.read(COSTS)
        for request in double.server.requests:
            assert request.headers["x-api-key"] == KEY
            assert request.headers["anthropic-version"] == "2023-06-01"
            assert "anthropic-beta" not in request.headers
            assert "canary" not in request.target
            assert "authorization" not in request.headers


def test_the_documented_cost_keeps_its_amounts_as_texts_in_cents() -> None:
    with Double(COST_PAGE) as double:
        records = double.read(COSTS)
        asked = double.asked(1)
    assert [(record["amount"], record["description"], record["model"]) for _, record in records] == [
        ("14.463000", "Claude Sonnet 5 Usage - Input Tokens", "claude-sonnet-5"),
        ("3", "Web Search Usage", None),
    ]
    assert [value for name, value in asked if name == "group_by[]"] == ["description", "workspace_id"]


@pytest.mark.parametrize(
    ("stream", "page", "dimensions"),
    [(USAGE, ANALYTICS_USAGE_PAGE, 5), (COSTS, ANALYTICS_COST_PAGE, 7)],
    ids=["usage", "cost"],
)
def test_the_documented_analytics_are_asked_for_in_order_of_time(
    stream: Stream, page: dict[str, Any], dimensions: int
) -> None:
    with Double(page, reports="analytics") as double:
        ((day, record),) = double.read(stream)
        asked = double.asked(1)
        headers = double.server.requests[1].headers
    assert day == FIRST
    assert record["report"] == "analytics"
    assert record["workspace_name"] == "Search"
    assert record.get("requests") == (212 if stream is USAGE else None)
    assert record.get("amount") == (None if stream is USAGE else "22.980000")
    assert {("order", "asc"), ("order_by", "time"), ("limit", "1000"), ("time_bucket_width", "1d")} < set(asked)
    assert ("ending_at", "2026-09-03T00:00:00Z") in asked
    assert len([1 for name, _ in asked if name == "group_by[]"]) == dimensions
    assert headers["anthropic-beta"] == "analytics-usage-cost-2026-08-24"
    assert double.connection.journal.notes == []


def test_a_null_in_place_of_a_group_of_counters_is_survived() -> None:
    with Double(changed(USAGE_PAGES[0], cache_creation=None, server_tool_use=None), USAGE_PAGES[1]) as double:
        assert double.read(USAGE)[0].record["cache_creation"] is None


def test_credits_keep_their_sign() -> None:
    with Double(changed(COST_PAGE, amount="-0.000001")) as double:
        assert double.read(COSTS)[0].record["amount"] == "-0.000001"


def test_today_may_be_absent_and_is_left_open_and_yesterday_may_not() -> None:
    page = USAGE_PAGES[0] | {"has_more": False, "next_page": None}
    with Double(page) as double:
        assert len(double.read(USAGE, today=LAST)) == 2
        assert double.connection.journal.unanswered == {LAST}
    with Double(*USAGE_PAGES) as double:
        double.read(USAGE, today=LAST)
        assert double.connection.journal.unanswered == set(), "an empty bucket is an answer"
    with Double(page) as double, pytest.raises(ResponseInvalid, match="lacks 1 of 2 days, among them 2026-09-02"):
        double.read(USAGE, today=date(2026, 9, 3))


# ---------------------------------------------------------------- as not documented


def _drifted() -> Iterator[Any]:
    for stream, pages, options in (
        (USAGE, USAGE_PAGES, {}),
        (COSTS, [COST_PAGE], {}),
        (USAGE, [ANALYTICS_USAGE_PAGE], {"reports": "analytics"}),
        (COSTS, [ANALYTICS_COST_PAGE], {"reports": "analytics"}),
    ):
        yield pytest.param(stream, pages, options, id=f"{options.get('reports', 'classic')} {stream.name}")


@pytest.mark.parametrize(("stream", "pages", "options"), list(_drifted()))
def test_new_fields_are_kept_if_they_are_short_and_named_if_they_are_not(
    stream: Stream, pages: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    new = {
        "reasoning_tokens": 12,
        "ratio": 0.25,
        "plan": "scale-2",
        "flag": True,
        "nothing": None,
        "diary": "Dear Claude, let me tell you about my summer.",
        "address": "someone@example.com",
        "leaked": "sk-ant-api03-abc",
        "Bearer": "bearer-abc",
        "nested": {"text": "x"},
        "list": [1],
        "long": "a" * 65,
        "huge": 10**40,
        "a name that is a sentence": 1,
    }
    with Double(changed(pages[0], **new), *pages[1:], **options) as double:
        records = double.read(stream)
    assert records[0].record["extra_fields"] == {
        "reasoning_tokens": 12,
        "ratio": Decimal("0.25"),
        "plan": "scale-2",
        "flag": True,
        "nothing": None,
    }
    assert all("extra_fields" not in record for _, record in records[1:])
    assert set(records[0].record) <= stream.fields
    notes = double.connection.journal.notes
    assert {note.kind for note in notes} == {"schema_drift"}
    assert len(notes) == len({note.message for note in notes}) == 5 + 9
    assert not any("summer" in note.message or "someone@" in note.message for note in notes)


def test_a_new_lifetime_of_the_cache_is_kept_beside_the_others() -> None:
    writes = {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 6144, "ephemeral_24h_input_tokens": 9}
    with Double(changed(USAGE_PAGES[0], cache_creation=writes), USAGE_PAGES[1]) as double:
        record = double.read(USAGE)[0].record
    assert record["extra_fields"] == {"cache_creation.ephemeral_24h_input_tokens": 9}
    (note,) = double.connection.journal.notes
    assert "cache_creation.ephemeral_24h_input_tokens" in note.message


def test_tokens_of_an_unknown_kind_are_told_by_the_total() -> None:
    with Double(changed(ANALYTICS_USAGE_PAGE, total_tokens=190_555), reports="analytics") as double:
        double.read(USAGE)
    (note,) = double.connection.journal.notes
    assert note.kind == "schema_drift"
    assert "total_tokens" in note.message


@pytest.mark.parametrize(
    "name", ["uncached_input_tokens", "cache_read_input_tokens", "output_tokens", "cache_creation"]
)
@pytest.mark.parametrize(
    "value", [..., "12", -1, 1.5, True, [1]], ids=["absent", "text", "negative", "half", "flag", "list"]
)
def test_a_counter_that_is_gone_or_something_else_is_refused(name: str, value: Any) -> None:
    for pages, options in ((USAGE_PAGES, {}), ([ANALYTICS_USAGE_PAGE], {"reports": "analytics"})):
        with (
            Double(changed(pages[0], **{name: value}), *pages[1:], **options) as double,
            pytest.raises(ResponseInvalid, match=name) as caught,
        ):
            double.read(USAGE)
        assert "Nothing was stored" in caught.value.action


@pytest.mark.parametrize("name", ["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"])
def test_a_missing_lifetime_of_the_cache_is_refused(name: str) -> None:
    writes = {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 6144}
    del writes[name]
    with (
        Double(changed(USAGE_PAGES[0], cache_creation=writes), USAGE_PAGES[1]) as double,
        pytest.raises(ResponseInvalid, match=name),
    ):
        double.read(USAGE)


@pytest.mark.parametrize("amount", [..., None, 14.463, 14, "", "14,46", "1e3", "NaN", "Infinity", "$1", " 1", "٣"])
def test_an_amount_that_is_no_decimal_text_is_refused(amount: Any) -> None:
    for page, options in ((COST_PAGE, {}), (ANALYTICS_COST_PAGE, {"reports": "analytics"})):
        with Double(changed(page, amount=amount), **options) as double, pytest.raises(ResponseInvalid, match="amount"):
            double.read(COSTS)


@pytest.mark.parametrize("currency", [..., None, "US Dollar", 840, ""])
def test_an_amount_without_a_currency_is_refused(currency: Any) -> None:
    with Double(changed(COST_PAGE, currency=currency)) as double, pytest.raises(ResponseInvalid, match="currency"):
        double.read(COSTS)


@pytest.mark.parametrize(
    "name", ["workspace_id", "api_key_id", "model", "service_tier", "context_window", "inference_geo"]
)
@pytest.mark.parametrize("value", [..., 7, "x" * 301], ids=["absent", "number", "long"])
def test_a_dimension_that_is_gone_or_no_short_text_is_refused(name: str, value: Any) -> None:
    with (
        Double(changed(USAGE_PAGES[0], **{name: value}), USAGE_PAGES[1]) as double,
        pytest.raises(ResponseInvalid, match=name),
    ):
        double.read(USAGE)


@pytest.mark.parametrize(
    "bounds",
    [
        ("2026-09-01T06:30:00Z", "2026-09-02T06:30:00Z"),
        ("2026-09-01T00:00:00Z", "2026-09-01T23:59:59Z"),
        ("2026-09-01T00:00:00", "2026-09-02T00:00:00"),
        ("2026-09-01T00:00:00+02:00", "2026-09-02T00:00:00+02:00"),
        (1788220800, 1788307200),
        (None, None),
    ],
)
def test_a_bucket_that_is_not_one_utc_day_is_refused(bounds: tuple[Any, Any]) -> None:
    page = copy.deepcopy(COST_PAGE)
    page["data"][0] |= {"starting_at": bounds[0], "ending_at": bounds[1]}
    with Double(page) as double, pytest.raises(ResponseInvalid, match="one UTC day"):
        double.read(COSTS)


def test_the_same_row_twice_in_a_day_is_refused() -> None:
    page = copy.deepcopy(COST_PAGE)
    rows = page["data"][0]["results"]
    rows.append(dict(rows[0]))
    with Double(page) as double, pytest.raises(ResponseInvalid, match="same row twice"):
        double.read(COSTS)
    rows[-1]["amount"] = "0.5"  # two lines that differ in what they cost are two lines
    with Double(page) as double:
        assert len(double.read(COSTS)) == 3


@pytest.mark.parametrize(
    "answer", [{"data": {}, "has_more": False}, {"data": [], "has_more": None}, {"data": [7], "has_more": False}]
)
def test_an_envelope_that_has_changed_is_refused(answer: dict[str, Any]) -> None:
    for stream in (USAGE, COSTS):
        with Double(answer) as double, pytest.raises(ResponseInvalid):
            double.read(stream)


def test_no_bucket_at_all_is_not_taken_for_no_usage() -> None:
    with (
        Double({"data": [], "has_more": False, "next_page": None}) as double,
        pytest.raises(ResponseInvalid, match="lacks 2 of 2 days"),
    ):
        double.read(USAGE)
