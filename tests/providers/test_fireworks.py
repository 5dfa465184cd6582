"""Fireworks AI: every record equals the truth, in as few calls as can be; gauges are summed exactly and never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ai_usage.core.contract import Connection, Journal, Record, Scope
from ai_usage.core.errors import ConfigurationInvalid, RateLimited, ResponseInvalid, SourceUnavailable, UsageError
from ai_usage.core.http import Limits
from ai_usage.core.planner import expected_days
from ai_usage.core.slices import Window, windows_covering
from ai_usage.providers._fireworks import SERVERLESS_ITEMS
from ai_usage.providers.fireworks import FireworksProvider
from sandbox.service import Sandbox
from sandbox.simulators.fireworks import admin_key
from sandbox.truth.fireworks import LAB, NO_MODEL, PRODUCTION, RESEARCH, Account, FireworksTruth
from tests.core.http_server import Server, Step, answer, ok
from tests.providers.aws import TODAY

DAY = timedelta(days=1)
NOON = datetime.combine(TODAY, datetime.min.time(), tzinfo=UTC) + timedelta(hours=12)
QUICK = Limits(attempts=3, connect_timeout=5, read_timeout=5, answer_timeout=5, patience=60)
Rows = list[tuple[date, dict[str, Any]]]


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now
        self.slept: list[float] = []
        self.provider = FireworksProvider(now=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


STANDING = Clock()


def days_ago(days: int) -> date:
    return TODAY - days * DAY


def connection(
    sandbox: Sandbox | None,
    account: Account = PRODUCTION,
    *,
    url: str | None = None,
    key: str | None = None,
    limits: Limits = QUICK,
    stored: Sequence[Mapping[str, Any]] = (),
    **settings: Any,
) -> Connection:
    """Return a connection to an account of the sandbox, or to any address, that never waits."""
    journal = Journal()
    client = STANDING.provider.client(
        key or admin_key(account),
        connection_id="fireworks_test",
        base_url=url or f"{sandbox.url if sandbox else ''}/fireworks",
        journal=journal,
        limits=limits,
        sleep=lambda _: None,
    )
    return Connection("fireworks_test", settings, client, journal=journal, stored=lambda *_: stored)


def extract(
    one: Connection,
    stream: str,
    first: date,
    last: date = TODAY,
    account: Account = PRODUCTION,
    clock: Clock | None = None,
) -> list[Record]:
    """Return the records of a window."""
    fireworks = (clock or STANDING).provider
    return list(fireworks.extract(one, fireworks.stream(stream), Scope(account.account_id), Window(first, last)))


def truth(sandbox: Sandbox) -> FireworksTruth:
    known = sandbox.truth.of("fireworks")
    assert isinstance(known, FireworksTruth)
    return known


def expected_usage(sandbox: Sandbox, account: Account, first: date, last: date = TODAY) -> Rows:
    """Return what the truth says the metered records must be, in no order."""
    rows: Rows = []
    for day in Window(first, last).days:
        for use, values in truth(sandbox).used(account, "serverless", day):
            row: dict[str, Any] = {"list": "serverlessCosts", "usageType": use.usage_type}
            row |= {"group": {"model_name": use.model}, "promptTokens": values["prompt"]}
            row |= {"completionTokens": values["completion"], "audioInputSeconds": values["audio"]}
            if account.is_modern:
                parts = {
                    "cachedPromptTokens": values["cached"],
                    "uncachedPromptTokens": values["prompt"] - values["cached"],
                }
                row |= parts | {"modelName": use.model, "costNanoUsd": 0}
            rows.append((day, row))
        for use, values in truth(sandbox).used(account, "dedicated", day):
            row = {
                "list": "dedicatedCosts",
                "deploymentId": use.name,
                "baseModel": use.model,
                "placement": use.placement,
            }
            row |= {"acceleratorType": use.accelerator, "acceleratorSeconds": values["seconds"]}
            row |= {"usageType": "DEDICATED_DEPLOYMENT_USAGE"}
            group = {"deployment_name": f"accounts/{account.account_id}/deployments/{use.name}"}
            rows.append((day, row | {"group": group}))
        for use, values in truth(sandbox).used(account, "training", day):
            row = {"list": "trainingCosts", "jobId": use.name, "jobType": "SFT", "baseModel": use.model}
            row |= {"acceleratorType": use.accelerator, "acceleratorSeconds": values["seconds"]}
            rows.append((day, row | {"tokens": values["seconds"] * 3}))
    return rows


def money(amount: Mapping[str, Any]) -> int:
    return int(amount["units"]) * 10**9 + int(amount["nanos"])


def in_order(rows: Sequence[tuple[date, Mapping[str, Any]]]) -> Rows:
    return sorted(((day, dict(row)) for day, row in rows), key=lambda one: (one[0], str(sorted(one[1].items()))))


def metered(records: list[Record]) -> Rows:
    return in_order([(day, row) for day, row in records if not str(row["list"]).endswith("Items")])


def costs(records: list[Record]) -> dict[tuple[date, str], int]:
    return {(day, row["dimensions"].get("model", NO_MODEL)): money(row["subtotal"]) for day, row in records}


def expected_costs(sandbox: Sandbox, account: Account, first: date, last: date = TODAY) -> dict[tuple[date, str], int]:
    return {
        (day, use.model): values["cost"]
        for day in Window(first, last).days
        for kind in ("serverless", "unattributed")
        for use, values in truth(sandbox).used(account, kind, day)
    }


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("account", [PRODUCTION, RESEARCH, LAB], ids=lambda account: account.account_id)
def test_every_metered_record_of_a_month_equals_the_truth(sandbox: Sandbox, account: Account) -> None:
    key = admin_key(LAB if account is LAB else PRODUCTION)
    found = extract(connection(sandbox, key=key), "usage", days_ago(30), account=account)
    assert metered(found) == in_order(expected_usage(sandbox, account, days_ago(30)))
    assert {row["list"] for _, row in metered(found)} >= {"serverlessCosts"}


@pytest.mark.parametrize("account", [PRODUCTION, RESEARCH, LAB], ids=lambda account: account.account_id)
def test_every_cost_of_a_month_equals_the_truth_to_the_billionth(sandbox: Sandbox, account: Account) -> None:
    one = connection(sandbox, key=admin_key(LAB if account is LAB else PRODUCTION))
    found = extract(one, "costs", days_ago(30), account=account)
    assert costs(found) == expected_costs(sandbox, account, days_ago(30))
    assert len(found) == len(costs(found))


@pytest.mark.parametrize("account", [PRODUCTION, LAB], ids=["daily summary", "older server"])
def test_lines_of_what_is_not_shared_are_kept_and_those_of_shared_models_only_where_they_are_needed(
    sandbox: Sandbox, account: Account
) -> None:
    records = extract(connection(sandbox, account), "usage", days_ago(9), account=account)
    for day in Window(days_ago(9), TODAY).days:
        uses = [one for kind in ("dedicated", "training") for one in truth(sandbox).used(account, kind, day)]
        lines = [row for on, row in records if on == day and row["list"] == "lineItems"]
        assert sorted(money(row["totalCost"]) for row in lines) == sorted(values["cost"] for _, values in uses)
        shared = [row for on, row in records if on == day and row["list"] == SERVERLESS_ITEMS]
        prompts = sum(values["prompt"] for _, values in truth(sandbox).used(account, "serverless", day))
        told = sum(row["quantity"] for row in shared if "input" in row["category"])
        assert told == (0 if account.is_modern else prompts)


def test_a_record_has_declared_fields_only_and_no_words_of_customers(sandbox: Sandbox) -> None:
    fireworks = STANDING.provider
    for account in (PRODUCTION, LAB):
        for stream in ("usage", "costs", "throughput"):
            first = TODAY if stream == "throughput" else days_ago(9)
            for _, record in extract(connection(sandbox, account, readings_per_run=1), stream, first, account=account):
                assert fireworks.stream(stream).fields.issuperset(record)
                assert "diary" not in str(record)


def test_reading_day_by_day_gives_the_same_as_reading_at_once(sandbox: Sandbox) -> None:
    for account in (PRODUCTION, LAB):
        one = connection(sandbox, account)
        for stream in ("usage", "costs"):
            at_once = extract(one, stream, days_ago(5), account=account)
            by_day = [record for n in range(6) for record in extract(one, stream, days_ago(n), days_ago(n), account)]
            assert in_order(by_day) == in_order(at_once)


def test_a_restated_day_is_read_as_restated(sandbox: Sandbox) -> None:
    for factor in ("0.3", "1"):
        sandbox.truth.restate(provider="fireworks", account="acme-lab", region="-", day=days_ago(2), factor=factor)
        one = connection(sandbox, LAB)
        found = extract(one, "usage", days_ago(2), days_ago(2), LAB)
        assert metered(found) == in_order(expected_usage(sandbox, LAB, days_ago(2), days_ago(2)))
        found = extract(one, "costs", days_ago(2), days_ago(2), LAB)
        assert costs(found) == expected_costs(sandbox, LAB, days_ago(2), days_ago(2))


# ---------------------------------------------------------------- calls and accounts


def test_thirty_days_of_an_account_cost_five_calls(sandbox: Sandbox) -> None:
    one = connection(sandbox, readings_per_run=1)
    for stream in ("usage", "costs", "throughput"):
        extract(one, stream, TODAY if stream == "throughput" else days_ago(29))
    assert sandbox.requests.to_json()["calls"]["fireworks"]["acme-prod"]["-"] == dict.fromkeys(
        ["accounts", "usage", "summary", "costs", "metrics"], 1
    )
    assert one.journal.calls == 5


def test_an_older_server_is_asked_for_the_line_items_of_each_day(sandbox: Sandbox) -> None:
    extract(connection(sandbox, LAB), "usage", days_ago(29), account=LAB)
    counted = sandbox.requests.to_json()["calls"]["fireworks"]["acme-lab"]["-"]
    assert counted == {"accounts": 1, "usage": 1, "summary": 31}


def test_a_first_year_costs_thirty_seven_calls(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    fireworks = STANDING.provider
    for stream in fireworks.streams[:2]:
        expected = expected_days(stream, TODAY, None)
        assert expected
        for window in windows_covering(expected.days, stream.max_window_days):
            extract(one, stream.name, window.first, window.last)
    assert sandbox.requests.count() == 37


def test_accounts_are_scopes_and_a_connection_may_choose(sandbox: Sandbox) -> None:
    fireworks = STANDING.provider
    names = [(scope.name, scope.account_id, scope.account_name) for scope in fireworks.scopes(connection(sandbox))]
    assert names == [
        ("acme-prod", "acme-prod", "Acme production"),
        ("acme-research", "acme-research", "Acme research"),
    ]
    chosen = fireworks.scopes(connection(sandbox, accounts=" accounts/acme-research ,"))
    assert [scope.name for scope in chosen] == ["acme-research"]


def test_accounts_on_several_pages_are_all_found(sandbox: Sandbox) -> None:
    sandbox.faults.add("small_pages", provider="fireworks", operation="accounts")
    assert len(STANDING.provider.scopes(connection(sandbox))) == 2
    assert sandbox.requests.count(operation="accounts") == 2


@pytest.mark.parametrize("stream", ["usage", "costs", "throughput"])
def test_an_account_that_the_key_does_not_reach_is_refused_although_it_would_answer_with_nothing(
    sandbox: Sandbox, stream: str
) -> None:
    typo = Account("acme-prd", "", ())
    with pytest.raises(ConfigurationInvalid, match=r"'acme-prd'; it reaches acme-prod, acme-research"):
        extract(connection(sandbox, accounts="acme-prd"), stream, TODAY, account=typo)
    assert sandbox.requests.count() == 1


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("kind", ["small_pages", "empty_page", "page_twice"])
def test_however_costs_are_cut_and_repeated_each_counts_once(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="fireworks", operation="costs", size=7)
    one = connection(sandbox)
    assert costs(extract(one, "costs", days_ago(20))) == expected_costs(sandbox, PRODUCTION, days_ago(20))
    assert [note.kind for note in one.journal.notes] == (["rows_repeated"] if kind == "page_twice" else [])


def test_a_metered_row_that_is_there_twice_counts_once(sandbox: Sandbox) -> None:
    sandbox.faults.add("row_twice", provider="fireworks", operation="usage")
    one = connection(sandbox)
    assert metered(extract(one, "usage", days_ago(9))) == in_order(expected_usage(sandbox, PRODUCTION, days_ago(9)))
    assert [note.kind for note in one.journal.notes] == ["rows_repeated"]


# ---------------------------------------------------------------- gauges

LABELS = 'base_model="accounts/fireworks/models/deepseek-v3",deployment="accounts/a/deployments/d1",deployment_id="d1"'


def text(
    prompt: str | None, cached: str | None = "0", requests: str = "0", labels: str = LABELS, end: str = "\n"
) -> Step:
    """Return an answer with one deployment's rates."""
    rates = {"tokens_prompt_total": prompt, "tokens_cached_prompt_total": cached, "request_counter_total": requests}
    lines = [f"{name}:sum_by_deployment{{{labels}}} {rate}" for name, rate in rates.items() if rate is not None]
    lines.append(f"generator_kv_blocks_fraction:avg_by_deployment{{{labels}}} 0.31 1788220800000")
    return answer(200, ("# HELP x\n" + "\n".join(lines) + end).encode(), Content_Type="text/plain; version=0.0.4")


