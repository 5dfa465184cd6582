"""Messages reach a real webhook and a real mail server, whatever stands in them, and say nothing that is secret."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.orchestration import mail, webhook
from ai_usage.orchestration.messages import LONGEST_LINE, MOST_LINES, Message, clean
from ai_usage.orchestration.notifiers import MailNotifier, NotDelivered, WebhookNotifier, channels
from ai_usage.orchestration.webhook import Receiver, receiver_of
from tests.core.http_server import Request, Server, answer, reset, self_signed
from tests.support.mail_server import MailServer

SECRET = "T0CANARY/B0CANARY/s3cr3tCanaryOfTheWebhook"
PASSWORD = "c4nary-of-the-mail-server"
HOSTILE = (
    "<img src=x onerror=alert(1)> <!channel> <@U123> *bold* _it_ [click](https://evil.example) https://evil.example/x"
    " www.evil.example {{ conn.ai_usage_warehouse.password }} \x1b[31mred\x1b[0m\r\nBcc: evil@example.com\u202egnp.exe"
)
MESSAGE = Message.of(
    f"Problem of {HOSTILE}", "bad", [("Where", HOSTILE), ("Empty", "")], [("Places", [HOSTILE, "eu-west-1"])]
)


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW_CONN_AI_USAGE_WEBHOOK", "AIRFLOW_CONN_AI_USAGE_SMTP"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server([answer(200, b"ok")]) as running:
        yield running


def webhook_at(monkeypatch: pytest.MonkeyPatch, url: str, **extra: Any) -> None:
    connection = {"conn_type": "http", "password": url, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE_WEBHOOK", json.dumps(connection))


def mail_at(monkeypatch: pytest.MonkeyPatch, port: int, login: tuple[str, str] | None = None, **extra: Any) -> None:
    connection = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": port,
        "login": login[0] if login else None,
        "password": login[1] if login else None,
        "extra": {"from": "ai-usage@example.com", "to": "oncall@example.com, finops@example.com"} | extra,
    }
    monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE_SMTP", json.dumps(connection))


def post(message: Message = MESSAGE) -> list[float]:
    """Send and return the pauses between the attempts."""
    pauses: list[float] = []
    WebhookNotifier(message, sleep=pauses.append)({})
    return pauses


def strings(document: Any) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list):
        for one in document.values() if isinstance(document, dict) else document:
            yield from strings(one)


# ---------------------------------------------------------------- what can be shown anywhere


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r\n\tand a tab", "two lines and a tab"),
        ("\x1b[31mred\x1b[0m and \x1b]0;title\x07done", "red and done"),
        ("a\x00b\x07c\x9bd", "a b c d"),
        ("invoice\u202egnp.exe \u2066hidden\u2069 zero\u200bwidth", "invoicegnp.exe hidden zerowidth"),
        (
            "see https://evil.example/x?y=z and HTTP://e.example",
            "see https[:]//evil.example/x?y=z and HTTP[:]//e.example",
        ),
        ("WWW.evil.example mailto:me@x javascript:alert(1)", "www[.]evil.example mailto[:]me@x javascript[:]alert(1)"),
        ("line\u2028and paragraph\u2029separators", "line and paragraph separators"),
        ("a lone \ud800 surrogate", "a lone surrogate"),
        ("Zürich 東京 naïve 😀", "Zürich 東京 naïve 😀"),
    ],
)
def test_a_text_from_anywhere_becomes_one_harmless_line(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_texts_and_lists_are_bounded() -> None:
    message = Message.of(
        "x" * 10_000, "bad", [("n", "y" * 10_000_000)], [("many", [f"place {n}" for n in range(1000)])]
    )

    assert len(message.title) <= 140
    assert len(message.facts[0][1]) == LONGEST_LINE
    assert message.sections[0].lines[-1] == f"and {1000 - MOST_LINES} more"
    assert all(len(block["text"]["text"]) < 3000 for block in message.as_slack()["blocks"])
    assert len(json.dumps(message.as_teams())) < 28_000


def test_no_form_makes_markup_or_links_of_what_comes_from_elsewhere() -> None:
    html = MESSAGE.as_html()
    assert "<img" not in html
    assert "&lt;img" in html
    assert "href" not in html
    slack, teams = MESSAGE.as_slack(), MESSAGE.as_teams()
    assert {block["text"]["type"] for block in slack["blocks"]} == {"plain_text"}
    assert "<" not in slack["text"]
    runs = [run for block in teams["attachments"][0]["content"]["body"] for run in block["inlines"]]
    # Teams looks for Markdown in text blocks, not in text runs.
    assert {run["type"] for run in runs} == {"TextRun"}
    for form in (html, *strings(slack), *strings(MESSAGE.as_json()), *(run["text"] for run in runs)):
        assert "://evil" not in form
        assert "www.evil" not in form
        assert "\x1b" not in form
        assert "\r" not in form


# ---------------------------------------------------------------- webhook


@pytest.mark.parametrize("form", ["slack", "teams", "json"])
def test_a_webhook_gets_the_message_in_its_format(monkeypatch: pytest.MonkeyPatch, server: Server, form: str) -> None:
    webhook_at(monkeypatch, f"{server.url}/services/{SECRET}?sig=a%2Fb", format=form)

    post()

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", f"/services/{SECRET}?sig=a%2Fb")
    assert request.headers["content-type"].startswith("application/json")
    expected = {"slack": MESSAGE.as_slack, "teams": MESSAGE.as_teams, "json": MESSAGE.as_json}[form]()
    assert json.loads(request.body) == expected


def connection(**fields: Any) -> Any:
    from airflow.sdk import Connection

    fields["extra"] = json.dumps(fields.get("extra", {}))
    return Connection(conn_id="ai_usage_webhook", **({"conn_type": "http"} | fields))


@pytest.mark.parametrize(
    ("fields", "receiver"),
    [
        (
            {"password": "https://hooks.slack.com/services/T/B/x"},
            Receiver("https://hooks.slack.com/services/T/B/x", "slack"),
        ),
        (
            {"password": "https://x.westeurope.logic.azure.com:443/workflows/1?api-version=1&sig=s"},
            Receiver("https://x.westeurope.logic.azure.com:443/workflows/1?api-version=1&sig=s", "teams"),
        ),
        (
            {"host": "https://chat.example.com/hook", "password": "token"},
            Receiver("https://chat.example.com/hook", "json", "token"),
        ),
        (
            {"host": "chat.example.com/hook", "schema": "https", "port": 8443, "extra": {"format": "slack"}},
            Receiver("https://chat.example.com:8443/hook", "slack"),
        ),
        ({"host": "http://127.0.0.1:9/x"}, Receiver("http://127.0.0.1:9/x", "json")),
    ],
)
def test_a_connection_says_where_messages_go_and_in_which_form(fields: dict[str, Any], receiver: Receiver) -> None:
    assert receiver_of(connection(**fields)) == receiver


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"conn_type": "aws", "password": f"https://hooks.slack.com/{SECRET}"},
        {"password": f"http://hooks.slack.com/{SECRET}"},
        {"password": f"https://user:{SECRET}@hooks.slack.com/"},
        {"password": f"https://169.254.169.254/{SECRET}"},
        {"password": f"https://2130706433/{SECRET}"},
        {"password": f"https://chat.example.com/../{SECRET}"},
        {"password": f"https://chat.example.com/?x={SECRET} y"},
        {"password": f"https://chat.example.com/{SECRET}#x"},
        {"host": f"ftp://chat.example.com/{SECRET}"},
        {"host": "chat.example.com", "schema": "http"},
        {"password": f"https://chat.example.com/{SECRET}", "extra": {"format": "carrier pigeon"}},
    ],
)
def test_an_address_that_is_not_one_is_refused_and_not_repeated(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        receiver_of(connection(**fields))

    assert SECRET not in str(caught.value)
    assert "ai_usage_webhook" in str(caught.value)
    assert "docs/notifications.md" in caught.value.action or "https" in caught.value.action


def test_a_receiver_does_not_show_its_address() -> None:
    assert SECRET not in repr(Receiver(f"https://hooks.slack.com/{SECRET}", "slack", PASSWORD))


def test_a_receiver_that_is_down_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    server.steps = [answer(503), answer(429, Retry_After="2"), answer(200)]
    webhook_at(monkeypatch, f"{server.url}/x")

    assert post() == [1.0, 2.0]
    assert len(server.requests) == 3


@pytest.mark.parametrize(("steps", "requests"), [([answer(500)], 3), ([answer(404)], 1), ([reset], 3)])
def test_a_receiver_that_does_not_take_it_is_an_error_without_the_address(
    monkeypatch: pytest.MonkeyPatch, server: Server, caplog: pytest.LogCaptureFixture, steps: list[Any], requests: int
) -> None:
    caplog.set_level(logging.DEBUG)
    server.steps = steps
    webhook_at(monkeypatch, f"{server.url}/services/{SECRET}")

    with pytest.raises(NotDelivered) as caught:
        post()

    assert len(server.requests) == requests
    assert SECRET not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    with Server([answer(200)]) as elsewhere:
        server.steps = [answer(307, Location=f"{elsewhere.url}/stolen")]
        webhook_at(monkeypatch, f"{server.url}/services/{SECRET}")

        with pytest.raises(NotDelivered, match="307"):
            post()

        assert elsewhere.requests == []


def test_a_receiver_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    over = threading.Event()

    def say_nothing(_connection: socket.socket, _request: Request) -> None:
        over.wait(20)

    server.steps = [say_nothing]
    monkeypatch.setattr(webhook, "_ANSWER_TIMEOUT", 0.2)
    webhook_at(monkeypatch, f"{server.url}/x")
    began = time.monotonic()

    with pytest.raises(NotDelivered, match="in time"):
        post()

    over.set()
    assert time.monotonic() - began < 5


def test_tls_is_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Server([answer(200)], context=self_signed(tmp_path)) as server:
        webhook_at(monkeypatch, f"{server.url}/services/{SECRET}")

        with pytest.raises(NotDelivered, match="could not be reached"):
            post()

        assert server.requests == []
        # The same server, once its certificate is known: it was the certificate that kept the message back.
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
        post()
        assert len(server.requests) == 1


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    webhook_at(monkeypatch, f"{server.url}/x")

    post()

    assert len(server.requests) == 1


# ---------------------------------------------------------------- mail

PLAIN: dict[str, Any] = {"disable_ssl": True, "disable_tls": True}


def test_a_mail_has_both_forms_and_nothing_in_it_is_run_or_read_as_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    with MailServer(login=("user", PASSWORD)) as server:
        mail_at(monkeypatch, server.port, ("user", PASSWORD), **PLAIN)

        MailNotifier(MESSAGE)({})

        ((sender, receivers, received),) = server.mails
    assert sender == "ai-usage@example.com"
    assert receivers == ["oncall@example.com", "finops@example.com"]
    assert received["Subject"] == MESSAGE.title
    assert received["Bcc"] is None
    assert received["Auto-Submitted"] == "auto-generated"
    text, html = received.get_body(("plain",)), received.get_body(("html",))
    assert text is not None
    assert html is not None
    assert "{{ conn.ai_usage_warehouse.password }}" in text.get_content()
    assert text.get_content().replace("\r", "") == MESSAGE.as_text()
    assert html.get_content().replace("\r", "").strip() == MESSAGE.as_html()


def test_the_mail_servers_refusal_is_told_without_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with MailServer(login=("user", "another")) as server:
        mail_at(monkeypatch, server.port, ("user", PASSWORD), **PLAIN)

        with pytest.raises(NotDelivered) as caught:
            MailNotifier(MESSAGE).notify({})

        assert server.mails == []
    assert "535" in str(caught.value)
    assert PASSWORD not in str(caught.value) + caplog.text


def test_a_mail_server_that_is_busy_or_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with MailServer(is_busy=True) as server:
        mail_at(monkeypatch, server.port, **PLAIN)
        with pytest.raises(NotDelivered, match="451"):
            MailNotifier(MESSAGE).notify({})
    with pytest.raises(NotDelivered, match="ConnectionRefused"):
        MailNotifier(MESSAGE).notify({})


def test_one_wrong_receiver_does_not_keep_the_mail_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with MailServer(refuses=frozenset({"finops@example.com"})) as server:
        mail_at(monkeypatch, server.port, **PLAIN)

        MailNotifier(MESSAGE).notify({})

        assert [receivers for _, receivers, _ in server.mails] == [["oncall@example.com"]]


def test_without_settings_mail_goes_by_starttls_and_the_certificate_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with MailServer(context=self_signed(tmp_path)) as server:
        mail_at(monkeypatch, server.port)
        with pytest.raises(NotDelivered, match="SSLCertVerificationError"):
            MailNotifier(MESSAGE).notify({})

        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        MailNotifier(MESSAGE).notify({})

        assert len(server.mails) == 1


def smtp(**fields: Any) -> Any:
    extra = {"from": "ai-usage@example.com", "to": ["oncall@example.com"]} | fields.pop("extra", {})
    return connection(**({"conn_type": "smtp", "host": "mail.example.com", "extra": extra} | fields))


def test_a_mail_connection_says_who_writes_to_whom() -> None:
    assert mail.addresses_of(smtp()) == ("ai-usage@example.com", ["oncall@example.com"])
    assert mail.addresses_of(smtp(extra={"to": "a@example.com; b@example.com"}))[1] == [
        "a@example.com",
        "b@example.com",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"conn_type": "http"},
        {"host": None},
        {"extra": {"to": ""}},
        {"extra": {"to": "nobody"}},
        {"extra": {"to": "a@example.com\r\nBcc: b@example.com"}},
        {"extra": {"from": None}},
        {"extra": {"from": "a@example.com, b@example.com"}},
        {"extra": {"disable_ssl": True, "disable_tls": True}},
        {"extra": {"ssl_context": "none"}},
    ],
)
def test_a_mail_connection_that_cannot_work_or_would_show_its_login_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationInvalid, match="ai_usage_webhook"):
        mail.addresses_of(smtp(**fields))


# ---------------------------------------------------------------- which there are


def test_without_connections_there_is_no_way_to_tell_anybody() -> None:
    assert channels() == []


def test_a_connection_that_is_wrong_is_no_error_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook_at(monkeypatch, f"http://chat.example.com/{SECRET}")
    monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE_SMTP", "{broken")

    found = channels()

    assert [channel.name for channel in found] == ["ai_usage_webhook", "ai_usage_smtp"]
    assert all(channel.wrong for channel in found)
    assert SECRET not in " ".join(str(channel.wrong) for channel in found)
