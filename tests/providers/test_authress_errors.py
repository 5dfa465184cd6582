"""Authress: whatever goes wrong ends in the exact truth or in a clear error with nothing yielded."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped,unused-ignore]

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
from ai_usage.providers._authress_key import read_access_key
from sandbox.connections import environment
from sandbox.service import Sandbox
from sandbox.simulators.authress import SECRET_KEY, access_key
from sandbox.truth.authress import COMPANY, LAB
from tests.providers.authress import (
    DAY,
    PROVIDER,
    STREAM,
    check,
    connect,
    counts,
    extract,
    folder,
    in_folder,
    opened,
    write,
)
from tests.providers.aws import TODAY
from tests.providers.gcs import Answer, FakeStorage

__all__ = ["folder"]

FIRST = TODAY - timedelta(days=6)


@pytest.fixture(scope="module")
def running_sandbox() -> Iterator[Sandbox]:
    with Sandbox(today=TODAY, moto=True, history_days=7) as running:
        yield running


@pytest.fixture
def company(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """The company's connection, whose AWS client repeats a call once and soon."""
    known = sandbox.connections()
    for one in known:
        if one["connection_id"] == "authress_landing_default":
            one["extra"]["config_kwargs"] = {"retries": {"mode": "standard", "total_max_attempts": 2}}
    for name, value in environment(known).items():
        monkeypatch.setenv(name, value)
    return opened("authress_company")


def sums(connection: Connection) -> int:
    return sum(counts(extract(connection, FIRST)).values())


def truth(sandbox: Sandbox) -> int:
    rows = sandbox.truth.expected_usage_daily("authress", FIRST, TODAY, [COMPANY.account_id])
    return sum(row["api_calls"] for row in rows)


def refused(connection: Connection) -> UsageError:
    """Return the error that an extraction ends with, before it has yielded anything."""
    records = PROVIDER.extract(connection, STREAM, PROVIDER.scopes(connection)[0], Window(FIRST, TODAY))
    with pytest.raises(UsageError) as caught:
        next(records)
    text = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert SECRET_KEY not in text
    assert access_key(COMPANY).rpartition(".")[2] not in text
    return caught.value


# ---------------------------------------------------------------- the bucket


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject"])
@pytest.mark.parametrize(
    "kind",
    [
        "throttling",
        "internal_error",
        "service_unavailable",
        "truncated_body",
        "connection_reset",
        "html_body",
        "empty_body",
        "empty_object",
    ],
)
def test_what_passes_ends_in_the_truth(sandbox: Sandbox, company: Connection, kind: str, operation: str) -> None:
    after = 1 if operation == "ListObjectsV2" else 7
    sandbox.faults.add(kind, provider="authress", operation=operation, times=1, after=after)

    assert sums(company) == truth(sandbox)
    assert sandbox.faults.to_json()[0]["hits"] == 1


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("throttling", RateLimited),
        ("internal_error", SourceUnavailable),
        ("truncated_body", SourceUnavailable),
        ("connection_reset", SourceUnavailable),
        ("html_body", (SourceUnavailable, ResponseInvalid)),
        ("empty_body", (SourceUnavailable, ResponseInvalid)),
        ("empty_object", (SourceUnavailable, ResponseInvalid)),
        ("access_denied", PermissionMissing),
        ("invalid_credentials", CredentialRejected),
        ("expired_token", CredentialRejected),
    ],
)
def test_what_stays_is_named_and_yields_nothing(
    sandbox: Sandbox, company: Connection, kind: str, error: Any, operation: str
) -> None:
    after = 1 if operation == "ListObjectsV2" else 7
    sandbox.faults.add(kind, provider="authress", operation=operation, after=after)

    failure = refused(company)

    assert isinstance(failure, error), repr(failure)
    assert "s3://sandbox-authress-audit/stream" in str(failure)
    assert failure.action
    if isinstance(failure, PermissionMissing):
        assert failure.permission == {"ListObjectsV2": "s3:ListBucket", "GetObject": "s3:GetObject"}[operation]
    if isinstance(failure, CredentialRejected):
        assert "authress_landing_default" in str(failure)


@pytest.mark.parametrize("kind", ["small_pages", "page_twice"])
def test_lists_in_many_pages_and_pages_that_come_twice_end_in_the_truth(
    sandbox: Sandbox, company: Connection, kind: str
) -> None:
    sandbox.faults.add(kind, provider="authress", size=4)
    assert sums(company) == truth(sandbox)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("list_loops", ResponseInvalid, "does not come to an end"),
        ("object_gone", SourceUnavailable, "changed while it was read"),
        ("object_changed", SourceUnavailable, "changed while it was read"),
        ("other_object", SourceUnavailable, "is not what was listed"),
        ("object_archived", ConfigurationInvalid, "archived"),
    ],
)
def test_what_happens_to_objects_is_named(
    sandbox: Sandbox, company: Connection, kind: str, error: type[UsageError], words: str
) -> None:
    sandbox.faults.add("small_pages", provider="authress", size=4)
    sandbox.faults.add(kind, provider="authress")

    failure = refused(company)

    assert isinstance(failure, error)
    assert words in failure.happened


