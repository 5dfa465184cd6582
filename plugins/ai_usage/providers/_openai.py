"""
What the organization endpoints of OpenAI's API answer, and how much of it may be believed.

Every usage endpoint and the costs endpoint share one envelope: pages of buckets, a bucket per UTC day, a row per group::

    {"object": "page", "data": [{"object": "bucket", "start_time": 1788220800, "end_time": 1788307200, "results": [
        {"object": "organization.usage.completions.result", "input_tokens": 91250, …}]}],
     "has_more": false, "next_page": null}

A row is taken over in OpenAI's own words, without what is null. Money is what the digits on the wire say. Fields that
nobody knew are kept under ``extra_fields`` if they are too plain to be content, and are told once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from ai_usage.core.contract import Connection, Journal, Note
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ResponseInvalid
from ai_usage.core.slices import Window

SECONDS_PER_DAY = 86_400
COSTS = "costs"
USAGE_DAYS = 31
"""The most daily buckets on a page of a usage endpoint."""
COST_DAYS = 180
"""The most daily buckets on a page of costs."""
PROJECTS_PER_PAGE = 100

EMPTY_PAGES = 10
"""So many pages in a row without a bucket are no answer any more."""
MOST_PROJECT_PAGES = 1000
LONGEST_NAME = 512
LARGEST_COUNT = 2**63 - 1

_AMOUNT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,2})?")
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_REPORT = "Check the connection's address; if it is right, report this."

Row = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """
    One of the organization endpoints.

    :param name: the last part of its path, and the name of the stream.
    :param summary: what one record is.
    :param objects: what its rows may call themselves. Two of them are not called like their path.
    :param required: counts without which a row says nothing.
    :param optional: further counts.
    :param group_by: the dimensions that are always asked for: as many as the endpoint has, keys and users aside.
    :param has_callers: whether it can be grouped by API key and user as well.
    """

    name: str
    summary: str
    objects: frozenset[str]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    group_by: tuple[str, ...] = ("project_id", "model")
    has_callers: bool = True

    @property
    def path(self) -> str:
        """The path below the base address."""
        return "organization/costs" if self.name == COSTS else f"organization/usage/{self.name}"

    @property
    def days_per_page(self) -> int:
        """How many daily buckets one page may hold."""
        return COST_DAYS if self.name == COSTS else USAGE_DAYS

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Everything that can tell rows of one day apart."""
        callers = {False: (), True: ("api_key_id",) if self.name == COSTS else ("api_key_id", "user_id")}
        return (*self.group_by, *callers[self.has_callers])

    @property
    def fields(self) -> frozenset[str]:
        """Every field a record may have."""
        own = {"amount", "quantity", "quantity_unit", "organization_id"} if self.name == COSTS else set()
        return frozenset(own | {*self.required, *self.optional, *self.dimensions, "project_name", "extra_fields"})


def _usage(name: str, summary: str, *required: str, result: str | None = None, **details: Any) -> Endpoint:
    objects = frozenset(f"organization.usage.{one}.result" for one in (name, result) if one)
    return Endpoint(name, summary, objects, required, **details)


ENDPOINTS = (
    _usage(
        "completions",
        "one project's day with one model, batch or not, at one service tier: requests and tokens",
        "input_tokens",
        "output_tokens",
        "num_model_requests",
        optional=(
            "input_cached_tokens",
            "input_cache_write_tokens",
            "input_uncached_tokens",
            "input_text_tokens",
            "input_audio_tokens",
            "input_image_tokens",
            "input_cached_text_tokens",
            "input_cached_audio_tokens",
            "input_cached_image_tokens",
            "output_text_tokens",
            "output_audio_tokens",
            "output_image_tokens",
        ),
        group_by=("project_id", "model", "batch", "service_tier"),
    ),
    _usage("embeddings", "one project's day with one embedding model", "input_tokens", "num_model_requests"),
    _usage("moderations", "one project's day with one moderation model", "input_tokens", "num_model_requests"),
    _usage(
        "images",
        "one project's day with one image model, by size and kind of request",
        "images",
        "num_model_requests",
        group_by=("project_id", "model", "size", "source"),
    ),
    _usage("audio_speeches", "one project's day with one speech model", "characters", "num_model_requests"),
    _usage("audio_transcriptions", "one project's day with one transcription model", "seconds", "num_model_requests"),
    _usage(
        "vector_stores",
        "how many bytes one project stored on a day: a stock, not to be added up over days",
        "usage_bytes",
        group_by=("project_id",),
        has_callers=False,
    ),
    _usage(
        "code_interpreter_sessions",
        "one project's sessions of the code interpreter on a day",
        "num_sessions",
        group_by=("project_id",),
        has_callers=False,
    ),
    _usage(
        "file_search_calls",
        "one project's file searches in one vector store on a day",
        "num_requests",
        result="file_searches",
        group_by=("project_id", "vector_store_id"),
    ),
    _usage(
        "web_search_calls",
        "one project's web searches of one model on a day, by context level",
        "num_requests",
        # The model's requests that searched; they are among those of completions.
        "num_model_requests",
        result="web_searches",
        group_by=("project_id", "model", "context_level"),
    ),
    Endpoint(
        COSTS,
        "what one project's day was billed for one line item",
        frozenset({"organization.costs.result"}),
        required=(),
        group_by=("project_id", "line_item"),
    ),
)
BY_NAME: Mapping[str, Endpoint] = {endpoint.name: endpoint for endpoint in ENDPOINTS}

