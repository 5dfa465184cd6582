"""The loader against a real PostgreSQL: whole slices, once, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest

from ai_usage.core.contract import Journal, Record
from ai_usage.core.errors import ResponseInvalid, SourceUnavailable, WarehouseUnavailable
from ai_usage.core.slices import Window
from ai_usage.warehouse import ledger, loader
from ai_usage.warehouse.roles import LOADER
from tests.support.loading import PLACE, STREAM, begin, day, expected, load, prepare, records, stored
from tests.support.warehouse import TestWarehouse


@pytest.fixture
def place(warehouse: TestWarehouse) -> TestWarehouse:
    prepare(warehouse)
    return warehouse


def test_what_was_sent_is_what_is_stored(place: TestWarehouse) -> None:
    outcome = load(place, 0, 2, records(0, 1, 2))

    assert stored(place) == expected(records(0, 1, 2))
    assert (outcome.records_read, outcome.records_written, outcome.slices_changed) == (9, 9, 3)


def test_a_second_load_of_the_same_content_writes_nothing(place: TestWarehouse) -> None:
    load(place, 0, 2, records(0, 1, 2))
    before = place.query("select count(*), max(xmin::text::bigint) from ops.load")
    place.query("delete from ops.pending_rebuild")

    outcome = load(place, 0, 2, reversed(records(0, 1, 2)))

    assert (outcome.records_written, outcome.slices_changed) == (0, 0)
    assert place.query("select count(*), max(xmin::text::bigint) from ops.load") == before
    assert place.query("select count(*) from raw.sample_metrics") == [(9,)]
    assert place.query("select * from ops.pending_rebuild") == []


def test_only_the_slices_that_changed_are_replaced(place: TestWarehouse) -> None:
    load(place, 0, 2, records(0, 1, 2))
    place.query("delete from ops.pending_rebuild")
    answer = records(0) + records(1, quantity=99) + records(2)

    outcome = load(place, 0, 2, answer)

    assert stored(place) == expected(answer)
    assert (outcome.records_written, outcome.slices_changed) == (3, 1)
    assert place.query("select distinct usage_date from ops.pending_rebuild") == [(day(1),)]


def test_a_day_that_vanishes_upstream_becomes_a_confirmed_zero(place: TestWarehouse) -> None:
    load(place, 0, 1, records(0, 1))

    load(place, 0, 1, records(0))

    assert stored(place) == expected(records(0))
    assert place.slice_states()["eu-west-1", day(1)] == "confirmed_zero"


def test_a_superseded_version_stays_and_points_to_its_successor(place: TestWarehouse) -> None:
    load(place, 0, 0, records(0))
    load(place, 0, 0, records(0, quantity=50))

    rows = place.query("select superseded_by is null, record_count from ops.load order by load_id")

    assert rows == [(False, 3), (True, 3)]
    assert place.query("select count(*) from raw.sample_metrics") == [(6,)]


def test_a_failure_halfway_leaves_every_slice_as_it_was(place: TestWarehouse) -> None:
    load(place, 0, 1, records(0, 1))

    def answer() -> Iterator[Record]:
        yield from records(0, quantity=77)
        raise SourceUnavailable("The line went dead.", action="Wait.")

    with pytest.raises(SourceUnavailable):
        load(place, 0, 1, answer())

    assert stored(place) == expected(records(0, 1))


@pytest.mark.parametrize("known_days", [[], [0, 1], [0]], ids=["all new", "all known", "some known"])
def test_an_answer_too_large_for_memory_is_loaded_exactly(
    place: TestWarehouse, monkeypatch: pytest.MonkeyPatch, known_days: list[int]
) -> None:
    monkeypatch.setattr(loader, "_KEEP_IN_MEMORY", 1000)
    if known_days:
        load(place, 0, 1, records(*known_days, models=200))
    answer = records(0, models=200) + records(1, models=200, quantity=5)

    outcome = load(place, 0, 1, answer)

    assert stored(place) == expected(answer)
    assert outcome.records_written == (400 if not known_days else 200)


def test_a_large_answer_that_fails_halfway_leaves_nothing(
    place: TestWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_KEEP_IN_MEMORY", 1000)

    def answer() -> Iterator[Record]:
        yield from records(0, models=500)
        raise ResponseInvalid("Page 7 is no JSON.", action="Report it.")

    with pytest.raises(ResponseInvalid):
        load(place, 0, 0, answer())

    assert stored(place) == {}
    assert place.query("select count(*) from ops.load") == [(0,)]


def test_the_same_slice_loaded_by_many_at_once_is_there_once(place: TestWarehouse) -> None:
    answers = [records(0, 1, quantity=100 * n) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda n: load(place, 0, 1, answers[n], f"run{n}"), range(4)))

    assert len(outcomes) == 4
    assert stored(place) in [expected(answer) for answer in answers]


def test_a_reading_that_began_earlier_never_replaces_a_later_one(place: TestWarehouse) -> None:
    early = begin(place, 0, 0, "slow run")
    load(place, 0, 0, records(0, quantity=2), "quick run")

    outcome = loader.load(place.warehouse, early, STREAM, records(0, quantity=1), Journal())

    assert outcome.slices_changed == 0
    assert stored(place) == expected(records(0, quantity=2))


def test_what_an_earlier_reading_brings_too_late_is_not_written_however_large_it_is(
    place: TestWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_KEEP_IN_MEMORY", 1000)
    early = begin(place, 0, 1, "slow run")
    load(place, 0, 0, [], "quick run", journal=Journal(unanswered={day(0)}))

    outcome = loader.load(place.warehouse, early, STREAM, records(0, 1, models=200), Journal())

    assert (outcome.slices_changed, outcome.records_written) == (1, 200)
    assert stored(place) == expected(records(1, models=200))
    assert place.query("select count(*) from raw.sample_metrics") == [(200,)]


def test_a_restated_settled_day_is_told(place: TestWarehouse) -> None:
    load(place, 0, 0, records(0))
    load(place, 0, 0, records(0, quantity=50))

    events = place.query("select kind, message from ops.event")

    assert events == [("restated", f"The provider changed settled days: {day(0)}.")]


def test_a_day_of_which_nothing_is_said_stays_as_it_was(place: TestWarehouse) -> None:
    with place.warehouse.session(LOADER) as session:
        ledger.expect_slices(session, PLACE, Window(day(0), day(2)))
    load(place, 0, 0, records(0))
    with place.warehouse.session(LOADER) as session:
        refused = ResponseInvalid("It makes no sense.", action="Report it.")
        ledger.fail_slices(session, PLACE, Window(day(1), day(1)), refused, "run")

    outcome = load(place, 0, 2, [], journal=Journal(unanswered={day(0), day(1), day(2)}))

    assert outcome.slices_changed == 0
    assert stored(place) == expected(records(0))
    states = place.query("select state, error_kind from ops.slice order by usage_date")
    assert states == [("final", None), ("missing", None), ("missing", None)]


def test_days_outside_the_window_are_dropped_and_told(place: TestWarehouse) -> None:
    load(place, 0, 0, records(0, 1))

    assert stored(place) == expected(records(0))
    assert place.query("select kind from ops.event") == [("outside_window",)]


def test_a_field_that_could_hold_content_never_reaches_the_disk(place: TestWarehouse) -> None:
    answer = [Record(day(0), {"model": "m", "quantity": 1, "prompt": "a secret question"})]

    with pytest.raises(ResponseInvalid, match="prompt"):
        load(place, 0, 0, answer)

    assert place.query("select count(*) from raw.sample_metrics") == [(0,)]


@pytest.mark.parametrize(
    "quantity",
    [0, -1, 2**63, 2**70, Decimal("0.1234567890123456789"), Decimal("12345678901234567890123.10")],
)
def test_numbers_are_stored_to_the_last_digit(place: TestWarehouse, quantity: int | Decimal) -> None:
    load(place, 0, 0, [Record(day(0), {"model": "m", "quantity": quantity})])

    assert place.query("select record ->> 'quantity' from raw.sample_metrics") == [(str(quantity),)]


@pytest.mark.parametrize("quantity", [float("nan"), Decimal("Infinity")])
def test_numbers_that_are_none_are_refused(place: TestWarehouse, quantity: object) -> None:
    with pytest.raises(ResponseInvalid):
        load(place, 0, 0, [Record(day(0), {"model": "m", "quantity": quantity})])


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("o'brien\"; drop table raw.sample_metrics; --", None),
        ("{{ jinja }} ${shell} \\ \t \n \r", None),
        ("\N{RIGHT-TO-LEFT OVERRIDE}\N{GRINNING FACE}" * 3, None),
        ("x" * 10_000, None),
        ("nul\0", "nul\N{REPLACEMENT CHARACTER}"),
        ("lone \ud800 surrogate", "lone \N{REPLACEMENT CHARACTER} surrogate"),
        ("a literal \\u0000", None),
    ],
)
def test_any_name_survives(place: TestWarehouse, name: str, kept: str | None) -> None:
    load(place, 0, 0, [Record(day(0), {"model": name, "quantity": None})])

    assert place.query("select record ->> 'model' from raw.sample_metrics") == [(kept or name,)]


def test_a_database_that_goes_away_is_named_and_nothing_is_lost(place: TestWarehouse) -> None:
    load(place, 0, 0, records(0))

    def answer() -> Iterator[Record]:
        yield from records(0, quantity=9)
        place.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'ai_usage load'")

    with pytest.raises(WarehouseUnavailable, match="PostgreSQL"):
        load(place, 0, 0, answer())

    assert stored(place) == expected(records(0))


def test_the_database_itself_refuses_a_second_current_version(place: TestWarehouse) -> None:
    load(place, 0, 0, records(0))

    with pytest.raises(psycopg.errors.UniqueViolation):
        place.query(
            """
            insert into ops.load (provider, connection_id, stream, scope, usage_date, state, record_count, digest,
                extracted_at, extraction_id, run_id)
            select provider, connection_id, stream, scope, usage_date, state, record_count, digest,
                extracted_at, extraction_id, run_id
            from ops.load
            """
        )


def test_a_day_taken_out_of_the_ledger_comes_back_with_its_records_however_old_it_is(place: TestWarehouse) -> None:
    load(place, 0, 2, records(0, 1, 2))
    before = place.query("select usage_date, state, load_id from ops.slice order by usage_date")
    place.query("delete from ops.slice where usage_date = %s", day(1))

    with place.warehouse.session(LOADER) as session:
        ledger.expect_slices(session, PLACE, Window(day(0), day(2)))
        ledger.retire_gaps(session, PLACE, day(100))

    assert place.query("select usage_date, state, load_id from ops.slice order by usage_date") == before
