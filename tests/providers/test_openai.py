"""OpenAI: every record equals the truth, in as few calls as can be, however the answers are cut into pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import pytest

from ai_usage.core.contract import Connection, Journal, Memory, Record
from ai_usage.core.errors import ConfigurationInvalid, ResponseInvalid
from ai_usage.core.http import Limits
from ai_usage.core.planner import expected_days
from ai_usage.core.slices import Window, windows_covering
from ai_usage.providers.openai import OpenAIProvider
from ai_usage.warehouse.encoding import encode_record
from sandbox.service import Sandbox
from sandbox.simulators.openai import admin_key, usage_only_key
from sandbox.truth.openai import CACHED, COMPANY, LAB, OUTPUT, UNCACHED, OpenAITruth, Organization, Use, dollars
from tests.core.http_server import Server, answer, ok
from tests.providers.aws import TODAY

DAY = timedelta(days=1)
QUICK = Limits(attempts=3, connect_timeout=5, read_timeout=5, answer_timeout=5, patience=60)
STREAMS = [stream.name for stream in OpenAIProvider.streams]
USAGE = [name for name in STREAMS if name != "costs"]
MEASURES = {
    "images": ("images",),
    "audio_speeches": ("characters",),
    "audio_transcriptions": ("seconds",),
    "vector_stores": ("usage_bytes",),
    "code_interpreter_sessions": ("num_sessions",),
    "file_search_calls": ("num_requests",),
}


def days_ago(days: int) -> date:
    return TODAY - days * DAY


@cache
def provider(today: date = TODAY) -> OpenAIProvider:
    """Return the provider on the sandbox's day, one for all like the real one."""
    return OpenAIProvider(today=lambda: today)


def connection(
    sandbox: Sandbox | None,
    organization: Organization = COMPANY,
    *,
    url: str | None = None,
    key: str | None = None,
    limits: Limits = QUICK,
    memory: Memory | None = None,
    **options: Any,
) -> Connection:
    """Return a connection to an organization of the sandbox, or to any address, that never sleeps."""
    journal = Journal()
    client = provider().client(
        key or admin_key(organization),
        connection_id="openai_test",
        base_url=url or f"{sandbox.url if sandbox else ''}/openai",
        journal=journal,
        limits=limits,
        sleep=lambda _: None,
    )
    return Connection("openai_test", options, client, journal=journal, memory=memory or Memory())


def extract(one: Connection, stream: str, first: date, last: date = TODAY) -> list[Record]:
    """Return the records of a window."""
    openai = provider()
    (scope,) = openai.scopes(one)
    return list(openai.extract(one, openai.stream(stream), scope, Window(first, last)))


def truth(sandbox: Sandbox) -> OpenAITruth:
    known = sandbox.truth.of("openai")
    assert isinstance(known, OpenAITruth)
    return known


def place(use: Use, callers: bool) -> dict[str, Any]:
    """Return how a row names what it is about, as far as its endpoint can be grouped."""
    named: dict[str, Any] = {"project_id": use.project.id, "project_name": use.project.name, "model": use.model}
    if use.endpoint == "completions":
        named |= {"batch": use.batch, "service_tier": use.tier}
    named |= {"size": use.size, "source": use.source, "vector_store_id": use.vector_store}
    named |= {"context_level": use.context_level}
    if callers and use.endpoint not in ("vector_stores", "code_interpreter_sessions"):
        named |= {"api_key_id": use.key, "user_id": use.user}
    return {name: value for name, value in named.items() if value is not None}


def numbers(organization: Organization, use: Use, values: Mapping[str, int]) -> dict[str, int]:
    """Return one use's day as the endpoint counts it."""

    def all_of(*names: str) -> int:
        return sum(values.get(name, 0) for name in names)

    if use.endpoint == "completions":
        told = {
            "input_tokens": all_of(*UNCACHED, *CACHED, "cache_write"),
            "output_tokens": all_of(*OUTPUT),
            "num_model_requests": values["requests"],
            "input_cached_tokens": all_of(*CACHED),
            "input_audio_tokens": all_of("input_audio"),
            "output_audio_tokens": all_of("output_audio"),
        }
        told |= {
            "input_cache_write_tokens": all_of("cache_write"),
            "input_uncached_tokens": all_of(*UNCACHED),
            "input_text_tokens": all_of("input_text"),
            "input_image_tokens": all_of("input_image"),
            "input_cached_text_tokens": all_of("cached_text"),
            "input_cached_audio_tokens": all_of("cached_audio"),
            "input_cached_image_tokens": all_of("cached_image"),
            "output_text_tokens": all_of("output_text"),
            "output_image_tokens": all_of("output_image"),
        }
        older = list(told)[:6]
        return told if organization.is_modern else {name: told[name] for name in older}
    if use.endpoint in ("embeddings", "moderations"):
        return {"input_tokens": values["input_text"], "num_model_requests": values["requests"]}
    if use.endpoint == "web_search_calls":
        return {"num_requests": values["searches"], "num_model_requests": values["requests"]}
    (name,) = MEASURES[use.endpoint]
    if use.endpoint in ("images", "audio_speeches", "audio_transcriptions"):
        return {name: values[name], "num_model_requests": values["requests"]}
    return {name: values["amount"]}


