"""
Reading Anthropic's reports: every page, every day, every field, complete or not at all.

The classic reports answer in buckets of a day, oldest first, empty days included; so a day that is absent is an answer
that is cut short. The analytics reports answer in flat rows, and leave empty days out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from hashlib import sha256
from typing import Any

from ai_usage.core.contract import Connection, Note, Record
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ResponseInvalid, SourceUnavailable
from ai_usage.core.http import HttpClient
from ai_usage.core.slices import ONE_DAY, Window

CLASSIC = "classic"
ANALYTICS = "analytics"

BUCKETS_PER_PAGE = 31
"""The most days that a page of a classic report holds, and the widest window of an analytics report."""
ROWS_PER_PAGE = 1000
"""The most rows that a page of an analytics report holds."""
WORKSPACES_PER_PAGE = 1000
EMPTY_PAGES = 10
"""How many pages without anything on them may follow one another."""

LONGEST_TEXT = 300
_AMOUNT = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?", re.ASCII)
_CURRENCY = re.compile(r"[A-Za-z]{3}", re.ASCII)

_REPORT_IT = "Nothing was stored. Report this, so that the project can follow Anthropic's change."


@dataclass(frozen=True)
class Report:
    """
    One of Anthropic's reports.

    :param path: below the base address.
    :param group_by: the dimensions to ask for: as fine as the report allows without counting anything twice.
    :param texts: the text fields of a row, each of which may be null.
    :param counts: the whole numbers that every row has.
    :param amounts: the decimal strings, in cents, that every row has.
    :param optional: fields that are known but need not be there; kept where they say something.
    :param body: the field of an analytics row that holds its numbers; ``None`` for a classic report.
    """

    name: str
    path: str
    group_by: tuple[str, ...]
    texts: tuple[str, ...]
    counts: tuple[str, ...] = ()
    amounts: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    body: str | None = None

    @property
    def generation(self) -> str:
        """``classic`` or ``analytics``, as the records say it."""
        return ANALYTICS if self.body else CLASSIC


_USAGE_COUNTS = ("uncached_input_tokens", "cache_read_input_tokens", "output_tokens")
CACHE_WRITES = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
TOOL_USES = ("web_search_requests",)
_USAGE_DIMENSIONS = ("workspace_id", "api_key_id", "model", "service_tier", "context_window", "inference_geo")
# At most five, cost type and token type not counted. The context window is what the marts can do without.
_ANALYTICS_DIMENSIONS = ("workspace_id", "api_key_id", "model", "service_tier", "inference_geo")
_NOT_ASKED_FOR = (
    "actor",
    "actor_type",
    "agent_id",
    "claude_tag_category",
    "claude_tag_user_id",
    "context_window",
    "deployment_id",
    "environment_id",
    "organization_id",
    "product",
    "rbac_group_id",
    "session_id",
    "slack_channel_id",
    "speed",
    "user_profile_id",
)

MESSAGES_USAGE = Report(
    name="messages usage report",
    path="v1/organizations/usage_report/messages",
    group_by=_USAGE_DIMENSIONS,
    texts=_USAGE_DIMENSIONS,
    counts=_USAGE_COUNTS,
    # Null as long as nobody groups by them; speed comes with a beta header only.
    optional=("account_id", "service_account_id", "speed"),
)
COST = Report(
    name="cost report",
    path="v1/organizations/cost_report",
    group_by=("workspace_id", "description"),
    texts=("workspace_id", "description", "cost_type", "token_type", "model", "service_tier", "context_window"),
    amounts=("amount",),
    optional=("inference_geo", "speed"),
)
ANALYTICS_USAGE = Report(
    name="analytics usage report",
    path="v1/organizations/analytics/usage",
    group_by=_ANALYTICS_DIMENSIONS,
    texts=_ANALYTICS_DIMENSIONS,
    counts=(*_USAGE_COUNTS, "total_tokens"),
    optional=_NOT_ASKED_FOR,
    body="usage",
)
ANALYTICS_COST = Report(
    name="analytics cost report",
    path="v1/organizations/analytics/cost",
    group_by=(*_ANALYTICS_DIMENSIONS, "cost_type", "token_type"),
    texts=(*_ANALYTICS_DIMENSIONS, "cost_type", "token_type"),
    amounts=("amount", "list_amount"),
    optional=_NOT_ASKED_FOR,
    body="cost",
)


class _Fields:
    """One object of an answer, read field by field; what nobody asked for stays in :attr:`rest`."""

    def __init__(self, content: Any, report: Report, place: str = "a row") -> None:
        self._report = report
        self._place = place
        if not isinstance(content, dict):
            raise self.invalid("is not an object")
        self.rest: dict[str, Any] = dict(content)

    def invalid(self, problem: str) -> ResponseInvalid:
        return ResponseInvalid(
            f"The {self._report.name} is not as documented: {self._place} {problem}.", action=_REPORT_IT
        )

    def take(self, name: str) -> Any:
        """Return a field that must be there."""
        if name not in self.rest:
            raise self.invalid(f"lacks {name}")
        return self.rest.pop(name)

    def text(self, name: str) -> str | None:
        """Return a text or null."""
        value = self.take(name)
        if value is not None and not (isinstance(value, str) and len(value) <= LONGEST_TEXT):
            raise self.invalid(f"has a {name} that is not a short text")
        return value

    def count(self, name: str) -> int:
        """Return a whole number from zero up."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.invalid(f"has a {name} that is not a count")
        return value

    def optional_count(self, name: str) -> int | None:
        """Return a whole number from zero up, or nothing where it is null or absent."""
        if self.rest.get(name) is None:
            self.rest.pop(name, None)
            return None
        return self.count(name)

    def counts(self, name: str, parts: Sequence[str]) -> tuple[dict[str, int] | None, dict[str, Any]]:
        """Return an object of whole numbers, or null, and what else is in it."""
        value = self.take(name)
        if value is None:
            return None, {}
        inner = _Fields(value, self._report, name)
        return {part: inner.count(part) for part in parts}, inner.rest

    def amount(self, name: str) -> str:
        """
        Return an amount in cents, digit by digit as it came.

        A number instead of a text is refused, however exact: it could be dollars.
        """
        value = self.take(name)
        if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
            raise self.invalid(f"has an {name} that is not a decimal text")
        return value

    def currency(self) -> str:
        """Return the currency."""
        value = self.take("currency")
        if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
            raise self.invalid("has a currency that is not one")
        return value

    def day(self) -> date:
        """Return the UTC day from ``starting_at`` to ``ending_at``."""
        first, last = _instant(self.take("starting_at")), _instant(self.take("ending_at"))
        if first is None or first.timetz() != time(tzinfo=UTC) or last != first + ONE_DAY:
            raise self.invalid("does not stand for one UTC day")
        return first.date()


