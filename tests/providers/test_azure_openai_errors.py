"""What goes wrong at Azure, and what the person on call is told."""

from __future__ import annotations

import json
import time
import traceback
from datetime import date
from typing import Any

import pytest

from ai_usage.core.contract import Check, Connection, Memory
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
from ai_usage.orchestration.clients import open_connection
from ai_usage.providers._azure import CLOUDS, Cloud, NotFound, QueryRefused
from sandbox.connections import environment
from sandbox.service import Sandbox
from sandbox.simulators.azure_openai import COMPANY, EXPIRED_SECRET, LAB_READER, NOBODY, PRINCIPALS, TENANT, Principal
from sandbox.truth.azure_openai import (
    HIDDEN,
    LAB,
    LAB_EAST,
    LAB_NORTH,
    PROD,
    PRODUCTION,
    RESEARCH,
    RESEARCH_EAST,
    SHARED,
    SPEECH,
    Resource,
)
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY
from tests.providers.test_azure_openai import (
    EXAMPLE,
    LAB_OPTIONS,
    answer_of,
    azure_of,
    connection,
    days_ago,
    expected,
    extract,
    provider,
    read,
    scope_of,
    series,
)

CANARY = "canary~%2B/=7f3a91~secret"
SHORT_CANARY = "canary~9"
LONG_AGO = days_ago(20)
SECRETS = (CANARY, SHORT_CANARY, EXPIRED_SECRET, *(one.secret for one in PRINCIPALS.values()), "eyJ0")
ID = "azure_openai_default"


def fail(sandbox: Sandbox | None, resource: Resource = PROD, **changes: Any) -> UsageError:
    """Read a resource record by record; nothing may come before the error, which gives nothing away."""
    azure, one = provider(), connection(sandbox, **changes)
    return failure(lambda: next(iter(extract_slowly(one, resource, azure))), one)


def extract_slowly(one: Connection, resource: Resource, azure: Any) -> Any:
    from ai_usage.core.slices import Window

    return azure.extract(one, azure.stream("metrics"), scope_of(resource), Window(LONG_AGO, TODAY))


def failure(act: Any, one: Connection) -> UsageError:
    with pytest.raises(UsageError) as caught:
        act()
    error = caught.value.at(one.connection_id)
    shown = "".join(traceback.format_exception(error))
    assert not [secret for secret in SECRETS if secret in shown]
    assert error.connection_id == "azure_test"
    assert error.action.endswith(".")
    return error


def survives(sandbox: Sandbox) -> Connection:
    """Read a resource and find the exact truth."""
    one = connection(sandbox)
    assert read(extract(one, PROD, LONG_AGO)) == expected(sandbox, PROD, LONG_AGO)
    return one


def checks(sandbox: Sandbox, principal: Principal = COMPANY, **options: Any) -> dict[str, Check]:
    """Return the checks by name, each with what to do if it failed, none with a secret in it."""
    found = list(provider().check(connection(sandbox, principal, **options)))
    for check in found:
        assert check.passed is True or check.action
        assert not [secret for secret in SECRETS if secret in f"{check}"]
    return {check.name: check for check in found}


# ---------------------------------------------------------------- signing in


