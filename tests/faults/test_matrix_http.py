"""Scenarios of group A: everything that HTTP, and an API behind it, can do to whoever pages through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Tell
from tests.faults.ground import (
    CONFIGURATION,
    FORBIDDEN,
    INVALID,
    LIMITED,
    REJECTED,
    UNAVAILABLE,
    Ground,
    Scenario,
    assert_marts_are_true,
    fault,
    quiet,
    told,
)
from tests.support import stack

pytestmark = pytest.mark.timeout(300)

PROVIDERS = [
    "anthropic",
    "aws_bedrock",
    "azure_openai",
    "fireworks",
    "google_vertex_ai",
    "groq",
    "openai",
    "openrouter",
    "replicate",
]


SCENARIOS = [
    quiet("A1", "429 that names the seconds to wait", "anthropic", fault("retry_later", times=1, milliseconds=1000)),
    quiet("A1", "429 that names the moment to come back", "openai", fault("retry_at_date", times=1, milliseconds=500)),
    told("A2", "429 without an end and without a time", "openrouter", LIMITED, fault("bare_throttling"), most_calls=30),
    told("A3", "429 that says to come back tomorrow", "openai", LIMITED, fault("retry_tomorrow"), most_calls=30),
    quiet("A3", "429 that says nonsense about the time", "fireworks", fault("retry_nonsense", times=2)),
    quiet("A4", "a burst of HTTP 500", "groq", fault("internal_error", times=3)),
    quiet("A4", "a burst of HTTP 502 from a gateway", "replicate", fault("bad_gateway", times=3)),
    quiet("A4", "a burst of HTTP 503", "google_vertex_ai", fault("service_unavailable", times=2)),
    quiet("A4", "an overloaded provider (HTTP 529)", "anthropic", fault("overloaded", times=3)),
    told(
        "A5",
        "HTTP 500 for ever on a later page",
        "anthropic",
        UNAVAILABLE,
        fault("small_pages"),
        fault("internal_error", operation="usage_report/messages", after=2),
        others=True,
    ),
    told(
        "A5",
        "HTTP 503 for ever on a later page",
        "replicate",
        UNAVAILABLE,
        fault("small_pages", size=20),
        fault("service_unavailable", operation="predictions", after=2),
    ),
    told(
        "A5",
        "HTTP 500 for ever at the first run",
        "fireworks",
        UNAVAILABLE,
        fault("internal_error", operation="costs", after=1),
        is_new=True,
    ),
    told("A6", "a key that is refused from the start", "openai", REJECTED, fault("invalid_credentials"), most_calls=12),
    told(
        "A6",
        "a secret that is refused from the start",
        "azure_openai",
        REJECTED,
        fault("invalid_credentials", operation="token"),
    ),
    told(
        "A6",
        "an unknown access key at the first run",
        "aws_bedrock",
        REJECTED,
        fault("invalid_credentials"),
        is_new=True,
    ),
    told(
        "A7",
        "a key that is revoked between two pages",
        "fireworks",
        REJECTED,
        fault("small_pages", size=5),
        fault("invalid_credentials", after=4),
    ),
    told(
        "A7",
        "a permission that is revoked between two pages",
        "anthropic",
        FORBIDDEN,
        fault("small_pages"),
        fault("access_denied", operation="cost_report", after=2),
        others=True,
    ),
    quiet("A8", "tokens that expire at once", "azure_openai", fault("short_tokens")),
    quiet("A8", "a token that expires in the middle", "google_vertex_ai", fault("expired_token", after=2, times=1)),
    told("A8", "a session that has expired", "aws_bedrock", REJECTED, fault("expired_token", after=3)),
    told(
        "A9",
        "no permission in one region",
        "aws_bedrock",
        FORBIDDEN,
        fault("access_denied", region="us-west-2"),
        others=True,
    ),
    told(
        "A9",
        "no permission for one account",
        "azure_openai",
        FORBIDDEN,
        fault("access_denied", operation="metrics", region="swedencentral"),
        others=True,
    ),
    told(
        "A9", "one organization is down", "groq", UNAVAILABLE, fault("internal_error", account="groq_lab"), others=True
    ),
    told("A10", "HTTP 404 where the usage was", "openai", CONFIGURATION, fault("not_found")),
    told(
        "A11",
        "HTTP 400 for days that were fine before",
        "openai",
        INVALID,
        fault("bad_request", operation="costs"),
        others=True,
    ),
    quiet("A12", "a body that is cut short, once", "openai", fault("truncated_body", times=1)),
    quiet("A12", "chunks that never end, once", "replicate", fault("chunk_cut", times=2)),
    quiet("A12", "a connection that is reset, once", "openrouter", fault("connection_reset", times=1)),
    told("A12", "bodies that are cut short, for ever", "groq", UNAVAILABLE, fault("truncated_body")),
    quiet("A13", "a page to log in, once", "openrouter", fault("html_body", times=1)),
    told("A13", "a page to log in, for ever", "fireworks", INVALID, fault("html_body")),
    told("A13", "nothing at all in the body", "anthropic", INVALID, fault("empty_body"), is_new=True),
    told("A14", "{} in place of the usage", "openai", INVALID, fault("empty_object")),
    told("A14", "{} in place of the usage", "anthropic", INVALID, fault("empty_object")),
    told("A14", "{} in place of the usage", "groq", INVALID, fault("empty_object")),
    told("A14", "{} in place of the usage", "google_vertex_ai", INVALID, fault("empty_object", operation="jobs.query")),
    told(
        "A14",
        "{} in place of the usage",
        "azure_openai",
        INVALID,
        fault("empty_object", operation="metrics"),
        is_new=True,
    ),
    told("A14", "{} in place of the usage", "aws_bedrock", INVALID, fault("empty_object", operation="GetMetricData")),
    told("A14", "an error inside HTTP 200", "replicate", INVALID, fault("error_object"), is_new=True),
    told("A14", "an error inside HTTP 200", "openrouter", INVALID, fault("error_object")),
    told(
        "A15",
        "half of the data, and no way to go on",
        "aws_bedrock",
        UNAVAILABLE,
        fault("partial_data_without_token", region="us-east-1"),
        others=True,
    ),
    told(
        "A15",
        "one result failed inside the answer",
        "aws_bedrock",
        UNAVAILABLE,
        fault("result_internal_error", region="us-east-1"),
    ),
    told(
        "A15",
        "one result is forbidden inside the answer",
        "aws_bedrock",
        FORBIDDEN,
        fault("result_forbidden", region="us-east-1"),
    ),
    told("A15", "one metric failed inside the answer", "azure_openai", INVALID, fault("metric_failed")),
    told("A15", "half of the series, marked as partial", "groq", UNAVAILABLE, fault("partial")),
    told("A16", "a page that names itself as the next", "anthropic", INVALID, fault("cursor_loop"), most_calls=200),
    told("A16", "two pages that name each other", "openai", INVALID, fault("cursor_ping_pong"), most_calls=400),
    told("A16", "more to come, and no word on where", "openai", INVALID, fault("cursor_missing")),
    told(
        "A16",
        "a page that names itself as the next",
        "google_vertex_ai",
        INVALID,
        fault("small_pages"),
        fault("cursor_loop"),
        most_calls=200,
    ),
    told("A16", "ever new pages with the same runs", "replicate", INVALID, fault("cursor_endless"), most_calls=200),
    told("A16", "the next page is the same page", "aws_bedrock", INVALID, fault("cursor_loop"), most_calls=200),
    told("A17", "empty pages without an end", "openai", INVALID, fault("empty_pages"), most_calls=1200),
    told("A17", "empty pages without an end", "anthropic", INVALID, fault("empty_pages"), most_calls=1200),
    quiet("A18", "every page twice", "openai", fault("page_twice")),
    quiet("A18", "every row twice", "fireworks", fault("row_twice", operation="usage")),
    told("A18", "a page again with other numbers", "openai", INVALID, fault("contradicting_page")),
    told(
        "A18",
        "a run again with other numbers",
        "replicate",
        INVALID,
        fault("small_pages", size=20),
        fault("contradicting_page"),
    ),
    told("A18", "a series again with other numbers", "azure_openai", INVALID, fault("contradicting_series")),
    quiet("A19", "pages that overlap", "replicate", fault("small_pages", size=20), fault("boundary_repeats")),
    quiet("A20", "a byte at a time, once", "groq", fault("slow_drip", times=1, milliseconds=500)),
    told(
        "A22",
        "a few kilobytes that unpack to 80 MiB",
        "anthropic",
        INVALID,
        fault("gzip_bomb", operation="usage_report/messages"),
    ),
    told("A23", "a redirect to another host", "anthropic", INVALID, fault("redirect_away")),
    told("A23", "a redirect to another host", "openai", INVALID, fault("redirect_away")),
    quiet("A26", "a bucket on a page, whatever the limit", "openai", fault("small_pages")),
    quiet("A26", "a bucket on a page, whatever the limit", "anthropic", fault("small_pages")),
    quiet("A26", "a data point on a page", "aws_bedrock", fault("small_pages", size=5)),
    quiet("A26", "a resource on a page", "azure_openai", fault("small_pages")),
    quiet("A26", "five rows on a page", "google_vertex_ai", fault("small_pages")),
    told("A26", "as many series as were allowed", "azure_openai", INVALID, fault("at_top")),
    quiet("A27", "a day that nobody asked for", "openai", fault("foreign_day", operation="completions")),
    told("A27", "days that are left out", "openai", INVALID, fault("missing_day"), spares_today=True),
    quiet("A27", "a day that is left out of longer windows", "anthropic", fault("bucket_missing"), spares_today=True),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_scenario(scenario: Scenario, ground: Ground, tell: Tell) -> None:
    tell(str(scenario))

    tell(str(scenario), ground.play(scenario))


@pytest.mark.parametrize(
    ("address", "kind"), [("http://127.0.0.1:9", UNAVAILABLE), ("https://127.0.0.1:{port}", UNAVAILABLE)]
)
def test_an_address_where_nobody_answers(
    ground: Ground, tell: Tell, address: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "A21 anthropic: " + (
        "nobody listens at the address" if kind and "9" in address[-2:] else "no TLS at the address"
    )
    tell(name)
    port = ground.sandbox.url.rpartition(":")[2]
    with ground.warehouse() as warehouse:
        with pytest.MonkeyPatch.context() as elsewhere:
            for one in ("anthropic_default", "anthropic_research"):
                stack.move_connection(elsewhere, one, address.format(port=port))
            assert ground.sync("anthropic", "faulty")
            assert kind in {problem.kind for problem in stack.open_problems(warehouse)}
            assert stack.content(warehouse, "anthropic") == ground.before["anthropic"]
        ground.heal(warehouse, "anthropic")
    tell(name, f"{kind} told, everything untouched; exact after the fault")


def test_what_all_of_them_ended_in_is_the_truth(ground: Ground, tell: Tell, target: Path) -> None:
    tell("A0 all: what all of these ended in, in the marts")

    assert_marts_are_true(ground, target, PROVIDERS)

    tell("A0", "equal to the truth, to the last digit")
