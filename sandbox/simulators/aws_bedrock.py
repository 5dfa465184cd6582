"""
AWS Bedrock, as seen through CloudWatch, with STS beside it.

Two doubles tell the truth about one account each. moto's server (:mod:`sandbox.simulators._moto`) is independent of us
and filled through ``PutMetricData``; the double here is as strict as CloudWatch where moto is lenient: complete
dimension sets, namespaces, 500 queries, pages, the two-week horizon of ``ListMetrics``, retention. Both check
signatures.

Faults in the content, for the account of the double here only:

=============================  ========================================================================================
kind                           what happens
=============================  ========================================================================================
small_pages                    at most ``size`` data points (or metrics) on a page (default 1)
repeated_ids                   every result comes in two pieces under the same Id on one page, which is legal
partial_data_forever           every page says PartialData and names a next one; the data never ends
partial_data_without_token     half of the data, PartialData, and no way to go on
result_internal_error          the first result has the status InternalError
result_forbidden               the first result has the status Forbidden
cursor_loop                    the same next page, for ever
cursor_ping_pong               two pages that name each other as the next one
misaligned_timestamps          days that begin at half past six
non_integer_value              tokens and a half
unknown_fields                 results have fields that no document names, content among them
=============================  ========================================================================================
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean
from threading import Lock
from typing import Any, ClassVar

from sandbox.contract import UNKNOWN, Call, Frame, Simulator, serve
from sandbox.errors import SandboxError
from sandbox.faults import DELIVERIES, FaultsInForce
from sandbox.http import Request, Response
from sandbox.simulators import _aws as aws
from sandbox.simulators._aws import AwsError, Signature
from sandbox.simulators._moto import MotoServer
from sandbox.truth.aws_bedrock import PRODUCTION, PROVIDER, RESEARCH, Account, AwsBedrockTruth, Series

QUERIES_AT_MOST = 500
METRICS_PER_PAGE = 500
DATAPOINTS_AT_MOST = 100_800
TOKENS_REMEMBERED = 10_000
LISTED_FOR = timedelta(days=14)
KEPT_FOR = timedelta(days=455)
PERIOD_RULES = ((timedelta(days=63), 3600), (timedelta(days=15), 300), (timedelta(hours=3), 60))
"""(age of the start, period must be a multiple of this), oldest first; otherwise there is no data, and no error."""

ID = re.compile(r"[a-z][a-zA-Z0-9_]{0,254}")
STATISTICS: Mapping[str, Callable[[list[float]], float]] = {
    "Sum": math.fsum,
    "Minimum": min,
    "Maximum": max,
    "SampleCount": len,
    "Average": fmean,
}
ACTIONS = {"GetMetricData": "cloudwatch:GetMetricData", "ListMetrics": "cloudwatch:ListMetrics"}
EXPIRED_PREFIX = "EXPIRED"
SESSION_PREFIX = "ASIASANDBOX"


def access_key(account: Account) -> str:
    """Return an account's access key id: obviously not a real one."""
    return f"SANDBOX{account.account_id}KEY"


def secret_key(account: Account) -> str:
    """Return an account's secret, long enough for Airflow to mask."""
    return f"sandbox-only-not-a-real-secret-{account.account_id}"


@dataclass(frozen=True)
class Session:
    """What an access key stands for."""

    account: Account
    secret: str
    token: str | None = None
    arn: str = ""


