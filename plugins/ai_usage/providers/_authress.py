"""
What stands in an Authress audit stream, and what is made of it: counts per resource, operation and result.

Only what is needed of an event is looked at; ids of users, addresses and the ids inside resource paths go nowhere.
"""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from io import BytesIO
from typing import Any, NamedTuple, TypeGuard

import msgspec

from ai_usage.core.contract import Journal, Note, Record
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ConfigurationInvalid, ResponseInvalid
from ai_usage.core.slices import Window

CHECKS, CHANGES, LOGINS = "AuthorizationRequest", "AccessChanged", "UserLogin"
EVENTS: Mapping[str, str] = {"checks": CHECKS, "access_changes": CHANGES, "logins": LOGINS}
"""Word in the connection → event as Authress calls it."""
LATE = timedelta(days=7)
"""Events are counted that land up to this long after their day."""
MOST_TEMPLATES = 300
"""How many paths a day may show that no rule of the connection made."""
NO_RESOURCE = "(none)"
OTHER = "(other)"
ID = "{id}"
LONGEST_LINE = 16 * 1024 * 1024
LARGEST_CONTENT = 4 * 1024 * 1024 * 1024
LARGEST_COUNT = 10**9

_OLD_NAMES = {"LoginRequest": LOGINS}
_ENVELOPE = {"version", "id", "source", "account", "region", "resources", "detail-type", "time", "detail"}
_DETAILS: Mapping[str, set[str]] = {
    CHECKS: {"eventId", "count", "user", "resource", "permission", "authorizationResult"},
    CHANGES: {"eventId", "triggeredBy", "changes"},
    LOGINS: {"eventId", "subType", "user", "loginResult"},
}
_REPORT = "Nothing was stored. Check what writes there; if it is Authress's own stream, report this."
_SPACE = re.compile(r"[ \t\r\n]*")
_VERSION = re.compile(r"api|v[0-9]{1,2}")
_WORD = re.compile(r"[A-Za-z][A-Za-z-]{0,30}")
_OPERATION = re.compile(r"[A-Za-z0-9_.:*/-]{1,100}")
_OPERATION_PARTS = re.compile(r"([.:/])")
_ID_PART = re.compile(r".*[0-9]{4}.*|[0-9]+|(?=.*[0-9])[0-9A-Fa-f-]{8,}|.{33,}")
_RESULT = re.compile(r"[A-Za-z_]{1,32}")
_EVENT_NAME = re.compile(r"[A-Za-z0-9_. -]{1,64}")
_SOURCE = re.compile(r"aws\.partner/authress\.io/([^/]+)(?:/.*)?")
_PLACEHOLDER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_LITERAL = re.compile(r"[^{}*?#\s]{1,100}")
_decode = msgspec.json.Decoder().decode


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    template: str


class Templates:
    """
    Makes templates of resource paths.

    :param rules: texts of the connection, the first that fits counts: ``/files/{id}/**``, where a name in braces stands
        for one segment and ``**`` at the end for any rest; or ``<regular expression> => <template>``.
    """

    def __init__(self, rules: Sequence[str] = ()) -> None:
        self._rules = [_rule(text) for text in rules]

    def of(self, path: str) -> tuple[str, bool]:
        """Return the template of a path, and whether a rule made it."""
        path = "/" + re.split(r"[?#]", path, maxsplit=1)[0].strip("/")
        for rule in self._rules:
            if rule.pattern.fullmatch(path):
                return rule.template, True
        return self._guess(path), False

    @staticmethod
    def _guess(path: str) -> str:
        """
        Take every second segment for an id, and whatever else does not look like a plain word.

        ``/organizations/acme/documents/7`` → ``/organizations/{id}/documents/{id}``
        """
        made, is_name = [], True
        for segment in path.split("/")[1:]:
            if _VERSION.fullmatch(segment) and is_name:
                made.append(segment)
                continue
            is_plain = _WORD.fullmatch(segment) and not _ID_PART.fullmatch(segment)
            made.append(segment if segment == "*" or (is_name and is_plain) else ID)
            is_name = not is_name
        # A path of no segments is the account itself; very deep ones say nothing that is worth a row of its own.
        return "/" + "/".join(made[:12] if path != "/" else [])


