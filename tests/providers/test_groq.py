"""Groq: rates become the counts they came from, to the token, in as few calls as can be; nothing is taken for zero."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import pytest

from ai_usage.core.contract import Connection, Journal, Memory, Record
from ai_usage.core.errors import NotEntitled, ResponseInvalid
from ai_usage.core.http import Limits
from ai_usage.core.planner import expected_days
from ai_usage.core.slices import Window, windows_covering
from ai_usage.providers._groq import WHOLE_WITHIN, is_whole
from ai_usage.providers.groq import GroqProvider
from ai_usage.warehouse.encoding import encode_record
from sandbox.service import Sandbox
from sandbox.simulators.groq import METRICS, api_key, counts
from sandbox.truth.groq import COMPANY, LAB, TOKENS_IN, TOKENS_OUT, GroqTruth, Organization, Use
from tests.core.http_server import Server, ok
from tests.providers.aws import TODAY

DAY = timedelta(days=1)
QUICK = Limits(attempts=3, connect_timeout=5, read_timeout=10, answer_timeout=10, patience=60)


def days_ago(days: int) -> date:
    return TODAY - days * DAY


@cache
def at(day: date, hour: int = 12, minute: int = 0) -> GroqProvider:
    """Return the provider at a time of a day, one for all like the real one."""
    return GroqProvider(now=lambda: datetime.combine(day, time(hour, minute), tzinfo=UTC))


def connection(
    sandbox: Sandbox | None,
    organization: Organization = COMPANY,
    *,
    url: str | None = None,
    key: str | None = None,
    limits: Limits = QUICK,
    **options: Any,
) -> Connection:
    """Return a connection to an organization of the sandbox, or to any address, that never sleeps."""
    journal = Journal()
    client = at(TODAY).client(
        key or api_key(organization),
        connection_id="groq_test",
        base_url=url or f"{sandbox.url if sandbox else ''}/groq{METRICS}",
        journal=journal,
        limits=limits,
        sleep=lambda _: None,
    )
    return Connection("groq_test", options, client, journal=journal, memory=Memory())


def extract(one: Connection, first: date, last: date = TODAY, groq: GroqProvider | None = None) -> list[Record]:
    """Return the records of a window."""
    groq = groq or at(TODAY)
    (scope,) = groq.scopes(one)
    (stream,) = groq.streams
    return list(groq.extract(one, stream, scope, Window(first, last)))


def counted(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record's rates add up to, as staging makes it of them: by meter and status."""
    sums = {name: record[name]["rate_sum"] for name in (TOKENS_IN, TOKENS_OUT) if name in record}
    sums |= {one["status_code"]: one["rate_sum"] for one in record.get("requests", ())}
    with localcontext(prec=60):
        return {name: int((300 * rate_sum).to_integral_value()) for name, rate_sum in sums.items()}


def found(records: list[Record]) -> dict[tuple[date, str, str], dict[str, int]]:
    """Return the counts by day, model and project."""
    places = {
        (day, record.get("model", "no model"), record.get("project_id", "")): counted(record) for day, record in records
    }
    assert len(places) == len(records)
    return places


def expected(
    sandbox: Sandbox, organization: Organization, first: date, last: date = TODAY
) -> dict[tuple[date, str, str], dict[str, int]]:
    """Return what the truth says."""
    return {
        (day, use.raw_model, use.project or ""): values
        for day in Window(first, last).days
        for use, values in truth(sandbox).used(organization, day)
    }


def truth(sandbox: Sandbox) -> GroqTruth:
    known = sandbox.truth.of("groq")
    assert isinstance(known, GroqTruth)
    return known


def matrix(*series: tuple[Mapping[str, str], list[list[Any]]], **more: Any) -> dict[str, Any]:
    """Return a matrix as Groq documents it."""
    result = [{"metric": dict(labels), "values": values} for labels, values in series]
    return {"status": "success", "isPartial": False, "data": {"resultType": "matrix", "result": result}} | more


def instants(day: date) -> list[int]:
    """Return the 288 instants that end the five minutes of a day."""
    midnight = int(datetime.combine(day, time(), tzinfo=UTC).timestamp())
    return [midnight + 300 * n for n in range(1, 289)]


