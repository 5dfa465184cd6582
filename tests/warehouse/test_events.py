"""Stories of problems against a real PostgreSQL: opened once, counted quietly, ended once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ai_usage.core.contract import Note
from ai_usage.core.errors import CredentialRejected, NotEntitled, RateLimited, SourceUnavailable, UsageError
from ai_usage.warehouse import events
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from tests.support.warehouse import TestWarehouse

PLACES = [
    pytest.param(Place("sample", "sample_default", "metrics", "eu-west-1"), id="a stream of a scope"),
    pytest.param(Place("sample", "sample_default", None, None), id="the whole connection"),
]
HERE = Place("sample", "sample_default", "metrics", "eu-west-1")
REJECTED = CredentialRejected("The key is not accepted.", action="Make a new one.")
DOWN = SourceUnavailable("The provider does not answer (503).", action="Wait.")


def fail(warehouse: TestWarehouse, error: UsageError, run_id: str, place: Place = HERE) -> None:
    with warehouse.warehouse.session(LOADER) as session:
        events.record_error(session, place, error, run_id)


def recover(warehouse: TestWarehouse, run_id: str, place: Place = HERE) -> None:
    with warehouse.warehouse.session(LOADER) as session:
        events.close_story(session, place, run_id)


def notice(warehouse: TestWarehouse, run_id: str, *fields: str) -> None:
    notes = [Note("schema_drift", f"A field that this project does not know: {name}.", "Report it.") for name in fields]
    with warehouse.warehouse.session(LOADER) as session:
        events.record_notes(session, HERE, notes, run_id)


def read_to_the_end(warehouse: TestWarehouse, run_id: str) -> None:
    with warehouse.warehouse.session(LOADER) as session:
        events.close_drift(session, HERE, run_id)


def stories(warehouse: TestWarehouse) -> list[tuple[object, ...]]:
    return warehouse.query(
        "select kind, severity, times_seen, resolution from ops.problem order by problem_id",
    )


def log(warehouse: TestWarehouse) -> list[tuple[str, str]]:
    return warehouse.query("select kind, severity from ops.event order by event_id")


@pytest.mark.parametrize("place", PLACES)
def test_a_failure_that_goes_on_is_one_story_counted_by_run_and_told_twice(
    warehouse: TestWarehouse, place: Place
) -> None:
    for hour in range(6):
        fail(warehouse, DOWN, f"run {hour}", place)

    assert stories(warehouse) == [("source_unavailable", "error", 6, None)]
    assert log(warehouse) == [("source_unavailable", "error")]

    recover(warehouse, "run 6", place)
    recover(warehouse, "run 7", place)

    assert stories(warehouse) == [("source_unavailable", "error", 6, "recovered")]
    assert log(warehouse) == [("source_unavailable", "error"), ("recovered", "info")]
    assert warehouse.query("select count(distinct problem_id), count(problem_id) from ops.event") == [(1, 2)]


def test_many_windows_and_tries_of_one_run_count_once(warehouse: TestWarehouse) -> None:
    for _ in range(5):
        fail(warehouse, DOWN, "the same run")

    assert stories(warehouse) == [("source_unavailable", "error", 1, None)]


def test_a_story_has_the_latest_words(warehouse: TestWarehouse) -> None:
    fail(warehouse, DOWN, "run 1")
    fail(warehouse, SourceUnavailable("No answer within 60 s.", action="Look at the network."), "run 2")

    assert warehouse.query("select message, action, last_seen_at > opened_at from ops.problem") == [
        ("No answer within 60 s.", "Look at the network.", True)
    ]
    assert warehouse.query("select message from ops.event") == [("The provider does not answer (503).",)]


def test_another_kind_of_failure_replaces_the_story(warehouse: TestWarehouse) -> None:
    fail(warehouse, DOWN, "run 1")
    fail(warehouse, REJECTED, "run 2")
    recover(warehouse, "run 3")

    assert stories(warehouse) == [
        ("source_unavailable", "error", 1, "replaced"),
        ("credential_rejected", "error", 1, "recovered"),
    ]
    assert [kind for kind, _ in log(warehouse)] == ["source_unavailable", "credential_rejected", "recovered"]


def test_the_same_failure_after_a_recovery_is_a_new_story(warehouse: TestWarehouse) -> None:
    for n in range(2):
        fail(warehouse, DOWN, f"bad run {n}")
        recover(warehouse, f"good run {n}")

    assert [resolution for *_, resolution in stories(warehouse)] == ["recovered", "recovered"]
    assert [kind for kind, _ in log(warehouse)] == ["source_unavailable", "recovered"] * 2


def test_a_plan_that_is_missing_is_a_warning(warehouse: TestWarehouse) -> None:
    fail(warehouse, NotEntitled("The plan does not include this.", action="Nothing, or buy it."), "run")

    assert stories(warehouse) == [("not_entitled", "warning", 1, None)]
    assert log(warehouse) == [("not_entitled", "warning")]


def test_a_place_recovers_only_when_nothing_still_to_be_read_fails(warehouse: TestWarehouse) -> None:
    fail(warehouse, DOWN, "run 1")
    warehouse.query("insert into ops.connection (connection_id, provider) values ('sample_default', 'sample')")
    warehouse.query("insert into ops.scope (connection_id, scope) values ('sample_default', 'eu-west-1')")
    warehouse.query(
        "insert into ops.slice (connection_id, usage_date, stream, scope, state, error_kind)"
        " values ('sample_default', '2026-01-01', 'metrics', 'eu-west-1', 'failed', 'source_unavailable')"
    )

    recover(warehouse, "run 2")
    assert stories(warehouse) == [("source_unavailable", "error", 1, None)]

    warehouse.query("update ops.slice set state = 'outside_retention'")
    recover(warehouse, "run 3")
    assert stories(warehouse) == [("source_unavailable", "error", 1, "recovered")]


def test_topics_and_places_have_stories_of_their_own(warehouse: TestWarehouse) -> None:
    elsewhere = Place("sample", "sample_default", "metrics", "us-east-1")
    whole = Place("sample", "sample_default", None, None)
    fail(warehouse, DOWN, "run", HERE)
    fail(warehouse, DOWN, "run", elsewhere)
    fail(warehouse, DOWN, "run", whole)
    with warehouse.warehouse.session(LOADER) as session:
        assert events.open_problem(session, whole, "lateness", "data_late", "error", "Late.", "Look.", "run")
        assert not events.open_problem(session, whole, "lateness", "data_late", "error", "Late.", "Look.", "run 2")
        assert events.close_problem(session, elsewhere, "reading", "run 2")
        assert not events.close_problem(session, elsewhere, "reading", "run 2")

    open_ones = warehouse.query(
        "select scope, topic, times_seen from ops.problem where resolved_at is null order by problem_id"
    )
    assert open_ones == [("eu-west-1", "reading", 1), (None, "reading", 1), (None, "lateness", 2)]


def test_a_source_that_is_taken_out_ends_its_story_without_a_recovery(warehouse: TestWarehouse) -> None:
    fail(warehouse, REJECTED, "run")
    with warehouse.warehouse.session(LOADER) as session:
        events.close_problem(session, HERE, "reading", "run 2", "disconnected")

    assert stories(warehouse) == [("credential_rejected", "error", 1, "disconnected")]
    assert log(warehouse) == [("credential_rejected", "error")]


def test_tasks_that_meet_the_same_at_once_tell_one_story(warehouse: TestWarehouse) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: fail(warehouse, DOWN, f"run {n}"), range(24)))

    assert stories(warehouse) == [("source_unavailable", "error", 24, None)]
    assert log(warehouse) == [("source_unavailable", "error")]


def test_tasks_that_meet_different_things_at_once_leave_one_story_open(warehouse: TestWarehouse) -> None:
    limited = RateLimited("Too many calls.", action="Wait.")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: fail(warehouse, (DOWN, REJECTED, limited)[n % 3], f"run {n}"), range(24)))

    told = stories(warehouse)
    assert [resolution for *_, resolution in told].count(None) == 1
    assert {resolution for *_, resolution in told} <= {None, "replaced"}
    assert sum(int(str(times)) for _, _, times, _ in told) == 24
    assert len(log(warehouse)) == len(told)


def test_unknown_fields_are_one_story_and_the_log_names_each_of_them_once(warehouse: TestWarehouse) -> None:
    notice(warehouse, "run 1", "a", "b")
    notice(warehouse, "run 2", "a")
    notice(warehouse, "run 3", "a", "c")

    assert stories(warehouse) == [("schema_drift", "warning", 3, None)]
    told = warehouse.query("select message from ops.event order by event_id")
    assert [message[-2] for (message,) in told] == ["a", "b", "c"]
    (row,) = warehouse.query("select message from ops.problem")
    assert row[0].endswith("this project does not know: a. And 1 more like this: the event log names them.")


def test_unknown_fields_are_over_when_a_whole_run_met_none(warehouse: TestWarehouse) -> None:
    notice(warehouse, "run 1", "a")
    read_to_the_end(warehouse, "run 1")
    assert stories(warehouse) == [("schema_drift", "warning", 1, None)]

    read_to_the_end(warehouse, "run 2")
    assert stories(warehouse) == [("schema_drift", "warning", 1, "recovered")]

    notice(warehouse, "run 3", "a")
    assert [kind for kind, _ in log(warehouse)] == ["schema_drift", "recovered", "schema_drift"]


def test_what_stands_by_itself_is_told_once_unless_it_is_news(warehouse: TestWarehouse) -> None:
    for run in ("run 1", "run 2"):
        with warehouse.warehouse.session(LOADER) as session:
            events.record_note(session, HERE, Note("rows_repeated", "Sent twice.", "Nothing."), run)
            events.record_note(session, HERE, Note("restated", "A day changed.", None, is_news=True), run)

    assert [kind for kind, _ in log(warehouse)] == ["rows_repeated", "restated", "restated"]
    assert stories(warehouse) == []
