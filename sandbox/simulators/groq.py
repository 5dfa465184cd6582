"""
Groq's metrics API as a query engine in Prometheus' manner gives it, and the list of models beside it.

Each day's total is spread over the 288 five minutes of the day in whole counts; a rate is such a count divided by 300, as
a binary fraction, in the shortest digits that say which.

Its own faults, beside those of :mod:`sandbox.faults`:

======================  ================================================================================================
kind                    what happens
======================  ================================================================================================
bare_throttling         429 without ``Retry-After``
no_plan                 404 from the metrics API, as for a key of an organization without the plan
not_found               404 from everywhere: a wrong address
forbidden_page          403 with a page of somebody in front
partial                 half the series, and it says ``isPartial``
warned                  half the series, and it says so under ``warnings``
status_error            HTTP 200 with ``"status": "error"``
timed_out               the same, of the kind that passes by itself
too_many_points         422 for more than ``size`` values per series (300)
shifted_instants        values stand a minute late
first_midnight          one value more, of the midnight at which the first day begins
series_twice            every series twice
contradicting_series    every series twice, the second time with other values
wrong_result            a vector where a matrix was asked for
unknown_fields          unknown fields in the answer, in its data and in its series, and an unknown label
missing_label           series name no model
odd_value               values are words
negative_value          values are below zero
nothing                 no series at all
gap                     the last ``size`` values (4) of every day before today are not there
out_of_phase            values are those of ``size`` seconds (60) earlier
forgets                 nothing is kept for more than ``size`` days (10), today among them
earlier_names           there are only the series of earlier organizations
other_names             there are only series that nobody knows
======================  ================================================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.faults import HTML, FaultsInForce
from sandbox.http import Request, Response
from sandbox.truth import draw_between
from sandbox.truth.groq import ORGANIZATIONS, PROVIDER, TOKENS_IN, TOKENS_OUT, GroqTruth, Organization, Use

METRICS = "/v1/metrics/prometheus"
STEP, POINTS = 300, 288
SERIES = {
    "requests": "model_project_id_status_code:requests:rate5m",
    "tokens_in": "model_project_id:tokens_in:rate5m",
    "tokens_out": "model_project_id:tokens_out:rate5m",
}
BY_NAME = {name: operation for operation, name in SERIES.items()}
EARLIER = ("requests:increase1m", "requests:rate1m", "tokens_in:p50:rate5m", "tokens_out:p50:rate5m")
OTHER = ("by_model:input_tokens:rate5m", "by_model:output_tokens:rate5m")
MOST_POINTS = 30_000
_PROBE = re.compile(r'count\(last_over_time\(\{__name__=~"([a-z0-9_:|]+)"\}\[(\d+)d\]\)\)')

Row = dict[str, Any]


class Refused(Exception):
    """An error answer, in the words of Groq or of the query engine."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        error: Row = {"error": {"message": message, "type": "invalid_request_error", "code": code}}
        of_the_engine: Row = {"status": "error", "errorType": str(status), "error": message}
        self.response = _json(of_the_engine if status == 422 else error, status, headers)


def api_key(organization: Organization) -> str:
    """Return an ordinary key of the organization."""
    return f"gsk_sandbox{organization.account_id}"


def key_without_plan(organization: Organization) -> str:
    """Return a good key of an organization without the plan."""
    return f"gsk_sandboxfree{organization.account_id}"


def restricted_key(organization: Organization) -> str:
    """Return a key that may call models and read nothing."""
    return f"gsk_sandboxrestricted{organization.account_id}"


KEYS: Mapping[str, tuple[Organization, str]] = {
    key(organization): (organization, kind)
    for organization in ORGANIZATIONS
    for key, kind in ((api_key, "good"), (key_without_plan, "no_plan"), (restricted_key, "restricted"))
}