def test_a_body_that_drips_is_given_up(sandbox: Sandbox, company: Connection) -> None:
    sandbox.faults.add("slow_drip", provider="authress", operation="GetObject", milliseconds=500)
    company.client.landing.deadline = 0.3
    began = time.monotonic()

    failure = refused(company)

    assert isinstance(failure, SourceUnavailable)
    assert "took longer" in failure.happened
    assert time.monotonic() - began < 10


def test_a_bucket_that_is_not_there_is_named(
    sandbox: Sandbox, company: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"location": "s3://another-bucket", "storage_connection": "authress_landing_default"}
    checks = list(PROVIDER.check(connect(monkeypatch, extra=extra)))

    assert [one.passed for one in checks] == [True, True, False, None]
    assert checks[2].kind == "configuration_invalid"
    assert "There is no s3://another-bucket." in checks[2].message


def test_a_check_says_which_permission_is_missing(sandbox: Sandbox, company: Connection) -> None:
    sandbox.faults.add("access_denied", provider="authress", operation="GetObject")

    failed = list(PROVIDER.check(company))[-1]

    assert (failed.passed, failed.kind) == (False, "permission_missing")
    assert failed.action == "Grant it s3:GetObject."


# ---------------------------------------------------------------- the access key


@pytest.mark.parametrize(
    ("fault", "passed", "words"),
    [
        ("wrong_key", False, "does not accept the access key"),
        ("invalid_credentials", False, "does not accept the access key"),
        ("no_rights", True, "It has no rights, and needs none."),
        ("internal_error", False, "HTTP 500"),
        ("throttling", False, "fewer requests"),
        ("html_body", False, "is not as documented"),
        ("truncated_body", False, "127.0.0.1"),
    ],
)
def test_the_check_of_the_key_tells_a_bad_key_from_a_bad_day(
    sandbox: Sandbox, company: Connection, fault: str, passed: bool, words: str
) -> None:
    sandbox.faults.add(fault, provider="authress", operation="getClient")
    company.client.limits = replace(company.client.limits, attempts=2)

    told = list(PROVIDER.check(company))

    assert told[1].passed is passed
    assert words in told[1].message
    assert passed or told[1].action
    # The stream is another matter, and is asked all the same.
    assert [one.passed for one in told[2:]] == [True, True]


