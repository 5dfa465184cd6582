"""Authress: every event once, by count, on its day, under its resource without ids, wherever the stream lands."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ai_usage.core.contract import Connection, Scope
from ai_usage.core.errors import ConfigurationInvalid, NotEntitled, ResponseInvalid, SourceUnavailable
from ai_usage.core.planner import days_to_read
from ai_usage.core.slices import SliceState, Window
from ai_usage.providers import _authress_landing
from ai_usage.providers._authress import MOST_TEMPLATES, Templates
from ai_usage.providers._authress_key import read_access_key
from sandbox.service import Sandbox
from sandbox.simulators.authress import access_key, objects, private_key
from sandbox.truth.authress import COMPANY, LAB, Account, AuthressTruth
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
    notes,
    of_sandbox,
    write,
)
from tests.providers.aws import TODAY
from tests.providers.gcs import FakeStorage

__all__ = ["folder"]

ONE_DAY = timedelta(days=1)
FIRST = TODAY - 29 * ONE_DAY


@pytest.fixture(scope="module")
def running_sandbox() -> Iterator[Sandbox]:
    with Sandbox(today=TODAY, moto=True, history_days=30) as running:
        yield running


def expected(sandbox: Sandbox, account: Account, first: date, last: date = TODAY) -> dict[tuple[Any, ...], int]:
    """Return (day, resource, operation) → calls, as the truth has it."""
    found: dict[tuple[Any, ...], int] = {}
    for row in sandbox.truth.expected_detail("authress", first, last, [account.account_id]):
        key = (row["usage_date"], row["raw_model_id"], row["endpoint"])
        found[key] = found.get(key, 0) + row["api_calls"]
    return found


def found(connection: Connection, first: date, last: date = TODAY) -> dict[tuple[Any, ...], int]:
    sums: dict[tuple[Any, ...], int] = {}
    for (day, resource, operation, _), count in counts(extract(connection, first, last)).items():
        sums[day, resource, operation] = sums.get((day, resource, operation), 0) + count
    return sums


def landed_since(sandbox: Sandbox, first: date) -> int:
    """Return how many objects lie in the company's folders from a day on."""
    truth = sandbox.truth.of("authress")
    assert isinstance(truth, AuthressTruth)
    return sum(name >= f"{first:%Y/%m/%d}" for name in objects(truth, COMPANY, "{year}/{month}/{day}/", packed=True))


# ---------------------------------------------------------------- the sandbox


