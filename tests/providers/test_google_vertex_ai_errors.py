"""Google Vertex AI: everything that can go wrong is named, says what to do, and leaves nothing half read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ai_usage.core.contract import Memory
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
from ai_usage.orchestration.clients import open_connection
from ai_usage.providers._google_vertex_ai import Bounds
from ai_usage.providers.google_vertex_ai import PROVIDER
from sandbox.connections import environment
from sandbox.service import Sandbox
from sandbox.simulators.google_vertex_ai import NO_DATA, NO_JOBS, keyfile
from sandbox.truth.google_vertex_ai import COMPANY, LAB
from tests.providers.aws import TODAY
from tests.providers.google import connection, days_ago, expected, extract, numbers, provider

NAME = "google_vertex_ai"
ID = "google_vertex_ai_default"


def refused(sandbox: Sandbox, kind: str, **fault: Any) -> UsageError:
    """Commit a fault for ever, read, and return what it ended with."""
    sandbox.faults.add(kind, provider=NAME, **fault)
    with pytest.raises(UsageError) as caught:
        extract(connection(sandbox), days_ago(3))
    error = caught.value
    assert error.connection_id == "google_test"
    assert error.action
    for secret in ("PRIVATE KEY", "sandbox.ai-usage", "eyJ"):
        assert secret not in str(error)
    assert error.__cause__ is None
    return error


@pytest.mark.parametrize(
    ("kind", "where", "error", "happened", "action"),
    [
        ("access_denied", "jobs.query", PermissionMissing, "bigquery.tables.getData", "dataViewer"),
        ("access_denied", "tables.list", PermissionMissing, "dataset", "dataViewer"),
        ("invalid_credentials", "token", CredentialRejected, "does not accept the key", "new key"),
        ("invalid_credentials", "jobs.query", CredentialRejected, "HTTP 401", "new key"),
        ("expired_token", None, CredentialRejected, "", ""),
        ("wrong_signature", "token", CredentialRejected, "does not accept the key", "new key"),
        ("deleted_account", "token", CredentialRejected, "deleted or disabled", "Restore"),
        ("wrong_clock", "token", CredentialRejected, "clock", "clock"),
        ("throttling", "jobs.query", RateLimited, "fewer calls", "next run"),
        ("bare_throttling", None, RateLimited, "fewer calls", "next run"),
        ("quota_exceeded", None, RateLimited, "used up", "next day"),
        ("internal_error", None, SourceUnavailable, "", "next run"),
        ("service_unavailable", "jobs.insert", SourceUnavailable, "HTTP 503", "next run"),
        ("billing_disabled", None, ConfigurationInvalid, "no billing", "job_project"),
        ("api_disabled", None, ConfigurationInvalid, "not enabled", "Enable it"),
        ("vpc_perimeter", None, PermissionMissing, "VPC", "perimeter"),
        ("bytes_limit", None, ConfigurationInvalid, "more than its cap", "max_gigabytes"),
        ("wrong_location", None, ConfigurationInvalid, "location", "location"),
        ("no_export", None, ConfigurationInvalid, "no billing export", "Billing export"),
        ("column_missing", None, ConfigurationInvalid, "lacks credits", "standard or the detailed"),
        ("missing_field", None, ResponseInvalid, "currency is missing", "Report"),
        ("odd_number", None, ResponseInvalid, "cost is not a number", "Report"),
        ("html_body", "jobs.query", ResponseInvalid, "cannot be read", "proxy"),
        ("html_body", "tables.get", ResponseInvalid, "cannot be read", "proxy"),
        ("empty_body", "jobs.query", ResponseInvalid, "cannot be read", "proxy"),
        ("empty_object", "jobs.query", UsageError, "", ""),
        ("truncated_body", "jobs.query", SourceUnavailable, "", "next run"),
        ("connection_reset", "jobs.query", SourceUnavailable, "", "next run"),
    ],
)
def test_a_fault_that_stays_is_named(
    sandbox: Sandbox, kind: str, where: str | None, error: type[UsageError], happened: str, action: str
) -> None:
    found = refused(sandbox, kind, operation=where)
    assert isinstance(found, error), repr(found)
    assert happened in found.happened
    assert action.lower() in found.action.lower()


def test_a_throttled_query_passes_on_how_long_to_wait(sandbox: Sandbox) -> None:
    throttled = refused(sandbox, "throttling", operation="jobs.query")
    assert isinstance(throttled, RateLimited)
    assert throttled.retry_after == 7
    sandbox.faults.clear()
    bare = refused(sandbox, "bare_throttling", operation="jobs.query")
    assert isinstance(bare, RateLimited)
    assert bare.retry_after is None


@pytest.mark.parametrize("where", ["token", "tables.list", "tables.get", "jobs.insert", "jobs.query"])
@pytest.mark.parametrize("kind", ["internal_error", "service_unavailable", "connection_reset", "truncated_body"])
def test_what_passes_by_itself_costs_a_repeat_and_nothing_else(sandbox: Sandbox, kind: str, where: str) -> None:
    sandbox.faults.add(kind, provider=NAME, operation=where, times=1)
    found = extract(connection(sandbox), days_ago(3))
    assert numbers(found) == expected(sandbox, COMPANY, days_ago(3))
    assert sandbox.requests.count(operation=where) == 2


def test_a_token_that_expires_in_the_middle_is_renewed(sandbox: Sandbox) -> None:
    sandbox.faults.add("expired_token", provider=NAME, operation="jobs.query", times=1)
    found = extract(connection(sandbox), days_ago(3))
    assert numbers(found) == expected(sandbox, COMPANY, days_ago(3))
    assert sandbox.requests.count(operation="token") == 2


def test_an_answer_that_drips_is_given_up(sandbox: Sandbox) -> None:
    sandbox.faults.add("slow_drip", provider=NAME, operation="jobs.query", milliseconds=20)
    google = provider(Bounds(answer=5, patience=1, pause=0.05, deadline=1))
    with pytest.raises(SourceUnavailable, match="took too long"):
        extract(connection(sandbox), days_ago(3), google=google)


def test_a_page_that_breaks_in_the_middle_of_the_answer_stores_nothing(sandbox: Sandbox) -> None:
    sandbox.faults.add("small_pages", provider=NAME, size=10)
    sandbox.faults.add("connection_reset", provider=NAME, operation="queries.get", after=2)
    with pytest.raises(SourceUnavailable):
        extract(connection(sandbox), days_ago(3))


def test_the_two_roles_are_missed_by_name(sandbox: Sandbox) -> None:
    no_jobs = list(provider().check(connection(sandbox, role=NO_JOBS)))
    assert [(check.name, check.passed) for check in no_jobs][:3] == [
        ("settings", True),
        ("export", True),
        ("queries", False),
    ]
    assert (no_jobs[2].kind, "roles/bigquery.jobUser" in str(no_jobs[2].action)) == ("permission_missing", True)
    no_data = list(provider().check(connection(sandbox, role=NO_DATA)))
    assert [(check.name, check.passed) for check in no_data] == [
        ("settings", True),
        ("export", False),
        ("queries", None),
        ("usage", None),
    ]
    assert "roles/bigquery.dataViewer" in str(no_data[1].action)


def test_the_wrong_job_project_is_named(sandbox: Sandbox) -> None:
    with pytest.raises(PermissionMissing, match="may not run queries in sandbox-elsewhere"):
        extract(connection(sandbox, job_project="sandbox-elsewhere"), days_ago(3))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dataset": ""}, "where the billing export is"),
        ({"dataset": "Ac`me; drop.x"}, "not the name of a dataset"),
        ({"dataset": "acme-billing.x`y"}, "not the name of a dataset"),
        ({"table": "x` where true --"}, "table is not one"),
        ({"billing_account_id": "0123"}, "billing_account_id is not one"),
        ({"location": "EU; --"}, "location is not one"),
        ({"export": "focus"}, "export is"),
        ({"services": ["x' or true"]}, "no service id"),
        ({"service_prefixes": [7]}, "not a list of texts"),
        ({"max_gigabytes": "much"}, "max_gigabytes"),
        ({"max_gigabytes": -1}, "max_gigabytes"),
        ({"start_date": "yesterday"}, "start_date"),
        ({"account_name": ["x"]}, "account_name"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_before_a_query_is_asked(
    sandbox: Sandbox, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationInvalid, match=problem) as caught:
        extract(connection(sandbox, **options), days_ago(3))
    assert caught.value.action
    assert sandbox.requests.count(operation="jobs.query") == 0


def test_another_billing_accounts_rows_are_refused_where_one_is_named(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationInvalid, match="holds rows of billing account"):
        extract(connection(sandbox, table=COMPANY.table, billing_account_id=LAB.account_id), days_ago(3))


# ---------------------------------------------------------------- from an Airflow connection


@pytest.fixture
def defined(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The sandbox's connection in the environment, and good credentials lying around for whoever falls back to them."""
    for name, value in environment(sandbox.connections()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    found = next(one for one in sandbox.connections() if one["connection_id"] == ID)
    yield dict(found["extra"])


def define(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))


