"""Replicate: every record equals the truth, in as few calls as can be, and nothing of what people said is ever in one."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from math import ceil
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ai_usage.core.contract import Connection, Journal, Record
from ai_usage.core.errors import ResponseInvalid
from ai_usage.core.http import Limits
from ai_usage.core.planner import expected_days
from ai_usage.core.slices import Window, windows_covering
from ai_usage.providers import _replicate
from ai_usage.providers.replicate import ReplicateProvider
from ai_usage.warehouse.encoding import encode_record
from sandbox.service import Sandbox
from sandbox.simulators.replicate import CONTENT, token
from sandbox.truth.replicate import STUDIO, TINKERER, Account, ReplicateTruth, Run, seconds
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY

DAY = timedelta(days=1)
QUICK = Limits(attempts=3, connect_timeout=5, read_timeout=5, answer_timeout=5, patience=600)
STREAMS = ["predictions", "trainings"]


def days_ago(days: int) -> date:
    return TODAY - days * DAY


@cache
def provider(today: date = TODAY) -> ReplicateProvider:
    """Return the provider on the sandbox's day, one for all like the real one."""
    return ReplicateProvider(today=lambda: today)


def connection(
    sandbox: Sandbox | None,
    account: Account = STUDIO,
    *,
    url: str | None = None,
    key: str | None = None,
    limits: Limits = QUICK,
    sleep: Callable[[float], object] = lambda _: None,
    **options: Any,
) -> Connection:
    """Return a connection to an account of the sandbox, or to any address, that never really sleeps."""
    journal = Journal()
    client = provider().client(
        key or token(account),
        connection_id="replicate_test",
        base_url=url or f"{sandbox.url if sandbox else ''}/replicate",
        journal=journal,
        limits=limits,
        sleep=sleep,
    )
    return Connection("replicate_test", options, client, journal=journal)


def records(one: Connection, stream: str, first: date, last: date = TODAY, today: date = TODAY) -> Iterator[Record]:
    """Return the records of a window as they come."""
    replicate = provider(today)
    (scope,) = replicate.scopes(one)
    return replicate.extract(one, replicate.stream(stream), scope, Window(first, last))


def extract(one: Connection, stream: str, first: date, last: date = TODAY, today: date = TODAY) -> list[Record]:
    return list(records(one, stream, first, last, today))


def runs(sandbox: Sandbox, account: Account, stream: str, first: date, last: date = TODAY) -> list[tuple[date, Run]]:
    """Return the truth's runs, newest first."""
    truth = sandbox.truth.of("replicate")
    assert isinstance(truth, ReplicateTruth)
    days = reversed(list(Window(first, last).days))
    return [(day, run) for day in days for run in truth.runs(account, stream, day)]


def expected(sandbox: Sandbox, account: Account, stream: str, first: date, last: date = TODAY) -> list[Record]:
    """Return what the truth says the records must be, newest first."""
    return [Record(day, kept(run)) for day, run in runs(sandbox, account, stream, first, last)]


def kept(run: Run) -> dict[str, Any]:
    """Return all that may be kept of a run."""
    metrics = {
        "predict_time": None if run.microseconds is None else seconds(run.microseconds),
        "input_token_count": run.input_tokens,
        "output_token_count": run.output_tokens,
    }
    told = {
        "id": run.id,
        "model": run.use.model,
        "version": run.use.version,
        "status": run.status,
        "source": run.use.source,
        "deployment": run.use.deployment,
        "created_at": zulu(run.created_at),
        "started_at": zulu(run.started_at),
        "completed_at": zulu(run.completed_at),
        "metrics": {name: value for name, value in metrics.items() if value is not None},
    }
    return {name: value for name, value in told.items() if value is not None}