# Seen on the wire, in no document. Names of organizations and projects are not numbers of the day.
_UNDOCUMENTED_ROW = frozenset({"organization_name", "project_name", "organization_id"})
_BUCKET = frozenset({"object", "start_time", "end_time", "results", "start_time_iso", "end_time_iso"})
_PAGE = frozenset({"object", "data", "has_more", "next_page"})
_EVERY_DIMENSION = frozenset(
    {"project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "size", "source", "vector_store_id"}
    | {"context_level", "line_item", "quantity", "quantity_unit"}
)


class WindowRefused(ResponseInvalid):
    """OpenAI does not answer for these days; it may well answer for others."""

    is_permanent = False


class OpenAI:
    """
    Asks the organization endpoints and returns rows of which every day is known to be complete.

    :param today: the UTC day, whose bucket may not exist yet.
    """

    def __init__(self, connection: Connection, today: date) -> None:
        self._connection = connection
        self._client = connection.client
        self._today = today

    def rows(self, endpoint: Endpoint, window: Window, group_by: Iterable[str], drift: Drift) -> dict[date, list[Row]]:
        """Return the rows of each day, in as few pages as the endpoint allows."""
        answer = _Answer(endpoint, window, drift)
        params: dict[str, Any] = {
            "start_time": int(window.start_at.timestamp()),
            "end_time": int(window.end_at.timestamp()),
            "bucket_width": "1d",
            "limit": min(len(window), endpoint.days_per_page),
            "group_by": list(group_by),
        }
        seen: set[str] = set()
        empty = 0
        while True:
            page = self._client.get_json(endpoint.path, params, expect=("object", "data", "has_more"))
            empty = 0 if answer.add(page) else empty + 1
            cursor = _next_page(page, endpoint.path)
            if cursor is None:
                break
            if cursor in seen or empty >= EMPTY_PAGES:
                problem = "its pages lead round in a circle" if cursor in seen else "its pages hold nothing"
                raise invalid(endpoint.path, problem)
            seen.add(cursor)
            params["page"] = cursor
        answer.tell(self._connection.journal)
        return answer.complete(self._today)

    def projects(self) -> dict[str, str]:
        """Return project id → name, archived ones included. Takes the scope ``api.management.read``."""
        path, names = "organization/projects", dict[str, str]()
        params: dict[str, Any] = {"limit": PROJECTS_PER_PAGE, "include_archived": "true"}
        seen: set[str] = set()
        for _ in range(MOST_PROJECT_PAGES):
            page = self._client.get_json(path, params, expect=("object", "data", "has_more"))
            if page["object"] != "list" or not isinstance(page["data"], list):
                raise invalid(path, "it is not a list")
            for project in page["data"]:
                if not isinstance(project, dict) or not _is_name(project.get("id")):
                    raise invalid(path, "a project has no id")
                if _is_name(project.get("name")):
                    names[project["id"]] = project["name"]
            if page["has_more"] is not True:
                return names
            last = page.get("last_id") or (page["data"][-1]["id"] if page["data"] else None)
            if not isinstance(last, str) or not last or last in seen:
                break
            seen.add(last)
            params["after"] = last
        raise invalid(path, "its pages lead round in a circle")


class _Place(NamedTuple):
    """Where a row came from: rows of one page stand beside each other, a later page may repeat an earlier one."""

    page: int
    row: Row


class _Answer:
    """What all pages of one question have said so far."""

    def __init__(self, endpoint: Endpoint, window: Window, drift: Drift) -> None:
        self._endpoint = endpoint
        self._window = window
        self._drift = drift
        self._pages = 0
        self._days: dict[date, dict[tuple[Any, ...], list[_Place]]] = {}
        self._repeated = 0
        self._outside = 0
        self._odd_parts = 0

    def add(self, page: Row) -> bool:
        """Take in one page; return whether it held a bucket."""
        path = self._endpoint.path
        if page["object"] != "page" or not isinstance(page["data"], list):
            raise invalid(path, "it is not a page")
        self._drift.drop(page.keys() - _PAGE)
        self._pages += 1
        for bucket in page["data"]:
            if not isinstance(bucket, dict) or not isinstance(bucket.get("results"), list):
                raise invalid(path, "a bucket has no results")
            self._drift.drop(bucket.keys() - _BUCKET)
            day = self._day(bucket)
            if day not in self._window:
                self._outside += 1
                continue
            rows = self._days.setdefault(day, {})
            for row in bucket["results"]:
                self._keep(rows, _record(self._endpoint, row, self._drift))
        return bool(page["data"])

    def _day(self, bucket: Row) -> date:
        """Return the day of a bucket, which begins and ends at midnight UTC."""
        start, end = bucket.get("start_time"), bucket.get("end_time")
        if type(start) is not int or not 0 <= start < 2**33 or start % SECONDS_PER_DAY:
            raise invalid(self._endpoint.path, "a bucket does not begin at midnight UTC")
        if end is not None and end != start + SECONDS_PER_DAY:
            day = datetime.fromtimestamp(start, UTC).date()
            # The day that is not over may end wherever its clock stands.
            if day != self._window.last or type(end) is not int or not start < end < start + SECONDS_PER_DAY:
                raise invalid(self._endpoint.path, "a bucket is not one day long")
        return datetime.fromtimestamp(start, UTC).date()

    def _keep(self, rows: dict[tuple[Any, ...], list[_Place]], record: Row) -> None:
        """
        Keep a row unless it is there already.

        The same group twice is a repetition if it says the same, and a contradiction if not. Only lines of a bill that
        stand on one page are lines of their own, whatever they are called: they add up.
        """
        own = (record.get("amount", {}).get("currency"), record.get("quantity_unit"))
        key = (*(record.get(name) for name in self._endpoint.dimensions), *own)
        known = rows.setdefault(key, [])
        is_new_line = self._endpoint.name == COSTS and all(place.page == self._pages for place in known)
        if not known or is_new_line:
            known.append(_Place(self._pages, record))
            self._odd_parts += _parts_differ(record)
        elif any(place.row == record for place in known):
            self._repeated += 1
        else:
            raise invalid(self._endpoint.path, "one group has two different numbers on one day")

    def tell(self, journal: Journal) -> None:
        """Leave notes on what was odd but harmless, each worded alike in every run; and which day is still open."""
        path = self._endpoint.path
        journal.unanswered.update(day for day in self._window.days if day not in self._days)
        self._drift.tell(journal)
        if self._repeated:
            journal.notes.append(
                Note(
                    "rows_repeated",
                    f"{path} sent rows twice; each was counted once.",
                    "Nothing. Report it if it stays.",
                )
            )
        if self._outside:
            journal.notes.append(
                Note("outside_window", f"{path} sent days that were not asked for; they were dropped.")
            )
        if self._odd_parts:
            journal.notes.append(
                Note(
                    "parts_differ",
                    f"In {path}, uncached, cached and cache-write input do not add up to all input. All input is counted "
                    "as OpenAI gives it, the uncached part as what remains.",
                    "Compare with the usage page of platform.openai.com and report it.",
                )
            )

    def complete(self, today: date) -> dict[date, list[Row]]:
        """Return the rows of every day, once each day of the window that is over has been heard of."""
        missing = [day for day in self._window.days if day not in self._days and day < today]
        if missing:
            raise WindowRefused(
                f"{self._endpoint.path} said nothing about {missing[0]}"
                f"{f' and {len(missing) - 1} more days' if len(missing) > 1 else ''}; nothing was stored.",
                action="Nothing at once: the next run asks again. If OpenAI no longer keeps days that old, set the "
                "connection's start_date to the first day it answers for.",
            )
        return {day: [place.row for places in rows.values() for place in places] for day, rows in self._days.items()}


def _record(endpoint: Endpoint, row: Any, drift: Drift) -> Row:
    """
    Return a row as it is stored.

    :raises ResponseInvalid: if it is not what the endpoint gives, or a number in it cannot be one.
    """
    path = endpoint.path
    if not isinstance(row, dict):
        raise invalid(path, "a row is not an object")
    if row.get("object") not in endpoint.objects:
        raise invalid(path, "a row is of another kind")
    record: Row = {}
    for name in endpoint.required:
        if row.get(name) is None:
            raise invalid(path, f"{name} is missing from a row")
        record[name] = _count(path, name, row[name])
    for name in endpoint.optional:
        if row.get(name) is not None:
            record[name] = _count(path, name, row[name])
    for name in endpoint.dimensions:
        if row.get(name) is not None:
            record[name] = _flag(path, row[name]) if name == "batch" else _text(path, name, row[name])
    if endpoint.name == COSTS:
        record |= _money(path, row)
    _check_parts(path, record)
    known = {"object", "amount", *endpoint.fields, *_UNDOCUMENTED_ROW}
    # A dimension that the endpoint is not known to have comes as null; with a value in it, it is news.
    known |= {name for name in _EVERY_DIMENSION if row.get(name) is None}
    return record | drift.extras(row, known)


def _money(path: str, row: Row) -> Row:
    """Return amount, quantity and organization of a line of the bill."""
    amount = row.get("amount")
    if not isinstance(amount, dict):
        raise invalid(path, "amount is missing from a row")
    currency = amount.get("currency")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise invalid(path, "the currency is missing from a row")
    record: Row = {"amount": {"value": _decimal(path, "amount", amount.get("value")), "currency": currency}}
    if row.get("quantity") is not None:
        record["quantity"] = _decimal(path, "quantity", row["quantity"])
    for name in ("quantity_unit", "organization_id"):
        if row.get(name) is not None:
            record[name] = _text(path, name, row[name])
    return record


def _count(path: str, name: str, value: Any) -> int:
    """Return a count, which is a whole number however it is written."""
    is_whole = isinstance(value, Decimal) and 0 <= value <= LARGEST_COUNT and value == value.to_integral_value()
    if is_whole or (isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value)):
        value = int(value)
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        raise invalid(path, f"{name} is not a count")
    return value


