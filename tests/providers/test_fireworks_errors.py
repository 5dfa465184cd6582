"""Fireworks AI on bad days: either the exact truth in the end, or an error that says what to do, and nothing stored."""

from __future__ import annotations

import time
import traceback
from datetime import date
from typing import Any

import pytest

from ai_usage.core.contract import Check, Connection, Scope
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
from ai_usage.core.slices import Window
from ai_usage.providers._fireworks import WindowRefused
from sandbox.service import Sandbox
from sandbox.simulators.fireworks import KEYS, inference_key, user_key
from sandbox.truth.fireworks import LAB, PRODUCTION, Account
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY
from tests.providers.test_fireworks import (
    ACCOUNTS,
    DAY,
    STANDING,
    connection,
    costs,
    days_ago,
    expected_costs,
    expected_usage,
    extract,
    in_order,
    metered,
)

CANARY = "fw_canary-%2B/=7f3a91"
LONG_AGO = days_ago(20)
OPERATION = {"usage": ["usage", "summary"], "costs": ["costs"], "throughput": ["metrics"]}


def fail(sandbox: Sandbox, stream: str = "usage", account: Account = PRODUCTION, **changes: Any) -> UsageError:
    """Read a stream record by record; nothing may come before the error, which gives no key away."""
    one = connection(sandbox, account, **changes)
    first = TODAY if stream == "throughput" else LONG_AGO
    records = STANDING.provider.extract(
        one, STANDING.provider.stream(stream), Scope(account.account_id), Window(first, TODAY)
    )
    with pytest.raises(UsageError) as caught:
        next(iter(records))
    error = caught.value.at(one.connection_id)
    assert error.connection_id == "fireworks_test"
    shown = "".join(traceback.format_exception(error))
    for key in (*KEYS, CANARY):
        assert key not in shown
    assert error.action.endswith(".")
    return error


def survives(sandbox: Sandbox, stream: str) -> Connection:
    """Read a stream and find the exact truth."""
    one = connection(sandbox, readings_per_run=1)
    records = extract(one, stream, TODAY if stream == "throughput" else LONG_AGO)
    if stream == "usage":
        assert metered(records) == in_order(expected_usage(sandbox, PRODUCTION, LONG_AGO))
    elif stream == "costs":
        assert costs(records) == expected_costs(sandbox, PRODUCTION, LONG_AGO)
    return one


def checks(sandbox: Sandbox | None, account: Account = LAB, **changes: Any) -> list[Check]:
    """Return the checks, each with what to do if it failed, none with a key in it."""
    found = list(STANDING.provider.check(connection(sandbox, account, **changes)))
    for check in found:
        assert check.passed is not False or (check.action and check.kind)
        assert not any(key in f"{check}" for key in (*KEYS, CANARY))
    return found


def failed(found: list[Check]) -> dict[str, str | None]:
    return {check.name: check.kind for check in found if check.passed is False}


# ---------------------------------------------------------------- kinds of keys, accounts


def test_a_good_key_passes_every_check_in_five_calls(sandbox: Sandbox) -> None:
    found = checks(sandbox)
    assert [check.passed for check in found] == [True] * 6
    assert found[1].message == "Accepted. It reaches acme-lab."
    assert "of the last 30 days" in found[2].message
    assert found[5].message == "Allowed: 0 at present."
    assert {check.scope for check in found[2:]} == {"acme-lab"}
    # Without the daily summary, yesterday's line items are one call all the same.
    assert sandbox.requests.count() == 5


def test_both_accounts_of_a_key_are_checked(sandbox: Sandbox) -> None:
    found = checks(sandbox, PRODUCTION)
    assert failed(found) == {}
    assert [check.scope for check in found].count("acme-research") == 4
    live = [check.message for check in found if check.name == "gauges of deployments"]
    assert live == ["Allowed: 1 at present.", "Allowed: 0 at present."]


def test_a_key_that_only_calls_models_is_told_what_it_lacks(sandbox: Sandbox) -> None:
    found = failed(checks(sandbox, key=inference_key(LAB)))
    assert found == dict.fromkeys(["usage", "line items", "costs", "gauges of deployments"], "permission_missing")
    error = fail(sandbox, key=inference_key(LAB), account=LAB)
    assert isinstance(error, PermissionMissing)
    assert error.permission == "read access to billingUsage"


