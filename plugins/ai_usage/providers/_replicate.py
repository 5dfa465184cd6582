"""
Replicate's lists of runs, and how much of a run is kept.

Predictions and trainings come in the same envelope, newest first, a hundred to a page::

    {"next": "https://api.replicate.com/v1/predictions?created_after=…&cursor=…", "previous": null, "results": [
        {"id": "q7k2…", "model": "meta/meta-llama-3-70b-instruct", "version": "hidden", "status": "succeeded",
         "source": "api", "created_at": "2026-09-01T23:58:59.123456Z", "metrics": {"predict_time": 64.498771, …},
         "input": {…}, "output": …, "logs": "…", "error": null, "urls": {…}}, …]}

Beside the numbers, a run holds what people asked and what they got. A record is therefore built from a list of what may be
kept, never by leaving things out: of a field that is not on the list, at most the name is told.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from ai_usage.core.contract import Connection, Note, Record
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ResponseInvalid
from ai_usage.core.slices import Window, midnight

PAGE = ("results", "next")
"""The keys without which an answer is no page. A missing ``next`` must never pass for the last page."""
UNENDED_DAYS = 30
"""A run that has not ended so many days after its creation is not waited for any longer."""
REMEMBERED_RUNS = 20_000
"""How many runs are remembered while a list is read, to know a repetition: two hundred pages."""
IDLE_PAGES = 10
"""So many pages in a row without a run that is new are no answer any more."""

REQUIRED = ("id", "model", "status", "created_at")
OPTIONAL = ("version", "source", "deployment", "started_at", "completed_at")
METRICS = ("predict_time", "input_token_count", "output_token_count")
FIELDS = frozenset({*REQUIRED, *OPTIONAL, "metrics", "extra_fields"})

# What a run is documented to have beside them. Content and addresses among it: it is not stored, nor worth telling.
_NEVER_KEPT = frozenset(
    {"input", "output", "logs", "error", "urls", "data_removed", "deadline", "webhook", "webhook_completed"}
    | {"webhook_events_filter", "context", "output_file_prefix", "stream", "queued_at"}
)
_OTHER_METRICS = frozenset({"total_time", "tokens_per_second", "time_to_first_token"})
_UNDER_WAY = frozenset({"starting", "processing"})
_ENDED = frozenset({"succeeded", "failed", "canceled", "aborted"})

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_FORMS: Mapping[str, re.Pattern[str]] = {
    "id": re.compile(r"[A-Za-z0-9_-]{1,64}"),
    "model": re.compile(rf"{_NAME}(/{_NAME})?"),
    "version": re.compile(_NAME),
    "deployment": re.compile(rf"{_NAME}(/{_NAME})?"),
    "status": re.compile(r"[a-z][a-z_-]{0,31}"),
    "source": re.compile(r"[a-z][a-z_-]{0,31}"),
}
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_NUMBER = re.compile(r"\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,2})?")
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,47}")
_REPORT = "Check the connection's address; if it is right, report this."

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run, reduced to what is kept."""

    created_at: datetime
    record: Row

    @property
    def day(self) -> date:
        """The UTC day it was created on: all it used counts there, even what it used after midnight."""
        return self.created_at.date()

    @property
    def has_ended(self) -> bool:
        """Whether its numbers will not change any more. Of a status that nobody knows, the end tells."""
        status = self.record["status"]
        return status in _ENDED or (status not in _UNDER_WAY and "completed_at" in self.record)

    @property
    def lacks_time(self) -> bool:
        """Whether it ran and ended, and Replicate does not say for how long."""
        return self.has_ended and "started_at" in self.record and "predict_time" not in self.record["metrics"]


