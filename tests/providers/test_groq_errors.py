"""What goes wrong at Groq, and what the person on call is told."""

from __future__ import annotations

import json
import time
import traceback
from typing import Any

import pytest

from ai_usage.core.contract import Check, Connection
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import Limits
from ai_usage.core.slices import Window
from ai_usage.providers._groq import PartialAnswer, QuestionRefused
from ai_usage.providers.groq import GroqProvider
from sandbox.service import Sandbox
from sandbox.simulators.groq import KEYS, METRICS, SERIES, key_without_plan, restricted_key
from sandbox.truth.groq import COMPANY, LAB, TOKENS_IN
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY
from tests.providers.test_groq import CHAT, at, connection, days_ago, expected, extract, found, instants, matrix

CANARY = "gsk_canary-%2B/=7f3a91"
FIRST = days_ago(4)


def fail(sandbox: Sandbox | None, **changes: Any) -> UsageError:
    """Read a window record by record; nothing may come before the error, which gives no key away."""
    one = connection(sandbox, COMPANY, **changes)
    groq = at(TODAY)
    (scope,) = groq.scopes(one)
    records = groq.extract(one, groq.streams[0], scope, Window(FIRST, TODAY))
    with pytest.raises(UsageError) as caught:
        next(iter(records))
    error = caught.value.at(one.connection_id)
    assert error.connection_id == "groq_test"
    assert one.journal.unanswered == set()
    shown = "".join(traceback.format_exception(error))
    for key in (*KEYS, CANARY):
        assert key not in shown
    assert error.action.endswith(".")
    return error


def survives(sandbox: Sandbox) -> Connection:
    """Read a window and find the exact truth."""
    one = connection(sandbox)
    assert found(extract(one, FIRST)) == expected(sandbox, COMPANY, FIRST)
    return one


def checks(sandbox: Sandbox | None, **changes: Any) -> dict[str, Check]:
    """Return the checks by name, each with what to do if it failed, none with a key in it."""
    found_checks = list(at(TODAY).check(connection(sandbox, changes.pop("organization", COMPANY), **changes)))
    for check in found_checks:
        assert check.passed is not False or (check.action and check.kind)
        assert not any(key in f"{check}" for key in (*KEYS, CANARY))
    return {check.name: check for check in found_checks}


# ---------------------------------------------------------------- the plan and the key


def test_a_good_key_passes_every_check(sandbox: Sandbox) -> None:
    passed = checks(sandbox)
    assert [check.passed for check in passed.values()] == [True] * 3
    assert passed["series"].message == "There are tokens and requests."
    assert checks(sandbox, organization=LAB)["series"].message == "There are tokens, but no requests."


def test_a_good_key_without_the_plan_is_not_entitled_and_told_what_to_buy(sandbox: Sandbox) -> None:
    error = fail(sandbox, key=key_without_plan(COMPANY))
    assert isinstance(error, NotEntitled)
    assert "Enterprise plan" in error.happened
    assert "groq.com/enterprise-access" in error.action
    assert sandbox.requests.count() == 2
    check = checks(sandbox, key=key_without_plan(COMPANY))["metrics API"]
    assert (check.passed, check.kind) == (False, "not_entitled")
    assert "sales team" in (check.action or "")


def test_a_wrong_address_is_no_missing_plan(sandbox: Sandbox) -> None:
    sandbox.faults.add("not_found", provider="groq")
    error = fail(sandbox)
    assert isinstance(error, ConfigurationInvalid)
    assert GroqProvider.base_url in error.action
    assert checks(sandbox)["metrics API"].kind == "configuration_invalid"


def test_an_address_with_the_models_path_is_named_as_wrong(sandbox: Sandbox) -> None:
    error = fail(None, url=f"{sandbox.url}/groq/openai{METRICS}")
    assert isinstance(error, ConfigurationInvalid)
    assert "no metrics API" in error.happened


def test_if_the_list_of_models_cannot_be_had_nothing_is_concluded(sandbox: Sandbox) -> None:
    for kind, error in (
        ("internal_error", SourceUnavailable),
        ("throttling", RateLimited),
        ("invalid_credentials", CredentialRejected),
        ("access_denied", PermissionMissing),
    ):
        sandbox.faults.add(kind, provider="groq", operation="models")
        assert isinstance(fail(sandbox, key=key_without_plan(COMPANY)), error)
        sandbox.faults.clear()


def test_an_unknown_key_is_rejected_at_once(sandbox: Sandbox) -> None:
    assert isinstance(fail(sandbox, key=CANARY), CredentialRejected)
    assert sandbox.requests.count() == 1
    rejected = checks(sandbox, key=CANARY)
    assert rejected["metrics API"].kind == "credential_rejected"
    assert rejected["series"].passed is None


