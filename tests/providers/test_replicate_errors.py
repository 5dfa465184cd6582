"""What goes wrong at Replicate, and what the person on call is told."""

from __future__ import annotations

import json
import time
import traceback
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from ai_usage.core.contract import Check, Connection
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import Limits
from sandbox.service import Sandbox
from sandbox.simulators.replicate import CONTENT, TOKENS
from sandbox.truth.replicate import STUDIO, TINKERER
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY
from tests.providers.test_replicate import (
    ACCOUNT,
    DAY,
    STREAMS,
    a_run,
    by_id,
    connection,
    days_ago,
    expected,
    extract,
    page,
    provider,
    read,
    records,
)

CANARY = "r8_canary%2B/=7f3a91"
LONG_AGO = days_ago(20)


def fail(sandbox: Sandbox | None, stream: str = "predictions", first: date = LONG_AGO, **changes: Any) -> UsageError:
    """Read a stream to its end, which must be an error that repeats neither a token nor what anybody said."""
    one = connection(sandbox, **changes)
    with pytest.raises(UsageError) as caught:
        for _ in records(one, stream, first):
            pass
    error = caught.value.at(one.connection_id)
    assert error.connection_id == "replicate_test"
    shown = "".join(traceback.format_exception(error)) + error.action
    for secret in (*TOKENS, CANARY, CONTENT, "canary"):
        assert secret not in shown
    assert error.action.endswith(".")
    return error


def survives(sandbox: Sandbox, stream: str = "predictions", first: date = LONG_AGO, **changes: Any) -> Connection:
    """Read a stream and find the exact truth."""
    one = connection(sandbox, **changes)
    assert by_id(extract(one, stream, first)) == by_id(expected(sandbox, STUDIO, stream, first))
    return one


def checks(sandbox: Sandbox | None, **changes: Any) -> dict[str, Check]:
    """Return the checks by name, each with what to do if it failed, none with a token or content in it."""
    found = list(provider().check(connection(sandbox, changes.pop("account", STUDIO), **changes)))
    for check in found:
        assert check.passed is not False or (check.action and check.kind)
        assert not any(secret in f"{check}" for secret in (*TOKENS, CANARY, "canary"))
    return {check.name: check for check in found}


# ---------------------------------------------------------------- tokens


def test_a_good_token_passes_every_check_and_says_whose_it_is(sandbox: Sandbox) -> None:
    found = checks(sandbox)
    assert list(found) == ["settings", "token", "predictions", "trainings"]
    assert [check.passed for check in found.values()] == [True] * 4
    assert found["token"].message == "It belongs to the organization sandbox-studio."
    assert found["predictions"].message == "Allowed: 100 or more predictions in the last 30 days."


def test_a_personal_token_is_not_mistaken_for_the_organizations(sandbox: Sandbox) -> None:
    found = checks(sandbox, account=TINKERER, account_id="sandbox-studio")
    assert found["token"].passed is False
    assert found["token"].kind == "wrong_account"
    assert "belongs to the user sandbox-tinkerer, the connection says sandbox-studio" in found["token"].message
    assert found["predictions"].passed is found["trainings"].passed is None
    with pytest.raises(ConfigurationInvalid, match="belongs to the user"):
        extract(connection(sandbox, TINKERER, account_id="sandbox-studio"), "predictions", LONG_AGO)
    assert sandbox.requests.count(operation="predictions") == 0
    assert checks(sandbox, account=TINKERER, account_id="Sandbox-Tinkerer")["token"].passed


def test_the_account_is_the_one_that_replicate_names_and_a_person_stays_nameless(sandbox: Sandbox) -> None:
    (studio,) = provider().scopes(connection(sandbox))
    assert (studio.account_id, studio.account_name) == ("sandbox-studio", STUDIO.name)
    (tinkerer,) = provider().scopes(connection(sandbox, TINKERER))
    assert (tinkerer.account_id, tinkerer.account_name) == ("sandbox-tinkerer", None)
    (named,) = provider().scopes(connection(sandbox, TINKERER, account_name="Tinkering"))
    assert named.account_name == "Tinkering"