def _decimal(path: str, name: str, value: Any) -> Decimal:
    """Return a number of the bill, digit by digit: it comes as text, or as a number."""
    text = str(value) if isinstance(value, str | int | Decimal) and not isinstance(value, bool) else ""
    if not _AMOUNT.fullmatch(text):
        raise invalid(path, f"{name} is not a number")
    return Decimal(text)


def _text(path: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise invalid(path, f"{name} is not a name")
    return value


def _flag(path: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid(path, "batch is neither true nor false")
    return value


def _check_parts(path: str, record: Row) -> None:
    """Refuse parts that are more than the whole: a subtraction would give tokens below zero."""
    if "input_tokens" in record and _cached(record) > record["input_tokens"]:
        raise invalid(path, "more input is cached than there is input")


def _parts_differ(record: Row) -> bool:
    uncached = record.get("input_uncached_tokens")
    return uncached is not None and uncached + _cached(record) != record["input_tokens"]


def _cached(record: Row) -> int:
    return int(record.get("input_cached_tokens", 0) + record.get("input_cache_write_tokens", 0))


def _next_page(page: Row, path: str) -> str | None:
    """Return the cursor of the next page, or ``None`` at the end; refuse an answer that is neither."""
    if page["has_more"] is False:
        return None
    cursor = page.get("next_page")
    if page["has_more"] is not True or not isinstance(cursor, str) or not cursor:
        raise invalid(path, "it says that there is more, but not where")
    return cursor


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def invalid(path: str, problem: str) -> ResponseInvalid:
    """Return the refusal of an answer that is not the documented one."""
    return ResponseInvalid(f"The answer of {path} is not as documented: {problem}; nothing was stored.", action=_REPORT)
