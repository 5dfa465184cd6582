"""The HTTP client over real sockets: every fault a provider's server can commit, and what becomes of it."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import logging
import resource
import time
import traceback
from collections.abc import Callable
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from ai_usage.core.contract import Journal
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import Budget, HttpClient, Limits, Refusal
from tests.core.http_server import Server, Step, answer, drip, ok, raw, reset, self_signed

SECRET = "sk-canary+/=%&1234567890abcdef"
DATA = {"data": [{"day": "2026-08-01", "tokens": 12345678901234567890, "cost": 0.1}]}
HTML = b"<html><title>Please log in</title></html>"


def client(url: str, **settings: Any) -> HttpClient:
    """Return a client that does not wait between attempts."""
    defaults: dict[str, Any] = {
        "connection_id": "openai_test",
        "secret_headers": {"x-api-key": SECRET},
        "sleep": lambda _: None,
    }
    return HttpClient(url, **(defaults | settings))


def ask(*steps: Step, path: str = "v1/usage", expect: tuple[str, ...] = ("data",), **settings: Any) -> Any:
    """Ask a server that answers with the steps; return the answer, or the error that was raised."""
    with Server(list(steps)) as server:
        try:
            return client(server.url, **settings).get_json(path, {"limit": 31}, expect=expect)
        except UsageError as error:
            return error


def test_an_answer_arrives_with_exact_numbers() -> None:
    body = b'{"data": [{"cost": 0.1234567890123456789, "tokens": 184467440737095516160}]}'

    found = ask(answer(200, body))

    assert found["data"][0] == {"cost": Decimal("0.1234567890123456789"), "tokens": 184467440737095516160}


def test_path_query_and_headers_arrive_as_meant() -> None:
    with Server([ok(DATA)]) as server:
        client(f"{server.url}/base/", headers={"anthropic-version": "2023-06-01"}).get_json(
            "v1/usage", {"group_by[]": ["model", "key"], "limit": 31}
        )
        [request] = server.requests
    assert request.target == "/base/v1/usage?group_by%5B%5D=model&group_by%5B%5D=key&limit=31"
    assert request.headers["x-api-key"] == SECRET
    assert request.headers["anthropic-version"] == "2023-06-01"


def test_a_payload_is_posted_as_json_and_may_be_sent_again() -> None:
    with Server([answer(503), ok(DATA)]) as server:
        assert client(server.url).post_json("query", {"a": [1]}, expect=("data",))["data"]
        assert [(request.method, request.body) for request in server.requests] == [("POST", b'{"a": [1]}')] * 2


def test_a_connection_is_kept_alive_between_questions() -> None:
    seen: set[object] = set()

    def step(connection: Any, request: Any) -> None:
        seen.add(connection.getpeername())
        ok(DATA)(connection, request)

    with Server([step]) as server:
        one = client(server.url)
        for _ in range(3):
            one.get_json("v1/usage")
    assert len(seen) == 1


def test_calls_repeats_throttles_and_bytes_are_counted() -> None:
    journal = Journal()

    ask(answer(429), answer(500), ok(DATA), journal=journal)

    assert (journal.calls, journal.retries, journal.throttled) == (3, 2, 1)
    assert journal.bytes_received == len(
        b'{"data": [{"day": "2026-08-01", "tokens": 12345678901234567890, "cost": 0.1}]}'
    )


# ---------------------------------------------------------------- waiting


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_wait_that_the_provider_asks_for_is_kept(form: str) -> None:
    moment = format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3), usegmt=True)
    header = {"seconds": "2", "date": moment}[form]
    with Server([answer(429, Retry_After=header), ok(DATA)]) as server:
        assert client(server.url, sleep=time.sleep).get_json("v1/usage")
        first, second = server.requests
    assert second.at - first.at >= 2.0


def test_twenty_throttles_in_a_row_end_within_the_attempts_allowed() -> None:
    waits: list[float] = []
    with Server([answer(429)]) as server, pytest.raises(RateLimited) as caught:
        client(server.url, limits=Limits(attempts=6), sleep=waits.append).get_json("v1/usage")
    assert len(server.requests) == 6
    assert len(waits) == 5
    assert all(0 <= wait <= 30 for wait in waits)
    assert not caught.value.is_permanent


def test_patience_ends_the_repeats_before_the_attempts_do() -> None:
    began = time.monotonic()
    with Server([answer(503)]) as server, pytest.raises(SourceUnavailable):
        client(server.url, limits=Limits(patience=1.0, attempts=50), sleep=time.sleep).get_json("v1/usage")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_worker_does_not_sleep_for_a_day_because_the_provider_says_so(status: int) -> None:
    waits: list[float] = []
    with Server([answer(status, Retry_After="86400")]) as server, pytest.raises(UsageError) as caught:
        client(server.url, sleep=waits.append).get_json("v1/usage")
    assert (len(server.requests), waits, caught.value.is_permanent) == (1, [], False)
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after == 86400


def test_a_wait_longer_than_a_worker_may_sleep_is_left_to_the_scheduler() -> None:
    waits: list[float] = []
    with Server([answer(429, Retry_After="120")]) as server, pytest.raises(RateLimited) as caught:
        client(server.url, limits=Limits(longest_wait=60, patience=600), sleep=waits.append).get_json("v1/usage")
    assert (len(server.requests), waits, caught.value.retry_after) == (1, [], 120)


@pytest.mark.parametrize("header", ["-5", "soon", "1e9999", "nan", "Wed, 99 Foo 2026", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_retry_after_that_makes_no_sense_is_ignored(header: str) -> None:
    assert ask(answer(429, Retry_After=header), ok(DATA)) == ask(ok(DATA))


def test_a_burst_of_outages_is_survived() -> None:
    assert ask(answer(500), answer(502), answer(503), ok(DATA)) == ask(ok(DATA))


def test_an_outage_that_stays_is_an_outage() -> None:
    assert isinstance(ask(answer(500)), SourceUnavailable)


class Wait:
    """Time that passes when somebody sleeps, or when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.mark.parametrize("calls_per_minute", [60, 7, 1, 0.5, 2.5])
