"""A credential goes to the provider's address, to one named by whoever made the connection, and nowhere else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.core.contract import Memory
from ai_usage.core.errors import ConfigurationInvalid, ResponseInvalid, UsageError
from ai_usage.core.http import HttpClient, Limits
from ai_usage.orchestration.client_kinds import open_client
from ai_usage.orchestration.clients import open_connection
from tests.core.http_server import Server, answer, ok
from tests.security.conftest import forget
from tests.security.credentials import PREFIXES, PROVIDERS, Planted, canary, plant

REFUSED = (
    "http://api.example.com",
    "http://api.openai.com/v1",
    "http://10.0.0.8",
    "http://192.168.1.1:8080",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials",
    "https://169.254.169.254/latest/meta-data",
    "http://metadata.google.internal/computeMetadata/v1",
    "http://[fe80::1]",
    "https://[fe80::1]/v1",
    "http://[::ffff:10.0.0.8]",
    "https://0.0.0.0",
    "https://[::]",
    "https://224.0.0.1",
    "http://2130706433",
    "https://2130706433",
    "https://0x7f.0.0.1",
    "https://0177.0.0.1",
    "https://127.1",
    "http://127.0.0.1.nip.example",
    "http://localhost.example.com",
    "http://localhost@evil.example",
    "https://user:password@api.example.com",
    "https://api.example.com@evil.example",
    "https://api.example.com\\@evil.example",
    "https://api.example.com/v1?next=https://evil.example",
    "https://api.example.com/#@evil.example",
    "https://api.example.com/v1/../../admin",
    "https://api.example.com/%2e%2e/admin",
    "https://api.example.com\r\nHost: evil.example",
    "ftp://localhost/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "unix:///var/run/docker.sock",
    "//evil.example",
    "https://",
    "https://ex ample.com",
)
"""Addresses that no connection may name, whatever the provider."""


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every attempt to look a name up or to open a line."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        tried.append(arguments)
        raise OSError("no line in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    yield tried


def overrides(name: str) -> list[str]:
    """Return every place of a connection that may name an address."""
    if name in PREFIXES:
        return ["host", "base_url"]
    return {
        "authress": ["host", "service_config", "endpoint_url"],
        "aws_bedrock": ["service_config", "sts", "endpoint_url"],
        "azure_openai": ["login_url", "management_url", "metrics_url"],
        "google_vertex_ai": ["api_endpoint", "token_uri"],
    }[name]


def moved(name: str, place: str, url: str) -> Planted:
    """Return a good connection but for one address."""
    planted = plant(name, "http://127.0.0.1:9/v1", "2026-08-01")
    fields = planted.fields
    extra = fields["extra"]
    stored = planted.beside["authress_landing_canary"]["extra"] if name == "authress" else extra
    if place == "host":
        fields["host"] = url
    elif place in ("service_config", "sts"):
        service = {"service_config": "s3" if name == "authress" else "cloudwatch", "sts": "sts"}[place]
        stored["service_config"] = {service: {"endpoint_url": url}}
    elif place == "token_uri":
        extra["keyfile_dict"] = json.dumps(json.loads(extra["keyfile_dict"]) | {"token_uri": url})
    else:
        stored[place] = url
        if place == "base_url":
            fields["host"] = None
    return planted


def as_airflow(connection_id: str, fields: dict[str, Any]) -> Any:
    """Return a connection as Airflow hands it over."""
    from airflow.sdk import Connection

    return Connection(conn_id=connection_id, **(fields | {"extra": json.dumps(fields["extra"])}))


@pytest.mark.parametrize(("name", "place"), [(name, place) for name in PROVIDERS for place in overrides(name)])
def test_a_foreign_address_is_refused_before_a_line_is_opened(
    name: str, place: str, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(REFUSED) >= 15
    provider, stored = providers.load(name), dict[str, Any]()
    monkeypatch.setattr("ai_usage.orchestration.clients.find_connection", stored.get)
    for url in REFUSED:
        forget()
        planted = moved(name, place, url)
        stored.update({one: as_airflow(one, fields) for one, fields in planted.beside.items()})
        with pytest.raises(ConfigurationInvalid) as caught:
            open_client(provider, as_airflow(planted.connection_id, planted.fields))
            pytest.fail(f"{name} takes {url!r} as its {place}")
        assert caught.value.connection_id
        assert not [secret for secret in planted.secrets if secret in str(caught.value)]
        assert "password@" not in str(caught.value)
    assert lines == []


@pytest.mark.parametrize("place", ["api_endpoint", "token_uri"])
def test_google_keys_go_to_google_only(place: str, lines: list[Any]) -> None:
    for url in (
        "https://googleapis.com.evil.example",
        "https://evil-googleapis.com",
        "https://googleapis.com@evil.example",
    ):
        planted = moved("google_vertex_ai", place, url)
        with pytest.raises(ConfigurationInvalid):
            open_client(providers.load("google_vertex_ai"), as_airflow(planted.connection_id, planted.fields))
    assert lines == []


LINKS = (
    "http://127.0.0.1:{other}/next",
    "//127.0.0.1:{other}/next",
    "http://localhost:{port}/next",
    "https://127.0.0.1:{port}/next",
    "http://user@127.0.0.1:{port}/next",
    "http://127.0.0.1:{port}@127.0.0.1:{other}/next",
    "http://[::1]:{port}/next",
    "http://127.0.0.1:{port}\\@127.0.0.1:{other}/",
    "ftp://127.0.0.1:{port}/next",
    "javascript:alert(1)",
    "/\\127.0.0.1:{other}/next",
    "http://127.0.0.1:{port}\r\nX: y",
    "http://[::1",
)


@pytest.mark.parametrize("link", LINKS)
def test_neither_a_redirect_nor_a_next_link_takes_the_key_elsewhere(link: str) -> None:
    key = canary("links")
    with Server([ok({"data": []})]) as other, Server([answer(302, Location="{}")]) as server:
        target = link.format(port=server.port, other=other.port)
        server.steps = [answer(302, Location=target.replace("\r\n", ""))]
        client = HttpClient(
            server.url,
            connection_id="links",
            secret_headers={"Authorization": f"Bearer {key}"},
            limits=Limits(attempts=1, answer_timeout=5, patience=5),
        )
        with client, pytest.raises(UsageError) as redirected:
            client.get_json("usage")
        with client, pytest.raises(ResponseInvalid) as followed:
            client.follow_json(target)
        assert len(server.requests) == 1
        assert other.requests == []
        for error in (redirected, followed):
            assert key not in str(error.value)


@pytest.mark.usefixtures("without_waiting")
def test_a_redirect_of_google_and_of_aws_is_not_followed_with_the_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their libraries follow redirects by themselves, so it is looked at what arrives at the other place."""
    for name in ("google_vertex_ai", "aws_bedrock", "authress"):
        with Server([ok({})]) as other, Server([answer(307, Location=f"{other.url}/elsewhere")]) as server:
            planted = plant(name, server.url, "2026-08-01")
            for variable, value in planted.environment().items():
                monkeypatch.setenv(variable, value)
            connection = open_connection(providers.load(name), planted.connection_id, Memory())
            if name == "authress":
                connection.client.landing._sleep = lambda _: None
            with pytest.raises(UsageError):
                providers.load(name).scopes(connection)
                stream = providers.load(name).streams[0]
                pytest.fail(f"{name} took a redirect for an answer ({stream.name})")
            assert server.requests
            assert other.requests == [], name
