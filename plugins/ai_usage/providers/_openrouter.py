"""
OpenRouter's answers, checked field by field before anything is made of them.

Numbers stay as they came: counts as ``int``, money as the digits of the answer. A field that is missing or of the wrong
kind refuses the whole answer. A field nobody knew is kept under ``extra_fields`` if it is flat and short, so that no
content can slip in with it, and is told once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ai_usage.core.contract import Connection, Note
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ConfigurationInvalid, ResponseInvalid, SourceUnavailable
from ai_usage.core.http import HttpClient
from ai_usage.core.slices import Window

Row = dict[str, Any]

ACTIVITY_TEXTS = ("model", "model_permaslug", "endpoint_id", "provider_name")
ACTIVITY_COUNTS = ("requests", "prompt_tokens", "completion_tokens", "reasoning_tokens")
ACTIVITY_MONEY = ("usage", "byok_usage_inference")
CREDITS_MONEY = ("total_credits", "total_usage")
ACTIVITY_GRAIN = ("model_permaslug", "model", "endpoint_id", "provider_name", "workspace_id")
"""What tells two rows of one day apart. The documentation names no key; ``model`` carries the variant (``:free``)."""

HISTORY_COUNTS = (
    "request_count",
    "tokens_prompt",
    "tokens_completion",
    "reasoning_tokens",
    "cached_tokens",
    "byok_request_count",
)
HISTORY_MONEY = ("credits_usage", "byok_usage")
HISTORY_METRICS = (*HISTORY_COUNTS, *HISTORY_MONEY)
HISTORY_DIMENSIONS = ("model", "workspace")
"""Two are the most that a query takes."""

MOST_ROWS = 10_000
"""The most rows that one analytics query gives."""
PAGE = 100
"""The longest page of ``/workspaces``, and the only one of ``/keys``."""
LONGEST_TEXT = 300

_HOST = "openrouter.ai"
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T]00:00:00(?:\.0+)?(?:Z|\+00:00)?)?")
_MORE_PAGES = re.compile(r"next|cursor|has_more|more_pages|continuation", re.IGNORECASE)


class DayOutOfReach(SourceUnavailable):
    """A day has left the 30 days that activity covers, or has not come into them yet."""


class QueryTooHeavy(SourceUnavailable):
    """OpenRouter gave up an analytics query; a shorter one may work."""


class Key(NamedTuple):
    """An API key, as far as anyone may know it."""

    hash: str
    name: str


def refused(path: str, problem: str) -> ResponseInvalid:
    """Return the error for an answer that is not the documented one."""
    return ResponseInvalid(
        f"The answer to {path} is not as documented: {problem}.",
        action="Nothing was stored, and what was stored before is untouched. Report this message.",
    )


def _is_of_this_world(value: Decimal) -> bool:
    return value.is_finite() and (not value or -40 <= value.adjusted() <= 15)


class Fields:
    """The fields of one row; whatever is missing or odd refuses the answer."""

    def __init__(self, path: str, row: Any) -> None:
        self._path = path
        if not isinstance(row, dict):
            raise refused(path, "a row is not an object")
        self.row: Row = row

    def _get(self, name: str) -> Any:
        if name not in self.row:
            raise refused(self._path, f"{name} is missing from a row")
        return self.row[name]

    def text(self, name: str, *, may_be_empty: bool = False) -> str:
        """Return a text of reasonable length."""
        value = self._get(name)
        if not isinstance(value, str) or len(value) > LONGEST_TEXT or not (may_be_empty or value.strip()):
            raise refused(self._path, f"{name} is not a short text")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a text, or nothing where the provider says so in words (``null``)."""
        return None if self._get(name) is None else self.text(name, may_be_empty=True)

    def count(self, name: str) -> int:
        """Return a whole number from 0 up; analytics sends them as text."""
        value = self._get(name)
        number: int | None = None
        if isinstance(value, Decimal) and _is_of_this_world(value) and value == value.to_integral_value():
            value = int(value)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 30:
            number = int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        if number is None or not 0 <= number < 10**30:
            raise refused(self._path, f"{name} is not a count")
        return number

    def count_or_none(self, name: str) -> int | None:
        """Return a count, or nothing where the provider does not know it."""
        return None if self._get(name) is None else self.count(name)

    def money(self, name: str) -> int | Decimal:
        """Return an amount in US dollars, digit by digit; ``null`` is none at all."""
        value: int | Decimal | None = self._get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int | Decimal) or not _is_of_this_world(Decimal(value)):
            raise refused(self._path, f"{name} is not an amount")
        return value

    def day(self, name: str) -> date:
        """Return a UTC day, with or without a midnight behind it."""
        value = self._get(name)
        found = _DAY.fullmatch(value) if isinstance(value, str) else None
        try:
            return date.fromisoformat(found[1] if found else "")
        except ValueError:
            raise refused(self._path, f"{name} is not a day") from None


