"""
OpenAI's organization endpoints: usage, costs, projects; and the list of models, which tells the kinds of keys apart.

Its own faults, beside those of :mod:`sandbox.faults`:

======================  ================================================================================================
kind                    what happens
======================  ================================================================================================
bare_throttling         429 without ``Retry-After``
bare_error              errors come as a sentence where an object is documented
scope_as_401            a missing scope is refused with 401 in place of 403
not_found               404
bad_request             400, as for days that are too old
small_pages             at most ``size`` buckets on a page (1), whatever the limit
split_bucket            the rows of every bucket come in two halves, on two pages
page_twice              every page comes twice, under cursors of its own
contradicting_page      every page comes twice, the second time with other numbers
cursor_loop             every page names the same next one, for ever
cursor_ping_pong        two pages that name each other as the next one
cursor_missing          there is more, but no cursor
empty_pages             pages without buckets, for ever
missing_day             the first day's bucket is left out
foreign_day             a bucket of a day that nobody asked for
unknown_fields          rows have fields that no document names: flat ones, a text, and an object
missing_field           rows lack a required field
wrong_object            rows call themselves something else
odd_number              a count comes as a fraction, money as words
money_as_number         money comes as a JSON number
cached_above_input      more input is cached than there is input
odd_names               models have the names of :data:`ODD_NAMES`
======================  ================================================================================================
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import cycle
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.faults import FaultsInForce
from sandbox.http import Request, Response
from sandbox.truth.openai import (
    CACHED,
    ORGANIZATIONS,
    OUTPUT,
    PROVIDER,
    UNCACHED,
    Line,
    OpenAITruth,
    Organization,
    Use,
    dollars,
)

USAGE_SCOPE = "api.usage.read"
NAMES_SCOPE = "api.management.read"
MODELS_SCOPE = "api.model.read"
CALLERS = ("project_id", "user_id", "api_key_id")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "completions": (*CALLERS, "model", "batch", "service_tier"),
    "embeddings": (*CALLERS, "model"),
    "moderations": (*CALLERS, "model"),
    "images": (*CALLERS, "model", "size", "source"),
    "audio_speeches": (*CALLERS, "model"),
    "audio_transcriptions": (*CALLERS, "model"),
    "vector_stores": ("project_id",),
    "code_interpreter_sessions": ("project_id",),
    "file_search_calls": (*CALLERS, "vector_store_id"),
    "web_search_calls": (*CALLERS, "model", "context_level"),
    "costs": ("project_id", "line_item", "api_key_id"),
}
OBJECTS = {"file_search_calls": "file_searches", "web_search_calls": "web_searches"}
"""The two endpoints whose rows are not called like their path."""
USAGE_BUCKETS, COST_BUCKETS, DEFAULT_BUCKETS = 31, 180, 7
PROJECTS_AT_MOST, PROJECTS_BY_DEFAULT = 100, 20

DIMENSIONS: Mapping[str, Callable[[Use], Any]] = {
    "project_id": lambda use: use.project.id,
    "user_id": lambda use: use.user,
    "api_key_id": lambda use: use.key,
    "model": lambda use: use.model,
    "batch": lambda use: use.batch,
    "service_tier": lambda use: use.tier,
    "size": lambda use: use.size,
    "source": lambda use: use.source,
    "vector_store_id": lambda use: use.vector_store,
    "context_level": lambda use: use.context_level,
}
LINE_DIMENSIONS: Mapping[str, Callable[[Line], Any]] = {
    "project_id": lambda line: line.project.id,
    "line_item": lambda line: line.line_item,
    "api_key_id": lambda line: line.key,
}

_encode = msgspec.json.Encoder(decimal_format="number").encode
Row = dict[str, Any]


class Refused(Exception):
    """An error answer in OpenAI's words."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", **details: str | None) -> None:
        super().__init__(message)
        self.status = status
        self._error = {"message": message, "type": kind, "param": None, "code": None} | details

    def response(self, *, bare: bool = False, **headers: str) -> Response:
        """Return it as an answer: an object, or a bare sentence, as both have been seen."""
        content = {"error": str(self) if bare else self._error}
        return _json(content, self.status, {name.replace("_", "-"): value for name, value in headers.items()})


