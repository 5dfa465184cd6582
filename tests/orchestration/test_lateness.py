"""What is late is found by whoever runs, told once, and over when it has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.orchestration import lateness
from ai_usage.warehouse import events, outbox
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from tests.support.warehouse import TestWarehouse

PROVIDER, CONNECTION = "aws_bedrock", "aws_bedrock_default"
NOW = datetime.now(UTC)
DUE = (NOW - timedelta(hours=24)).date() - timedelta(days=1)
"""The newest day that must be covered: it ended a day ago or earlier."""


@pytest.fixture(autouse=True)
def usual_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lateness.LATE_AFTER, raising=False)


def connect(warehouse: TestWarehouse, *scopes: str, provider: str = PROVIDER, connection: str = CONNECTION) -> None:
    """A source that has been there for long."""
    warehouse.query("insert into ops.connection (connection_id, provider) values (%s, %s)", connection, provider)
    for scope in scopes or ("eu-west-1",):
        warehouse.query(
            "insert into ops.scope (connection_id, scope, first_seen_at, last_seen_at) values (%s, %s, %s, %s)",
            *(connection, scope, NOW - timedelta(days=60), NOW),
        )


def covered(
    warehouse: TestWarehouse,
    *states: str,
    scope: str = "eu-west-1",
    stream: str = "metrics",
    connection: str = CONNECTION,
    last: Any = DUE,
) -> None:
    """Put the states of the newest days on record, the newest last."""
    for days_ago, state in enumerate(reversed(states)):
        is_loaded = state in ("final", "provisional", "confirmed_zero")
        warehouse.query(
            "insert into ops.slice (connection_id, usage_date, stream, scope, state, load_id)"
            " values (%s, %s, %s, %s, %s, %s)",
            *(
                connection,
                last - timedelta(days=days_ago),
                stream,
                scope,
                state,
                a_load(warehouse) if is_loaded else None,
            ),
        )


def a_load(warehouse: TestWarehouse) -> int:
    """Return a load that slices may point to; what it loaded is of no interest here."""
    warehouse.query(
        """
        with read as (
            insert into ops.extraction (provider, connection_id, stream, scope, window_first, window_last, run_id)
            select 'any', connection_id, 'any', scope, current_date, current_date, 'run' from ops.scope limit 1
            returning *
        )
        insert into ops.load (provider, connection_id, stream, scope, usage_date, state, record_count, digest,
            extracted_at, extraction_id, run_id)
        select provider, connection_id, stream, scope, current_date, 'final', 1, '', now(), extraction_id, run_id
        from read where not exists (select 1 from ops.load)
        """
    )
    ((load_id,),) = warehouse.query("select load_id from ops.load")
    return int(load_id)


def watch(warehouse: TestWarehouse) -> list[tuple[str, str | None]]:
    """Look, and return the open stories: connection and scope."""
    lateness.watch(warehouse.warehouse)
    return warehouse.query(
        "select connection_id, scope from ops.problem where topic = 'lateness' and resolved_at is null order by 1, 2"
    )


def ends(warehouse: TestWarehouse) -> list[tuple[str | None, str]]:
    return warehouse.query(
        "select scope, resolution from ops.problem where resolved_at is not null order by problem_id"
    )


def test_a_day_that_is_covered_is_not_late(warehouse: TestWarehouse) -> None:
    connect(warehouse)
    covered(warehouse, "missing", "final", "provisional")

    assert watch(warehouse) == []


def test_a_day_that_should_be_covered_is_late_once_and_over_when_it_has_come(warehouse: TestWarehouse) -> None:
    connect(warehouse, "eu-west-1", "us-east-1")
    covered(warehouse, "final", "missing", "missing")
    covered(warehouse, "final", "final", "confirmed_zero", scope="us-east-1")

    assert watch(warehouse) == [(CONNECTION, "eu-west-1")]
    assert watch(warehouse) == [(CONNECTION, "eu-west-1")]

    ((message, action, seen),) = warehouse.query("select message, action, times_seen from ops.problem")
    assert message == (
        f"The newest day that is covered is {DUE - timedelta(days=2)}, and {DUE} should be by now (metrics)."
    )
    assert "aws_bedrock_usage" in action
    assert seen == 2
    warehouse.query(
        "update ops.slice set state = 'provisional', load_id = %s where usage_date = %s and scope = 'eu-west-1'",
        *(a_load(warehouse), DUE),
    )
    assert watch(warehouse) == []
    assert warehouse.query("select kind from ops.event order by event_id") == [("data_late",), ("recovered",)]


@pytest.mark.parametrize("state", ["not_entitled", "outside_retention"])
def test_what_cannot_come_is_not_late(warehouse: TestWarehouse, state: str) -> None:
    connect(warehouse)
    covered(warehouse, state, state)

    assert watch(warehouse) == []


def test_what_fails_has_its_own_story_and_is_not_told_as_late(warehouse: TestWarehouse) -> None:
    connect(warehouse, "eu-west-1", "us-east-1")
    covered(warehouse, "final", "failed")
    covered(warehouse, "final", "missing", scope="us-east-1")
    with warehouse.warehouse.session(LOADER) as session:
        place = Place(PROVIDER, CONNECTION, "metrics", "eu-west-1")
        events.open_problem(session, place, "reading", "permission_missing", "error", "No.", "Grant it.", "run")

    assert watch(warehouse) == [(CONNECTION, "us-east-1")]


def test_a_new_place_and_one_that_was_taken_out_are_not_late(warehouse: TestWarehouse) -> None:
    connect(warehouse, "eu-west-1", "us-east-1")
    covered(warehouse, "final", "missing")
    covered(warehouse, "final", "missing", scope="us-east-1")
    warehouse.query("update ops.scope set first_seen_at = now() - interval '5 hours' where scope = 'eu-west-1'")
    warehouse.query("update ops.scope set last_seen_at = now() - interval '5 days' where scope = 'us-east-1'")
    warehouse.query("update ops.scope set last_seen_at = now() where scope = 'eu-west-1'")

    assert watch(warehouse) == []


def test_a_stream_that_gives_its_days_later_is_late_later(warehouse: TestWarehouse) -> None:
    connect(warehouse, "-", provider="openrouter", connection="openrouter_default")
    place = {"scope": "-", "stream": "activity", "connection": "openrouter_default"}
    # OpenRouter gives no day before it is over: its newest day is one older than others'.
    covered(warehouse, "final", last=DUE - timedelta(days=1), **place)
    assert watch(warehouse) == []

    warehouse.query("update ops.slice set usage_date = usage_date - 1")
    assert watch(warehouse) == [("openrouter_default", "-")]


def test_readings_of_the_present_are_never_late(warehouse: TestWarehouse) -> None:
    connect(warehouse, "-", provider="openrouter", connection="openrouter_default")
    covered(warehouse, "missing", scope="-", stream="credits", connection="openrouter_default")
    connect(warehouse, "-", provider="fireworks", connection="fireworks_default")
    covered(warehouse, "missing", scope="-", stream="throughput", connection="fireworks_default")

    assert watch(warehouse) == []


def test_a_dag_that_is_due_and_does_not_run_is_told_by_the_others(warehouse: TestWarehouse) -> None:
    connect(warehouse, "eu-west-1", "us-east-1")
    covered(warehouse, "final", "missing")
    assert watch(warehouse) == [(CONNECTION, "eu-west-1")]
    warehouse.query("update ops.provider set next_run_at = now() - interval '1 hour' where provider = %s", PROVIDER)
    assert watch(warehouse) == [(CONNECTION, "eu-west-1")]

    warehouse.query("update ops.provider set next_run_at = now() - interval '3 hours' where provider = %s", PROVIDER)

    # One story for the whole connection; that of its part has turned into it.
    assert watch(warehouse) == [(CONNECTION, None)]
    assert ends(warehouse) == [("eu-west-1", "replaced")]
    ((message, action),) = warehouse.query("select message, action from ops.problem where scope is null")
    assert message.startswith("The DAG aws_bedrock_usage was due at 20")
    assert "paused" in action

    warehouse.query("update ops.provider set next_run_at = now() + interval '1 hour' where provider = %s", PROVIDER)
    assert watch(warehouse) == [(CONNECTION, "eu-west-1")]


def test_what_is_disconnected_is_not_late_any_more(warehouse: TestWarehouse) -> None:
    connect(warehouse)
    covered(warehouse, "final", "missing")
    watch(warehouse)
    warehouse.query("update ops.connection set disconnected_at = now()")

    assert watch(warehouse) == []
    assert ends(warehouse) == [("eu-west-1", "disconnected")]


def test_late_data_is_told_when_it_stays_late(warehouse: TestWarehouse) -> None:
    connect(warehouse)
    covered(warehouse, "final", "missing")
    watch(warehouse)

    def untold() -> list[str]:
        with warehouse.warehouse.session(LOADER) as session:
            return [story.kind for story in outbox.untold(session, "ai_usage_webhook")]

    assert untold() == []
    warehouse.query("update ops.problem set opened_at = opened_at - interval '31 minutes'")
    assert untold() == ["data_late"]


@pytest.mark.parametrize(("hours", "is_late"), [("12", True), ("48", False)])
def test_how_long_a_day_may_take_can_be_set(
    warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch, hours: str, is_late: bool
) -> None:
    monkeypatch.setenv(lateness.LATE_AFTER, hours)
    connect(warehouse)
    last = (NOW - timedelta(hours=int(hours))).date() - timedelta(days=2)
    covered(warehouse, "final", last=last + timedelta(days=0 if is_late else 1))

    assert bool(watch(warehouse)) == is_late


@pytest.mark.parametrize("hours", ["soon", "0", "-1", "1000", "1.5"])
def test_a_time_that_is_none_is_an_error_that_names_the_setting(
    warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch, hours: str
) -> None:
    monkeypatch.setenv(lateness.LATE_AFTER, hours)

    with pytest.raises(ConfigurationInvalid, match="AI_USAGE_LATE_AFTER_HOURS"):
        lateness.watch(warehouse.warehouse)


def test_a_look_reads_the_newest_days_only(warehouse: TestWarehouse) -> None:
    connect(warehouse)
    covered(warehouse, "final")
    warehouse.query(
        """
        insert into ops.slice (connection_id, usage_date, stream, scope, state)
        select connection_id, usage_date - age, stream, scope, 'outside_retention'
        from ops.slice cross join generate_series(1, 3000) as age
        """
    )
    warehouse.query("analyze ops.slice")

    with warehouse.warehouse.session(LOADER) as session:
        plans = _plan(session)

    assert "Seq Scan on slice" not in plans
    assert "slice_pkey" in plans


def _plan(session: Any) -> str:
    """Return how PostgreSQL carries out the look."""
    seen: list[str] = []

    class Explaining:
        def execute(self, statement: str, values: Any) -> Any:
            seen.extend(row[0] for row in session.execute(f"explain {statement}", values))
            return session.execute(statement, values)

    lateness._behind(Explaining(), timedelta(hours=24))  # type: ignore[arg-type]
    return "\n".join(seen)