@pytest.mark.parametrize("shape", [None, "bare_error"])
def test_costs_take_an_administrator_and_nothing_else_does(sandbox: Sandbox, shape: str | None) -> None:
    if shape:
        sandbox.faults.add(shape, provider="fireworks")
    (check,) = [one for one in checks(sandbox, key=user_key(LAB)) if not one.passed]
    assert (check.name, check.kind) == ("costs", "permission_missing")
    assert "administrator" in (check.action or "")
    error = fail(sandbox, "costs", LAB, key=user_key(LAB))
    assert isinstance(error, PermissionMissing)
    assert error.permission == "account administrator"
    assert extract(connection(sandbox, key=user_key(LAB)), "usage", days_ago(3), account=LAB)


@pytest.mark.parametrize("key", ["sk-ant-admin-x", "sk-or-v1-x", "sk-admin-x", "gsk_x", "r8_x", "fpk_x"])
def test_a_key_that_can_be_seen_to_be_wrong_is_never_sent(sandbox: Sandbox, key: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="This is a"):
        connection(sandbox, key=key)
    assert sandbox.requests.count() == 0


def test_an_unknown_key_is_rejected_at_once(sandbox: Sandbox) -> None:
    assert isinstance(fail(sandbox, key=CANARY), CredentialRejected)
    assert sandbox.requests.count() == 1
    found = checks(sandbox, key=CANARY)
    assert failed(found) == {"key": "credential_rejected"}
    assert found[-1].passed is None


@pytest.mark.parametrize("kind", ["invalid_credentials", "expired_token"])
def test_a_key_that_is_revoked_in_the_middle_of_a_run_is_noticed(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add("small_pages", provider="fireworks", operation="costs", size=5)
    sandbox.faults.add(kind, provider="fireworks", operation="costs", after=2)
    assert isinstance(fail(sandbox, "costs"), CredentialRejected)
    assert sandbox.requests.count(operation="costs") == 3


def test_a_wrong_account_fails_its_check_and_leaves_the_other_one_alone(sandbox: Sandbox) -> None:
    found = checks(sandbox, PRODUCTION, accounts="acme-research, acme-prd")
    assert failed(found) == {"account": "configuration_invalid"}
    assert next(check.name for check in found if check.scope == "acme-research") == "usage"
    assert "it reaches acme-prod, acme-research" in found[-1].message
    assert extract(connection(sandbox, accounts="acme-research, acme-prd"), "costs", days_ago(5))


@pytest.mark.parametrize("settings", [{"readings_per_run": 0}, {"readings_per_run": "many"}, {"accounts": ["a"]}])
def test_settings_that_make_no_sense_are_refused_before_a_call(sandbox: Sandbox, settings: dict[str, Any]) -> None:
    assert failed(checks(sandbox, **settings)) == {"settings": "configuration_invalid"}
    assert sandbox.requests.count() == 0


def test_an_account_without_usage_passes_with_a_warning() -> None:
    nothing = ok({"serverlessCosts": [], "dedicatedCosts": []})
    gauges = answer(200, b"# nothing\n", Content_Type="text/plain")
    steps = [ACCOUNTS, nothing, ok({"lineItems": [], "usageBuckets": []}), ok({"rows": [], "subtotal": None}), gauges]
    with Server(steps) as server:
        found = checks(None, url=server.url)
    assert failed(found) == {}
    assert found[2].kind == "no_usage"
    assert "another one is" in (found[2].action or "")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "error"),
    [("not_found", ConfigurationInvalid), ("bad_request", WindowRefused), ("not_implemented", ResponseInvalid)],
)
@pytest.mark.parametrize("stream", ["usage", "costs"])
def test_refusals_are_named(sandbox: Sandbox, stream: str, kind: str, error: type[UsageError]) -> None:
    sandbox.faults.add(kind, provider="fireworks", operation=stream)
    refusal = fail(sandbox, stream)
    assert isinstance(refusal, error)
    assert sandbox.requests.count(operation=stream) == 1
    assert refusal.is_permanent == (kind != "bad_request")


@pytest.mark.parametrize("kind", ["throttling", "bare_throttling", "internal_error", "service_unavailable"])
@pytest.mark.parametrize("operation", ["accounts", "usage", "summary", "costs"])
def test_two_refusals_in_a_row_are_survived(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, provider="fireworks", operation=operation, times=2)
    one = connection(sandbox)
    STANDING.provider.scopes(one)
    stream = "costs" if operation in ("accounts", "costs") else "usage"
    survivor = survives(sandbox, stream)
    retries = one.journal.retries + survivor.journal.retries
    assert retries == 2
    assert one.journal.throttled + survivor.journal.throttled == (2 if "throttling" in kind else 0)