def admin_key(organization: Organization) -> str:
    """Return the organization's admin key with every permission."""
    return f"sk-admin-sandbox-everything-{organization.account_id}"


def usage_only_key(organization: Organization) -> str:
    """Return an admin key that may read usage and nothing else."""
    return f"sk-admin-sandbox-usage-{organization.account_id}"


def management_only_key(organization: Organization) -> str:
    """Return an admin key that may read projects and nothing else."""
    return f"sk-admin-sandbox-management-{organization.account_id}"


def project_key(organization: Organization) -> str:
    """Return a project's key: it calls models."""
    return f"sk-proj-sandbox-{organization.account_id}"


def service_account_key(organization: Organization) -> str:
    """Return a service account's key: it calls models."""
    return f"sk-svcacct-sandbox-{organization.account_id}"


@dataclass(frozen=True)
class Caller:
    """Who holds a key, and what it may do."""

    organization: Organization
    scopes: frozenset[str]


ODD_NAMES = (
    "O'Brien's \"model\" back\\slash \\n \\. \\N",
    "x'); drop table raw.openai_completions; --",
    "{{ env_var('HOME') }} {% raw %} ${HOME} $(reboot) `id` %s %(model)s",
    "tab\tline\r\nfeed \x1b[31mred \u202eelpmaxe \U0001f648 \u0000 nul",
    '=HYPERLINK("http://localhost/","x")',
    "<img src=x onerror=alert(1)>",
    "-".join(["long"] * 40),
)
"""Names that hurt whoever puts data into a statement, a template, a terminal, a spreadsheet or a page."""

KEYS = {
    key(organization): Caller(organization, frozenset(scopes))
    for organization in ORGANIZATIONS
    for key, scopes in (
        (admin_key, {USAGE_SCOPE, NAMES_SCOPE}),
        (usage_only_key, {USAGE_SCOPE}),
        (management_only_key, {NAMES_SCOPE}),
        (project_key, {MODELS_SCOPE}),
        (service_account_key, {MODELS_SCOPE}),
    )
}


