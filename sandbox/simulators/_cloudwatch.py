"""CloudWatch's two operations that read, over the truth: complete dimension sets, pages, retention, and their faults."""

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
from typing import Any

from sandbox.faults import FaultsInForce
from sandbox.simulators._aws import AwsError
from sandbox.truth.aws_bedrock import Account, AwsBedrockTruth, Series

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