def test_no_minute_holds_more_calls_than_it_may_and_few_calls_never_wait(calls_per_minute: float) -> None:
    wait, at_once = Wait(), max(1, int(calls_per_minute))
    budget, times = Budget(1000, calls_per_minute, clock=wait, sleep=wait.sleep), []
    for number in range(5 * at_once):
        assert budget.take()
        times.append(wait.now)
        wait.now += 0.3 * (number % 3)

    assert times[at_once - 1] - times[0] <= 0.6 * at_once, "the first ones wait for nobody"
    window = max(60.0, 60.0 / calls_per_minute)
    assert all(later - first >= window - 1e-6 for first, later in zip(times, times[at_once:], strict=False))
    assert times[-1] - times[0] <= 5 * window, "nobody waits longer than need be"


def test_calls_keep_the_pace_that_the_budget_sets() -> None:
    wait = Wait()
    with Server([ok(DATA)]) as server:
        one = client(server.url, budget=Budget(10, calls_per_minute=2, clock=wait, sleep=wait.sleep))
        for _ in range(5):
            one.get_json("v1/usage")
        assert len(server.requests) == 5
    assert wait.now == pytest.approx(1000.0 + 2 * 60)


def test_threads_that_share_a_budget_keep_one_pace() -> None:
    waits: list[float] = []
    budget = Budget(100, calls_per_minute=5, clock=lambda: 0.0, sleep=waits.append)
    threads = [Thread(target=lambda: [budget.take() for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(waits) == [60.0] * 5 + [120.0] * 5 + [180.0] * 5


def test_a_runaway_is_stopped_by_the_budget() -> None:
    with Server([ok(DATA)]) as server:
        one = client(server.url, limits=Limits(max_calls=3))
        with pytest.raises(ResponseInvalid, match="within 3 requests"):
            for _ in range(10):
                one.get_json("v1/usage")
        assert len(server.requests) == 3


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ResponseInvalid),
        (401, CredentialRejected),
        (402, NotEntitled),
        (403, PermissionMissing),
        (404, ConfigurationInvalid),
        (422, ResponseInvalid),
    ],
)
def test_a_refusal_is_named_and_not_asked_again(status: int, kind: type[UsageError]) -> None:
    with Server([answer(status, b'{"error": "no"}')]) as server, pytest.raises(kind) as caught:
        client(server.url).get_json("organizations/42/usage")
    assert len(server.requests) == 1
    assert caught.value.connection_id == "openai_test"
    assert "/organizations/42/usage" in str(caught.value)