def test_a_restricted_key_lacks_a_permission_and_a_page_in_front_is_an_outage(sandbox: Sandbox) -> None:
    error = fail(sandbox, key=restricted_key(COMPANY))
    assert isinstance(error, PermissionMissing)
    assert "console.groq.com/keys" in error.action
    assert checks(sandbox, key=restricted_key(COMPANY))["metrics API"].kind == "permission_missing"
    sandbox.faults.add("forbidden_page", provider="groq")
    error = fail(sandbox)
    assert isinstance(error, SourceUnavailable)
    assert "in front of Groq" in error.happened


@pytest.mark.parametrize("key", ["sk-ant-admin-x", "sk-or-v1-x", "sk-proj-x", "fw_x", "r8_x"])
def test_another_vendors_key_is_never_sent_to_groq(sandbox: Sandbox, key: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="This is a key of"):
        connection(sandbox, key=key)
    assert sandbox.requests.count() == 0


@pytest.mark.parametrize("kind", ["invalid_credentials", "expired_token"])
def test_a_key_that_is_revoked_in_the_middle_of_a_run_is_noticed(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="groq", after=2)
    assert isinstance(fail(sandbox), CredentialRejected)
    assert sandbox.requests.count() == 3


def test_an_organization_without_usage_passes_with_a_warning_and_one_with_other_series_does_not(
    sandbox: Sandbox,
) -> None:
    empty = {"status": "success", "data": {"resultType": "vector", "result": []}}
    with Server([ok(empty), ok({"status": "success", "data": []})]) as server:
        warned = checks(None, url=server.url)["series"]
    assert (warned.passed, warned.kind) == (True, "no_usage")
    sandbox.faults.add("earlier_names", provider="groq")
    assert checks(sandbox)["series"].kind == "not_entitled"
    sandbox.faults.clear()
    sandbox.faults.add("other_names", provider="groq")
    assert checks(sandbox)["series"].kind == "response_invalid"


def test_a_setting_that_makes_no_sense_is_named_before_anything_is_asked(sandbox: Sandbox) -> None:
    assert checks(sandbox, account_name=["no", "text"])["settings"].kind == "configuration_invalid"
    assert sandbox.requests.count() == 0


# ---------------------------------------------------------------- refusals and deliveries


@pytest.mark.parametrize("kind", ["throttling", "bare_throttling", "internal_error", "service_unavailable"])
@pytest.mark.parametrize("operation", SERIES)
def test_two_refusals_in_a_row_are_survived(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, provider="groq", operation=operation, times=2)
    one = survives(sandbox)
    assert one.journal.retries == 2
    assert one.journal.throttled == (2 if "throttling" in kind else 0)
    assert one.journal.notes == []


@pytest.mark.parametrize(("kind", "wait"), [("throttling", 1.0), ("bare_throttling", None)])
def test_throttling_that_does_not_end_says_how_long_to_wait(sandbox: Sandbox, kind: str, wait: float | None) -> None:
    sandbox.faults.add(kind, provider="groq")
    error = fail(sandbox)
    assert isinstance(error, RateLimited)
    assert error.retry_after == wait
    assert sandbox.requests.count() == 3


@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body", "empty_object"])
@pytest.mark.parametrize("operation", SERIES)
def test_one_broken_answer_is_survived(sandbox: Sandbox, operation: str, kind: str) -> None:
    sandbox.faults.add(kind, provider="groq", operation=operation, times=1)
    assert survives(sandbox).journal.retries == 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("truncated_body", SourceUnavailable),
        ("connection_reset", SourceUnavailable),
        ("internal_error", SourceUnavailable),
        ("html_body", ResponseInvalid),
        ("empty_body", ResponseInvalid),
        ("empty_object", ResponseInvalid),
    ],
)
def test_answers_that_stay_broken_are_told_and_nothing_is_stored(
    sandbox: Sandbox, kind: str, error: type[UsageError]
) -> None:
    sandbox.faults.add(kind, provider="groq", operation="tokens_out")
    assert isinstance(fail(sandbox), error)


def test_an_answer_that_drips_is_given_up(sandbox: Sandbox) -> None:
    sandbox.faults.add("slow_drip", provider="groq", milliseconds=50)
    began = time.monotonic()
    limits = Limits(attempts=2, answer_timeout=0.5, connect_timeout=5, read_timeout=5, patience=30)
    assert isinstance(fail(sandbox, limits=limits), SourceUnavailable)
    assert time.monotonic() - began < 5


# ---------------------------------------------------------------- answers that say they are not whole


