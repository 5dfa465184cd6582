"""What goes wrong at Anthropic ends in the exact truth, or in a clear event and untouched slices."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import pytest

from ai_usage.core.contract import Connection
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.slices import Window
from ai_usage.orchestration import sync
from ai_usage.providers.anthropic import PROVIDER
from ai_usage.warehouse import ledger
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from sandbox.service import Sandbox
from sandbox.simulators.anthropic import developer_token, inference_key
from sandbox.truth.anthropic import PRODUCTION, RESEARCH, Organization
from tests.core.http_server import Server, answer
from tests.providers.test_anthropic import (
    BOTH,
    COSTS,
    USAGE,
    calls,
    connect,
    connection,
    days_ago,
    expected_usage,
    extract,
    provider,
    usage_in,
)
from tests.support.warehouse import TestWarehouse

QUICK = replace(PROVIDER.limits, answer_timeout=1.0)
CLASSIC_REPORTS = ("usage_report/messages", "cost_report")
ANALYTICS_REPORTS = ("analytics/usage", "analytics/cost")
FIRST, LAST = days_ago(14), days_ago(5)


def fail(sandbox: Sandbox, organization: Organization = PRODUCTION, **changes: Any) -> UsageError:
    """Extract, and return the error; it names the connection, says what to do, and gives nothing away."""
    with pytest.raises(UsageError) as caught:
        extract(connection(sandbox, organization, **{"limits": QUICK, **changes}))
    error = caught.value
    assert error.connection_id == "anthropic_test"
    assert error.action.endswith(".")
    assert "not-a-real" not in "".join(traceback.format_exception(error))
    return error


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("kind", ["invalid_credentials", "expired_token"])
def test_a_rejected_key_is_not_tried_again(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="anthropic", operation="usage_report/messages")
    error = fail(sandbox)
    assert isinstance(error, CredentialRejected)
    assert "sk-ant-admin01" in error.action
    assert calls(sandbox)["usage_report/messages"] == 1


def test_a_key_revoked_between_two_pages_ends_the_reading(sandbox: Sandbox) -> None:
    sandbox.faults.add("small_pages", size=5)
    sandbox.faults.add("invalid_credentials", provider="anthropic", operation="usage_report/messages", after=3)
    assert isinstance(fail(sandbox), CredentialRejected)
    assert calls(sandbox)["usage_report/messages"] == 4


@pytest.mark.parametrize("key", [inference_key, developer_token], ids=["inference", "developer"])
def test_each_wrong_kind_of_key_is_told_apart(sandbox: Sandbox, key: Callable[[Organization], str]) -> None:
    error = fail(sandbox, key=key)
    assert isinstance(error, CredentialRejected if key is inference_key else PermissionMissing)
    assert "Admin API key" in error.action


def test_analytics_without_permission_names_the_scope(sandbox: Sandbox) -> None:
    sandbox.faults.add("access_denied", operation="analytics/usage")
    error = fail(sandbox, RESEARCH)
    assert isinstance(error, PermissionMissing)
    assert error.permission == "read:analytics"


@BOTH
def test_a_report_that_is_not_there_is_a_matter_of_configuration(sandbox: Sandbox, organization: Organization) -> None:
    sandbox.faults.add("not_found")
    assert isinstance(fail(sandbox, organization), ConfigurationInvalid)


def test_what_anthropic_says_of_a_bad_question_is_told(sandbox: Sandbox) -> None:
    one = connection(sandbox, RESEARCH)
    with pytest.raises(ResponseInvalid, match="at most 31 days") as caught:
        list(PROVIDER.extract(one, USAGE, provider().scopes(one)[0], Window(date(2026, 1, 1), date(2026, 3, 1))))
    assert "start_date" in caught.value.action


def test_an_organisation_of_a_type_without_the_report_is_not_entitled() -> None:
    error = {"type": "invalid_request_error", "error_code": "organization_type_not_supported", "message": "x"}
    with Server([answer(400, json.dumps({"type": "error", "error": error}).encode())]) as server:
        check = list(provider().check(connect(server.url, "sk-ant-admin01-x")))[1]
    assert check.kind == "not_entitled"


def test_too_many_requests_without_a_word_on_when_to_return_are_waited_out(sandbox: Sandbox) -> None:
    sandbox.faults.add("throttling", operation="usage_report/messages", times=9)
    waits: list[float] = []
    one = connection(sandbox, sleep=waits.append)
    assert usage_in(extract(one), PRODUCTION) == expected_usage(sandbox, PRODUCTION, days_ago(29), days_ago(0))
    assert one.journal.throttled == 9
    assert len(waits) == 9
    assert max(waits) > 2


def test_throttling_that_does_not_end_is_left_to_a_later_run(sandbox: Sandbox) -> None:
    sandbox.faults.add("throttling", operation="usage_report/messages")
    error = fail(sandbox)
    assert isinstance(error, RateLimited)
    assert not error.is_permanent
    assert calls(sandbox)["usage_report/messages"] == 10


def test_a_stated_time_to_return_is_kept(sandbox: Sandbox) -> None:
    sandbox.faults.add("retry_later", operation="cost_report", milliseconds=7000, times=2)
    waits: list[float] = []
    extract(connection(sandbox, sleep=waits.append), COSTS)
    assert len(waits) == 2
    assert all(wait >= 7 for wait in waits)


def test_a_time_to_return_of_a_day_is_not_slept_through(sandbox: Sandbox) -> None:
    sandbox.faults.add("retry_later", operation="usage_report/messages", milliseconds=86_400_000)
    waits: list[float] = []
    error = fail(sandbox, sleep=waits.append)
    assert isinstance(error, RateLimited)
    assert error.retry_after == 86_400
    assert waits == []


def test_requests_of_one_organisation_go_out_one_after_another(sandbox: Sandbox) -> None:
    sandbox.faults.add("latency", milliseconds=60)
    one = connection(sandbox)
    sandbox.faults.add("small_pages", size=10)
    began = time.monotonic()
    extract(one)
    assert time.monotonic() - began > 0.06 * sandbox.requests.count("anthropic", PRODUCTION.id)


# ---------------------------------------------------------------- pages that lead nowhere


@BOTH
@pytest.mark.parametrize("kind", ["cursor_loop", "cursor_ping_pong", "cursor_missing", "empty_pages"])
def test_pages_without_end_are_found_out_at_once(sandbox: Sandbox, organization: Organization, kind: str) -> None:
    sandbox.faults.add(kind, operation="usage_report/messages")
    sandbox.faults.add(kind, operation="analytics/usage")
    began = time.monotonic()
    assert isinstance(fail(sandbox, organization), (ResponseInvalid, SourceUnavailable))
    assert time.monotonic() - began < 5
    assert sandbox.requests.count("anthropic") <= 15


def test_a_list_of_workspaces_without_end_is_found_out(sandbox: Sandbox) -> None:
    sandbox.faults.add("cursor_loop", operation="workspaces")
    assert "do not come to an end" in str(fail(sandbox))
    assert calls(sandbox)["workspaces"] == 2


# ---------------------------------------------------------------- slices


@dataclass(frozen=True)
class Trouble:
    """
    A fault, and how a reading through it must end.

    :param event: the kind of the event; ``None``: in the exact truth.
    :param beside: faults at the same time.
    """

    kind: str
    event: str | None = None
    times: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    only: str | None = None
    limits: Any = PROVIDER.limits

    def __str__(self) -> str:
        return f"{self.kind}{f' x{self.times}' if self.times else ''}{' and '.join(('', *self.beside))}"


SURVIVED = [
    Trouble("throttling", times=4),
    Trouble("retry_later", times=2),
    Trouble("internal_error", times=3),
    Trouble("service_unavailable", times=3),
    Trouble("overloaded", times=1),
    Trouble("truncated_body", times=2),
    Trouble("connection_reset", times=2),
    Trouble("connection_reset", times=2, beside=("small_pages",), details={"after": 2}),
    Trouble("html_body", times=1),
    Trouble("empty_body", times=1),
    Trouble("empty_object", times=1),
    Trouble("slow_drip", times=1, limits=QUICK),
    Trouble("unknown_fields"),
    Trouble("small_pages"),
]
REFUSED = [
    Trouble("invalid_credentials", "credential_rejected"),
    Trouble("access_denied", "permission_missing"),
    Trouble("not_found", "configuration_invalid"),
    Trouble("throttling", "rate_limited"),
    Trouble("retry_later", "rate_limited", details={"milliseconds": 3_600_000}),
    Trouble("internal_error", "source_unavailable"),
    Trouble("internal_error", "source_unavailable", beside=("small_pages",), details={"after": 3}),
    Trouble("truncated_body", "source_unavailable"),
    Trouble("connection_reset", "source_unavailable"),
    Trouble("html_body", "response_invalid"),
    Trouble("empty_body", "response_invalid"),
    Trouble("empty_object", "response_invalid"),
    Trouble("slow_drip", "source_unavailable", limits=replace(QUICK, attempts=2)),
    Trouble("cursor_loop", "response_invalid", only="classic"),
    Trouble("cursor_loop", "source_unavailable", only="analytics"),
    Trouble("cursor_missing", "response_invalid"),
    Trouble("empty_pages", "response_invalid"),
    Trouble("page_twice", None, beside=("small_pages",), only="classic"),
    Trouble("page_twice", "source_unavailable", beside=("small_pages",), only="analytics"),
    # Asked for by itself, a day has one page only, and nothing that could be left out: the parts of the window are exact.
    Trouble("page_repeated", None, beside=("small_pages",), only="classic"),
    Trouble("page_repeated", "source_unavailable", beside=("small_pages",), only="analytics"),
    Trouble("bucket_missing", None, only="classic"),
    Trouble("bucket_twice", "response_invalid", only="classic"),
    Trouble("unaligned_buckets", "response_invalid"),
    Trouble("missing_field", "response_invalid"),
]


@pytest.mark.parametrize(
    ("trouble", "organization"),
    [
        pytest.param(trouble, organization, id=f"{trouble}, {organization.generation}")
        for trouble in (*SURVIVED, *REFUSED)
        for organization in (PRODUCTION, RESEARCH)
        if trouble.only in (None, organization.generation)
    ],
)
def test_a_fault_ends_in_the_truth_or_in_an_event_and_untouched_slices(
    sandbox: Sandbox, warehouse: TestWarehouse, organization: Organization, trouble: Trouble
) -> None:
    one = connection(sandbox, organization, limits=trouble.limits)
    assert load(warehouse, one) == []
    before = stored(warehouse)
    place = {"provider": "anthropic", "account": organization.id, "region": "us"}
    for day in (days_ago(6), days_ago(9)):
        sandbox.truth.restate(**place, day=day, factor=3)
    try:
        for operation in CLASSIC_REPORTS if organization is PRODUCTION else ANALYTICS_REPORTS:
            size = {"size": 2 if operation in CLASSIC_REPORTS else 25}
            for beside in trouble.beside:
                sandbox.faults.add(beside, provider="anthropic", operation=operation, **size)
            details = trouble.details | ({"times": trouble.times} if trouble.times else {})
            details |= size if trouble.kind == "small_pages" else {}
            sandbox.faults.add(trouble.kind, provider="anthropic", operation=operation, **details)
        failures = load(warehouse, one, "run with a fault")
        sandbox.faults.clear()

        truth = told(one)
        assert truth != before
        if trouble.event is None:
            assert failures == []
            assert stored(warehouse) == truth
        else:
            assert {failure.kind for failure in failures} == {trouble.event}
            assert_every_slice_is_old_or_new(stored(warehouse), before, truth)
            events = set(warehouse.query("select kind, action <> '' from ops.event where severity = 'error'"))
            assert events == {(trouble.event, True)}
            assert load(warehouse, one, "run after it") == []
            assert stored(warehouse) == truth
            assert warehouse.query("select count(*) from ops.event where kind = 'recovered'") == [(2,)]
        everything = str(warehouse.query("select string_agg(e::text, ' ') from ops.event as e"))
        everything += str(warehouse.query("select string_agg(e::text, ' ') from ops.extraction as e"))
        assert "not-a-real-key" not in everything
    finally:
        for day in (days_ago(6), days_ago(9)):
            sandbox.truth.restate(**place, day=day, factor=1)


def test_amounts_as_numbers_and_tokens_as_texts_leave_their_slices_alone(
    sandbox: Sandbox, warehouse: TestWarehouse
) -> None:
    sandbox.faults.add("amount_as_number", operation="cost_report")
    assert {failure.kind for failure in load(warehouse, connection(sandbox))} == {"response_invalid"}
    assert {stream for stream, *_ in stored(warehouse)} == {"usage"}
    sandbox.faults.clear()
    sandbox.faults.add("tokens_as_text", operation="usage_report/messages")
    assert {failure.kind for failure in load(warehouse, connection(sandbox), "next")} == {"response_invalid"}
    assert {stream for stream, *_ in stored(warehouse)} == {"usage", "costs"}


def test_drift_is_told_once_however_often_it_is_met(sandbox: Sandbox, warehouse: TestWarehouse) -> None:
    sandbox.faults.add("unknown_fields", operation="cost_report")
    one = connection(sandbox)
    for run in ("first", "second"):
        assert load(warehouse, one, run) == []
    assert warehouse.query("select count(*) from ops.event where kind = 'schema_drift'") == [(4,)]
    kept = warehouse.query("select distinct record -> 'extra_fields' from raw.anthropic_costs")
    assert kept == [({"reasoning_tokens": 12, "billing_plan": "scale-2"},)]
    assert warehouse.query("select count(*) from raw.anthropic_costs where position('diary' in record::text) > 0") == [
        (0,)
    ]


def load(warehouse: TestWarehouse, one: Connection, run_id: str = "run") -> list[UsageError]:
    """Read both streams as a task does; return the failures."""
    anthropic = provider()
    scope = anthropic.scopes(one)[0]
    with warehouse.warehouse.session(LOADER) as session:
        ledger.register_scopes(session, anthropic, one.connection_id, [scope])
        for stream in anthropic.streams:
            place = Place(anthropic.name, one.connection_id, stream.name, scope.name)
            ledger.expect_slices(session, place, Window(FIRST, LAST))
    summary = sync.Summary(label="", slices_changed=0, records_written=0, calls=0)
    reader = sync.ScopeReader(anthropic, warehouse.warehouse, one, scope, run_id, summary)
    return [failure for stream in anthropic.streams for failure in reader.read(stream, [Window(FIRST, LAST)])]


Rows = list[tuple[str, date, str]]


def assert_every_slice_is_old_or_new(now: Rows, before: Rows, truth: Rows) -> None:
    """A window that makes no sense is asked for in parts: the days that do are new, the others as they were."""
    for place in {row[:2] for row in (*now, *before, *truth)}:
        found, old, new = ([row for row in rows if row[:2] == place] for rows in (now, before, truth))
        assert found in (old, new), place


def stored(warehouse: TestWarehouse) -> Rows:
    """Return what readers of raw see, without the fields that nobody knows."""
    return _in_order(
        (stream, day, record)
        for stream in ("usage", "costs")
        for day, record in warehouse.query(
            f"select usage_date, record - 'extra_fields' from raw.anthropic_{stream}"
            " inner join ops.load using (load_id, usage_date) where superseded_by is null"
        )
    )


def told(one: Connection) -> Rows:
    """Return what Anthropic says now, in the same form."""
    return _in_order(
        (stream.name, day, record) for stream in (USAGE, COSTS) for day, record in extract(one, stream, FIRST, LAST)
    )


def _in_order(rows: Iterable[tuple[str, date, Any]]) -> Rows:
    return sorted((stream, day, json.dumps(record, sort_keys=True)) for stream, day, record in rows)