def _instant(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None


class Reader:
    """
    Reads one connection's reports.

    :param today: the UTC day, which alone may be absent from a classic report.
    """

    def __init__(self, connection: Connection, today: date) -> None:
        self._connection = connection
        self._client: HttpClient = connection.client
        self._today = today

    def organization(self) -> tuple[str, str | None]:
        """Return id and name of the organisation that the key belongs to."""
        answer = self._client.get_json("v1/organizations/me", expect=("id", "type"))
        if answer["type"] != "organization" or not isinstance(answer["id"], str) or not answer["id"]:
            raise ResponseInvalid(
                "Anthropic does not say which organisation the key belongs to.", action=_REPORT_IT
            ).at(self._connection.connection_id)
        name = answer.get("name")
        return answer["id"], name if isinstance(name, str) and name.strip() else None

    def workspaces(self, *, with_default: bool) -> dict[str, str]:
        """
        Return id → name of every workspace, archived ones too.

        :param with_default: also the default one, which only the analytics reports call by its id.
        """
        question: dict[str, Any] = {"limit": WORKSPACES_PER_PAGE, "include_archived": "true"}
        if with_default:
            question["include_default"] = "true"
        names: dict[str, str] = {}
        after: str | None = None
        while True:
            answer = self._client.get_json(
                "v1/organizations/workspaces",
                question | ({"after_id": after} if after else {}),
                expect=("data", "has_more"),
            )
            before = len(names)
            for one in self._list(answer, "list of workspaces"):
                if not isinstance(one, dict) or not isinstance(one.get("id"), str):
                    raise self._invalid("list of workspaces", "a workspace has no id")
                name = one.get("name")
                names[one["id"]] = name if isinstance(name, str) else ""
            if not answer["has_more"]:
                return names
            after = answer.get("last_id")
            if not isinstance(after, str) or len(names) == before:
                raise self._invalid("list of workspaces", "its pages do not come to an end")

    def records(self, report: Report, window: Window, names: Mapping[str, str]) -> Iterator[Record]:
        """
        Yield every record of the window; what was odd is in the journal at the end.

        :param names: workspace → its name.
        """
        drift = Drift(f"The {report.name}")
        rows = self._analytics_rows(report, window, drift) if report.body else self._classic_rows(report, window, drift)
        outside_cost = False
        for day, row in rows:
            name = names.get(row["workspace_id"]) if row["workspace_id"] else None
            outside_cost = outside_cost or (report is MESSAGES_USAGE and row["service_tier"] == "priority")
            yield Record(day, {"report": report.generation, **row, "workspace_name": name or None})
        drift.tell(self._connection.journal)
        if outside_cost:
            self._connection.journal.notes.append(
                Note(
                    "cost_incomplete",
                    "There is usage of the priority tier, whose cost Anthropic does not put into the cost report.",
                    "Add the commitment to the priority tier from the invoice where total cost matters.",
                )
            )

    # ---------------------------------------------------------------- classic

    def _classic_rows(self, report: Report, window: Window, drift: Drift) -> Iterator[tuple[date, dict[str, Any]]]:
        """Yield day and row of every bucket; raise if a day that is over is absent, leave open one that is not."""
        question = {
            "starting_at": _timestamp(window.first),
            # Both bounds at midnight: the cost report refuses anything else, and the usage report answers it with nothing.
            "ending_at": _timestamp(window.last + ONE_DAY),
            "bucket_width": "1d",
            "limit": min(BUCKETS_PER_PAGE, len(window)),
            "group_by[]": list(report.group_by),
        }
        seen: dict[date, bytes] = {}
        for page in self._pages(report, question):
            for content in page:
                bucket = _Fields(content, report, "a bucket")
                day = bucket.day()
                rows = bucket.take("results")
                if not isinstance(rows, list):
                    raise self._invalid(report.name, "a bucket's results are no list")
                fingerprint = sha256(repr(rows).encode("utf-8", "surrogatepass")).digest()
                if day in seen:
                    self._note_repeat(report, day, is_same=seen[day] == fingerprint)
                    continue
                seen[day] = fingerprint
                extra = drift.keep(bucket.rest, "bucket.")
                yield from ((day, _with_extra(row, extra)) for row in self._rows_of_a_bucket(report, rows, drift))
        absent = [day for day in window.days if day not in seen]
        missing = [day for day in absent if day < self._today]
        if missing:
            raise self._invalid(
                report.name,
                f"it lacks {len(missing)} of {len(window)} days, among them {missing[0]}",
                "Nothing was stored. If the organisation is younger than these days, set start_date in the connection "
                "to its first day; otherwise report this.",
            )
        # Days without usage have an empty bucket; of one without a bucket nothing is said.
        self._connection.journal.unanswered.update(absent)

    def _note_repeat(self, report: Report, day: date, *, is_same: bool) -> None:
        if not is_same:
            raise self._invalid(report.name, f"it tells {day} twice, and differently")
        note = Note("rows_repeated", f"The {report.name} gave days twice; they were counted once.")
        if note not in self._connection.journal.notes:
            self._connection.journal.notes.append(note)

    def _rows_of_a_bucket(self, report: Report, rows: list[Any], drift: Drift) -> Iterator[dict[str, Any]]:
        """Yield the rows of one day. The same row twice would be counted twice, so it is refused."""
        seen: set[bytes] = set()
        for content in rows:
            fields = _Fields(content, report)
            row = self._row(report, fields, fields, drift)
            # Usage is one row per combination of what it is grouped by. Two lines of cost may differ in their amount alone.
            identity = row if report.amounts else [row[name] for name in report.group_by]
            fingerprint = sha256(repr(identity).encode("utf-8", "surrogatepass")).digest()
            if fingerprint in seen:
                raise self._invalid(report.name, "a day has the same row twice")
            seen.add(fingerprint)
            yield row

    # ---------------------------------------------------------------- analytics

    def _analytics_rows(self, report: Report, window: Window, drift: Drift) -> Iterator[tuple[date, dict[str, Any]]]:
        """Yield day and row of every row, oldest day first."""
        assert report.body
        question = {
            "starting_at": _timestamp(window.first),
            "ending_at": _timestamp(window.last + ONE_DAY),
            "time_bucket_width": "1d",
            "limit": ROWS_PER_PAGE,
            # By default the largest row comes first, and a row that grows while the pages are read would be missed.
            "order_by": "time",
            "order": "asc",
            "group_by[]": list(report.group_by),
        }
        seen: set[bytes] = set()
        for page in self._pages(report, question):
            for content in page:
                line = _Fields(content, report)
                day = line.day()
                words = _Fields(line.take("group"), report, "group")
                numbers = _Fields(line.take(report.body), report, report.body)
                row = _with_extra(self._row(report, words, numbers, drift), drift.keep(line.rest, "row."))
                identity = sha256(repr((day, [row[name] for name in report.group_by])).encode("utf-8", "surrogatepass"))
                if identity.digest() in seen:
                    # Empty days are absent here, so nothing else would tell that another row was pushed off its page.
                    raise SourceUnavailable(
                        f"The pages of the {report.name} overlap: its rows moved while they were read, and some may be "
                        "missing.",
                        action="Nothing was stored. Nothing to do at once: the next run asks again.",
                    ).at(self._connection.connection_id)
                seen.add(identity.digest())
                yield day, row

    # ---------------------------------------------------------------- both

    def _row(self, report: Report, words: _Fields, numbers: _Fields, drift: Drift) -> dict[str, Any]:
        """
        Return one row with its fields side by side, under Anthropic's own names.

        :param words: what the row is about; in a classic report the same object as the numbers.
        """
        row: dict[str, Any] = {name: words.text(name) for name in report.texts}
        row |= {name: numbers.count(name) for name in report.counts}
        row |= {name: numbers.amount(name) for name in report.amounts}
        extra: dict[str, Any] = {}
        if report.amounts:
            row["currency"] = numbers.currency()
        else:
            row["cache_creation"], unknown = numbers.counts("cache_creation", CACHE_WRITES)
            extra |= drift.keep(unknown, "cache_creation.")
            row["server_tool_use"], unknown = numbers.counts("server_tool_use", TOOL_USES)
            extra |= drift.keep(unknown, "server_tool_use.")
        if report.body and (requests := numbers.optional_count("requests")) is not None:
            row["requests"] = requests
        for name in report.optional:
            if words.rest.get(name) is None:
                words.rest.pop(name, None)
            elif name in _KEPT_IF_GIVEN:
                row[name] = words.text(name)
        extra |= drift.keep(numbers.rest)
        if report.body:
            extra |= drift.keep(words.rest, "group.")
        self._compare_with_total(report, row, drift)
        return row | ({"extra_fields": extra} if extra else {})

    @staticmethod
    def _compare_with_total(report: Report, row: Mapping[str, Any], drift: Drift) -> None:
        """Tell of tokens that are in the total but in none of the parts we know."""
        if "total_tokens" not in row:
            return
        parts = sum(row[name] for name in _USAGE_COUNTS) + sum((row["cache_creation"] or {}).values())
        if parts != row["total_tokens"]:
            drift.remark(
                f"The {report.name} has rows whose total_tokens is not the sum of the kinds of tokens that this project "
                "knows. The kinds are what the marts show."
            )

    def _pages(self, report: Report, question: Mapping[str, Any]) -> Iterator[list[Any]]:
        """Yield the rows or buckets of every page, to the end."""
        seen: set[str] = set()
        following: dict[str, str] = {}
        empty_in_a_row = 0
        while True:
            answer = self._client.get_json(report.path, {**question, **following}, expect=("data", "has_more"))
            page = self._list(answer, report.name)
            yield page
            if not answer["has_more"]:
                return
            cursor = answer.get("next_page")
            empty_in_a_row = 0 if page else empty_in_a_row + 1
            if not isinstance(cursor, str) or not cursor:
                raise self._invalid(report.name, "it announces a next page and does not say which")
            if cursor in seen or empty_in_a_row >= EMPTY_PAGES:
                raise self._invalid(report.name, "its pages do not come to an end")
            seen.add(cursor)
            following = {"page": cursor}

    def _list(self, answer: Mapping[str, Any], what: str) -> list[Any]:
        if not isinstance(answer["data"], list) or not isinstance(answer["has_more"], bool):
            raise self._invalid(what, "its envelope has changed")
        return answer["data"]

    def _invalid(self, what: str, problem: str, action: str = _REPORT_IT) -> ResponseInvalid:
        error = ResponseInvalid(f"The {what} is not as documented: {problem}.", action=action)
        error.at(self._connection.connection_id)
        return error


def _with_extra(row: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    return row | {"extra_fields": {**row.get("extra_fields", {}), **extra}} if extra else row


_KEPT_IF_GIVEN = frozenset({"account_id", "service_account_id", "speed", "inference_geo"})


def _timestamp(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"