def zulu(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def by_id(found: list[Record]) -> list[Record]:
    return sorted(found, key=lambda record: record.record["id"])


def a_run(day: date = TODAY - DAY, changes: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a prediction as Replicate documents it, with changes; ``...`` leaves a field out."""
    row = {
        "id": "q7k2m9x4c1rmt0cab3d9e8f7g6",
        "model": "acme/product-shots",
        "version": "hidden",
        "input": {"prompt": CONTENT},
        "output": None,
        "error": None,
        "status": "succeeded",
        "created_at": f"{day}T12:00:00.123456Z",
        "started_at": f"{day}T12:00:00.1Z",
        "completed_at": f"{day}T12:00:09Z",
        "metrics": {"predict_time": 8.5},
    }
    return {name: value for name, value in {**row, **(changes or {}), **more}.items() if value is not ...}


def page(*rows: dict[str, Any], link: str | None = None) -> dict[str, Any]:
    return {"next": link, "previous": None, "results": list(rows)}


ACCOUNT = ok({"type": "user", "username": "somebody", "name": "Some Body"})


def read(*rows: dict[str, Any], first: date = TODAY - DAY, last: date | None = None) -> tuple[list[Record], Journal]:
    """Return what is made of runs sent by a server of our own."""
    with Server([ACCOUNT, ok(page(*rows))]) as server:
        one = connection(None, url=server.url)
        return extract(one, "predictions", first, last or TODAY), one.journal


def kinds(journal: Journal) -> list[str]:
    return [note.kind for note in journal.notes]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("account", [STUDIO, TINKERER], ids=["studio", "tinkerer"])
def test_every_record_of_sixty_days_equals_the_truth(sandbox: Sandbox, account: Account, stream: str) -> None:
    found = extract(connection(sandbox, account), stream, days_ago(59))
    assert by_id(found) == by_id(expected(sandbox, account, stream, days_ago(59)))
    assert len(found) > 20
    fields = provider().stream(stream).fields
    assert all(fields.issuperset(record) for _, record in found)


@pytest.mark.parametrize("fault", [None, "unknown_fields", "page_twice", "ended_between"])
@pytest.mark.parametrize("stream", STREAMS)
def test_no_record_holds_anything_that_people_said(sandbox: Sandbox, stream: str, fault: str | None) -> None:
    if fault:
        sandbox.faults.add(fault, provider="replicate")
    for account in (STUDIO, TINKERER):
        one = connection(sandbox, account)
        found = extract(one, stream, days_ago(30))
        text = b"".join(encode_record(record) for _, record in found).decode()
        assert found[0].record["id"] in text
        assert "canary" not in text + str(one.journal)


def test_of_unknown_fields_only_the_numbers_among_the_metrics_are_kept(sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown_fields", provider="replicate")
    one = connection(sandbox)
    found = extract(one, "predictions", days_ago(1), days_ago(1))
    extras = {"metrics.image_count": 3, "metrics.video_seconds": Decimal("5.5")}
    assert by_id(found) == by_id(
        [
            Record(day, {**record, "extra_fields": extras})
            for day, record in expected(sandbox, STUDIO, "predictions", days_ago(1), days_ago(1))
        ]
    )
    told = [note.message for note in one.journal.notes if note.kind == "schema_drift"]
    assert all(note.kind in ("schema_drift", "no_predict_time") for note in one.journal.notes)
    names = ["metrics.image_count", "metrics.video_seconds", "mood", "prompt_preview", "details", "metrics.caption"]
    assert all(any(f": {name}. " in message for message in told) for name in names)
    assert not any("sunny" in message for message in told)


def test_reading_day_by_day_backwards_gives_the_same_as_reading_at_once(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    for stream in STREAMS:
        at_once = extract(one, stream, days_ago(20))
        assert [record for n in range(21) for record in extract(one, stream, days_ago(n), days_ago(n))] == at_once


def test_a_run_that_ends_after_midnight_counts_on_the_day_it_was_created(sandbox: Sandbox) -> None:
    late = [run for day, run in runs(sandbox, STUDIO, "predictions", days_ago(9)) if run.use.shape == "late"]
    assert any(run.completed_at and run.completed_at.date() > run.created_at.date() for run in late)
    found = {record["id"]: day for day, record in extract(connection(sandbox), "predictions", days_ago(9))}
    assert {run.id: run.created_at.date() for run in late}.items() <= found.items()


def test_a_time_of_another_zone_counts_on_its_utc_day() -> None:
    found, _ = read(a_run(created_at=f"{TODAY}T00:30:00+02:00"))
    assert [day for day, _ in found] == [TODAY - DAY]


def test_a_restated_day_is_read_as_restated(sandbox: Sandbox) -> None:
    day = days_ago(2)
    for change in ({"factor": "0.5"}, {"vanish": True}, {"factor": "1"}):
        sandbox.truth.restate(provider="replicate", account=TINKERER.account_id, region="-", day=day, **change)
        found = extract(connection(sandbox, TINKERER), "predictions", day, day)
        assert by_id(found) == by_id(expected(sandbox, TINKERER, "predictions", day, day))
        assert bool(found) != ("vanish" in change)


@pytest.mark.parametrize("told", [8.5, "8.5", 0, "0", 12, 1e-7, "400000.123456"])
def test_compute_time_is_taken_digit_by_digit_as_a_number_or_as_text(told: Any) -> None:
    ((_, record),) = read(a_run(metrics={"predict_time": told, "total_time": 99}))[0]
    assert record["metrics"] == {"predict_time": Decimal(str(told))}


@pytest.mark.parametrize("metrics", [{}, None, ..., {"predict_time": None}, {"total_time": 5}])
def test_compute_time_that_is_not_told_is_not_guessed_from_the_clock(metrics: Any) -> None:
    ((_, record),), journal = read(a_run(metrics=metrics))
    assert record["metrics"] == {}
    assert kinds(journal) == ["no_predict_time"]
    assert read(a_run(status="aborted", started_at=None, metrics=metrics))[1].notes == []


@pytest.mark.parametrize(
    "missing", ["version", "source", "deployment", "started_at", "completed_at", "output", "input"]
)
def test_what_older_answers_leave_out_is_not_missed(missing: str) -> None:
    left_out, empty = ({missing: value} for value in (..., None))
    ((_, record),), _ = read(a_run(changes=left_out))
    assert missing not in record
    assert read(a_run(changes=empty))[0] == [(TODAY - DAY, record)]


# ---------------------------------------------------------------- runs that have not ended


def test_days_with_runs_under_way_stay_open_until_they_end(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    under_way = {day for day, run in runs(sandbox, STUDIO, "predictions", days_ago(20)) if run.status == "processing"}
    assert min(under_way) < days_ago(3), "one of them is older than the look-back"
    assert by_id(extract(one, "predictions", days_ago(20))) == by_id(
        expected(sandbox, STUDIO, "predictions", days_ago(20))
    )
    assert one.journal.unsettled == under_way

    try:
        sandbox.clock.move_to(TODAY + 5 * DAY)
        one.journal.clear()
        later = extract(one, "predictions", days_ago(20), today=TODAY + 5 * DAY)
        assert by_id(later) == by_id(expected(sandbox, STUDIO, "predictions", days_ago(20)))
        assert all(record["status"] != "processing" for _, record in later)
        assert one.journal.unsettled == set()
    finally:
        sandbox.clock.move_to(TODAY)


@pytest.mark.parametrize("status", ["starting", "processing"])
@pytest.mark.parametrize(("age", "is_waited_for"), [(30, True), (31, False)])
def test_a_run_that_never_ends_is_given_up_after_thirty_days(status: str, age: int, is_waited_for: bool) -> None:
    found, journal = read(a_run(days_ago(age), status=status, completed_at=None, metrics=None), first=days_ago(age))
    assert len(found) == 1
    assert journal.unsettled == ({days_ago(age)} if is_waited_for else set())
    assert kinds(journal) == ([] if is_waited_for else ["never_ended"])


def test_of_a_status_that_nobody_knows_the_end_tells_whether_it_has_ended(sandbox: Sandbox) -> None:
    assert read(a_run(status="evaporated"))[1].unsettled == set()
    assert read(a_run(status="queued", completed_at=None))[1].unsettled == {TODAY - DAY}
    sandbox.faults.add("unknown_status", provider="replicate")
    found = extract(connection(sandbox), "predictions", days_ago(3))
    assert {record["status"] for _, record in found} == {"evaporated"}


def test_a_run_that_ends_between_two_pages_is_counted_once_and_looked_at_again(sandbox: Sandbox) -> None:
    sandbox.faults.add("ended_between", provider="replicate")
    one = connection(sandbox, TINKERER)
    found = extract(one, "predictions", days_ago(59))
    truth = expected(sandbox, TINKERER, "predictions", days_ago(59))
    assert sorted(record["id"] for _, record in found) == sorted(record["id"] for _, record in truth)
    waiting = {day for day, record in found if record["status"] == "processing"}
    assert waiting
    assert one.journal.unsettled == {day for day in waiting if day >= days_ago(30)}


# ---------------------------------------------------------------- calls


def test_thirty_days_cost_one_call_per_hundred_runs(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    fewest = 0
    for stream in provider().streams:
        for window in windows_covering(Window(days_ago(29), TODAY).days, stream.max_window_days):
            extract(one, stream.name, window.first, window.last)
            if stream.name == "predictions":
                fewest += max(1, ceil(len(runs(sandbox, STUDIO, "predictions", window.first, window.last)) / 100))
    everything = len(runs(sandbox, STUDIO, "predictions", days_ago(29)))
    counted = sandbox.requests.to_json()["calls"]["replicate"][STUDIO.account_id]["-"]
    assert (everything, counted) == (1335, {"account": 1, "predictions": 14, "trainings": 1})
    assert fewest == ceil(everything / 100) == 14, "a page holds a hundred, and no parameter makes it hold more"


def test_a_first_year_without_a_single_run_costs_fourteen_calls() -> None:
    with Server([ACCOUNT, ok(page())]) as server:
        one = connection(None, url=server.url)
        for stream in provider().streams:
            wanted = expected_days(stream, TODAY, None)
            assert wanted
            for window in windows_covering(wanted.days, stream.max_window_days):
                assert extract(one, stream.name, window.first, window.last) == []
    assert one.journal.calls == 1 + 12 + 1


def test_trainings_are_walked_no_further_than_the_window_reaches(sandbox: Sandbox) -> None:
    sandbox.faults.add("small_pages", provider="replicate", size=10)
    one = connection(sandbox)
    found = extract(one, "trainings", days_ago(9), days_ago(5))
    assert by_id(found) == by_id(expected(sandbox, STUDIO, "trainings", days_ago(9), days_ago(5)))
    newer = len(runs(sandbox, STUDIO, "trainings", days_ago(9)))
    assert sandbox.requests.count(operation="trainings") == ceil((newer + 1) / 10)


def test_a_future_window_costs_no_call(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    (scope,) = provider().scopes(one)
    window = Window(TODAY + DAY, TODAY + 3 * DAY)
    assert list(provider().extract(one, provider().stream("predictions"), scope, window)) == []
    assert sandbox.requests.count(operation="predictions") == 0


def test_the_connection_is_checked_in_three_calls(sandbox: Sandbox) -> None:
    list(provider().check(connection(sandbox)))
    assert sandbox.requests.count() == 3


# ---------------------------------------------------------------- pages

CUTS = ["small_pages", "page_twice", "boundary_repeats", "empty_pages", "dates_lost", "dates_ignored", "out_of_order"]


@pytest.mark.parametrize("fault", CUTS)
@pytest.mark.parametrize("stream", STREAMS)
def test_however_a_list_is_cut_and_repeated_each_run_counts_once(sandbox: Sandbox, stream: str, fault: str) -> None:
    sandbox.faults.add("small_pages", provider="replicate", size=7)
    if fault != "small_pages":
        sandbox.faults.add(fault, provider="replicate")
    one = connection(sandbox)
    found = extract(one, stream, days_ago(9), days_ago(3))
    assert by_id(found) == by_id(expected(sandbox, STUDIO, stream, days_ago(9), days_ago(3)))
    assert set(kinds(one.journal)) <= {"no_predict_time"}


def test_runs_of_one_instant_are_neither_lost_nor_doubled_at_the_edge_of_a_page(sandbox: Sandbox) -> None:
    burst = [run for _, run in runs(sandbox, STUDIO, "predictions", days_ago(9)) if run.use.shape == "burst"]
    assert len(burst) > len({run.created_at for run in burst})
    sandbox.faults.add("small_pages", provider="replicate", size=1)
    found = [record["id"] for _, record in extract(connection(sandbox), "predictions", days_ago(9))]
    assert len(found) == len(set(found))
    assert {run.id for run in burst} <= set(found)


def test_a_next_that_forgot_the_dates_is_followed_to_the_end_of_the_window_only(sandbox: Sandbox) -> None:
    sandbox.faults.add("dates_lost", provider="replicate")
    extract(connection(sandbox), "predictions", days_ago(6), days_ago(3))
    asked = len(runs(sandbox, STUDIO, "predictions", days_ago(6), days_ago(3)))
    assert sandbox.requests.count(operation="predictions") == asked // 100 + 1


def test_the_first_page_is_asked_for_by_date_and_left_open_at_its_end_today() -> None:
    for last, query in (
        (days_ago(1), "created_after=2026-08-13T00%3A00%3A00Z&created_before=2026-08-15T00%3A00%3A00Z"),
        (TODAY, "created_after=2026-08-13T00%3A00%3A00Z"),
    ):
        with Server([ACCOUNT, ok(page())]) as server:
            extract(connection(None, url=f"{server.url}/v1"), "predictions", days_ago(2), last)
        assert [request.target for request in server.requests] == ["/v1/account", f"/v1/predictions?{query}"]


def test_next_is_followed_as_it_stands() -> None:
    # What a parser would put in order: a repeated name, an empty value, escapes, a bare plus sign.
    odd = "/v1/predictions?cursor=cD0yMDI2%2BLTA5+x%3D&created_after=&b=1&a=%20&b=2"
    steps = [ACCOUNT]
    with Server(steps) as server:
        steps += [ok(page(a_run(), link=server.url + odd)), ok(page())]
        extract(connection(None, url=f"{server.url}/v1"), "predictions", days_ago(2))
    assert server.requests[2].target == odd


def test_a_list_that_turns_out_to_be_oldest_first_is_read_to_its_end() -> None:
    old = [a_run(days_ago(n), id=f"old{n}") for n in (9, 8)]
    with Server([ACCOUNT]) as server:
        server.steps += [ok(page(*old, link=f"{server.url}/trainings?cursor=2")), ok(page(a_run()))]
        assert len(extract(connection(None, url=server.url), "trainings", days_ago(2))) == 1


# ---------------------------------------------------------------- memory


def many(
    server_url: str, pages: int, per_page: int = 100, newest_first: bool = True, said: str = CONTENT * 200
) -> Callable[..., None]:
    """Return a list of so many pages, made up as they are asked for; each run brings some kilobytes of content."""
    start = datetime(2026, 8, 14, 23, 0, 0)

    def step(connection: Any, request: Any) -> None:
        if request.target.endswith("/account"):
            ACCOUNT(connection, request)
            return
        number = int(parse_qs(urlsplit(request.target).query).get("cursor", ["0"])[0])
        rows = []
        for n in range(number * per_page, (number + 1) * per_page):
            moment = start + timedelta(milliseconds=-n if newest_first else n)
            run = a_run(id=f"run{n}", created_at=f"{moment.isoformat()}Z", output=said)
            rows.append(run)
        link = f"{server_url}/predictions?cursor={number + 1}" if number + 1 < pages else None
        answer(200, json.dumps(page(*rows, link=link)).encode())(connection, request)

    return step


def test_memory_does_not_grow_with_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replicate, "REMEMBERED_RUNS", 2_000)

    def peak(pages: int) -> int:
        steps: list[Any] = []
        with Server(steps) as server:
            # Little is said, since it is chance how many pages the stand-in and the reader hold at the same moment.
            steps.append(many(server.url, pages, said=CONTENT * 20))
            found = records(connection(None, url=server.url), "predictions", days_ago(1), days_ago(1))
            tracemalloc.start()
            assert sum(1 for _ in found) == pages * 100
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    short, long = peak(30), peak(120)
    assert long < short + 500_000, f"{short} bytes for 30 pages, {long} for 120"


def test_a_list_out_of_order_is_read_while_repetitions_can_be_told_and_refused_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def count(remembered: int) -> int:
        monkeypatch.setattr(_replicate, "REMEMBERED_RUNS", remembered)
        steps: list[Any] = []
        with Server(steps) as server:
            steps.append(many(server.url, 3, newest_first=False))
            return len(extract(connection(None, url=server.url), "predictions", days_ago(1), days_ago(1)))

    # The 299th run makes the first one forgotten, and the 300th could be that one again.
    assert count(299) == 300
    with pytest.raises(ResponseInvalid, match="too far out of order"):
        count(298)
