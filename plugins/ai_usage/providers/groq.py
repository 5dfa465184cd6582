"""
Groq: daily requests and tokens per project and model, worked out of the metrics API of the Enterprise plan.

Groq tells no counts but rates: requests, input and output tokens per second, of the last five minutes, per project and
model. 288 of them, five minutes apart, make a day (:mod:`ai_usage.providers._groq`). Where the rates come from whole
counts, so do the days: to the token. It takes an ordinary API key of an organization that has the plan; a key of one
that has not is told from a wrong address and a wrong key, and is no failure.

A record is one project's day with one model: the exact sum of each series' rates (300 times it is what was counted), and
of how many five minutes there was a rate::

    {"model": "llama-3.3-70b-versatile", "project_id": "project_01hx3k9v7q",
     "tokens_in": {"rate_sum": 1187.5633333333333, "points": 288}, "tokens_out": {"rate_sum": 96.51, "points": 288},
     "requests": [{"status_code": "200", "rate_sum": 3.7133333333333336, "points": 288}], "gaps": 0}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Note, Record, Scope, Stream
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import Limits, Refusal
from ai_usage.core.http_provider import HttpProvider
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._groq import (
    REQUESTS,
    STEP,
    TOKENS_IN,
    TOKENS_OUT,
    Groq,
    Labels,
    Points,
    QuestionRefused,
    add_up,
    day_of,
    invalid,
    is_whole,
)

T = TypeVar("T")

INGESTION = timedelta(seconds=60)
"""How long a value is given to arrive before it is asked for."""
CERTAIN_DAYS = 7
"""How many days back "nothing" is believed without proof: whoever keeps metrics keeps them for a week."""
_KEYS = "console.groq.com/keys"
_NEW_KEY = f"Make a key of the organization at {_KEYS} and put it into the connection."
_BUY = (
    "Ask Groq's sales team (groq.com/enterprise-access) to enable Prometheus metrics for the organization, or remove the "
    "connection: no other plan tells usage to a key."
)
_FOREIGN_KEYS: Mapping[str, str] = {
    "sk-ant-": "Anthropic",
    "sk-or-": "OpenRouter",
    "sk-": "OpenAI",
    "fw_": "Fireworks",
    "r8_": "Replicate",
}
_EARLIER_NAMES = re.compile(r"tokens_(in|out):.+|requests:(rate|increase)1m")
_TOKENS = ((TOKENS_IN, "tokens_in"), (TOKENS_OUT, "tokens_out"))


class NothingThere(ConfigurationInvalid):
    """The metrics API answers 404. That is what an organization without the plan gets, and what a wrong address gets."""


class GroqProvider(HttpProvider):
    """
    Groq through the metrics API of the Enterprise plan.

    :param now: tells the time; only tests give another.
    """

    name = "groq"
    label = "Groq"
    connection_type = "ai_usage_groq"
    base_url = "https://api.groq.com/v1/metrics/prometheus"
    # No limit is published for this API. An answer holds about 25 bytes per value, and takes some ten times that to read.
    limits = Limits(calls_per_minute=60, max_body_bytes=32 * 1024 * 1024)
    streams = (
        Stream(
            name="usage",
            summary="one project's day with one model: sums of its rates of requests and tokens",
            grain=("model", "project_id"),
            fields=frozenset({"model", "project_id", "tokens_in", "tokens_out", "requests", "gaps"}),
            # Rates are not known to change once they are there; this leaves time for an outage of Groq's own metrics.
            settle=timedelta(days=3),
            lookback_days=3,
            # Not published. Days that Groq says nothing about are left open, so asking for more than there is does no harm.
            retention_days=90,
            # 8928 values per series; servers refuse from 11,000 (Prometheus) or 30,000 (VictoriaMetrics) on.
            max_window_days=31,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Prometheus metrics": "https://console.groq.com/docs/prometheus-metrics",
        "Errors": "https://console.groq.com/docs/errors",
        "Range queries": "https://docs.victoriametrics.com/keyconcepts/#range-query",
    }
    if_empty = (
        "Make the key in the organization whose projects call Groq, and name another start_date if its "
        "metrics begin later."
    )
    revoke = "Delete the API key at console.groq.com/keys."
    reads = (
        "rates of input and output tokens per project and model, as Groq's Prometheus metrics give them",
        "rates of requests per project, model and status code, where the organization has them",
        "the list of models, only to tell a missing plan from a wrong address",
    )
    never_reads = (
        "prompts, completions and audio",
        "costs, invoices and payment data, which Groq shows to people only",
        "API keys, members and the names of projects",
        "latencies and prompt-cache metrics",
    )

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._forgotten: WeakKeyDictionary[Any, date] = WeakKeyDictionary()
        """Client → the newest day of which Groq has been found to know nothing: it knows nothing of older ones either."""

    # ---------------------------------------------------------------- how to call

    def secret_headers(self, key: str) -> Mapping[str, str]:
        """Return the key as a bearer token; another vendor's key is not even shown to Groq."""
        for prefix, vendor in _FOREIGN_KEYS.items():
            if key.startswith(prefix):
                raise ConfigurationInvalid(f"This is a key of {vendor}, not of Groq.", action=_NEW_KEY)
        return {"Authorization": f"Bearer {key}"}

    def explain(self, refusal: Refusal) -> UsageError | None:
        """Say what Groq, or the query engine behind it, means by a status."""
        if refusal.status == 401:
            return CredentialRejected(
                "Groq does not accept the key (HTTP 401): it is mistyped, revoked or expired.", action=_NEW_KEY
            )
        if refusal.status == 403 and refusal.body is None:
            return SourceUnavailable(
                "Something in front of Groq refuses the request (HTTP 403 without Groq's own words).",
                action="Check the proxy. If there is none, Groq's protection blocks this machine: ask Groq why.",
            )
        if refusal.status == 403:
            return PermissionMissing(
                "The key may not read the organization's metrics (HTTP 403).",
                permission="metrics of the organization",
                action=f"Make a key without restrictions at {_KEYS}, or ask an owner of the organization to.",
            )
        if refusal.status == 404 and not refusal.path.endswith("/openai/v1/models"):
            return NothingThere(
                f"There is no metrics API at {refusal.path} (HTTP 404).",
                action=f"Clear the connection's address, or correct it; Groq's own is {self.base_url}.",
            )
        if refusal.status in (400, 413, 422):
            return QuestionRefused(
                f"Groq refused the question at {refusal.path} (HTTP {refusal.status}).",
                action="Nothing was stored. Report it, with the address of the connection if it is not Groq's own.",
            )
        return None

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the key and the plan, and whether the series that are read are there."""
        try:
            self.scopes(connection)
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, "Complete.")
        groq = Groq(connection)
        try:
            _entitled(groq, groq.counts_now)
        except UsageError as error:
            yield Check.failed("metrics API", error)
            yield Check("series", None, "Not asked, because there is no access to metrics.")
            return
        yield Check("metrics API", True, "Allowed: the organization has the plan.")
        today = self._now().date()
        try:
            names = groq.names(Window(today - CERTAIN_DAYS * ONE_DAY, today))
            _refuse_other_names(names)
        except UsageError as error:
            yield Check.failed("series", error)
            return
        yield _found(names)

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return the connection as a whole: a key belongs to one organization, which it does not name."""
        account_id, account_name = (options.text(connection, name) for name in ("account_id", "account_name"))
        return [Scope(account_id=account_id, account_name=account_name)]

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:  # noqa: ARG002
        """Yield the window's days. Nothing is yielded before every answer is in."""
        now = self._now() - INGESTION
        if window.first > now.date():
            return
        window = Window(window.first, min(window.last, now.date()))
        if window.last <= self._forgotten.get(connection.client, date.min):
            self._leave_open(connection, window.days)
            return
        until = int(now.timestamp()) // STEP * STEP
        if day_of(until) < window.first:
            return  # The first five minutes are not over.
        groq = Groq(connection, until)
        found = _entitled(groq, lambda: {name: groq.rates(name, window) for name in (REQUESTS, TOKENS_IN, TOKENS_OUT)})
        days = {day_of(instant) for rates in found.values() for points in rates.values() for instant in points}
        certain = now.date() - CERTAIN_DAYS * ONE_DAY
        doubtful = [day for day in window.days if day < min(days, default=certain) and day < certain]
        if not days and window.last >= certain:
            _refuse_other_names(groq.names(window))
        if doubtful and not groq.remembers_before(doubtful[0]):
            self._forgotten[connection.client] = doubtful[-1]
            self._leave_open(connection, doubtful)
        _refuse_halves(groq, found, window, connection)
        records = sorted(_records(found), key=lambda record: (record.usage_date, _grain(record.record)))
        groq.tell()
        _tell(connection, records)
        yield from records

    def _leave_open(self, connection: Connection, days: Iterator[date] | Sequence[date]) -> None:
        """Leave days unanswered: nobody can tell whether nothing was used, or it was and is no longer kept."""
        left = sorted(days)
        connection.journal.unanswered.update(left)
        connection.journal.notes.append(
            Note(
                "days_unknown",
                "Groq has no metrics for the oldest days, nor for any before them: nothing was used, or it is no longer "
                "kept. Nobody can tell, so these days stay missing.",
                f"To leave them out, set the connection's start_date to {left[-1] + ONE_DAY}.",
            )
        )