def test_thirty_days_from_s3_equal_the_truth_in_one_list_and_one_call_per_object(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = of_sandbox(monkeypatch, sandbox, "authress_company")
    sums = found(connection, FIRST)

    assert sums == expected(sandbox, COMPANY, FIRST)
    assert len(sums) > 150
    calls = sandbox.requests.to_json()["calls"]["authress"][COMPANY.account_id]["-"]
    landed = landed_since(sandbox, FIRST)
    assert 85 < landed <= 90
    # One more list told which object is the first.
    assert calls == {"ListObjectsV2": 2, "GetObject": landed}
    assert connection.journal.calls == 1 + landed
    assert connection.journal.bytes_received > 10_000


def test_the_hourly_window_reads_the_days_that_may_change_and_no_older_ones(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = dict.fromkeys((FIRST + n * ONE_DAY for n in range(30)), SliceState.FINAL)
    days = days_to_read(STREAM, states, TODAY)
    assert days[0] == TODAY - 8 * ONE_DAY

    connection = of_sandbox(monkeypatch, sandbox, "authress_company")
    assert found(connection, days[0], days[-1]) == expected(sandbox, COMPANY, days[0])
    calls = sandbox.requests.to_json()["calls"]["authress"][COMPANY.account_id]["-"]
    # Of the day before the first one too: folders may be of another time zone.
    assert calls == {"ListObjectsV2": 2, "GetObject": landed_since(sandbox, TODAY - 9 * ONE_DAY)}


def test_a_folder_with_odd_settings_equals_the_truth(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = of_sandbox(monkeypatch, sandbox, "authress_default")

    assert found(connection, FIRST) == expected(sandbox, LAB, FIRST)
    assert notes(connection) == ["line_cut", "schema_drift"]
    assert "ServiceClientRotated" in next(note.message for note in connection.journal.notes)


@pytest.mark.parametrize("days", [1, 2, 9, 30])
def test_windows_of_any_width_give_the_same_numbers(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    connection = of_sandbox(monkeypatch, sandbox, "authress_default")
    whole: dict[tuple[Any, ...], int] = {}
    for start in range(0, 30, days):
        last = min(FIRST + (start + days - 1) * ONE_DAY, TODAY)
        whole |= found(connection, FIRST + start * ONE_DAY, last)

    assert whole == expected(sandbox, LAB, FIRST)


@pytest.mark.parametrize(
    ("connection_id", "account"), [("authress_default", LAB), ("authress_company", COMPANY)], ids=["folder", "s3"]
)
def test_what_lands_later_and_what_vanishes_is_seen(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, connection_id: str, account: Account
) -> None:
    connection = of_sandbox(monkeypatch, sandbox, connection_id)
    before = found(connection, FIRST)
    for days_ago, change in ((2, {"factor": "3"}), (3, {"vanish": True}), (4, {"factor": "0.3"})):
        day = TODAY - days_ago * ONE_DAY
        sandbox.truth.restate(provider="authress", account=account.account_id, region="-", day=day, **change)

    after = found(connection, FIRST)

    assert after == expected(sandbox, account, FIRST) != before
    assert not [key for key in after if key[0] == TODAY - 3 * ONE_DAY]
    for days_ago in (2, 3, 4):
        day = TODAY - days_ago * ONE_DAY
        sandbox.truth.restate(provider="authress", account=account.account_id, region="-", day=day, factor="1")


def test_no_id_of_a_user_or_a_resource_and_no_address_is_in_any_record(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for connection_id in ("authress_default", "authress_company"):
        records = extract(of_sandbox(monkeypatch, sandbox, connection_id), FIRST)
        text = json.dumps([record.record for record in records])

        for forbidden in ("user_", "user.", "@", "org_", "doc_", "acme", "umbrella", "evt_", "rec_", "abcdef"):
            assert forbidden not in text, forbidden
        assert {name for record in records for name in record.record} <= STREAM.fields


def test_the_check_names_every_step_and_passes(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for connection_id, account in (("authress_default", LAB), ("authress_company", COMPANY)):
        sandbox.requests.reset()
        checks = list(PROVIDER.check(of_sandbox(monkeypatch, sandbox, connection_id)))

        assert [one.passed for one in checks] == [True] * 4
        assert f"Accepted for account {account.account_id}." in checks[1].message
        assert "events" in checks[3].message
        calls = sandbox.requests.to_json()["calls"]["authress"][account.account_id]["-"]
        assert calls["getClient"] == 1
        assert sum(calls.values()) == (1 if account is LAB else 3)


# ---------------------------------------------------------------- events


def test_events_count_once_by_their_count_on_the_day_of_their_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = check("late", day=DAY, count=100)
    write(folder, "2026/08/10/a.ndjson", [check("1", count=3), check("2"), check("1", count=3)])
    # Delivered twice, out of order, in another file, packed; and written in another time zone.
    eastern = check("5") | {"time": "2026-08-11T01:30:00.123456789+05:00"}
    write(folder, "2026/08/11/b.gz.ndjson", [check("3", count=0), check("2"), eastern], packed=True)
    write(folder, "2026/08/12/c.json", [check("4", result="DENIED", count=7)])
    write(folder, "2026/08/15/late.log", [late, check("future", day=TODAY, hour=23)])

    records = extract(in_folder(monkeypatch, folder), DAY - ONE_DAY, DAY + ONE_DAY)

    assert [record.usage_date for record in records] == [DAY, DAY]
    assert [dict(record.record) for record in records] == [
        {"event": "AuthorizationRequest", "resource": "/documents/{id}", "operation": "documents:read"} | more
        for more in ({"result": "ALLOWED", "count": 105}, {"result": "DENIED", "count": 7})
    ]


def test_folders_may_be_of_a_time_zone_that_is_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "2026/08/09/evening.json", [check("1", day=DAY, hour=3)])

    assert list(counts(extract(in_folder(monkeypatch, folder), DAY, DAY)).values()) == [1]


def test_without_being_told_only_checks_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [
        {"userId": "user_42", "resourceUri": "/organizations/a/documents/1", "operation": "ADDED"},
        {"userId": "user_17", "resourceUri": "/organizations/a/documents/2", "operation": "REMOVED"},
        {"userId": "user_18", "resourceUri": "/organizations/a/documents/3", "operation": "REMOVED"},
    ]
    at = {"time": f"{DAY}T12:43:10Z"}
    changed = at | {"detail-type": "AccessChanged", "detail": {"eventId": "c", "changes": changes}}
    login = at | {"detail-type": "UserLogin", "detail": {"eventId": "l", "subType": None, "loginResult": "SUCCESS"}}
    # The same login under its other name is the same login.
    older = login | {"detail-type": "LoginRequest"}
    sign_up = at | {"detail-type": "LoginRequest", "detail": {"eventId": "s", "subType": "SignUp"}}
    write(folder, "2026/08/10/a.json", [changed, login, older, sign_up, check("1"), changed])

    assert counts(extract(in_folder(monkeypatch, folder), DAY)) == {
        (DAY, "/documents/{id}", "documents:read", "ALLOWED"): 1
    }
    every = in_folder(monkeypatch, folder, events=["checks", "logins", "access_changes"])
    document = "/organizations/{id}/documents/{id}"
    assert counts(extract(every, DAY)) == {
        (DAY, "/documents/{id}", "documents:read", "ALLOWED"): 1,
        (DAY, document, "ADDED", None): 1,
        (DAY, document, "REMOVED", None): 2,
        (DAY, "(none)", "Login", "SUCCESS"): 1,
        (DAY, "(none)", "SignUp", None): 1,
    }


def test_events_without_line_breaks_between_them_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = b" ".join(json.dumps(check(f"{n}")).encode() for n in range(5)) + json.dumps(check("5")).encode()
    write(folder, "2026/08/10/a.json", [joined], tail=joined + json.dumps(check("9")).encode()[:40])

    connection = in_folder(monkeypatch, folder)

    assert sum(counts(extract(connection, DAY, DAY)).values()) == 6
    assert notes(connection) == ["line_cut"]


@pytest.mark.parametrize("tail", [b'{"detail-type": "Autho', b'{"a": {}', b"{", b'{"detail-type": "x"}x{'])
def test_a_last_line_that_is_cut_off_costs_that_line_only_and_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tail: bytes
) -> None:
    write(folder, "2026/08/10/a.json", [check("1"), check("2")], tail=tail)
    connection = in_folder(monkeypatch, folder)
    if tail.endswith(b"x{"):
        # Something stands behind an event that is not one: that is no cut.
        with pytest.raises(ResponseInvalid, match=r"a\.json is not as documented: line 3 is not JSON"):
            extract(connection, DAY, DAY)
        return

    assert sum(counts(extract(connection, DAY, DAY)).values()) == 2
    (note,) = connection.journal.notes
    assert note.kind == "line_cut"
    assert "2026/08/10/a.json" in note.message

    # Once it is whole, it counts, and nobody says a word.
    write(folder, "2026/08/10/a.json", [check("1"), check("2"), check("3")])
    assert sum(counts(extract(connection, DAY, DAY)).values()) == 3
    assert notes(connection) == []


def test_an_id_with_two_contents_counts_once_with_the_larger_and_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for names in (("a", "b"), ("b", "a")):
        for name, count in zip(names, (3, 8), strict=True):
            write(folder, f"2026/08/10/{name}.json", [check("1", count=count)])
        connection = in_folder(monkeypatch, folder)

        assert sum(counts(extract(connection, DAY, DAY)).values()) == 8
        assert notes(connection) == ["events_differ"]


def test_events_later_than_a_week_count_in_no_window_and_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = date(2026, 8, 1)
    write(folder, "2026/08/08/in-time.json", [check("1", day=old)])
    write(folder, "2026/08/09/too-late.json", [check("2", day=old)])
    connection = in_folder(monkeypatch, folder)

    for last in (old, TODAY):
        assert sum(counts(extract(connection, old, last)).values()) == 1
    assert notes(connection) == ["events_late", "no_usage"]


def test_unknown_fields_and_events_are_told_by_name_and_stored_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = check("1", ipAddress="10.1.2.3") | {
        "note": "a secret sentence",
        "source": "aws.partner/authress.io/acc_b/x",
    }
    write(folder, "2026/08/15/a.json", [strange, {"detail-type": "NewThing", "detail": {"of": "a secret sentence"}}])
    connection = in_folder(monkeypatch, folder, account_id="acc_a")

    records = extract(connection, TODAY - ONE_DAY)

    assert counts(records) == {}
    write(folder, "2026/08/15/a.json", [strange | {"time": f"{TODAY}T01:00:00Z"}, {"detail-type": "New", "detail": {}}])
    records = extract(connection, TODAY - ONE_DAY)
    assert set(records[0].record) == {"event", "resource", "operation", "result", "count"}
    told = " ".join(note.message for note in connection.journal.notes)
    assert notes(connection) == ["account_differs", "schema_drift"]
    assert "detail.ipAddress" in told and " note." in told and "New" in told and "acc_b" in told
    assert "10.1.2.3" not in told and "secret sentence" not in told


# ---------------------------------------------------------------- resources


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/organizations/org_a/documents/doc_1", "/organizations/{id}/documents/{id}"),
        ("organizations/acme/documents/", "/organizations/{id}/documents"),
        ("/", "/"),
        ("", "/"),
        ("/documents/*", "/documents/*"),
        ("/v1/users/alice/photos/7?token=abc#x", "/v1/users/{id}/photos/{id}"),
        ("/api/v2/tenants/acme", "/api/v2/tenants/{id}"),
        ("/4711/orders", "/{id}/{id}"),
        ("/alice@example.com", "/{id}"),
        ("/3f1b9b52-5f3d-4df5-8f2d-6a1f0f5c7e21/x", "/{id}/{id}"),
        ("/" + "x" * 40, "/{id}"),
        ("/" + "/".join("a" * 50), "/" + "/".join(["a", "{id}"] * 6)),
        ("urn:authress:doc:1", "/{id}"),
    ],
)
def test_without_rules_nothing_that_could_be_an_id_stays(path: str, template: str) -> None:
    assert Templates().of(path) == (template, False)


def test_rules_come_first_and_in_their_order() -> None:
    rules = ["/a/{x}/b", "/a/special/**", r"^/files/\d{4}/.{1,3}$ => /files/{year}/{name}", "/a/{x}/{y}"]
    made = Templates(rules).of

    assert made("/a/1/b") == ("/a/{x}/b", True)
    assert made("/a/special/b") == ("/a/{x}/b", True)
    assert made("/a/special/c/d/e?f") == ("/a/special/**", True)
    assert made("/a/special") == ("/a/special/**", True)
    assert made("/a/1/c") == ("/a/{x}/{y}", True)
    assert made("/files/2026/abc") == ("/files/{year}/{name}", True)
    assert made("/files/2026/abcd") == ("/files/{id}/abcd", False)
    assert made("/a.b/1/b")[1] is False


@pytest.mark.parametrize(
    "rule", ["documents", "/a b", "/a/{", "/**/a", "^/a( => /a", r"^/(\w+)$ => /\1 x", "/a/{x y}", "=> /a", "/a => b"]
)
def test_a_rule_that_is_none_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    with pytest.raises(
        ConfigurationInvalid, match=r"authress_test: resource_templates has a rule that is none.* Write "
    ):
        PROVIDER.scopes(in_folder(monkeypatch, folder, resource_templates=[rule]))


def test_what_rules_do_not_tame_shows_by_its_depth_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def word(n: int) -> str:
        return "".join(chr(ord("a") + int(digit)) for digit in str(n))

    crowd = [check(f"{n}", f"/{word(n)}") for n in range(MOST_TEMPLATES + 1)]
    ruled = [check("r", "/reports/7"), check("deep", "/x/y/z"), crowd[0]]
    write(folder, "2026/08/10/a.json", crowd + ruled)
    write(folder, "2026/08/11/a.json", [check("other day", "/quiet", day=date(2026, 8, 11))])
    connection = in_folder(monkeypatch, folder, resource_templates="/reports/{report}")

    assert counts(extract(connection, DAY)) == {
        (DAY, "/{id}", "documents:read", "ALLOWED"): MOST_TEMPLATES + 1,
        (DAY, "/{id}/{id}/{id}", "documents:read", "ALLOWED"): 1,
        (DAY, "/reports/{report}", "documents:read", "ALLOWED"): 1,
        (date(2026, 8, 11), "/quiet", "documents:read", "ALLOWED"): 1,
    }
    assert notes(connection) == ["no_usage", "too_many_resources"]


# ---------------------------------------------------------------- where it lands


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("{year}-{month}-{day}", "{d}T12:00:00_abc.json"),
        ("year={year}/month={month}/day={day}", "year=2026/month=08/day={d:%d}/x.json"),
        ("/v1/{year}{month}{day}", "v1/{d:%Y%m%d}/x.json"),
    ],
)
def test_folders_of_days_may_be_written_in_many_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, name: str
) -> None:
    for n in range(12):
        day = date(2026, 8, 1) + n * ONE_DAY
        write(tmp_path, name.format(d=day), [check(f"{n}", day=day)])
    write(tmp_path, "zz/other.json", [b"not of the stream"])
    connection = in_folder(monkeypatch, tmp_path, day_folders=layout)

    assert PROVIDER.scopes(connection)[0].first_day == date(2026, 8, 1)
    assert len(extract(connection, date(2026, 8, 1))) == 12