@pytest.mark.parametrize("damage", ["account", "issuer", "key"])
def test_a_token_that_is_not_right_is_not_accepted(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    client_id, key_id, account_id, private = access_key(COMPANY).split(".")
    other = access_key(LAB).split(".")[3]
    keys = {
        "account": f"{client_id}.{key_id}.acc_other.{private}",
        "issuer": f"sc_other.{key_id}.{account_id}.{private}",
        "key": f"{client_id}.{key_id}.{account_id}.{other}",
    }
    url = f"{sandbox.url}/authress"
    connection = connect(monkeypatch, password=keys[damage], host=url, extra={"location": str(folder)})

    told = list(PROVIDER.check(connection))[1]

    assert (told.passed, told.kind) == (False, "credential_rejected")
    assert "custom domain" in str(told.action)


def test_an_address_that_is_no_authress_is_not_taken_for_a_key_without_rights(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{sandbox.url}/nothing-here"
    connection = connect(monkeypatch, password=access_key(COMPANY), host=url, extra={"location": str(folder)})

    told = list(PROVIDER.check(connection))[1]

    assert (told.passed, told.kind) == (False, "configuration_invalid")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (jwt.encode({"sub": "x"}, "k" * 32), "This is a token"),
        ("sk-proj-abc", "does not have four parts"),
        ("a.b.c", "does not have four parts"),
        ("a.b.c.AAAA", "The last part of the access key is damaged."),
        ("a.b/../c.d.AAAA", "does not have four parts"),
        (access_key(COMPANY)[:-9], "The last part of the access key is damaged."),
        (base64.b64encode(b'{"clientId": "c"}').decode(), "of the older form, and damaged"),
    ],
)
def test_a_key_that_is_none_is_refused_without_repeating_it(text: str, words: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        read_access_key(text)

    assert words in caught.value.happened
    assert text not in str(caught.value)


def test_a_key_of_another_account_than_the_connection_says_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"location": str(folder), "account_id": "acc_mine"}
    connection = connect(monkeypatch, password=access_key(COMPANY), extra=extra)

    with pytest.raises(
        ConfigurationInvalid, match="belongs to account acc_sandbox_company, the connection says acc_mine"
    ):
        PROVIDER.scopes(connection)
    (told,) = PROVIDER.check(connection)
    assert (told.name, told.passed) == ("settings", False)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, "It does not say where the audit stream lands."),
        ({"location": "data/authress"}, "which is none"),
        ({"location": "/data/../etc"}, "which is none"),
        ({"location": "https://bucket.s3.amazonaws.com/x"}, "which is none"),
        ({"location": "s3://"}, "which is none"),
        ({"location": "s3://bucket"}, "It names no connection for the bucket."),
        ({"location": "s3://bucket", "storage_connection": "nobody"}, "'nobody', which does not exist"),
        ({"location": "gs://bucket", "storage_connection": "an_aws"}, "which is of type 'aws'; Authress needs 'google"),
        ({"location": "s3://bucket", "storage_connection": "an_aws"}, "an_aws: It has no credential"),
        ({"location": "gs://bucket", "storage_connection": "a_google"}, "a_google: It has no credential"),
        ({"location": "/data", "storage_connection": "an_aws"}, "A folder needs no storage_connection."),
        ({"location": "/data", "day_folders": "{month}/{year}/{day}"}, "which does not say where the day stands"),
        ({"location": "/data", "day_folders": "days"}, "which does not say where the day stands"),
        ({"location": "/data", "base_url": "https://x"}, "beside the address"),
    ],
)
def test_a_connection_that_cannot_work_is_refused_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-machine")
    monkeypatch.setenv("AIRFLOW_CONN_AN_AWS", '{"conn_type": "aws"}')
    monkeypatch.setenv("AIRFLOW_CONN_A_GOOGLE", '{"conn_type": "google_cloud_platform"}')

    with pytest.raises(ConfigurationInvalid) as caught:
        connect(monkeypatch, extra=extra)

    assert words in str(caught.value)
    assert caught.value.action


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"events": "checks, everything"}, "events names something unknown: 'everything'"),
        ({"events": 7}, "events is not a list of texts"),
        ({"account_id": "a b"}, "account_id is not an account of Authress"),
        ({"account_name": ["x"]}, "account_name is not a text"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationInvalid, match=words):
        PROVIDER.scopes(in_folder(monkeypatch, folder, **extra))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = in_folder(monkeypatch, tmp_path / "nowhere")

    checks = list(PROVIDER.check(connection))

    assert [one.passed for one in checks] == [True, True, False, None]
    assert "There is no " in checks[2].message


# ---------------------------------------------------------------- objects that are no audit stream


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"<html><body>Please sign in</body></html>", "line 2 is not JSON"),
        (b'{"detail-type": "Authorizat', "line 2 is not JSON"),
        (b"[1, 2]", "line 2 is not an event"),
        (b"17", "line 2 is not an event"),
        (b"{}", "an event has no detail-type"),
        ({"detail-type": "AuthorizationRequest"}, "no detail"),
        ({**check("1"), "time": "yesterday"}, "the time of an event"),
        ({**check("1"), "time": "2026-08-10T12:00:00"}, "the time of an event"),
        (check(""), "detail.eventId is missing"),
        (check("1", resource=None), "names no resource"),
        (check("1", resource={}), "resourceUri is missing"),
        (check("1", permission={}), "action is missing"),
        (check("1", count=-1), "detail.count is not a count"),
        (check("1", count=1.5), "detail.count is not a count"),
        (check("1", count="3"), "detail.count is not a count"),
        (check("1", count=True), "detail.count is not a count"),
        (check("1", count=10**15), "detail.count is not a count"),
    ],
)
def test_an_object_that_is_no_audit_stream_is_refused_by_name_and_line_without_its_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: Any, words: str
) -> None:
    write(folder, "2026/08/10/good.json", [check("good")])
    write(folder, "2026/08/11/odd.json", [check("0"), line, check("2")])

    failure = refused(in_folder(monkeypatch, folder))

    assert isinstance(failure, ResponseInvalid)
    assert f"{folder}/2026/08/11/odd.json is not as documented: " in failure.happened
    assert words in failure.happened
    assert "sign in" not in str(failure) and "yesterday" not in str(failure)