def test_an_airflow_connection_reads_the_truth_whatever_the_environment_says(
    sandbox: Sandbox, defined: dict[str, Any]
) -> None:
    one = open_connection(PROVIDER, ID, Memory())
    google = provider()
    (scope,) = google.scopes(one)
    assert (scope.account_id, scope.account_name) == (COMPANY.account_id, COMPANY.name)
    found = list(google.extract(one, google.streams[0], scope, Window(days_ago(3), TODAY)))
    assert numbers(found) == expected(sandbox, COMPANY, days_ago(3))
    assert one.journal.calls == 5
    assert "PRIVATE KEY" not in str(one.options)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"keyfile_dict": None}, "no credential"),
        ({"keyfile_dict": None, "impersonation_chain": "x@y.iam.gserviceaccount.com"}, "no credential"),
        ({"keyfile_dict": "{not json"}, "not JSON"),
        ({"keyfile_dict": "[]"}, "not that of a service account"),
        ({"keyfile_dict": {"type": "authorized_user"}}, "not that of a service account"),
        ({"keyfile_dict": {"type": "service_account"}}, "No credential could be made"),
        ({"keyfile_dict": None, "key_path": "/nowhere/key.json"}, "cannot be read"),
        ({"api_endpoint": "https://bigquery.example.com"}, "api_endpoint is neither"),
        ({"api_endpoint": "http://bigquery.googleapis.com"}, "plain http"),
    ],
)
def test_what_an_airflow_connection_must_not_be(
    sandbox: Sandbox,
    defined: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    change: dict[str, Any],
    problem: str,
) -> None:
    ambient = tmp_path / "key.json"
    ambient.write_text(defined["keyfile_dict"])
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(ambient))
    define(monkeypatch, {name: value for name, value in (defined | change).items() if value is not None})
    with pytest.raises(ConfigurationInvalid, match=problem) as caught:
        open_connection(PROVIDER, ID, Memory())
    assert caught.value.connection_id == ID
    assert "PRIVATE KEY" not in str(caught.value)
    assert sandbox.requests.count() == 0


def test_a_key_that_would_be_shown_to_somebody_else_is_refused(
    sandbox: Sandbox, defined: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keyfile(COMPANY, "https://token.example.com")
    define(monkeypatch, defined | {"keyfile_dict": key})
    with pytest.raises(ConfigurationInvalid, match="token_uri is neither"):
        open_connection(PROVIDER, ID, Memory())


def test_a_key_file_serves_as_well_as_its_content(
    sandbox: Sandbox, defined: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    path = tmp_path / "key.json"
    path.write_text(defined.pop("keyfile_dict"))
    define(monkeypatch, defined | {"key_path": str(path)})
    one = open_connection(PROVIDER, ID, Memory())
    assert list(provider().scopes(one))
    assert "key_path" not in one.options
