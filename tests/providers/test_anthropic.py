"""Anthropic over real HTTP: what is read equals the truth, in the fewest calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

import pytest

from ai_usage.connection_types.anthropic import CONNECTION_TYPE
from ai_usage.core.contract import Check, Connection, Journal, Record, Stream
from ai_usage.core.errors import ConfigurationInvalid, CredentialRejected, UsageError
from ai_usage.core.slices import Window
from ai_usage.providers.anthropic import PROVIDER, Anthropic
from sandbox.service import Sandbox
from sandbox.simulators.anthropic import (
    admin_key,
    admin_token,
    analytics_key,
    developer_token,
    inference_key,
)
from sandbox.truth.anthropic import PRODUCTION, RESEARCH, TOKENS, AnthropicTruth, Organization
from tests.providers.aws import TODAY

DAY = timedelta(days=1)
USAGE, COSTS = PROVIDER.streams
BOTH = pytest.mark.parametrize("organization", [PRODUCTION, RESEARCH], ids=["classic", "analytics"])


def days_ago(number: int) -> date:
    return TODAY - DAY * number


@cache
def provider() -> Anthropic:
    """Return the provider on the sandbox's day: one object, as in a task."""
    return Anthropic(today=lambda: TODAY)


def connect(url: str, key: str, **options: Any) -> Connection:
    """Return a connection whose client does not really wait; ``options`` that are ``None`` are left out."""
    options = {name: value for name, value in options.items() if value is not None}
    journal = Journal()
    limits, sleep = options.pop("limits", None), options.pop("sleep", lambda _: None)
    client = provider().client(
        key,
        connection_id="anthropic_test",
        options=options,
        base_url=url,
        journal=journal,
        limits=limits,
        sleep=sleep,
    )
    return Connection("anthropic_test", options, client, journal)


def connection(
    sandbox: Sandbox,
    organization: Organization = PRODUCTION,
    key: Callable[[Organization], str] = admin_key,
    **changes: Any,
) -> Connection:
    """Return the sandbox's connection to an organisation."""
    found = next(one for one in sandbox.connections() if one["extra"].get("account_id") == organization.id)
    return connect(found["host"], key(organization), **(found["extra"] | changes))


def extract(
    one: Connection, stream: Stream = USAGE, first: date = TODAY - 29 * DAY, last: date = TODAY
) -> list[Record]:
    """Return the records of a window."""
    anthropic = provider()
    return list(anthropic.extract(one, stream, anthropic.scopes(one)[0], Window(first, last)))


def truth(sandbox: Sandbox) -> AnthropicTruth:
    known = sandbox.truth.of("anthropic")
    assert isinstance(known, AnthropicTruth)
    return known