@pytest.mark.parametrize(
    ("changes", "kind", "happened", "action"),
    [
        ({"secret": CANARY}, CredentialRejected, "secret is wrong", "its Value, not its Secret ID"),
        ({"secret": EXPIRED_SECRET}, CredentialRejected, "secret has expired", "Make a new client secret"),
        ({"tenant": TENANT.replace("a", "b")}, ConfigurationInvalid, "no such tenant", "tenantId"),
        ({"tenant": "contoso"}, ConfigurationInvalid, "neither the id nor a domain", "tenantId"),
        (
            {"principal": Principal("c0ffee00-0000-4000-8000-000000000099", CANARY, ())},
            ConfigurationInvalid,
            "knows no such application",
            "Application ID",
        ),
    ],
    ids=["wrong secret", "expired secret", "wrong tenant", "no tenant", "wrong application"],
)
def test_a_refused_sign_in_says_what_to_do(
    sandbox: Sandbox, changes: dict[str, Any], kind: type[UsageError], happened: str, action: str
) -> None:
    error = fail(sandbox, **changes)
    assert type(error) is kind
    assert happened in error.happened
    assert "AADSTS" in error.happened
    assert action in error.action
    assert sandbox.requests.count() == 1
    principal = changes.pop("principal", COMPANY)
    found = checks(sandbox, principal, **changes)
    assert found["sign-in"].passed is False
    assert found["resources"].passed is None


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (53003, 400, PermissionMissing),
        (7000229, 400, ConfigurationInvalid),
        (500011, 400, ConfigurationInvalid),
        (70011, 400, ConfigurationInvalid),
        (50196, 400, SourceUnavailable),
        (90033, 503, SourceUnavailable),
        (7000112, 401, CredentialRejected),
    ],
)
@pytest.mark.parametrize("has_codes", [True, False])
def test_every_code_of_microsoft_entra_is_named(
    code: int, status: int, kind: type[UsageError], has_codes: bool
) -> None:
    body = {"error": "x", "error_description": f"AADSTS{code}: Whatever {COMPANY.secret} Trace ID: 0"}
    body |= {"error_codes": [code]} if has_codes else {}  # type: ignore[dict-item]
    with Server([answer(status, json.dumps(body).encode())]) as server:
        error = fail(None, url=server.url)
    assert type(error) is kind
    assert f"AADSTS{code}" in error.happened


@pytest.mark.parametrize(
    "content", [{"access_token": "", "expires_in": 1}, {"access_token": "x"}, {"access_token": "x", "expires_in": -1}]
)
def test_an_answer_without_a_token_is_none(content: dict[str, Any]) -> None:
    with Server([ok(content)]) as server:
        assert isinstance(fail(None, url=server.url), ResponseInvalid)


def test_a_page_that_repeats_the_secret_does_not_get_it_into_an_error() -> None:
    body = f"<html>You sent {SHORT_CANARY}".encode()
    with Server([answer(200, body, **{"Content-Type": "text/html"})]) as server:
        error = fail(None, url=server.url, secret=SHORT_CANARY)
    assert isinstance(error, ResponseInvalid)
    assert "You sent ***" in error.happened


def test_a_token_that_stays_refused_is_replaced_once_and_no_more(sandbox: Sandbox) -> None:
    sandbox.faults.add("invalid_credentials", provider="azure_openai", operation="account")
    assert isinstance(fail(sandbox), CredentialRejected)
    assert sandbox.requests.count(operation="token") == sandbox.requests.count(operation="account") == 2


def test_a_secret_that_expires_in_the_middle_of_a_run_is_noticed(sandbox: Sandbox) -> None:
    sandbox.faults.add("expired_token", provider="azure_openai", operation="metrics", after=1)
    sandbox.faults.add("expired_token", provider="azure_openai", operation="token", after=1)
    error = fail(sandbox)
    assert isinstance(error, CredentialRejected)
    assert "AADSTS7000222" in error.happened


# ---------------------------------------------------------------- roles


def test_a_good_connection_passes_every_check(sandbox: Sandbox) -> None:
    found = checks(sandbox, LAB_READER, **LAB_OPTIONS)
    assert [check.passed for check in found.values()] == [True] * 7
    assert "of the last 30 days" in found[f"metrics of {scope_of(LAB_EAST).name}"].message


def test_without_any_role_nothing_is_seen_and_the_role_is_named(sandbox: Sandbox) -> None:
    for options in ({}, {"subscriptionId": PRODUCTION.account_id}):
        found = checks(sandbox, NOBODY, **options)
        assert found["resources"].kind == "permission_missing"
        assert "Monitoring Reader" in (found["resources"].action or "")
        assert found["metrics"].passed is None


def test_a_resource_without_a_role_fails_alone(sandbox: Sandbox) -> None:
    options = LAB_OPTIONS | {"scopes": [LAB_NORTH.id, HIDDEN.id]}
    azure, one = provider(), connection(sandbox, LAB_READER, **options)
    assert [scope.region for scope in azure.scopes(one)] == ["norwayeast", None]
    assert read(extract(one, LAB_NORTH, LONG_AGO, azure=azure)) == expected(sandbox, LAB_NORTH, LONG_AGO)
    error = failure(lambda: extract(one, HIDDEN, LONG_AGO, azure=azure), one)
    assert isinstance(error, PermissionMissing)
    assert error.permission == "Microsoft.CognitiveServices/accounts/read"
    found = checks(sandbox, LAB_READER, **options)
    assert found[f"metrics of {scope_of(LAB_NORTH).name}"].passed
    assert found[f"metrics of {scope_of(HIDDEN).name}"].kind == "permission_missing"


