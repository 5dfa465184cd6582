"""
The shape of every question, held against AWS's own service model, and what becomes of answers no server here gives.

botocore's Stubber validates requests and answers against the model that AWS publishes.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from ai_usage.core.contract import Connection, Memory, Record, Scope
from ai_usage.core.errors import PermissionMissing, ResponseInvalid, SourceUnavailable, UsageError
from ai_usage.core.slices import Window
from ai_usage.providers.aws_bedrock import AwsBedrock

TODAY = date(2026, 8, 15)
FIRST = date(2026, 8, 13)
MIDNIGHT = datetime(2026, 8, 13, tzinfo=UTC)
MODEL = "us.anthropic.claude-sonnet-4-6"
ACCOUNT = "123456789012"


class Stubs:
    """Stubbed clients of one account in one region."""

    def __init__(self, account: str = ACCOUNT) -> None:
        session = boto3.session.Session(aws_access_key_id="key", aws_secret_access_key="secret")
        self._clients = {name: session.client(name, region_name="us-east-1") for name in ("sts", "cloudwatch")}
        self.stubbers = {name: Stubber(client) for name, client in self._clients.items()}
        for stubber in self.stubbers.values():
            stubber.activate()
        self.stubbers["sts"].add_response(
            "get_caller_identity", {"Account": account, "Arn": "arn:aws:iam::x:user/y" * 2}
        )

    def client(self, service: str, region: str) -> Any:
        """Return a stubbed client."""
        assert region == "us-east-1"
        return self._clients[service]

    def lists(self, runtime: list[dict[str, Any]], mantle: list[dict[str, Any]] | None = None) -> None:
        """Expect both namespaces to be listed."""
        for namespace, dimension, metrics in (
            ("AWS/Bedrock", "ModelId", runtime),
            ("AWS/BedrockMantle", "Model", mantle or []),
        ):
            self.stubbers["cloudwatch"].add_response(
                "list_metrics", {"Metrics": metrics}, {"Namespace": namespace, "Dimensions": [{"Name": dimension}]}
            )

    def answers(self, answer: dict[str, Any], question: dict[str, Any] | None = None) -> None:
        """Expect a question for data."""
        self.stubbers["cloudwatch"].add_response("get_metric_data", answer, question)

    def extract(self, first: date = FIRST, last: date = TODAY) -> list[Record]:
        """Return the records of a window."""
        bedrock = AwsBedrock(today=lambda: TODAY, sleep=lambda _: None)
        connection = Connection("aws_test", {"regions": ["us-east-1"]}, self, memory=Memory())
        self.notes = connection.journal.notes
        scope = Scope("us-east-1", region="us-east-1")
        found = list(bedrock.extract(connection, bedrock.streams[0], scope, Window(first, last)))
        for stubber in self.stubbers.values():
            stubber.assert_no_pending_responses()
        return found


@pytest.fixture
def stubs() -> Stubs:
    return Stubs()


def listed(name: str, value: str = MODEL, *more: str, dimension: str = "ModelId", space: str = "AWS/Bedrock") -> Any:
    dimensions = [{"Name": dimension, "Value": value}] + [{"Name": extra, "Value": "x"} for extra in more]
    return {"Namespace": space, "MetricName": name, "Dimensions": dimensions}


def query(query_id: str, name: str, value: str = MODEL, dimension: str = "ModelId", space: str = "AWS/Bedrock") -> Any:
    metric = {"Namespace": space, "MetricName": name, "Dimensions": [{"Name": dimension, "Value": value}]}
    return {"Id": query_id, "MetricStat": {"Metric": metric, "Period": 86400, "Stat": "Sum"}, "ReturnData": True}


def question(*queries: Any, **more: Any) -> dict[str, Any]:
    return {
        "MetricDataQueries": list(queries),
        "StartTime": MIDNIGHT,
        "EndTime": MIDNIGHT + timedelta(days=3),
        **more,
    }


def result(query_id: str, values: dict[int, float], status: str = "Complete") -> dict[str, Any]:
    """Return a result; ``values`` are by days after the first."""
    times = [MIDNIGHT + timedelta(days=number) for number in values]
    return {"Id": query_id, "Label": "x", "Timestamps": times, "Values": list(values.values()), "StatusCode": status}


def test_the_questions_are_exactly_these(stubs: Stubs) -> None:
    stubs.lists(
        [
            listed("OutputTokenCount"),
            listed("InputTokenCount"),
            listed("InvocationLatency"),
            listed("InputTokenCount", MODEL, "ServiceTier", "ResolvedServiceTier"),
            listed("Invocations", space="AWS/Bedrock/Agents"),
        ],
        [
            listed("Inferences", "openai.gpt-oss-120b", dimension="Model", space="AWS/BedrockMantle"),
            listed("Inferences", "openai.gpt-oss-120b", "Project", dimension="Model", space="AWS/BedrockMantle"),
        ],
    )
    stubs.answers(
        {"MetricDataResults": [result("q1", {0: 5.0}), result("q0", {0: 7.0, 2: 1.0}), result("q2", {2: 3.0})]},
        question(
            query("q0", "InputTokenCount"),
            query("q1", "OutputTokenCount"),
            query("q2", "Inferences", "openai.gpt-oss-120b", "Model", "AWS/BedrockMantle"),
        ),
    )

    found = stubs.extract()

    assert [(day, record["namespace"], record["model_id"], record["metrics"]) for day, record in found] == [
        (FIRST, "AWS/Bedrock", MODEL, {"InputTokenCount": 7, "OutputTokenCount": 5}),
        (TODAY, "AWS/Bedrock", MODEL, {"InputTokenCount": 1}),
        (TODAY, "AWS/BedrockMantle", "openai.gpt-oss-120b", {"Inferences": 3}),
    ]
    assert {record["account_id"] for _, record in found} == {ACCOUNT}


def test_every_page_repeats_the_question_with_the_token_added(stubs: Stubs) -> None:
    stubs.lists([listed("Invocations"), listed("InputTokenCount")])
    queries = (query("q0", "InputTokenCount"), query("q1", "Invocations"))
    first = {"MetricDataResults": [result("q0", {2: 9.0}, "PartialData"), result("q1", {}, "PartialData")]}
    stubs.answers(first | {"NextToken": "one"}, question(*queries))
    last = {"MetricDataResults": [result("q0", {1: 8.0}), result("q1", {1: 2.0, 2: 3.0})]}
    stubs.answers(last, question(*queries, NextToken="one"))

    assert [record["metrics"] for _, record in stubs.extract()] == [
        {"Invocations": 2, "InputTokenCount": 8},
        {"Invocations": 3, "InputTokenCount": 9},
    ]


def test_a_page_token_that_ran_out_begins_the_list_anew(stubs: Stubs) -> None:
    cloudwatch = stubs.stubbers["cloudwatch"]
    cloudwatch.add_response("list_metrics", {"Metrics": [listed("Invocations")], "NextToken": "old"})
    cloudwatch.add_client_error("list_metrics", "InvalidNextToken", http_status_code=400)
    stubs.lists([listed("Invocations")])
    stubs.answers({"MetricDataResults": [result("q0", {0: 1.0})]})
    assert [record["metrics"] for _, record in stubs.extract()] == [{"Invocations": 1}]


def test_a_page_token_that_is_never_accepted_is_an_error(stubs: Stubs) -> None:
    for _ in range(2):
        stubs.stubbers["cloudwatch"].add_client_error("list_metrics", "InvalidNextTokenException")
    with pytest.raises(ResponseInvalid, match="page token"):
        stubs.extract()


def test_a_page_may_be_empty_and_still_lead_on(stubs: Stubs) -> None:
    cloudwatch = stubs.stubbers["cloudwatch"]
    cloudwatch.add_response("list_metrics", {"Metrics": [], "NextToken": "a"})
    cloudwatch.add_response("list_metrics", {"Metrics": [listed("Invocations")]})
    cloudwatch.add_response("list_metrics", {"Metrics": []})
    stubs.answers({"MetricDataResults": [result("q0", {0: 1.0})]})
    assert stubs.extract()


def test_a_point_outside_the_window_is_dropped_and_noted(stubs: Stubs) -> None:
    stubs.lists([listed("Invocations")])
    stubs.answers({"MetricDataResults": [result("q0", {-1: 4.0, 0: 1.0, 3: 9.0})]})
    assert [(day, record["metrics"]) for day, record in stubs.extract()] == [(FIRST, {"Invocations": 1})]
    assert [note.kind for note in stubs.notes] == ["points_outside_window"]
    assert "2 points" in stubs.notes[0].message


def test_times_are_read_as_utc_wherever_the_machine_stands(stubs: Stubs) -> None:
    stubs.lists([listed("Invocations")])
    elsewhere = result("q0", {0: 1.0})
    elsewhere["Timestamps"] = [datetime.fromisoformat("2026-08-13T05:30:00+05:30")]
    stubs.answers({"MetricDataResults": [elsewhere]})
    assert [day for day, _ in stubs.extract()] == [FIRST]


def test_a_point_of_zero_is_a_point(stubs: Stubs) -> None:
    stubs.lists([listed("Invocations")])
    stubs.answers({"MetricDataResults": [result("q0", {0: 0.0})]})
    assert [record["metrics"] for _, record in stubs.extract()] == [{"Invocations": 0}]


def test_the_largest_exact_count_is_kept_exactly(stubs: Stubs) -> None:
    stubs.lists([listed("InputTokenCount")])
    stubs.answers({"MetricDataResults": [result("q0", {0: float(2**53 - 1)})]})
    assert [record["metrics"] for _, record in stubs.extract()] == [{"InputTokenCount": 9007199254740991}]


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.0**53, 1e300, float("nan"), float("inf")])
def test_a_value_that_is_no_exact_count_is_refused(stubs: Stubs, value: float) -> None:
    stubs.lists([listed("Invocations")])
    stubs.answers({"MetricDataResults": [result("q0", {0: value})]})
    with pytest.raises(ResponseInvalid, match="not a whole number"):
        stubs.extract()


def test_the_same_point_twice_is_one_point(stubs: Stubs) -> None:
    stubs.lists([listed("Invocations")])
    stubs.answers({"MetricDataResults": [result("q0", {0: 5.0}), result("q0", {0: 5.0})]})
    assert [record["metrics"] for _, record in stubs.extract()] == [{"Invocations": 5}]


def _two_values() -> list[dict[str, Any]]:
    return [result("q0", {0: 5.0}), result("q0", {0: 6.0})]


def _more_times() -> list[dict[str, Any]]:
    one = result("q0", {0: 5.0})
    return [one | {"Timestamps": one["Timestamps"] * 2}]


def _no_midnight() -> list[dict[str, Any]]:
    return [result("q0", {0: 5.0}) | {"Timestamps": [MIDNIGHT + timedelta(seconds=1)]}]


@pytest.mark.parametrize("results", [_two_values(), _more_times(), _no_midnight(), [result("q7", {0: 1.0})]])
def test_an_answer_that_contradicts_itself_is_refused(stubs: Stubs, results: list[dict[str, Any]]) -> None:
    stubs.lists([listed("Invocations")])
    stubs.answers({"MetricDataResults": results})
    with pytest.raises(ResponseInvalid):
        stubs.extract()


@pytest.mark.parametrize(
    ("status", "kind"),
    [("InternalError", SourceUnavailable), ("PartialData", SourceUnavailable), ("Forbidden", PermissionMissing)],
)
def test_only_complete_is_complete(stubs: Stubs, status: str, kind: type[UsageError]) -> None:
    stubs.lists([listed("Invocations"), listed("InputTokenCount")])
    for _ in range(3):
        stubs.answers({"MetricDataResults": [result("q0", {0: 1.0}), result("q1", {0: 1.0}, status)]})
    with pytest.raises(kind):
        stubs.extract()


def test_an_internal_error_is_not_made_good_by_a_later_page(stubs: Stubs) -> None:
    stubs.lists([listed("Invocations")])
    stubs.answers({"MetricDataResults": [result("q0", {}, "InternalError")], "NextToken": "a"})
    stubs.answers({"MetricDataResults": [result("q0", {0: 1.0})]})
    stubs.answers({"MetricDataResults": [result("q0", {0: 2.0})]})
    assert [record["metrics"] for _, record in stubs.extract()] == [{"Invocations": 2}]


def test_a_series_without_any_answer_is_not_complete(stubs: Stubs) -> None:
    stubs.lists([listed("Invocations"), listed("InputTokenCount")])
    for _ in range(3):
        stubs.answers({"MetricDataResults": [result("q0", {0: 1.0})]})
    with pytest.raises(SourceUnavailable, match="1 of 2 series"):
        stubs.extract()


def test_a_warning_about_the_whole_answer_is_an_error(stubs: Stubs) -> None:
    stubs.lists([listed("Invocations")])
    message = {"Code": "MaxMetricsExceeded", "Value": "The maximum number of allowed metrics was exceeded."}
    stubs.answers({"MetricDataResults": [result("q0", {0: 1.0})], "Messages": [message]})
    with pytest.raises(ResponseInvalid, match="MaxMetricsExceeded"):
        stubs.extract()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDenied", "permission_missing"),
        ("AccessDeniedException", "permission_missing"),
        ("UnauthorizedOperation", "permission_missing"),
        ("SignatureDoesNotMatch", "credential_rejected"),
        ("InvalidSignatureException", "credential_rejected"),
        ("ExpiredToken", "credential_rejected"),
        ("ExpiredTokenException", "credential_rejected"),
        ("RequestExpired", "credential_rejected"),
        ("OptInRequired", "not_entitled"),
        ("SubscriptionRequiredException", "not_entitled"),
        ("Throttling", "rate_limited"),
        ("ThrottlingException", "rate_limited"),
        ("RequestLimitExceeded", "rate_limited"),
        ("TooManyRequestsException", "rate_limited"),
        ("InternalServiceError", "source_unavailable"),
        ("InternalServiceFault", "source_unavailable"),
        ("ServiceUnavailable", "source_unavailable"),
        ("ValidationError", "response_invalid"),
        ("InvalidParameterValueException", "response_invalid"),
        ("SomethingNew", "response_invalid"),
        ("not a code: AKIAIOSFODNN7EXAMPLE", "response_invalid"),
    ],
)
def test_every_error_code_is_named_in_either_spelling(stubs: Stubs, code: str, kind: str) -> None:
    stubs.stubbers["cloudwatch"].add_client_error("list_metrics", code, "Key AKIAIOSFODNN7EXAMPLE", 400)
    with pytest.raises(UsageError) as caught:
        stubs.extract()
    assert caught.value.kind == kind
    assert "AKIAIOSFODNN7EXAMPLE" not in str(caught.value)


def test_the_modern_code_counts_where_the_legacy_one_says_nothing(stubs: Stubs) -> None:
    stubs.stubbers["cloudwatch"].add_client_error(
        "list_metrics", "403", "", 403, response_meta={}, service_error_meta={"QueryErrorCode": "AccessDeniedException"}
    )
    with pytest.raises(PermissionMissing):
        stubs.extract()


def test_an_explicit_deny_is_told_apart_from_a_missing_allow(stubs: Stubs) -> None:
    message = (
        "User: x is not authorized to perform: cloudwatch:ListMetrics with an explicit deny in a service control policy"
    )
    stubs.stubbers["cloudwatch"].add_client_error("list_metrics", "AccessDenied", message, 403)
    with pytest.raises(PermissionMissing) as caught:
        stubs.extract()
    assert "service control policies" in caught.value.action


def test_an_account_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ResponseInvalid, match="twelve-digit"):
        Stubs(account="somebody").extract()
