"""
What Groq's metrics API answers, how much of it may be believed, and how rates become a day.

The API is a query endpoint in Prometheus' manner (VictoriaMetrics is behind it). Its series are no counters: each value
``r(t)`` is already (what was counted in the five minutes up to ``t``) / 300. A day is therefore 288 such values, taken
five minutes apart from 00:05 to the next midnight, and what was counted is 300 times their sum::

    {"status": "success", "isPartial": false, "data": {"resultType": "matrix", "result": [
        {"metric": {"model": "llama-3.3-70b-versatile", "project_id": "project_01hx3k9v7q"},
         "values": [[1788221100, "412.3366667"], [1788221400, "398"], …]}]}}

The instant 00:00 belongs to the day before. An instant without a value counts as zero. Sums are exact: they are made of
the digits on the wire, as decimals, whatever binary fraction Groq rounded to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

from ai_usage.core.contract import Connection, Note
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ResponseInvalid, SourceUnavailable
from ai_usage.core.slices import Window

STEP = 300
"""Seconds from one value to the next: what each of them covers."""
POINTS_PER_DAY = 288
FAMILY = "model_project_id"
TOKENS_IN = f"{FAMILY}:tokens_in:rate5m"
TOKENS_OUT = f"{FAMILY}:tokens_out:rate5m"
REQUESTS = f"{FAMILY}_status_code:requests:rate5m"
SERIES = (REQUESTS, TOKENS_IN, TOKENS_OUT)
MEMORY_DAYS = 60
"""How far before a doubtful day is looked for anything that Groq still keeps."""
ATTEMPTS_AT_PARTIAL = 3
LONGEST_LABEL = 512
DIGITS = 150
"""Of the decimals that sums are made with: more than any sum of rates can have."""
WHOLE_WITHIN = Decimal(2) ** -48
"""
How far a sum of whole counts can be from whole, as a part of it. A binary fraction is off by 2^-53 at most, its digits on
the wire by as much again, and there is room for a rate that Groq adds up of thirty series.
"""

_RATE = re.compile(r"[0-9]{1,25}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,2})?")
_NO_NUMBER = frozenset({"NaN", "+Inf", "-Inf", "Inf"})
_ERROR_TYPE = re.compile(r"[A-Za-z0-9_]{1,30}")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_PASSES_BY_ITSELF = re.compile(r"timeout|unavailable|canceled|cancelled|internal|429|5[0-9]{2}", re.IGNORECASE)
_ENVELOPE = frozenset({"status", "data", "isPartial", "stats", "warnings", "infos"})
_EPOCH = date(1970, 1, 1).toordinal()
_REPORT = "Check the connection's address; if it is right, report this."
_NEXT_RUN = "Nothing to do at once: the next run asks again."

Points = dict[int, Decimal]
"""Instant (seconds since 1970) → rate."""


class Labels(NamedTuple):
    """What tells a record's numbers apart. A label that a series lacks is ``None``."""

    model: str | None
    project_id: str | None
    status_code: str | None


class QuestionRefused(ResponseInvalid):
    """Groq does not answer this question: it is too large, or of a kind that Groq does not take."""


class PartialAnswer(SourceUnavailable):
    """Groq says itself that something is missing from its answer."""