class RunList:
    """
    One list of runs, read page by page as far as a window reaches.

    Nothing but the page at hand and what tells a repetition is held, however long the list is.

    :param path: where the list begins.
    :param today: the UTC day, which may go on while the list is read.
    """

    def __init__(self, connection: Connection, path: str, window: Window, today: date) -> None:
        self._connection = connection
        self._path = path
        self._window = window
        self._today = today
        self._drift = Drift(path)
        self._seen = _Seen(path)
        self._links: set[int] = set()
        self._oldest: datetime | None = None
        self._is_in_order = True
        self._idle_pages = 0
        self._remarks: dict[str, Note] = {}

    def records(self, params: Mapping[str, Any]) -> Iterator[Record]:
        """Yield the window's runs. Coming to the end means that the list was read to the end of the window."""
        client = self._connection.client
        page = client.get_json(self._path, params, expect=PAGE)
        while True:
            yield from self._of_window(page)
            link = self._next(page)
            if link is None or self._has_passed_the_window:
                break
            page = client.follow_json(link, seen_at=self._path, expect=PAGE)
        self._drift.tell(self._connection.journal)
        self._connection.journal.notes += self._remarks.values()

    @property
    def _has_passed_the_window(self) -> bool:
        """
        Whether only older runs can follow.

        Trainings cannot be asked for by date, and nobody promises that a ``next`` keeps the dates of predictions. A list
        that turns out not to be in order is read to its end.
        """
        return self._is_in_order and self._oldest is not None and self._oldest < self._window.start_at

    def _of_window(self, page: Row) -> Iterator[Record]:
        if not isinstance(page["results"], list):
            raise invalid(self._path, "it is not a list")
        self._drift.drop(page.keys() - {"results", "next", "previous"})
        found = 0
        for row in page["results"]:
            run = _run(self._path, row, self._drift)
            if not self._seen.add(run):
                continue
            found += 1
            if self._oldest is not None and run.created_at > self._oldest:
                self._is_in_order = False
            else:
                self._oldest = run.created_at
            if run.day in self._window:
                self._judge(run)
                yield Record(run.day, run.record)
        self._idle_pages = 0 if found else self._idle_pages + 1
        if self._idle_pages >= IDLE_PAGES:
            raise invalid(self._path, "page after page says nothing new")

    def _next(self, page: Row) -> str | None:
        """Return the address of the next page, as it stands; ``None`` after the last one."""
        link = page["next"]
        if link is None:
            return None
        if not isinstance(link, str) or not link:
            raise invalid(self._path, "it says that there is more, but not where")
        if hash(link) in self._links:
            raise invalid(self._path, "its pages lead round in a circle")
        self._links.add(hash(link))
        return link

    def _judge(self, run: Run) -> None:
        """Say what a run means for its day."""
        if not run.has_ended:
            if (self._today - run.day).days <= UNENDED_DAYS:
                self._connection.journal.unsettled.add(run.day)
            else:
                self._remark(
                    "never_ended",
                    f"{self._path}: a run has not ended {UNENDED_DAYS} days after its creation. It counts as a request, "
                    "without compute time, and is not waited for any longer.",
                    "Cancel it at Replicate, if it is still there.",
                )
        elif run.lacks_time:
            self._remark(
                "no_predict_time",
                f"{self._path}: some runs ended without a predict_time. They count as requests; their compute time is not "
                "known, and not guessed.",
                None,
            )

    def _remark(self, kind: str, message: str, action: str | None) -> None:
        self._remarks[kind] = Note(kind, message, action)


class _Known(NamedTuple):
    created_at: datetime
    has_ended: bool
    fingerprint: int