def usage_in(records: list[Record], organization: Organization) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the numbers of usage by what they are about. Nothing may be there twice."""
    is_classic = organization.generation == "classic"
    found = {}
    for day, record in records:
        where = (
            day,
            *(record[name] for name in ("workspace_id", "api_key_id", "model", "service_tier", "inference_geo")),
        )
        where += (record["context_window"],) if is_classic else ()
        assert where not in found
        found[where] = {
            TOKENS[0]: record["uncached_input_tokens"],
            TOKENS[1]: record["cache_creation"]["ephemeral_5m_input_tokens"],
            TOKENS[2]: record["cache_creation"]["ephemeral_1h_input_tokens"],
            TOKENS[3]: record["cache_read_input_tokens"],
            TOKENS[4]: record["output_tokens"],
            "web_search_requests": record["server_tool_use"]["web_search_requests"],
        } | ({} if is_classic else {"requests": record["requests"]})
    return found


def expected_usage(sandbox: Sandbox, organization: Organization, first: date, last: date) -> dict[tuple[Any, ...], Any]:
    """Return what the truth says, in the same form."""
    known, is_classic = truth(sandbox), organization.generation == "classic"
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    for day in Window(first, last).days:
        for usage in known.usage(organization, day):
            line = usage.line
            workspace = line.workspace if is_classic else line.workspace or organization.default_workspace
            geo = line.geo if is_classic or line.geo != "not_available" else None
            where: tuple[Any, ...] = (day, workspace, line.key, line.model, line.tier, geo)
            where += (line.window,) if is_classic else ()
            total = found.setdefault(where, {})
            for name, value in usage.values.items():
                if name != "requests" or not is_classic:
                    total[name] = total.get(name, 0) + value
        for workspace, values in (known.executions(organization, day) if not is_classic else {}).items():
            where = (day, workspace or organization.default_workspace, None, None, None, None)
            found[where] = dict.fromkeys((*TOKENS, "web_search_requests"), 0) | {"requests": values["requests"]}
    return found


def cents_by_day(records: list[Record]) -> dict[date, Fraction]:
    total: dict[date, Fraction] = {}
    for day, record in records:
        assert record["currency"] == "USD"
        total[day] = total.get(day, Fraction(0)) + Fraction(Decimal(record["amount"]))
    return total


def expected_cents(sandbox: Sandbox, organization: Organization, first: date, last: date) -> dict[date, Fraction]:
    costs = {day: truth(sandbox).costs(organization, day) for day in Window(first, last).days}
    return {day: sum((cost.cents for cost in lines), Fraction(0)) for day, lines in costs.items() if lines}


def calls(sandbox: Sandbox, organization: Organization = PRODUCTION) -> dict[str, int]:
    """Return operation → how often it was called."""
    tree: Mapping[str, Any] = sandbox.requests.to_json()["calls"].get("anthropic", {})
    return dict(tree.get(organization.id, {}).get("-", {}))


# ---------------------------------------------------------------- values


@BOTH
def test_every_count_of_thirty_days_equals_the_truth(sandbox: Sandbox, organization: Organization) -> None:
    found = usage_in(extract(connection(sandbox, organization)), organization)
    assert found == expected_usage(sandbox, organization, days_ago(29), TODAY)
    assert len(found) > 200


@BOTH
def test_the_cost_of_every_day_equals_the_truth_to_the_last_digit(sandbox: Sandbox, organization: Organization) -> None:
    found = extract(connection(sandbox, organization), COSTS)
    assert cents_by_day(found) == expected_cents(sandbox, organization, days_ago(29), TODAY)
    assert any(len(record["amount"].partition(".")[2]) > 6 for _, record in found)


def test_the_priority_tier_is_in_usage_and_not_in_cost_and_that_is_told(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    assert "priority" in {record["service_tier"] for _, record in extract(one)}
    assert [note.kind for note in one.journal.notes] == ["cost_incomplete"]
    assert "priority" not in {record["service_tier"] for _, record in extract(one, COSTS)}


def test_code_execution_is_in_the_classic_cost_under_its_own_words(sandbox: Sandbox) -> None:
    lines = [record for _, record in extract(connection(sandbox), COSTS) if record["cost_type"] == "code_execution"]
    assert lines
    assert {(record["description"], record["model"]) for record in lines} == {("Code Execution Usage", None)}


@BOTH
def test_workspaces_have_their_names_archived_ones_too(sandbox: Sandbox, organization: Organization) -> None:
    names = {
        record["workspace_id"]: record["workspace_name"] for _, record in extract(connection(sandbox, organization))
    }
    default: dict[str | None, str | None]
    default = {None: None} if organization is PRODUCTION else {organization.default_workspace: "Default"}
    used = {identity: organization.workspaces[identity] for identity in names if identity in organization.workspaces}
    assert names == used | default
    assert len(used) == 2


@BOTH
@pytest.mark.parametrize("stream", PROVIDER.streams, ids=lambda stream: stream.name)
def test_a_record_holds_declared_fields_only(sandbox: Sandbox, organization: Organization, stream: Stream) -> None:
    for _, record in extract(connection(sandbox, organization), stream):
        assert set(record) <= stream.fields
        assert record["report"] == organization.generation


@BOTH
@pytest.mark.parametrize("stream", PROVIDER.streams, ids=lambda stream: stream.name)
def test_reading_day_by_day_gives_the_same_as_reading_at_once(
    sandbox: Sandbox, organization: Organization, stream: Stream
) -> None:
    one = connection(sandbox, organization)
    at_once = extract(one, stream)
    apart = [record for n in range(29, -1, -1) for record in extract(one, stream, days_ago(n), days_ago(n))]
    assert apart == at_once


@BOTH
def test_pages_of_one_bucket_or_row_give_the_same_as_one_page(sandbox: Sandbox, organization: Organization) -> None:
    one = connection(sandbox, organization)
    at_once = [extract(one, stream, days_ago(9)) for stream in PROVIDER.streams]
    sandbox.faults.add("small_pages", size=1)
    assert [extract(one, stream, days_ago(9)) for stream in PROVIDER.streams] == at_once
    assert sandbox.requests.count("anthropic") > 20


@BOTH
def test_a_restated_day_is_read_as_it_is_now(sandbox: Sandbox, organization: Organization) -> None:
    one, day = connection(sandbox, organization), days_ago(2)
    before = [extract(one, stream, day, day) for stream in PROVIDER.streams]
    place = {"provider": "anthropic", "account": organization.id, "region": "us", "day": day}
    sandbox.truth.restate(**place, factor="2.5")
    after = [extract(one, stream, day, day) for stream in PROVIDER.streams]
    assert usage_in(after[0], organization) == expected_usage(sandbox, organization, day, day)
    assert cents_by_day(after[1]) == expected_cents(sandbox, organization, day, day)
    assert after != before
    sandbox.truth.restate(**place, factor="1")
    assert [extract(one, stream, day, day) for stream in PROVIDER.streams] == before


@BOTH
def test_a_day_without_any_usage_is_an_answer(sandbox: Sandbox, organization: Organization) -> None:
    known = truth(sandbox)
    quiet = next(
        day
        for day in Window(days_ago(60), TODAY).days
        if not known.usage(organization, day) and not known.executions(organization, day)
    )
    one = connection(sandbox, organization)
    assert extract(one, USAGE, quiet, quiet) == extract(one, COSTS, quiet, quiet) == []


def test_days_to_come_cost_no_call(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    scope = provider().scopes(one)[0]
    sandbox.requests.reset()
    assert list(provider().extract(one, USAGE, scope, Window(TODAY + DAY, TODAY + DAY * 3))) == []
    assert sandbox.requests.count() == 0


# ---------------------------------------------------------------- calls


def test_thirty_days_cost_one_call_for_each_report_and_one_for_names_and_organisation(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    for stream in PROVIDER.streams:
        extract(one, stream)
    assert calls(sandbox) == {"me": 1, "workspaces": 1, "usage_report/messages": 1, "cost_report": 1}


def test_thirty_days_of_analytics_cost_the_same_as_long_as_they_fit_a_page(sandbox: Sandbox) -> None:
    one = connection(sandbox, RESEARCH)
    for stream in PROVIDER.streams:
        extract(one, stream)
    assert calls(sandbox, RESEARCH) == {"me": 1, "workspaces": 1, "analytics/usage": 1, "analytics/cost": 1}


def test_a_window_is_as_wide_as_one_page(sandbox: Sandbox) -> None:
    for stream in PROVIDER.streams:
        sandbox.requests.reset()
        found = extract(connection(sandbox), stream, TODAY - DAY * (stream.max_window_days - 1))
        assert found[0].usage_date == TODAY - DAY * 30
        assert sum(count for name, count in calls(sandbox).items() if "report" in name) == 1


# ---------------------------------------------------------------- check


def checks(one: Connection) -> dict[str, Check]:
    """Return the checks by name, each with an action if it failed."""
    found = list(provider().check(one))
    for check in found:
        assert check.passed is not False or (check.action and check.kind)
        assert "sandbox-not-a-real" not in f"{check}"
    return {check.name: check for check in found}


@BOTH
def test_a_good_connection_is_verified_in_four_calls(sandbox: Sandbox, organization: Organization) -> None:
    found = checks(connection(sandbox, organization))
    assert all(check.passed for check in found.values())
    assert len(found) == 6
    assert organization.name in found["key"].message
    assert sandbox.requests.count("anthropic") == 4


def test_an_oauth_token_of_an_admin_is_as_good_as_an_admin_key(sandbox: Sandbox) -> None:
    one = connection(sandbox, key=admin_token)
    assert usage_in(extract(one), PRODUCTION) == expected_usage(sandbox, PRODUCTION, days_ago(29), TODAY)


@pytest.mark.parametrize(
    "key", [inference_key, lambda _: "sk-ant-admin01-revoked-sandbox-not-a-real-key"], ids=["inference", "revoked"]
)
def test_a_key_of_the_wrong_kind_is_rejected_with_where_to_make_the_right_one(
    sandbox: Sandbox, key: Callable[[Organization], str]
) -> None:
    found = checks(connection(sandbox, key=key))
    assert found["key"].kind == "credential_rejected"
    assert "Admin keys" in (found["key"].action or "")
    assert [check.passed for check in found.values()] == [True, False, None, None]
    assert sandbox.requests.count("anthropic") == 1


def test_a_member_without_the_admin_role_lacks_a_permission(sandbox: Sandbox) -> None:
    found = checks(connection(sandbox, key=developer_token))
    assert found["key"].passed
    assert found["workspace names"].passed
    for name in ("the messages usage report", "the cost report"):
        assert found[name].kind == "permission_missing"
        assert "admin role" in found[name].message + (found[name].action or "")


def test_a_key_for_analytics_alone_cannot_read_the_classic_reports(sandbox: Sandbox) -> None:
    assert checks(connection(sandbox, key=analytics_key))["key"].kind == "permission_missing"


def test_a_key_for_analytics_alone_reads_them_for_the_organisation_that_the_connection_names(sandbox: Sandbox) -> None:
    one = connection(sandbox, RESEARCH, analytics_key)
    records = extract(one)
    assert usage_in(records, RESEARCH) == expected_usage(sandbox, RESEARCH, days_ago(29), TODAY)
    assert {record["workspace_name"] for _, record in records} == {None}
    assert [note.kind for note in one.journal.notes] == ["names_unavailable"]
    assert checks(connection(sandbox, RESEARCH, analytics_key, account_id=None))["key"].kind == "permission_missing"


def test_a_key_of_another_organisation_is_refused(sandbox: Sandbox) -> None:
    one = connection(sandbox, account_id=RESEARCH.id)
    assert checks(one)["key"].kind == "wrong_account"
    with pytest.raises(ConfigurationInvalid, match=f"belongs to the organisation {PRODUCTION.id}"):
        extract(one)


def test_a_key_of_another_vendor_is_refused_before_it_is_sent_anywhere(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationInvalid, match="not one of Anthropic's") as caught:
        connection(sandbox, key=lambda _: "sk-or-v1-sandbox")
    assert caught.value.connection_id == "anthropic_test"
    assert "sk-or-v1" not in str(caught.value)
    assert sandbox.requests.count() == 0


@pytest.mark.parametrize("changes", [{"reports": "both"}, {"reports": ["classic"]}, {"account_id": 7}])
def test_a_setting_that_makes_no_sense_is_refused_before_any_call(sandbox: Sandbox, changes: dict[str, Any]) -> None:
    found = checks(connection(sandbox, **changes))
    assert [(check.name, check.kind) for check in found.values()] == [("settings", "configuration_invalid")]
    assert sandbox.requests.count() == 0


def test_an_organisation_without_usage_is_told_as_a_warning(sandbox: Sandbox) -> None:
    def restate(**change: Any) -> None:
        for number in range(1, 8):
            for region in ("us", "global", "unspecified"):
                sandbox.truth.restate(
                    provider="anthropic", account=PRODUCTION.id, region=region, day=days_ago(number), **change
                )

    restate(vanish=True)
    found = checks(connection(sandbox))
    restate(factor=1)
    assert all(check.passed for check in found.values())
    assert found["the messages usage report"].kind == found["the cost report"].kind == "no_usage"


def test_the_scope_is_the_organisation_under_its_own_name_or_the_connections(sandbox: Sandbox) -> None:
    (scope,) = provider().scopes(connection(sandbox))
    assert (scope.name, scope.account_id, scope.account_name) == ("-", PRODUCTION.id, PRODUCTION.name)
    (scope,) = provider().scopes(connection(sandbox, account_name=" Ours "))
    assert scope.account_name == "Ours"


# ---------------------------------------------------------------- days before the analytics reports


def test_a_history_from_before_the_analytics_reports_is_refused_before_anybody_expects_it(sandbox: Sandbox) -> None:
    one = connection(sandbox, RESEARCH, start_date=None)
    for ask in (provider().scopes, lambda it: extract(it, USAGE, date(2025, 12, 31), date(2026, 1, 3))):
        with pytest.raises(ConfigurationInvalid, match="2026-01-01") as caught:
            ask(one)
        assert "start_date" in caught.value.action
    assert provider().scopes(connection(sandbox, RESEARCH, start_date="2026-01-01"))


# ---------------------------------------------------------------- the form


def test_the_form_offers_the_settings_that_the_provider_reads(sandbox: Sandbox) -> None:
    fields: Mapping[str, Any] = CONNECTION_TYPE["conn-fields"]
    assert CONNECTION_TYPE["connection-type"] == PROVIDER.connection_type
    assert set(fields) == {"account_name", "account_id", "start_date", "lookback_days", "reports"}
    for choice in fields["reports"]["schema"]["enum"]:
        reports = provider().check(connection(sandbox, reports=choice, start_date="2026-07-01"))
        assert next(iter(reports)).passed


def test_errors_name_the_connection(sandbox: Sandbox) -> None:
    with pytest.raises(CredentialRejected) as caught:
        extract(connection(sandbox, key=inference_key))
    error: UsageError = caught.value
    assert error.connection_id == "anthropic_test"
    assert "sandbox-not-a-real" not in f"{error!r}{error}"