class AwsBedrock(Simulator):
    """CloudWatch and STS for two accounts."""

    name = PROVIDER
    fault_kinds: ClassVar[Mapping[str, str]] = {
        "small_pages": "at most `size` data points or metrics on a page (default 1)",
        "repeated_ids": "every result in two pieces under the same Id on one page (legal)",
        "partial_data_forever": "every page says PartialData and names a next one",
        "partial_data_without_token": "half of the data, PartialData, and no way to go on",
        "result_internal_error": "the first result has the status InternalError",
        "result_forbidden": "the first result has the status Forbidden",
        "cursor_loop": "the same next page, for ever",
        "cursor_ping_pong": "two pages that name each other as the next one",
        "misaligned_timestamps": "days that begin at 06:30",
        "non_integer_value": "tokens and a half",
        "unknown_fields": "results have fields that no document names",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        if not isinstance(truth, AwsBedrockTruth):
            raise SandboxError("The truth about aws_bedrock is not AWS's.")
        self._sessions = Sessions(RESEARCH)
        self._cloudwatch = CloudWatch(truth)
        self._moto: MotoServer | None = None
        if frame.moto_port is not None:
            moto_sessions = Sessions(PRODUCTION)
            self._moto = MotoServer(
                truth,
                PRODUCTION,
                frame.moto_port,
                lambda request, answer: serve(self, self._identify(request, moto_sessions), request, answer),
            )

    def identify(self, request: Request) -> Call:
        """Say who calls the double: the account by its key, the region by the signature."""
        return self._identify(request, self._sessions)

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer for the account of the double."""
        session = self._sessions.of(request)
        try:
            if call.operation == "GetCallerIdentity":
                return self._sessions.caller_identity(session)
            if call.operation == "AssumeRole":
                return self._sessions.assume_role(request)
            content = json.loads(request.body or b"{}")
            if not isinstance(content, dict):
                raise AwsError("SerializationException", "The body is not a JSON object.")
            if call.operation == "ListMetrics":
                return aws.json_answer(self._cloudwatch.list_metrics(session.account, call.region, content, faults))
            if call.operation == "GetMetricData":
                return aws.json_answer(self._cloudwatch.get_metric_data(session.account, call.region, content, faults))
            raise aws.access_denied(call.account, f"cloudwatch:{call.operation or UNKNOWN}")
        except json.JSONDecodeError:
            return AwsError("SerializationException", "The body is not JSON.").as_json()
        except AwsError as error:
            return _in_its_protocol(error, call.operation)

    def refuse(self, kind: str, call: Call) -> Response:
        """Return AWS's words for a refusal."""
        return _in_its_protocol(
            {
                "access_denied": aws.access_denied(call.account, ACTIONS.get(call.operation, f"sts:{call.operation}")),
                "throttling": aws.throttled(),
                "internal_error": aws.internal_error(),
                "service_unavailable": aws.unavailable(),
                "invalid_credentials": aws.unknown_key(),
                "opt_in_region_disabled": aws.unknown_key(),
                "expired_token": aws.expired_token(),
            }[kind],
            call.operation,
        )

    def supports(self, kind: str, account: str) -> bool:
        """Whether a fault can be committed: moto's own answers are left as they are."""
        return account != PRODUCTION.account_id or kind not in DELIVERIES | self.fault_kinds.keys()

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection per account; moto's only while moto runs."""
        accounts = [(RESEARCH, "aws_bedrock_research", base_url)]
        if self._moto:
            accounts.insert(0, (PRODUCTION, "aws_bedrock_default", self._moto.url))
        return [self._connection(account, connection_id, url) for account, connection_id, url in accounts]

    def start(self) -> None:
        """Start moto and fill it."""
        if self._moto:
            self._moto.start()

    def stop(self) -> None:
        """Stop moto."""
        if self._moto:
            self._moto.stop()

    def _identify(self, request: Request, sessions: Sessions) -> Call:
        signature = Signature.of(request)
        account, refusal = UNKNOWN, None
        operation = aws.operation_of(request) or UNKNOWN
        try:
            account = sessions.of(request).account.account_id
        except AwsError as error:
            refusal = _in_its_protocol(error, operation)
        return Call(PROVIDER, account, signature.region if signature else UNKNOWN, operation, refusal)

    def _connection(self, account: Account, connection_id: str, url: str) -> dict[str, Any]:
        today = self.frame.truth.world.clock.today()
        forgotten = [
            endpoint.model_id for endpoint in account.endpoints if endpoint.last_day is not None and not account.in_moto
        ]
        extra = {
            "region_name": account.regions[0],
            "regions": list(account.regions),
            "account_id": account.account_id,
            "account_name": account.name,
            "start_date": min(self.frame.truth.world.opened, today).isoformat(),
            "service_config": {"cloudwatch": {"endpoint_url": url}, "sts": {"endpoint_url": url}},
        }
        server = "moto's CloudWatch" if account.in_moto else "the sandbox's CloudWatch"
        return {
            "connection_id": connection_id,
            "conn_type": "aws",
            "login": access_key(account),
            "password": secret_key(account),
            "extra": extra | ({"model_ids": forgotten} if forgotten else {}),
            "description": f"AI usage sandbox: {account.name} on {server}. Not real.",
        }


SIMULATOR = AwsBedrock


def _in_its_protocol(error: AwsError, operation: str) -> Response:
    return error.as_xml() if operation in ("GetCallerIdentity", "AssumeRole") else error.as_json()


class Sessions:
    """The credentials of one account: its own key, and those handed out by ``AssumeRole``."""

    def __init__(self, account: Account) -> None:
        self._account = account
        user = f"arn:aws:iam::{account.account_id}:user/sandbox"
        self._lock = Lock()
        self._known = {access_key(account): Session(account, secret_key(account), arn=user)}

    def of(self, request: Request) -> Session:
        """
        Return the session that signed the request.

        :raises AwsError: as AWS refuses it.
        """
        signature = Signature.of(request)
        if signature is None:
            raise aws.unsigned()
        if signature.access_key.startswith(EXPIRED_PREFIX):
            raise aws.expired_token()
        with self._lock:
            session = self._known.get(signature.access_key)
        if self._account.in_moto and session is None and signature.access_key.startswith("ASIA"):
            # Handed out by moto itself, which alone knows its secret.
            return Session(self._account, "")
        if session is None or (session.token or "") != request.header("x-amz-security-token"):
            raise aws.unknown_key()
        if not signature.is_made_with(session.secret, request):
            raise aws.wrong_secret()
        return session

    def caller_identity(self, session: Session) -> Response:
        """Return whose session it is."""
        account = session.account.account_id
        return aws.sts_answer(
            "GetCallerIdentity", aws.xml_fields(Arn=session.arn, UserId=f"AIDASANDBOX{account}", Account=account)
        )

    def assume_role(self, request: Request) -> Response:
        """
        Return a session for a role of the same account.

        :raises AwsError: the role belongs to someone else, or a parameter is missing.
        """
        role, name = request.form.get("RoleArn", ""), request.form.get("RoleSessionName", "")
        account = self._account.account_id
        if not role or not name:
            raise AwsError("ValidationError", "RoleArn and RoleSessionName are required.")
        found = re.fullmatch(rf"arn:aws:iam::{account}:role/(?:.*/)?([^/]+)", role)
        if not found:
            raise AwsError(
                "AccessDenied",
                f"User: arn:aws:iam::{account}:user/sandbox is not authorized to perform: sts:AssumeRole "
                f"on resource: {role}",
            )
        arn = f"arn:aws:sts::{account}:assumed-role/{found[1]}/{name}"
        key = SESSION_PREFIX + secrets.token_hex(5).upper()
        session = Session(self._account, f"sandbox-session-{secrets.token_hex(8)}", secrets.token_hex(16), arn)
        with self._lock:
            self._known[key] = session
        expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        credentials = aws.xml_fields(
            AccessKeyId=key, SecretAccessKey=session.secret, SessionToken=session.token or "", Expiration=expires
        )
        user = aws.xml_fields(AssumedRoleId=f"AROASANDBOX:{name}", Arn=arn)
        return aws.sts_answer(
            "AssumeRole", f"<Credentials>{credentials}</Credentials><AssumedRoleUser>{user}</AssumedRoleUser>"
        )


@dataclass(frozen=True)
class Cursor:
    """Where a page begins, and the request it belongs to."""

    request: str
    offset: int


class Cursors:
    """Page tokens that say nothing to whoever holds them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._salt = secrets.token_bytes(16)
        self._issued: OrderedDict[str, Cursor] = OrderedDict()

    def issue(self, cursor: Cursor, *, alike: bool = False) -> str:
        """
        Return a token for the page.

        :param alike: the same page gets the same token every time.
        """
        token = secrets.token_urlsafe(24)
        if alike:
            token = hmac.new(self._salt, repr(cursor).encode(), "sha256").hexdigest()
        with self._lock:
            self._issued[token] = cursor
            if len(self._issued) > TOKENS_REMEMBERED:
                self._issued.popitem(last=False)
        return token

    def redeem(self, token: str | None, request: str, *, once: bool = False) -> int:
        """
        Return where the page begins; 0 without a token.

        :param once: the token is used up.
        :raises AwsError: the token is unknown, used up, or belongs to another request.
        """
        if token is None:
            return 0
        with self._lock:
            cursor = self._issued.pop(token, None) if once else self._issued.get(token)
        if cursor is None or cursor.request != request:
            raise AwsError("InvalidNextToken", "Request parameter NextToken is invalid")
        return cursor.offset


@dataclass(frozen=True)
class Query:
    """One validated metric query."""

    id: str
    label: str | None
    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]
    period: int
    statistic: str
    unit: str | None
    returned: bool


Points = list[tuple[float, float]]
"""(epoch seconds, value)"""


class CloudWatch:
    """The two operations that read, as strict as the real ones."""

    def __init__(self, truth: AwsBedrockTruth) -> None:
        self._truth = truth
        self._cursors = Cursors()

    def list_metrics(
        self, account: Account, region: str, body: Mapping[str, Any], faults: FaultsInForce
    ) -> dict[str, Any]:
        """
        Return one page of the metrics that had data in the last two weeks.

        :raises AwsError: a parameter is wrong.
        """
        filters = _dimension_filters(body.get("Dimensions") or [])
        if body.get("RecentlyActive") not in (None, "PT3H"):
            raise _invalid("RecentlyActive", body["RecentlyActive"])
        request = _fingerprint("ListMetrics", account, region, body)
        offset = self._cursors.redeem(body.get("NextToken"), request, once=True)
        active_for = timedelta(hours=3) if body.get("RecentlyActive") else LISTED_FOR
        found = [
            series
            for series in self._active(account, region, active_for)
            if body.get("Namespace") in (None, series.namespace)
            and body.get("MetricName") in (None, series.name)
            and body.get("OwningAccount") in (None, account.account_id)
            and all(any(_fits(wanted, have) for have in series.dimensions) for wanted in filters)
        ]
        size = _page_size(faults, METRICS_PER_PAGE)
        answer: dict[str, Any] = {"Metrics": [_metric(series) for series in found[offset : offset + size]]}
        if body.get("IncludeLinkedAccounts"):
            answer["OwningAccounts"] = [account.account_id] * len(answer["Metrics"])
        token = self._next_token(faults, request, offset, size, len(found))
        return answer | ({"NextToken": token} if token else {})

    def get_metric_data(
        self, account: Account, region: str, body: Mapping[str, Any], faults: FaultsInForce
    ) -> dict[str, Any]:
        """
        Return one page of data points.

        :raises AwsError: a parameter is wrong.
        """
        start, end = _moment(body, "StartTime"), _moment(body, "EndTime")
        if start >= end:
            raise AwsError("ValidationError", "The parameter StartTime must be less than the parameter EndTime.")
        scan_by = body.get("ScanBy") or "TimestampDescending"
        if scan_by not in ("TimestampDescending", "TimestampAscending"):
            raise _invalid("ScanBy", scan_by)
        size = body.get("MaxDatapoints", DATAPOINTS_AT_MOST)
        if not isinstance(size, int) or not 1 <= size <= DATAPOINTS_AT_MOST:
            raise _invalid("MaxDatapoints", size)
        queries = _queries(body.get("MetricDataQueries"))
        request = _fingerprint("GetMetricData", account, region, body)
        offset = self._cursors.redeem(body.get("NextToken"), request)
        size = min(size, _page_size(faults, size))

        points = self._points(account, region, queries, start, end, descending=scan_by == "TimestampDescending")
        points = {query: _spoilt_points(found, faults) for query, found in points.items()}
        returned = [query for query in queries if query.returned]
        total = sum(len(points[query.id]) for query in returned)
        if "partial_data_without_token" in faults:
            size = total // 2
        results = _page(returned, points, offset, size, again="partial_data_forever" in faults)
        token = self._next_token(faults, request, offset, size, total)
        return {"MetricDataResults": _spoilt(results, faults), "Messages": []} | ({"NextToken": token} if token else {})

    def _active(self, account: Account, region: str, within: timedelta) -> list[Series]:
        now = self._truth.world.clock.now()
        series = self._truth.series(account, region, (now - within).date(), now.date())
        return sorted(
            (
                one
                for one in series
                if any(
                    now - within <= moment <= now
                    for day, total in one.daily.items()
                    for moment, _ in self._truth.points(day, total)
                )
            ),
            key=lambda one: (one.namespace, one.name, one.dimensions),
        )

    def _points(
        self, account: Account, region: str, queries: list[Query], start: datetime, end: datetime, *, descending: bool
    ) -> dict[str, Points]:
        now = self._truth.world.clock.now()
        start = _rounded_down(start, now)
        oldest = max(start, now - KEPT_FOR)
        series = {
            (one.namespace, one.name, frozenset(one.dimensions)): one
            for one in self._truth.series(account, region, oldest.date(), end.date())
        }
        found: dict[str, Points] = {}
        for query in queries:
            one = series.get((query.namespace, query.name, query.dimensions))
            if one is None or not _is_kept_at(query.period, start, now) or query.unit not in (None, one.unit):
                found[query.id] = []
                continue
            bins: dict[float, list[float]] = {}
            for day, total in one.daily.items():
                for moment, value in self._truth.points(day, total):
                    if oldest <= moment < end:
                        bins.setdefault(moment.timestamp() // query.period * query.period, []).append(float(value))
            statistic = STATISTICS[query.statistic]
            found[query.id] = sorted(
                ((begin, float(statistic(values))) for begin, values in bins.items()), reverse=descending
            )
        return found

    def _next_token(self, faults: FaultsInForce, request: str, offset: int, size: int, total: int) -> str | None:
        """Return the token of the following page, or of whichever page a fault prefers."""
        if "cursor_loop" in faults:
            return self._cursors.issue(Cursor(request, 0), alike=True)
        if "cursor_ping_pong" in faults:
            return self._cursors.issue(Cursor(request, 0 if offset else 1), alike=True)
        if "partial_data_without_token" in faults:
            return None
        if "partial_data_forever" in faults:
            return self._cursors.issue(Cursor(request, min(offset + size, total)))
        return self._cursors.issue(Cursor(request, offset + size)) if offset + size < total else None


def _page(
    queries: list[Query], points: Mapping[str, Points], offset: int, size: int, *, again: bool
) -> list[dict[str, Any]]:
    """
    Return the results from data point ``offset`` on, ``size`` of them, counted through all queries.

    A query that was complete before the page does not come back, unless it shall come ``again``.
    """
    results, position = [], 0
    for query in queries:
        mine = points[query.id]
        begin = min(max(offset - position, 0), len(mine))
        end = min(max(offset + size - position, 0), len(mine))
        finished_before = offset > 0 and position + len(mine) <= offset
        position += len(mine)
        if finished_before and not again:
            continue
        results.append(
            {
                "Id": query.id,
                "Label": query.label or query.name,
                "Timestamps": [moment for moment, _ in mine[begin:end]],
                "Values": [value for _, value in mine[begin:end]],
                "StatusCode": "Complete" if end == len(mine) else "PartialData",
            }
        )
    return results


def _page_size(faults: FaultsInForce, usual: int) -> int:
    fault = faults.get("small_pages")
    return usual if fault is None else max(fault.size or 1, 1)


def _spoilt_points(points: Points, faults: FaultsInForce) -> Points:
    late = timedelta(hours=6, minutes=30).total_seconds() if "misaligned_timestamps" in faults else 0.0
    more = 0.5 if "non_integer_value" in faults else 0.0
    return [(moment + late, value + more) for moment, value in points]


def _spoilt(results: list[dict[str, Any]], faults: FaultsInForce) -> list[dict[str, Any]]:
    if "repeated_ids" in faults:
        results = [piece for result in results for piece in _in_two(result)]
    if "partial_data_forever" in faults or "partial_data_without_token" in faults:
        results = [result | {"StatusCode": "PartialData"} for result in results]
    for kind, status in (("result_internal_error", "InternalError"), ("result_forbidden", "Forbidden")):
        if kind in faults and results:
            message = {"Code": status, "Value": "Injected by the sandbox."}
            results[0] |= {"StatusCode": status, "Timestamps": [], "Values": [], "Messages": [message]}
    if "unknown_fields" in faults:
        results = [result | {"LastPrompt": "Dear diary", "Details": {"Prompt": "Dear diary"}} for result in results]
    return results


def _in_two(result: dict[str, Any]) -> list[dict[str, Any]]:
    middle = len(result["Values"]) // 2
    return [
        result | {"Timestamps": result["Timestamps"][part], "Values": result["Values"][part]}
        for part in (slice(None, middle), slice(middle, None))
    ]


def _metric(series: Series) -> dict[str, Any]:
    dimensions = [{"Name": name, "Value": value} for name, value in series.dimensions]
    return {"Namespace": series.namespace, "MetricName": series.name, "Dimensions": dimensions}


def _fits(wanted: tuple[str, str | None], have: tuple[str, str]) -> bool:
    return wanted[0] == have[0] and wanted[1] in (None, have[1])


def _fingerprint(operation: str, account: Account, region: str, body: Mapping[str, Any]) -> str:
    """Return what all pages of one request have in common."""
    rest = {name: value for name, value in body.items() if name != "NextToken"}
    text = json.dumps([operation, account.account_id, region, rest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _rounded_down(start: datetime, now: datetime) -> datetime:
    """Return the start as CloudWatch takes it: the older, the coarser."""
    age = now - start
    step = 60 if age < timedelta(days=15) else 300 if age < timedelta(days=63) else 3600
    return datetime.fromtimestamp(start.timestamp() // step * step, UTC)


def _is_kept_at(period: int, start: datetime, now: datetime) -> bool:
    """Whether data of that age is still kept in steps that add up to the period."""
    age = now - start
    return all(period % multiple == 0 for older_than, multiple in PERIOD_RULES if age > older_than)


def _invalid(name: str, value: Any) -> AwsError:
    return AwsError("ValidationError", f"The value {value} for parameter {name} is invalid.")


def _moment(body: Mapping[str, Any], name: str) -> datetime:
    value = body.get(name)
    if value is None:
        raise AwsError("ValidationError", f"The parameter {name} is required.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(name, value)
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise _invalid(name, value) from None


def _dimension_filters(filters: Any) -> list[tuple[str, str | None]]:
    if not isinstance(filters, list) or len(filters) > 10:
        raise AwsError("ValidationError", "The collection Dimensions must not have a size greater than 10.")
    if not all(isinstance(one, dict) and one.get("Name") for one in filters):
        raise _invalid("Dimensions", filters)
    return [(one["Name"], one.get("Value")) for one in filters]


def _queries(content: Any) -> list[Query]:
    """
    Return the validated queries.

    :raises AwsError: there are none or too many, an Id is malformed or used twice, or a query cannot be answered.
    """
    if not isinstance(content, list) or not content:
        raise AwsError("ValidationError", "The parameter MetricDataQueries is required.")
    if len(content) > QUERIES_AT_MOST:
        raise AwsError(
            "ValidationError",
            f"The collection MetricDataQueries must not have a size greater than {QUERIES_AT_MOST}.",
        )
    queries = [_query(f"MetricDataQueries.member.{number}", one) for number, one in enumerate(content, 1)]
    if len({query.id for query in queries}) < len(queries):
        raise AwsError("ValidationError", "The values for parameter Id in MetricDataQueries are not unique.")
    return queries


def _query(place: str, content: Any) -> Query:
    if not isinstance(content, dict) or not ID.fullmatch(str(content.get("Id", ""))):
        found = content.get("Id") if isinstance(content, dict) else content
        raise AwsError(
            "ValidationError",
            f"The value {found} for parameter {place}.Id is not matching the expected pattern ^[a-z][a-zA-Z0-9_]*$.",
        )
    if ("MetricStat" in content) == ("Expression" in content):
        raise AwsError("ValidationError", f"Exactly one of {place}.MetricStat and {place}.Expression is required.")
    if "Expression" in content:
        raise AwsError("ValidationError", f"{place}.Expression: the sandbox's CloudWatch evaluates no expressions.")
    try:
        stat = content["MetricStat"]
        metric = stat["Metric"]
        period, statistic = stat["Period"], stat["Stat"]
        pairs = [(one["Name"], one["Value"]) for one in metric.get("Dimensions") or []]
        namespace, name = metric["Namespace"], metric["MetricName"]
    except (KeyError, TypeError) as error:
        raise AwsError("ValidationError", f"{place}.MetricStat lacks or misuses {error}.") from None
    if not isinstance(period, int) or not (period in (1, 5, 10, 20, 30) or (period > 0 and period % 60 == 0)):
        raise _invalid(f"{place}.MetricStat.Period", period)
    if statistic not in STATISTICS:
        raise _invalid(f"{place}.MetricStat.Stat", statistic)
    if len({name for name, _ in pairs}) < len(pairs):
        raise _invalid(f"{place}.MetricStat.Metric.Dimensions", pairs)
    return Query(
        id=content["Id"],
        label=content.get("Label"),
        namespace=namespace,
        name=name,
        dimensions=frozenset(pairs),
        period=period,
        statistic=statistic,
        unit=stat.get("Unit"),
        returned=content.get("ReturnData", True),
    )