@pytest.mark.parametrize("operation", ["metrics", "definitions"])
def test_a_resource_whose_metrics_may_not_be_read_fails_alone(sandbox: Sandbox, operation: str) -> None:
    sandbox.faults.add("access_denied", provider="azure_openai", operation=operation, region=SHARED.location)
    azure, one = provider(), connection(sandbox)
    azure.scopes(one)
    error = failure(lambda: extract(one, SHARED, LONG_AGO, azure=azure), one)
    assert isinstance(error, PermissionMissing)
    assert error.permission.startswith("microsoft.insights/metric")
    assert SHARED.name in error.happened
    for resource in (PROD, RESEARCH_EAST):
        assert read(extract(one, resource, LONG_AGO, azure=azure)) == expected(sandbox, resource, LONG_AGO)


def test_deployments_that_may_not_be_listed_are_a_warning(sandbox: Sandbox) -> None:
    sandbox.faults.add("access_denied", provider="azure_openai", operation="deployments")
    found = checks(sandbox, subscriptionId=RESEARCH.account_id)
    told = found[f"deployments of {scope_of(RESEARCH_EAST).name}"]
    assert told.passed
    assert told.message.startswith("Warning: ")
    assert "deployments/read" in told.message


def test_a_resource_that_is_gone_or_of_another_kind_is_a_matter_of_the_connection(sandbox: Sandbox) -> None:
    gone = Resource(PRODUCTION.account_id, "rg-ai", "gone", "", "", ())
    assert type(fail(sandbox, gone)) is NotFound
    error = fail(sandbox, SPEECH)
    assert type(error) is ConfigurationInvalid
    assert "SpeechServices" in error.happened
    for scopes in (["nothing-of-that-name"], [f"/subscriptions/{LAB.account_id}"]):
        found = checks(sandbox, scopes=scopes)
        assert found["resources"].passed is False


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "InvalidAuthenticationTokenTenant", ConfigurationInvalid),
        (409, "MissingSubscriptionRegistration", ConfigurationInvalid),
        (400, "InvalidSubscriptionId", NotFound),
        (404, "SubscriptionNotFound", NotFound),
        (400, "BadRequest", QueryRefused),
    ],
)
@pytest.mark.parametrize("is_flat", [True, False])
def test_refusals_are_named_in_both_of_their_shapes(
    status: int, code: str, kind: type[UsageError], is_flat: bool
) -> None:
    error: Any = {"code": code, "message": "No."}
    body = json.dumps(error if is_flat else {"error": error}).encode()
    with Server([ok({"access_token": "eyJ0.x", "expires_in": 3599}), answer(status, body)]) as server:
        assert type(fail(None, url=server.url)) is kind


# ---------------------------------------------------------------- outages


@pytest.mark.parametrize("kind", ["throttling", "bare_throttling", "internal_error", "service_unavailable"])
@pytest.mark.parametrize("operation", ["token", "account", "definitions", "metrics", "deployments"])
def test_two_refusals_in_a_row_are_survived(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, provider="azure_openai", operation=operation, times=2)
    one = survives(sandbox)
    assert one.journal.retries == 2
    assert one.journal.throttled == (2 if "throttling" in kind else 0)
    assert one.journal.notes == []


@pytest.mark.parametrize(("kind", "wait"), [("throttling", 1.0), ("bare_throttling", None)])
def test_throttling_that_does_not_end_says_how_long_to_wait(sandbox: Sandbox, kind: str, wait: float | None) -> None:
    sandbox.faults.add(kind, provider="azure_openai", operation="metrics")
    error = fail(sandbox)
    assert isinstance(error, RateLimited)
    assert error.retry_after == wait
    assert sandbox.requests.count(operation="metrics") == 3