CHAT = {"model": "m", "project_id": "p"}
REQUESTED = CHAT | {"status_code": "200"}


def read(*answers: dict[str, Any], day: date = TODAY - DAY, last: date | None = None) -> list[Record]:
    """Return what is made of the answers for requests, input and output tokens."""
    with Server([ok(answer) for answer in answers]) as server:
        return extract(connection(None, url=server.url), day, last or day)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("organization", [COMPANY, LAB], ids=["company", "lab"])
def test_every_count_of_forty_days_equals_the_truth_to_the_token(sandbox: Sandbox, organization: Organization) -> None:
    one = connection(sandbox, organization)
    records = extract(one, days_ago(39), days_ago(31)) + extract(one, days_ago(30))
    assert found(records) == expected(sandbox, organization, days_ago(39))
    (stream,) = at(TODAY).streams
    assert all(stream.fields.issuperset(record) for _, record in records)
    assert "counts_rounded" not in {note.kind for note in one.journal.notes}


def test_a_series_of_zeros_is_a_zero_and_no_series_is_nothing(sandbox: Sandbox) -> None:
    lingering = next(use for use in COMPANY.uses if use.lingers and use.tokens)
    places = found(extract(connection(sandbox), days_ago(20)))
    mine = [values for (_, model, _), values in places.items() if model == lingering.model]
    assert {TOKENS_IN: 0, TOKENS_OUT: 0, "200": 0} in mine
    sound = [values for (_, model, _), values in places.items() if model == "whisper-large-v3-turbo"]
    assert {"200": 0} in sound
    assert all(set(values) == {"200"} for values in sound)


def test_a_restated_day_is_read_as_restated(sandbox: Sandbox) -> None:
    day = days_ago(2)
    for factor in ("0.5", "1"):
        sandbox.truth.restate(provider="groq", account=LAB.account_id, region="-", day=day, factor=factor)
        assert found(extract(connection(sandbox, LAB), day, day)) == expected(sandbox, LAB, day, day)


