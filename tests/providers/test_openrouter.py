"""OpenRouter: every record equals the truth, in as few calls as can be, and no day is ever lost or counted twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import pytest

from ai_usage.core.contract import Connection, Journal, Memory, Record, Scope
from ai_usage.core.errors import ConfigurationInvalid, SourceUnavailable
from ai_usage.core.http import Limits
from ai_usage.core.slices import Window
from ai_usage.providers._openrouter import DayOutOfReach
from ai_usage.providers.openrouter import OpenRouterProvider
from sandbox.service import Sandbox
from sandbox.simulators.openrouter import management_key
from sandbox.truth.openrouter import ORGANISATION, PERSON, Account, OpenRouterTruth, Use, dollars, total
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY

DAY = timedelta(days=1)
YESTERDAY = TODAY - DAY
OLDEST = TODAY - 30 * DAY
SCOPE = Scope()
QUICK = Limits(attempts=3, connect_timeout=5, read_timeout=5, answer_timeout=5, patience=60)


def days_ago(days: int) -> date:
    return TODAY - days * DAY


@cache
def provider(today: date = TODAY) -> OpenRouterProvider:
    """Return the provider on the sandbox's day, one for all like the real one."""
    return OpenRouterProvider(today=lambda: today)


def connection(
    sandbox: Sandbox | None,
    account: Account = PERSON,
    *,
    url: str | None = None,
    key: str | None = None,
    limits: Limits = QUICK,
    memory: Memory | None = None,
    **options: Any,
) -> Connection:
    """Return a connection to an account of the sandbox, or to any address, that never sleeps."""
    journal = Journal()
    base_url = url or f"{sandbox.url if sandbox else ''}/openrouter"
    client = provider().client(
        key or management_key(account),
        connection_id="openrouter_test",
        base_url=base_url,
        journal=journal,
        limits=limits,
        sleep=lambda _: None,
    )
    return Connection("openrouter_test", options, client, journal=journal, memory=memory or Memory())


def extract(
    one: Connection, first: date, last: date = TODAY, stream: str = "activity", today: date = TODAY
) -> list[Record]:
    """Return the records of a window."""
    router = provider(today)
    return list(router.extract(one, router.stream(stream), SCOPE, Window(first, last)))


def truth(sandbox: Sandbox) -> OpenRouterTruth:
    known = sandbox.truth.of("openrouter")
    assert isinstance(known, OpenRouterTruth)
    return known


def numbers(values: Mapping[str, int]) -> dict[str, Any]:
    """Return values as a row of activity says them."""
    counts = {name: values[name] for name in ("requests", "prompt_tokens", "completion_tokens", "reasoning_tokens")}
    return counts | {"usage": dollars(values["usage"]), "byok_usage_inference": dollars(values["byok_usage"])}


def expected_activity(sandbox: Sandbox, account: Account, first: date, last: date, *, keys: bool = False) -> list[Any]:
    """Return what the truth says the records must be, in no order."""
    records = []
    for day in Window(first, last).days:
        rows: dict[tuple[str, str], list[tuple[Use, Mapping[str, int]]]] = {}
        for use, values in truth(sandbox).used(account, day):
            rows.setdefault((use.route.endpoint_id, use.key.workspace.id), []).append((use, values))
        for found in rows.values():
            use, whole = found[0][0], total(values for _, values in found)
            record = {
                "model": use.route.slug,
                "model_permaslug": use.route.permaslug,
                "endpoint_id": use.route.endpoint_id,
                "provider_name": use.route.provider,
                "workspace_id": use.key.workspace.id,
                "workspace_name": use.key.workspace.name,
                **numbers(whole),
            }
            if whole["byok_requests"]:
                record["byok_requests"] = whole["byok_requests"]
            if keys:
                record["by_key"] = [
                    {"api_key_hash": one.key.hash, "api_key_name": one.key.name, **numbers(values)}
                    for one, values in found
                    if not one.key.deleted
                ]
            records.append(Record(day, record))
    return records


