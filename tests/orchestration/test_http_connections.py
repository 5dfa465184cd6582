"""From an Airflow connection to an HTTP client that sends its key to one place, and everything refused on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from ai_usage.core.contract import Check, Connection, Memory, Record, Scope, Stream
from ai_usage.core.errors import ConfigurationInvalid, CredentialRejected, PermissionMissing, UsageError
from ai_usage.core.http import Limits, Refusal
from ai_usage.core.http_provider import HttpProvider
from ai_usage.core.slices import Window
from ai_usage.orchestration.clients import open_connection
from tests.core.http_server import Server, answer, ok

ID = "sample_default"
KEY = "sk-sample-canary-0123456789"


class Sample(HttpProvider):
    """A provider with everything an HTTP provider may say."""

    name = "sample"
    label = "Sample"
    connection_type = "ai_usage_sample"
    base_url = "https://api.sample.invalid/v1"
    limits = Limits(attempts=2, patience=5.0)
    streams: ClassVar[tuple[Stream, ...]] = ()
    documentation: ClassVar[Mapping[str, str]] = {}
    reads = ()
    never_reads = ()

    def secret_headers(self, key: str) -> Mapping[str, str]:
        if not key.startswith("sk-"):
            raise ConfigurationInvalid("It is not a key.", action="Make one.")
        return {"Authorization": f"Bearer {key}"}

    def headers(self, options: Mapping[str, Any]) -> Mapping[str, str]:
        return {"Sample-Version": "7", "Sample-Organisation": str(options.get("organisation", "none"))}

    def explain(self, refusal: Refusal) -> UsageError | None:
        if refusal.status == 403:
            return PermissionMissing(
                "It may not.", permission="usage.read", action=f"Grant it ({refusal.body['why']})."
            )
        return None

    def check(self, connection: Connection) -> Iterator[Check]:
        yield Check("key", True, "Good.")

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        return [Scope()]

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:
        yield from ()


PROVIDER = Sample()


@pytest.fixture(autouse=True)
def without_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]:
        monkeypatch.delenv(name)


def define(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Define the connection in the environment, with a good key unless told otherwise."""
    fields = {"conn_type": PROVIDER.connection_type, "password": KEY} | fields
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", json.dumps(fields))


def opened(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Connection:
    define(monkeypatch, **fields)
    return open_connection(PROVIDER, ID, Memory())


def refused(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> str:
    with pytest.raises(ConfigurationInvalid) as caught:
        opened(monkeypatch, **fields)
    assert caught.value.connection_id == ID
    assert KEY not in str(caught.value)
    return str(caught.value)


def test_a_connection_needs_a_key_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = opened(monkeypatch)

    assert connection.client.address.base_url == PROVIDER.base_url
    assert connection.client.limits == PROVIDER.limits
    assert connection.options == {}
    assert KEY not in repr(connection)


@pytest.mark.parametrize("place", ["host", "base_url"])
def test_the_address_may_be_another_and_the_key_is_sent_there_in_the_providers_way(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with Server([ok({"data": []})]) as server:
        address = f"{server.url}/gateway/v1/"
        in_extra = {"base_url": address} if place == "base_url" else {}
        host = address if place == "host" else None
        connection = opened(monkeypatch, password=f"  {KEY}\n", host=host, extra={"organisation": "org-1", **in_extra})
        connection.client.get_json("usage", {"limit": 1})

    (request,) = server.requests
    assert request.target == "/gateway/v1/usage?limit=1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["sample-version"] == "7"
    assert request.headers["sample-organisation"] == "org-1"
    assert connection.options == {"organisation": "org-1"}


def test_calls_are_counted_in_the_connections_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server([answer(429, Retry_After="0"), ok({"data": []})]) as server:
        connection = opened(monkeypatch, host=server.url)
        connection.client.get_json("usage")

    journal = connection.journal
    assert (journal.calls, journal.retries, journal.throttled) == (2, 1, 1)
    assert journal.bytes_received > 0


def test_two_connections_do_not_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch).journal is not opened(monkeypatch).journal


def test_a_refusal_is_told_in_the_providers_words_or_else_by_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server([answer(403, b'{"why": "scope"}'), answer(401)]) as server:
        connection = opened(monkeypatch, host=server.url)
        with pytest.raises(PermissionMissing) as explained:
            connection.client.get_json("usage")
        with pytest.raises(CredentialRejected) as by_status:
            connection.client.get_json("usage")

    assert (explained.value.action, explained.value.connection_id) == ("Grant it (scope).", ID)
    assert by_status.value.connection_id == ID


def test_options_hold_what_was_filled_in_and_nothing_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {
        "a": "x",
        "b": False,
        "c": 0,
        "d": None,
        "e": "",
        "f": ["x"],
        "api_key": "canary",
        "refresh_token": "canary",
    }

    assert opened(monkeypatch, extra=extra).options == {"a": "x", "b": False, "c": 0, "f": ["x"]}


def test_a_connection_as_a_uri_works_as_airflow_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is how Airflow hands a connection to its test button, whatever its form was."""
    from airflow.models.connection import Connection as Stored

    host = "http://127.0.0.1:8080/gateway/v1"
    stored = Stored(ID, PROVIDER.connection_type, password=KEY, host=host, extra='{"deep": {"a": [true]}, "n": 1}')
    monkeypatch.setenv(f"AIRFLOW_CONN_{ID.upper()}", stored.get_uri())
    connection = open_connection(PROVIDER, ID, Memory())

    assert connection.client.address.base_url == host
    assert connection.options == {"deep": {"a": [True]}, "n": 1}


@pytest.mark.parametrize("password", [None, "", "  \n"])
def test_a_connection_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, password: str | None) -> None:
    assert "no key" in refused(monkeypatch, password=password)


def test_a_key_of_the_wrong_kind_is_refused_in_the_providers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not a key. Make one." in refused(monkeypatch, password="pk-1234")


def test_a_key_with_a_line_break_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "line break" in refused(monkeypatch, password=f"{KEY}\nX-Evil: 1")


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com",
        "http://api.example.com",
        "https://user:password@api.example.com",
        "https://169.254.169.254",
        "ftp://localhost",
        "https://api.example.com/v1?key=1",
    ],
)
def test_an_address_that_would_show_the_key_to_others_is_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert "address" in refused(monkeypatch, host=host)
    assert "address" in refused(monkeypatch, extra={"base_url": host})


@pytest.mark.parametrize("base_url", [7, ["https://api.example.com"], True])
def test_an_address_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch, base_url: object) -> None:
    assert "address" in refused(monkeypatch, extra={"base_url": base_url})


def test_two_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, host="https://a.example.com", extra={"base_url": "https://b.example.com"})
    assert "different addresses" in message


@pytest.mark.parametrize("part", [{"port": 8443}, {"schema": "https"}])
def test_an_address_in_pieces_is_refused(monkeypatch: pytest.MonkeyPatch, part: dict[str, Any]) -> None:
    assert "whole address" in refused(monkeypatch, host="https://gateway.example.com", **part)
