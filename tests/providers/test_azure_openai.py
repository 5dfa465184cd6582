"""Azure OpenAI: every record equals the truth, whatever the role shows and however the answers come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from ai_usage.core.contract import Connection, Journal, Memory, Record, Scope
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.http import Limits
from ai_usage.core.planner import expected_days
from ai_usage.core.slices import Window, windows_covering
from ai_usage.providers._azure import AzureClient
from ai_usage.providers._azure import Principal as SignIn
from ai_usage.providers.azure_openai import DEPLOYMENTS, AzureOpenAI
from sandbox.service import Sandbox
from sandbox.simulators.azure_openai import COMPANY, FLEET_READER, LAB_READER, METRICS, ONE_RESOURCE, TENANT, Principal
from sandbox.truth.azure_openai import (
    FLEET,
    LAB,
    LAB_EAST,
    LAB_NORTH,
    PROD,
    PRODUCTION,
    RESEARCH,
    RESEARCH_EAST,
    SHARED,
    SHARED_EU,
    STATUSES,
    AzureOpenAITruth,
    Resource,
    Use,
)
from tests.core.http_server import Server, Step, ok
from tests.providers.aws import TODAY

DAY = timedelta(days=1)
QUICK = Limits(attempts=3, connect_timeout=5, read_timeout=5, answer_timeout=5, patience=60)
TOKEN_LIKE = ("InputTokens", "OutputTokens", "TotalTokens")
LAB_OPTIONS: dict[str, Any] = {
    "subscriptionId": LAB.account_id,
    "scopes": [f"resourceGroups/{LAB_EAST.group}", LAB_NORTH.id],
    "account_name": "Sandbox lab",
}


def days_ago(days: int) -> date:
    return TODAY - days * DAY


def provider(today: date = TODAY) -> AzureOpenAI:
    """Return the provider at noon of the sandbox's day."""
    return AzureOpenAI(now=lambda: datetime.combine(today, time(12), UTC))


def connection(
    sandbox: Sandbox | None,
    principal: Principal = COMPANY,
    *,
    url: str | None = None,
    secret: str | None = None,
    tenant: str = TENANT,
    limits: Limits = QUICK,
    memory: Memory | None = None,
    clock: Any = None,
    **options: Any,
) -> Connection:
    """Return a connection of a service principal of the sandbox, or to any address, that never sleeps."""
    base = url or f"{sandbox.url if sandbox else ''}/azure_openai"
    client = AzureClient(
        SignIn(tenant, principal.client_id, secret or principal.secret),
        connection_id="azure_test",
        login_url=f"{base}/login",
        management_url=f"{base}/arm",
        metrics_url=f"{base}/metrics/{{region}}",
        journal=Journal(),
        limits=limits,
        sleep=lambda _: None,
        **({"clock": clock} if clock else {}),
    )
    return Connection("azure_test", options, client, journal=client.journal, memory=memory or Memory())


def scope_of(resource: Resource) -> Scope:
    name = f"{resource.subscription}/{resource.group}/{resource.name}".lower()
    return Scope(name, account_id=resource.subscription, region=resource.location)


def extract(
    one: Connection, resource: Resource, first: date, last: date = TODAY, azure: AzureOpenAI | None = None
) -> list[Record]:
    """Return the records of a window of one resource."""
    azure = azure or provider()
    return list(azure.extract(one, azure.stream("metrics"), scope_of(resource), Window(first, last)))


def truth(sandbox: Sandbox) -> AzureOpenAITruth:
    known = sandbox.truth.of("azure_openai")
    assert isinstance(known, AzureOpenAITruth)
    return known


