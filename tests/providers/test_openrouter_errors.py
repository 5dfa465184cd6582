"""What goes wrong at OpenRouter, and what the person on call is told."""

from __future__ import annotations

import time
import traceback
from typing import Any

import pytest

from ai_usage.core.contract import Check, Connection, Memory
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
from sandbox.service import Sandbox
from sandbox.simulators.openrouter import inference_key, management_key
from sandbox.truth.openrouter import ORGANISATION, PERSON
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY
from tests.providers.test_openrouter import (
    OLDEST,
    YESTERDAY,
    activity_row,
    connection,
    days_ago,
    expected_activity,
    extract,
    in_order,
    provider,
)

KEY = management_key(ORGANISATION)
READS = ["getUserActivity", "listWorkspaces", "listKeys"]


def fail(sandbox: Sandbox, stream: str = "activity", **changes: Any) -> UsageError:
    """Read the organisation key by key, and return the error; it names the connection and gives nothing away."""
    one = connection(sandbox, ORGANISATION, per_key=True, **changes)
    first, last = (OLDEST, TODAY) if stream == "activity" else (days_ago(60), TODAY)
    with pytest.raises(UsageError) as caught:
        extract(one, first, last, stream)
    error = caught.value.at(one.connection_id)
    assert error.connection_id == "openrouter_test"
    shown = "".join(traceback.format_exception(error))
    assert KEY not in shown
    assert inference_key(ORGANISATION) not in shown
    assert error.action.endswith(".")
    # Whatever was learnt on the way to a failure must not make later runs believe that days were read.
    assert not any(name.startswith("day ") for _, _, name in one.memory.learnt)
    return error


def survives(sandbox: Sandbox) -> Connection:
    """Read the organisation key by key, and find the exact truth."""
    one = connection(sandbox, ORGANISATION, per_key=True)
    found = extract(one, OLDEST)
    assert in_order(found) == in_order(expected_activity(sandbox, ORGANISATION, OLDEST, YESTERDAY, keys=True))
    return one


def checks(sandbox: Sandbox, **changes: Any) -> dict[str, Check]:
    """Return the checks by name, each with what to do if it failed, none with a key in it."""
    found = list(provider().check(connection(sandbox, ORGANISATION, **changes)))
    for check in found:
        assert check.passed is not False or (check.action and check.kind)
        assert KEY not in f"{check}"
    return {check.name: check for check in found}


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("operation", READS)
def test_an_unknown_or_revoked_key_is_rejected_at_once_wherever_it_happens(sandbox: Sandbox, operation: str) -> None:
    sandbox.faults.add("invalid_credentials", operation=operation)
    error = fail(sandbox)
    assert isinstance(error, CredentialRejected)
    assert "management key" in error.action
    assert sandbox.requests.count(operation=operation) == 1


def test_a_key_that_is_revoked_in_the_middle_of_a_run_is_noticed(sandbox: Sandbox) -> None:
    sandbox.faults.add("invalid_credentials", operation="getUserActivity", after=3)
    assert isinstance(fail(sandbox), CredentialRejected)
    assert sandbox.requests.count(operation="getUserActivity") == 4


def test_an_inference_key_is_told_apart_from_a_dead_one(sandbox: Sandbox) -> None:
    error = fail(sandbox, key=inference_key(ORGANISATION))
    assert isinstance(error, PermissionMissing)
    assert error.permission == "management key"
    assert "inference key" in error.happened
    assert "openrouter.ai/settings/management-keys" in error.action
    assert sandbox.requests.count() == 1


@pytest.mark.parametrize("message", ["Only management keys can perform this operation", "Provisioning keys only"])
@pytest.mark.parametrize("status", [401, 403])
def test_the_wrong_kind_of_key_is_known_by_its_words_whatever_the_status(status: int, message: str) -> None:
    message = message.replace("Provisioning keys", "Only provisioning keys")
    body = f'{{"error": {{"code": {status}, "message": "{message}"}}}}'.encode()
    with Server([answer(status, body)]) as server, pytest.raises(PermissionMissing):
        extract(connection(None, url=server.url), YESTERDAY)


