"""
Reading CloudWatch: every call to AWS, counted, bounded in time, complete or not at all, its errors named.

Nothing in here knows Bedrock. Facts about the API are in the pages that :mod:`ai_usage.providers.aws_bedrock` links.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from ssl import SSLCertVerificationError
from typing import Any, NamedTuple, Protocol

from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from ai_usage.core.contract import Connection, Note
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import DeadlineExceededError, call_within, full_jitter, is_caused_by
from ai_usage.core.slices import Window, midnight

PERIOD = 86_400
"""Seconds per point: a UTC day, as long as windows begin at midnight UTC."""
QUERIES_PER_CALL = 500
POINTS_PER_ANSWER = 100_800
"""More than this comes in pages, and every page is billed like a call; so no question is asked that needs a second."""
LARGEST_EXACT = 2**53 - 1
"""CloudWatch counts in floating point; beyond this, two different counts look the same."""

ATTEMPTS = 3
"""How often a question is put whose answer was broken or incomplete; botocore's own retries come on top."""
DEADLINE = 120.0
"""Seconds for one call with all of botocore's retries."""
MAX_PAGES = 10_000
MAX_EMPTY_PAGES = 50

ACCOUNT_NUMBER = re.compile(r"\d{12}")
_CODE = re.compile(r"[A-Za-z0-9._-]{1,64}")

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure"})
_UNKNOWN_KEY = frozenset(
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "UnrecognizedClient",
        "InvalidAccessKeyId",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
    }
)
_BAD_SECRET = frozenset(
    {
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "IncompleteSignature",
        "IncompleteSignatureException",
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_NOT_SIGNED_UP = frozenset({"OptInRequired", "SubscriptionRequiredException"})
_THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "LimitExceeded",
        "LimitExceededException",
        "SlowDown",
        "PriorRequestNotComplete",
    }
)
_BAD_PAGE_TOKEN = frozenset({"InvalidNextToken", "InvalidNextTokenException"})
_FAULT = frozenset(
    {
        "InternalServiceError",
        "InternalServiceFault",
        "InternalFailure",
        "InternalError",
        "InternalServerError",
        "InternalServerException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
    }
)

_ACTIONS = {
    "list_metrics": "cloudwatch:ListMetrics",
    "get_metric_data": "cloudwatch:GetMetricData",
    "get_caller_identity": "sts:GetCallerIdentity",
    "AssumeRole": "sts:AssumeRole",
    "AssumeRoleWithSAML": "sts:AssumeRoleWithSAML",
    "AssumeRoleWithWebIdentity": "sts:AssumeRoleWithWebIdentity",
}
_SOMETHING_BETWEEN = "Check for a proxy or a wrong endpoint_url between Airflow and AWS; if there is none, report this."
_NEXT_RUN = "Nothing to do at once: the next run asks again."


class AwsClients(Protocol):
    """What :attr:`~ai_usage.core.contract.Connection.client` must be for this provider."""

    def client(self, service: str, region: str) -> Any:
        """
        Return the boto3 client of a service in a region.

        It must have time-outs and bounded retries of its own, and hold the connection's credential and no other.
        """


class Series(NamedTuple):
    """
    One counter of one thing: a metric with exactly one dimension.

    CloudWatch counts the same event again under wider sets of dimensions; adding sets up would count events twice.
    """

    namespace: str
    dimension: str
    value: str
    metric: str


class _PageTokenRejectedError(ResponseInvalid):
    """A page token ran out while the pages were being read; the list must be begun again."""


