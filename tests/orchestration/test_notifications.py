"""People are told of a problem once when it opens and once when it is over, whatever fails in between."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from ai_usage.orchestration.notifications import tell_daily, tell_news
from ai_usage.warehouse import events
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from tests.core.http_server import Server, answer
from tests.support.mail_server import MailServer
from tests.support.warehouse import TestWarehouse

SECRET = "services/T0CANARY/B0CANARY/s3cr3t"
PROVIDER, CONNECTION = "aws_bedrock", "aws_bedrock_default"
WHOLE = Place(PROVIDER, CONNECTION, None, None)


class Receiver(Server):
    """A webhook that keeps what it was told."""

    def told(self) -> list[dict[str, Any]]:
        """Return the messages since the last time."""
        told = [json.loads(request.body) for request in self.requests]
        self.requests.clear()
        return told

    def titles(self) -> list[str]:
        return [message["title"] for message in self.told()]


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW_CONN_AI_USAGE_WEBHOOK", "AIRFLOW_CONN_AI_USAGE_SMTP"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    running = Receiver([answer(200)])
    with running:
        connection = {"conn_type": "http", "password": f"{running.url}/{SECRET}"}
        monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE_WEBHOOK", json.dumps(connection))
        yield running


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with MailServer() as running:
        extra = {"from": "a@example.com", "to": "b@example.com", "disable_ssl": True, "disable_tls": True}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": running.port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE_SMTP", json.dumps(connection))
        yield running


def place(scope: str, stream: str = "metrics") -> Place:
    return Place(PROVIDER, CONNECTION, stream, scope)


def fails(
    warehouse: TestWarehouse,
    *places: Place,
    kind: str = "source_unavailable",
    message: str = "The provider does not answer.",
    run_id: str = "run",
) -> None:
    with warehouse.warehouse.session(LOADER) as session:
        for one in places or (WHOLE,):
            events.open_problem(session, one, "reading", kind, "error", message, "Wait.", run_id)


def recovers(warehouse: TestWarehouse, *places: Place) -> None:
    with warehouse.warehouse.session(LOADER) as session:
        for one in places or (WHOLE,):
            assert events.close_problem(session, one, "reading", "run")


def later(warehouse: TestWarehouse, **time: float) -> None:
    """Let time pass: everything on record happened earlier."""
    for table, columns in {
        "ops.problem": ("opened_at", "last_seen_at", "resolved_at"),
        "ops.telling": ("opening_told_at", "recovery_told_at"),
    }.items():
        moved = ", ".join(f"{column} = {column} - %s" for column in columns)
        warehouse.query(f"update {table} set {moved}", *[timedelta(**time)] * len(columns))


def tell(warehouse: TestWarehouse) -> int:
    return tell_news(warehouse.warehouse)


# ---------------------------------------------------------------- once


def test_without_a_connection_nothing_is_sent_and_nothing_is_written(warehouse: TestWarehouse) -> None:
    fails(warehouse)

    assert tell(warehouse) == 0

    assert warehouse.query("select count(*) from ops.telling") == [(0,)]
    assert warehouse.query("select told_opening_at from ops.problem") == [(None,)]
    assert warehouse.query("select count(*) from ops.problem") == [(1,)]


def test_a_problem_is_told_when_it_opens_and_when_it_is_over_and_not_in_between(
    warehouse: TestWarehouse, receiver: Receiver
) -> None:
    fails(warehouse)
    assert tell(warehouse) == 1
    (message,) = receiver.told()
    assert message["title"] == "AI usage: aws_bedrock_default: The provider does not answer."
    assert message["tone"] == "bad"
    facts = {fact["name"]: fact["value"] for fact in message["facts"]}
    assert facts["Connection"] == "aws_bedrock_default (AWS Bedrock)"
    assert facts["Problem"] == "source_unavailable: The provider does not answer."
    assert facts["What to do"] == "Wait."
    assert facts["When"].endswith("UTC")

    fails(warehouse, run_id="next run")
    assert tell(warehouse) == 0

    later(warehouse, hours=6)
    recovers(warehouse)
    assert tell(warehouse) == 1
    (message,) = receiver.told()
    assert message["title"] == "AI usage: aws_bedrock_default: recovered: The provider does not answer."
    assert message["tone"] == "good"
    assert tell(warehouse) == 0
    assert warehouse.query("select told_opening_at is not null, told_recovery_at is not null from ops.problem") == [
        (True, True)
    ]


def test_one_kind_of_problem_in_many_places_is_one_message(warehouse: TestWarehouse, receiver: Receiver) -> None:
    fails(warehouse, *(place(f"region-{n:02}") for n in range(30)))
    fails(warehouse, place("eu-west-1"), kind="permission_missing", message="It may not read.")

    assert tell(warehouse) == 2

    other, many = receiver.told()
    assert other["sections"] == [{"heading": "Where", "lines": ["eu-west-1 · metrics"]}]
    (where,) = many["sections"]
    assert where["lines"][0] == "region-00 · metrics"
    assert where["lines"][-1] == "and 10 more"


def test_when_everything_fails_at_once_there_is_one_message_that_lists_it(
    warehouse: TestWarehouse, receiver: Receiver
) -> None:
    fails(warehouse, *(Place(PROVIDER, f"connection_{n}", None, None) for n in range(12)))

    assert tell(warehouse) == 1

    (message,) = receiver.told()
    assert message["title"] == "AI usage: news of 12 problems"
    assert "connection_0: The provider does not answer." in message["sections"][0]["lines"]
    assert tell(warehouse) == 0


def test_what_came_and_went_before_it_could_be_told_is_told_once(warehouse: TestWarehouse, receiver: Receiver) -> None:
    fails(warehouse)
    later(warehouse, minutes=20)
    recovers(warehouse)

    assert tell(warehouse) == 1
    assert receiver.titles() == ["AI usage: aws_bedrock_default: came and went: The provider does not answer."]
    assert tell(warehouse) == 0


def test_what_was_over_long_ago_is_no_news(warehouse: TestWarehouse, receiver: Receiver) -> None:
    fails(warehouse)
    recovers(warehouse)
    later(warehouse, hours=30)

    assert tell(warehouse) == 0


def test_a_problem_that_flaps_is_told_at_most_once_an_hour(warehouse: TestWarehouse, receiver: Receiver) -> None:
    fails(warehouse)
    tell(warehouse)
    for _ in range(3):
        later(warehouse, minutes=5)
        recovers(warehouse)
        later(warehouse, minutes=5)
        fails(warehouse)
        assert tell(warehouse) == 0
    assert len(receiver.told()) == 1

    later(warehouse, minutes=31)

    assert tell(warehouse) == 1
    (message,) = receiver.told()
    assert message["title"] == "AI usage: aws_bedrock_default: The provider does not answer."
    assert {"name": "Before", "value": "it came and went 2 times"} in message["facts"]
    assert tell(warehouse) == 0


def test_an_end_is_told_when_all_of_it_has_ended_or_after_an_hour(warehouse: TestWarehouse, receiver: Receiver) -> None:
    fails(warehouse, place("eu-west-1"), place("us-east-1"), place("us-west-2"))
    tell(warehouse)
    receiver.told()

    recovers(warehouse, place("eu-west-1"))
    assert tell(warehouse) == 0
    later(warehouse, minutes=61)
    assert tell(warehouse) == 1
    (message,) = receiver.told()
    assert message["sections"] == [{"heading": "Where", "lines": ["eu-west-1 · metrics"]}]
    assert any(fact["name"] == "Still open" for fact in message["facts"])

    recovers(warehouse, place("us-east-1"), place("us-west-2"))
    assert tell(warehouse) == 1
    (message,) = receiver.told()
    assert message["sections"] == [{"heading": "Where", "lines": ["us-east-1 · metrics", "us-west-2 · metrics"]}]
    assert not any(fact["name"] == "Still open" for fact in message["facts"])


def test_a_problem_that_turns_into_another_is_told_as_the_other_and_not_as_recovered(
    warehouse: TestWarehouse, receiver: Receiver
) -> None:
    fails(warehouse)
    tell(warehouse)
    fails(warehouse, kind="credential_rejected", message="The key is refused.")

    assert tell(warehouse) == 1

    assert receiver.titles() == [
        "AI usage: aws_bedrock_default: The provider does not answer.",
        "AI usage: aws_bedrock_default: The key is refused.",
    ]


def test_the_end_of_a_connection_is_told_as_that(warehouse: TestWarehouse, receiver: Receiver) -> None:
    fails(warehouse)
    tell(warehouse)
    receiver.told()
    with warehouse.warehouse.session(LOADER) as session:
        events.close_problem(session, WHOLE, "reading", None, "disconnected")

    assert tell(warehouse) == 1
    assert receiver.titles() == [
        "AI usage: aws_bedrock_default: closed, the connection was taken out: The provider does not answer."
    ]


# ---------------------------------------------------------------- whatever happens


def _tell_in_another_process(warehouse: TestWarehouse) -> None:
    tell_news(warehouse.warehouse)


def test_two_tasks_that_tell_at_once_tell_once(warehouse: TestWarehouse, receiver: Receiver) -> None:
    fails(warehouse, *(place(f"region-{n}") for n in range(3)))
    processes = multiprocessing.get_context("fork")
    tasks = [processes.Process(target=_tell_in_another_process, args=(warehouse,)) for _ in range(4)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()

    assert [task.exitcode for task in tasks] == [0] * 4
    assert len(receiver.told()) == 1


def test_a_receiver_that_fails_is_a_problem_of_its_own_and_gets_the_news_the_next_time(
    warehouse: TestWarehouse, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.steps = [answer(404)]
    fails(warehouse)

    assert tell(warehouse) == 0

    assert "The receiver answered 404." in caplog.text
    problem = "select kind, connection_id, resolved_at is null from ops.problem where topic = 'notification'"
    assert warehouse.query(problem) == [("notification_failed", "ai_usage_webhook", True)]

    receiver.told()
    receiver.steps = [answer(200)]
    assert tell(warehouse) == 1
    # Its own failure is no news to it.
    assert receiver.titles() == ["AI usage: aws_bedrock_default: The provider does not answer."]
    assert warehouse.query(problem) == [("notification_failed", "ai_usage_webhook", False)]
    assert tell(warehouse) == 0


def test_each_channel_is_told_everything_whatever_happens_to_the_other(
    warehouse: TestWarehouse, receiver: Receiver, mail_server: MailServer
) -> None:
    mail_server.is_busy = True
    fails(warehouse)
    assert tell(warehouse) == 1
    assert len(receiver.told()) == 1
    assert mail_server.mails == []

    # The webhook is told that mail does not work, and not again of what it knows.
    assert tell(warehouse) == 1
    assert receiver.titles() == [
        "AI usage: ai_usage_smtp: The mail server did not take the message (SMTPDataError 451)."
    ]

    mail_server.is_busy = False
    assert tell(warehouse) == 1
    assert [mail["Subject"] for *_, mail in mail_server.mails] == [
        "AI usage: aws_bedrock_default: The provider does not answer."
    ]


def test_a_wrong_connection_is_told_on_the_other_channel_until_it_is_gone(
    warehouse: TestWarehouse, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AI_USAGE_SMTP", json.dumps({"conn_type": "smtp", "host": "mail.example.com"}))
    tell(warehouse)
    tell(warehouse)
    (title,) = receiver.titles()
    assert title.startswith("AI usage: ai_usage_smtp: Its extra lacks a sender")

    monkeypatch.delenv("AIRFLOW_CONN_AI_USAGE_SMTP")
    tell(warehouse)
    assert warehouse.query("select resolution from ops.problem") == [("disconnected",)]


def test_a_channel_that_is_added_later_is_told_what_is_open(
    warehouse: TestWarehouse, receiver: Receiver, request: pytest.FixtureRequest
) -> None:
    fails(warehouse)
    tell(warehouse)
    later(warehouse, days=3)
    mail_server: MailServer = request.getfixturevalue("mail_server")

    assert tell(warehouse) == 1

    assert len(mail_server.mails) == 1
    assert len(receiver.told()) == 1


def test_a_warehouse_that_is_gone_fails_nobody(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    from ai_usage.warehouse.session import Warehouse

    gone = Warehouse("127.0.0.1", 9, "nothing", "nobody", "password")

    assert tell_news(gone) == 0
    assert tell_daily(gone) is False
    assert receiver.told() == []
    assert "could not be told" in caplog.text


def test_the_address_of_the_webhook_is_in_no_log_and_no_table(
    warehouse: TestWarehouse, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fails(warehouse)
    receiver.steps = [answer(500), answer(403), answer(302, Location="/elsewhere"), answer(200)]
    for _ in range(4):
        tell(warehouse)

    assert len(receiver.requests) == 4
    assert "s3cr3t" not in caplog.text
    for table in ("problem", "event", "telling"):
        assert "s3cr3t" not in str(warehouse.query(f"select * from ops.{table}"))
    assert "answered 302" in str(warehouse.query("select message from ops.problem"))


# ---------------------------------------------------------------- daily

TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)


def has_slices(warehouse: TestWarehouse, day: date, **states: int) -> None:
    """Put slices of a connected source on record."""
    with psycopg.connect(warehouse.admin_dsn) as admin:
        admin.execute(
            "insert into ops.connection (connection_id, provider, last_success_at) values (%s, %s, now())",
            (CONNECTION, PROVIDER),
        )
        for number, state in enumerate(state for state, count in states.items() for _ in range(count)):
            scope = f"region-{number}"
            admin.execute("insert into ops.scope (connection_id, scope) values (%s, %s)", (CONNECTION, scope))
            admin.execute(
                "insert into ops.slice (connection_id, usage_date, stream, scope, state)"
                " values (%s, %s, 'metrics', %s, %s)",
                (CONNECTION, day, scope, state),
            )


def test_the_digest_says_how_things_stand_once_a_day(warehouse: TestWarehouse, receiver: Receiver) -> None:
    has_slices(warehouse, YESTERDAY, failed=2, not_entitled=1)
    fails(warehouse, place("region-0"), message="It may not read.", kind="permission_missing")

    assert tell_daily(warehouse.warehouse)
    assert not tell_daily(warehouse.warehouse), "told twice on one day"

    news, digest = receiver.told()
    assert news["title"] == "AI usage: aws_bedrock_default: It may not read."
    assert digest["title"] == f"AI usage on {YESTERDAY}: 1 of 1 sources failing, 1 open problems"
    facts = {fact["name"]: fact["value"] for fact in digest["facts"]}
    assert facts["Coverage"].startswith("0 %: 0 of 3 slices")
    assert facts["Coverage"].endswith("2 failed, 1 not_entitled")
    assert facts["Marts"] == "not built yet"
    (problems,) = digest["sections"]
    assert problems["lines"][0].startswith("aws_bedrock_default · region-0 · metrics: It may not read. (since ")
    assert tell_daily(warehouse.warehouse, TODAY + timedelta(days=1))


def test_without_a_connection_there_is_no_digest_and_the_first_one_is_not_lost(
    warehouse: TestWarehouse, request: pytest.FixtureRequest
) -> None:
    assert not tell_daily(warehouse.warehouse)
    assert warehouse.query("select * from ops.digest") == []

    request.getfixturevalue("receiver")

    assert tell_daily(warehouse.warehouse)


def test_a_digest_that_nobody_took_is_sent_again(warehouse: TestWarehouse, receiver: Receiver) -> None:
    receiver.steps = [answer(404)]
    assert not tell_daily(warehouse.warehouse)
    receiver.steps = [answer(200)]

    assert tell_daily(warehouse.warehouse)


def test_the_digest_adds_up_what_the_marts_say_and_what_was_restated(
    warehouse: TestWarehouse, receiver: Receiver
) -> None:
    with psycopg.connect(warehouse.admin_dsn) as admin:
        admin.execute(
            """
            set role ai_usage_transformer;
            create table marts.usage_daily (usage_date date, provider text, model text, requests numeric,
                input_tokens numeric, output_tokens numeric, compute_seconds numeric, api_calls numeric,
                billed_cost numeric, billed_currency text);
            create table marts.restatements (provider text, meter text, currency text, delta numeric, usage_date date,
                was_settled boolean, restated_at timestamptz);
            """
        )
        for model, requests, cost, currency in (
            ("anthropic/claude-sonnet-4-5", 1200, Decimal("0.10"), "USD"),
            ("amazon/nova-pro", 34, Decimal("0.205"), "USD"),
            ("amazon/nova-pro", 0, Decimal(7), "EUR"),
            (None, None, None, None),
        ):
            admin.execute(
                "insert into marts.usage_daily (usage_date, provider, model, requests, billed_cost, billed_currency)"
                " values (%s, %s, %s, %s, %s, %s)",
                (YESTERDAY, PROVIDER, model, requests, cost, currency),
            )
        for was_settled, days_ago in ((True, 1), (True, 2), (False, 1)):
            admin.execute(
                "insert into marts.restatements values (%s, 'output_tokens', null, -400, %s, %s, %s)",
                (PROVIDER, YESTERDAY, was_settled, datetime.now(UTC) - timedelta(days=days_ago)),
            )

    assert tell_daily(warehouse.warehouse)

    (digest,) = receiver.told()
    sections = {section["heading"]: section["lines"] for section in digest["sections"]}
    assert sections["Usage and cost of the day"] == ["AWS Bedrock: 1,234 requests, 7 EUR, 0.305 USD"]
    assert sections["Restated on that day"] == ["aws_bedrock: output_tokens -400 on 1 days"]