class Dated(NamedTuple):
    """A row and its day."""

    usage_date: date
    row: Row


class OpenRouter:
    """
    The questions that are put to OpenRouter.

    :param connection: its client must call OpenRouter itself, or this very machine: a management key can also make and
        delete keys, and goes nowhere else.
    """

    def __init__(self, connection: Connection) -> None:
        client: HttpClient = connection.client
        host = urlsplit(client.address.base_url).hostname or ""
        if not (client.address.is_loopback or host == _HOST or host.endswith(f".{_HOST}")):
            raise ConfigurationInvalid(
                f"The connection would send an OpenRouter management key to {host}.",
                action=f"Remove the address from the connection: OpenRouter is read at {_HOST} only.",
                connection_id=connection.connection_id,
            )
        self._client = client
        self._journal = connection.journal

    def key(self) -> Row:
        """Return what OpenRouter says about the key itself. Every kind of key may ask."""
        return self._object("key")

    def credits(self, drift: Drift) -> Row:
        """Return the dollars bought and the dollars used, over the account's whole life."""
        fields = Fields("credits", self._object("credits"))
        return {name: fields.money(name) for name in CREDITS_MONEY} | drift.extras(fields.row, CREDITS_MONEY)

    def metrics(self) -> tuple[set[str], set[str]]:
        """Return the names of the metrics and the dimensions that analytics offers."""
        data = self._object("analytics/meta")
        metrics, dimensions = (
            {Fields("analytics/meta", one).text("name") for one in _list("analytics/meta", data.get(kind), kind)}
            for kind in ("metrics", "dimensions")
        )
        return metrics, dimensions

    def workspaces(self) -> dict[str, str]:
        """Return workspace id → name."""
        found: dict[str, str] = {}
        while True:
            answer = self._client.get_json("workspaces", {"limit": PAGE, "offset": len(found)}, expect=["data"])
            page = {}
            rows = _list("workspaces", answer["data"], "data")
            for row in rows:
                fields = Fields("workspaces", row)
                page[fields.text("id")] = fields.text("name", may_be_empty=True)
            _refuse_known_page("workspaces", page, found)
            found |= page
            total = answer.get("total_count")
            if not rows or (len(found) >= total if isinstance(total, int) else len(rows) < PAGE):
                return found

    def keys(self, workspace_ids: Iterable[str]) -> list[Key]:
        """Return the keys of the workspaces, disabled ones included. Deleted ones are gone."""
        return [key for workspace_id in sorted(workspace_ids) for key in self._keys_of(workspace_id)]

    def _keys_of(self, workspace_id: str) -> Iterator[Key]:
        """Yield the keys of one workspace; without naming one, OpenRouter lists those of the default one only."""
        found: dict[str, str] = {}
        while True:
            params = {"workspace_id": workspace_id, "include_disabled": "true", "offset": len(found)}
            rows = _list("keys", self._client.get_json("keys", params, expect=["data"])["data"], "data")
            page = {}
            for row in rows:
                fields = Fields("keys", row)
                page[fields.text("hash")] = fields.text("name", may_be_empty=True)
            _refuse_known_page("keys", page, found)
            yield from (Key(*item) for item in page.items())
            found |= page
            if len(rows) < PAGE:
                return

    def activity(self, window: Window, drift: Drift | None = None, key_hash: str | None = None) -> list[Dated]:
        """
        Return the rows of the window's days, of all keys or of one.

        One day is asked for by itself; for more, one call gives all of the last 30 completed days.
        """
        params = {"group_by": "workspace"}
        if len(window) == 1:
            params["date"] = window.first.isoformat()
        if key_hash:
            params["api_key_hash"] = key_hash
        answer = self._client.get_json("activity", params, expect=["data"])
        _refuse_more_pages("activity", answer)
        rows = [_activity_row(row, drift or Drift("activity")) for row in _list("activity", answer["data"], "data")]
        return self._each_once("activity", (row for row in rows if row.usage_date in window))

    def history(self, window: Window, drift: Drift) -> list[Dated]:
        """
        Return analytics' rows of the window's days, in one query where that is answered completely.

        There are no pages: an answer that was cut, or took too long, is asked for again in two halves.
        """
        try:
            rows = self._query(window, drift)
        except QueryTooHeavy:
            if len(window) == 1:
                raise
            rows = None
        if rows is not None:
            # Kept as they are, because two workspaces of one name make two rows that look like one place.
            return sorted(rows, key=lambda dated: (dated.usage_date, dated.row["model"], dated.row["workspace"] or ""))
        if len(window) == 1:
            raise refused("analytics/query", f"{window} has more than {MOST_ROWS} combinations of model and workspace")
        middle = window.first + timedelta(days=len(window) // 2 - 1)
        earlier, later = Window(window.first, middle), Window(middle + timedelta(days=1), window.last)
        return self.history(earlier, drift) + self.history(later, drift)

    def _query(self, window: Window, drift: Drift) -> list[Dated] | None:
        """Return the rows of a window, or ``None`` if the answer was cut."""
        path = "analytics/query"
        question = {
            "metrics": HISTORY_METRICS,
            "dimensions": HISTORY_DIMENSIONS,
            "granularity": "day",
            "time_range": {
                "start": f"{window.start_at:%Y-%m-%dT%H:%M:%SZ}",
                "end": f"{window.end_at:%Y-%m-%dT%H:%M:%SZ}",
            },
            "limit": MOST_ROWS,
        }
        data = self._client.post_json(path, question, expect=["data"])["data"]
        if not isinstance(data, dict) or not isinstance(data.get("metadata"), dict):
            raise refused(path, "data and metadata are missing from it")
        truncated = data["metadata"].get("truncated")
        if not isinstance(truncated, bool):
            raise refused(path, "it does not say whether it is complete")
        rows = _list(path, data.get("data"), "data")
        if truncated or len(rows) >= MOST_ROWS:
            return None
        if Fields(path, data["metadata"]).count("row_count") != len(rows):
            raise refused(path, "it announces another number of rows than it has")
        for warning in data.get("warnings") or []:
            self._journal.notes.append(Note("provider_warning", f"{path} came with a warning: {str(warning)[:200]}"))
        return [dated for row in rows if (dated := _history_row(row, drift)).usage_date in window]

    def _each_once(self, path: str, rows: Iterable[Dated]) -> list[Dated]:
        """Return the rows in order; one that came twice counts once, two that contradict each other refuse the answer."""
        found: dict[tuple[str, ...], Dated] = {}
        repeated = 0
        for dated in rows:
            place = (dated.usage_date.isoformat(), *(str(dated.row[name]) for name in ACTIVITY_GRAIN))
            if found.setdefault(place, dated) != dated:
                raise refused(path, "two rows of the same day and place contradict each other")
            repeated += found[place] is not dated
        if repeated:
            self._journal.notes.append(Note("rows_repeated", f"{path} sent rows twice; each was counted once."))
        return [found[place] for place in sorted(found)]

    def _object(self, path: str) -> Row:
        data = self._client.get_json(path, expect=["data"])["data"]
        if not isinstance(data, dict):
            raise refused(path, "data is not an object")
        return data


def _activity_row(raw: Any, drift: Drift) -> Dated:
    fields = Fields("activity", raw)
    row: Row = {name: fields.text(name, may_be_empty=not name.startswith("model")) for name in ACTIVITY_TEXTS}
    row["workspace_id"] = fields.text_or_none("workspace_id")
    row |= {name: fields.count(name) for name in ACTIVITY_COUNTS}
    row |= {name: fields.money(name) for name in ACTIVITY_MONEY}
    if "byok_requests" in fields.row:
        row["byok_requests"] = fields.count_or_none("byok_requests")
    return Dated(fields.day("date"), row | drift.extras(fields.row, {*row, "date"}))


def _history_row(raw: Any, drift: Drift) -> Dated:
    fields = Fields("analytics/query", raw)
    time_keys = [name for name in fields.row if name in ("date__day", "created_at__day")]
    if len(time_keys) != 1:
        raise refused("analytics/query", "a row has no day, or two")
    row: Row = {"model": fields.text("model"), "workspace": fields.text_or_none("workspace")}
    row |= {name: fields.count_or_none(name) for name in HISTORY_COUNTS}
    for name in ("request_count", "tokens_prompt", "tokens_completion"):
        row[name] = fields.count(name)
    row |= {name: fields.money(name) for name in HISTORY_MONEY}
    return Dated(fields.day(time_keys[0]), row | drift.extras(fields.row, {*row, *time_keys}))


def _list(path: str, value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise refused(path, f"{name} is not a list")
    return value


def _refuse_known_page(path: str, page: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse a page that brings nothing new: the next one would not either."""
    if page and page.keys() <= found.keys():
        raise refused(path, "its pages repeat themselves and do not come to an end")


def _refuse_more_pages(path: str, answer: Mapping[str, Any]) -> None:
    """Refuse an answer that has pages, where none are documented: half of it must not pass for the whole."""
    if more := [name for name, value in answer.items() if name != "data" and value and _MORE_PAGES.search(name)]:
        raise refused(path, f"it goes on elsewhere ({more[0][:64]}), which this project cannot follow")