@pytest.mark.parametrize("damage", ["cut", "garbled"])
def test_a_packed_object_that_is_damaged_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    lines = b"".join(json.dumps(check(f"{n}")).encode() + b"\n" for n in range(500))
    packed = gzip.compress(lines)
    damaged = packed[: len(packed) // 2] if damage == "cut" else packed[:200] + b"\xff" * 40 + packed[240:]
    (folder / "2026/08/10").mkdir(parents=True)
    (folder / "2026/08/10/a.json.gz").write_bytes(damaged)

    failure = refused(in_folder(monkeypatch, folder))

    assert isinstance(failure, ResponseInvalid)
    assert "a.json.gz is compressed and damaged or cut off." in failure.happened


def test_an_object_too_large_to_be_held_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "2026/08/10/a.json", [check("1")])
    with (folder / "2026/08/10/a.json").open("r+b") as file:
        file.truncate(257 * 1024 * 1024)

    assert "larger than 256 MiB" in refused(in_folder(monkeypatch, folder)).happened


# ---------------------------------------------------------------- Google


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStorage]:
    with FakeStorage(page_size=2) as running:
        for n in range(5):
            content = json.dumps(check(f"{n}", day=DAY, count=2)).encode() + b"\n"
            running.objects[f"audit/2026/08/1{n}/a.json"] = content
        extra = running.connection_extra()
        held = json.dumps({"conn_type": "google_cloud_platform", "extra": extra})
        monkeypatch.setenv("AIRFLOW_CONN_THE_BUCKET", held)
        yield running


def of_google(monkeypatch: pytest.MonkeyPatch) -> Connection:
    settings = {"location": "gs://landing/audit", "storage_connection": "the_bucket"}
    connection = connect(monkeypatch, extra=settings)
    quick = DEFAULT_RETRY.with_timeout(1.0).with_delay(initial=0.01, maximum=0.05)
    connection.client.landing._how = {"timeout": (2.0, 2.0), "retry": quick}
    return connection


def cut_short(answer: Answer) -> Answer:
    status, body, headers = answer
    return status, body[: len(body) // 2], headers | {"Content-Length": str(len(body))}


def as_json(status: int) -> Answer:
    body = json.dumps({"error": {"code": status, "message": "no"}}).encode()
    return status, body, {"Content-Type": "application/json"}


HTML: Answer = (200, b"<html>Please sign in</html>", {"Content-Type": "text/html"})
NOTHING: Answer = (200, b"{}", {"Content-Type": "application/json"})


@pytest.mark.parametrize("operation", ["list", "get"])
@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "html", "empty"])
def test_what_passes_at_google_ends_in_the_truth(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch, fault: str, operation: str
) -> None:
    hits: list[str] = []

    def spoil(asked: str, answer: Answer) -> Answer:
        hits.append(asked)
        if asked != operation or hits.count(operation) != 2:
            return answer
        return {"cut": cut_short(answer), "html": HTML, "empty": NOTHING}.get(fault) or as_json(int(fault))

    storage.spoil = spoil
    assert sum(counts(extract(of_google(monkeypatch), DAY, DAY)).values()) == 10
    assert hits.count(operation) > 2


@pytest.mark.parametrize(
    ("operation", "answer", "error"),
    [
        ("list", as_json(401), CredentialRejected),
        ("list", as_json(403), PermissionMissing),
        ("get", as_json(403), PermissionMissing),
        ("list", as_json(404), ConfigurationInvalid),
        ("get", as_json(404), SourceUnavailable),
        ("list", as_json(400), ResponseInvalid),
        ("list", as_json(429), RateLimited),
        ("get", as_json(500), SourceUnavailable),
        ("list", HTML, ResponseInvalid),
        ("list", NOTHING, ResponseInvalid),
        ("get", HTML, SourceUnavailable),
        ("get", NOTHING, SourceUnavailable),
        ("token", as_json(400), CredentialRejected),
    ],
)
def test_what_stays_at_google_is_named_and_yields_nothing(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch, operation: str, answer: Answer, error: type[UsageError]
) -> None:
    connection = of_google(monkeypatch)
    if operation == "list":
        # The first list says when the stream began.
        PROVIDER.scopes(connection)
    storage.spoil = lambda asked, right: answer if asked == operation else right

    with pytest.raises(UsageError) as caught:
        extract(connection, FIRST)

    assert type(caught.value) is error, repr(caught.value)
    assert "gs://landing/audit" in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)
    if isinstance(caught.value, PermissionMissing):
        assert caught.value.permission == {"list": "storage.objects.list", "get": "storage.objects.get"}[operation]


def test_a_list_of_google_that_goes_round_in_circles_is_found_out(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(asked: str, answer: Answer) -> Answer:
        page = json.loads(answer[1]) | {"nextPageToken": "2"}
        return (200, json.dumps(page).encode(), answer[2]) if asked == "list" else answer

    storage.spoil = spoil
    assert "does not come to an end" in refused(of_google(monkeypatch)).happened
