"""What goes wrong at OpenAI, and what the person on call is told."""

from __future__ import annotations

import json
import time
import traceback
from datetime import date
from typing import Any

import pytest

from ai_usage.core.contract import Check, Connection, Record
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
from ai_usage.providers._openai import BY_NAME, WindowRefused
from sandbox.service import Sandbox
from sandbox.simulators.openai import (
    KEYS,
    management_only_key,
    project_key,
    service_account_key,
    usage_only_key,
)
from sandbox.truth.openai import COMPANY, LAB
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY
from tests.providers.test_openai import (
    STREAMS,
    USAGE,
    bucket,
    connection,
    days_ago,
    expected,
    extract,
    in_order,
    page,
    provider,
)

CANARY = "sk-admin-canary-%2B/=7f3a91"
LONG_AGO = days_ago(20)


def fail(sandbox: Sandbox, stream: str = "completions", first: date = LONG_AGO, **changes: Any) -> UsageError:
    """Read a stream record by record; nothing may come before the error, which gives no key away."""
    one = connection(sandbox, COMPANY, **changes)
    (scope,) = provider().scopes(one)
    records = provider().extract(one, provider().stream(stream), scope, Window(first, TODAY))
    with pytest.raises(UsageError) as caught:
        next(iter(records))
    error = caught.value.at(one.connection_id)
    assert error.connection_id == "openai_test"
    shown = "".join(traceback.format_exception(error))
    for key in (*KEYS, CANARY):
        assert key not in shown
    assert error.action.endswith(".")
    return error


def survives(sandbox: Sandbox, stream: str = "completions", first: date = LONG_AGO) -> Connection:
    """Read a stream and find the exact truth."""
    one = connection(sandbox)
    assert in_order(extract(one, stream, first)) == in_order(expected(sandbox, COMPANY, stream, first))
    return one


def checks(sandbox: Sandbox | None, **changes: Any) -> dict[str, Check]:
    """Return the checks by name, each with what to do if it failed, none with a key in it."""
    found = list(provider().check(connection(sandbox, changes.pop("organization", COMPANY), **changes)))
    for check in found:
        assert check.passed is not False or (check.action and check.kind)
        assert not any(key in f"{check}" for key in (*KEYS, CANARY))
    return {check.name: check for check in found}


USAGE_KEY = "key with api.usage.read"

# ---------------------------------------------------------------- kinds of keys


def test_a_good_key_passes_every_check(sandbox: Sandbox) -> None:
    found = checks(sandbox, organization=LAB)
    assert [check.passed for check in found.values()] == [True] * 4
    assert "It reads organization org-SandboxLab" in found[USAGE_KEY].message
    assert "of the last 30 days" in found["usage"].message
    assert found["project names"].message == "Allowed: 1 projects have a name."


@pytest.mark.parametrize("key", [project_key(COMPANY), service_account_key(COMPANY)])
@pytest.mark.parametrize("shape", [None, "bare_error", "scope_as_401"])
def test_a_key_for_calling_models_is_told_from_an_admin_key_without_the_scope(
    sandbox: Sandbox, key: str, shape: str | None
) -> None:
    if shape:
        sandbox.faults.add(shape, provider="openai")
    found = checks(sandbox, key=key)[USAGE_KEY]
    assert found.passed is False
    assert found.kind == "permission_missing"
    assert "key for calling models" in found.message
    assert "platform.openai.com/settings/organization/admin-keys" in (found.action or "")

    found = checks(sandbox, key=management_only_key(COMPANY))[USAGE_KEY]
    assert found.passed is False
    assert found.kind == "permission_missing"
    assert found.message == "It is an admin key without the permission api.usage.read."
    assert "new admin key" in (found.action or "")


def test_if_the_kind_of_key_cannot_be_found_out_both_are_named(sandbox: Sandbox) -> None:
    sandbox.faults.add("internal_error", provider="openai", operation="models")
    found = checks(sandbox, key=project_key(COMPANY))[USAGE_KEY]
    assert "for calling models, or an admin key without" in found.message


@pytest.mark.parametrize("stream", ["completions", "costs"])
@pytest.mark.parametrize("shape", [None, "bare_error", "scope_as_401"])
def test_a_missing_scope_is_a_matter_of_permission_whatever_its_status_and_shape(
    sandbox: Sandbox, stream: str, shape: str | None
) -> None:
    if shape:
        sandbox.faults.add(shape, provider="openai")
    error = fail(sandbox, stream, key=management_only_key(COMPANY))
    assert isinstance(error, PermissionMissing)
    assert error.permission == "api.usage.read"
    assert sandbox.requests.count() == 1


@pytest.mark.parametrize("status", [401, 403, 500])
def test_missing_scopes_are_never_asked_for_again(status: int) -> None:
    words = "You have insufficient permissions for this operation. Missing scopes: api.usage.read. Check that …"
    with Server([answer(status, json.dumps({"error": words}).encode())]) as server:
        with pytest.raises(PermissionMissing):
            extract(connection(None, url=server.url), "costs", TODAY)
        assert len(server.requests) == 1