PROVIDER = GroqProvider()


def _entitled(groq: Groq, ask: Callable[[], T]) -> T:
    """
    Return what a question brings; find out what a 404 means.

    Groq answers so to a good key of an organization without the plan, but does so at a wrong address, too. The list of
    models tells: every key may read it.
    """
    try:
        return ask()
    except NothingThere as refusal:
        nothing = refusal
    try:
        groq.has_models()
    except UsageError as error:
        if not error.is_permanent or isinstance(error, CredentialRejected | PermissionMissing):
            raise
        raise nothing from None
    raise NotEntitled(
        "The key is good, but the organization's plan does not include Prometheus metrics: they are part of Groq's "
        "Enterprise plan only (HTTP 404).",
        action=_BUY,
    )


def _refuse_other_names(names: set[str]) -> None:
    """Refuse to take it for "nothing used" if there are series, and none that this project reads."""
    if not names or names & {REQUESTS, TOKENS_IN, TOKENS_OUT}:
        return
    if any(_EARLIER_NAMES.fullmatch(name) for name in names):
        raise NotEntitled(
            "The organization has Groq's earlier metrics only. They tell tokens as percentiles, which cannot be added up.",
            action=f"Ask Groq to give the organization the current ones: {TOKENS_IN} and {TOKENS_OUT}.",
        )
    raise ResponseInvalid(
        f"Groq's metrics have other names now: {', '.join(sorted(names)[:5])[:200]}.",
        action="Nothing was stored. Report it, so that the project learns them.",
    )


