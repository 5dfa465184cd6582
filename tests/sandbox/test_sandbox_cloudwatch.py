"""The sandbox's own CloudWatch, read by boto3: as strict as the real one, and true."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sandbox import Sandbox
from sandbox.truth.aws_bedrock import RESEARCH

Connect = Callable[..., Any]
DOUBLE = "aws_bedrock_research"
TODAY = date(2026, 8, 15)
MIDNIGHT = datetime.combine(TODAY, time(), tzinfo=UTC)
ONE_DAY = timedelta(days=1)
START, END = MIDNIGHT - 39 * ONE_DAY, MIDNIGHT + ONE_DAY
SONNET = {"Name": "ModelId", "Value": "us.anthropic.claude-sonnet-4-6"}


def query(
    metric: str = "InputTokenCount",
    dimensions: tuple[dict[str, str], ...] = (SONNET,),
    namespace: str = "AWS/Bedrock",
    id: str = "q0",
    **stat: Any,
) -> dict[str, Any]:
    named = {"Namespace": namespace, "MetricName": metric, "Dimensions": list(dimensions)}
    return {"Id": id, "MetricStat": {"Metric": named, "Period": 86400, "Stat": "Sum"} | stat}


def ask(client: Any, *queries: dict[str, Any], **request: Any) -> dict[str, Any]:
    window = {"StartTime": START, "EndTime": END}
    answer: dict[str, Any] = client.get_metric_data(MetricDataQueries=list(queries), **window | request)
    return answer


def values(client: Any, *queries: dict[str, Any], **request: Any) -> list[float]:
    return [value for result in ask(client, *queries, **request)["MetricDataResults"] for value in result["Values"]]


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as refused:
        call()
    return str(refused.value.response["Error"]["Code"])


@pytest.fixture
def cloudwatch(sandbox: Sandbox, connect: Connect) -> Any:
    return connect(sandbox, DOUBLE, "us-east-1")


def read_everything(client: Any, first: date, last: date) -> dict[tuple[date, str, str], dict[str, int]]:
    """Read all usage as a careful stranger would: (day, namespace, model id) → metric → sum."""
    found: dict[tuple[date, str, str], dict[str, int]] = {}
    for namespace, dimension in (("AWS/Bedrock", "ModelId"), ("AWS/BedrockMantle", "Model")):
        names = {endpoint.model_id for endpoint in RESEARCH.endpoints if endpoint.namespace == namespace}
        pages = client.get_paginator("list_metrics").paginate(Namespace=namespace)
        metrics = {metric["MetricName"] for page in pages for metric in page["Metrics"]}
        wanted = [(name, metric) for name in sorted(names) for metric in sorted(metrics)]
        queries = [
            query(metric, ({"Name": dimension, "Value": name},), namespace, f"q{number}")
            for number, (name, metric) in enumerate(wanted)
        ]
        window = {
            "StartTime": datetime.combine(first, time(), tzinfo=UTC),
            "EndTime": datetime.combine(last, time(), tzinfo=UTC) + ONE_DAY,
        }
        for begin in range(0, len(queries), 500):
            for page in client.get_paginator("get_metric_data").paginate(
                MetricDataQueries=queries[begin : begin + 500], **window
            ):
                for result in page["MetricDataResults"]:
                    name, metric = wanted[int(result["Id"][1:])]
                    for moment, value in zip(result["Timestamps"], result["Values"], strict=True):
                        found.setdefault((moment.date(), namespace, name), {})[metric] = int(value)
    return found


@pytest.mark.parametrize("region", RESEARCH.regions)
def test_what_a_stranger_reads_is_the_truth(sandbox: Sandbox, connect: Connect, region: str) -> None:
    first = TODAY - 60 * ONE_DAY
    found = read_everything(connect(sandbox, DOUBLE, region), first, TODAY)
    expected = {
        (row["usage_date"], row["endpoint"], row["raw_model_id"]): row
        for row in sandbox.truth.expected_detail("aws_bedrock", first, TODAY, [RESEARCH.account_id])
        if row["region"] == region
    }

    assert found.keys() == expected.keys()
    for key, metrics in found.items():
        row = expected[key]
        mantle = key[1] == "AWS/BedrockMantle"
        assert row["requests"] == metrics.get("Inferences" if mantle else "Invocations", 0)
        assert row["output_tokens"] == metrics.get("TotalOutputTokens" if mantle else "OutputTokenCount", 0)
        if mantle:
            assert row["input_tokens"] == metrics["TotalInputTokens"]
        else:
            read = metrics.get("CacheReadInputTokenCount") or metrics.get("CacheReadInputTokens", 0)
            write = metrics.get("CacheWriteInputTokenCount") or metrics.get("CacheWriteInputTokens", 0)
            assert row["input_tokens"] == metrics.get("InputTokenCount", 0) + read + write
            assert row["throttled_requests"] == metrics.get("InvocationThrottles", 0)


def test_both_spellings_of_cache_metrics_are_there_and_once_both_at_a_time(sandbox: Sandbox, connect: Connect) -> None:
    spellings: dict[str, set[str]] = {}
    for region in RESEARCH.regions:
        for page in connect(sandbox, DOUBLE, region).get_paginator("list_metrics").paginate(Namespace="AWS/Bedrock"):
            for metric in page["Metrics"]:
                if metric["MetricName"].startswith("CacheRead"):
                    spellings.setdefault(metric["Dimensions"][0]["Value"], set()).add(metric["MetricName"])

    assert {frozenset(found) for found in spellings.values()} == {
        frozenset({"CacheReadInputTokenCount"}),
        frozenset({"CacheReadInputTokens"}),
        frozenset({"CacheReadInputTokenCount", "CacheReadInputTokens"}),
    }


def test_the_account_is_told_by_sts(sandbox: Sandbox, connect: Connect) -> None:
    assert connect(sandbox, DOUBLE, "us-west-2", "sts").get_caller_identity()["Account"] == "210987654321"


def test_a_role_can_be_assumed_and_used(sandbox: Sandbox, connect: Connect) -> None:
    sts = connect(sandbox, DOUBLE, "us-east-1", "sts")
    role = "arn:aws:iam::210987654321:role/usage-reader"
    session = sts.assume_role(RoleArn=role, RoleSessionName="me")["Credentials"]
    keys = {"aws_access_key_id": session["AccessKeyId"], "aws_secret_access_key": session["SecretAccessKey"]}
    assumed = connect(sandbox, DOUBLE, "us-east-1", "sts", aws_session_token=session["SessionToken"], **keys)

    assert assumed.get_caller_identity()["Arn"] == "arn:aws:sts::210987654321:assumed-role/usage-reader/me"
    assert code(connect(sandbox, DOUBLE, "us-east-1", **keys).list_metrics) == "InvalidClientTokenId"
    foreign = "arn:aws:iam::111111111111:role/usage-reader"
    assert code(lambda: sts.assume_role(RoleArn=foreign, RoleSessionName="me")) == "AccessDenied"


@pytest.mark.parametrize("service", ["cloudwatch", "sts"])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"aws_access_key_id": "SANDBOXNOBODY"}, "InvalidClientTokenId"),
        ({"aws_secret_access_key": "another"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": "EXPIREDKEY"}, "ExpiredToken"),
    ],
)
def test_wrong_credentials_are_told_apart(
    sandbox: Sandbox, connect: Connect, service: str, wrong: dict[str, str], expected: str
) -> None:
    client = connect(sandbox, DOUBLE, "us-east-1", service, **wrong)

    assert code(client.list_metrics if service == "cloudwatch" else client.get_caller_identity) == expected


def test_nothing_can_be_written(cloudwatch: Any) -> None:
    assert code(lambda: cloudwatch.put_metric_data(Namespace="N", MetricData=[{"MetricName": "M", "Value": 1}])) == (
        "AccessDenied"
    )


def test_five_hundred_queries_are_answered_and_one_more_is_refused(cloudwatch: Any) -> None:
    queries = [query(id=f"q{number}") for number in range(501)]

    assert len(ask(cloudwatch, *queries[:500])["MetricDataResults"]) == 500
    assert code(lambda: ask(cloudwatch, *queries)) == "ValidationError"


@pytest.mark.parametrize(
    "wrong",
    [
        [query(id="Q0")],
        [query(id="q-0")],
        [query(id="0q")],
        [query(), query("OutputTokenCount")],
        [query(Period=90)],
        [query(Stat="Total")],
        [{"Id": "q0"}],
        [{"Id": "q0", "Expression": "q1*2"}],
        [query() | {"Expression": "q1*2"}],
    ],
)
def test_a_malformed_query_is_refused(cloudwatch: Any, wrong: list[dict[str, Any]]) -> None:
    assert code(lambda: ask(cloudwatch, *wrong)) == "ValidationError"


@pytest.mark.parametrize(
    "wrong", [{"EndTime": START}, {"MaxDatapoints": 0}, {"MaxDatapoints": 100_801}, {"ScanBy": "Whatever"}]
)
def test_a_malformed_request_is_refused(cloudwatch: Any, wrong: dict[str, Any]) -> None:
    assert code(lambda: ask(cloudwatch, query(), **wrong)) == "ValidationError"


def test_dimensions_are_matched_whole_and_never_added_up(cloudwatch: Any) -> None:
    tier = ({"Name": "ServiceTier", "Value": "priority"}, {"Name": "ResolvedServiceTier", "Value": "priority"})
    by_model, by_tier = values(cloudwatch, query()), values(cloudwatch, query(dimensions=(SONNET, *tier)))

    assert len(by_model) == len(by_tier)
    assert all(0 < part < whole for part, whole in zip(by_tier, by_model, strict=True))
    assert values(cloudwatch, query(dimensions=tier)) == []
    assert max(values(cloudwatch, query(dimensions=()))) > max(by_model)


def test_the_namespace_and_the_unit_are_respected(cloudwatch: Any) -> None:
    assert values(cloudwatch, query(namespace="AWS/Bedrock/Agents")) == []
    assert values(cloudwatch, query(Unit="Count")) == values(cloudwatch, query()) != []
    assert values(cloudwatch, query(Unit="Bytes")) == []


def test_another_region_knows_nothing_of_it_and_says_so_with_an_empty_success(
    sandbox: Sandbox, connect: Connect
) -> None:
    answer = ask(connect(sandbox, DOUBLE, "eu-west-3"), query())

    assert [(result["StatusCode"], result["Values"]) for result in answer["MetricDataResults"]] == [("Complete", [])]
    assert connect(sandbox, DOUBLE, "eu-west-3").list_metrics()["Metrics"] == []


def test_days_begin_at_midnight_latest_first_and_empty_ones_are_left_out(cloudwatch: Any) -> None:
    newest_first = ask(cloudwatch, query())["MetricDataResults"][0]["Timestamps"]
    oldest_first = ask(cloudwatch, query(), ScanBy="TimestampAscending")["MetricDataResults"][0]["Timestamps"]

    assert newest_first == sorted(newest_first, reverse=True) == oldest_first[::-1]
    assert {moment.time() for moment in newest_first} == {time()}
    assert 30 < len(newest_first) < 40


def test_the_start_counts_and_the_end_does_not(cloudwatch: Any) -> None:
    days = ask(cloudwatch, query())["MetricDataResults"][0]["Timestamps"]
    day = next(day for day in days[1:] if day + ONE_DAY in days)
    one = ask(cloudwatch, query(), StartTime=day, EndTime=day + ONE_DAY)["MetricDataResults"][0]

    assert one["Timestamps"] == [day]
    assert sum(values(cloudwatch, query(Period=3600), StartTime=day, EndTime=day + ONE_DAY)) == one["Values"][0]
    without_its_last_minute = values(cloudwatch, query(), StartTime=day, EndTime=day + timedelta(hours=23, minutes=59))
    assert 0 < sum(without_its_last_minute) < one["Values"][0]


def test_what_is_old_is_kept_in_coarser_steps_and_then_not_at_all(cloudwatch: Any) -> None:
    def found(days_ago: int, period: int) -> list[float]:
        start = MIDNIGHT - days_ago * ONE_DAY
        return values(cloudwatch, query(Period=period), StartTime=start, EndTime=start + 4 * ONE_DAY)

    assert found(10, 60)
    assert not found(20, 60)
    assert found(20, 300)
    assert not found(80, 300)
    assert found(80, 3600)
    assert found(450, 86400)
    assert not found(460, 86400)


def test_pages_follow_each_other_to_the_same_end(cloudwatch: Any) -> None:
    queries = [query(), query("OutputTokenCount", id="q1"), query("Nothing", id="q2")]
    whole = {result["Id"]: result["Values"] for result in ask(cloudwatch, *queries)["MetricDataResults"]}
    pages = list(
        cloudwatch.get_paginator("get_metric_data").paginate(
            MetricDataQueries=queries, StartTime=START, EndTime=END, MaxDatapoints=7
        )
    )
    joined: dict[str, list[float]] = {}
    last_status: dict[str, str] = {}
    for page in pages:
        for result in page["MetricDataResults"]:
            joined.setdefault(result["Id"], []).extend(result["Values"])
            last_status[result["Id"]] = result["StatusCode"]

    assert joined == whole
    assert set(last_status.values()) == {"Complete"}
    assert pages[0]["MetricDataResults"][0]["StatusCode"] == "PartialData"
    assert [sum(len(result["Values"]) for result in page["MetricDataResults"]) for page in pages[:-1]] == (
        [7] * (len(pages) - 1)
    )


def test_a_page_token_fits_its_own_request_only(cloudwatch: Any) -> None:
    token = ask(cloudwatch, query(), MaxDatapoints=5)["NextToken"]

    assert values(cloudwatch, query(), MaxDatapoints=5, NextToken=token) == values(cloudwatch, query())[5:10]
    assert code(lambda: ask(cloudwatch, query(), MaxDatapoints=6, NextToken=token)) == "InvalidNextToken"
    assert code(lambda: ask(cloudwatch, query(), NextToken="made-up")) == "InvalidNextToken"


def test_listing_gives_pages_whose_tokens_work_once(sandbox: Sandbox, cloudwatch: Any) -> None:
    everything = cloudwatch.list_metrics()["Metrics"]
    sandbox.faults.add("small_pages", size=40)
    pages = list(cloudwatch.get_paginator("list_metrics").paginate())
    token = cloudwatch.list_metrics()["NextToken"]
    cloudwatch.list_metrics(NextToken=token)

    assert [metric for page in pages for metric in page["Metrics"]] == everything
    assert len(pages) > 2
    assert code(lambda: cloudwatch.list_metrics(NextToken=token)) == "InvalidNextToken"


def test_a_page_of_metrics_holds_five_hundred_at_most(sandbox: Sandbox, cloudwatch: Any) -> None:
    sandbox.faults.add("small_pages", size=500)

    assert len(cloudwatch.list_metrics()["Metrics"]) <= 500


def test_listing_filters_by_namespace_name_and_dimensions(cloudwatch: Any) -> None:
    def listed(**filters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = cloudwatch.list_metrics(**filters)["Metrics"]
        return found

    with_model = listed(Namespace="AWS/Bedrock", Dimensions=[{"Name": "ModelId"}])
    assert {metric["Namespace"] for metric in with_model} == {"AWS/Bedrock"}
    assert {len(metric["Dimensions"]) for metric in with_model} == {1, 3}
    assert {metric["MetricName"] for metric in listed(MetricName="Invocations")} == {"Invocations"}
    assert all(SONNET in metric["Dimensions"] for metric in listed(Dimensions=[SONNET]))
    assert {len(metric["Dimensions"]) for metric in listed(Namespace="AWS/BedrockMantle")} == {0, 1, 2}
    assert any(not metric["Dimensions"] for metric in listed(Namespace="AWS/Bedrock"))
    assert code(lambda: listed(Dimensions=[{"Name": f"d{number}"} for number in range(11)])) == "ValidationError"
    assert code(lambda: listed(RecentlyActive="PT4H")) == "ValidationError"


def test_a_model_idle_for_two_weeks_is_no_longer_listed_but_still_answered_for(
    sandbox: Sandbox, connect: Connect
) -> None:
    client = connect(sandbox, DOUBLE, "us-west-2")
    gone = {"Name": "ModelId", "Value": "meta.llama3-1-8b-instruct-v1:0"}

    assert client.list_metrics(Dimensions=[gone])["Metrics"] == []
    assert values(client, query("Invocations", (gone,)))


def test_recently_active_lists_less(cloudwatch: Any) -> None:
    def names(**filters: Any) -> set[str]:
        return {str(metric) for metric in cloudwatch.list_metrics(**filters)["Metrics"]}

    assert names(RecentlyActive="PT3H") < names()


def test_what_is_restated_is_read(sandbox: Sandbox, connect: Connect) -> None:
    with Sandbox(seed=7, today=TODAY, moto=False) as other:
        client = connect(other, DOUBLE, "us-east-1")
        before = values(client, query())
        other.truth.restate(
            provider="aws_bedrock",
            account=RESEARCH.account_id,
            region="us-east-1",
            day=ask(client, query())["MetricDataResults"][0]["Timestamps"][1].date(),
            factor=3,
        )

        assert values(client, query()) == [before[0], before[1] * 3, *before[2:]]