def test_a_refusal_of_something_in_between_is_not_taken_for_openrouters(sandbox: Sandbox) -> None:
    with (
        Server([answer(403, b"<html>blocked</html>")]) as server,
        pytest.raises(SourceUnavailable, match="in front of"),
    ):
        extract(connection(None, url=server.url), YESTERDAY)


def test_a_missing_page_is_a_matter_of_the_address(sandbox: Sandbox) -> None:
    sandbox.faults.add("not_found", operation="getUserActivity")
    assert isinstance(fail(sandbox), ConfigurationInvalid)


def test_an_account_without_analytics_is_a_fact_and_not_a_failure(sandbox: Sandbox) -> None:
    sandbox.faults.add("not_found", operation="queryAnalytics")
    error = fail(sandbox, "history")
    assert isinstance(error, NotEntitled)
    assert "start_date" in error.action


def test_debt_is_told_as_debt() -> None:
    refusal = answer(402, b'{"error": {"code": 402, "message": "Insufficient credits"}}')
    with Server([refusal]) as server, pytest.raises(ConfigurationInvalid, match="credits are below zero"):
        extract(connection(None, url=server.url), YESTERDAY)


# ---------------------------------------------------------------- too fast, and out of order


@pytest.mark.parametrize("kind", ["throttling", "bare_throttling", "internal_error", "service_unavailable"])
@pytest.mark.parametrize("operation", READS)
def test_two_refusals_in_a_row_are_survived(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, operation=operation, times=2)
    one = survives(sandbox)
    assert one.journal.retries == 2
    assert one.journal.throttled == (2 if "throttling" in kind else 0)


def test_the_wait_that_openrouter_asks_for_is_kept_and_handed_on(sandbox: Sandbox) -> None:
    sandbox.faults.add("throttling")
    error = fail(sandbox)
    assert isinstance(error, RateLimited)
    assert error.retry_after == 1
    assert sandbox.requests.count() == 3


def test_throttling_without_a_word_about_waiting_is_named_after_bounded_repeats(sandbox: Sandbox) -> None:
    sandbox.faults.add("bare_throttling")
    error = fail(sandbox)
    assert isinstance(error, RateLimited)
    assert (error.retry_after, sandbox.requests.count()) == (None, 3)


def test_an_outage_that_stays_is_named(sandbox: Sandbox) -> None:
    sandbox.faults.add("internal_error", operation="getUserActivity", after=4)
    assert isinstance(fail(sandbox), SourceUnavailable)


def test_a_query_that_is_too_heavy_even_for_one_day_is_an_outage(sandbox: Sandbox) -> None:
    sandbox.faults.add("query_timeout", size=0)
    with pytest.raises(SourceUnavailable, match="gave up the query"):
        extract(connection(sandbox), days_ago(31), days_ago(31), "history")


def test_a_single_day_that_does_not_fit_into_an_answer_is_refused(sandbox: Sandbox) -> None:
    sandbox.faults.add("truncated_query")
    assert "more than 10000 combinations" in str(fail(sandbox, "history"))


# ---------------------------------------------------------------- broken answers


@pytest.mark.parametrize("operation", READS)
@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body", "empty_object"])
def test_a_broken_answer_is_never_taken_for_no_usage(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, operation=operation)
    assert isinstance(fail(sandbox), (SourceUnavailable, ResponseInvalid))


@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body", "empty_object"])
def test_a_broken_answer_of_analytics_is_never_taken_for_no_usage(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, operation="queryAnalytics")
    assert isinstance(fail(sandbox, "history"), (SourceUnavailable, ResponseInvalid))


@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body"])
def test_one_broken_answer_is_survived(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, operation="getUserActivity", times=1, after=2)
    survives(sandbox)


def test_a_dripping_answer_is_given_up_at_the_deadline(sandbox: Sandbox) -> None:
    sandbox.faults.add("slow_drip", operation="getUserActivity", milliseconds=100)
    began = time.monotonic()
    assert isinstance(fail(sandbox, limits=Limits(answer_timeout=0.5, patience=2, attempts=2)), SourceUnavailable)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("operation", ["listWorkspaces", "listKeys"])
def test_pages_that_repeat_themselves_are_found_out_at_once(sandbox: Sandbox, operation: str) -> None:
    sandbox.faults.add("repeated_page", operation=operation)
    assert "pages repeat themselves" in str(fail(sandbox))
    assert sandbox.requests.count(operation=operation) == 2