def _refuse_halves(groq: Groq, found: Mapping[str, Any], window: Window, connection: Connection) -> None:
    """Refuse numbers that lack what belongs beside them; find out whether requests are missing or were never there."""
    counted = {
        name: any(rate for points in rates.values() for rate in points.values()) for name, rates in found.items()
    }
    for here, there in ((TOKENS_IN, TOKENS_OUT), (TOKENS_OUT, TOKENS_IN)):
        if counted[here] and not found[there]:
            raise invalid("query_range", f"it tells {here}, but no {there}")
    # A request that was refused may have had no model. One that was answered had one.
    answered = [labels for labels in found[REQUESTS] if _is_success(labels)]
    if found[TOKENS_IN] and answered and not any(labels.model for labels in answered):
        raise invalid("query_range", "its tokens have models, its requests name no model")
    if counted[TOKENS_IN] and not found[REQUESTS]:
        if REQUESTS in groq.names(window):
            raise invalid("query_range", "it tells tokens, but no requests, although there are some")
        connection.journal.notes.append(
            Note(
                "requests_unknown",
                f"The organization has no series {REQUESTS}: requests and errors are not given.",
                "Ask Groq for it, if they are wanted.",
            )
        )


def _records(found: Mapping[str, Mapping[Labels, Points]]) -> Iterator[Record]:
    """Yield one record per day, model and project."""
    rows: dict[tuple[date, str | None, str | None], dict[str, Any]] = {}

    def row(day: date, labels: Labels) -> dict[str, Any]:
        named = {name: value for name, value in labels._asdict().items() if value and name != "status_code"}
        return rows.setdefault((day, labels.model, labels.project_id), named)

    answered: dict[tuple[str | None, str | None], set[int]] = {}
    for labels, points in found[REQUESTS].items():
        status = {"status_code": labels.status_code} if labels.status_code else {}
        if _is_success(labels):
            known = answered.setdefault((labels.model, labels.project_id), set())
            known.update(instant for instant, rate in points.items() if rate)
        for day, numbers in _by_day(points):
            row(day, labels).setdefault("requests", []).append(status | numbers)
    for series, name in _TOKENS:
        for labels, points in found[series].items():
            gaps: dict[date, int] = {}
            for instant in answered.get((labels.model, labels.project_id), set()) - points.keys():
                gaps[day_of(instant)] = gaps.get(day_of(instant), 0) + 1
            for day, numbers in _by_day(points):
                one = row(day, labels)
                one[name] = numbers
                one["gaps"] = max(one.get("gaps", 0), gaps.get(day, 0))
    for (day, _, _), one in rows.items():
        if "requests" in one:
            one["requests"].sort(key=lambda numbers: numbers.get("status_code", ""))
        yield Record(day, one)