class _Seen:
    """
    Knows which runs of a list have come already, with bounded memory.

    In a list that is in order a repetition comes soon. If so many runs came that the first ones had to be forgotten, a
    later run that could be one of those is refused, never counted on suspicion.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._forgotten_since: datetime | None = None

    def add(self, run: Run) -> bool:
        """Return whether a run is new; refuse one that contradicts what was said of it."""
        now = _Known(run.created_at, run.has_ended, hash(repr(sorted(run.record.items()))))
        before = self._known.get(run.record["id"])
        if before is not None:
            # One that ended between two pages may differ; its day is read again.
            if before.has_ended and now.has_ended and before.fingerprint != now.fingerprint:
                raise invalid(self._path, "one run comes twice, with two different contents")
            return False
        if self._forgotten_since is not None and run.created_at >= self._forgotten_since:
            raise invalid(self._path, "it is too far out of order to tell a run that comes again from a new one")
        self._known[run.record["id"]] = now
        if len(self._known) > REMEMBERED_RUNS:
            _, oldest = self._known.popitem(last=False)
            self._forgotten_since = min(self._forgotten_since or oldest.created_at, oldest.created_at)
        return True


def dates(window: Window, today: date) -> dict[str, str]:
    """Return the parameters that ask for a window of predictions; open at its end while the last day goes on."""
    params = {"created_after": _instant(window.first)}
    if window.last < today:
        params["created_before"] = window.end_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return params


def _instant(day: date) -> str:
    return midnight(day).strftime("%Y-%m-%dT%H:%M:%SZ")


def _run(path: str, row: Any, drift: Drift) -> Run:
    """
    Return a run as it is kept.

    :raises ResponseInvalid: if it lacks what a run must have, or something is not of its form. No value is repeated.
    """
    if not isinstance(row, dict):
        raise invalid(path, "a run is not an object")
    for name in REQUIRED:
        if row.get(name) in (None, ""):
            raise invalid(path, f"{name} is missing from a run")
    record: Row = {}
    for name in (*REQUIRED, *OPTIONAL):
        value = row.get(name)
        if value is None or value == "":
            continue
        if name.endswith("_at"):
            _parsed(path, name, value)
        elif not isinstance(value, str) or not _FORMS[name].fullmatch(value):
            raise invalid(path, f"{name} of a run is not of the known form")
        record[name] = value
    drift.drop(row.keys() - FIELDS - _NEVER_KEPT)
    record |= _metrics(path, row.get("metrics"), drift)
    return Run(_parsed(path, "created_at", row["created_at"]), record)


def _metrics(path: str, metrics: Any, drift: Drift) -> Row:
    """
    Return the metrics that are kept, and other numbers under ``extra_fields``.

    The map is open: official models count images, seconds and the like under names of their own. Only numbers are taken.
    """
    if metrics is None:
        metrics = {}
    if not isinstance(metrics, dict):
        raise invalid(path, "metrics of a run is not an object")
    kept: Row = {}
    for name in METRICS:
        if metrics.get(name) is not None:
            number = _number(path, name, metrics[name])
            kept[name] = number if name == "predict_time" else _whole(path, name, number)
    others = {name: value for name, value in metrics.items() if name not in METRICS and name not in _OTHER_METRICS}
    numbers = {name: value for name, value in others.items() if _METRIC.fullmatch(name) and _is_number(value)}
    drift.drop(others.keys() - numbers.keys(), "metrics.")
    extras = drift.keep(numbers, "metrics.")
    return {"metrics": kept} | ({"extra_fields": extras} if extras else {})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _number(path: str, name: str, value: Any) -> Decimal:
    """Return a number from zero up, digit by digit; it may come as text."""
    text = str(value) if isinstance(value, str) or _is_number(value) else ""
    if not _NUMBER.fullmatch(text):
        raise invalid(path, f"{name} of a run is not a number from zero up")
    return Decimal(text)


def _whole(path: str, name: str, number: Decimal) -> int:
    if number != number.to_integral_value():
        raise invalid(path, f"{name} of a run is not a whole number")
    return int(number)


def _parsed(path: str, name: str, value: Any) -> datetime:
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        raise invalid(path, f"{name} of a run is not a time")
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(path, f"{name} of a run is not a time") from None


def invalid(path: str, problem: str) -> ResponseInvalid:
    """Return the refusal of an answer that is not the documented one."""
    return ResponseInvalid(f"The answer of {path} is not as documented: {problem}; nothing was stored.", action=_REPORT)
