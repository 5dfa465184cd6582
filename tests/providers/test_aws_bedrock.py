"""AWS Bedrock over real HTTP: moto's CloudWatch, and a double as strict as the real one."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from ai_usage.core.contract import Memory
from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.core.slices import Window
from ai_usage.providers import aws_bedrock
from ai_usage.providers.aws_bedrock import MANTLE, RUNTIME, remembered_name
from sandbox.service import Sandbox
from tests.providers.aws import PRODUCTION, RESEARCH, TODAY, connection, expected, extract, provider

DAY = timedelta(days=1)
GONE = "meta.llama3-1-8b-instruct-v1:0"
"""A model that nobody has called for 20 days."""
STREAM = aws_bedrock.PROVIDER.streams[0]


def days_ago(number: int) -> date:
    return TODAY - DAY * number


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("region", RESEARCH.regions)
def test_every_record_of_forty_days_equals_the_truth(sandbox: Sandbox, region: str) -> None:
    found = extract(connection(sandbox), region, days_ago(39), TODAY)
    assert found == expected(sandbox, RESEARCH, region, days_ago(39), TODAY)
    assert len(found) > 60


@pytest.mark.parametrize("region", RESEARCH.regions)
def test_every_record_of_the_look_back_equals_the_truth(sandbox: Sandbox, region: str) -> None:
    found = extract(connection(sandbox), region, days_ago(3), TODAY)
    assert found == expected(sandbox, RESEARCH, region, days_ago(3), TODAY)


@pytest.mark.parametrize("region", PRODUCTION.regions)
@pytest.mark.parametrize("days", [3, 39])
def test_every_record_that_moto_holds_equals_the_truth(moto_sandbox: Sandbox, region: str, days: int) -> None:
    found = extract(connection(moto_sandbox, PRODUCTION), region, days_ago(days), TODAY)
    assert found == expected(moto_sandbox, PRODUCTION, region, days_ago(days), TODAY)
    assert found


def test_records_come_by_day_namespace_and_model_and_each_once(sandbox: Sandbox) -> None:
    found = extract(connection(sandbox), "us-east-1", days_ago(39), TODAY)
    keys = [(day, record["namespace"], record["model_id"]) for day, record in found]
    assert keys == sorted(set(keys))
    assert {namespace for _, namespace, _ in keys} == {RUNTIME.name, MANTLE.name}


def test_a_record_holds_the_declared_fields_and_no_others(sandbox: Sandbox) -> None:
    for _, record in extract(connection(sandbox), "us-east-1", days_ago(10), TODAY):
        assert set(record) == STREAM.fields
        assert all(type(value) is int for value in record["metrics"].values())


def test_both_spellings_of_the_cache_counters_are_kept_apart(sandbox: Sandbox) -> None:
    spellings = {
        record["model_id"]: {name for name in record["metrics"] if name.startswith("CacheRead")}
        for _, record in extract(connection(sandbox), "us-east-1", days_ago(3), TODAY)
    }
    assert spellings["us.anthropic.claude-sonnet-4-6"] == {"CacheReadInputTokenCount", "CacheReadInputTokens"}
    assert spellings["anthropic.claude-3-sonnet-20240229-v1:0"] == {"CacheReadInputTokens"}


def test_wider_dimension_sets_and_other_namespaces_are_never_asked_for(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    extract(one, "us-east-1", days_ago(3), TODAY)
    names = {name for stream, scope, name in one.memory.learnt}
    endpoints = RESEARCH.endpoints_in("us-east-1")
    assert names <= {remembered_name(endpoint.namespace, endpoint.model_id) for endpoint in endpoints}


def test_reading_twice_gives_the_same(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    first = extract(one, "eu-central-1", days_ago(20), TODAY)
    assert extract(one, "eu-central-1", days_ago(20), TODAY) == first


def test_reading_day_by_day_gives_the_same_as_reading_at_once(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    at_once = extract(one, "us-west-2", days_ago(29), TODAY)
    day_by_day = [
        record
        for number in range(29, -1, -1)
        for record in extract(one, "us-west-2", days_ago(number), days_ago(number))
    ]
    assert day_by_day == at_once


def test_a_future_window_costs_no_call(sandbox: Sandbox) -> None:
    assert extract(connection(sandbox), "us-east-1", TODAY + DAY, TODAY + DAY * 3) == []
    assert sandbox.requests.count() == 0


def test_days_older_than_cloudwatch_remembers_are_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationInvalid, match="keeps 455 days"):
        extract(connection(sandbox), "us-east-1", days_ago(456), TODAY)


def test_a_region_without_bedrock_is_empty_and_costs_no_metric(sandbox: Sandbox) -> None:
    assert extract(connection(sandbox, model_ids=None), "ap-southeast-2", days_ago(3), TODAY) == []
    assert sandbox.requests.count(operation="GetMetricData") == 0


# ---------------------------------------------------------------- calls


def test_thirty_days_of_a_region_cost_one_question_after_listing(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    extract(one, "us-east-1", days_ago(29), TODAY)
    count = sandbox.requests.count
    assert count(region="us-east-1", operation="GetMetricData") == 1
    assert count(region="us-east-1", operation="ListMetrics") == 2
    assert count(operation="GetCallerIdentity") == 1
    assert (one.journal.calls, one.journal.retries, one.journal.throttled) == (4, 0, 0)
    assert one.journal.bytes_received > 1000


def test_the_account_is_asked_for_once_per_client(sandbox: Sandbox) -> None:
    one, bedrock = connection(sandbox), provider()
    for scope in bedrock.scopes(one):
        list(bedrock.extract(one, STREAM, scope, Window(days_ago(1), TODAY)))
    assert sandbox.requests.count(operation="GetCallerIdentity") == 1


@pytest.mark.parametrize(("days", "calls"), [(30, 2), (201, 2), (455, 4)])
def test_hundreds_of_series_are_asked_for_in_the_fewest_calls(sandbox: Sandbox, days: int, calls: int) -> None:
    # 64 models with 11 metrics make 704 series; a call takes 500 of them and an answer 100,800 points.
    memory = Memory({("metrics", "ap-southeast-2"): {remembered_name(RUNTIME.name, f"model-{n}") for n in range(64)}})
    one = connection(sandbox, model_ids=None)
    extract(one, "ap-southeast-2", days_ago(days - 1), TODAY, memory)
    assert sandbox.requests.count(operation="GetMetricData") == calls


def test_pages_are_followed_to_the_end(sandbox: Sandbox) -> None:
    sandbox.faults.add("small_pages", size=7)
    found = extract(connection(sandbox), "eu-central-1", days_ago(20), TODAY)
    assert found == expected(sandbox, RESEARCH, "eu-central-1", days_ago(20), TODAY)
    assert sandbox.requests.count(operation="ListMetrics") > 4
    assert sandbox.requests.count(operation="GetMetricData") > 10


def test_a_series_that_comes_in_pieces_is_put_together(sandbox: Sandbox) -> None:
    sandbox.faults.add("repeated_ids")
    found = extract(connection(sandbox), "eu-central-1", days_ago(20), TODAY)
    assert found == expected(sandbox, RESEARCH, "eu-central-1", days_ago(20), TODAY)


# ---------------------------------------------------------------- models that are no longer listed


def gone_model_records(sandbox: Sandbox, **settings: object) -> int:
    memory = settings.pop("memory", None)
    assert memory is None or isinstance(memory, Memory)
    found = extract(connection(sandbox, model_ids=settings.get("model_ids")), "us-west-2", days_ago(39), TODAY, memory)
    return sum(record["model_id"] == GONE for _, record in found)


def test_a_model_that_is_no_longer_listed_is_read_from_memory(sandbox: Sandbox) -> None:
    memory = Memory({("metrics", "us-west-2"): {remembered_name(RUNTIME.name, GONE)}})
    assert gone_model_records(sandbox, memory=memory) > 10


@pytest.mark.parametrize("written", [[GONE], GONE, f"other.model, {GONE}", [f"AWS/Bedrock|{GONE}"]])
def test_a_model_that_is_no_longer_listed_is_read_when_the_connection_names_it(
    sandbox: Sandbox, written: object
) -> None:
    assert gone_model_records(sandbox, model_ids=written) > 10


def test_a_model_that_nobody_can_name_is_missed_and_the_journal_says_so(sandbox: Sandbox) -> None:
    one = connection(sandbox, model_ids=None)
    found = extract(one, "us-west-2", days_ago(39), TODAY)
    assert not any(record["model_id"] == GONE for _, record in found)
    assert [note.kind for note in one.journal.notes] == ["history_limited"]


def test_models_of_long_ago_cost_nothing_in_the_hourly_run(sandbox: Sandbox) -> None:
    names = {remembered_name(RUNTIME.name, f"model-{n}") for n in range(640)}
    one = connection(sandbox)
    found = extract(one, "us-west-2", days_ago(3), TODAY, Memory({("metrics", "us-west-2"): names}))
    assert found == expected(sandbox, RESEARCH, "us-west-2", days_ago(3), TODAY)
    assert sandbox.requests.count(operation="GetMetricData") == 1


def test_a_remembered_name_of_a_namespace_that_we_no_longer_read_is_left_alone(sandbox: Sandbox) -> None:
    memory = Memory({("metrics", "us-west-2"): {"AWS/Something|model", "nonsense"}})
    found = extract(connection(sandbox), "us-west-2", days_ago(39), TODAY, memory)
    assert found == expected(sandbox, RESEARCH, "us-west-2", days_ago(39), TODAY)


def test_a_restatement_is_seen_the_next_time(sandbox: Sandbox) -> None:
    before = extract(connection(sandbox), "eu-central-1", days_ago(2), days_ago(2))
    sandbox.truth.restate(
        provider="aws_bedrock", account=RESEARCH.account_id, region="eu-central-1", day=days_ago(2), vanish=True
    )
    assert before
    assert extract(connection(sandbox), "eu-central-1", days_ago(2), days_ago(2)) == []
    sandbox.truth.restate(
        provider="aws_bedrock", account=RESEARCH.account_id, region="eu-central-1", day=days_ago(2), factor=1
    )
    assert extract(connection(sandbox), "eu-central-1", days_ago(2), days_ago(2)) == before


# ---------------------------------------------------------------- scopes and settings


def test_every_region_is_a_scope_with_the_account_that_aws_names(sandbox: Sandbox) -> None:
    scopes = provider().scopes(connection(sandbox, account_id=None))
    assert [(scope.name, scope.region) for scope in scopes] == [(region, region) for region in RESEARCH.regions]
    assert {scope.account_id for scope in scopes} == {RESEARCH.account_id}
    assert {scope.account_name for scope in scopes} == {RESEARCH.name}


@pytest.mark.parametrize(
    ("options", "regions"),
    [
        ({"regions": ["us-east-1", "eu-west-1"]}, ["us-east-1", "eu-west-1"]),
        ({"regions": "us-east-1, us-gov-west-1,"}, ["us-east-1", "us-gov-west-1"]),
        ({"regions": None, "region_name": "ap-southeast-7"}, ["ap-southeast-7"]),
        ({"regions": [], "region_name": "cn-north-1"}, ["cn-north-1"]),
    ],
)
def test_regions_are_read_from_either_setting(sandbox: Sandbox, options: dict[str, Any], regions: list[str]) -> None:
    assert [scope.name for scope in provider().scopes(connection(sandbox, **options))] == regions


@pytest.mark.parametrize(
    "options",
    [
        {"regions": None, "region_name": None},
        {"regions": ["us-east-1", "us-east-1"]},
        {"regions": ["us-east-1.evil.example"]},
        {"regions": ["us-east-1@evil"]},
        {"regions": "../us-east-1"},
        {"regions": {"us-east-1": True}},
        {"regions": [1]},
        {"region_name": "evil.example/x"},
        {"account_id": "12345"},
        {"account_id": True},
        {"account_id": "210987654321 or so"},
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_asked(
    sandbox: Sandbox, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        provider().scopes(connection(sandbox, **options))
    assert caught.value.connection_id == "aws_bedrock_research"
    assert sandbox.requests.count() == 0


@pytest.mark.parametrize("model_ids", [5, ["x" * 1025], ["line\nbreak"], [None]])
def test_model_ids_that_cannot_be_some_are_refused(sandbox: Sandbox, model_ids: object) -> None:
    with pytest.raises(ConfigurationInvalid):
        extract(connection(sandbox, model_ids=model_ids), "us-east-1", days_ago(39), TODAY)


@pytest.mark.parametrize("number", [RESEARCH.account_id, int(RESEARCH.account_id), "2109-8765-4321"])
def test_an_account_number_may_be_written_in_several_ways(sandbox: Sandbox, number: object) -> None:
    assert provider().scopes(connection(sandbox, account_id=number))


def test_a_key_of_another_account_is_refused(sandbox: Sandbox) -> None:
    one = connection(sandbox, account_id="111122223333")
    for ask in (lambda: provider().scopes(one), lambda: extract(one, "us-east-1", days_ago(1), TODAY)):
        with pytest.raises(UsageError, match="belongs to account 210987654321, the connection says 111122223333"):
            ask()
    assert sandbox.requests.count(operation="ListMetrics") == 0


def test_the_facts_are_what_the_rest_of_the_project_expects() -> None:
    bedrock = aws_bedrock.PROVIDER
    assert bedrock.table(STREAM) == "aws_bedrock_metrics"
    assert (bedrock.name, bedrock.connection_type, bedrock.client_kind) == ("aws_bedrock", "aws", "aws")
    assert set(STREAM.grain) < STREAM.fields
    assert (STREAM.retention_days, STREAM.max_window_days, STREAM.lookback_days) == (455, 455, 3)
    assert all(url.startswith("https://docs.aws.amazon.com/") for url in bedrock.documentation.values())