def _is_success(labels: Labels) -> bool:
    return (labels.status_code or "2").startswith("2")


def _by_day(points: Points) -> Iterator[tuple[date, dict[str, Decimal | int]]]:
    days: dict[date, list[Decimal]] = {}
    for instant, rate in points.items():
        days.setdefault(day_of(instant), []).append(rate)
    for day, rates in days.items():
        yield day, {"rate_sum": add_up(rates), "points": len(rates)}


def _grain(record: Mapping[str, Any]) -> tuple[str, str]:
    return record.get("model", ""), record.get("project_id", "")


def _tell(connection: Connection, records: Sequence[Record]) -> None:
    """Say where the numbers are less than exact."""
    notes = connection.journal.notes
    sums = (
        numbers["rate_sum"]
        for _, record in records
        for numbers in (*record.get("requests", ()), *(record[name] for _, name in _TOKENS if name in record))
    )
    if not all(is_whole(rate_sum) for rate_sum in sums):
        notes.append(
            Note(
                "counts_rounded",
                "Groq's rates do not add up to whole counts; each day's count is rounded, and may be off by what was used "
                "in the minutes around the two midnights.",
                "Nothing. The documentation tells how far counts can be off.",
            )
        )
    for day in sorted({day for day, record in records if record.get("gaps")}):
        connection.journal.unsettled.add(day)
        notes.append(
            Note(
                "gaps",
                f"Groq tells no tokens for some minutes of {day} in which it counted requests: they count as zero, so that "
                "day may be too low.",
                "Nothing at once: the day is read again until the minutes are there. If it stays, ask Groq.",
            )
        )


def _found(names: set[str]) -> Check:
    if {TOKENS_IN, TOKENS_OUT} <= names:
        beside = "tokens and requests" if REQUESTS in names else "tokens, but no requests"
        return Check("series", True, f"There are {beside}.")
    return Check(
        "series",
        True,
        f"Warning: there were no tokens in the last {CERTAIN_DAYS} days.",
        "If Groq is used, check that the key belongs to the organization that uses it: another one shows as nothing.",
        "no_usage",
    )