def _rule(text: str) -> _Rule:
    """
    Read one rule.

    :raises ConfigurationInvalid: if it is none. What is between braces never gets into a template but by its name.
    """
    expression, arrow, template = (part.strip() for part in text.partition("=>"))
    template = template if arrow else expression
    segments = template.removeprefix("/").split("/")
    is_template = template.startswith("/") and all(
        _PLACEHOLDER.fullmatch(one) or _LITERAL.fullmatch(one) or (one == "**" and place == len(segments))
        for place, one in enumerate(segments, start=1)
    )
    pattern = expression if arrow else "/" + "/".join(_segment_pattern(one) for one in segments)
    pattern = pattern.replace("/(?:.*)", "(?:/.*)?") if not arrow else pattern
    try:
        compiled = re.compile(pattern)
    except re.error:
        compiled = None
    if not is_template or not pattern or compiled is None or len(text) > 500:
        raise ConfigurationInvalid(
            f"resource_templates has a rule that is none: {text[:80]!r}.",
            action="Write /organizations/{id}/documents/{id}, /files/**, or <regular expression> => <template>.",
        )
    return _Rule(compiled, template)


def _segment_pattern(segment: str) -> str:
    if segment == "**":
        return "(?:.*)"
    return "[^/]+" if _PLACEHOLDER.fullmatch(segment) else re.escape(segment)


class _Group(NamedTuple):
    """What is counted together on a day."""

    event: str
    resource: str
    is_ruled: bool
    operation: str
    result: str | None