def test_a_key_that_may_only_read_usage_is_good_enough_and_the_names_are_missed(sandbox: Sandbox) -> None:
    found = checks(sandbox, key=usage_only_key(COMPANY))
    assert all(check.passed for check in found.values())
    assert found["project names"].message.startswith("Warning: ")
    assert "api.management.read" in found["project names"].message


@pytest.mark.parametrize("key", ["sk-ant-admin-x", "sk-or-v1-x", "gsk_x"])
def test_another_vendors_key_is_never_sent_to_openai(sandbox: Sandbox, key: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="This is a key of"):
        connection(sandbox, key=key)
    assert sandbox.requests.count() == 0


def test_an_unknown_key_is_rejected_at_once_and_openais_echo_of_it_is_not_repeated(sandbox: Sandbox) -> None:
    error = fail(sandbox, key=CANARY)
    assert isinstance(error, CredentialRejected)
    assert "sk-admin" not in error.happened
    assert sandbox.requests.count() == 1
    found = checks(sandbox, key=CANARY)
    assert found[USAGE_KEY].kind == "credential_rejected"
    assert found["project names"].passed is None


@pytest.mark.parametrize("kind", ["invalid_credentials", "expired_token"])
def test_a_key_that_is_revoked_in_the_middle_of_a_run_is_noticed(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add("small_pages", provider="openai", size=5)
    sandbox.faults.add(kind, provider="openai", operation="completions", after=2)
    assert isinstance(fail(sandbox), CredentialRejected)
    assert sandbox.requests.count(operation="completions") == 3


def test_a_country_that_is_not_served_is_named(sandbox: Sandbox) -> None:
    body = {"error": {"message": "No.", "type": "request_forbidden", "param": None}}
    body["error"]["code"] = "unsupported_country_region_territory"
    with Server([answer(403, json.dumps(body).encode())]) as server, pytest.raises(NotEntitled, match="country"):
        extract(connection(None, url=server.url), "costs", TODAY)


def test_an_organization_without_costs_passes_with_a_warning() -> None:
    days = [bucket(days_ago(n)) for n in range(29, -1, -1)]
    names = {"object": "list", "data": [], "has_more": False}
    with Server([ok(page(*days)), ok(names)]) as server:
        found = checks(None, url=server.url)
    assert found["usage"].passed
    assert found["usage"].kind == "no_usage"
    assert "organization" in (found["usage"].action or "")


# ---------------------------------------------------------------- refusals


def test_a_wrong_address_is_a_matter_of_the_connection(sandbox: Sandbox) -> None:
    sandbox.faults.add("not_found", provider="openai")
    assert isinstance(fail(sandbox), ConfigurationInvalid)


def test_days_that_openai_refuses_do_not_stop_other_days(sandbox: Sandbox) -> None:
    sandbox.faults.add("bad_request", provider="openai", operation="costs")
    error = fail(sandbox, "costs")
    assert isinstance(error, WindowRefused)
    assert not error.is_permanent
    assert error.kind == "response_invalid"
    assert "start_time" in error.happened
    assert "start_date" in error.action


@pytest.mark.parametrize("kind", ["throttling", "bare_throttling", "internal_error", "service_unavailable"])
@pytest.mark.parametrize("operation", ["completions", "costs", "projects"])
def test_two_refusals_in_a_row_are_survived(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, provider="openai", operation=operation, times=2)
    one = survives(sandbox, "costs" if operation == "projects" else operation)
    assert one.journal.retries == 2
    assert one.journal.throttled == (2 if "throttling" in kind else 0)
    assert one.journal.notes == []


@pytest.mark.parametrize(("kind", "wait"), [("throttling", 1.0), ("bare_throttling", None)])
def test_throttling_that_does_not_end_says_how_long_to_wait(sandbox: Sandbox, kind: str, wait: float | None) -> None:
    sandbox.faults.add(kind, provider="openai")
    error = fail(sandbox)
    assert isinstance(error, RateLimited)
    assert error.retry_after == wait
    assert sandbox.requests.count() == 3


def test_an_outage_on_the_last_page_stores_nothing(sandbox: Sandbox) -> None:
    sandbox.faults.add("small_pages", provider="openai", size=4)
    sandbox.faults.add("internal_error", provider="openai", operation="completions", after=5)
    assert isinstance(fail(sandbox), SourceUnavailable)


# ---------------------------------------------------------------- deliveries


@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body", "empty_object"])
@pytest.mark.parametrize("stream", STREAMS)
def test_one_broken_answer_in_the_middle_is_survived(sandbox: Sandbox, stream: str, kind: str) -> None:
    sandbox.faults.add("small_pages", provider="openai", operation=stream, size=7)
    sandbox.faults.add(kind, provider="openai", operation=stream, after=1, times=1)
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
def test_answers_that_stay_broken_are_told_and_nothing_is_stored(
    sandbox: Sandbox, kind: str, error: type[UsageError]
) -> None:
    sandbox.faults.add("small_pages", provider="openai", size=7)
    sandbox.faults.add(kind, provider="openai", operation="costs", after=1)
    assert isinstance(fail(sandbox, "costs"), error)


def test_an_answer_that_drips_is_given_up(sandbox: Sandbox) -> None:
    sandbox.faults.add("slow_drip", provider="openai", milliseconds=50)
    began = time.monotonic()
    limits = Limits(attempts=2, answer_timeout=0.5, connect_timeout=5, read_timeout=5, patience=30)
    assert isinstance(fail(sandbox, limits=limits), SourceUnavailable)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "internal_error", "throttling"])