def counts(use: Use, meter: str, day: date, total: int) -> list[int]:
    """
    Return how a day's total falls on its five minutes: unevenly, with a burst at the end of the day.

    Only the hours of the use have any. The sum is the total.
    """
    first, last = (hour * 12 for hour in use.hours)
    weights = [draw_between(0, 9, repr(use), meter, day, n) * (first <= n < last) for n in range(POINTS)]
    weights[last - 1] = 60
    parts = [total * weight // sum(weights) for weight in weights]
    parts[last - 1] += total - sum(parts)
    return parts


@dataclass(frozen=True)
class _Series:
    """One series: its labels, and whose day it tells."""

    use: Use
    meter: str
    labels: Row
    part: int = 0


class GroqSimulator(Simulator):
    """Groq."""

    name = PROVIDER
    fault_kinds = {  # noqa: RUF012 - as the frame declares it
        "bare_throttling": "429 without Retry-After",
        "no_plan": "404 from the metrics API",
        "not_found": "404 from everywhere",
        "forbidden_page": "403 with a page",
        "partial": "half an answer that says so",
        "warned": "half an answer that says so otherwise",
        "status_error": "200 with an error in it",
        "timed_out": "200 with a time-out in it",
        "too_many_points": "422 for more than `size` values (300)",
        "shifted_instants": "values a minute late",
        "first_midnight": "one value too many at the beginning",
        "series_twice": "every series twice",
        "contradicting_series": "every series twice, with other values",
        "wrong_result": "a vector for a matrix",
        "unknown_fields": "unknown fields and an unknown label",
        "missing_label": "series without a model",
        "odd_value": "words for values",
        "negative_value": "values below zero",
        "nothing": "no series",
        "gap": "the last `size` values (4) of every day are missing",
        "out_of_phase": "values of `size` seconds (60) earlier",
        "forgets": "nothing older than `size` days (10)",
        "earlier_names": "only earlier series",
        "other_names": "only unknown series",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        assert isinstance(truth, GroqTruth)
        self._truth = truth
        self._cache: dict[tuple[Use, str, date, int], list[int]] = {}

    def identify(self, request: Request) -> Call:
        """Say who calls, by the key, and what for: the series that a range is asked of, or the last part of the path."""
        organization, _ = KEYS.get(request.header("authorization").removeprefix("Bearer "), (None, ""))
        operation = {
            f"{METRICS}/api/v1/query_range": BY_NAME.get(request.query.get("query", ""), "query_range"),
            f"{METRICS}/api/v1/query": "query",
            f"{METRICS}/api/v1/label/__name__/values": "names",
            "/openai/v1/models": "models",
        }.get(request.path, UNKNOWN)
        return Call(PROVIDER, organization.account_id if organization else UNKNOWN, "-", operation)

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        if "forbidden_page" in faults:
            return Response(403, HTML, {"Content-Type": "text/html"})
        try:
            return _json(self._content(call.operation, request, faults))
        except Refused as refused:
            return refused.response

    def refuse(self, kind: str, call: Call) -> Response:  # noqa: ARG002
        """Return Groq's words for a refusal."""
        return {
            "throttling": Refused(429, "Rate limit reached", "rate_limit_exceeded", {"Retry-After": "1"}),
            "access_denied": Refused(403, "Not allowed to read metrics", "permissions_error"),
            "internal_error": Refused(500, "Internal Server Error"),
            "service_unavailable": Refused(503, "Service Unavailable"),
        }.get(kind, _invalid_key()).response

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002
        """Whether a fault can be committed: Groq has no regions."""
        return kind != "opt_in_region_disabled"

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection per organization; the lab's says nothing but where history begins."""
        first = min(self._truth.world.opened, self._truth.world.clock.today()).isoformat()
        return [
            {
                "connection_id": f"groq_{suffix}",
                "conn_type": "ai_usage_groq",
                "login": None,
                "host": base_url + METRICS,
                "password": api_key(organization),
                "extra": named | {"start_date": first},
                "description": f"AI usage sandbox: the {what} on the sandbox's Groq. Not real.",
            }
            for organization, suffix, what, named in zip(
                ORGANIZATIONS,
                ("default", "lab"),
                ("company", "lab"),
                ({"account_id": ORGANIZATIONS[0].account_id, "account_name": ORGANIZATIONS[0].name}, {}),
                strict=True,
            )
        ]

    # ---------------------------------------------------------------- operations

    def _content(self, operation: str, request: Request, faults: FaultsInForce) -> Row:
        organization, kind = KEYS.get(request.header("authorization").removeprefix("Bearer "), (None, ""))
        if organization is None:
            raise _invalid_key()
        if operation == UNKNOWN or request.method != "GET" or "not_found" in faults:
            raise Refused(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")
        if operation == "models":
            return {"object": "list", "data": [{"id": "llama-3.1-8b-instant", "object": "model", "owned_by": "Meta"}]}
        if kind == "no_plan" or "no_plan" in faults:
            raise Refused(404, "Not Found", "not_found")
        if kind == "restricted":
            raise Refused(403, "Not allowed to read metrics", "permissions_error")
        if "bare_throttling" in faults:
            raise Refused(429, "Rate limit reached", "rate_limit_exceeded")
        for fault, error in (("status_error", "422"), ("timed_out", "timeout")):
            if fault in faults:
                return {"status": "error", "errorType": error, "error": "something is wrong with the query"}
        asked = request.query
        if operation == "names":
            return _success(self._names(organization, asked, faults), faults)
        if operation == "query":
            return _success(self._instant(organization, asked.get("query", ""), asked.get("time"), faults), faults)
        return self._range(organization, operation, asked, faults)

    def _range(
        self, organization: Organization, operation: str, asked: Mapping[str, str], faults: FaultsInForce
    ) -> Row:
        start, end, step = (_number(asked, name) for name in ("start", "end", "step"))
        if not step or (end - start) // step >= MOST_POINTS:
            raise Refused(422, "too many points for the given step, start and end")
        most = faults.get("too_many_points")
        if most and (end - start) // step >= (most.size or POINTS + 12):
            raise Refused(422, "too many points for the given step, start and end")
        if operation not in SERIES or "nothing" in faults or self._hidden(faults):
            return _success({"resultType": "matrix", "result": []}, faults)
        oldest = self._oldest(faults)
        phase = faults.get("out_of_phase")
        late = (phase.size or 60) if phase else 0
        instants = range(start, end + 1, step)
        rows = []
        for series in _series(organization, operation):
            counted = self._counted(organization, series, start - STEP, end)
            values = [
                # Within its five minutes, usage is even.
                [at, _digits((counted[at] * (STEP - late) + counted.get(at - STEP, 0) * late) / STEP / STEP)]
                for at in instants
                if at > oldest and at in counted
            ]
            if values:
                rows.append({"metric": {"__name__": SERIES[operation]} | series.labels, "values": values})
        return _success({"resultType": "matrix", "result": _spoilt(rows, start, faults)}, faults)

    def _counted(self, organization: Organization, series: _Series, start: int, end: int) -> dict[int, int]:
        """Return instant → what the five minutes up to it counted, where the series has a value."""
        now = self._truth.world.clock.now()
        found: dict[int, int] = {}
        day = _day(start)
        while (midnight := _midnight(day)) < end:
            values = self._truth.values(organization, series.use, day)
            if series.meter in values:
                total = values[series.meter]
                if organization.parts:
                    total = total // 3 if series.part else total - total // 3
                first, last = (hour * 12 for hour in series.use.hours)
                if day == now.date():
                    # All of today's half is in its first five minutes, so that it stays the same all day.
                    spread = [total] + [0] * (POINTS - 1)
                    first, last = 0, min(POINTS, (int(now.timestamp()) - midnight) // STEP)
                else:
                    spread = self._spread(series, day, total)
                found |= {midnight + STEP * (n + 1): spread[n] for n in range(first, last)}
            day += timedelta(days=1)
        return found

    def _spread(self, series: _Series, day: date, total: int) -> list[int]:
        key = (series.use, series.meter, day, total)
        if key not in self._cache:
            if len(self._cache) > 5000:
                self._cache.clear()
            self._cache[key] = counts(series.use, series.meter, day, total)
        return self._cache[key]

    def _instant(self, organization: Organization, query: str, at: str | None, faults: FaultsInForce) -> Row:
        found = False
        if probe := _PROBE.fullmatch(query):
            end = int(at or 0)
            oldest = max(self._oldest(faults), end - int(probe[2]) * STEP * POINTS)
            names = set(probe[1].split("|"))
            day = _day(end)
            found = (
                "nothing" not in faults
                and not self._hidden(faults)
                and any(
                    SERIES[_operation(meter)] in names and moment < end and moment >= oldest
                    for moment, meter in self._days_before(organization, day, oldest)
                )
            )
        elif query != f"count({SERIES['tokens_in']})":
            raise Refused(422, f"unknown query {query[:50]}")
        return {"resultType": "vector", "result": [{"metric": {}, "value": [int(at or 0), "3"]}] if found else []}

    def _days_before(self, organization: Organization, day: date, oldest: int) -> Iterator[tuple[int, str]]:
        while (midnight := _midnight(day := day - timedelta(days=1))) + STEP * POINTS > oldest:
            for _, values in self._truth.used(organization, day):
                for meter in values:
                    yield midnight + STEP, meter

    def _names(self, organization: Organization, asked: Mapping[str, str], faults: FaultsInForce) -> list[str]:
        if "earlier_names" in faults:
            return sorted(EARLIER)
        if "other_names" in faults:
            return sorted(OTHER)
        start, end = max(_number(asked, "start"), self._oldest(faults)), _number(asked, "end")
        met = {SERIES[_operation(meter)] for moment, meter in self._days_before(organization, _day(end), start)}
        met |= {
            SERIES[_operation(meter)] for _, values in self._truth.used(organization, _day(end)) for meter in values
        }
        return sorted(met | ({"le_model_project_id:ttft_latency_seconds_bucket:rate5m"} if met else set()))

    def _oldest(self, faults: FaultsInForce) -> int:
        """Return from when on there is anything: for four months, or as the fault says."""
        forgets = faults.get("forgets")
        days = (forgets.size or 10) if forgets else 120
        return _midnight(self._truth.world.clock.today() - timedelta(days=days - 1))

    def _hidden(self, faults: FaultsInForce) -> bool:
        return "earlier_names" in faults or "other_names" in faults


SIMULATOR = GroqSimulator


def _series(organization: Organization, operation: str) -> Iterator[_Series]:
    """Yield an organization's series of one name."""
    for use in organization.uses:
        labels = {name: value for name, value in (("model", use.model), ("project_id", use.project)) if value}
        if operation == "requests":
            for status in ("200", "400", "429", "503"):
                yield _Series(use, status, labels | {"status_code": status})
        elif organization.parts:
            for n, part in enumerate(organization.parts):
                yield _Series(use, operation, labels | {"pool": part}, n)
        else:
            yield _Series(use, operation, labels)


def _operation(meter: str) -> str:
    return meter if meter in (TOKENS_IN, TOKENS_OUT) else "requests"


def _spoilt(rows: list[Row], start: int, faults: FaultsInForce) -> list[Row]:
    """Return a matrix as the faults leave it."""
    if "partial" in faults or "warned" in faults:
        rows = rows[: len(rows) // 2]
    if gap := faults.get("gap"):
        lost = (gap.size or 4) * STEP
        for row in rows:
            row["values"] = [pair for pair in row["values"] if (pair[0] - 1) % (STEP * POINTS) < STEP * POINTS - lost]
    if "shifted_instants" in faults:
        rows = [row | {"values": [[instant + 60, value] for instant, value in row["values"]]} for row in rows]
    if "first_midnight" in faults:
        rows = [row | {"values": [[start - STEP, "1"], *row["values"]]} for row in rows]
    if "missing_label" in faults:
        rows = [row | {"metric": {"project_id": f"p{n}"}} for n, row in enumerate(rows)]
    if "unknown_fields" in faults:
        more = {"metric": {"zone": "x"}, "histograms": [], "last_prompt": "Dear diary"}
        rows = [row | more | {"metric": row["metric"] | more["metric"]} for row in rows]
    if "odd_value" in faults:
        rows = [row | {"values": [[instant, "many"] for instant, _ in row["values"]]} for row in rows]
    if "negative_value" in faults:
        rows = [row | {"values": [[instant, f"-{value}"] for instant, value in row["values"]]} for row in rows]
    if "series_twice" in faults:
        rows = rows + rows
    if "contradicting_series" in faults:
        rows = rows + [row | {"values": [*row["values"][:-1], [row["values"][-1][0], "7"]]} for row in rows]
    return rows


def _success(data: Any, faults: FaultsInForce) -> Row:
    content: Row = {"status": "success", "isPartial": "partial" in faults, "data": data}
    content["stats"] = {"seriesFetched": "3", "executionTimeMsec": 14}
    if "warned" in faults:
        content = {"status": "success", "data": data, "warnings": ["some stores did not answer"]}
    if "wrong_result" in faults:
        content["data"] = {"resultType": "vector", "result": []}
    if "unknown_fields" in faults:
        content |= {"trace": {"query": "Dear diary"}, "data": data | {"total": 3} if isinstance(data, dict) else data}
    return content


def _digits(value: float) -> str:
    """Return the shortest digits that say which binary fraction it is, as Go writes them: without an exponent."""
    text = repr(value)
    return f"{value:.20f}" if "e-" in text else text.removesuffix(".0")


def _number(asked: Mapping[str, str], name: str) -> int:
    if not asked.get(name, "").isdecimal():
        raise Refused(422, f"missing or bad {name}")
    return int(asked[name])


def _day(instant: int) -> date:
    return datetime.fromtimestamp(instant, UTC).date()


def _midnight(day: date) -> int:
    return int(datetime.combine(day, time(), tzinfo=UTC).timestamp())


def _invalid_key() -> Refused:
    return Refused(401, "Invalid API Key", "invalid_api_key")


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})