@dataclass
class Operations:
    """
    Counts of a window, each event once.

    The ids of events wait in a temporary database of SQLite's, so that memory does not grow with the events; only a
    hash of each id is kept there.

    :param account_id: the account that the stream should be of, where it is known.
    """

    window: Window
    events: frozenset[str]
    templates: Templates
    account_id: str | None = None
    drift: Drift = field(default_factory=lambda: Drift("The audit stream"))
    _groups: dict[_Group, int] = field(default_factory=dict)
    _guessed: dict[date, set[str]] = field(default_factory=dict)
    _waiting: list[tuple[int, bytes, int, int]] = field(default_factory=list)
    _cut: list[str] = field(default_factory=list)
    _remarks: dict[str, Note] = field(default_factory=dict)
    seen: int = 0

    def __post_init__(self) -> None:
        # An empty name is a database in a file of its own that nobody else can open and that is gone when it is closed.
        self._store = sqlite3.connect("", isolation_level=None)
        self._store.executescript(
            """
            pragma journal_mode = off;
            pragma cache_size = -65536;
            create table event (
                day integer, id blob, kind integer, calls integer, clashes integer default 0, primary key (day, id)
            ) without rowid;
            begin;
            """
        )

    def close(self) -> None:
        """Forget everything."""
        self._store.close()

    def read(self, name: str, landed_on: date | None, content: bytes) -> None:
        """
        Count the events of one object.

        :param name: the object, for the texts of errors.
        :param landed_on: the day of the folder it is in, where folders have days.
        :raises ResponseInvalid: if it is not an audit stream. A last line that is cut off is left out and told.
        """
        for event in _events(name, content, self._cut):
            self._add(name, landed_on, event)
        self._flush()

    def _add(self, name: str, landed_on: date | None, event: Mapping[str, Any]) -> None:
        kind = event.get("detail-type")
        detail = event.get("detail")
        if not isinstance(kind, str) or not isinstance(detail, dict):
            raise invalid(name, "an event has no detail-type or no detail")
        self.seen += 1
        kind = _OLD_NAMES.get(kind, kind)
        if kind not in _DETAILS:
            shown = kind if _EVENT_NAME.fullmatch(kind) else "one whose name is none"
            self.drift.remark(
                f"The audit stream has events that this project does not know: {shown}. They do not count."
            )
            return
        if kind not in self.events:
            return
        day = _day(name, event.get("time"))
        if day not in self.window:
            return
        if landed_on and landed_on - day > LATE:
            self._remark(
                "events_late",
                f"Events landed more than {LATE.days} days after their day; they are not counted.",
                "Find out what held them up. If folders are not by day, say so with day_folders in the connection.",
            )
            return
        self._look_at_account(event.get("source"))
        self.drift.drop(event.keys() - _ENVELOPE)
        self.drift.drop(detail.keys() - _DETAILS[kind], "detail.")
        event_id = _text(name, detail.get("eventId"), "detail.eventId")
        for part, (resource, operation, result, count) in enumerate(_parts(name, kind, detail)):
            template, is_ruled = self._template(day, resource)
            group = _Group(kind, template, is_ruled, _operation(operation), _result(result))
            number = self._groups.setdefault(group, len(self._groups))
            key = blake2b(f"{event_id}\n{part}".encode("utf-8", "replace"), digest_size=16).digest()
            self._waiting.append((day.toordinal(), key, number, count))
        if len(self._waiting) >= 10_000:
            self._flush()

    def _template(self, day: date, resource: str | None) -> tuple[str, bool]:
        if resource is None:
            return NO_RESOURCE, True
        template, is_ruled = self.templates.of(resource)
        if is_ruled:
            return template, True
        guessed = self._guessed.setdefault(day, set())
        if len(guessed) > MOST_TEMPLATES:
            return _shape(template), False
        guessed.add(template)
        return template, False

    def _flush(self) -> None:
        """Bring the events to the others. One that is there already is the same; if not, the larger count holds."""
        self._store.executemany(
            """
            insert into event (day, id, kind, calls) values (?, ?, ?, ?)
            on conflict (day, id) do update set
                clashes = clashes or kind <> excluded.kind or calls <> excluded.calls,
                kind = iif(excluded.calls > calls, excluded.kind, kind),
                calls = max(calls, excluded.calls)
            """,
            self._waiting,
        )
        self._waiting.clear()

    def _look_at_account(self, source: Any) -> None:
        found = _SOURCE.fullmatch(source) if isinstance(source, str) else None
        if found and self.account_id and found[1] != self.account_id and _EVENT_NAME.fullmatch(found[1]):
            self._remark(
                "account_differs",
                f"The stream names itself after {found[1]}, the connection's account is {self.account_id}.",
                "Check that the folder holds this account's stream and no other's.",
            )

    def _remark(self, kind: str, message: str, action: str) -> None:
        self._remarks.setdefault(message, Note(kind, message, action))

    def records(self) -> Iterator[Record]:
        """Yield what was counted, a record per day, event, resource, operation and result."""
        groups = list(self._groups)
        crowded = {day for day, guessed in self._guessed.items() if len(guessed) > MOST_TEMPLATES}
        sums: dict[tuple[date, str, str, str, str | None], int] = {}
        for ordinal, number, count in self._store.execute("select day, kind, sum(calls) from event group by 1, 2"):
            day, group = date.fromordinal(ordinal), groups[number]
            # All or none, so that it does not depend on the order of the events which paths are spelled out.
            is_crowded = day in crowded and not group.is_ruled
            resource = _shape(group.resource) if is_crowded else group.resource
            key = (day, group.event, resource, group.operation, group.result)
            sums[key] = sums.get(key, 0) + count
        for (day, event, resource, operation, result), count in sorted(sums.items(), key=str):
            record = {"event": event, "resource": resource, "operation": operation, "count": count}
            yield Record(day, record | ({"result": result} if result else {}))
        if crowded:
            self._remark(
                "too_many_resources",
                f"There are more than {MOST_TEMPLATES} different resources on a day, so only their depth is shown.",
                "Write resource_templates into the connection, one rule for each kind of resource.",
            )
        # On a crowded day the same path may have been met spelled out and not.
        clashes = self._store.execute("select distinct day from event where clashes")
        if {date.fromordinal(ordinal) for (ordinal,) in clashes} - crowded:
            self._remark(
                "events_differ",
                "Events of one id came with different contents; each was counted once, with the larger count.",
                "Report it, so that the project learns what it means.",
            )

    def tell(self, journal: Journal) -> None:
        """Leave notes on what was odd but harmless; each worded alike in every run."""
        self.drift.tell(journal)
        journal.notes += self._remarks.values()
        journal.notes += [
            Note(
                "line_cut",
                f"The last line of {name} is cut off. It was left out; the lines before it are counted.",
                "If the file is still being written: nothing. If not, an event is lost: have it delivered again.",
            )
            for name in sorted(set(self._cut))[:20]
        ]


