"""
Hostile names on their whole way: loaded, built by dbt, shown by the commands and told to people. They are stored exactly,
and wherever they are shown they are nothing but text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.core.contract import Journal, Record, Scope
from ai_usage.core.errors import SourceUnavailable
from ai_usage.core.slices import Window
from ai_usage.core.texts import plain
from ai_usage.orchestration.notifications import tell_news
from ai_usage.orchestration.transform import transform
from ai_usage.warehouse import ledger, loader
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from tests.commands.conftest import say
from tests.core.http_server import Server, answer
from tests.security.test_injection import NAMES
from tests.support.airflow import REPOSITORY
from tests.support.mail_server import MailServer
from tests.support.warehouse import LOGIN_PASSWORD, Cluster, TestWarehouse

pytestmark = pytest.mark.timeout(600)

DAY = datetime.now(UTC).date() - timedelta(days=3)
HOSTILE = (
    *NAMES,
    "quoted \"twice\" and 'once', with a comma",
    "<img src=x onerror=alert(1)>",
    "-2+3+cmd|' /C calc'!A0",
    "\t=1+1",
    "＝1+1",
    "{% set x = 1 %}{{ 7 * 7 }}",
    "{{ var('x') }}{{ ref('usage_daily') }}",
    "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07",
    "<!channel> <@U123> *bold* [click](https://evil.example)",
)
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝")


@dataclass(frozen=True)
class Told:
    """A warehouse full of hostile names, and what people were told of it."""

    warehouse: TestWarehouse
    webhook: list[str]
    mails: list[EmailMessage]


@pytest.fixture(scope="module")
def told(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Load every name as a model of a project of the same name, fail a scope of that name, build once, tell once."""
    with pytest.MonkeyPatch.context() as patch, cluster.warehouse() as warehouse:
        for name, value in warehouse.environment().items():
            patch.setenv(name, value)
        place = Place("groq", "groq_default", "usage", "-")
        provider, window = providers.load("groq"), Window(DAY, DAY)
        (stream,) = provider.streams
        with warehouse.warehouse.session(LOADER) as session:
            ledger.register_scopes(session, provider, place.connection_id, [Scope("-", HOSTILE[0], HOSTILE[7])])
            attempt = ledger.begin_attempt(session, place, window, "hostile")
        loader.load(warehouse.warehouse, attempt, stream, [Record(DAY, usage_of(name)) for name in HOSTILE], Journal())
        with Server([answer(200)]) as webhook, MailServer() as mail:
            for name, fields in of_people(webhook, mail).items():
                patch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(fields))
            for number, name in enumerate(HOSTILE):
                # Each of a connection of its own, and told at once, so that each is a message of its own.
                fail(warehouse, Place("groq", f"groq_{number}", "usage", name), name)
                tell_news(warehouse.warehouse)
        target = tmp_path_factory.mktemp("dbt_target")
        transform(warehouse.warehouse, "hostile", project=REPOSITORY / "dbt_project", target=target)
        yield Told(
            warehouse, [request.body.decode() for request in webhook.requests], [one for _, _, one in mail.mails]
        )


def of_people(webhook: Server, mail: MailServer) -> dict[str, dict[str, Any]]:
    """Return the connections with which people are told."""
    extra = {"from": "a@example.com", "to": "b@example.com", "disable_tls": True, "disable_ssl": True}
    return {
        "ai_usage_webhook": {"conn_type": "http", "password": f"{webhook.url}/hook"},
        "ai_usage_smtp": {"conn_type": "smtp", "host": "127.0.0.1", "port": mail.port, "extra": extra},
    }


def fail(warehouse: TestWarehouse, place: Place, name: str) -> None:
    """Let the reading of a place fail in words that hold a name."""
    with warehouse.warehouse.session(LOADER) as session:
        scope = Scope(place.scope or "-", name, name)
        ledger.register_scopes(session, providers.load(place.provider), place.connection_id, [scope])
        attempt = ledger.begin_attempt(session, place, Window(DAY, DAY), name)
        ledger.fail_attempt(session, attempt, SourceUnavailable(f"{name} is down.", action=f"Ask {name}."), Journal())


def usage_of(name: str) -> dict[str, Any]:
    """Return a day of Groq's usage by a model and a project of that name."""
    tokens = {"points": 288, "rate_sum": 0.5}
    requests = [{"status_code": "200", "points": 288, "rate_sum": 0.1}]
    usage = {"requests": requests, "tokens_in": tokens, "tokens_out": tokens, "gaps": 0}
    return {"project_id": name, "model": name} | usage