@pytest.mark.parametrize("kind", ["partial", "warned"])
@pytest.mark.parametrize("operation", SERIES)
def test_a_partial_answer_is_asked_for_again_and_never_stored(sandbox: Sandbox, operation: str, kind: str) -> None:
    sandbox.faults.add(kind, provider="groq", operation=operation, times=2)
    survives(sandbox)
    sandbox.faults.clear()
    sandbox.faults.add(kind, provider="groq", operation=operation)
    error = fail(sandbox)
    assert isinstance(error, PartialAnswer)
    assert not error.is_permanent
    assert "partial" in error.happened


def test_an_error_under_200_is_an_error(sandbox: Sandbox) -> None:
    sandbox.faults.add("status_error", provider="groq", operation="tokens_in")
    assert isinstance(fail(sandbox), QuestionRefused)
    sandbox.faults.clear()
    sandbox.faults.add("timed_out", provider="groq", operation="tokens_in")
    error = fail(sandbox)
    assert isinstance(error, SourceUnavailable)
    assert "(timeout)" in error.happened


def test_a_question_that_is_refused_at_any_size_is_told(sandbox: Sandbox) -> None:
    sandbox.faults.add("too_many_points", provider="groq", size=10)
    error = fail(sandbox)
    assert isinstance(error, QuestionRefused)
    assert "HTTP 422" in error.happened
    # Five days, then two, then one: no more, since the first half is refused.
    assert sandbox.requests.count() == 3


# ---------------------------------------------------------------- what is not as it should be


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("shifted_instants", "at a time that was asked for"),
        ("first_midnight", "at a time that was asked for"),
        ("contradicting_series", "two different values"),
        ("wrong_result", "no matrix"),
        ("missing_label", "names no model"),
        ("odd_value", "no rate"),
        ("negative_value", "no rate"),
    ],
)
def test_an_answer_that_is_not_the_documented_one_is_refused_whole(sandbox: Sandbox, kind: str, words: str) -> None:
    sandbox.faults.add(kind, provider="groq", operation="tokens_in")
    error = fail(sandbox)
    assert isinstance(error, ResponseInvalid)
    assert error.is_permanent
    assert words in error.happened
    assert "nothing was stored" in error.happened


def test_requests_without_a_model_are_refused_where_tokens_have_one(sandbox: Sandbox) -> None:
    sandbox.faults.add("missing_label", provider="groq", operation="requests")
    error = fail(sandbox)
    assert isinstance(error, ResponseInvalid)
    assert "requests name no model" in error.happened


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "", "1e400", "0x10", "1,5", " 1", "-0.1", "1" * 30, [1]])
def test_a_value_that_is_no_rate_is_refused(value: Any) -> None:
    with Server([ok(matrix((CHAT, [[instants(TODAY)[0], value]])))]) as server:
        assert isinstance(fail(None, url=server.url), ResponseInvalid)


@pytest.mark.parametrize("instant", ["1786752300", 1786752300.5, None, True, 1786752301, 0])
def test_an_instant_that_was_not_asked_for_is_refused(instant: Any) -> None:
    with Server([ok(matrix((CHAT, [[instant, "1"]])))]) as server:
        assert isinstance(fail(None, url=server.url), ResponseInvalid)
    with Server([ok(matrix((CHAT, [[1786752300, "1"], [1786752300, "1"]])))]) as server:
        assert isinstance(fail(None, url=server.url), ResponseInvalid)


@pytest.mark.parametrize(
    "broken",
    [
        {"status": "success", "data": []},
        {"status": "success"},
        {"status": "maybe", "data": {}},
        {"status": "success", "data": {"resultType": "matrix", "result": {}}},
        {"status": "success", "data": {"resultType": "matrix", "result": ["m"]}},
        {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"model": 7}, "values": []}]}},
        {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"model": "m"}, "values": [1]}]}},
        {
            "status": "success",
            "data": {"resultType": "matrix", "result": [{"metric": {"model": "m" * 600}, "values": []}]},
        },
        {
            "status": "success",
            "data": {"resultType": "matrix", "result": [{"metric": {"__name__": "up"}, "values": []}]},
        },
    ],
)
def test_an_envelope_that_is_none_is_refused(broken: Any) -> None:
    with Server([answer(200, json.dumps(broken).encode())]) as server:
        assert isinstance(fail(None, url=server.url), ResponseInvalid)


def test_series_that_come_twice_count_once(sandbox: Sandbox) -> None:
    sandbox.faults.add("series_twice", provider="groq")
    assert [note.kind for note in survives(sandbox).journal.notes] == ["rows_repeated"]


def test_unknown_fields_are_told_and_their_content_is_not(sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown_fields", provider="groq")
    notes = survives(sandbox).journal.notes
    assert {note.kind for note in notes} == {"schema_drift"}
    told = " ".join(note.message for note in notes)
    for name in ("trace", "data.total", "series.last_prompt", "series.histograms", "zone"):
        assert name in told
    assert "diary" not in told
    assert TOKENS_IN not in told