def test_without_folders_of_days_the_time_of_the_last_change_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    for n, name in enumerate(("z.json", "a.json", "m/n.json")):
        path = write(tmp_path, name, [check(name, day=DAY)])
        moment = datetime(2026, 8, 9 + n, 12, tzinfo=UTC).timestamp()
        os.utime(path, (moment, moment))
    write(tmp_path, "_manifest.json", [b"not of the stream"])
    connection = in_folder(monkeypatch, tmp_path, day_folders="none")

    assert PROVIDER.scopes(connection)[0].first_day == date(2026, 8, 9)
    assert sum(counts(extract(connection, DAY, DAY)).values()) == 3
    assert sum(counts(extract(connection, DAY + ONE_DAY, TODAY)).values()) == 0
    # One list and two objects: the third was last changed before, and cannot hold anything of those days.
    assert connection.journal.calls == 3


def test_days_before_the_stream_began_are_never_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = in_folder(monkeypatch, tmp_path)
    assert PROVIDER.scopes(connection)[0].first_day is None
    with pytest.raises(NotEntitled, match="Nothing has ever landed"):
        extract(connection, DAY)
    checks = list(PROVIDER.check(connection))
    assert [one.passed for one in checks] == [True, True, True, None]
    assert "Warning" in checks[2].message

    write(tmp_path, "2026/08/12/a.json", [check("1", day=date(2026, 8, 12))])
    assert PROVIDER.scopes(connection)[0].first_day == date(2026, 8, 12)
    assert len(extract(connection, date(2026, 8, 12))) == 1
    assert "since 2026-08-12" in connection.journal.notes[0].message