def test_reading_day_by_day_backwards_gives_the_same_as_reading_at_once(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    at_once = extract(one, days_ago(6))
    by_day = [extract(one, days_ago(n), days_ago(n)) for n in range(7)]
    assert [record for records in reversed(by_day) for record in records] == at_once


@pytest.mark.parametrize("count", [1, 7, 299, 10**6 + 1, 3 * 10**9 + 1, 2**38 + 1])
def test_any_whole_count_comes_back_exactly_whatever_its_binary_fraction(count: int) -> None:
    spread = [[instant, repr((count + n) / 300)] for n, instant in enumerate(instants(TODAY - DAY))]
    ((_, record),) = read(matrix((REQUESTED, spread)), matrix((CHAT, spread)), matrix((CHAT, spread)))
    total = 288 * count + 287 * 144
    assert counted(record) == {TOKENS_IN: total, TOKENS_OUT: total, "200": total}
    assert is_whole(record[TOKENS_IN]["rate_sum"])
    with localcontext(prec=60):
        assert abs(300 * record[TOKENS_IN]["rate_sum"] - total) <= total * WHOLE_WITHIN / 16, (
            "the bound of doubles: 2^-52"
        )


def test_sums_are_the_digits_on_the_wire_and_never_binary(sandbox: Sandbox) -> None:
    values = [[instant, value] for instant, value in zip(instants(TODAY - DAY), ("0.1", "0.2", "1E-7"), strict=False)]
    values.append([instants(TODAY - DAY)[3], "12345678901234567890.123456789012345678901234567"])
    ((_, record),) = read(matrix((REQUESTED, values)), matrix((CHAT, values)), matrix((CHAT, values)))
    assert b'"tokens_in":{"points":4,"rate_sum":12345678901234567890.423456889012345678901234567}' in encode_record(
        record
    )
    assert not is_whole(record[TOKENS_IN]["rate_sum"])


def test_a_request_that_was_refused_may_have_had_no_model() -> None:
    nameless = {"project_id": "p", "status_code": "404"}
    instant = instants(TODAY - DAY)[0]
    tokens = matrix((CHAT, [[instant, "2"]]))
    records = read(matrix((nameless, [[instant, "1"]])), tokens, tokens)
    assert found(records) == {
        (TODAY - DAY, "no model", "p"): {"404": 300},
        (TODAY - DAY, "m", "p"): {TOKENS_IN: 600, TOKENS_OUT: 600},
    }


def test_the_midnight_that_begins_a_day_belongs_to_the_day_before() -> None:
    first, second = days_ago(2), days_ago(1)
    values = [[instants(first)[287], "1"], [instants(second)[0], "2"], [instants(second)[287], "4"]]
    records = read(*[matrix((CHAT, values))] * 3, day=first, last=second)
    assert [(day, record[TOKENS_IN]) for day, record in records] == [
        (first, {"rate_sum": 1, "points": 1}),
        (second, {"rate_sum": 6, "points": 2}),
    ]


def test_the_question_is_for_288_right_ends_without_the_cache() -> None:
    with Server([ok(matrix((CHAT, [[instants(TODAY - DAY)[0], "1"]])))]) as server:
        extract(connection(None, url=server.url + METRICS), days_ago(1), days_ago(1))
    targets = [request.target for request in server.requests]
    asked = "&start=1786665900&end=1786752000&step=300&nocache=1"
    names = ("_status_code%3Arequests", "%3Atokens_in", "%3Atokens_out")
    query = f"{METRICS}/api/v1/query_range?query=model_project_id"
    assert targets == [f"{query}{name}%3Arate5m{asked}" for name in names]
    assert (1786752000 - 1786665900) // 300 + 1 == 288
    assert server.requests[0].headers["authorization"] == f"Bearer {api_key(COMPANY)}"


def test_today_is_read_as_far_as_it_has_come(sandbox: Sandbox) -> None:
    early = connection(sandbox)
    assert extract(early, TODAY, TODAY, at(TODAY, 0, 5)) == []
    assert early.journal.calls == 0, "the first five minutes are given a minute to arrive"
    records = extract(early, TODAY, TODAY, at(TODAY, 0, 6))
    assert found(records) == expected(sandbox, COMPANY, TODAY)
    assert {record[TOKENS_IN]["points"] for _, record in records if TOKENS_IN in record} == {1}
    assert extract(connection(sandbox), TODAY + DAY, TODAY + 3 * DAY) == []


# ---------------------------------------------------------------- less than exact


@pytest.mark.parametrize("seconds", [1, 60, 299])
def test_rates_taken_between_the_five_minutes_are_off_by_the_edges_of_the_day_at_most(
    sandbox: Sandbox, seconds: int
) -> None:
    sandbox.faults.add("out_of_phase", provider="groq", size=seconds)
    one = connection(sandbox)
    real = expected(sandbox, COMPANY, days_ago(12))
    off = 0
    for day, record in extract(one, days_ago(10), days_ago(1)):
        use = next(
            use for use in COMPANY.uses if (use.model, use.project) == (record.get("model"), record["project_id"])
        )
        for meter, count in counted(record).items():
            edges = [last_five_minutes(use, meter, edge, real) for edge in (day - DAY, day)]
            truth_of_day = real.get((day, use.raw_model, use.project or ""), {}).get(meter, 0)
            assert abs(count - truth_of_day) <= max(edges) * seconds / 300 + 0.5
            off += count != truth_of_day
    assert off
    assert "counts_rounded" in {note.kind for note in one.journal.notes}


def last_five_minutes(use: Use, meter: str, day: date, real: Mapping[tuple[date, str, str], Mapping[str, int]]) -> int:
    total = real.get((day, use.raw_model, use.project or ""), {}).get(meter, 0)
    return counts(use, meter, day, total)[use.hours[1] * 12 - 1]


def test_a_gap_in_the_tokens_counts_as_zero_and_is_told(sandbox: Sandbox) -> None:
    for operation in (TOKENS_IN, TOKENS_OUT):
        sandbox.faults.add("gap", provider="groq", operation=operation, size=4)
    one = connection(sandbox)
    records = extract(one, days_ago(3), days_ago(1))
    real = expected(sandbox, COMPANY, days_ago(3))
    for day, record in records:
        if TOKENS_IN not in record or record["model"] != "openai/gpt-oss-120b":
            continue
        use = COMPANY.uses[2]
        values = real[day, use.raw_model, use.project or ""]
        lost = sum(counts(use, TOKENS_IN, day, values[TOKENS_IN])[-4:])
        assert counted(record)[TOKENS_IN] == values[TOKENS_IN] - lost
        assert record[TOKENS_IN]["points"] == 284
        assert 1 <= record["gaps"] <= 4
    told = [note.message for note in one.journal.notes if note.kind == "gaps"]
    assert len(told) == 3
    assert str(days_ago(3)) in told[0]
    assert one.journal.unsettled == {days_ago(3), days_ago(2), days_ago(1)}


def test_values_that_are_no_numbers_are_skipped_and_told() -> None:
    values = [
        [instant, value] for instant, value in zip(instants(TODAY - DAY), ("1", "NaN", "+Inf", "2"), strict=False)
    ]
    with Server([ok(matrix((CHAT, values)))]) as server:
        one = connection(None, url=server.url)
        ((_, record),) = extract(one, days_ago(1), days_ago(1))
    assert record[TOKENS_IN] == {"rate_sum": 3, "points": 2}
    assert "values_skipped" in {note.kind for note in one.journal.notes}


def test_the_published_example_is_read_as_it_stands() -> None:
    day = date(2026, 9, 1)
    project = "project_01hx3k9v7q"
    example = matrix(
        (
            {"model": "llama-3.3-70b-versatile", "project_id": project},
            [[1788221100, "412.3366667"], [1788221400, "398"], [1788221700, "0"]],
        ),
        ({"model": "openai/gpt-oss-120b", "project_id": project}, [[1788221100, "57.0733333"]]),
        stats={"seriesFetched": "2", "executionTimeMsec": 14},
    )
    with Server([ok(example)]) as server:
        records = extract(connection(None, url=server.url), day, day, at(day + DAY))
    assert [(record["model"], record[TOKENS_IN]) for _, record in records] == [
        ("llama-3.3-70b-versatile", {"rate_sum": Decimal("810.3366667"), "points": 3}),
        ("openai/gpt-oss-120b", {"rate_sum": Decimal("57.0733333"), "points": 1}),
    ]


# ---------------------------------------------------------------- what is not there


def test_an_organization_without_requests_gives_tokens_and_says_so(sandbox: Sandbox) -> None:
    one = connection(sandbox, LAB)
    assert all("requests" not in record for _, record in extract(one, days_ago(9)))
    assert {note.kind for note in one.journal.notes} == {"requests_unknown", "schema_drift"}
    assert sandbox.requests.count(operation="names") == 1


def test_requests_that_exist_and_do_not_come_are_refused(sandbox: Sandbox) -> None:
    sandbox.faults.add("nothing", provider="groq", operation="requests")
    with pytest.raises(ResponseInvalid, match="no requests, although there are some"):
        extract(connection(sandbox), days_ago(9))


@pytest.mark.parametrize("operation", [TOKENS_IN, TOKENS_OUT])
def test_tokens_of_one_kind_without_the_other_are_refused(sandbox: Sandbox, operation: str) -> None:
    sandbox.faults.add("nothing", provider="groq", operation=operation)
    with pytest.raises(ResponseInvalid, match="but no model_project_id:tokens"):
        extract(connection(sandbox), days_ago(9))


@pytest.mark.parametrize(("kept", "unknown"), [(10, 21), (25, 6), (31, 0)])
def test_days_that_groq_has_forgotten_are_left_open_and_never_zero(sandbox: Sandbox, kept: int, unknown: int) -> None:
    sandbox.faults.add("forgets", provider="groq", size=kept)
    one = connection(sandbox)
    records = extract(one, days_ago(30))
    days = {day for day, _ in records}
    assert one.journal.unanswered == {days_ago(n) for n in range(30, 30 - unknown, -1) if days_ago(n) < min(days)}
    assert found(records) == expected(sandbox, COMPANY, days_ago(kept - 1))
    told = [note for note in one.journal.notes if note.kind == "days_unknown"]
    assert len(told) == bool(unknown)
    assert all(f"start_date to {min(days)}" in (note.action or "") for note in told)
    # What is older still is not even asked for, by this client.
    calls = sandbox.requests.count()
    older = extract(one, days_ago(61), days_ago(31))
    assert not unknown or (older == [] and sandbox.requests.count() == calls)


def test_days_without_usage_are_believed_where_groq_keeps_older_ones(sandbox: Sandbox) -> None:
    for n in range(30, 20, -1):
        sandbox.truth.restate(provider="groq", account=COMPANY.account_id, region="-", day=days_ago(n), vanish=True)
    one = connection(sandbox)
    records = extract(one, days_ago(30))
    for n in range(30, 20, -1):
        sandbox.truth.restate(provider="groq", account=COMPANY.account_id, region="-", day=days_ago(n), factor="1")
    assert min(day for day, _ in records) >= days_ago(20)
    assert one.journal.unanswered == set()
    assert sandbox.requests.count() == 4


def test_a_last_week_without_usage_is_believed_and_its_names_are_looked_at(sandbox: Sandbox) -> None:
    sandbox.faults.add("nothing", provider="groq")
    one = connection(sandbox)
    assert extract(one, days_ago(6)) == []
    assert one.journal.unanswered == set()
    assert sandbox.requests.to_json()["calls"]["groq"][COMPANY.account_id]["-"]["names"] == 1


def test_earlier_metrics_are_a_matter_of_the_organization_and_unknown_ones_are_ours(sandbox: Sandbox) -> None:
    sandbox.faults.add("earlier_names", provider="groq")
    with pytest.raises(NotEntitled, match="percentiles"):
        extract(connection(sandbox), days_ago(6))
    sandbox.faults.clear()
    sandbox.faults.add("other_names", provider="groq")
    with pytest.raises(ResponseInvalid, match="other names now: by_model:input_tokens:rate5m"):
        extract(connection(sandbox), days_ago(30))


# ---------------------------------------------------------------- calls


def test_thirty_days_of_an_organization_cost_three_calls(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    extract(one, days_ago(29))
    counted_calls = sandbox.requests.to_json()["calls"]["groq"][COMPANY.account_id]["-"]
    assert counted_calls == {"requests": 1, TOKENS_IN: 1, TOKENS_OUT: 1}
    assert one.journal.calls == 3


def test_a_first_history_costs_nine_calls(sandbox: Sandbox) -> None:
    one, (stream,) = connection(sandbox), at(TODAY).streams
    history = expected_days(stream, TODAY, None)
    assert history
    assert len(history) == 90
    for window in sorted(windows_covering(history.days, stream.max_window_days), reverse=True):
        extract(one, window.first, window.last)
    assert sandbox.requests.count() == one.journal.calls == 9


def test_the_connection_is_checked_in_two_calls(sandbox: Sandbox) -> None:
    list(at(TODAY).check(connection(sandbox)))
    assert sandbox.requests.count() == 2


def test_a_question_that_is_too_large_is_put_in_halves(sandbox: Sandbox) -> None:
    sandbox.faults.add("too_many_points", provider="groq", size=5 * 288)
    assert found(extract(connection(sandbox), days_ago(19))) == expected(sandbox, COMPANY, days_ago(19))
    # Twenty days, ten, five: one, two and four questions for each of three series.
    assert sandbox.requests.count() == 3 * (1 + 2 + 4)


def test_an_answer_that_is_too_large_is_asked_for_in_halves(sandbox: Sandbox) -> None:
    small = Limits(attempts=3, max_body_bytes=600_000)
    one = connection(sandbox, limits=small)
    assert found(extract(one, days_ago(9))) == expected(sandbox, COMPANY, days_ago(9))
    assert 3 < one.journal.calls < 20
    with pytest.raises(ResponseInvalid, match="larger than"):
        extract(connection(sandbox, limits=Limits(attempts=3, max_body_bytes=1000)), days_ago(9))
