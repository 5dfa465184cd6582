"""The janitor deletes what is kept twice or has had its time, and nothing that the source can no longer give."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from ai_usage.warehouse import janitor
from ai_usage.warehouse.janitor import Cleaned, delete_old_rows, measure_tables, prune_versions
from tests.support.loading import begin, day, load, prepare, records, stored
from tests.support.warehouse import TestWarehouse

KEEP = timedelta(days=30)


@pytest.fixture
def place(warehouse: TestWarehouse) -> TestWarehouse:
    """A place whose versions are measured when a test says so, as a transform does it."""
    prepare(warehouse)
    with psycopg.connect(warehouse.admin_dsn) as admin:
        admin.execute("grant select, delete on raw.sample_metrics to ai_usage_janitor")
        admin.execute("create table intermediate.int_slice_totals (load_id bigint, meter text, quantity numeric)")
        admin.execute("grant select on intermediate.int_slice_totals to ai_usage_janitor")
    return warehouse


def version(warehouse: TestWarehouse, quantity: int | None, days: int = 1) -> None:
    """Load a version of the first days; without a quantity an empty one."""
    load(warehouse, 0, days - 1, [] if quantity is None else records(*range(days), quantity=quantity))


def measure_and_age(warehouse: TestWarehouse, by: timedelta = timedelta(days=31)) -> None:
    """Let a build have measured all versions, and time go by."""
    warehouse.query(
        "insert into intermediate.int_slice_totals select load_id, 'records', record_count from ops.load"
        " where load_id not in (select load_id from intermediate.int_slice_totals)"
    )
    age(warehouse, by)


def age(warehouse: TestWarehouse, by: timedelta = timedelta(days=31)) -> None:
    warehouse.query("update ops.load set superseded_at = superseded_at - %s where superseded_by is not null", by)


def prune(warehouse: TestWarehouse) -> Cleaned:
    done = Cleaned()
    prune_versions(warehouse.warehouse, KEEP, done)
    return done


def kept(warehouse: TestWarehouse) -> list[int]:
    """Return how many records are stored of each version of the first day, the oldest first."""
    return [
        count
        for (count,) in warehouse.query(
            "select (select count(*) from raw.sample_metrics where load_id = version.load_id)::int"
            " from ops.load as version where usage_date = %s order by load_id",
            day(0),
        )
    ]


def test_versions_that_were_replaced_long_ago_lose_their_records_and_keep_their_row(place: TestWarehouse) -> None:
    for quantity in (1, 2, 3):
        version(place, quantity)
    measure_and_age(place)

    done = prune(place)

    assert kept(place) == [0, 0, 3]
    assert (done.versions, done.records) == (2, 6)
    assert place.query("select pruned_at is not null from ops.load order by load_id") == [(True,), (True,), (False,)]
    assert len(stored(place)) == 3
    assert prune(place).versions == 0


def test_a_version_that_was_replaced_lately_stays(place: TestWarehouse) -> None:
    version(place, 1)
    version(place, 2)
    measure_and_age(place, timedelta(days=29))

    assert prune(place).versions == 0
    assert kept(place) == [3, 3]


def test_a_version_that_no_build_has_measured_stays(place: TestWarehouse) -> None:
    version(place, 1)
    version(place, 2)
    age(place)

    assert prune(place).versions == 0

    measure_and_age(place)
    assert prune(place).versions == 1
    assert kept(place) == [0, 3]


def test_nothing_is_pruned_before_a_transform_has_kept_anything(warehouse: TestWarehouse) -> None:
    prepare(warehouse)
    version(warehouse, 1)
    version(warehouse, 2)
    age(warehouse)

    assert prune(warehouse).versions == 0
    assert kept(warehouse) == [3, 3]


def test_the_last_version_with_records_of_a_day_that_is_empty_now_stays_for_ever(place: TestWarehouse) -> None:
    for quantity in (1, 2, None):
        version(place, quantity)
    measure_and_age(place, timedelta(days=4000))

    prune(place)

    assert kept(place) == [0, 3, 0], "the source may only have forgotten the day"
    assert stored(place) == {}


def test_it_may_go_once_the_day_has_records_again(place: TestWarehouse) -> None:
    for quantity in (1, 2, None, None, 4):
        version(place, quantity)
    measure_and_age(place)

    prune(place)

    assert kept(place) == [0, 0, 0, 3]
    assert place.query("select count(*) from ops.load where pruned_at is null") == [(1,)]


def test_days_are_judged_one_by_one(place: TestWarehouse) -> None:
    load(place, 0, 1, records(0, 1))
    load(place, 0, 1, records(1, quantity=9))
    measure_and_age(place)

    prune(place)

    assert kept(place) == [3, 0]
    assert place.query("select count(*) from raw.sample_metrics where usage_date = %s", day(1)) == [(3,)]


def test_pruning_may_end_after_any_batch_and_goes_on_where_it_was(
    place: TestWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "VERSIONS_AT_ONCE", 4)
    version(place, 1, days=10)
    version(place, 2, days=10)
    measure_and_age(place)
    first = Cleaned()

    prune_versions(place.warehouse, KEEP, first, lambda: True)

    assert (first.versions, first.is_complete) == (4, False)
    assert "There is more" in str(first)
    rest = prune(place)
    assert (rest.versions, rest.is_complete) == (6, True)
    assert place.query("select count(*) from raw.sample_metrics") == [(30,)]


def test_the_marts_are_not_told_to_build_anything_because_of_it(place: TestWarehouse) -> None:
    version(place, 1)
    version(place, 2)
    measure_and_age(place)
    place.query("delete from ops.pending_rebuild")

    prune(place)

    assert place.query("select * from ops.pending_rebuild") == []


def test_the_janitor_cannot_write_a_record_or_a_number(place: TestWarehouse) -> None:
    version(place, 1)
    for forbidden in (
        "insert into raw.sample_metrics select * from raw.sample_metrics",
        "update raw.sample_metrics set record = '{}'",
        "update ops.slice set state = 'final'",
        "update ops.load set record_count = 0",
        "insert into ops.load select * from ops.load",
    ):
        here = place.warehouse
        with (
            psycopg.connect(
                host=here.host,
                port=here.port,
                dbname=here.dbname,
                user=here.user,
                password=here.password,
                options="-c role=ai_usage_janitor",
            ) as session,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            session.execute(forbidden.encode())


# ---------------------------------------------------------------- what has had its time


def clean(warehouse: TestWarehouse) -> dict[str, int]:
    done = Cleaned()
    delete_old_rows(warehouse.warehouse, done)
    return {table: count for table, count in done.rows.items() if count}


def test_attempts_go_after_ninety_days_unless_they_brought_a_version_home(place: TestWarehouse) -> None:
    version(place, 1)
    version(place, 1)
    version(place, 1)
    place.query("update ops.extraction set started_at = now() - interval '91 days' where extraction_id <> 3")

    assert clean(place) == {"ops.extraction": 1}
    assert place.query("select outcome from ops.extraction order by extraction_id") == [("loaded",), ("unchanged",)]


def test_an_attempt_that_still_runs_stays(place: TestWarehouse) -> None:
    begin(place, 0, 0)
    place.query("update ops.extraction set started_at = now() - interval '91 days'")

    assert clean(place) == {}

    place.query("update ops.extraction set outcome = 'aborted'")
    assert clean(place) == {"ops.extraction": 1}


def test_events_and_ended_problems_go_after_four_hundred_days_and_open_ones_stay(place: TestWarehouse) -> None:
    place.query(
        "insert into ops.problem (problem_id, provider, connection_id, topic, kind, severity, message, opened_at,"
        " resolved_at, resolution) values"
        " (1, 'p', 'ended long ago', 'reading', 'k', 'error', 'm', now() - interval '500 d', now() - interval '401 d',"
        " 'recovered'),"
        " (2, 'p', 'ended', 'reading', 'k', 'error', 'm', now() - interval '500 d', now() - interval '399 d',"
        " 'recovered'),"
        " (3, 'p', 'open', 'reading', 'k', 'error', 'm', now() - interval '500 d', null, null)"
    )
    place.query(
        "insert into ops.event (problem_id, occurred_at, provider, connection_id, kind, severity, message)"
        " select problem_id, now() - interval '500 d', 'p', 'c', 'k', 'error', 'm' from ops.problem"
    )
    place.query(
        "insert into ops.event (occurred_at, provider, connection_id, kind, severity, message) values"
        " (now() - interval '401 d', 'p', 'c', 'k', 'info', 'm'), (now() - interval '399 d', 'p', 'c', 'k', 'info', 'm')"
    )

    assert clean(place) == {"ops.event": 3, "ops.problem": 1}
    assert place.query("select connection_id from ops.problem order by problem_id") == [("ended",), ("open",)]
    assert place.query("select problem_id from ops.event order by event_id") == [(3,), (None,)]


def test_results_of_dbt_go_after_ninety_days_but_the_last_good_ones_stay(place: TestWarehouse) -> None:
    place.query(
        "insert into ops.dbt_run (invocation_id, command, started_at, succeeded) values"
        " ('old', 'build', now() - interval '200 d', true), ('last good', 'build', now() - interval '100 d', true),"
        " ('bad', 'build', now() - interval '95 d', false), ('tested', 'test', now() - interval '99 d', true),"
        " ('young', 'build', now() - interval '80 d', false)"
    )
    place.query(
        "insert into ops.dbt_node_result (invocation_id, node_id, resource_type, status, seconds)"
        " select invocation_id, 'model.x', 'model', 'success', 1 from ops.dbt_run"
    )

    assert clean(place) == {"ops.dbt_run": 2}
    left = [("last good",), ("tested",), ("young",)]
    assert place.query("select invocation_id from ops.dbt_run order by 1") == left
    assert place.query("select invocation_id from ops.dbt_node_result order by 1") == left


def test_old_rows_go_in_small_steps_and_to_the_end(place: TestWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "ROWS_AT_ONCE", 3)
    place.query(
        "insert into ops.event (occurred_at, provider, connection_id, kind, severity, message)"
        " select now() - interval '401 d', 'p', 'c', 'k', 'info', 'm' from generate_series(1, 8)"
    )

    assert clean(place) == {"ops.event": 8}


# ---------------------------------------------------------------- figures


def test_every_table_is_measured_and_one_full_of_dead_rows_is_told(
    place: TestWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "MANY_DEAD_ROWS", 20)
    place.query("alter table raw.sample_metrics set (autovacuum_enabled = false)")
    version(place, 1, days=10)
    place.query("update raw.sample_metrics set record = record")
    place.query("update raw.sample_metrics set record = record")
    place.query("select pg_stat_force_next_flush()")

    told = measure_tables(place.warehouse)

    assert [sentence.partition(" has ")[0] for sentence in told] == ["raw.sample_metrics"]
    rows = place.query(
        "select live_rows, dead_rows, total_bytes > 0 from ops.table_figures where table_name = 'sample_metrics'"
    )
    assert rows == [(30, 60, True)]
    (measured,) = place.query("select count(*) from ops.table_figures where table_schema in ('raw', 'ops')")
    assert measured[0] > 20