def test_links_and_other_files_are_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(folder, "2026/08/10/a.json", [check("1")])
    (folder / "2026/08/10/link.json").symlink_to("/etc/hostname")
    (folder / "2026/08/10/readme.txt").write_text("hello")
    (folder / "2026/08/10/empty.json").write_text("")

    assert sum(counts(extract(in_folder(monkeypatch, folder), DAY)).values()) == 1


def test_a_bucket_of_motos_own_server_is_read_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        s3 = boto3.session.Session("key", "secret", region_name="eu-west-1").client("s3", endpoint_url=url)
        s3.create_bucket(Bucket="audit", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        monkeypatch.setattr(_authress_landing, "NAMES_PER_PAGE", 7)
        days = [date(2026, 8, 1) + n * ONE_DAY for n in range(15)]
        for day in days:
            for n in range(4):
                body = json.dumps(check(f"{day} {n}", day=day, count=2)).encode() + b"\n"
                s3.put_object(Bucket="audit", Key=f"deep/folder/{day:%Y/%m/%d}/{n:02d}/x.ndjson", Body=body)
        aws: dict[str, Any] = {"region_name": "eu-west-1", "service_config": {"s3": {"endpoint_url": url}}}
        connect_storage(monkeypatch, "aws", login="key", password="secret", extra=aws)
        connection = connect(
            monkeypatch, extra={"location": "s3://audit/deep/folder/", "storage_connection": "the_bucket"}
        )

        sums = counts(extract(connection, days[0]))

        assert sums == {(day, "/documents/{id}", "documents:read", "ALLOWED"): 8 for day in days}
        # Sixty objects in nine pages.
        assert connection.journal.calls == 9 + 60

        # Of one old day, the list is left where the folders a week after it end.
        assert len(extract(connection, days[0], days[0])) == 1
        assert connection.journal.calls == 5 + 8 * 4

        # An object that is another one by the time it is read, if only by its content, is not taken for it.
        landing = connection.client.landing
        entry = next(landing.holding(Window(DAY, DAY), TODAY))
        s3.put_object(Bucket="audit", Key=f"deep/folder/{entry.name}", Body=b"x" * entry.size)
        with pytest.raises(SourceUnavailable, match="changed while it was read"):
            landing.read(entry)
    finally:
        server.stop()


def connect_storage(monkeypatch: pytest.MonkeyPatch, conn_type: str, **fields: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_THE_BUCKET", json.dumps({"conn_type": conn_type} | fields))


def test_a_bucket_of_google_is_read_over_http_with_the_key_of_the_connection_it_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeStorage(page_size=4) as storage:
        days = [date(2026, 8, 6) + n * ONE_DAY for n in range(10)]
        for day in days:
            event = json.dumps(check(f"{day}", day=day, count=5)).encode()
            storage.objects[f"audit/{day}T10:00:00+00:00_a1.json"] = event + b"\n"
        storage.objects["elsewhere/2026-08-07.json"] = b"not of the stream"
        connect_storage(monkeypatch, "google_cloud_platform", extra=storage.connection_extra())
        settings = {"location": "gs://landing/audit", "storage_connection": "the_bucket"}
        connection = connect(monkeypatch, extra=settings | {"day_folders": "{year}-{month}-{day}"})

        assert [one.passed for one in PROVIDER.check(connection)] == [True] * 4
        storage.calls.clear()
        sums = counts(extract(connection, days[0]))

        assert sums == {(day, "/documents/{id}", "documents:read", "ALLOWED"): 5 for day in days}
        # One for the first object, three pages, ten objects.
        assert storage.calls.count("list") == 1 + 3
        assert storage.calls.count("get") == 10
        assert connection.journal.calls == 13


# ---------------------------------------------------------------- the access key


def test_the_token_is_signed_as_authress_wants_it() -> None:
    key = read_access_key(f"  {access_key(COMPANY)}\n")

    for domain, host in ((None, f"https://{COMPANY.account_id}.api.authress.io"), ("https://login.example.com",) * 2):
        token = key.token(domain)
        assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": "key-1", "typ": "at+jwt"}
        claims = jwt.decode(
            token,
            private_key(COMPANY).public_key(),
            algorithms=["EdDSA"],
            audience=f"{COMPANY.account_id}.accounts.authress.io",
        )
        assert claims["iss"] == f"{host}/v1/clients/{COMPANY.client_id}"
        assert claims["sub"] == claims["client_id"] == COMPANY.client_id
        assert claims["exp"] - claims["iat"] == 86_400
        assert claims["scope"] == "openid"
    assert access_key(COMPANY).rsplit(".", 1)[1] not in repr(key)


def test_a_key_of_the_older_form_signs_with_rsa() -> None:
    rsa = generate_private_key(65537, 2048)
    pem = rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    content = {"clientId": "c1", "keyId": "k1", "audience": "acc-1.accounts.authress.io", "privateKey": pem}

    key = read_access_key(base64.b64encode(json.dumps(content).encode()).decode())

    claims = jwt.decode(key.token(), rsa.public_key(), algorithms=["RS256"], audience="acc-1.accounts.authress.io")
    assert (key.account_id, claims["iss"]) == ("acc-1", "https://acc-1.api.authress.io/v1/clients/c1")


def test_without_an_access_key_the_stream_is_read_and_the_account_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = in_folder(monkeypatch, folder, account_id="acc-9", account_name="Nine")

    assert PROVIDER.scopes(connection) == [Scope("-", "acc-9", "Nine", first_day=date(2026, 7, 1))]
    checks = list(PROVIDER.check(connection))
    assert [one.passed for one in checks] == [True] * 4
    assert "believed, not verified" in checks[1].message


def test_ids_of_events_wait_outside_of_memory(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    made: list[str] = []
    connect_to = sqlite3.connect

    def spy(database: str, **settings: Any) -> Any:
        made.append(database)
        return connect_to(database, **settings)

    monkeypatch.setattr(sqlite3, "connect", spy)
    write(folder, "2026/08/10/a.json", (check(f"{n}") for n in range(25_000)))
    write(folder, "2026/08/11/a.json", (check(f"{n}") for n in range(25_000)))

    assert sum(counts(extract(in_folder(monkeypatch, folder), DAY)).values()) == 25_000
    assert made == [""], "not a private file that SQLite takes away by itself"


def test_a_window_that_lies_in_the_future_asks_for_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tomorrow = Window(TODAY + ONE_DAY, TODAY + 2 * ONE_DAY)
    connection = in_folder(monkeypatch, folder)

    assert list(PROVIDER.extract(connection, STREAM, Scope(), tomorrow)) == []
    assert connection.journal.calls == 0