class Groq:
    """
    Asks for series and returns rates of which every value is where it belongs.

    :param until: the last instant that has a value by now.
    """

    def __init__(self, connection: Connection, until: int = 0) -> None:
        self._client = connection.client
        self._journal = connection.journal
        self._until = until
        self._drift = Drift("query_range")
        self._skipped = False
        self._repeated = False

    def rates(self, metric: str, window: Window) -> dict[Labels, Points]:
        """
        Return a metric's rates by label, those of series that differ in other labels added up.

        A question that is too large for Groq, or an answer too large for us, is put again in halves.
        """
        received = self._journal.bytes_received
        try:
            return self._range(metric, window)
        except ResponseInvalid as refusal:
            is_too_large = self._journal.bytes_received - received > self._client.limits.max_body_bytes
            if len(window) == 1 or not (is_too_large or isinstance(refusal, QuestionRefused)):
                raise
        middle = window.first + timedelta(days=len(window) // 2 - 1)
        halves = Window(window.first, middle), Window(middle + timedelta(days=1), window.last)
        found: dict[Labels, Points] = {}
        for half in halves:
            for labels, points in self.rates(metric, half).items():
                found.setdefault(labels, {}).update(points)
        return found

    def counts_now(self) -> None:
        """Ask the cheapest question that takes the right to ask: whether anybody uses a model right now."""
        data = self._success("api/v1/query", {"query": f"count({TOKENS_IN})"})
        if not isinstance(data.get("result"), list):
            raise invalid("query", "it has no result")

    def remembers_before(self, day: date) -> bool:
        """Return whether Groq still has any value from before a day."""
        names = "|".join(SERIES)
        data = self._success(
            "api/v1/query",
            {
                "query": f'count(last_over_time({{__name__=~"{names}"}}[{MEMORY_DAYS}d]))',
                "time": _midnight(day),
                "nocache": 1,
            },
        )
        if not isinstance(data.get("result"), list):
            raise invalid("query", "it has no result")
        return bool(data["result"])

    def names(self, window: Window) -> set[str]:
        """Return the names of Groq's series, as far as there were any in the days of the window."""
        params = {
            "match[]": '{__name__=~".+:(rate5m|rate1m|increase1m)"}',
            "start": _midnight(window.first),
            "end": min(_midnight(window.last) + POINTS_PER_DAY * STEP, self._until or 2**40),
        }
        path = "api/v1/label/__name__/values"
        answer = self._asked(path, params)
        names = answer["data"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise invalid(path, "it is not a list of names")
        return {name.strip() for name in names if _NAME.fullmatch(name.strip())}

    def has_models(self) -> None:
        """Ask for the list of models, which every key may read, beside the metrics and not below them."""
        self._client.follow_json("../../../openai/v1/models", expect=("data",))

    def tell(self) -> None:
        """Leave notes on what was odd but harmless; each worded alike in every run."""
        self._drift.tell(self._journal)
        if self._skipped:
            self._journal.notes.append(
                Note("values_skipped", "Groq sent values that are no numbers (NaN, infinity); they count as zero.")
            )
        if self._repeated:
            self._journal.notes.append(
                Note(
                    "rows_repeated", "Groq sent series twice; each was counted once.", "Nothing. Report it if it stays."
                )
            )

    # ---------------------------------------------------------------- one answer

    def _range(self, metric: str, window: Window) -> dict[Labels, Points]:
        first = _midnight(window.first) + STEP
        last = min(_midnight(window.last) + POINTS_PER_DAY * STEP, self._until)
        if last < first:
            return {}
        # Without nocache, VictoriaMetrics may move the instants to where its cache has them.
        params = {"query": metric, "start": first, "end": last, "step": STEP, "nocache": 1}
        data = self._success("api/v1/query_range", params)
        if data.get("resultType") != "matrix" or not isinstance(data.get("result"), list):
            raise invalid("query_range", "it is no matrix")
        self._drift.drop(data.keys() - {"resultType", "result"}, "data.")
        known: dict[tuple[tuple[str, str], ...], Points] = {}
        for series in data["result"]:
            if not isinstance(series, dict):
                raise invalid("query_range", "a series is not an object")
            self._drift.drop(series.keys() - {"metric", "values"}, "series.")
            labels = _labels(series.get("metric"), metric)
            points = self._points(series.get("values"), first, last)
            if labels in known and known[labels] != points:
                raise invalid("query_range", "one series has two different values")
            self._repeated |= labels in known
            known[labels] = points
        return self._by_place(metric, known)

    def _by_place(self, metric: str, known: Mapping[tuple[tuple[str, str], ...], Points]) -> dict[Labels, Points]:
        found: dict[Labels, Points] = {}
        for pairs, points in known.items():
            labels = dict(pairs)
            for name in sorted(labels.keys() - {*Labels._fields, "__name__"}):
                self._drift.remark(
                    f"Groq's series have a label that this project does not know: {name if _NAME.fullmatch(name) else '?'}."
                    " Its values are added up."
                )
            if metric != REQUESTS and not labels.get("model"):
                raise invalid("query_range", "a series of tokens names no model")
            place = Labels(*(labels.get(name) or None for name in Labels._fields))
            if place in found:
                with localcontext(prec=DIGITS):
                    for instant, rate in points.items():
                        found[place][instant] = found[place].get(instant, Decimal(0)) + rate
            else:
                found[place] = points
        return found

    def _points(self, values: Any, first: int, last: int) -> Points:
        """Return a series' values by instant. Every instant must be one that was asked for."""
        if not isinstance(values, list):
            raise invalid("query_range", "a series has no values")
        points: Points = {}
        before = 0
        for pair in values:
            if not isinstance(pair, list) or len(pair) != 2:
                raise invalid("query_range", "a value is not a pair of time and text")
            instant, text = pair
            if instant != int(instant) if isinstance(instant, Decimal) else type(instant) is not int:
                raise invalid("query_range", "a value has no time, or not one that was asked for")
            instant = int(instant)
            if instant % STEP or not first <= instant <= last or instant <= before:
                raise invalid("query_range", "a value does not stand at a time that was asked for")
            before = instant
            if isinstance(text, str) and text in _NO_NUMBER:
                self._skipped = True
            elif isinstance(text, str) and _RATE.fullmatch(text):
                points[instant] = Decimal(text)
            else:
                raise invalid("query_range", "a value is no rate")
        return points

    def _success(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        data = self._asked(path, params)["data"]
        if not isinstance(data, dict):
            raise invalid(path, "its data is not an object")
        return data

    def _asked(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole answer. One that says that it is not whole is asked for again, and then refused."""
        for _ in range(ATTEMPTS_AT_PARTIAL):
            answer: dict[str, Any] = self._client.get_json(path, params, expect=("status",))
            if answer["status"] == "error":
                raise _error(answer)
            if answer["status"] != "success" or "data" not in answer:
                raise invalid(path, "it neither succeeded nor failed")
            # VictoriaMetrics says it in one way, Prometheus and Thanos in the other.
            if not answer.get("isPartial") and not answer.get("warnings"):
                self._drift.drop(answer.keys() - _ENVELOPE)
                return answer
        raise PartialAnswer(
            f"Groq says that its answer to {path} is partial; nothing of it was stored.", action=_NEXT_RUN
        )


def day_of(instant: int) -> date:
    """Return the UTC day of the five minutes that end at an instant: midnight belongs to the day before."""
    return date.fromordinal(_EPOCH + (instant - STEP) // (POINTS_PER_DAY * STEP))


def add_up(rates: Iterable[Decimal]) -> Decimal:
    """Return the exact sum."""
    with localcontext(prec=DIGITS):
        return sum(rates, Decimal(0))


def is_whole(rate_sum: Decimal) -> bool:
    """Return whether a sum of rates is a whole count, but for the rounding of binary fractions, and which one is certain."""
    with localcontext(prec=DIGITS):
        counted = rate_sum * STEP
        return abs(counted - counted.to_integral_value()) <= counted * WHOLE_WITHIN < Decimal("0.5")


def invalid(path: str, problem: str) -> ResponseInvalid:
    """Return the refusal of an answer that is not the documented one."""
    return ResponseInvalid(f"The answer of {path} is not as documented: {problem}; nothing was stored.", action=_REPORT)


def _labels(metric: Any, name: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(metric, dict):
        raise invalid("query_range", "a series has no labels")
    for value in metric.values():
        if not isinstance(value, str) or len(value) > LONGEST_LABEL:
            raise invalid("query_range", "a label is not a name")
    if metric.get("__name__", name) != name:
        raise invalid("query_range", "a series is another one than was asked for")
    return tuple(sorted(metric.items()))


def _error(answer: Mapping[str, Any]) -> ResponseInvalid | SourceUnavailable:
    kind = str(answer.get("errorType"))
    shown = f" ({kind})" if _ERROR_TYPE.fullmatch(kind) else ""
    if _PASSES_BY_ITSELF.search(kind):
        return SourceUnavailable(f"Groq could not answer{shown}.", action=_NEXT_RUN)
    return QuestionRefused(f"Groq refused the question{shown}; nothing was stored.", action=_REPORT)


def _midnight(day: date) -> int:
    return (day.toordinal() - _EPOCH) * POINTS_PER_DAY * STEP