@pytest.mark.parametrize("key", ["sk-ant-admin-x", "sk-or-v1-x", "sk-proj-x", "gsk_x", "fw_x", "hf_x"])
def test_another_vendors_key_is_never_sent_to_replicate(sandbox: Sandbox, key: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="This is a key of"):
        connection(sandbox, key=key)
    assert sandbox.requests.count() == 0


def test_an_unknown_token_is_rejected_at_once(sandbox: Sandbox) -> None:
    assert isinstance(fail(sandbox, key=CANARY), CredentialRejected)
    assert sandbox.requests.count() == 1
    found = checks(sandbox, key=CANARY)
    assert found["token"].kind == "credential_rejected"
    assert "replicate.com/account/api-tokens" in (found["token"].action or "")
    assert found["predictions"].passed is None


@pytest.mark.parametrize("kind", ["invalid_credentials", "expired_token"])
def test_a_token_that_is_disabled_in_the_middle_of_a_run_is_noticed(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="replicate", operation="predictions", after=2)
    assert isinstance(fail(sandbox), CredentialRejected)
    assert sandbox.requests.count(operation="predictions") == 3


@pytest.mark.parametrize("stream", STREAMS)
def test_a_token_that_may_not_list_is_told_which_list(sandbox: Sandbox, stream: str) -> None:
    sandbox.faults.add("access_denied", provider="replicate", operation=stream)
    error = fail(sandbox, stream)
    assert isinstance(error, PermissionMissing)
    assert stream in error.happened
    assert "organization" in error.action
    found = checks(sandbox)
    assert [name for name, check in found.items() if check.passed is False] == [stream]


def test_an_account_without_predictions_passes_with_a_warning() -> None:
    with Server([ACCOUNT, ok(page())]) as server:
        found = checks(None, url=server.url)
    assert found["predictions"].passed
    assert found["predictions"].kind == "no_usage"
    assert "organization's" in (found["predictions"].action or "")


@pytest.mark.parametrize("body", [{"username": None}, {"username": f"{CONTENT}"}, {"name": "x"}, {"username": 7}])
def test_a_token_of_nobody_is_not_believed(body: dict[str, Any]) -> None:
    with Server([ok(body)]) as server:
        assert isinstance(fail(None, url=server.url), ResponseInvalid)


def test_settings_that_make_no_sense_are_named_before_anything_is_asked(sandbox: Sandbox) -> None:
    found = checks(sandbox, account_id=["x"])
    assert list(found) == ["settings"]
    assert "account_id" in found["settings"].message
    assert sandbox.requests.count() == 0


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "error"),
    [("not_found", ConfigurationInvalid), ("unpaid", ConfigurationInvalid), ("bad_request", ResponseInvalid)],
)
def test_a_refusal_is_named_once_and_its_words_are_not_repeated(
    sandbox: Sandbox, kind: str, error: type[UsageError]
) -> None:
    sandbox.faults.add(kind, provider="replicate", operation="predictions")
    assert isinstance(fail(sandbox), error)
    assert sandbox.requests.count(operation="predictions") == 1


@pytest.mark.parametrize(
    "kind", ["throttling", "bare_throttling", "header_throttling", "internal_error", "service_unavailable"]
)
@pytest.mark.parametrize("stream", STREAMS)
def test_two_refusals_in_the_middle_of_a_walk_are_survived(sandbox: Sandbox, stream: str, kind: str) -> None:
    sandbox.faults.add("small_pages", provider="replicate", size=20)
    sandbox.faults.add(kind, provider="replicate", operation=stream, after=1, times=2)
    one = survives(sandbox, stream)
    assert one.journal.retries == 2
    assert one.journal.throttled == (2 if "throttling" in kind else 0)