def test_an_outage_on_the_last_question_stores_nothing(sandbox: Sandbox) -> None:
    sandbox.faults.add("internal_error", provider="azure_openai", operation="metrics", after=2)
    assert isinstance(fail(sandbox), SourceUnavailable)


@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body", "empty_object"])
@pytest.mark.parametrize("operation", ["token", "account", "definitions", "metrics", "deployments"])
def test_one_broken_answer_is_survived(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, provider="azure_openai", operation=operation, times=1)
    assert survives(sandbox).journal.retries == 1


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
@pytest.mark.parametrize("operation", ["token", "metrics"])
def test_answers_that_stay_broken_are_told_and_nothing_is_stored(
    sandbox: Sandbox, kind: str, error: type[UsageError], operation: str
) -> None:
    sandbox.faults.add(kind, provider="azure_openai", operation=operation)
    assert isinstance(fail(sandbox), error)


def test_an_answer_that_drips_is_given_up(sandbox: Sandbox) -> None:
    sandbox.faults.add("slow_drip", provider="azure_openai", operation="metrics", milliseconds=50)
    began = time.monotonic()
    limits = Limits(attempts=2, answer_timeout=0.5, connect_timeout=5, read_timeout=5, patience=30)
    assert isinstance(fail(sandbox, limits=limits), SourceUnavailable)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["cursor_loop", "foreign_link"])
@pytest.mark.parametrize("operation", ["subscriptions", "accounts", "resources"])
def test_lists_that_lead_in_a_circle_or_elsewhere_are_refused(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, provider="azure_openai", operation=operation)
    one = connection(sandbox, LAB_READER if operation == "resources" else COMPANY)
    error = failure(lambda: provider().scopes(one), one)
    assert isinstance(error, ResponseInvalid)
    assert sandbox.requests.count(operation=operation) <= 2


# ---------------------------------------------------------------- answers that cannot be believed


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("metric_failed", "InvalidSamplingType"),
        ("metric_missing", "missing from it"),
        ("shorter_span", "another time"),
        ("noon_bins", "midnight"),
        ("contradicting_series", "two different numbers"),
        ("odd_number", "not a count"),
        ("at_top", "some may be missing"),
    ],
)
def test_an_answer_that_may_not_be_complete_is_refused_whole(sandbox: Sandbox, kind: str, words: str) -> None:
    sandbox.faults.add(kind, provider="azure_openai", operation="metrics")
    error = fail(sandbox)
    assert isinstance(error, ResponseInvalid)
    assert words in error.happened
    assert "nothing was stored" in error.happened
    sandbox.faults.clear()
    survives(sandbox)


def test_a_question_that_azure_refuses_for_good_is_told(sandbox: Sandbox) -> None:
    message = (
        "Metric: InputTokens does not support requested dimension combination: modelname, supported ones are: Region"
    )
    body = json.dumps({"code": "BadRequest", "message": message}).encode()
    with azure_of([answer(400, body)]) as server:
        assert isinstance(fail(None, url=server.url), QueryRefused)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "content",
    [
        {"timespan": "x", "value": []},
        answer_of({}) | {"interval": "PT1H"},
        answer_of({}) | {"value": {}},
        answer_of({}, start="2026-08-02T00:00:00Z"),
        answer_of({}, end="2026-08-05T00:00:00Z"),
        answer_of({"InputTokens": {}}),
        answer_of({"InputTokens": [{"metadatavalues": []}]}),
        answer_of({"InputTokens": [series({"timeStamp": "yesterday", "total": 1})]}),
        answer_of({"InputTokens": [series({"timeStamp": "2026-08-03T00:00:00Z", "total": True})]}),
        answer_of({"InputTokens": [series({"timeStamp": "2026-08-03T00:00:00Z", "total": -1})]}),
        answer_of({"InputTokens": [series({"timeStamp": "2026-08-03T00:00:00Z", "total": "many"})]}),
        answer_of({"InputTokens": [series({"timeStamp": "2026-08-03T00:00:00Z", "total": 10**19})]}),
        answer_of({"InputTokens": [series({"timeStamp": "2026-08-03T00:00:00Z", "total": 1}, modelname="x" * 300)]}),
        answer_of({"InputTokens": [series({"timeStamp": "2026-08-03T06:00:00Z", "total": 1})]}),
    ],
    ids=range(14),
)
def test_an_answer_that_is_not_the_documented_one_is_refused(content: dict[str, Any]) -> None:
    with azure_of([content]) as server, pytest.raises(ResponseInvalid):
        extract(connection(None, url=server.url), PROD, date(2026, 8, 3), date(2026, 8, 5))