def test_pages_that_are_not_documented_are_not_passed_over(sandbox: Sandbox) -> None:
    sandbox.faults.add("silent_pages")
    error = fail(sandbox)
    assert isinstance(error, ResponseInvalid)
    assert "next_cursor" in error.happened


def test_rows_that_come_twice_count_once(sandbox: Sandbox) -> None:
    sandbox.faults.add("duplicate_rows")
    one = survives(sandbox)
    assert {note.kind for note in one.journal.notes} == {"rows_repeated"}


def test_rows_that_contradict_each_other_are_refused(sandbox: Sandbox) -> None:
    sandbox.faults.add("contradicting_rows")
    assert "contradict each other" in str(fail(sandbox))


@pytest.mark.parametrize("stream", ["activity", "history"])
@pytest.mark.parametrize("kind", ["missing_field", "odd_number"])
def test_a_row_that_lacks_what_is_documented_refuses_the_whole_answer(sandbox: Sandbox, kind: str, stream: str) -> None:
    sandbox.faults.add(kind)
    error = fail(sandbox, stream)
    assert isinstance(error, ResponseInvalid)
    assert "request" in error.happened


@pytest.mark.parametrize(
    "changes",
    [
        {"requests": -1},
        {"requests": True},
        {"requests": None},
        {"prompt_tokens": "many"},
        {"usage": "0.1"},
        {"usage": 1e300},
        {"date": "yesterday"},
        {"date": "2026-08-14 12:00:00"},
        {"date": "2026-02-30"},
        {"model_permaslug": ""},
        {"model": "m" * 301},
        {"provider_name": None},
        {"workspace_id": 7},
    ],
    ids=str,
)
def test_values_that_cannot_be_right_are_refused(changes: dict[str, Any]) -> None:
    with Server([ok({"data": [activity_row(**changes)]})]) as server, pytest.raises(ResponseInvalid):
        extract(connection(None, url=server.url), YESTERDAY)


@pytest.mark.parametrize("body", [{"data": {}}, {"data": None}, {"data": ["row"]}, {"rows": []}, {"data": [[]]}])
def test_an_answer_of_another_shape_is_never_no_usage(body: Any) -> None:
    with Server([ok(body)]) as server, pytest.raises(ResponseInvalid):
        extract(connection(None, url=server.url), YESTERDAY)


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"data": []},
        {"data": [], "metadata": {}},
        {"data": [], "metadata": {"truncated": "no", "row_count": 0}},
        {"data": [], "metadata": {"truncated": False, "row_count": 1}},
        {"data": [{"model": "a/b", "workspace": None}], "metadata": {"truncated": False, "row_count": 1}},
    ],
    ids=str,
)
def test_an_answer_of_analytics_that_does_not_prove_itself_whole_is_refused(data: Any) -> None:
    with Server([ok({"data": data})]) as server, pytest.raises(ResponseInvalid):
        extract(connection(None, url=server.url), days_ago(40), days_ago(31), "history")


# ---------------------------------------------------------------- new fields


@pytest.mark.parametrize("stream", ["activity", "history"])
def test_unknown_fields_are_kept_if_they_are_plain_and_told_in_the_same_words_every_time(
    sandbox: Sandbox, stream: str
) -> None:
    sandbox.faults.add("unknown_fields")
    told = []
    for _ in range(2):
        one = connection(sandbox)
        found = extract(one, days_ago(60) if stream == "history" else OLDEST, TODAY, stream)
        assert found
        for _, record in found:
            assert record["extra_fields"] == {"cached_tokens_v2": 17, "region_tag": "eu-west"}
            assert set(record) <= provider().stream(stream).fields
        assert "diary" not in str(found)
        told.append(one.journal.notes)
    assert told[0] == told[1]
    assert [note.kind for note in told[0]] == ["schema_drift"] * 3
    names = [note.message.split("does not know: ")[1].split(".")[0] for note in told[0]]
    assert names[:2] == ["cached_tokens_v2", "region_tag"]
    assert "last_prompt" in names[2:]
    assert "diary" not in str(told)


