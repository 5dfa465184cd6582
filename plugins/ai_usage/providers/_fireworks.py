"""
What the account endpoints of Fireworks AI answer, and how much of it may be believed.

Usage is metered (``billingUsage``: rows per day and model, or deployment) and rated (``billing/summary``: line items per
day; ``usageCosts:query``: cost per day and model) apart from each other. A row is taken over in Fireworks' own words,
without what is empty. Whole numbers come as text; money comes in two parts, units and billionths of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from ai_usage.core.contract import Connection, Note
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ResponseInvalid
from ai_usage.core.http import as_segment
from ai_usage.core.slices import ONE_DAY, Window, midnight

DAYS_PER_REQUEST = 31
"""The widest window that ``billingUsage`` and ``usageCosts:query`` take."""
ACCOUNTS_PER_PAGE = 200
COSTS_PER_PAGE = 1000
EMPTY_PAGES = 10
"""So many pages in a row without a row are no answer any more. Single ones do occur."""
LONGEST_NAME = 512
LARGEST_COUNT = 2**63 - 1
NANOS = 10**9

SERVERLESS, DEDICATED, TRAINING, LINE_ITEMS = "serverlessCosts", "dedicatedCosts", "trainingCosts", "lineItems"
SERVERLESS_ITEMS = "serverlessLineItems"
"""What line items about shared models are called in raw: they only split what ``billingUsage`` counts."""

_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
_REPORT = "Check the connection's address; if it is right, report this."

Row = dict[str, Any]
Dated = tuple[date, Row]


@dataclass(frozen=True)
class Table:
    """
    One of the lists of ``billingUsage``.

    :param required: counts without which a row says nothing.
    :param counts: further counts.
    :param numbers: measures that may be fractions.
    :param names: what tells rows of one day apart.
    """

    required: tuple[str, ...]
    counts: tuple[str, ...]
    numbers: tuple[str, ...]
    names: tuple[str, ...]


TABLES: Mapping[str, Table] = {
    SERVERLESS: Table(
        ("promptTokens", "completionTokens"),
        # Servers of before August 2026 do not have these two.
        ("cachedPromptTokens", "uncachedPromptTokens"),
        # costNanoUsd is kept, and used nowhere: zero in it means that there is no price, not that there is no cost.
        ("audioInputSeconds", "costNanoUsd"),
        ("modelName", "apiKeyId", "usageType"),
    ),
    DEDICATED: Table(
        ("acceleratorSeconds",), (), (), ("deploymentId", "baseModel", "acceleratorType", "placement", "usageType")
    ),
    TRAINING: Table(
        (),
        ("acceleratorSeconds", "tokens"),
        (),
        ("jobId", "jobType", "baseModel", "acceleratorType", "usageType", "trainingSessionId"),
    ),
}
GROUPS = ("model_name", "deployment_name", "accelerator_type", "job_id", "job_type", "usage_type", "base_model")
ITEM_NAMES = ("category", "groupingKey", "groupingValue", "secondaryGroupingKey", "secondaryGroupingValue", "series")
USAGE_FIELDS = frozenset(
    {"list", "group", "extra_fields", "quantity", "totalCost", *ITEM_NAMES}
    | {name for one in TABLES.values() for name in (*one.required, *one.counts, *one.numbers, *one.names)}
)
COST_FIELDS = frozenset({"dimensions", "subtotal", "extra_fields"})
# Times are the record's own day; annotations are the customer's own words.
_NOT_KEPT = frozenset({"startTime", "endTime", "annotations"})
_COST_PAGE = frozenset({"rows", "nextPageToken", "subtotal", "attributionCompleteness", "evaluationTime"})


class WindowRefused(ResponseInvalid):
    """Fireworks does not answer for these days; it may well answer for others."""

    is_permanent = False


class Fireworks:
    """
    Asks the account endpoints. What has come back is complete, or an error has been raised.

    :param today: the UTC day, which is not over yet.
    """

    def __init__(self, connection: Connection, today: date) -> None:
        self._connection = connection
        self._client = connection.client
        self._today = today

    def accounts(self) -> dict[str, str | None]:
        """Return slug → display name of every account that the key reaches."""
        path, found = "accounts", dict[str, str | None]()
        params: dict[str, Any] = {"pageSize": ACCOUNTS_PER_PAGE}
        for page in self._pages(path, lambda token: self._client.get_json(path, params | token, expect=("accounts",))):
            for account in _objects(path, page, "accounts"):
                slug = str(account.get("name") or "").removeprefix("accounts/")
                if not slug or len(slug) > LONGEST_NAME or "/" in slug:
                    raise invalid(path, "an account has no name")
                shown = account.get("displayName")
                found[slug] = shown.strip() if isinstance(shown, str) and 0 < len(shown.strip()) <= 200 else None
        return found

    def usage(self, account: str, window: Window) -> list[Dated]:
        """Return the metered rows of an account, each with its day; days without usage have none."""
        path = self._path(account, "billingUsage")
        answer = self._client.get_json(path, _times(window))
        drift = Drift("billingUsage")
        rows: dict[tuple[Any, ...], Dated] = {}
        repeated = False
        self._check_lists(path, answer, drift)
        for name, table in TABLES.items():
            for row in _objects(path, answer, name, required=False):
                day, record = self._day(path, row), _metered(path, name, table, row, drift)
                measures = {*table.required, *table.counts, *table.numbers}
                identity = (day, str(sorted((key, str(record[key])) for key in record.keys() - measures)))
                if rows.setdefault(identity, (day, record)) != (day, record):
                    raise invalid(path, "one group has two different numbers on one day")
                repeated |= rows[identity][1] is not record
        if repeated:
            self._note(
                "rows_repeated", "billingUsage sent rows twice; each was counted once.", "Report it if it stays."
            )
        if any(_parts_differ(record) for _, record in rows.values()):
            self._note(
                "parts_differ",
                "In billingUsage, cached and uncached prompt tokens do not add up to all prompt tokens. All input is "
                "counted as Fireworks gives it, the uncached part as what remains.",
                "Compare with the usage page of app.fireworks.ai and report it.",
            )
        drift.tell(self._connection.journal)
        return list(rows.values())

    def line_items(self, account: str, window: Window) -> list[Dated]:
        """Return the rated lines of each day. Servers that know no daily summary are asked for each day alone."""
        path = self._path(account, "billing/summary")
        drift = Drift("billing/summary")
        items = self._line_items(path, window, drift)
        drift.tell(self._connection.journal)
        return items

    def _line_items(self, path: str, window: Window, drift: Drift) -> list[Dated]:
        params = _times(window) | {"granularity": "DAILY"}
        answer = self._client.get_json(path, params, expect=(LINE_ITEMS,))
        total = _objects(path, answer, LINE_ITEMS)
        drift.drop(answer.keys() - {LINE_ITEMS, "usageBuckets"})
        if "usageBuckets" in answer:
            buckets = _objects(path, answer, "usageBuckets")
            found = [
                (self._day(path, bucket), _line_item(path, item, drift))
                for bucket in buckets
                for item in _objects(path, bucket, LINE_ITEMS, required=False)
            ]
            if total and not found:
                raise invalid(path, "it has line items, but none of a day")
            return found
        if len(window) == 1 or not total:
            return [(window.first, _line_item(path, item, drift)) for item in total]
        return [one for day in window.days for one in self._line_items(path, Window(day, day), drift)]

    def costs(self, account: str, window: Window, page_size: int = COSTS_PER_PAGE) -> list[Dated]:
        """Return what each day was rated at per model. Takes a key of an administrator of the account."""
        path = self._path(account, "usageCosts:query")
        question = _times(window) | {"scope": "ACCOUNT", "groupBy": ["DAY", "MODEL"], "pageSize": page_size}
        drift = Drift("usageCosts:query")
        rows: dict[tuple[date, str], tuple[int, Row]] = {}
        repeated = False
        page: Row = {}
        pages = self._pages(path, lambda token: self._client.post_json(path, question | token))
        for number, page in enumerate(pages):
            if not page.keys() & {"rows", "subtotal"}:
                raise invalid(path, "rows are missing from it")
            drift.drop(page.keys() - _COST_PAGE)
            for row in _objects(path, page, "rows", required=False):
                day, record = self._cost(path, row, drift)
                key = (day, str(sorted(record["dimensions"].items())))
                seen_on, known = rows.setdefault(key, (number, record))
                if known is not record and (known != record or seen_on == number):
                    raise invalid(path, "one model has two costs on one day")
                repeated |= known is not record
        if repeated:
            self._note("rows_repeated", "usageCosts sent rows twice; each was counted once.", "Report it if it stays.")
        if page.get("subtotal"):
            # Rows are rounded to a billionth each.
            told = sum(_nanos(record["subtotal"]) for _, record in rows.values())
            if abs(_nanos(_money(path, page["subtotal"])) - told) > len(rows):
                raise invalid(path, "its rows do not add up to its total")
        if page.get("attributionCompleteness") == "INCOMPLETE" and window.last < self._today - timedelta(days=5):
            self._note(
                "cost_incomplete",
                "Fireworks has not attributed all costs of days that ended more than five days ago.",
                "Nothing. What is attributed later shows when those days are read again.",
            )
        drift.tell(self._connection.journal)
        return [(day, record) for (day, _), (_, record) in rows.items()]

    def gauges(self, account: str) -> str:
        """Return the live gauges as they come. Once: another try is what the next reading is for."""
        return str(self._client.get_text(self._path(account, "metrics"), attempts=1))

    def _path(self, account: str, rest: str) -> str:
        return f"accounts/{as_segment(account, connection_id=self._connection.connection_id)}/{rest}"

    def _pages(self, path: str, ask: Any) -> Iterator[Row]:
        """Yield every page; empty ones in between are followed, circles are not."""
        token, seen, empty = dict[str, str](), set[str](), 0
        while True:
            page = ask(token)
            yield page
            cursor = page.get("nextPageToken") or ""
            if not cursor:
                return
            empty = 0 if page.get("rows") or page.get("accounts") else empty + 1
            if not isinstance(cursor, str) or cursor in seen or empty >= EMPTY_PAGES:
                raise invalid(path, "its pages come to no end")
            seen.add(cursor)
            token = {"pageToken": cursor}

    def _check_lists(self, path: str, answer: Row, drift: Drift) -> None:
        """Tell an account without dedicated deployments or training from an answer whose lists have other names now."""
        unknown = answer.keys() - TABLES.keys()
        missing = {SERVERLESS, DEDICATED} - answer.keys()
        if len(missing) == 2 or (missing and any(isinstance(answer[name], list) for name in unknown)):
            raise invalid(path, f"{min(missing)} is missing from it")
        drift.drop(unknown)

    def _day(self, path: str, row: Row) -> date:
        """Return the day of a bucket, which begins and ends at midnight UTC."""
        start, end = (_moment(path, row.get(name)) for name in ("startTime", "endTime"))
        if start is None or start != midnight(start.date()):
            raise invalid(path, "a day does not begin at midnight UTC")
        # The day that is not over may end wherever its clock stands.
        is_whole = end in (None, midnight(start.date() + ONE_DAY))
        if not is_whole and (start.date() != self._today or not (end and start < end < start + ONE_DAY)):
            raise invalid(path, "a day is not one day long")
        return start.date()

    def _cost(self, path: str, row: Row, drift: Drift) -> Dated:
        dimensions = row.get("dimensions")
        if not isinstance(dimensions, dict):
            raise invalid(path, "dimensions are missing from a row")
        start = _moment(path, dimensions.get("startTime"))
        if start is None or start != midnight(start.date()):
            raise invalid(path, "a cost belongs to no day")
        if dimensions.get("user") or dimensions.get("apiKeyId"):
            raise invalid(path, "a cost is split by more than was asked for")
        kept: Row = {"startTime": f"{start.date()}T00:00:00Z"} | _names(path, dimensions, ("model",))
        if dimensions.get("unknownModel") is True:
            kept["unknownModel"] = True
        drift.drop(
            dimensions.keys() - {"startTime", "model", "user", "apiKeyId", "unknownModel", "unattributedDimensions"},
            "dimensions.",
        )
        record: Row = {"dimensions": kept, "subtotal": _money(path, row.get("subtotal"))}
        return start.date(), record | drift.extras(row, record.keys())

    def _note(self, kind: str, message: str, action: str) -> None:
        self._connection.journal.notes.append(Note(kind, message, action))


def _is_serverless(item: Mapping[str, Any]) -> bool:
    """Return whether a line item is about a shared model, whose cost ``usageCosts:query`` tells."""
    series = str(item.get("series") or "UNSPECIFIED")
    if "UNSPECIFIED" not in series:
        return "SERVERLESS" in series
    return item.get("groupingKey") == "model_bucket" or "token" in str(item["category"]).lower()


def _metered(path: str, name: str, table: Table, row: Row, drift: Drift) -> Row:
    record: Row = {"list": name} | _names(path, row, table.names)
    for field in (*table.required, *table.counts):
        if row.get(field) is not None:
            record[field] = _count(path, field, row[field])
        elif field in table.required:
            raise invalid(path, f"{field} is missing from a row")
    record |= {field: _decimal(path, field, row[field]) for field in table.numbers if row.get(field) is not None}
    group = row.get("group") or {}
    if not isinstance(group, dict):
        raise invalid(path, "a group is not an object")
    if kept := _names(path, group, GROUPS):
        record["group"] = kept
    drift.drop((key for key in group.keys() - {*GROUPS} if not key.startswith("annotations.")), "group.")
    if name == SERVERLESS and record.get("cachedPromptTokens", 0) > record["promptTokens"]:
        raise invalid(path, "more of a prompt is cached than there is")
    known = {*table.required, *table.counts, *table.numbers, *table.names, "group", *_NOT_KEPT}
    return record | drift.extras(row, known)


def _parts_differ(record: Row) -> bool:
    parts = [record.get("cachedPromptTokens"), record.get("uncachedPromptTokens")]
    return None not in parts and sum(parts) != record["promptTokens"]  # type: ignore[arg-type]


def _line_item(path: str, item: Row, drift: Drift) -> Row:
    record = _names(path, item, ITEM_NAMES)
    if "category" not in record:
        raise invalid(path, "a line item has no category")
    record["list"] = SERVERLESS_ITEMS if _is_serverless(record) else LINE_ITEMS
    if item.get("quantity") is not None:
        record["quantity"] = _decimal(path, "quantity", item["quantity"])
    if item.get("totalCost") is not None or record["list"] == LINE_ITEMS:
        record["totalCost"] = _money(path, item.get("totalCost"))
    return record | drift.extras(item, {*ITEM_NAMES, "quantity", "unitAmount", "totalCost"})


def _money(path: str, value: Any) -> Row:
    """Return an amount in its two parts. Where a part is zero, it may be left out."""
    if not isinstance(value, dict):
        raise invalid(path, "an amount is missing")
    units = _decimal(path, "units", value.get("units") or 0)
    nanos = _decimal(path, "nanos", value.get("nanos") or 0)
    currency = value.get("currencyCode")
    is_amount = units == int(units) and nanos == int(nanos) and abs(nanos) < NANOS and units * nanos >= 0
    if not is_amount or not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise invalid(path, "an amount is none")
    return {"currencyCode": currency, "units": int(units), "nanos": int(nanos)}


def _nanos(money: Row) -> int:
    return int(money["units"]) * NANOS + int(money["nanos"])


def _objects(path: str, answer: Row, name: str, *, required: bool = True) -> list[Row]:
    rows = answer.get(name)
    if rows is None and not required:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise invalid(path, f"{name} is not a list of objects")
    return rows


def _names(path: str, row: Row, names: Iterable[str]) -> Row:
    found: Row = {}
    for name in names:
        value = row.get(name)
        if value in (None, ""):
            continue
        if not isinstance(value, str) or len(value) > LONGEST_NAME:
            raise invalid(path, f"{name} is not a name")
        found[name] = value
    return found


def _moment(path: str, value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid(path, "a time is none") from None


def _count(path: str, name: str, value: Any) -> int:
    """Return a count, which is a whole number however it is written."""
    number = _decimal(path, name, value)
    if number != int(number) or not 0 <= number <= LARGEST_COUNT:
        raise invalid(path, f"{name} is not a count")
    return int(number)


def _decimal(path: str, name: str, value: Any) -> Decimal:
    text = str(value) if isinstance(value, str | int | Decimal) and not isinstance(value, bool) else ""
    if not _NUMBER.fullmatch(text):
        raise invalid(path, f"{name} is not a number")
    return Decimal(text)


def _times(window: Window) -> dict[str, Any]:
    return {"startTime": f"{window.first}T00:00:00Z", "endTime": f"{window.last + ONE_DAY}T00:00:00Z"}


def invalid(path: str, problem: str) -> ResponseInvalid:
    """Return the refusal of an answer that is not the documented one."""
    # An account's name is not the endpoint's.
    endpoint = path.rpartition("accounts/")[2].partition("/")[2] or path
    return ResponseInvalid(
        f"The answer of {endpoint} is not as documented: {problem}; nothing was stored.", action=_REPORT
    )