@pytest.mark.parametrize(("kind", "wait"), [("throttling", 1.0), ("header_throttling", 7.0), ("bare_throttling", 30.0)])
def test_the_wait_that_is_asked_for_is_kept_wherever_it_stands(sandbox: Sandbox, kind: str, wait: float) -> None:
    sandbox.faults.add(kind, provider="replicate", operation="predictions", times=1)
    waits: list[float] = []
    survives(sandbox, sleep=waits.append)
    assert [wait <= waited <= wait + 1 for waited in waits] == [True]

    sandbox.faults.add(kind, provider="replicate", operation="predictions")
    error = fail(sandbox)
    assert isinstance(error, RateLimited)
    assert error.retry_after == wait


@pytest.mark.parametrize("headers", [{}, {"ratelimit_reset": "soon"}])
def test_throttling_that_says_nothing_is_waited_out_all_the_same(headers: dict[str, str]) -> None:
    refused = answer(429, json.dumps({"detail": "Request was throttled."}).encode(), **headers)
    with Server([ACCOUNT, refused, ok(page(a_run()))]) as server:
        assert len(extract(connection(None, url=server.url), "predictions", TODAY - DAY)) == 1


def test_an_outage_on_the_last_page_ends_in_an_error(sandbox: Sandbox) -> None:
    sandbox.faults.add("internal_error", provider="replicate", operation="predictions", after=7)
    assert isinstance(fail(sandbox), SourceUnavailable)


# ---------------------------------------------------------------- deliveries


@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body", "empty_object"])
@pytest.mark.parametrize("stream", STREAMS)
def test_one_broken_answer_in_the_middle_is_survived(sandbox: Sandbox, stream: str, kind: str) -> None:
    sandbox.faults.add("small_pages", provider="replicate", operation=stream, size=20)
    sandbox.faults.add(kind, provider="replicate", operation=stream, after=1, times=1)
    assert survives(sandbox, stream).journal.retries == 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("truncated_body", SourceUnavailable),
        ("connection_reset", SourceUnavailable),
        ("html_body", ResponseInvalid),
        ("empty_body", ResponseInvalid),
        ("empty_object", ResponseInvalid),
    ],
)
def test_answers_that_stay_broken_are_told(sandbox: Sandbox, kind: str, error: type[UsageError]) -> None:
    sandbox.faults.add(kind, provider="replicate", operation="predictions", after=1)
    assert isinstance(fail(sandbox), error)


def test_an_answer_that_drips_is_given_up(sandbox: Sandbox) -> None:
    sandbox.faults.add("slow_drip", provider="replicate", operation="predictions", milliseconds=50)
    began = time.monotonic()
    limits = Limits(attempts=2, answer_timeout=0.5, connect_timeout=5, read_timeout=5, patience=30)
    assert isinstance(fail(sandbox, limits=limits), SourceUnavailable)
    assert time.monotonic() - began < 5


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize(
    ("kind", "calls"), [("cursor_loop", 2), ("cursor_ping_pong", 3), ("cursor_endless", 11), ("cursor_missing", 2)]
)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_walk_without_an_end_is_noticed(sandbox: Sandbox, stream: str, kind: str, calls: int) -> None:
    sandbox.faults.add(kind, provider="replicate", operation=stream)
    # The account's whole history, so that no page is old enough to end the walk.
    error = fail(sandbox, stream, first=date(2020, 1, 1))
    assert isinstance(error, ResponseInvalid)
    assert sandbox.requests.count(operation=stream) == calls


def test_the_token_does_not_follow_a_next_to_another_host(sandbox: Sandbox) -> None:
    sandbox.faults.add("cursor_elsewhere", provider="replicate")
    error = fail(sandbox)
    assert isinstance(error, ResponseInvalid)
    assert "another host" in error.happened

    with Server([ok(page())]) as thief, Server([ACCOUNT, ok(page(a_run(), link=f"{thief.url}/v1/predictions"))]) as own:
        assert isinstance(fail(None, url=own.url, first=TODAY - DAY), ResponseInvalid)
    assert thief.requests == []


@pytest.mark.parametrize("link", ["", 7, False, [], {}])
def test_a_next_that_leads_nowhere_is_no_last_page(link: Any) -> None:
    with Server([ACCOUNT, ok(page(a_run()) | {"next": link})]) as server:
        assert isinstance(fail(None, url=server.url, first=TODAY - DAY), ResponseInvalid)