def series_of(resource: Resource, use: Use, values: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the series that a use's day makes, as Azure Monitor names them."""
    found = []
    for name, metric in METRICS.items():
        if name in ("ActiveTokens", "TotalCalls") or (
            metric.family not in use.families and metric.parts != ("images",)
        ):
            continue
        if metric.family == "new" and resource.subscription == LAB.account_id:
            continue
        place = {"metric": name, "model_version": use.version, "region": use.region or resource.display}
        if "ModelName" in metric.dimensions:
            place["model_name"] = use.model_name
        if "StatusCode" in metric.dimensions:
            found += [place | {"status": STATUSES[part], "total": values[part]} for part in STATUSES if part in values]
        elif total := sum(values.get(part, 0) for part in metric.parts):
            found.append(place | {"total": total})
    return found


def expected(sandbox: Sandbox, resource: Resource, first: date, last: date = TODAY) -> dict[tuple[date, str], Any]:
    """Return the series of each day and deployment, in no order."""
    found: dict[tuple[date, str], list[Any]] = {}
    for day in Window(first, last).days:
        for use, values in truth(sandbox).used(resource, day):
            found.setdefault((day, use.deployment or "__Empty"), []).extend(series_of(resource, use, values))
    return {place: added_up(series) for place, series in found.items()}


def added_up(series: Sequence[Mapping[str, Any]]) -> dict[tuple[tuple[str, str], ...], int]:
    """Return the series by what they are about; the classic token metrics do not tell a router's models apart."""
    sums: dict[tuple[tuple[str, str], ...], int] = {}
    for one in series:
        place = tuple(sorted((name, str(value)) for name, value in one.items() if name != "total"))
        sums[place] = sums.get(place, 0) + one["total"]
    return sums


def read(records: Sequence[Record]) -> dict[tuple[date, str], Any]:
    """Return what records say, in the same shape; no place may come twice."""
    found = {(day, record["deployment"]): added_up(record["series"]) for day, record in records}
    assert len(found) == len(records)
    assert all(len(added_up(record["series"])) == len(record["series"]) for _, record in records)
    return found


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("resource", "principal", "options"),
    [
        (PROD, COMPANY, {}),
        (SHARED, COMPANY, {}),
        (SHARED_EU, COMPANY, {}),
        (RESEARCH_EAST, COMPANY, {}),
        (LAB_EAST, LAB_READER, LAB_OPTIONS),
        (LAB_NORTH, LAB_READER, LAB_OPTIONS),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_record_of_thirty_days_equals_the_truth(
    sandbox: Sandbox, resource: Resource, principal: Principal, options: dict[str, Any]
) -> None:
    one = connection(sandbox, principal, **options)
    records = extract(one, resource, days_ago(29))
    assert read(records) == expected(sandbox, resource, days_ago(29))
    assert one.journal.notes == []
    assert {record["resource_id"].lower() for _, record in records} == {resource.id.lower()}


def test_a_record_has_declared_fields_only_and_says_what_the_deployment_was(sandbox: Sandbox) -> None:
    azure = provider()
    for day, record in extract(connection(sandbox), PROD, days_ago(9)):
        assert azure.stream("metrics").fields.issuperset(record)
        assert record["subscription_id"] == PRODUCTION.account_id
        if record["deployment"] == "zone-4o":
            assert record["deployed"] == {
                "model": "gpt-4o",
                "version": "2024-11-20",
                "format": "OpenAI",
                "sku": "DataZoneStandard",
            }
        if record["deployment"] == "gone":
            assert "deployed" not in record
            assert day <= days_ago(4)


def test_reading_day_by_day_backwards_gives_the_same_as_reading_at_once(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    at_once = extract(one, PROD, days_ago(20))
    by_day = [extract(one, PROD, days_ago(n), days_ago(n)) for n in range(21)]
    assert [record for records in reversed(by_day) for record in records] == at_once


def test_a_restated_day_is_read_as_restated(sandbox: Sandbox) -> None:
    day = days_ago(2)
    for factor in ("0.5", "1"):
        sandbox.truth.restate(
            provider="azure_openai", account=RESEARCH.account_id, region="eastus2", day=day, factor=factor
        )
        found = extract(connection(sandbox), RESEARCH_EAST, day, day)
        assert read(found) == expected(sandbox, RESEARCH_EAST, day, day)


def test_more_time_series_than_azure_sends_by_itself_all_arrive(sandbox: Sandbox) -> None:
    records = extract(connection(sandbox), PROD, days_ago(9))
    assert len({record["deployment"] for _, record in records}) > 10


def test_a_future_window_costs_no_call_and_a_forgotten_one_is_refused(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    assert extract(one, PROD, TODAY + DAY, TODAY + 3 * DAY) == []
    with pytest.raises(ConfigurationInvalid, match="93 days"):
        extract(one, PROD, days_ago(93), days_ago(80))
    assert sandbox.requests.count() == 0
    assert extract(one, PROD, days_ago(92), days_ago(63))


def test_the_first_minute_of_a_day_can_be_asked_for() -> None:
    midnight = datetime.combine(TODAY, time(0, 0, 30), UTC)
    with azure_of(metrics=[answer_of({}, start="2026-08-15T00:00:00Z", end="2026-08-15T00:01:00Z")]) as server:
        azure = AzureOpenAI(now=lambda: midnight)
        assert extract(connection(None, url=server.url), PROD, TODAY, azure=azure) == []
    assert "timespan=2026-08-15T00%3A00%3A00Z%2F2026-08-15T00%3A01%3A00Z" in server.requests[-1].target


# ---------------------------------------------------------------- the published example


def azure_of(metrics: list[Any], deployments: list[Any] | None = None) -> Server:
    """Return an Azure that signs in, has one resource, and answers with what it is given."""
    item = {"id": PROD.id, "kind": "OpenAI", "location": "East US 2"}
    dimensions = [{"value": name} for name in ("ModelDeploymentName", "ModelName", "ModelVersion", "Region")]
    definitions = [{"name": {"value": name}, "dimensions": dimensions} for name in TOKEN_LIKE]
    steps: list[Step] = [
        ok({"access_token": "eyJ0.x.y", "expires_in": "3599"}),
        ok(item),
        ok({"value": definitions}),
        *(one if callable(one) else ok(one) for one in metrics),
        ok({"value": deployments or []}),
    ]
    return Server(steps)


def answer_of(
    timeseries: Mapping[str, Any],
    *,
    start: str = "2026-08-03T00:00:00Z",
    end: str = "2026-08-06T00:00:00Z",
    **more: Any,
) -> dict[str, Any]:
    """Return an answer as Azure Monitor documents it, with series for some of the metrics."""
    return {
        "cost": 1439,
        "timespan": f"{start}/{end}",
        "interval": "P1D",
        "namespace": "Microsoft.CognitiveServices/accounts",
        "resourceregion": "eastus2",
        "value": [
            {
                "id": f"{PROD.id}/providers/Microsoft.Insights/metrics/{name}",
                "type": "Microsoft.Insights/metrics",
                "name": {"value": name, "localizedValue": "Whatever"},
                "displayDescription": "…",
                "unit": "Count",
                "timeseries": timeseries.get(name, []),
                "errorCode": "Success",
            }
            for name in TOKEN_LIKE
        ],
        **more,
    }


def series(*data: dict[str, Any], **told: str) -> dict[str, Any]:
    named = {
        "modeldeploymentname": "chat-4o",
        "modelname": "gpt-4o",
        "modelversion": "2024-11-20",
        "region": "East US 2",
    }
    values = [
        {"name": {"value": name, "localizedValue": name}, "value": value} for name, value in (named | told).items()
    ]
    return {"metadatavalues": values, "data": list(data)}


EXAMPLE = series(
    {"timeStamp": "2026-08-03T00:00:00Z", "total": 1284411.0},
    {"timeStamp": "2026-08-04T00:00:00Z"},
    {"timeStamp": "2026-08-05T00:00:00Z", "total": 0.0},
)


def test_the_published_example_is_read_as_it_stands() -> None:
    model = {"format": "OpenAI", "name": "gpt-4o", "version": "2024-11-20"}
    deployment = {"id": "…", "name": "chat-4o", "sku": {"name": "GlobalStandard", "capacity": 150}}
    deployments = [deployment | {"properties": {"model": model, "provisioningState": "Succeeded"}}]
    with azure_of([answer_of({"InputTokens": [EXAMPLE]})], deployments) as server:
        one = connection(None, url=server.url)
        records = extract(one, PROD, date(2026, 8, 3), date(2026, 8, 5))
    assert records == [
        Record(
            date(2026, 8, 3),
            {
                "subscription_id": PRODUCTION.account_id,
                "resource_group": "rg-ai",
                "resource_name": "aoai-prod",
                "resource_id": PROD.id,
                "location": "eastus2",
                "deployment": "chat-4o",
                "deployed": {"model": "gpt-4o", "version": "2024-11-20", "format": "OpenAI", "sku": "GlobalStandard"},
                "series": [
                    {
                        "metric": "InputTokens",
                        "model_name": "gpt-4o",
                        "model_version": "2024-11-20",
                        "region": "East US 2",
                        "total": 1284411,
                    }
                ],
            },
        )
    ]
    assert one.journal.notes == []


def test_a_question_is_what_azure_documents_and_the_secret_travels_in_the_form_alone() -> None:
    with azure_of([answer_of({})]) as server:
        extract(connection(None, url=server.url), PROD, date(2026, 8, 3), date(2026, 8, 5))
    token, _, definitions, metrics = server.requests
    assert token.target == f"/login/{TENANT}/oauth2/v2.0/token"
    assert token.body.decode() == (
        f"grant_type=client_credentials&client_id={COMPANY.client_id}&client_secret={COMPANY.secret}"
        "&scope=https%3A%2F%2Fmanagement.azure.com%2F.default"
    )
    assert token.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in token.headers
    assert metrics.headers["authorization"] == "Bearer eyJ0.x.y"
    assert "metricnamespace=Microsoft.CognitiveServices%2Faccounts" in definitions.target
    for part in (
        "api-version=2024-02-01",
        "metricnames=InputTokens%2COutputTokens%2CTotalTokens",
        "timespan=2026-08-03T00%3A00%3A00Z%2F2026-08-06T00%3A00%3A00Z",
        "interval=P1D",
        "aggregation=Total",
        "top=10000",
        "%24filter=ModelDeploymentName+eq+%27%2A%27+and+ModelName+eq+%27%2A%27+and+ModelVersion+eq+%27%2A%27"
        "+and+Region+eq+%27%2A%27",
    ):
        assert part in metrics.target


# ---------------------------------------------------------------- calls


def counted(sandbox: Sandbox) -> dict[str, int]:
    """Return how often each operation was asked for."""
    sums: dict[str, int] = {}
    for places in sandbox.requests.to_json()["calls"].get("azure_openai", {}).values():
        for operations in places.values():
            for name, number in operations.items():
                sums[name] = sums.get(name, 0) + number
    return sums


def test_thirty_days_of_one_resource_cost_eight_calls(sandbox: Sandbox) -> None:
    azure, one = provider(), connection(sandbox, subscriptionId=PRODUCTION.account_id)
    azure.scopes(one)
    extract(one, PROD, days_ago(29), azure=azure)
    assert counted(sandbox) == {
        "token": 1,
        "subscriptions": 1,
        "accounts": 1,
        "definitions": 1,
        "metrics": 3,
        "deployments": 1,
    }
    assert one.journal.calls == 8


def test_all_that_azure_remembers_of_one_resource_costs_seventeen_calls(sandbox: Sandbox) -> None:
    azure, one = provider(), connection(sandbox, subscriptionId=PRODUCTION.account_id)
    azure.scopes(one)
    days = expected_days(azure.stream("metrics"), TODAY, None)
    assert days
    assert (days.first, days.last) == (days_ago(92), TODAY)
    for window in windows_covering(days.days, azure.stream("metrics").max_window_days):
        extract(one, PROD, window.first, window.last, azure=azure)
    assert sandbox.requests.count() == one.journal.calls == 17


def test_a_client_that_reads_many_resources_reads_fifty_at_a_time(sandbox: Sandbox) -> None:
    azure, one = provider(), connection(sandbox, FLEET_READER)
    assert len(azure.scopes(one)) == len(FLEET)
    for resource in FLEET:
        assert read(extract(one, resource, days_ago(9), azure=azure)) == expected(sandbox, resource, days_ago(9))
    calls = counted(sandbox)
    assert (calls["metrics"], calls["batch"], calls["token"]) == (3, 9, 2)


@pytest.mark.parametrize(
    "kind",
    ["access_denied", "not_found", "batch_as_text", "batch_partial", "shorter_span", "metric_failed", "internal_error"],
)
def test_what_the_batch_api_does_not_give_the_plain_one_does(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="azure_openai", operation="batch")
    azure, one = provider(), connection(sandbox, FLEET_READER)
    azure.scopes(one)
    for resource in FLEET[:5]:
        assert read(extract(one, resource, days_ago(5), azure=azure)) == expected(sandbox, resource, days_ago(5))
    assert sandbox.requests.count(operation="batch")
    assert one.journal.notes == []


def test_the_batch_api_needs_a_role_on_the_subscription_and_is_given_up_without(sandbox: Sandbox) -> None:
    sandbox.faults.add("access_denied", provider="azure_openai", operation="batch")
    azure, one = provider(), connection(sandbox, FLEET_READER)
    azure.scopes(one)
    for resource in FLEET[:9]:
        extract(one, resource, days_ago(2), azure=azure)
    assert sandbox.requests.count(operation="batch") == 1


# ---------------------------------------------------------------- tokens


def test_a_token_serves_until_five_minutes_before_it_expires(sandbox: Sandbox) -> None:
    seconds = [0.0]
    one = connection(sandbox, clock=lambda: seconds[0])
    for moment, tokens in ((0, 1), (3298, 1), (3300, 2), (6000, 2), (9000, 3)):
        seconds[0] = moment
        extract(one, PROD, TODAY)
        assert counted(sandbox)["token"] == tokens


def test_a_token_that_expires_in_the_middle_of_a_run_is_replaced_once(sandbox: Sandbox) -> None:
    sandbox.faults.add("expired_token", provider="azure_openai", operation="metrics", after=1, times=1)
    one = connection(sandbox)
    assert read(extract(one, PROD, days_ago(5))) == expected(sandbox, PROD, days_ago(5))
    assert counted(sandbox)["token"] == 2


def test_tokens_that_are_as_good_as_expired_are_fetched_anew_and_work(sandbox: Sandbox) -> None:
    sandbox.faults.add("short_tokens", provider="azure_openai", operation="token")
    one = connection(sandbox)
    assert read(extract(one, PROD, days_ago(5))) == expected(sandbox, PROD, days_ago(5))
    calls = counted(sandbox)
    assert calls["token"] == sum(calls.values()) - calls["token"]


# ---------------------------------------------------------------- finding resources


def found(sandbox: Sandbox, principal: Principal = COMPANY, **options: Any) -> list[str]:
    return [scope.name for scope in provider().scopes(connection(sandbox, principal, **options))]


def names(*resources: Resource) -> list[str]:
    return sorted(scope_of(resource).name for resource in resources)


def test_without_scopes_everything_is_found_that_the_role_shows_and_serves_models(sandbox: Sandbox) -> None:
    assert found(sandbox) == names(PROD, SHARED, SHARED_EU, RESEARCH_EAST)
    assert found(sandbox, subscriptionId=RESEARCH.account_id.upper()) == names(RESEARCH_EAST)
    assert found(sandbox, ONE_RESOURCE) == names(PROD)
    assert found(sandbox, LAB_READER) == names(LAB_EAST, LAB_NORTH)


@pytest.mark.parametrize(
    ("scopes", "resources"),
    [
        (["aoai-prod"], [PROD]),
        ("AOAI-PROD, ais-research", [PROD, RESEARCH_EAST]),
        ([PROD.id], [PROD]),
        ([PROD.id.upper() + "/", "aoai-prod"], [PROD]),
        (["rg-research"], [RESEARCH_EAST]),
        ([f"/subscriptions/{PRODUCTION.account_id}/resourceGroups/rg-eu"], [SHARED_EU]),
        ([f"/subscriptions/{RESEARCH.account_id}"], [RESEARCH_EAST]),
        ([RESEARCH.account_id, SHARED_EU.id], [RESEARCH_EAST, SHARED_EU]),
        (f"resourceGroups/rg-ai,{RESEARCH_EAST.id}", [PROD, SHARED, RESEARCH_EAST]),
    ],
    ids=str,
)
def test_a_scope_is_a_resource_a_group_or_a_subscription(
    sandbox: Sandbox, scopes: Any, resources: list[Resource]
) -> None:
    home: dict[str, Any] = {"subscriptionId": PRODUCTION.account_id} if "resourceGroups/rg-ai" in str(scopes) else {}
    assert found(sandbox, scopes=scopes, **home) == names(*resources)


def test_a_name_that_several_resources_have_is_refused_with_all_of_them(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        found(sandbox, scopes=["aoai-shared"])
    for resource in (SHARED, SHARED_EU):
        assert scope_of(resource).name in caught.value.happened


def test_a_scope_knows_its_account_its_name_and_its_region(sandbox: Sandbox) -> None:
    scopes = provider().scopes(connection(sandbox))
    assert scopes[0] == Scope(scope_of(PROD).name, PRODUCTION.account_id, PRODUCTION.name, "eastus2")
    (lab, _) = provider().scopes(connection(sandbox, LAB_READER, **LAB_OPTIONS))
    assert lab.account_name == "Sandbox lab"


@pytest.mark.parametrize("kind", ["small_pages", "page_twice"])
def test_lists_in_pages_are_read_to_the_end(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="azure_openai", size=2)
    one = connection(sandbox)
    assert [scope.name for scope in provider().scopes(one)] == names(PROD, SHARED, SHARED_EU, RESEARCH_EAST)
    records = extract(one, PROD, days_ago(9))
    assert read(records) == expected(sandbox, PROD, days_ago(9))
    assert {record["deployment"] for _, record in records if "deployed" not in record} <= {"__Empty", "gone"}


@pytest.mark.parametrize(
    "options",
    [
        {"scopes": 7},
        {"scopes": [7]},
        {"scopes": ["resourceGroups/rg-ai"]},
        {"scopes": ["a/b"]},
        {"scopes": ["/subscriptions/x/resourceGroups/g"]},
        {"scopes": [f"{PROD.id}/deployments/chat"]},
        {"subscriptionId": "production"},
        {"account_name": 7},
    ],
    ids=json.dumps,
)
def test_a_setting_that_makes_no_sense_is_refused_before_anything_is_asked(
    sandbox: Sandbox, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationInvalid):
        provider().scopes(connection(sandbox, **options))
    assert sandbox.requests.count() == 0


# ---------------------------------------------------------------- deployments


def test_what_a_deployment_was_is_kept_with_its_days(sandbox: Sandbox) -> None:
    memory = Memory()
    extract(connection(sandbox, memory=memory), PROD, days_ago(1))
    scope = scope_of(PROD).name
    known = memory.recall(DEPLOYMENTS, scope)
    assert f"chat-4o|{TODAY}|gpt-4o|2024-11-20|OpenAI|GlobalStandard" in known
    before = len(memory.learnt)
    extract(connection(sandbox, memory=memory), PROD, days_ago(1), azure=provider(TODAY + DAY))
    assert len(memory.learnt) == before, "what has not changed is not news"

    older = {f"chat-4o|{days_ago(40)}|gpt-4|0613|OpenAI|Standard", f"gone|{days_ago(40)}|gpt-4|0613|OpenAI|Standard"}
    memory = Memory({(DEPLOYMENTS, scope): {*older, f"chat-4o|{days_ago(4)}|gpt-4o|2024-11-20|OpenAI|GlobalStandard"}})
    records = extract(connection(sandbox, memory=memory), PROD, days_ago(12))
    told = {day: record["deployed"]["model"] for day, record in records if record["deployment"] == "chat-4o"}
    assert told == {day: "gpt-4o" if day >= days_ago(4) else "gpt-4" for day in told}
    assert {day >= days_ago(4) for day in told} == {True, False}
    assert {row["deployed"]["model"] for _, row in records if row["deployment"] == "gone"} == {"gpt-4"}


@pytest.mark.parametrize("kind", ["access_denied", "html_body", "internal_error", "cursor_loop"])
def test_deployments_that_cannot_be_listed_never_cost_a_number(sandbox: Sandbox, kind: str) -> None:
    memory = Memory()
    whole = extract(connection(sandbox, memory=memory), PROD, days_ago(5))
    sandbox.faults.add(kind, provider="azure_openai", operation="deployments")
    one = connection(sandbox, memory=memory)
    assert extract(one, PROD, days_ago(5)) == whole
    assert [note.kind for note in one.journal.notes] == ["names_unavailable"]
    stranger = extract(connection(sandbox), PROD, days_ago(5))
    assert read(stranger) == expected(sandbox, PROD, days_ago(5))
    assert not any("deployed" in record for _, record in stranger)


# ---------------------------------------------------------------- what is odd but harmless


def test_families_that_differ_are_both_kept_and_told(sandbox: Sandbox) -> None:
    sandbox.faults.add("families_differ", provider="azure_openai", operation="metrics")
    one = connection(sandbox)
    records = extract(one, RESEARCH_EAST, days_ago(9))
    (note,) = one.journal.notes
    assert note.kind == "families_differ"
    assert "chat-41" in note.message
    assert "opus" not in note.message
    apart = {day for day, record in records if record["deployment"] == "chat-41"}
    assert apart and apart <= one.journal.unsettled
    metrics = {entry["metric"] for _, record in records for entry in record["series"]}
    assert {"InputTokens", "ProcessedPromptTokens"} <= metrics


@pytest.mark.parametrize("kind", ["fewer_metrics", "fewer_dimensions", "series_twice"])
def test_what_azure_defines_and_then_refuses_is_left_out_and_the_rest_is_read(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="azure_openai", operation="metrics")
    one = connection(sandbox)
    records = extract(one, SHARED, days_ago(9))
    entries = [entry for _, record in records for entry in record["series"]]
    wanted = expected(sandbox, SHARED, days_ago(9))
    told = {entry["metric"] for entry in entries}
    assert ("InputTokens" in told) is (kind != "fewer_metrics")
    assert {"ProcessedPromptTokens", "AzureOpenAIRequests"} <= told
    classic = sum(entry["total"] for entry in entries if entry["metric"] == "ProcessedPromptTokens")
    assert classic == sum(
        total for place in wanted.values() for key, total in place.items() if ("metric", "ProcessedPromptTokens") in key
    )
    assert any("model_name" in entry for entry in entries) is (kind != "fewer_dimensions")
    assert {note.kind for note in one.journal.notes} == (set() if kind == "series_twice" else {"schema_drift"})
    assert one.journal.unsettled == (set() if kind == "series_twice" else set(Window(days_ago(9), TODAY).days))


def test_new_fields_are_told_once_and_never_stored(sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown_fields", provider="azure_openai", operation="metrics")
    one = connection(sandbox)
    records = extract(one, SHARED, days_ago(5))
    assert read(records) == expected(sandbox, SHARED, days_ago(5))
    assert "dear diary" not in str(records) + str(one.journal.notes)
    assert [note.kind for note in one.journal.notes] == ["schema_drift"]


def test_a_total_without_its_parts_is_told() -> None:
    total = series({"timeStamp": "2026-08-03T00:00:00Z", "total": 17}, modeldeploymentname="__Empty", region="__Empty")
    with azure_of([answer_of({"TotalTokens": [total]})]) as server:
        one = connection(None, url=server.url)
        ((_, record),) = extract(one, PROD, date(2026, 8, 3), date(2026, 8, 5))
    assert record["deployment"] == "__Empty"
    assert "region" not in record["series"][0]
    assert [note.kind for note in one.journal.notes] == ["parts_differ"]