def is_harmless(text: str) -> bool:
    """Return whether a text has nothing that steers a terminal or turns the direction of reading."""
    return all(line.isprintable() for line in text.replace("\r\n", "\n").split("\n"))


def test_dbt_builds_them_exactly_and_runs_nothing_of_them(told: Told) -> None:
    rows = told.warehouse.query(
        "select raw_model_id, project_id, input_tokens from marts.usage_daily_detail where requests > 0"
    )

    assert sorted(rows) == sorted((name, name, 150) for name in HOSTILE)
    assert told.warehouse.query(
        "select distinct account_id, account_name from marts.usage_daily where requests > 0"
    ) == [(HOSTILE[0], HOSTILE[7])]
    assert told.warehouse.query("select sum(requests) from marts.usage_daily") == [(30 * len(HOSTILE),)]


def test_explain_shows_them_as_text_and_gives_them_exactly_as_json(told: Told) -> None:
    asked = ("explain", "--date", str(DAY), "--provider", "groq", "--limit", "100")

    shown, exact = say(*asked), say(*asked, "--json")
    models = {part["part"]["raw_model_id"] for row in exact.json["rows"] for part in row["parts"]}

    assert shown.code == exact.code == 0
    assert is_harmless(shown.out + shown.err)
    assert models == set(HOSTILE)
    for name in HOSTILE:
        found = say(*asked, "--model", name, "--json").json["rows"]
        assert {part["part"]["raw_model_id"] for row in found for part in row["parts"]} >= {name}


def test_export_writes_them_exactly_and_nothing_that_a_spreadsheet_runs(told: Told) -> None:
    asked = ("export", "--table", "usage_daily_detail")

    as_csv = list(csv.DictReader(io.StringIO(say(*asked).out, newline="")))
    as_json = json.loads(say(*asked, "--format", "json").out)

    for column in ("raw_model_id", "project_id"):
        written = {row[column] for row in as_csv if row["requests"]}
        assert written == {f"'{name}" if name.startswith(FORMULAS) else name for name in HOSTILE}
        assert {row[column] for row in as_json if row["requests"]} == set(HOSTILE)
    texts = {value for row in as_csv for value in row.values()}
    assert not [
        text for text in texts if text.startswith(FORMULAS) and not text.lstrip("+-").replace(".", "").isdigit()
    ]


def test_the_status_and_the_events_are_lines_of_text(told: Told) -> None:
    rows = told.warehouse.query("select problem, action from marts.integration_status where problem is not null")
    events = told.warehouse.query("select message from marts.integration_events where kind = 'source_unavailable'")
    shown, exact = say("status"), say("status", "--json")

    assert {problem for problem, _ in rows} >= {f"{plain(name)} is down." for name in HOSTILE}
    assert {message for (message,) in events} >= {f"{plain(name)} is down." for name in HOSTILE}
    assert [text for row in rows for text in row if text and not text.isprintable()] == []
    assert is_harmless(shown.out + shown.err)
    assert {row["problem"] for row in exact.json if row["problem"]} == {problem for problem, _ in rows}
    assert LOGIN_PASSWORD not in shown.out + exact.out


def test_people_are_told_them_as_text(told: Told) -> None:
    facts = [text for body in told.webhook for text in texts(json.loads(body))]
    pages = [
        part.get_content() for mail in told.mails for part in mail.iter_parts() if part.get_content_subtype() == "html"
    ]

    assert len(told.webhook) == len(told.mails) == len(HOSTILE)
    assert all(is_harmless(text) and "://" not in text for text in facts)
    for page in pages:
        assert "<img" not in page
        assert "<script" not in page
        assert is_harmless(page)
    assert all(str(mail["subject"]).isprintable() and mail["bcc"] is None for mail in told.mails)
    # Nothing of a name is a template: it is there, brackets and all, and nothing that it asks for.
    everything = "\n".join([*facts, *pages])
    assert "{{ conn.openai_default.password }}" in everything
    assert LOGIN_PASSWORD not in everything
    assert "&lt;img src=x onerror=alert(1)&gt;" in "".join(pages)


def texts(value: Any) -> Iterator[str]:
    """Yield every text inside of a JSON document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value