@pytest.mark.parametrize("results", [None, {}, "none", [None], ["run"], [[]]])
def test_what_is_no_list_of_runs_is_not_taken_for_no_runs(results: Any) -> None:
    with Server([ACCOUNT, ok(page() | {"results": results})]) as server:
        assert isinstance(fail(None, url=server.url, first=TODAY - DAY), ResponseInvalid)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_page_that_comes_again_with_other_numbers_is_refused(sandbox: Sandbox, stream: str) -> None:
    sandbox.faults.add("contradicting_page", provider="replicate", operation=stream)
    error = fail(sandbox, stream, first=days_ago(90))
    assert isinstance(error, ResponseInvalid)
    assert "comes twice, with two different contents" in error.happened


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("kind", ["missing_field", "odd_number", "odd_name"])
@pytest.mark.parametrize("stream", STREAMS)
def test_a_run_that_cannot_be_one_refuses_the_whole_answer(sandbox: Sandbox, stream: str, kind: str) -> None:
    sandbox.faults.add(kind, provider="replicate", operation=stream)
    error = fail(sandbox, stream)
    assert isinstance(error, ResponseInvalid)
    assert "nothing was stored" in error.happened


@pytest.mark.parametrize("name", ["id", "model", "status", "created_at"])
@pytest.mark.parametrize("value", [..., None, "", CONTENT, 7, ["x"], {"x": 1}, "x" * 300, "Ünicode"])
def test_a_run_must_have_what_makes_it_one(name: str, value: Any) -> None:
    with pytest.raises(ResponseInvalid) as caught:
        read(a_run(changes={name: value}))
    assert name in caught.value.happened
    assert "canary" not in caught.value.happened


@pytest.mark.parametrize("name", ["version", "source", "deployment", "started_at", "completed_at"])
@pytest.mark.parametrize("value", [CONTENT, 7, ["x"], {"x": 1}])
def test_content_never_comes_in_through_another_field(name: str, value: Any) -> None:
    with pytest.raises(ResponseInvalid, match=name):
        read(a_run(changes={name: value}))


@pytest.mark.parametrize(
    "created_at", ["2026-08-14", "2026-13-14T00:00:00Z", "2026-08-14T12:00:00", "0001-01-01T00:00:00+14:00"]
)
def test_a_time_that_is_none_is_refused(created_at: str) -> None:
    with pytest.raises(ResponseInvalid, match="is not a time"):
        read(a_run(created_at=created_at))


@pytest.mark.parametrize("value", [-1, "-0.5", "many", True, [1], {"s": 1}, "1e500", "9" * 40, "NaN", CONTENT])
@pytest.mark.parametrize("name", ["predict_time", "input_token_count", "output_token_count"])
def test_a_number_that_cannot_be_one_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ResponseInvalid, match=name) as caught:
        read(a_run(metrics={name: value}))
    assert "canary" not in caught.value.happened


def test_tokens_are_whole() -> None:
    with pytest.raises(ResponseInvalid, match="whole"):
        read(a_run(metrics={"input_token_count": 1.5}))
    ((_, record),), _ = read(a_run(metrics={"input_token_count": 2.0, "output_token_count": "3"}))
    assert record["metrics"] == {"input_token_count": 2, "output_token_count": 3}
    assert type(record["metrics"]["input_token_count"]) is int


def test_of_metrics_that_are_no_map_nothing_is_guessed() -> None:
    for metrics in (["none"], "none", 7):
        with pytest.raises(ResponseInvalid, match="metrics"):
            read(a_run(metrics=metrics))


@pytest.mark.parametrize("value", [CONTENT, "word", True, None, [1], {"text": CONTENT}])
def test_a_metric_that_is_no_number_is_not_stored(value: Any) -> None:
    ((_, record),), _ = read(a_run(metrics={"predict_time": 1, "label": value, "frames": 12}))
    assert record["metrics"] == {"predict_time": Decimal(1)}
    assert record["extra_fields"] == {"metrics.frames": 12}
