"""The truth is exact, the same everywhere, and rich enough to catch a wrong mart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sandbox import SandboxError
from sandbox.clock import Clock
from sandbox.truth import Truth
from sandbox.truth.aws_bedrock import ACCOUNTS, PRODUCTION, RESEARCH, AwsBedrockTruth, Endpoint
from sandbox.world import Restatement, World

TODAY = date(2026, 8, 15)
FIRST = TODAY - timedelta(days=39)
DAY = date(2026, 8, 10)


def truth(seed: int = 7, today: date = TODAY, folder: Path | None = None, history_days: int = 40) -> Truth:
    return Truth(World.open(seed, Clock(today), history_days, folder))


def daily(of: Truth, first: date = FIRST, last: date = TODAY, **more: Any) -> list[dict[str, Any]]:
    return of.expected_usage_daily("aws_bedrock", first, last, **more)


def detail(of: Truth, first: date = FIRST, last: date = TODAY) -> list[dict[str, Any]]:
    return of.expected_detail("aws_bedrock", first, last)


def only(rows: Iterable[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    found = [row for row in rows if all(row[name] == value for name, value in keys.items())]
    assert len(found) == 1
    return found[0]


def a_used_endpoint(of: Truth, day: date = DAY) -> tuple[str, Endpoint, dict[str, int]]:
    bedrock = of.of("aws_bedrock")
    assert isinstance(bedrock, AwsBedrockTruth)
    for endpoint in RESEARCH.endpoints:
        values = bedrock.values(RESEARCH, endpoint, day)
        if values.get("InputTokenCount", 0) > 1:
            return RESEARCH.account_id, endpoint, values
    raise AssertionError("nothing was used that day")


def test_the_same_seed_gives_the_same_truth_in_another_process() -> None:
    program = (
        "from datetime import date; from sandbox.clock import Clock; from sandbox.truth import Truth;"
        "from sandbox.world import World; day = date(2026, 8, 15);"
        "truth = Truth(World.open(7, Clock(day), 40));"
        "print(repr(truth.expected_detail('aws_bedrock', date(2026, 7, 7), day)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == repr(detail(truth()))


def test_another_seed_gives_another_truth() -> None:
    assert daily(truth(seed=7)) != daily(truth(seed=8))


def test_a_day_does_not_depend_on_the_window_it_is_asked_in() -> None:
    of = truth()

    assert [row for row in daily(of) if row["usage_date"] == DAY] == daily(of, DAY, DAY)


def test_accounts_can_be_asked_for_alone() -> None:
    of = truth()
    apart = [row for account in ACCOUNTS for row in daily(of, accounts=[account.account_id])]

    assert sorted(apart, key=str) == sorted(daily(of), key=str)


def test_all_numbers_are_whole_and_some_are_huge_and_some_are_one() -> None:
    of = truth()
    bedrock = of.of("aws_bedrock")
    assert isinstance(bedrock, AwsBedrockTruth)
    numbers = [
        value
        for account in ACCOUNTS
        for region in account.regions
        for series in bedrock.series(account, region, FIRST, TODAY)
        for value in series.daily.values()
    ]

    assert {type(number) for number in numbers} == {int}
    assert max(numbers) < 2**53
    assert max(numbers) > 10**14
    assert 1 in numbers
    assert max(row["requests"] for row in daily(of)) > 2**31


def test_the_keys_are_unique() -> None:
    rows = daily(truth())
    keys = {(row["usage_date"], row["account_id"], row["region"], row["model"]) for row in rows}

    assert len(keys) == len(rows)


def test_every_region_has_a_day_without_anything_and_every_model_a_day_off() -> None:
    rows = detail(truth())
    days = {FIRST + timedelta(days=n) for n in range(40)}
    for account in ACCOUNTS:
        for region in account.regions:
            busy = {
                row["usage_date"] for row in rows if (row["account_id"], row["region"]) == (account.account_id, region)
            }
            assert days - busy
            assert TODAY in busy
            for endpoint in account.endpoints_in(region):
                used = {
                    row["usage_date"]
                    for row in rows
                    if (row["account_id"], row["raw_model_id"], row["region"], row["endpoint"])
                    == (account.account_id, endpoint.model_id, region, endpoint.namespace)
                }
                assert busy - used, endpoint


def test_models_come_and_go() -> None:
    rows = detail(truth())
    gone = [
        row["usage_date"]
        for row in rows
        if row["raw_model_id"] == "meta.llama3-1-8b-instruct-v1:0" and row["region"] == "us-west-2"
    ]
    new = [row["usage_date"] for row in rows if row["raw_model_id"] == "us.amazon.nova-premier-v1:0"]

    assert gone
    assert max(gone) < TODAY - timedelta(days=14)
    assert new
    assert min(new) >= TODAY - timedelta(days=5)


def test_two_names_of_one_model_add_up() -> None:
    of = truth()
    parts = [
        row for row in detail(of) if row["region"] == "us-east-1" and row["model"] == "anthropic/claude-sonnet-4-5"
    ]
    day = next(
        row["usage_date"] for row in parts if sum(row["usage_date"] == other["usage_date"] for other in parts) == 2
    )
    one, other = (row for row in parts if row["usage_date"] == day)
    total = only(daily(of, day, day), region="us-east-1", model="anthropic/claude-sonnet-4-5")

    assert {one["raw_model_id"], other["raw_model_id"]} == {
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "anthropic.claude-sonnet-4-5-20250929-v1:0",
    }
    assert total["output_tokens"] == one["output_tokens"] + other["output_tokens"]


def test_what_mantle_does_not_tell_is_none_and_what_the_runtime_has_no_point_for_is_zero() -> None:
    rows = detail(truth())
    mantle = next(row for row in rows if row["endpoint"] == "AWS/BedrockMantle")
    images = next(row for row in rows if row["raw_model_id"] == "amazon.nova-canvas-v1:0")

    assert mantle["input_tokens"] == mantle["unsplit_input_tokens"] > 0
    assert [
        mantle[name] for name in ("uncached_input_tokens", "cache_read_tokens", "output_images", "throttled_requests")
    ] == [None] * 4
    assert images["output_images"] > 0
    assert [images[name] for name in ("input_tokens", "cache_read_tokens", "output_tokens")] == [0, 0, 0]
    assert images["unsplit_input_tokens"] is None


def test_a_model_on_both_endpoints_is_one_row_with_all_its_input() -> None:
    of = truth()
    parts = [
        row
        for row in detail(of)
        if row["account_id"] == RESEARCH.account_id and row["model"] == "anthropic/claude-sonnet-4-6"
    ]
    day = next(
        row["usage_date"] for row in parts if sum(row["usage_date"] == other["usage_date"] for other in parts) == 2
    )
    runtime, mantle = sorted((row for row in parts if row["usage_date"] == day), key=lambda row: str(row["endpoint"]))
    total = only(daily(of, day, day, accounts=[RESEARCH.account_id]), model="anthropic/claude-sonnet-4-6")

    assert total["input_tokens"] == runtime["input_tokens"] + mantle["unsplit_input_tokens"]
    assert total["uncached_input_tokens"] == runtime["uncached_input_tokens"]


def test_some_day_knows_nothing_but_throttles() -> None:
    rows = detail(truth())

    assert any(row["throttled_requests"] and not row["requests"] and not row["input_tokens"] for row in rows)


def test_today_is_partial_and_becomes_whole() -> None:
    so_far = daily(truth(), TODAY, TODAY)
    moved_on = truth()
    moved_on.world.clock.move_to(TODAY + timedelta(days=1))
    whole = daily(moved_on, TODAY, TODAY)

    assert sum(row["requests"] for row in so_far) < sum(row["requests"] for row in whole)
    assert so_far == daily(truth(), TODAY, TODAY)


def test_tomorrow_knows_nothing() -> None:
    assert daily(truth(), TODAY + timedelta(days=1), TODAY + timedelta(days=9)) == []


def test_motos_account_begins_when_the_sandbox_was_first_started(tmp_path: Path) -> None:
    before = FIRST - timedelta(days=1)
    assert daily(truth(folder=tmp_path), before, before, accounts=[PRODUCTION.account_id]) == []
    later = truth(folder=tmp_path, today=TODAY + timedelta(days=30))

    assert later.world.opened == FIRST
    assert daily(later, FIRST, FIRST) == daily(truth(), FIRST, FIRST)


def test_what_happened_does_not_change_when_the_clock_moves_on(tmp_path: Path) -> None:
    yesterday = TODAY - timedelta(days=1)
    then = daily(truth(folder=tmp_path), FIRST, yesterday)

    assert daily(truth(folder=tmp_path, today=TODAY + timedelta(days=100)), FIRST, yesterday) == then


@pytest.mark.parametrize(
    ("factor", "expected"), [("1.5", lambda n: n * 3 // 2), ("0.1", lambda n: n // 10), ("0", lambda n: 0)]
)
def test_a_day_restated_by_a_factor(factor: str, expected: Any) -> None:
    of = truth()
    account, endpoint, values = a_used_endpoint(of)
    of.restate(
        provider="aws_bedrock", account=account, region=endpoint.region, model=endpoint.model_id, day=DAY, factor=factor
    )
    row = only(detail(of, DAY, DAY), account_id=account, raw_model_id=endpoint.model_id, region=endpoint.region)

    assert row["uncached_input_tokens"] == expected(values["InputTokenCount"])
    assert row["requests"] == expected(values["Invocations"])


def test_a_day_restated_to_given_values_keeps_the_others() -> None:
    of = truth()
    account, endpoint, values = a_used_endpoint(of)
    of.restate(
        provider="aws_bedrock",
        account=account,
        region=endpoint.region,
        model=endpoint.model_id,
        day=DAY,
        values={"InputTokenCount": 9_007_199_254_740_991},
    )
    row = only(detail(of, DAY, DAY), account_id=account, raw_model_id=endpoint.model_id, region=endpoint.region)

    assert row["uncached_input_tokens"] == 9_007_199_254_740_991
    assert row["requests"] == values["Invocations"]


def test_a_region_can_vanish_for_a_day_and_come_back() -> None:
    of = truth()
    before = daily(of, DAY, DAY)
    place = {"provider": "aws_bedrock", "account": RESEARCH.account_id, "region": "us-east-1", "day": DAY}
    of.restate(**place, vanish=True)
    without = daily(of, DAY, DAY)
    of.restate(**place, factor=1)

    assert without == [
        row for row in before if (row["account_id"], row["region"]) != (RESEARCH.account_id, "us-east-1")
    ]
    assert len(without) < len(before)
    assert daily(of, DAY, DAY) == before


def test_the_latest_restatement_counts_whether_of_the_model_or_of_the_region() -> None:
    of = truth()
    account, endpoint, values = a_used_endpoint(of)
    place = {"provider": "aws_bedrock", "account": account, "region": endpoint.region, "day": DAY}
    of.restate(**place, factor=0)
    of.restate(**place, model=endpoint.model_id, factor=2)
    row = only(detail(of, DAY, DAY), account_id=account, raw_model_id=endpoint.model_id, region=endpoint.region)

    assert row["requests"] == values["Invocations"] * 2


def test_restatements_outlive_a_restart_even_one_in_the_middle_of_writing(tmp_path: Path) -> None:
    of = truth(folder=tmp_path)
    account, endpoint, _ = a_used_endpoint(of)
    place = {"provider": "aws_bedrock", "account": account, "region": endpoint.region, "day": DAY}
    of.restate(**place, factor=Decimal("0.123456789"))
    expected = daily(of)
    journal = next(tmp_path.iterdir())
    with journal.open("a") as file:
        file.write('{"provider": "aws_bed')

    again = truth(folder=tmp_path)
    assert daily(again) == expected
    again.restate(**place, vanish=True)
    assert daily(truth(folder=tmp_path)) == daily(again) != expected


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"account": "000000000000"}, "000000000000"),
        ({"region": "eu-north-1"}, "eu-north-1"),
        ({"model": "no.such-model"}, "no.such-model"),
        ({"provider": "nobody"}, "nobody"),
        ({"factor": None}, "exactly one"),
        ({"factor": "-1"}, "from 0 up"),
        ({"factor": "many"}, "cannot be read"),
        ({"vanish": True}, "exactly one"),
        ({"factor": None, "values": {"InputTokenCount": 1}}, "must name the model"),
        ({"factor": None, "model": "qx0p3mz81k7d", "values": {"Tokens": 1}}, "no metric"),
        ({"factor": None, "model": "qx0p3mz81k7d", "values": {"Invocations": 2**53}}, "below 2^53"),
        ({"factor": None, "model": "qx0p3mz81k7d", "values": {"Invocations": "1.5"}}, "whole number"),
        ({"day": "yesterday"}, "cannot be read"),
        ({"unknown": 1}, "A restatement is"),
    ],
)
def test_a_wrong_restatement_is_refused_and_changes_nothing(wrong: dict[str, Any], hint: str) -> None:
    of = truth()
    before = daily(of)
    right = {
        "provider": "aws_bedrock",
        "account": RESEARCH.account_id,
        "region": "eu-central-1",
        "day": DAY,
        "factor": 2,
    }

    with pytest.raises(SandboxError, match=hint.replace("^", r"\^")):
        of.restate(**right | wrong)
    assert daily(of) == before


def test_a_list_of_restatements_is_all_or_nothing() -> None:
    of = truth()
    before = daily(of)
    good = Restatement("aws_bedrock", RESEARCH.account_id, "us-east-1", DAY, vanish=True)
    bad = Restatement("aws_bedrock", RESEARCH.account_id, "nowhere", DAY, vanish=True)

    with pytest.raises(SandboxError):
        of.restate([good, bad])
    assert daily(of) == before