@pytest.mark.parametrize(("kind", "wait"), [("throttling", 1.0), ("bare_throttling", None)])
def test_throttling_that_does_not_end_says_how_long_to_wait(sandbox: Sandbox, kind: str, wait: float | None) -> None:
    sandbox.faults.add(kind, provider="fireworks", operation="costs")
    error = fail(sandbox, "costs")
    assert isinstance(error, RateLimited)
    assert error.retry_after == wait
    assert sandbox.requests.count(operation="costs") == 3


# ---------------------------------------------------------------- deliveries


@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body", "empty_object"])
@pytest.mark.parametrize("stream", ["usage", "costs"])
def test_one_broken_answer_in_the_middle_is_survived(sandbox: Sandbox, stream: str, kind: str) -> None:
    sandbox.faults.add("small_pages", provider="fireworks", operation="costs", size=7)
    # The second answer of either stream.
    operation, after = ("summary", 0) if stream == "usage" else ("costs", 1)
    sandbox.faults.add(kind, provider="fireworks", operation=operation, after=after, times=1)
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
@pytest.mark.parametrize("operation", ["usage", "summary", "costs", "accounts"])
def test_answers_that_stay_broken_are_told_and_nothing_is_stored(
    sandbox: Sandbox, operation: str, kind: str, error: type[UsageError]
) -> None:
    sandbox.faults.add(kind, provider="fireworks", operation=operation)
    STANDING.provider._accounts.clear()
    assert isinstance(fail(sandbox, "costs" if operation == "costs" else "usage"), error)


@pytest.mark.parametrize(
    "kind", ["truncated_body", "connection_reset", "html_body", "internal_error", "throttling", "cut_gauges"]
)
def test_gauges_that_cannot_be_read_fail_after_one_call(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="fireworks", operation="metrics")
    assert isinstance(
        fail(sandbox, "throughput", readings_per_run=1), SourceUnavailable | RateLimited | ResponseInvalid
    )
    assert sandbox.requests.count(operation="metrics") == 1


def test_an_answer_that_drips_is_given_up(sandbox: Sandbox) -> None:
    sandbox.faults.add("slow_drip", provider="fireworks", operation="costs", milliseconds=50)
    began = time.monotonic()
    limits = Limits(attempts=2, answer_timeout=0.5, connect_timeout=5, read_timeout=5, patience=30)
    assert isinstance(fail(sandbox, "costs", limits=limits), SourceUnavailable)
    assert time.monotonic() - began < 5


# ---------------------------------------------------------------- pages and rows


@pytest.mark.parametrize("kind", ["cursor_loop", "cursor_ping_pong"])
@pytest.mark.parametrize("operation", ["costs", "accounts"])
def test_pages_without_an_end_are_noticed_at_once(sandbox: Sandbox, operation: str, kind: str) -> None:
    sandbox.faults.add(kind, provider="fireworks", operation=operation)
    error = fail(sandbox, "costs")
    assert isinstance(error, ResponseInvalid)
    assert sandbox.requests.count(operation=operation) <= 3


def test_empty_pages_without_an_end_are_noticed(sandbox: Sandbox) -> None:
    pages = [ok({"rows": [], "nextPageToken": f"t{n}"}) for n in range(30)]
    with Server([ACCOUNTS, *pages]) as server:
        error = fail(sandbox, "costs", url=server.url)
        assert isinstance(error, ResponseInvalid)
        assert len(server.requests) == 11


def test_a_page_that_is_never_named_is_missed_in_the_total(sandbox: Sandbox) -> None:
    sandbox.faults.add("small_pages", provider="fireworks", operation="costs", size=9)
    sandbox.faults.add("lost_page", provider="fireworks", operation="costs")
    error = fail(sandbox, "costs")
    assert isinstance(error, ResponseInvalid)
    assert "do not add up to its total" in error.happened


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("usage", "renamed_list"),
        ("usage", "contradicting_rows"),
        ("usage", "odd_day"),
        ("usage", "missing_field"),
        ("usage", "odd_number"),
        ("usage", "cached_above_input"),
        ("summary", "odd_day"),
        ("summary", "missing_field"),
        ("summary", "odd_number"),
        ("costs", "contradicting_page"),
        ("costs", "row_twice"),
        ("costs", "missing_field"),
        ("costs", "odd_number"),
    ],
)
def test_an_answer_that_is_not_as_documented_is_refused_whole(sandbox: Sandbox, operation: str, kind: str) -> None:
    sandbox.faults.add(kind, provider="fireworks", operation=operation)
    error = fail(sandbox, "costs" if operation == "costs" else "usage")
    assert isinstance(error, ResponseInvalid)
    assert error.is_permanent
    assert "nothing was stored" in error.happened