def expected(
    sandbox: Sandbox, organization: Organization, stream: str, first: date, last: date = TODAY, callers: bool = False
) -> list[Record]:
    """Return what the truth says the records must be, in no order."""
    if stream == "costs":
        return expected_costs(sandbox, organization, first, last, callers)
    records = []
    for day in Window(first, last).days:
        rows: dict[str, dict[str, Any]] = {}
        for use, values in truth(sandbox).used(organization, stream, day):
            named = place(use, callers)
            row = rows.setdefault(json.dumps(named), named)
            for name, number in numbers(organization, use, values).items():
                row[name] = row.get(name, 0) + number
        records += [Record(day, row) for row in rows.values()]
    return records


def expected_costs(
    sandbox: Sandbox, organization: Organization, first: date, last: date, callers: bool
) -> list[Record]:
    records = []
    for day in Window(first, last).days:
        rows: dict[tuple[Any, ...], tuple[int, Any]] = {}
        for line, cost in truth(sandbox).billed(organization, day):
            key = (line.project.id, line.line_item, line.key if callers else None)
            rows[key] = (rows.get(key, (0, None))[0] + cost, line)
        for (project, line_item, api_key), (cost, line) in rows.items():
            named = {
                "project_id": project,
                "project_name": line.project.name,
                "line_item": line_item,
                "api_key_id": api_key,
                "quantity": Decimal(abs(cost) // 10**12) if line.unit else None,
                "quantity_unit": line.unit,
                "organization_id": None if organization.is_modern else organization.account_id,
            }
            row = {name: value for name, value in named.items() if value is not None}
            records.append(Record(day, row | {"amount": {"value": dollars(cost), "currency": "usd"}}))
    return records


def in_order(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.usage_date, str(sorted(named(record.record).items()))))


def named(record: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in record.items() if isinstance(value, str | bool)}


def page(*buckets: dict[str, Any], next_page: str | None = None) -> dict[str, Any]:
    """Return a page as OpenAI documents it."""
    return {"object": "page", "data": list(buckets), "has_more": next_page is not None, "next_page": next_page}