NOTHING_RUNS = answer(200, b"# nothing\n", Content_Type="text/plain")
ACCOUNTS = ok({"accounts": [{"name": "accounts/acme-prod", "displayName": "Acme"}]})


def gather(
    *steps: Step,
    clock: Clock | None = None,
    readings: int | None = None,
    stored: Sequence[Mapping[str, Any]] = (),
    day: date = TODAY,
    after: Callable[[Connection], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Return the day's records after a run that met these answers."""
    with Server([ACCOUNTS, *steps]) as server:
        one = connection(None, url=server.url, readings_per_run=readings or len(steps), stored=stored)
        records = extract(one, "throughput", day, day, clock=clock)
        after(one)
        assert len(server.requests) <= 1 + len(steps)
    return [dict(record) for _, record in records]


def test_rates_become_tokens_of_the_seconds_they_speak_for_to_the_last_digit() -> None:
    clock = Clock()
    (row,) = gather(text("1843.266666666667", "921.5", "2.4"), text("0.1"), text("1e2", "99.9"), clock=clock)
    assert clock.slept == [60, 60]
    assert row == {
        "deployment_id": "d1",
        "base_model": "accounts/fireworks/models/deepseek-v3",
        "sampled_seconds": 180,
        "readings": 3,
        "longest_gap_seconds": 0,
        "first_read_at": "2026-08-15T12:00:00Z",
        "last_read_at": "2026-08-15T12:02:00Z",
        "prompt_tokens": Decimal("1843.266666666667") * 60 + 6 + 6000,
        "cached_prompt_tokens": Decimal("921.5") * 60 + Decimal("99.9") * 60,
        "requests": Decimal(144),
        "highest_prompt_rate": Decimal("1843.266666666667"),
    }


def test_a_later_run_adds_to_what_is_stored_and_counts_no_second_twice() -> None:
    stored = gather(text("10"))
    (twenty_seconds_later,) = gather(text("10"), clock=Clock(NOON + timedelta(seconds=20)), stored=stored)
    assert (twenty_seconds_later["sampled_seconds"], twenty_seconds_later["prompt_tokens"]) == (80, 800)
    (later,) = gather(text("5"), clock=Clock(NOON + timedelta(minutes=10)), stored=stored)
    assert (later["sampled_seconds"], later["prompt_tokens"], later["longest_gap_seconds"]) == (120, 900, 540)
    assert gather(text("5"), stored=stored) == stored, "a clock that stands still or goes back counts nothing"


def test_the_seconds_before_midnight_belong_to_no_day_that_begins_then() -> None:
    (row,) = gather(text("10"), clock=Clock(NOON.replace(hour=0, second=25)))
    assert (row["sampled_seconds"], row["prompt_tokens"]) == (25, 250)


def test_readings_end_with_their_day_and_what_is_stored_stays() -> None:
    stored = gather(text("10"))
    late = Clock(NOON.replace(hour=23, minute=59, second=30))
    (row,) = gather(text("10"), text("10"), clock=late, stored=stored)
    assert row["readings"] == 2
    assert gather(clock=Clock(NOON + DAY), readings=1, stored=stored) == stored


def test_a_deployment_that_is_gone_is_zero_and_one_without_prompt_rate_or_an_empty_answer_is_unknown() -> None:
    stored = gather(text("10"))
    later = NOON + timedelta(minutes=10)
    (gone,) = gather(NOTHING_RUNS, clock=Clock(later), stored=stored)
    assert (gone["sampled_seconds"], gone["prompt_tokens"]) == (120, 600)
    told: list[str] = []
    (unknown,) = gather(
        text(None), clock=Clock(later), stored=stored, after=lambda one: told.extend(n.kind for n in one.journal.notes)
    )
    assert unknown == stored[0]
    assert told == ["schema_drift"]
    empty = answer(200, b"", Content_Type="text/plain")
    assert gather(empty, clock=Clock(later), stored=stored) == stored
    assert gather(text("NaN"), clock=Clock(later), stored=stored) == stored


def test_where_nothing_runs_one_reading_is_enough_and_gives_no_record() -> None:
    clock = Clock()
    assert gather(NOTHING_RUNS, text("10"), clock=clock) == []
    assert clock.slept == []


def test_a_reading_that_fails_is_a_gap_and_never_asked_for_twice_in_a_minute() -> None:
    notes: list[str] = []
    clock = Clock()
    (row,) = gather(
        text("10"),
        answer(500),
        text("10"),
        clock=clock,
        after=lambda one: notes.extend(n.kind for n in one.journal.notes),
    )
    assert (row["sampled_seconds"], row["longest_gap_seconds"]) == (120, 60)
    assert clock.slept == [60, 60]
    assert notes == ["reading_missed"]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (answer(500), SourceUnavailable),
        (answer(429, Retry_After="1"), RateLimited),
        (text("10", end=""), ResponseInvalid),
        (ok({"a": 1}), ResponseInvalid),
        (answer(200, b"<html>", Content_Type="text/html"), ResponseInvalid),
    ],
)
def test_a_run_without_any_reading_fails(step: Step, error: type[UsageError]) -> None:
    with pytest.raises(error):
        gather(step)