@pytest.mark.parametrize(
    "value",
    ["two words", "x" * 65, {"text": "hello"}, ["hello"], "line\nbreak", 10**31],
    ids=lambda value: str(value)[:12],
)
def test_what_could_be_content_is_not_kept(value: Any) -> None:
    with Server([ok({"data": [activity_row(surprise=value)]}), ok({"data": [], "total_count": 0})]) as server:
        one = connection(None, url=server.url)
        ((_, record),) = extract(one, YESTERDAY)
    assert "extra_fields" not in record
    assert [note.kind for note in one.journal.notes] == ["schema_drift"]


def test_a_field_name_cannot_carry_content_either() -> None:
    row = activity_row(**{"what the user said": 1})
    with Server([ok({"data": [row]}), ok({"data": [], "total_count": 0})]) as server:
        one = connection(None, url=server.url)
        ((_, record),) = extract(one, YESTERDAY)
    assert "extra_fields" not in record
    assert "user said" not in str(one.journal.notes)


def test_a_warning_of_analytics_is_passed_on() -> None:
    data = {
        "data": [],
        "metadata": {"truncated": False, "row_count": 0, "query_time_ms": 1.5},
        "warnings": ["Careful."],
    }
    with Server([ok({"data": data})]) as server:
        one = connection(None, url=server.url)
        assert extract(one, days_ago(40), days_ago(31), "history") == []
    assert [note.kind for note in one.journal.notes] == ["provider_warning"]


# ---------------------------------------------------------------- check


def test_a_healthy_connection_passes_every_check_in_five_calls(sandbox: Sandbox) -> None:
    found = checks(sandbox)
    assert {name: check.passed for name, check in found.items()} == dict.fromkeys(
        ["settings", "key", "activity", "workspaces", "history", "credits"], True
    )
    assert "USD left" in found["credits"].message
    assert sandbox.requests.count() == 5


def test_a_check_says_which_kind_of_key_is_needed_and_asks_nothing_more(sandbox: Sandbox) -> None:
    found = checks(sandbox, key=inference_key(ORGANISATION))
    assert (found["key"].passed, found["key"].kind) == (False, "permission_missing")
    assert "inference key" in found["key"].message
    assert "Make a management key at openrouter.ai/settings/management-keys" in (found["key"].action or "")
    assert {check.passed for name, check in found.items() if name not in ("settings", "key")} == {None}
    assert sandbox.requests.count() == 1


def test_a_check_of_a_dead_key_says_so(sandbox: Sandbox) -> None:
    found = checks(sandbox, key="sk-or-v1-nobody-knows-this")
    assert (found["key"].passed, found["key"].kind) == (False, "credential_rejected")


def test_an_older_answer_about_a_key_is_understood_too() -> None:
    with Server([ok({"data": {"label": "x", "is_provisioning_key": True}}), ok({})]) as server:
        found = {check.name: check for check in provider().check(connection(None, url=server.url))}
    assert found["key"].passed is True
    assert {found[name].kind for name in ("activity", "workspaces", "history", "credits")} == {"response_invalid"}


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("getUserActivity", "activity"),
        ("listWorkspaces", "workspaces"),
        ("getAnalyticsMeta", "history"),
        ("getCredits", "credits"),
    ],
)
def test_a_check_that_fails_leaves_the_others_alone(sandbox: Sandbox, operation: str, name: str) -> None:
    sandbox.faults.add("internal_error", operation=operation)
    found = checks(sandbox)
    assert found[name].kind == "source_unavailable"
    assert [check.name for check in found.values() if not check.passed] == [name]


def test_a_check_of_wrong_settings_asks_nothing(sandbox: Sandbox) -> None:
    found = checks(sandbox, per_key="perhaps")
    assert {name: check.passed for name, check in found.items()} == {"settings": False}
    assert sandbox.requests.count() == 0


def test_two_accounts_do_not_share_what_was_learnt(sandbox: Sandbox) -> None:
    memories = Memory(), Memory()
    for account, memory in zip((ORGANISATION, PERSON), memories, strict=True):
        extract(connection(sandbox, account, memory=memory), YESTERDAY)
    names = [{name for _, _, name in memory.learnt if name.startswith("workspace ")} for memory in memories]
    assert names[0].isdisjoint(names[1])
