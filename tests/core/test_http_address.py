"""Which addresses a credential may be sent to."""

from __future__ import annotations

import pytest

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.http import Address, as_segment, checked_base_url


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com",
        "https://eu.api.example.com:8443/v1",
        "https://proxy.internal/ai",
        "https://10.0.0.8",
        "http://localhost:8080",
        "http://127.0.0.1:8080/openai",
        "http://127.5.5.5",
        "http://[::1]:8080",
    ],
)
def test_an_address_over_tls_or_on_this_machine_is_accepted(url: str) -> None:
    assert checked_base_url(f"{url}/") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com",
        "http://api.openai.com",
        "http://10.0.0.8",
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254",
        "https://[fe80::1]",
        "http://0177.0.0.1",
        "https://0177.0.0.1",
        "https://2130706433",
        "https://0x7f000001",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://0.0.0.0",
        "file:///etc/passwd",
        "gopher://localhost",
        "https://user:password@api.openai.com",
        "https://api.openai.com@evil.example",
        "https://api.openai.com/v1?key=secret-in-query",
        "https://api.openai.com/#fragment",
        "https://api.openai.com/v1/../admin",
        "https://api.openai.com\\@evil.example",
        "https://api.openai.com/\r\nHost: evil.example",
        "https://",
        "https://[::1",
        "https://api.openai.com:port",
        "https://bad host",
    ],
)
def test_any_other_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        checked_base_url(url, connection_id="openai_test")
    assert str(caught.value).startswith("openai_test: ")
    assert "password" not in str(caught.value).replace("user name or password", "")
    assert "secret-in-query" not in str(caught.value)


@pytest.mark.parametrize("value", ["a/b", "a?b", "a..b", "a%2fb", "ä", "#"])
def test_a_quoted_segment_stays_one_segment(value: str) -> None:
    url = Address("https://api.example.com").url(f"projects/{as_segment(value)}/usage")
    assert url.removeprefix("https://api.example.com/").count("/") == 2


@pytest.mark.parametrize("value", ["", ".", "..", "../..", "a/../../b", "%2e%2e"])
def test_a_value_that_climbs_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationInvalid, match="cannot be part of an address"):
        as_segment(value)