def test_lists_that_an_account_does_not_need_may_be_missing_but_not_all() -> None:
    row = {"startTime": "2026-08-14T00:00:00Z", "promptTokens": 1, "completionTokens": "2", "modelName": "m"}
    items = ok({"lineItems": []})
    with Server([ACCOUNTS, ok({"serverlessCosts": [row]}), items]) as server:
        ((day, record),) = extract(connection(None, url=server.url), "usage", days_ago(1))
    assert (day, record["promptTokens"], record["completionTokens"]) == (date(2026, 8, 14), 1, 2)
    with Server([ACCOUNTS, ok({"nothing": None}), items]) as server, pytest.raises(ResponseInvalid):
        extract(connection(None, url=server.url), "usage", days_ago(1))


@pytest.mark.parametrize(
    ("end", "day", "is_fine"),
    [("2026-08-15T09:30:00Z", TODAY, True), ("2026-08-14T09:30:00Z", TODAY - DAY, False)],
)
def test_only_today_may_end_before_midnight(end: str, day: date, is_fine: bool) -> None:
    row = {"startTime": f"{day}T00:00:00Z", "endTime": end, "promptTokens": "1", "completionTokens": "2"}
    with Server([ACCOUNTS, ok({"serverlessCosts": [row]}), ok({"lineItems": []})]) as server:
        one = connection(None, url=server.url)
        if is_fine:
            assert len(extract(one, "usage", day)) == 1
        else:
            with pytest.raises(ResponseInvalid):
                extract(one, "usage", day)


@pytest.mark.parametrize(
    "subtotal",
    [
        None,
        {"currencyCode": "USD", "units": "1", "nanos": -1},
        {"currencyCode": "USD", "nanos": 10**9},
        {"currencyCode": "usd"},
        {"units": "1"},
        {"currencyCode": "USD", "units": "1.5"},
        {"currencyCode": "USD", "units": True},
    ],
)
def test_money_that_is_none_is_refused(subtotal: Any) -> None:
    row = {"dimensions": {"startTime": f"{TODAY}T00:00:00Z", "model": "m"}, "subtotal": subtotal}
    with Server([ACCOUNTS, ok({"rows": [row]})]) as server, pytest.raises(ResponseInvalid):
        extract(connection(None, url=server.url), "costs", TODAY)


def test_days_that_nobody_asked_for_are_left_to_the_loader_to_drop(sandbox: Sandbox) -> None:
    sandbox.faults.add("foreign_day", provider="fireworks", operation="usage")
    found = {day for day, row in extract(connection(sandbox), "usage", LONG_AGO) if row["list"] == "serverlessCosts"}
    assert found
    assert max(found) < LONG_AGO


def test_what_is_odd_but_harmless_is_told_once_and_content_never_kept(sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown_fields", provider="fireworks", operation="usage")
    sandbox.faults.add("parts_differ", provider="fireworks", operation="usage")
    one = connection(sandbox)
    found = extract(one, "usage", LONG_AGO)
    assert all(row["extra_fields"]["reasoningTokens"] == "17" for _, row in metered(found))
    assert "diary" not in str(found)
    assert sorted(note.kind for note in one.journal.notes) == ["parts_differ", *["schema_drift"] * 4]


def test_costs_of_long_ago_that_are_not_attributed_yet_are_told() -> None:
    page = {"rows": [], "attributionCompleteness": "INCOMPLETE", "subtotal": {"currencyCode": "USD"}}
    for day, told in ((days_ago(9), ["cost_incomplete"]), (days_ago(2), [])):
        with Server([ACCOUNTS, ok(page)]) as server:
            one = connection(None, url=server.url)
            assert extract(one, "costs", day, day) == []
        assert [note.kind for note in one.journal.notes] == told