def _shape(template: str) -> str:
    return "/" + "/".join(ID for _ in template.strip("/").split("/"))


def _parts(name: str, kind: str, detail: Mapping[str, Any]) -> Iterator[tuple[str | None, str, Any, int]]:
    """Yield resource, operation, result and count of what one event reports."""
    if kind == CHECKS:
        resource, permission = detail.get("resource"), detail.get("permission")
        path = _text(name, resource.get("resourceUri"), "resourceUri") if _is_object(resource) else None
        if path is None or not _is_object(permission):
            raise invalid(name, "a check names no resource or no permission")
        count = detail.get("count", 1)
        if type(count) is not int or not 0 <= count <= LARGEST_COUNT:
            raise invalid(name, "detail.count is not a count")
        yield path, _text(name, permission.get("action"), "action"), detail.get("authorizationResult"), count
    elif kind == LOGINS:
        yield None, detail.get("subType") or "Login", detail.get("loginResult"), 1
    else:
        changes = detail.get("changes")
        if not isinstance(changes, list) or not all(_is_object(change) for change in changes):
            raise invalid(name, "detail.changes is not a list of changes")
        for change in changes:
            path = _text(name, change.get("resourceUri"), "resourceUri")
            yield path, _text(name, change.get("operation"), "operation"), None, 1


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _text(name: str, value: Any, what: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 4096:
        raise invalid(name, f"{what} is missing from an event, or no text")
    return value


def _day(name: str, value: Any) -> date:
    """Return the UTC day of a moment."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise invalid(name, "the time of an event is missing, or no moment in UTC")
    return moment.astimezone(UTC).date()


def _operation(value: Any) -> str:
    """Return an operation without parts that look like ids."""
    if not isinstance(value, str) or not _OPERATION.fullmatch(value):
        return OTHER
    return "".join(ID if _ID_PART.fullmatch(part) else part for part in _OPERATION_PARTS.split(value))


def _result(value: Any) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) and _RESULT.fullmatch(value) else OTHER


def _events(name: str, content: bytes, cut: list[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the events of an object; a last one that is cut off puts the object's name into ``cut``."""
    lines = _lines(name, content)
    line = next(lines, None)
    number = 0
    while line is not None:
        number, following = number + 1, next(lines, None)
        try:
            found = [_decode(line)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found, rest = _joined(line)
            if rest and (following is not None or not rest.startswith("{")):
                raise invalid(name, f"line {number} is not JSON") from None
            if rest:
                cut.append(name)
        for event in found:
            if not isinstance(event, dict):
                raise invalid(name, f"line {number} is not an event")
            yield event
        line = following


def _lines(name: str, content: bytes) -> Iterator[bytes]:
    """Yield the lines that are not blank, unpacked where they are packed."""
    is_packed = content.startswith(b"\x1f\x8b")
    unpacked = 0
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) if is_packed else BytesIO(content) as lines:
            while line := lines.readline(LONGEST_LINE + 1):
                unpacked += len(line)
                if len(line) > LONGEST_LINE:
                    raise invalid(name, "a line is longer than 16 MiB: let every event end with a line break")
                if unpacked > LARGEST_CONTENT:
                    raise invalid(name, "unpacked it is larger than 4 GiB")
                if line.strip(b" \t\r\n\0\xef\xbb\xbf"):
                    yield line.strip(b"\r\n\0\xef\xbb\xbf")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        # Unlike a line, a compressed file that is cut off does not tell how much is missing.
        is_packed = False
    else:
        return
    raise ResponseInvalid(
        f"{name} is compressed and damaged or cut off.",
        action="Nothing was stored. Put a whole copy in its place, or take it away if its events are elsewhere.",
    )


def _joined(line: bytes) -> tuple[list[Any], str]:
    """Return the events of a line that holds several without a break between them, and what is left of it."""
    text, found, place = line.decode("utf-8", "replace"), [], 0
    decoder = json.JSONDecoder()
    while place < len(text):
        try:
            event, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            break
        found.append(event)
        space = _SPACE.match(text, place)
        place = space.end() if space else place
    return found, text[place:]


def invalid(name: str, problem: str) -> ResponseInvalid:
    """Return the refusal of an object that is not an audit stream."""
    return ResponseInvalid(f"{name} is not as documented: {problem}.", action=_REPORT)