class OpenAISimulator(Simulator):
    """OpenAI."""

    name = PROVIDER
    fault_kinds = {  # noqa: RUF012 - as the frame declares it
        "bare_throttling": "429 without Retry-After",
        "bare_error": "errors are sentences",
        "scope_as_401": "a missing scope is refused with 401",
        "not_found": "404",
        "bad_request": "400",
        "small_pages": "at most `size` buckets on a page (1)",
        "split_bucket": "every bucket in two halves on two pages",
        "page_twice": "every page twice",
        "contradicting_page": "every page twice, with other numbers",
        "cursor_loop": "the same next page, for ever",
        "cursor_ping_pong": "two pages that name each other",
        "cursor_missing": "more, but no cursor",
        "empty_pages": "pages without buckets, for ever",
        "missing_day": "the first day is left out",
        "foreign_day": "a day that nobody asked for",
        "unknown_fields": "rows have unknown fields",
        "missing_field": "rows lack a required field",
        "wrong_object": "rows of another kind",
        "odd_number": "numbers of the wrong kind",
        "money_as_number": "money as JSON numbers",
        "cached_above_input": "more cached input than input",
        "odd_names": "models with the oddest names",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        assert isinstance(truth, OpenAITruth)
        self._truth = truth

    def identify(self, request: Request) -> Call:
        """Say who calls, by the key, and what for: the last part of the path."""
        caller = KEYS.get(request.header("authorization").removeprefix("Bearer "))
        operation = request.path.rpartition("/")[2] if request.path in _paths() else UNKNOWN
        return Call(PROVIDER, caller.organization.account_id if caller else UNKNOWN, "-", operation)

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        try:
            return _json(self._content(call.operation, request, faults))
        except Refused as refused:
            if "scope_as_401" in faults and refused.status == 403:
                refused.status = 401
            return refused.response(bare="bare_error" in faults)

    def refuse(self, kind: str, call: Call) -> Response:
        """Return OpenAI's words for a refusal."""
        if kind == "throttling":
            return Refused(429, "Rate limit reached for requests", "requests").response(Retry_After="1")
        return {
            "access_denied": _missing(NAMES_SCOPE if call.operation == "projects" else USAGE_SCOPE),
            "internal_error": Refused(500, "The server had an error while processing your request.", "server_error"),
            "service_unavailable": Refused(503, "The engine is currently overloaded.", "server_error"),
        }.get(kind, _invalid_key("revoked")).response()

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002
        """Whether a fault can be committed: OpenAI has no regions."""
        return kind != "opt_in_region_disabled"

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection per organization."""
        return [
            {
                "connection_id": f"openai_{suffix}",
                "conn_type": "ai_usage_openai",
                "login": None,
                "host": base_url,
                "password": admin_key(organization),
                "extra": {
                    "account_id": organization.account_id,
                    "account_name": organization.name,
                    "per_key": organization.tells_callers,
                    "per_user": organization.tells_callers,
                    "start_date": min(self._truth.world.opened, self._truth.world.clock.today()).isoformat(),
                },
                "description": f"AI usage sandbox: {organization.name} on the sandbox's OpenAI. Not real.",
            }
            for organization, suffix in zip(ORGANIZATIONS, ("default", "lab"), strict=True)
        ]

    # ---------------------------------------------------------------- operations

    def _content(self, operation: str, request: Request, faults: FaultsInForce) -> Row:
        bearer = request.header("authorization")
        if not bearer:
            raise Refused(401, "You didn't provide an API key.")
        caller = KEYS.get(bearer.removeprefix("Bearer "))
        if caller is None:
            raise _invalid_key(bearer)
        if operation == UNKNOWN or request.method != "GET" or "not_found" in faults:
            raise Refused(404, f"Invalid URL ({request.method} {request.path})")
        needed = {"projects": NAMES_SCOPE, "models": MODELS_SCOPE}.get(operation, USAGE_SCOPE)
        if needed not in caller.scopes:
            raise _missing(needed)
        if "bare_throttling" in faults:
            raise Refused(429, "Rate limit reached for requests", "requests")
        if "bad_request" in faults:
            raise Refused(400, "start_time is too far in the past.", param="start_time")
        query = parse_qsl(urlsplit(request.target).query, keep_blank_values=True)
        if operation == "models":
            return {"object": "list", "data": [{"id": "gpt-5-mini", "object": "model", "owned_by": "system"}]}
        if operation == "projects":
            return _projects(caller.organization, dict(query), faults)
        return self._page(caller.organization, operation, query, faults)

    def _page(
        self, organization: Organization, operation: str, query: list[tuple[str, str]], faults: FaultsInForce
    ) -> Row:
        asked = dict(query)
        groups = [value for name, value in query if name in ("group_by", "group_by[]")]
        if unknown := set(groups) - set(GROUPS[operation]):
            raise Refused(400, f"Invalid value for 'group_by': {', '.join(sorted(unknown))}.", param="group_by")
        if asked.get("bucket_width", "1d") != "1d":
            raise Refused(400, "Only 1d is spoken here.", param="bucket_width")
        days = self._days(asked)
        most = COST_BUCKETS if operation == "costs" else USAGE_BUCKETS
        limit = _number(asked, "limit", DEFAULT_BUCKETS)
        if not 1 <= limit <= most:
            raise Refused(400, f"Invalid 'limit': must be between 1 and {most}.", param="limit")
        if small := faults.get("small_pages"):
            limit = min(limit, small.size or 1)
        cursor = _Cursor.read(asked.get("page"))
        chosen = days[cursor.offset : cursor.offset + limit]
        if "missing_day" in faults and cursor.offset == 0:
            chosen = chosen[1:]
        buckets = [_bucket(day, self._rows(organization, operation, day, groups)) for day in chosen]
        return _deliver(buckets, cursor, limit, len(days), faults)

    def _days(self, asked: Mapping[str, str]) -> list[date]:
        if "start_time" not in asked:
            raise Refused(400, "Missing required parameter: 'start_time'.", param="start_time")
        now = datetime.combine(self._truth.world.clock.today(), time(23, 59), tzinfo=UTC)
        start, end = _number(asked, "start_time"), _number(asked, "end_time", int(now.timestamp()))
        if end <= start:
            raise Refused(400, "'end_time' must be greater than 'start_time'.", param="end_time")
        first, last = (datetime.fromtimestamp(one, UTC).date() for one in (start, end - 1))
        last = min(last, self._truth.world.clock.today())
        return [first + timedelta(days=n) for n in range((last - first).days + 1)]

    def _rows(self, organization: Organization, operation: str, day: date, groups: list[str]) -> list[Row]:
        if operation == "costs":
            return _costs(organization, self._truth.billed(organization, day), groups)
        found: dict[tuple[Any, ...], dict[str, int]] = {}
        for use, values in self._truth.used(organization, operation, day):
            parts = found.setdefault(tuple(DIMENSIONS[name](use) for name in groups), {})
            for name, value in values.items():
                parts[name] = parts.get(name, 0) + value
        label = f"organization.usage.{OBJECTS.get(operation, operation)}.result"
        return [
            {"object": label}
            | _counts(organization, operation, parts)
            | dict.fromkeys(GROUPS[operation])
            | dict(zip(groups, key, strict=True))
            for key, parts in found.items()
        ]


SIMULATOR = OpenAISimulator


def _paths() -> set[str]:
    usage = {f"/organization/usage/{name}" for name in GROUPS if name != "costs"}
    return usage | {"/organization/costs", "/organization/projects", "/models"}


def _missing(scope: str) -> Refused:
    return Refused(
        403,
        f"You have insufficient permissions for this operation. Missing scopes: {scope}. Check that you have the correct "
        "role in your organization (Reader, Writer, Owner), and if you're using a restricted API key, that it has the "
        "necessary scopes.",
        "server_error",
    )


def _invalid_key(bearer: str) -> Refused:
    # OpenAI repeats the key, all but its middle.
    shown = f"{bearer.removeprefix('Bearer ')[:8]}********{bearer[-4:]}"
    return Refused(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")


def _number(asked: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = asked.get(name, str(default))
    if not text.isdecimal():
        raise Refused(400, f"Invalid '{name}': expected an integer.", param=name)
    return int(text)


@dataclass(frozen=True)
class _Cursor:
    """Where a page begins, and how often it was sent already."""

    offset: int = 0
    turn: int = 0

    @classmethod
    def read(cls, text: str | None) -> _Cursor:
        if text is None:
            return cls()
        try:
            return cls(*json.loads(base64.urlsafe_b64decode(text.removeprefix("page_"))))
        except (ValueError, TypeError):
            raise Refused(400, "Invalid 'page'.", param="page") from None

    def __str__(self) -> str:
        return "page_" + base64.urlsafe_b64encode(json.dumps([self.offset, self.turn]).encode()).decode()


def _deliver(buckets: list[Row], cursor: _Cursor, limit: int, total: int, faults: FaultsInForce) -> Row:
    """Return a page, as the faults leave it."""
    ahead = _Cursor(cursor.offset + limit)
    has_more = ahead.offset < total
    twice = {"page_twice", "contradicting_page", "split_bucket"} & set(faults.content or {})
    if twice and cursor.turn == 0:
        ahead, has_more = _Cursor(cursor.offset, 1), True
    for bucket in buckets:
        day = datetime.fromtimestamp(bucket["start_time"], UTC).date()
        bucket["results"] = _spoilt(bucket["results"], cursor, faults.on(day))
    if "foreign_day" in faults and buckets:
        foreign = datetime.fromtimestamp(buckets[0]["start_time"], UTC).date() - timedelta(days=90)
        buckets = [_bucket(foreign, buckets[0]["results"]), *buckets]
    page = {"object": "page", "data": buckets, "has_more": has_more, "next_page": str(ahead) if has_more else None}
    if "cursor_loop" in faults:
        page |= {"has_more": True, "next_page": "page_WzAsMF0="}
    if "cursor_ping_pong" in faults:
        page |= {"has_more": True, "next_page": str(_Cursor(0, 1 - cursor.turn))}
    if "cursor_missing" in faults:
        page |= {"has_more": True, "next_page": None}
    if "empty_pages" in faults:
        page |= {"data": [], "has_more": True, "next_page": str(_Cursor(0, cursor.turn + 1))}
    return page


def _spoilt(rows: list[Row], cursor: _Cursor, faults: FaultsInForce) -> list[Row]:
    if "split_bucket" in faults:
        half = (len(rows) + 1) // 2
        rows = rows[half:] if cursor.turn else rows[:half]
    if "contradicting_page" in faults and cursor.turn:
        rows = [_changed(row, 1) for row in rows]
    if "unknown_fields" in faults:
        extra: Row = {"output_reasoning_tokens": 17, "residency": "eu", "cache_ratio": Decimal("0.125")}
        extra |= {"last_prompt": "Dear diary, today I met somebody.", "details": {"prompt": "Dear diary"}}
        rows = [row | extra for row in rows]
    if "missing_field" in faults:
        rows = [{name: value for name, value in row.items() if name not in (_measure(row), "amount")} for row in rows]
    if "wrong_object" in faults:
        rows = [row | {"object": "organization.usage.dreams.result"} for row in rows]
    if "odd_number" in faults:
        words: Row = {"amount": {"value": "a lot", "currency": "usd"}}
        rows = [row | (words if "amount" in row else {_measure(row): 1.5}) for row in rows]
    if "odd_names" in faults:
        rows = [row | ({"model": name} if row.get("model") else {}) for row, name in zip(rows, cycle(ODD_NAMES))]
    if "money_as_number" in faults:
        rows = [row | {"amount": row["amount"] | {"value": Decimal(row["amount"]["value"])}} for row in rows]
    if "cached_above_input" in faults:
        rows = [row | {"input_cached_tokens": row["input_tokens"] + 1} for row in rows]
    return rows


def _measure(row: Row) -> str:
    """Return the name of the row's first count."""
    return next((name for name, value in row.items() if type(value) is int), "")


def _changed(row: Row, more: int) -> Row:
    if "amount" in row:
        value = Decimal(row["amount"]["value"]) + more
        return row | {"amount": row["amount"] | {"value": str(value)}}
    return row | {_measure(row): row[_measure(row)] + more}


def _bucket(day: date, rows: list[Row]) -> Row:
    start = int(datetime.combine(day, time(), tzinfo=UTC).timestamp())
    bucket = {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": rows}
    # Seen live on some buckets, in no document.
    return bucket | ({"start_time_iso": f"{day}T00:00:00+00:00"} if day.day % 2 else {})


def _counts(organization: Organization, operation: str, parts: Mapping[str, int]) -> dict[str, int]:
    def all_of(names: Iterable[str]) -> int:
        return sum(parts.get(name, 0) for name in names)

    match operation:
        case "completions":
            counts = {
                "input_tokens": all_of((*UNCACHED, *CACHED, "cache_write")),
                "output_tokens": all_of(OUTPUT),
                "num_model_requests": parts["requests"],
                "input_cached_tokens": all_of(CACHED),
                "input_audio_tokens": all_of(["input_audio"]),
                "output_audio_tokens": all_of(["output_audio"]),
            }
            if not organization.is_modern:
                return counts
            details = {
                "input_cache_write_tokens": ["cache_write"],
                "input_uncached_tokens": UNCACHED,
                "input_text_tokens": ["input_text"],
                "input_image_tokens": ["input_image"],
                "input_cached_text_tokens": ["cached_text"],
                "input_cached_audio_tokens": ["cached_audio"],
                "input_cached_image_tokens": ["cached_image"],
                "output_text_tokens": ["output_text"],
                "output_image_tokens": ["output_image"],
            }
            return counts | {name: all_of(names) for name, names in details.items()}
        case "embeddings" | "moderations":
            return {"input_tokens": parts["input_text"], "num_model_requests": parts["requests"]}
        case "images" | "audio_speeches" | "audio_transcriptions":
            name = {"audio_speeches": "characters", "audio_transcriptions": "seconds"}.get(operation, "images")
            return {name: parts[name], "num_model_requests": parts["requests"]}
        case "web_search_calls":
            return {"num_requests": parts["searches"], "num_model_requests": parts["requests"]}
        case _:
            names = {"vector_stores": "usage_bytes", "code_interpreter_sessions": "num_sessions"}
            return {names.get(operation, "num_requests"): parts["amount"]}


def _costs(organization: Organization, billed: Iterable[tuple[Line, int]], groups: list[str]) -> list[Row]:
    found: dict[tuple[Any, ...], tuple[int, Line]] = {}
    for line, cost in billed:
        key = tuple(LINE_DIMENSIONS[name](line) for name in groups)
        found[key] = (found.get(key, (0, line))[0] + cost, line)
    rows = []
    for key, (cost, line) in found.items():
        is_by_line = "line_item" in groups
        row: Row = {
            "object": "organization.costs.result",
            # Dollars as text, with zeros behind.
            "amount": {"value": f"{dollars(cost):f}{'0' * 12}", "currency": "usd"},
            **dict.fromkeys(GROUPS["costs"]),
            **dict(zip(groups, key, strict=True)),
            "quantity": abs(cost) // 10**12 if is_by_line and line.unit else None,
            "quantity_unit": line.unit if is_by_line else None,
        }
        if not organization.is_modern:
            # Seen live, in no document.
            row |= {"organization_id": organization.account_id, "organization_name": organization.name}
            row["project_name"] = line.project.name
        rows.append(row)
    return rows


def _projects(organization: Organization, asked: Mapping[str, str], faults: FaultsInForce) -> Row:
    limit = _number(asked, "limit", PROJECTS_BY_DEFAULT)
    if not 1 <= limit <= PROJECTS_AT_MOST:
        raise Refused(400, f"Invalid 'limit': must be between 1 and {PROJECTS_AT_MOST}.", param="limit")
    if small := faults.get("small_pages"):
        limit = small.size or 1
    known = [one for one in organization.projects if not one.archived or asked.get("include_archived") == "true"]
    after = asked.get("after")
    start = next((n + 1 for n, one in enumerate(known) if one.id == after), 0)
    if "cursor_loop" in faults:
        start = 0
    page = known[start : start + limit]
    return {
        "object": "list",
        "data": [
            {
                "id": one.id,
                "object": "organization.project",
                "name": one.name,
                "created_at": 1711471533,
                "archived_at": 1761471533 if one.archived else None,
                "status": "archived" if one.archived else "active",
                "external_key_id": None,
                "residency": "GLOBAL",
            }
            for one in page
        ],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": start + limit < len(known) or "cursor_loop" in faults,
    }


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, _encode(content), {"Content-Type": "application/json", **(headers or {})})