def bucket(day: date, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    start = int(Window(day, day).start_at.timestamp())
    return {"object": "bucket", "start_time": start, "end_time": start + 86400, "results": list(results), **more}


def read(stream: str, *pages: dict[str, Any], day: date = TODAY - DAY, last: date | None = None) -> list[Record]:
    """Return what is made of pages sent by a server of our own; names of projects cannot be had there."""
    steps = [ok(content) for content in pages]
    refused = ok({"object": "list", "data": [], "has_more": False})
    with Server([*steps, refused]) as server:
        return extract(connection(None, url=server.url), stream, day, last or day)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("organization", [COMPANY, LAB], ids=["company", "lab"])
def test_every_record_of_forty_days_equals_the_truth(sandbox: Sandbox, organization: Organization, stream: str) -> None:
    first = days_ago(30 if stream in USAGE else 39)
    found = extract(connection(sandbox, organization), stream, first)
    assert in_order(found) == in_order(expected(sandbox, organization, stream, first))
    assert found or organization is LAB


@pytest.mark.parametrize("stream", STREAMS)
def test_keys_and_users_are_told_apart_on_request_without_changing_a_total(sandbox: Sandbox, stream: str) -> None:
    first = days_ago(30)
    apart = extract(connection(sandbox, COMPANY, per_key=True, per_user="true"), stream, first)
    assert in_order(apart) == in_order(expected(sandbox, COMPANY, stream, first, callers=True))
    together = extract(connection(sandbox, COMPANY), stream, first)
    assert totals(apart) == totals(together)


def totals(records: list[Record]) -> dict[tuple[date, str], Any]:
    sums: dict[tuple[date, str], Any] = {}
    for day, record in records:
        counts = {name: value for name, value in record.items() if type(value) is int}
        if "amount" in record:
            counts["amount"] = record["amount"]["value"]
        for name, value in counts.items():
            sums[day, name] = sums.get((day, name), 0) + value
    return sums


def test_a_record_has_declared_fields_only(sandbox: Sandbox) -> None:
    for organization in (COMPANY, LAB):
        one = connection(sandbox, organization, per_key=True, per_user=True)
        for stream in provider().streams:
            for _, record in extract(one, stream.name, days_ago(9)):
                assert stream.fields.issuperset(record)


def test_reading_day_by_day_backwards_gives_the_same_as_reading_at_once(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    for stream in ("completions", "costs"):
        at_once = extract(one, stream, days_ago(20))
        by_day = [extract(one, stream, days_ago(n), days_ago(n)) for n in range(21)]
        assert [record for records in reversed(by_day) for record in records] == at_once


def test_a_future_window_costs_no_call(sandbox: Sandbox) -> None:
    assert extract(connection(sandbox), "costs", TODAY + DAY, TODAY + 3 * DAY) == []
    assert sandbox.requests.count() == 0


def test_a_restated_day_is_read_as_restated(sandbox: Sandbox) -> None:
    day = days_ago(2)
    for factor in ("0.5", "1"):
        sandbox.truth.restate(provider="openai", account=LAB.account_id, region="-", day=day, factor=factor)
        for stream in ("completions", "costs"):
            found = extract(connection(sandbox, LAB), stream, day, day)
            assert in_order(found) == in_order(expected(sandbox, LAB, stream, day, day))


# ---------------------------------------------------------------- calls


def test_thirty_days_of_an_organization_cost_twelve_calls(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    for stream in STREAMS:
        extract(one, stream, days_ago(29))
    counted = sandbox.requests.to_json()["calls"]["openai"][COMPANY.account_id]["-"]
    assert counted == dict.fromkeys([*STREAMS, "projects"], 1)
    assert one.journal.calls == 12


@pytest.mark.parametrize(("stream", "days"), [("completions", 31), ("costs", 180)])
def test_the_widest_window_is_one_page(sandbox: Sandbox, stream: str, days: int) -> None:
    assert provider().stream(stream).max_window_days == days
    extract(connection(sandbox), stream, days_ago(days - 1))
    assert sandbox.requests.count(operation=stream) == 1


def test_a_first_year_costs_a_hundred_and_twenty_four_calls(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    for stream in provider().streams:
        expected = expected_days(stream, TODAY, None)
        assert expected
        for window in windows_covering(expected.days, stream.max_window_days):
            extract(one, stream.name, window.first, window.last)
    assert sandbox.requests.count() == one.journal.calls == 124


def test_an_organization_without_usage_is_not_even_asked_for_its_projects(sandbox: Sandbox) -> None:
    extract(connection(sandbox, LAB), "images", days_ago(5))
    assert sandbox.requests.count(operation="projects") == 0


def test_the_connection_is_checked_in_two_calls(sandbox: Sandbox) -> None:
    list(provider().check(connection(sandbox)))
    assert sandbox.requests.count() == 2


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("kind", ["small_pages", "page_twice", "split_bucket"])
@pytest.mark.parametrize("stream", ["completions", "costs", "vector_stores"])
def test_however_an_answer_is_cut_and_repeated_each_row_counts_once(sandbox: Sandbox, stream: str, kind: str) -> None:
    sandbox.faults.add(kind, provider="openai", size=4)
    one = connection(sandbox)
    assert in_order(extract(one, stream, days_ago(20))) == in_order(expected(sandbox, COMPANY, stream, days_ago(20)))
    assert sandbox.requests.count(operation=stream) == {"small_pages": 6}.get(kind, 2)
    assert [note.kind for note in one.journal.notes] == (["rows_repeated"] if kind == "page_twice" else [])


def test_every_parameter_but_the_page_stays_the_same_from_page_to_page() -> None:
    first, second = days_ago(2), days_ago(1)
    with Server([ok(page(bucket(first), next_page="c1")), ok(page(bucket(second)))]) as server:
        extract(connection(None, url=server.url, per_key=True), "completions", first, second)
    targets = [request.target for request in server.requests]
    assert targets[1] == targets[0] + "&page=c1"
    groups = ("project_id", "model", "batch", "service_tier", "api_key_id")
    assert targets[0].endswith("&bucket_width=1d&limit=2&" + "&".join(f"group_by={name}" for name in groups))
    assert "start_time=1786579200&end_time=1786752000&" in targets[0]


def test_lines_of_one_bill_that_look_alike_add_up_but_a_repeated_page_does_not() -> None:
    day = days_ago(1)
    line = {"object": "organization.costs.result", "amount": {"value": "0.10", "currency": "usd"}, "line_item": "x"}
    records = read("costs", page(bucket(day, line, line), next_page="c1"), page(bucket(day, line, line)))
    assert [record["amount"]["value"] for _, record in records] == [Decimal("0.10"), Decimal("0.10")]


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("on_the_wire", "stored"),
    [
        ('"0.012060500000000000000000000"', b"0.012060500000000000000000000"),
        ("0.25", b"0.25"),
        ("3", b"3"),
        ('"-1.50"', b"-1.50"),
        ('"12345678901234567890.123456789012345678901234567"', b"12345678901234567890.123456789012345678901234567"),
        ("0.1000000000000000055511151231257827", b"0.1000000000000000055511151231257827"),
        ('"0E-27"', b"0E-27"),
    ],
)
def test_money_is_the_digits_on_the_wire_whether_text_or_number(on_the_wire: str, stored: bytes) -> None:
    day = days_ago(1)
    row = {"object": "organization.costs.result", "amount": {"value": "HERE", "currency": "usd"}, "line_item": "x"}
    body = json.dumps(page(bucket(day, row))).replace('"HERE"', on_the_wire).encode()
    with Server([answer(200, body)]) as server:
        ((_, record),) = extract(connection(None, url=server.url), "costs", day, day)
    assert b'"value":' + stored + b"}" in encode_record(record)


def test_money_sent_as_numbers_is_the_same_money(sandbox: Sandbox) -> None:
    sandbox.faults.add("money_as_number", provider="openai", operation="costs")
    found = extract(connection(sandbox), "costs", days_ago(9))
    assert in_order(found) == in_order(expected(sandbox, COMPANY, "costs", days_ago(9)))


def test_the_published_example_is_read_as_it_stands() -> None:
    day = date(2026, 9, 1)
    row = {
        "object": "organization.usage.completions.result",
        "input_tokens": 91250,
        "input_cached_tokens": 40960,
        "input_cache_write_tokens": 2048,
        "input_uncached_tokens": 48242,
        "output_tokens": 12875,
        "input_text_tokens": 46110,
        "output_text_tokens": 12300,
        "input_cached_text_tokens": 40448,
        "input_audio_tokens": 1280,
        "input_cached_audio_tokens": 512,
        "output_audio_tokens": 575,
        "input_image_tokens": 852,
        "input_cached_image_tokens": 0,
        "output_image_tokens": 0,
        "num_model_requests": 64,
        "project_id": "proj_k3Xq9demo",
        "user_id": "user-7Hfdemo",
        "api_key_id": "key_Qz81demo",
        "model": "gpt-5-mini-2025-08-07",
        "batch": False,
        "service_tier": "default",
    }
    whole = page(bucket(day, row), bucket(day + DAY))
    assert whole["data"][0]["start_time"] == 1788220800
    with Server([ok(whole), ok({"object": "list", "data": [], "has_more": False})]) as server:
        one = connection(None, url=server.url)
        openai = OpenAIProvider(today=lambda: day + DAY)
        (scope,) = openai.scopes(one)
        records = list(openai.extract(one, openai.stream("completions"), scope, Window(day, day + DAY)))
    assert records == [Record(day, {name: value for name, value in row.items() if name != "object"})]
    assert one.journal.notes == []


@pytest.mark.parametrize(
    ("stream", "row"),
    [
        (
            "embeddings",
            {"object": "organization.usage.embeddings.result", "input_tokens": 5120, "num_model_requests": 16},
        ),
        (
            "moderations",
            {"object": "organization.usage.moderations.result", "input_tokens": 310, "num_model_requests": 4},
        ),
        ("images", {"object": "organization.usage.images.result", "images": 3, "num_model_requests": 3, "size": "1x1"}),
        (
            "audio_speeches",
            {"object": "organization.usage.audio_speeches.result", "characters": 9, "num_model_requests": 2},
        ),
        (
            "audio_transcriptions",
            {"object": "organization.usage.audio_transcriptions.result", "seconds": 184, "num_model_requests": 2},
        ),
        ("vector_stores", {"object": "organization.usage.vector_stores.result", "usage_bytes": 1048576}),
        (
            "code_interpreter_sessions",
            {"object": "organization.usage.code_interpreter_sessions.result", "num_sessions": 5},
        ),
        ("file_search_calls", {"object": "organization.usage.file_searches.result", "num_requests": 7}),
        (
            "web_search_calls",
            {"object": "organization.usage.web_searches.result", "num_requests": 6, "num_model_requests": 4},
        ),
    ],
)
def test_the_other_endpoints_published_rows_are_read_as_they_stand(stream: str, row: dict[str, Any]) -> None:
    row = row | {"project_id": "proj_k3Xq9demo"}
    sent = row | {"user_id": None, "api_key_id": None}
    ((_, record),) = read(stream, page(bucket(days_ago(1), sent)))
    assert record == {name: value for name, value in row.items() if name != "object"}


def test_a_row_whose_dimensions_are_null_is_kept() -> None:
    row = {"object": "organization.usage.embeddings.result", "input_tokens": 1, "num_model_requests": 1}
    nulls = dict.fromkeys(["project_id", "user_id", "api_key_id", "model"])
    assert read("embeddings", page(bucket(days_ago(1), row | nulls))) == [
        Record(days_ago(1), {"input_tokens": 1, "num_model_requests": 1})
    ]


def test_counts_may_come_as_text_or_with_a_zero_fraction() -> None:
    row = {"object": "organization.usage.embeddings.result", "input_tokens": "12", "num_model_requests": 3.0}
    ((_, record),) = read("embeddings", page(bucket(days_ago(1), row)))
    assert record == {"input_tokens": 12, "num_model_requests": 3}


# ---------------------------------------------------------------- what is not known


def test_plain_new_fields_are_kept_apart_and_told_and_texts_and_objects_are_not_stored(sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown_fields", provider="openai")
    one = connection(sandbox)
    for stream in STREAMS:
        one.journal.clear()
        records = extract(one, stream, days_ago(5))
        kept = {"output_reasoning_tokens": 17, "residency": "eu", "cache_ratio": Decimal("0.125")}
        assert all(record["extra_fields"] == kept for _, record in records)
        bare = [Record(day, {n: v for n, v in row.items() if n != "extra_fields"}) for day, row in records]
        assert in_order(bare) == in_order(expected(sandbox, COMPANY, stream, days_ago(5)))
        assert "diary" not in str(records) + str(one.journal.notes)
        told = [note.message for note in one.journal.notes]
        assert [note.kind for note in one.journal.notes] == ["schema_drift"] * 5
        assert sum("is kept in the raw record" in message for message in told) == 3
        assert {message.split(": ")[1].split(".")[0] for message in told if "was not stored" in message} == {
            "last_prompt",
            "details",
        }


def test_a_new_field_is_told_in_the_same_words_every_time(sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown_fields", provider="openai")
    one, other = connection(sandbox), connection(sandbox)
    extract(one, "costs", days_ago(1))
    extract(other, "costs", days_ago(20))
    assert one.journal.notes == other.journal.notes


def test_new_fields_around_the_rows_are_told_too() -> None:
    strange = bucket(days_ago(1), total_cost=3) | {"start_time_iso": "2026-08-14T00:00:00"}
    with Server([ok(page(strange) | {"timezone": "UTC"})]) as server:
        one = connection(None, url=server.url)
        assert extract(one, "costs", days_ago(1), days_ago(1)) == []
    told = [note.message for note in one.journal.notes]
    assert len(told) == 2
    assert "does not know: timezone." in told[0] or "does not know: timezone." in told[1]
    assert any("does not know: total_cost. It was not stored" in message for message in told)


def test_parts_that_do_not_add_up_are_told_and_all_input_stays_what_openai_says() -> None:
    row = {
        "object": "organization.usage.completions.result",
        "input_tokens": 100,
        "input_cached_tokens": 30,
        "input_uncached_tokens": 60,
        "output_tokens": 1,
        "num_model_requests": 1,
    }
    with Server([ok(page(bucket(days_ago(1), row))), ok({"object": "list", "data": [], "has_more": False})]) as server:
        one = connection(None, url=server.url)
        ((_, record),) = extract(one, "completions", days_ago(1), days_ago(1))
    assert record["input_tokens"] == 100
    assert [note.kind for note in one.journal.notes] == ["parts_differ"]


# ---------------------------------------------------------------- names and organizations


def test_names_are_read_once_archived_ones_included_however_many_pages_they_take(sandbox: Sandbox) -> None:
    sandbox.faults.add("small_pages", provider="openai", operation="projects", size=1)
    one = connection(sandbox)
    names = {row.get("project_name") for stream in STREAMS for _, row in extract(one, stream, days_ago(9))}
    assert names == {project.name for project in COMPANY.projects}
    assert sandbox.requests.count(operation="projects") == len(COMPANY.projects)


def test_without_the_permission_for_names_usage_is_read_and_known_names_stay(sandbox: Sandbox) -> None:
    memory = Memory()
    extract(connection(sandbox, memory=memory), "completions", days_ago(9))
    without = connection(sandbox, key=usage_only_key(COMPANY), memory=memory)
    found = extract(without, "completions", days_ago(9))
    assert in_order(found) == in_order(expected(sandbox, COMPANY, "completions", days_ago(9)))
    assert [note.kind for note in without.journal.notes] == ["names_unavailable"]
    assert "api.management.read" in without.journal.notes[0].message

    stranger = connection(sandbox, key=usage_only_key(COMPANY))
    assert all("project_name" not in row for _, row in extract(stranger, "completions", days_ago(9)))


def test_several_organizations_are_read_side_by_side(sandbox: Sandbox) -> None:
    ids = set()
    for found in sandbox.connections():
        if found["provider"] == "openai":
            (scope,) = provider().scopes(connection(None, url="http://127.0.0.1:9", **found["extra"]))
            ids.add((scope.account_id, scope.account_name))
    assert ids == {(one.account_id, one.name) for one in (COMPANY, LAB)}


def test_a_key_of_another_organization_than_the_connection_says_is_refused_where_the_bill_tells(
    sandbox: Sandbox,
) -> None:
    with pytest.raises(ConfigurationInvalid, match="belongs to organization org-SandboxLab"):
        extract(connection(sandbox, LAB, account_id=COMPANY.account_id), "costs", days_ago(5))
    assert extract(connection(sandbox, LAB, account_id=LAB.account_id), "costs", days_ago(5))


@pytest.mark.parametrize("options", [{"per_key": "perhaps"}, {"per_user": 7}, {"account_id": 7}])
def test_a_setting_that_makes_no_sense_is_refused_before_anything_is_asked(
    sandbox: Sandbox, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationInvalid):
        provider().scopes(connection(sandbox, **options))
    assert sandbox.requests.count() == 0


# ---------------------------------------------------------------- answers that are none


@pytest.mark.parametrize(
    "content",
    [
        {"object": "list", "data": [], "has_more": False},
        {"object": "page", "data": {}, "has_more": False},
        page({"object": "bucket", "start_time": 1786665600, "end_time": 1786752000, "result": []}),
        page({"object": "bucket", "start_time": 1786665601, "end_time": 1786752001, "results": []}),
        page({"object": "bucket", "start_time": "1786665600", "end_time": 1786752000, "results": []}),
        page({"object": "bucket", "start_time": 1786665600, "end_time": 1786924800, "results": []}),
        page({"object": "bucket", "start_time": 1786665600, "end_time": 1786752000, "results": [7]}),
        page(bucket(TODAY - DAY)) | {"has_more": "no"},
        page(bucket(TODAY - DAY, {"object": "organization.costs.result", "amount": {"value": "1"}})),
        page(
            bucket(
                TODAY - DAY, {"object": "organization.costs.result", "amount": {"value": "1e99999", "currency": "usd"}}
            )
        ),
        page(
            bucket(TODAY - DAY, {"object": "organization.costs.result", "amount": {"value": "NaN", "currency": "usd"}})
        ),
        page(
            bucket(TODAY - DAY, {"object": "organization.costs.result", "amount": {"value": True, "currency": "usd"}})
        ),
        page(
            bucket(
                TODAY - DAY,
                {
                    "object": "organization.costs.result",
                    "amount": {"value": "1", "currency": "usd"},
                    "line_item": "x" * 513,
                },
            )
        ),
    ],
)
def test_an_answer_that_is_not_the_documented_one_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ResponseInvalid):
        read("costs", content)