def test_names_that_cannot_be_had_never_cost_a_number(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="openai", operation="projects")
    one = connection(sandbox)
    found = [Record(day, {**row}) for day, row in extract(one, "completions", days_ago(9))]
    bare = expected(sandbox, COMPANY, "completions", days_ago(9))
    unnamed = [Record(day, {n: v for n, v in row.items() if n != "project_name"}) for day, row in bare]
    assert in_order(found) == in_order(unnamed)
    assert [note.kind for note in one.journal.notes] == ["names_unavailable"]


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("kind", ["cursor_loop", "cursor_ping_pong", "cursor_missing", "empty_pages"])
@pytest.mark.parametrize("stream", ["completions", "costs", "file_search_calls"])
def test_pages_without_an_end_are_noticed_at_once(sandbox: Sandbox, stream: str, kind: str) -> None:
    sandbox.faults.add(kind, provider="openai")
    error = fail(sandbox, stream)
    assert isinstance(error, ResponseInvalid)
    assert sandbox.requests.count() <= 10


def test_a_list_of_projects_without_an_end_costs_names_only(sandbox: Sandbox) -> None:
    sandbox.faults.add("cursor_loop", provider="openai", operation="projects")
    one = connection(sandbox)
    assert extract(one, "completions", days_ago(5))
    assert sandbox.requests.count(operation="projects") == 2
    assert [note.kind for note in one.journal.notes] == ["names_unavailable"]


@pytest.mark.parametrize("stream", ["completions", "costs", "images"])
def test_a_page_that_comes_again_with_other_numbers_is_refused(sandbox: Sandbox, stream: str) -> None:
    sandbox.faults.add("contradicting_page", provider="openai", operation=stream)
    error = fail(sandbox, stream)
    assert isinstance(error, ResponseInvalid)
    assert "two different numbers" in error.happened


@pytest.mark.parametrize("stream", ["completions", "costs"])
def test_a_day_that_is_left_out_is_never_taken_for_a_day_without_usage(sandbox: Sandbox, stream: str) -> None:
    sandbox.faults.add("missing_day", provider="openai", operation=stream)
    error = fail(sandbox, stream)
    assert isinstance(error, WindowRefused)
    assert str(days_ago(20)) in error.happened


def test_only_today_may_be_missing_and_is_left_open() -> None:
    with Server([ok(page(bucket(days_ago(1))))]) as server:
        one = connection(None, url=server.url)
        assert extract(one, "costs", days_ago(1), TODAY) == []
    assert one.journal.unanswered == {TODAY}, "yesterday's bucket is empty, today has none"
    with Server([ok(page(bucket(days_ago(1)), bucket(TODAY)))]) as server:
        one = connection(None, url=server.url)
        assert extract(one, "costs", days_ago(1), TODAY) == []
    assert one.journal.unanswered == set()
    with Server([ok(page(bucket(TODAY)))]) as server, pytest.raises(WindowRefused):
        extract(connection(None, url=server.url), "costs", days_ago(1), TODAY)


def test_days_that_nobody_asked_for_are_dropped_and_told(sandbox: Sandbox) -> None:
    sandbox.faults.add("foreign_day", provider="openai", operation="completions")
    assert [note.kind for note in survives(sandbox).journal.notes] == ["outside_window"]


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("kind", ["missing_field", "wrong_object", "odd_number"])
def test_a_row_that_lacks_what_it_must_have_refuses_the_whole_answer(sandbox: Sandbox, stream: str, kind: str) -> None:
    sandbox.faults.add(kind, provider="openai", operation=stream)
    error = fail(sandbox, stream)
    assert isinstance(error, ResponseInvalid)
    assert error.is_permanent
    assert "nothing was stored" in error.happened


@pytest.mark.parametrize("value", [-1, 1.5, True, "many", 2**63, "9" * 30, None, [1]])
@pytest.mark.parametrize("stream", [name for name in USAGE if name != "completions"])
def test_a_count_that_is_none_is_refused(stream: str, value: Any) -> None:
    required = BY_NAME[stream].required
    called = {"file_search_calls": "file_searches", "web_search_calls": "web_searches"}.get(stream, stream)
    row = {"object": f"organization.usage.{called}.result"} | dict.fromkeys(required, 1)
    with Server([ok(page(bucket(TODAY, row | {required[-1]: value})))]) as server, pytest.raises(ResponseInvalid):
        extract(connection(None, url=server.url), stream, TODAY)


def test_more_cached_input_than_input_is_refused_before_it_becomes_a_negative_number(sandbox: Sandbox) -> None:
    sandbox.faults.add("cached_above_input", provider="openai", operation="completions")
    error = fail(sandbox)
    assert isinstance(error, ResponseInvalid)
    assert "more input is cached" in error.happened