def test_a_provider_explains_its_own_refusals() -> None:
    def explain(refusal: Refusal) -> UsageError | None:
        if refusal.status == 429 and refusal.body["error"]["code"] == "insufficient_quota":
            return NotEntitled("The account has no credit.", action="Buy some.")
        return None

    with Server([answer(429, b'{"error": {"code": "insufficient_quota"}}')]) as server, pytest.raises(NotEntitled):
        client(server.url, explain=explain).get_json("v1/usage")
    assert len(server.requests) == 1


def test_a_provider_that_has_nothing_to_say_leaves_it_to_the_status() -> None:
    assert isinstance(ask(answer(401, b"<html>"), explain=lambda _: None), CredentialRejected)


# ---------------------------------------------------------------- broken answers


@pytest.mark.parametrize(
    "broken",
    [
        raw(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"data": ['),
        raw(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"dat\r\n'),
        raw(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"data": [{"tok'),
        raw(b""),
        reset,
        answer(200, b"\x1f\x8b\x08\x00broken", Content_Encoding="gzip"),
    ],
    ids=["content-length", "chunked", "mid-json", "closed", "reset", "gzip"],
)
def test_an_answer_that_breaks_off_is_asked_for_again(broken: Step) -> None:
    assert ask(broken, broken, ok(DATA)) == ask(ok(DATA))
    failure = ask(broken)
    assert isinstance(failure, SourceUnavailable)
    assert not failure.is_permanent


@pytest.mark.parametrize(
    ("strange", "hint"),
    [
        (answer(200, HTML, Content_Type="text/html"), "Please log in"),
        (answer(200, b""), "beginning ''"),
        (answer(200, b"{}"), "data is missing"),
        (answer(200, b'{"error": {"message": "no"}}'), "data is missing"),
        (answer(200, b'[{"data": 1}]'), "data is missing"),
        (answer(204, b""), "HTTP 204"),
    ],
    ids=["html", "empty", "object without keys", "error with status 200", "list", "no content"],
)
def test_an_answer_that_is_not_the_documented_one_is_never_taken_for_no_usage(strange: Step, hint: str) -> None:
    failure = ask(strange)
    assert isinstance(failure, ResponseInvalid)
    assert hint in str(failure)


def test_a_strange_answer_is_asked_for_once_more() -> None:
    html = answer(200, HTML, Content_Type="text/html")
    assert ask(html, ok(DATA)) == ask(ok(DATA))
    with Server([html]) as server, pytest.raises(ResponseInvalid):
        client(server.url).get_json("v1/usage")
    assert len(server.requests) == 2


def test_an_empty_list_in_a_complete_envelope_is_data() -> None:
    assert ask(ok({"data": []})) == {"data": []}


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": NaN}',
        b'{"data": -Infinity}',
        b'{"data": ' + b"9" * 5000 + b"}",
        b'{"data": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"data": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
    ids=["nan", "infinity", "5000 digits", "nested", "nested to the stack's end"],
)
def test_json_that_nobody_can_use_is_refused_at_once(body: bytes) -> None:
    with Server([answer(200, body)]) as server, pytest.raises(ResponseInvalid):
        client(server.url).get_json("v1/usage")
    assert len(server.requests) == 1


def test_a_byte_that_is_not_utf8_does_not_cost_the_answer() -> None:
    assert ask(answer(200, b'{"data": ["caf\xe9"]}')) == {"data": ["caf\ufffd"]}


def test_nesting_up_to_the_limit_is_accepted() -> None:
    deep = b'{"data": ' + b"[" * 62 + b"1" + b"]" * 62 + b"}"
    assert "data" in ask(answer(200, deep))


# ---------------------------------------------------------------- size and time


def test_a_gzip_bomb_is_cut_off_before_it_fills_the_memory() -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9) as stream:
        for _ in range(1024):
            stream.write(bytes(1024 * 1024))
    bomb = buffer.getvalue()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    failure = ask(answer(200, bomb, Content_Encoding="gzip"), limits=Limits(max_body_bytes=8 * 1024 * 1024))

    assert isinstance(failure, ResponseInvalid)
    assert "larger than 8 MiB" in str(failure)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_body_without_end_is_cut_off() -> None:
    def endless(connection: Any, _: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
        while True:
            connection.sendall(b" " * 65536)

    failure = ask(endless, limits=Limits(max_body_bytes=1024 * 1024))
    assert isinstance(failure, ResponseInvalid)


@pytest.mark.parametrize(
    "step",
    [
        drip(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n", b"{" + b" " * 399, 0.1
        ),
        drip(b"HTTP/1.1 200 OK\r\n", b"X-Padding: " + b"x" * 400, 0.1),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 100, 0.1),
    ],
    ids=["body", "headers", "chunks"],
)
def test_a_server_that_drips_is_given_up_at_the_deadline(step: Step) -> None:
    began = time.monotonic()
    failure = ask(step, limits=Limits(answer_timeout=1.0, read_timeout=0.5, attempts=2))
    assert isinstance(failure, SourceUnavailable)
    assert time.monotonic() - began < 4


def test_a_server_that_says_nothing_is_given_up_at_the_read_timeout() -> None:
    began = time.monotonic()
    failure = ask(lambda *_: time.sleep(5), limits=Limits(read_timeout=0.3, attempts=2))
    assert isinstance(failure, SourceUnavailable)
    assert time.monotonic() - began < 3


# ---------------------------------------------------------------- reachability


def test_a_refused_connection_is_an_outage() -> None:
    with Server([ok(DATA)]) as server:
        url = server.url
    with pytest.raises(SourceUnavailable):
        client(url, limits=Limits(attempts=2)).get_json("v1/usage")


def test_a_host_without_an_address_is_an_outage() -> None:
    with pytest.raises(SourceUnavailable, match=r"nowhere\.invalid"):
        client("https://nowhere.invalid", limits=Limits(attempts=2)).get_json("v1/usage")


def test_a_certificate_that_nobody_vouches_for_is_a_matter_of_configuration(tmp_path: Path) -> None:
    with Server([ok(DATA)], context=self_signed(tmp_path)) as server:
        with pytest.raises(ConfigurationInvalid, match="certificate"):
            client(server.url).get_json("v1/usage")
        assert server.requests == []


def test_neither_netrc_nor_a_proxy_comes_between_a_client_and_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Server([ok(DATA)]) as server:
        one = client(server.url, secret_headers={"Authorization": f"Bearer {SECRET}"})
        one.get_json("v1/usage")
        assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"


def test_a_proxy_of_the_environment_is_used_for_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server([answer(407)]) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(SourceUnavailable, match="proxy"):
            client("https://api.example.com", limits=Limits(attempts=1)).get_json("v1/usage")
        assert proxy.requests[0].target == "api.example.com:443"
        assert SECRET not in str(proxy.requests)


def test_cookies_are_not_kept() -> None:
    with Server([answer(200, b'{"data": []}', Set_Cookie="session=1; Path=/")]) as server:
        one = client(server.url)
        one.get_json("v1/usage")
        one.get_json("v1/usage")
        assert all("cookie" not in request.headers for request in server.requests)


# ---------------------------------------------------------------- redirects and links


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(status: int) -> None:
    with Server([ok(DATA)]) as other, Server([answer(status, Location=f"{other.url}/v1/usage")]) as server:
        with pytest.raises(ResponseInvalid, match="another host"):
            client(server.url).get_json("v1/usage")
        assert other.requests == []


def test_a_redirect_within_the_host_is_followed() -> None:
    with Server([answer(302, Location="/v2/usage?limit=31"), ok(DATA)]) as server:
        client(server.url).get_json("v1/usage", {"limit": 31})
        assert [request.target for request in server.requests] == ["/v1/usage?limit=31", "/v2/usage?limit=31"]
        assert server.requests[1].headers["x-api-key"] == SECRET


def test_redirects_in_a_circle_end() -> None:
    with Server([answer(302, Location="/v1/usage")]) as server, pytest.raises(ResponseInvalid, match="redirects"):
        client(server.url).get_json("v1/usage")
    assert len(server.requests) == 4


def test_a_payload_is_not_turned_into_a_get_by_a_redirect() -> None:
    with Server([answer(302, Location="/elsewhere")]) as server, pytest.raises(ResponseInvalid, match="redirects"):
        client(server.url).post_json("query", {})
    assert len(server.requests) == 1


def test_a_next_link_within_the_host_is_followed() -> None:
    with Server([ok(DATA)]) as server:
        one = client(f"{server.url}/api")
        one.follow_json(f"{server.url}/api/v1/usage?page=2")
        one.follow_json("?page=3", seen_at="v1/usage")
        assert [request.target for request in server.requests] == ["/api/v1/usage?page=2", "/api/v1/usage?page=3"]


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/v1/usage",
        "//evil.example/v1/usage",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "http://user:password@127.0.0.1/",
        "http://127.0.0.1:1/v1/usage",
        "http://[::1",
        "\\\\evil.example\\share",
    ],
)
def test_a_next_link_elsewhere_sends_nothing(link: str) -> None:
    with Server([ok(DATA)]) as server:
        with pytest.raises(ResponseInvalid, match="another host"):
            client(server.url).follow_json(link)
        assert server.requests == []


@pytest.mark.parametrize("path", ["../admin", "v1/%2e%2e/admin", "//evil.example", "v1?x=1", "v1#x", "a b", "http:x"])
def test_a_path_that_is_none_is_a_mistake_of_ours(path: str) -> None:
    with Server([ok(DATA)]) as server:
        with pytest.raises(ValueError, match="not a path"):
            client(server.url).get_json(path)
        assert server.requests == []


# ---------------------------------------------------------------- secrets


FORMS: list[Callable[[str], str]] = [str, quote, quote_plus, lambda text: quote(text, safe=""), str.strip]


@pytest.mark.parametrize(
    "step",
    [
        answer(401, f'{{"error": "Incorrect API key provided: {SECRET}"}}'.encode()),
        answer(400, f'{{"error": "{quote(SECRET)}"}}'.encode()),
        answer(200, f"<html>{SECRET} and {quote_plus(SECRET)}</html>".encode(), Content_Type="text/html"),
        answer(500, SECRET.encode()),
        answer(302, Location=f"http://evil.example/?key={quote(SECRET)}"),
        reset,
        raw(SECRET.encode()),
    ],
    ids=["401", "400", "html", "500", "redirect", "reset", "no http"],
)
def test_no_error_or_log_ever_shows_the_key(step: Step, caplog: pytest.LogCaptureFixture) -> None:
    def explain(refusal: Refusal) -> UsageError | None:
        return (
            CredentialRejected(f"It said {refusal.body}.", action=f"Not {SECRET}.") if refusal.status == 401 else None
        )

    caplog.set_level(logging.INFO)
    with Server([step]) as server, pytest.raises(UsageError) as caught:
        client(
            server.url, secret_headers={"Authorization": f"Bearer {SECRET}"}, explain=explain, limits=Limits(attempts=2)
        ).get_json("v1/usage", {"limit": 1})
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value)
    assert caught.value.__cause__ is None
    for form in FORMS:
        assert form(SECRET) not in shown


def test_an_excerpt_leaves_out_whatever_looks_like_a_key() -> None:
    page = b"<p>Your key sk-other-0123456789abcdefghij is\r\n\x1b[31m wrong</p>"
    failure = ask(answer(200, page, Content_Type="text/html"))
    assert "0123456789abcdefghij" not in str(failure)
    assert "\x1b" not in str(failure)
    assert "is [31m wrong" in str(failure)


@pytest.mark.parametrize("key", ["", "  ", "two\nlines", "tab\tinside", "ünicode"])
def test_a_key_that_cannot_be_one_is_refused_before_anything_is_sent(key: str) -> None:
    with Server([ok(DATA)]) as server:
        with pytest.raises(ConfigurationInvalid) as caught:
            client(server.url, secret_headers={"x-api-key": key})
        assert server.requests == []
    assert not key.strip() or key.strip() not in str(caught.value)