@pytest.mark.parametrize(
    "body",
    [
        "no sample at all here\n",
        'tokens_prompt_total:sum_by_deployment{deployment_id="d",base_model="m"} -1\n',
        'tokens_prompt_total:sum_by_deployment{deployment_id="d",base_model="m"} many\n',
        'tokens_prompt_total:sum_by_deployment{deployment_id="d",base_model="m"} +Inf\n',
        'tokens_prompt_total:sum_by_deployment{base_model="m"} 1\n',
        'tokens_prompt_total:sum_by_deployment{deployment_id="d" base_model="m"} 1\n',
        'tokens_prompt_total:sum_by_deployment{deployment_id="d",base_model="m"} 1\n' * 2,
    ],
)
def test_gauges_that_make_no_sense_are_refused(body: str) -> None:
    with pytest.raises(ResponseInvalid):
        gather(answer(200, body.encode(), Content_Type="text/plain"))


def test_labels_may_hold_anything_that_is_quoted() -> None:
    (row,) = gather(text("1", labels=r'deployment_id="d,\"1\\",base_model="a}b=\"c\"",'))
    assert (row["deployment_id"], row["base_model"]) == ('d,"1\\', 'a}b="c"')


def test_the_sandbox_keeps_to_six_readings_a_minute(sandbox: Sandbox) -> None:
    clock = Clock()
    notes = connection(sandbox, readings_per_run=8)
    (record,) = extract(notes, "throughput", TODAY, clock=clock)
    assert record.record["readings"] == 6
    assert [note.kind for note in notes.journal.notes] == ["reading_missed"]
    assert notes.journal.throttled == 2


def test_gauges_are_asked_for_as_text() -> None:
    with Server([ACCOUNTS, text("1")]) as server:
        extract(connection(None, url=server.url, readings_per_run=1), "throughput", TODAY)
        assert [request.headers["accept"] for request in server.requests] == ["application/json", "text/plain"]