class CloudWatch:
    """
    Every call to AWS on behalf of one connection: counted, bounded in time, its errors named.

    :param connection: with :class:`AwsClients` as its client.
    :param home_region: where to ask who we are.
    :param sleep: how to wait; only tests give another.
    """

    def __init__(
        self, connection: Connection, home_region: str, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._connection = connection
        self._clients: AwsClients = connection.client
        self._home_region = home_region
        self._sleep = sleep

    def account(self) -> str:
        """
        Return the number of the account the credential belongs to. This needs no permission.

        :raises CredentialRejected: if AWS does not know the key.
        """
        home = self._home_region
        try:
            answer = self._call("sts", home, "get_caller_identity", expect="Account")
        except CredentialRejected:
            # A region that is not enabled does not know perfectly good keys; the partition's oldest region always does.
            main = _main_region(home)
            if main == home:
                raise
            answer = self._call("sts", main, "get_caller_identity", expect="Account")
        account = str(answer["Account"])
        if not ACCOUNT_NUMBER.fullmatch(account):
            raise ResponseInvalid("AWS named an account that is not a twelve-digit number.", action="Report this.").at(
                self._connection.connection_id
            )
        return account

    def listed(self, region: str, namespace: str, dimension: str) -> set[Series]:
        """Return the series with exactly that dimension which CloudWatch lists: those with data in about two weeks."""
        question = {"Namespace": namespace, "Dimensions": [{"Name": dimension}]}
        found: set[Series] = set()
        for page in self._pages(region, "list_metrics", question, "Metrics"):
            for metric in page["Metrics"]:
                dimensions = metric.get("Dimensions", [])
                # The filter also lets wider dimension sets through.
                if metric.get("Namespace") == namespace and [one.get("Name") for one in dimensions] == [dimension]:
                    found.add(
                        Series(namespace, dimension, dimensions[0].get("Value", ""), metric.get("MetricName", ""))
                    )
        return found

    def values(self, series: Sequence[Series], region: str, window: Window) -> dict[Series, dict[date, int]]:
        """Return the days' sums of every series, in the fewest calls. A day without a point is absent."""
        per_call = max(1, min(QUERIES_PER_CALL, POINTS_PER_ANSWER // len(window)))
        values: dict[Series, dict[date, int]] = {}
        for start in range(0, len(series), per_call):
            values |= self._batch(series[start : start + per_call], region, window)
        return values

    def _batch(self, series: Sequence[Series], region: str, window: Window) -> dict[Series, dict[date, int]]:
        """Return the values of at most 500 series, asking again while CloudWatch calls any of them incomplete."""
        by_id = {f"q{position}": one for position, one in enumerate(series)}
        question = {
            "MetricDataQueries": [_query(query_id, one) for query_id, one in by_id.items()],
            "StartTime": window.start_at,
            "EndTime": window.end_at,
        }
        for attempt in range(1, ATTEMPTS + 1):
            answer = _Answer(window)
            for page in self._pages(region, "get_metric_data", question, "MetricDataResults"):
                self._read_page(page, answer, by_id, region)
            incomplete = answer.incomplete(by_id)
            if not incomplete:
                self._note_dropped(answer, region)
                return {one: answer.values.get(query_id, {}) for query_id, one in by_id.items()}
            if attempt < ATTEMPTS:
                self._connection.journal.retries += 1
                self._sleep(full_jitter(attempt))
        raise SourceUnavailable(
            f"CloudWatch could not give {len(incomplete)} of {len(by_id)} series completely ({', '.join(incomplete)}); "
            "nothing of them was stored.",
            action=_NEXT_RUN,
        ).at(self._connection.connection_id, region)

    def _read_page(self, page: Mapping[str, Any], answer: _Answer, by_id: Mapping[str, Series], region: str) -> None:
        """Add one page to the answer."""
        try:
            answer.add(page, by_id)
        except UsageError as error:
            raise error.at(self._connection.connection_id, region) from None

    def _note_dropped(self, answer: _Answer, region: str) -> None:
        if answer.dropped:
            self._connection.journal.notes.append(
                Note(
                    "points_outside_window",
                    f"{region}: {answer.dropped} points lay outside the days that were asked for, and were dropped.",
                )
            )

    def _pages(self, region: str, operation: str, question: Mapping[str, Any], expect: str) -> Iterator[dict[str, Any]]:
        """Yield every page of an answer, the question staying the same. A rejected token begins the list anew, once."""
        for may_restart in (True, False):
            # Only whole lists leave this method: a list that was begun anew would count its first pages twice.
            try:
                yield from list(self._all_pages(region, operation, question, expect))
                return
            except _PageTokenRejectedError:
                if not may_restart:
                    raise

    def _all_pages(
        self, region: str, operation: str, question: Mapping[str, Any], expect: str
    ) -> Iterator[dict[str, Any]]:
        seen: set[str] = set()
        empty_in_a_row = 0
        following: dict[str, str] = {}
        while True:
            page = self._call("cloudwatch", region, operation, expect=expect, **question, **following)
            yield page
            token = page.get("NextToken")
            if not token:
                return
            # A page of series without a single point brings us no further either.
            brings_something = any(item.get("Values", True) for item in page[expect])
            empty_in_a_row = 0 if brings_something else empty_in_a_row + 1
            if token in seen or len(seen) >= MAX_PAGES or empty_in_a_row >= MAX_EMPTY_PAGES:
                raise ResponseInvalid(
                    f"{_ACTIONS[operation]} goes round in circles: its pages do not come to an end.",
                    action="Run again later; if it stays, report this.",
                ).at(self._connection.connection_id, region)
            seen.add(token)
            following = {"NextToken": token}

    def _call(self, service: str, region: str, operation: str, *, expect: str, **question: Any) -> dict[str, Any]:
        """
        Return the answer to one call.

        :param expect: the key without which it is no answer. botocore reads a broken or foreign body (a proxy's HTML
            page with status 200) as an empty answer, which must never pass for "nothing used".
        """
        for attempt in range(1, ATTEMPTS + 1):
            answer = self._send(service, region, operation, question)
            if answer.get(expect) is not None:
                return answer
            if attempt < ATTEMPTS:
                self._connection.journal.retries += 1
                self._sleep(full_jitter(attempt))
        raise ResponseInvalid(
            f"{_ACTIONS[operation]} in {region} was answered {ATTEMPTS} times with something that is not AWS's answer.",
            action=_SOMETHING_BETWEEN,
        ).at(self._connection.connection_id, region)

    def _send(self, service: str, region: str, operation: str, question: Mapping[str, Any]) -> dict[str, Any]:
        """Send one call; botocore repeats it after outages and throttling."""
        try:
            client = self._clients.client(service, region)
            client.meta.events.register("response-received", self._count, unique_id="ai-usage-journal")
            answer: dict[str, Any] = call_within(DEADLINE, getattr(client, operation), **question)
            return answer
        except Exception as error:  # noqa: BLE001 - botocore fails in many ways on answers it cannot read
            caught = error
        # Named and raised out here, an error has no trace of botocore's own, whose texts hold ARNs and key ids.
        failure = self._named(caught, service, region, operation)
        raise failure.at(self._connection.connection_id, None if service == "sts" else region)

    def _named(self, error: Exception, service: str, region: str, operation: str) -> UsageError:
        """Return our own error for one that a call ended with."""
        if isinstance(error, UsageError):
            return error
        if isinstance(error, DeadlineExceededError):
            return SourceUnavailable(
                f"AWS took longer than {DEADLINE:.0f} s to answer {_ACTIONS[operation]}.", action=_NEXT_RUN
            )
        if isinstance(error, aws.ClientError):
            return self._refused(error, service, region, operation)
        return _unanswered(error, operation, region)

    def _count(self, response_dict: Any, parsed_response: Any, context: Mapping[str, Any], **_: Any) -> None:
        """Add one attempt of a call, botocore's own repeats included, to the journal."""
        journal = self._connection.journal
        journal.calls += 1
        journal.retries += context.get("retries", {}).get("attempt", 1) > 1
        body = (response_dict or {}).get("body")
        journal.bytes_received += len(body) if isinstance(body, bytes) else 0
        journal.throttled += bool(_codes(parsed_response or {}) & _THROTTLED)

    def _refused(self, error: aws.ClientError, service: str, region: str, operation: str) -> UsageError:
        """Name an error that AWS answered with."""
        # Creating a client may itself call AWS, to assume a role.
        action = _ACTIONS.get(error.operation_name) or _ACTIONS[operation]
        codes = _codes(error.response)
        if service == "cloudwatch" and action.startswith("cloudwatch:") and codes & _UNKNOWN_KEY:
            doubt = self._doubt_about_key()
            if doubt is None:
                return ConfigurationInvalid(
                    f"AWS knows the key, but {region} does not: the region is not enabled for the account "
                    f"(AWS: {_shown(codes)}).",
                    action=f"Enable {region} for the account in the AWS console (Account, AWS Regions), or take it out "
                    "of the connection's regions.",
                )
            if not doubt.is_permanent:
                return doubt
        return _error_of_codes(error, codes, action, region)

    def _doubt_about_key(self) -> UsageError | None:
        """Ask STS afresh whether the key is good; return what speaks against it."""
        try:
            self.account()
        except UsageError as error:
            return error
        return None


class _Answer:
    """What GetMetricData has said so far, over all pages."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._status: dict[str, str] = {}
        self.values: dict[str, dict[date, int]] = {}
        self.dropped = 0

    def add(self, page: Mapping[str, Any], by_id: Mapping[str, Series]) -> None:
        """
        Take in one page.

        :raises ResponseInvalid: for anything the API does not document.
        :raises PermissionMissing: if a series is forbidden.
        """
        if page.get("Messages"):
            codes = {str(message.get("Code")) for message in page["Messages"]}
            raise ResponseInvalid(
                f"CloudWatch warned that its answer may not be whole ({_shown(codes)}); nothing of it was stored.",
                action="Ask for fewer days at once; if it stays, report this.",
            )
        for result in page["MetricDataResults"]:
            query_id, status = result.get("Id"), result.get("StatusCode", "no status")
            if query_id not in by_id:
                raise _invalid("a series that nobody asked for")
            if status == "Forbidden":
                raise PermissionMissing(
                    "CloudWatch forbids reading some of the series.",
                    permission=_ACTIONS["get_metric_data"],
                    action="Use a key of the account that owns the usage, not of a monitoring account.",
                )
            # One incomplete page spoils a series; only PartialData is made good by a later page.
            if self._status.get(query_id, "PartialData") in {"PartialData", "Complete"}:
                self._status[query_id] = status
            self._add_points(query_id, result.get("Timestamps", []), result.get("Values", []))

    def _add_points(self, query_id: str, timestamps: Sequence[datetime], values: Sequence[object]) -> None:
        if len(timestamps) != len(values):
            raise _invalid("more times than values, or fewer")
        days = self.values.setdefault(query_id, {})
        for timestamp, value in zip(timestamps, values, strict=True):
            day, number = _day_of(timestamp), _exact(value)
            if day not in self._window:
                self.dropped += 1
            elif days.setdefault(day, number) != number:
                raise _invalid("two different values of one series for one day")

    def incomplete(self, by_id: Mapping[str, Series]) -> list[str]:
        """Return what CloudWatch says of the series that are not complete, each word once; empty if all are."""
        states = {self._status.get(query_id, "no answer") for query_id in by_id}
        return sorted(_shown({state}) for state in states - {"Complete"})


def _query(query_id: str, series: Series) -> dict[str, Any]:
    """Return one query. ``Unit`` is left out on purpose: a wrong one silently matches nothing."""
    dimension = {"Name": series.dimension, "Value": series.value}
    metric = {"Namespace": series.namespace, "MetricName": series.metric, "Dimensions": [dimension]}
    return {
        "Id": query_id,
        "MetricStat": {"Metric": metric, "Period": PERIOD, "Stat": "Sum"},
        "ReturnData": True,
    }


def _invalid(found: str) -> ResponseInvalid:
    return ResponseInvalid(f"CloudWatch answered with {found}; nothing of it was stored.", action="Report this.")


def _day_of(timestamp: object) -> date:
    """Return the UTC day a point belongs to; its time must be that day's midnight."""
    if not isinstance(timestamp, datetime) or timestamp.tzinfo is None:
        raise _invalid("a time that is not one")
    moment = timestamp.astimezone(UTC)
    if moment != midnight(moment.date()):
        raise _invalid(f"a point at {moment:%Y-%m-%d %H:%M:%S} UTC, where days begin at midnight")
    return moment.date()


def _exact(value: object) -> int:
    """Return a count as the integer it is."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # The comparison also keeps infinities and NaN out.
    if not is_number or not 0 <= value <= LARGEST_EXACT or value != int(value):  # type: ignore[operator, call-overload]
        raise _invalid("a count that is not a whole number")
    return int(value)  # type: ignore[call-overload, no-any-return]


def _main_region(region: str) -> str:
    """Return the region of the same partition that every account has."""
    if region.startswith("us-gov-"):
        return "us-gov-west-1"
    if region.startswith("cn-"):
        return "cn-north-1"
    if re.match(r"(?:us|eu)-iso|eusc-", region):
        return region
    return "us-east-1"


def _codes(response: Mapping[str, Any]) -> set[str]:
    """Return the error codes of an answer: AWS gives an old and a new spelling, in changing places."""
    error = response.get("Error")
    if not isinstance(error, Mapping):
        return set()
    return {str(error[key]) for key in ("Code", "QueryErrorCode") if error.get(key)}


def _shown(codes: Iterable[str]) -> str:
    """Return codes for an error text. Whatever does not look like one stays out: it may hold what it should not."""
    plain = sorted(code for code in codes if _CODE.fullmatch(code))
    return " / ".join(plain) or "no error code"


class _Meaning(NamedTuple):
    """What some error codes mean for the reader; ``{action}``, ``{region}`` and ``{shown}`` are filled in."""

    codes: frozenset[str]
    kind: type[UsageError]
    happened: str
    remedy: str


_MEANINGS = (
    _Meaning(
        _UNKNOWN_KEY,
        CredentialRejected,
        "AWS does not know the access key {shown}.",
        "Make a new access key, put both halves into the connection, and delete the old one.",
    ),
    _Meaning(
        _BAD_SECRET,
        CredentialRejected,
        "The secret does not belong to the access key, or this machine's clock is wrong {shown}.",
        "Paste both halves of the key again; check the clock.",
    ),
    _Meaning(
        _EXPIRED,
        CredentialRejected,
        "The session behind the key has expired {shown}.",
        "Renew aws_session_token, or better connect by role_arn, which renews itself; check the clock.",
    ),
    _Meaning(
        _NOT_SIGNED_UP,
        NotEntitled,
        "The account is not signed up for CloudWatch in {region} {shown}.",
        "Complete the account's sign-up at AWS, or take the region out of the connection.",
    ),
    _Meaning(
        _THROTTLED,
        RateLimited,
        "AWS asked for fewer calls of {action} in {region} {shown}.",
        f"{_NEXT_RUN} If it stays, find out what else reads CloudWatch in this account.",
    ),
    _Meaning(
        _BAD_PAGE_TOKEN, _PageTokenRejectedError, "{action} did not accept its own page token {shown}.", _NEXT_RUN
    ),
    _Meaning(_FAULT, SourceUnavailable, "AWS could not answer {action} in {region} {shown}.", _NEXT_RUN),
)


def _error_of_codes(error: aws.ClientError, codes: set[str], action: str, region: str) -> UsageError:
    """Return what AWS's error codes mean for the reader."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    shown = f"(AWS: {_shown(codes)})"
    if codes & _DENIED:
        return _denied(error, action, region, shown)
    meaning = next((meaning for meaning in _MEANINGS if codes & meaning.codes), None)
    if meaning is not None:
        happened = meaning.happened.format(action=action, region=region, shown=shown)
        return meaning.kind(happened, action=meaning.remedy)
    if status == 429 or status >= 500:
        return SourceUnavailable(f"AWS could not answer {action} in {region} (HTTP {status}).", action=_NEXT_RUN)
    return ResponseInvalid(
        f"AWS refused {action} in {region} (HTTP {status}, {_shown(codes)}).", action=_SOMETHING_BETWEEN
    )


def _denied(error: aws.ClientError, action: str, region: str, shown: str) -> PermissionMissing:
    remedy = f'Allow {action} on resource "*" in a policy of the user or role behind the key.'
    if "explicit deny" in str(error.response.get("Error", {}).get("Message", "")).lower():
        remedy = (
            f"Something denies {action} on purpose: look for it in the policies, the permissions boundary and the "
            "organisation's service control policies."
        )
    return PermissionMissing(f"The key may not use {action} in {region} {shown}.", permission=action, action=remedy)


class _Outage(NamedTuple):
    """What some exceptions mean for the reader; ``{action}``, ``{region}`` and ``{name}`` are filled in."""

    exceptions: tuple[type[Exception], ...]
    kind: type[UsageError]
    happened: str
    remedy: str


_OUTAGES = (
    _Outage(
        (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound),
        ConfigurationInvalid,
        "The connection leads to no credential ({name}).",
        "Put an access key into the connection, or name a role_arn or profile_name that exists.",
    ),
    _Outage(
        (
            aws.CredentialRetrievalError,
            aws.TokenRetrievalError,
            aws.MetadataRetrievalError,
            aws.SSOError,
            aws.LoginError,
        ),
        CredentialRejected,
        "No credential could be obtained ({name}).",
        "Log in again where the profile or the role gets its credential from.",
    ),
    _Outage(
        (
            aws.BaseEndpointResolverError,
            aws.EndpointProviderError,
            aws.InvalidRegionError,
            aws.UnknownRegionError,
            aws.ParamValidationError,
            aws.InvalidConfigError,
            aws.InvalidProxiesConfigError,
        ),
        ConfigurationInvalid,
        "AWS cannot be asked in {region} with these settings ({name}).",
        "Check the region, endpoint_url and config_kwargs in the connection's extra.",
    ),
    _Outage(
        (aws.EndpointConnectionError,),
        SourceUnavailable,
        "AWS in {region} could not be reached.",
        f"{_NEXT_RUN} If it stays, check that the region exists and that the network lets Airflow out.",
    ),
    _Outage(
        (aws.ConnectionError, aws.HTTPClientError, ResponseParserError, OSError),
        SourceUnavailable,
        "AWS in {region} gave no whole answer to {action} ({name}).",
        _NEXT_RUN,
    ),
    _Outage(
        (Exception,),
        ResponseInvalid,
        "The answer to {action} in {region} cannot be read ({name}).",
        _SOMETHING_BETWEEN,
    ),
)


def _unanswered(error: Exception, operation: str, region: str) -> UsageError:
    """Name what kept a call from being answered, without repeating the SDK's own words."""
    if is_caused_by(error, SSLCertVerificationError):
        return ConfigurationInvalid(
            f"The certificate of AWS in {region} could not be verified.",
            action="Behind an intercepting proxy, give its certificate as verify in the connection's extra.",
        )
    outage = next(outage for outage in _OUTAGES if isinstance(error, outage.exceptions))
    happened = outage.happened.format(action=_ACTIONS[operation], region=region, name=type(error).__name__)
    return outage.kind(happened, action=outage.remedy)