def expected_history(sandbox: Sandbox, account: Account, first: date, last: date) -> list[Any]:
    records = []
    names = [workspace.name for workspace in account.workspaces]
    for day in Window(first, last).days:
        rows: dict[tuple[str, str], list[tuple[Use, Mapping[str, int]]]] = {}
        for use, values in truth(sandbox).used(account, day):
            rows.setdefault((use.route.name_in_analytics, use.key.workspace.id), []).append((use, values))
        for (model, workspace_id), found in rows.items():
            values = total(values for _, values in found)
            name = found[0][0].key.workspace.name
            record = {
                "model": model,
                "workspace": name,
                "workspace_id": workspace_id if names.count(name) == 1 else None,
                "request_count": values["requests"],
                "tokens_prompt": values["prompt_tokens"],
                "tokens_completion": values["completion_tokens"],
                "reasoning_tokens": values["reasoning_tokens"],
                "cached_tokens": values["cached_tokens"],
                "byok_request_count": values["byok_requests"],
                "credits_usage": dollars(values["usage"]),
                "byok_usage": dollars(values["byok_usage"]),
            }
            records.append(Record(day, record))
    return records


def in_order(records: list[Any]) -> list[str]:
    """Return records as texts, for comparing them without an order."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            shares = sorted(value.get("by_key", []), key=lambda share: str(share["api_key_hash"]))
            return {name: plain(part) for name, part in (value | ({"by_key": shares} if shares else {})).items()}
        if isinstance(value, list):
            return [plain(part) for part in value]
        return str(value)

    return sorted(json.dumps([str(day), plain(record)], sort_keys=True) for day, record in records)


# ---------------------------------------------------------------- activity


@pytest.mark.parametrize("account", [ORGANISATION, PERSON], ids=lambda account: str(account.account_id))
def test_every_record_of_thirty_days_equals_the_truth(sandbox: Sandbox, account: Account) -> None:
    found = extract(connection(sandbox, account), OLDEST)
    assert in_order(found) == in_order(expected_activity(sandbox, account, OLDEST, YESTERDAY))
    assert len(found) > 50


def test_records_come_by_day_and_place_and_each_once(sandbox: Sandbox) -> None:
    found = extract(connection(sandbox, ORGANISATION), OLDEST)
    grain = provider().stream("activity").grain
    places = [(day, *(record[name] for name in grain)) for day, record in found]
    assert places == sorted(set(places))


def test_reading_day_by_day_gives_the_same_as_reading_at_once(sandbox: Sandbox) -> None:
    at_once = extract(connection(sandbox), OLDEST)
    one = connection(sandbox)
    assert [record for n in range(30, 0, -1) for record in extract(one, days_ago(n), days_ago(n))] == at_once


def test_days_that_were_not_asked_for_are_left_out(sandbox: Sandbox) -> None:
    days = {day for day, _ in extract(connection(sandbox), days_ago(9), days_ago(4))}
    assert days
    assert days <= set(Window(days_ago(9), days_ago(4)).days)


def test_today_is_never_asked_for_and_costs_no_call(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    assert extract(one, TODAY, TODAY) == []
    assert extract(one, TODAY + DAY, TODAY + 3 * DAY) == []
    assert sandbox.requests.count() == 0
    assert not one.memory.learnt


def test_money_is_exact_to_the_last_digit_and_charged_and_estimated_money_stay_apart(sandbox: Sandbox) -> None:
    found = extract(connection(sandbox, ORGANISATION), OLDEST)
    assert {type(record["usage"]) for _, record in found} <= {int, Decimal}
    assert any(len(str(record["usage"])) > 13 for _, record in found)
    by_own_key = [record for _, record in found if record["byok_usage_inference"]]
    assert by_own_key
    assert all(0 < record["usage"] < record["byok_usage_inference"] for record in by_own_key)
    assert {record["byok_requests"] for record in by_own_key} == {record["requests"] for record in by_own_key}


def test_digits_that_a_double_cannot_hold_survive() -> None:
    row = activity_row(usage="@", byok_usage_inference="#")
    body = json.dumps({"data": [row]}).replace('"@"', "123456.1234567890123456789").replace('"#"', "1.5e-11")
    with Server([answer(200, body.encode()), ok({"data": [], "total_count": 0})]) as server:
        ((_, record),) = extract(connection(None, url=server.url), YESTERDAY)
    assert record["usage"] == Decimal("123456.1234567890123456789")
    assert record["byok_usage_inference"] == Decimal("0.000000000015")


def activity_row(**changes: Any) -> dict[str, Any]:
    """Return a row as the published examples have it, of yesterday."""
    return {
        "date": YESTERDAY.isoformat(),
        "model": "openai/gpt-4.1",
        "model_permaslug": "openai/gpt-4.1-2025-04-14",
        "endpoint_id": "550e8400-e29b-41d4-a716-446655440000",
        "provider_name": "OpenAI",
        "usage": 0.015,
        "byok_usage_inference": 0.012,
        "requests": 5,
        "prompt_tokens": 50,
        "completion_tokens": 125,
        "reasoning_tokens": 25,
        "workspace_id": "550e8400-e29b-41d4-a716-446655440000",
    } | changes


def test_the_published_example_is_read_as_it_stands() -> None:
    workspaces = {"data": [{"id": "550e8400-e29b-41d4-a716-446655440000", "name": "Production"}], "total_count": 1}
    with Server([ok({"data": [activity_row()]}), ok(workspaces)]) as server:
        ((day, record),) = extract(connection(None, url=f"{server.url}/api/v1"), YESTERDAY)
        (activity, names) = server.requests
    assert (day, record["workspace_name"]) == (YESTERDAY, "Production")
    assert {name: value for name, value in record.items() if name != "workspace_name"} == {
        name: Decimal(str(value)) if isinstance(value, float) else value
        for name, value in activity_row().items()
        if name != "date"
    }
    assert activity.target == f"/api/v1/activity?group_by=workspace&date={YESTERDAY}"
    assert activity.headers["authorization"] == f"Bearer {management_key(PERSON)}"
    assert names.target == "/api/v1/workspaces?limit=100&offset=0"


@pytest.mark.parametrize("date_text", ["2026-08-14", "2026-08-14 00:00:00", "2026-08-14T00:00:00.000Z"])
def test_a_day_is_a_day_with_or_without_a_midnight(date_text: str) -> None:
    with Server([ok({"data": [activity_row(date=date_text)]}), ok({"data": [], "total_count": 0})]) as server:
        ((day, _),) = extract(connection(None, url=server.url), YESTERDAY)
    assert day == date(2026, 8, 14)


# ---------------------------------------------------------------- the edges of what OpenRouter remembers


def test_an_empty_oldest_day_is_only_believed_when_it_was_asked_for_by_itself(sandbox: Sandbox) -> None:
    sandbox.truth.restate(provider="openrouter", account=PERSON.account_id, region="-", day=OLDEST, vanish=True)
    found = extract(connection(sandbox), OLDEST)
    assert in_order(found) == in_order(expected_activity(sandbox, PERSON, OLDEST, YESTERDAY))
    assert sandbox.requests.count(operation="getUserActivity") == 2
    sandbox.faults.add("forgets_early")
    with pytest.raises(DayOutOfReach):
        extract(connection(sandbox), OLDEST)
    sandbox.truth.restate(provider="openrouter", account=PERSON.account_id, region="-", day=OLDEST, factor="1")


def test_a_day_that_left_the_thirty_days_since_the_run_was_planned_is_refused_without_a_call(sandbox: Sandbox) -> None:
    with pytest.raises(DayOutOfReach, match="has left the 30 completed days") as caught:
        extract(connection(sandbox), OLDEST - DAY)
    assert not caught.value.is_permanent
    assert sandbox.requests.count() == 0


def test_a_yesterday_that_is_not_over_at_openrouter_does_not_count_as_read(sandbox: Sandbox) -> None:
    sandbox.faults.add("late_night")
    one = connection(sandbox)
    extract(one, days_ago(3))
    remembered = one.memory.recall("activity", SCOPE.name)
    assert f"day {days_ago(2)}" in remembered
    assert f"day {YESTERDAY}" not in remembered


# ---------------------------------------------------------------- per key


def test_every_key_has_its_share_and_deleted_keys_are_the_rest(sandbox: Sandbox) -> None:
    found = extract(connection(sandbox, ORGANISATION, per_key=True), OLDEST)
    assert in_order(found) == in_order(expected_activity(sandbox, ORGANISATION, OLDEST, YESTERDAY, keys=True))
    named = {share["api_key_name"] for _, record in found for share in record["by_key"]}
    assert named == {key.name for key in ORGANISATION.keys if not key.deleted}
    rest = [r for _, r in found if sum(share["requests"] for share in r["by_key"]) < r["requests"]]
    assert rest, "the deleted key is part of some rows"


def test_shares_that_are_more_than_the_whole_are_not_believed() -> None:
    workspace = {"id": activity_row()["workspace_id"], "name": "Production"}
    steps = [
        ok({"data": [activity_row()]}),
        ok({"data": [workspace], "total_count": 1}),
        ok({"data": [{"hash": "k" * 64, "name": "one"}]}),
        ok({"data": [activity_row(requests=6)]}),
    ]
    with Server(steps) as server, pytest.raises(SourceUnavailable, match="changed while they were being read"):
        extract(connection(None, url=server.url, per_key=True), YESTERDAY)


def test_a_hundred_keys_make_a_second_page() -> None:
    workspace = {"id": activity_row()["workspace_id"], "name": "Production"}
    keys = [{"hash": f"{n:064x}", "name": f"key {n}"} for n in range(101)]
    steps = [
        ok({"data": [activity_row()]}),
        ok({"data": [workspace], "total_count": 1}),
        ok({"data": keys[:100]}),
        ok({"data": keys[100:]}),
        ok({"data": []}),
    ]
    with Server(steps) as server:
        extract(connection(None, url=server.url, per_key=True), YESTERDAY)
        targets = [request.target for request in server.requests]
    assert len(targets) == 4 + 101
    assert [("offset=0" in target, "offset=100" in target) for target in targets[2:4]] == [(True, False), (False, True)]
    assert sum(f"api_key_hash={key['hash']}" in target for key in keys for target in targets) == 101


# ---------------------------------------------------------------- history


@pytest.mark.parametrize("account", [ORGANISATION, PERSON], ids=lambda account: str(account.account_id))
def test_history_has_what_activity_cannot_reach_and_nothing_else(sandbox: Sandbox, account: Account) -> None:
    found = extract(connection(sandbox, account), days_ago(364), TODAY, "history")
    assert in_order(found) == in_order(expected_history(sandbox, account, days_ago(364), OLDEST - DAY))
    assert sandbox.requests.count(operation="queryAnalytics") == 1


def test_workspaces_of_one_name_keep_both_their_rows(sandbox: Sandbox) -> None:
    found = extract(connection(sandbox, ORGANISATION), days_ago(90), days_ago(31), "history")
    twins = [record for _, record in found if record["workspace"] == "Experiments"]
    assert {record["workspace_id"] for record in twins} == {None}
    places = [(day, record["model"]) for day, record in found if record["workspace"] == "Experiments"]
    assert len(places) > len(set(places))


def test_days_that_were_read_from_activity_are_never_asked_of_analytics(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    extract(one, OLDEST)
    sandbox.requests.reset()
    later = TODAY + 12 * DAY
    found = extract(one, later - 34 * DAY, later, "history", today=later)
    assert found == []
    assert sandbox.requests.count() == 0


def test_days_that_activity_never_gave_are_asked_of_analytics_once_they_are_too_old(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    extract(one, days_ago(10))
    later = TODAY + 12 * DAY
    assert {day for day, _ in extract(one, OLDEST, later, "history", today=later)} <= set(
        Window(OLDEST, later - 31 * DAY).days
    )
    assert sandbox.requests.count(operation="queryAnalytics") == 1


@pytest.mark.parametrize("kind", ["truncated_query", "query_timeout"])
def test_a_query_that_is_too_much_is_asked_in_halves_and_gives_the_same(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, size=10)
    found = extract(connection(sandbox), days_ago(90), days_ago(31), "history")
    assert in_order(found) == in_order(expected_history(sandbox, PERSON, days_ago(90), days_ago(31)))
    assert sandbox.requests.count(operation="queryAnalytics") > 8


# ---------------------------------------------------------------- calls


def test_thirty_days_cost_one_call_and_one_for_names(sandbox: Sandbox) -> None:
    one = connection(sandbox, ORGANISATION)
    extract(one, OLDEST)
    extract(one, OLDEST, TODAY, "history")
    assert sandbox.requests.to_json()["calls"]["openrouter"]["sandbox-org"]["-"] == {
        "getUserActivity": 1,
        "listWorkspaces": 1,
    }


def test_thirty_days_per_key_cost_one_call_more_for_each_key_and_workspace(sandbox: Sandbox) -> None:
    extract(connection(sandbox, ORGANISATION, per_key=True), OLDEST)
    keys = sum(not key.deleted for key in ORGANISATION.keys)
    assert sandbox.requests.to_json()["calls"]["openrouter"]["sandbox-org"]["-"] == {
        "getUserActivity": 1 + keys,
        "listKeys": len(ORGANISATION.workspaces),
        "listWorkspaces": 1,
    }


def test_a_year_costs_one_call_more(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    extract(one, OLDEST)
    extract(one, days_ago(364), TODAY, "history")
    assert one.journal.calls == sandbox.requests.count() == 3


# ---------------------------------------------------------------- what a connection may say


@pytest.mark.parametrize("value", [True, "true", "1"])
def test_numbers_per_key_can_be_asked_for_in_several_ways(sandbox: Sandbox, value: Any) -> None:
    found = extract(connection(sandbox, per_key=value), YESTERDAY)
    assert all("by_key" in record for _, record in found)
    assert provider().scopes(connection(sandbox, per_key=value)) == [Scope()]


def test_a_setting_that_means_nothing_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationInvalid, match="neither true nor false"):
        provider().scopes(connection(sandbox, per_key="perhaps"))


def test_the_account_is_what_the_connection_says(sandbox: Sandbox) -> None:
    one = connection(sandbox, account_id=" acme ", account_name="Acme")
    assert provider().scopes(one) == [Scope(account_id="acme", account_name="Acme")]
    assert sandbox.requests.count() == 0


@pytest.mark.parametrize("url", ["https://openrouter.ai.example.com/api/v1", "https://gateway.example.com"])
def test_a_management_key_goes_to_openrouter_and_nowhere_else(url: str) -> None:
    one = connection(None, url=url)
    with pytest.raises(ConfigurationInvalid, match="would send an OpenRouter management key to"):
        extract(one, YESTERDAY)
    assert [check.passed for check in provider().check(one)] == [False]
    assert one.journal.calls == 0


def test_a_key_of_another_account_is_noticed_by_its_workspaces(sandbox: Sandbox) -> None:
    memory = Memory()
    extract(connection(sandbox, PERSON, memory=memory), YESTERDAY)
    with pytest.raises(ConfigurationInvalid, match="none of the workspaces"):
        extract(connection(sandbox, ORGANISATION, memory=memory), YESTERDAY)