@pytest.mark.parametrize(
    "definitions",
    [{"value": []}, {"value": [{"name": {"value": "Latency"}}]}, {"value": [{"name": {"value": "InputTokens"}}]}],
    ids=range(3),
)
def test_definitions_without_a_metric_of_tokens_by_deployment_are_refused(definitions: dict[str, Any]) -> None:
    item = {"id": PROD.id, "kind": "OpenAI", "location": "eastus2"}
    with Server([ok({"access_token": "x", "expires_in": 3599}), ok(item), ok(definitions)]) as server:
        assert isinstance(fail(None, url=server.url), ResponseInvalid)


# ---------------------------------------------------------------- Airflow's connection


def define(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", json.dumps({"conn_type": "azure"} | fields))


def test_the_sandboxs_own_connections_read_the_truth_and_log_no_secret(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    sandbox.faults.add("throttling", provider="azure_openai", operation="token", times=1)
    for name, value in environment(sandbox.connections()).items():
        monkeypatch.setenv(name, value)
    azure = provider()
    for connection_id, resource in ((ID, PROD), ("azure_openai_lab", LAB_NORTH)):
        one = open_connection(azure, connection_id, Memory())
        assert scope_of(resource).name in [scope.name for scope in azure.scopes(one)]
        assert read(extract(one, resource, LONG_AGO, azure=azure)) == expected(sandbox, resource, LONG_AGO)
        assert not set(one.options) & {"tenantId", "login_url", "key_json"}
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest.mark.parametrize("missing", ["login", "password", "tenantId"])
def test_a_principal_that_is_not_whole_never_falls_back_to_another_identity(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"):
        monkeypatch.setenv(name, "lies around")
    fields = {"login": "id", "password": CANARY, "extra": {"tenantId": TENANT}}
    fields = {name: value for name, value in fields.items() if name != missing}
    define(monkeypatch, **(fields | ({"extra": {}} if missing == "tenantId" else {})))
    with pytest.raises(ConfigurationInvalid, match=missing) as caught:
        open_connection(provider(), ID, Memory())
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "extra",
    [
        {"cloud_environment": "AzureMoon"},
        {"login_url": "http://login.example.com"},
        {"management_url": 7},
        {"metrics_url": "http://{region}.example.com"},
        {"tenantId": "a/b"},
    ],
    ids=json.dumps,
)
def test_a_setting_that_would_lead_astray_is_refused(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]) -> None:
    define(monkeypatch, login="id", password=CANARY, extra={"tenantId": TENANT} | extra)
    with pytest.raises(ConfigurationInvalid) as caught:
        open_connection(provider(), ID, Memory())
    assert caught.value.connection_id == ID


def test_sovereign_clouds_have_their_own_addresses_and_old_names_of_fields_work(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(one for one in sandbox.connections() if one["connection_id"] == ID)
    extra = {f"extra__azure__{name}": value for name, value in found["extra"].items()}
    extra |= {"cloud_environment": "AzureUSGovernment", "key_json": {"clientSecret": CANARY}}
    define(monkeypatch, login=found["login"], password=found["password"], extra=extra)
    one = open_connection(provider(), ID, Memory())
    assert CANARY not in str(one.options)
    # The sandbox hands out tokens for the public cloud only.
    with pytest.raises(ConfigurationInvalid, match="AADSTS500011"):
        provider().scopes(one)
    assert CLOUDS["AzureUSGovernment"] == Cloud(
        "https://login.microsoftonline.us",
        "https://management.usgovcloudapi.net",
        "https://{region}.metrics.monitor.azure.us",
        "https://metrics.monitor.azure.us",
    )


def test_an_example_series_is_what_it_seems() -> None:
    """The tests above change one thing in an answer that is otherwise good."""
    with azure_of([answer_of({"InputTokens": [EXAMPLE]})]) as server:
        assert extract(connection(None, url=server.url), PROD, date(2026, 8, 3), date(2026, 8, 5))
