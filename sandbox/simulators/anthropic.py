"""
Anthropic's Admin API: the classic reports, the analytics reports, the organisation and its workspaces.

As strict as the real one is documented to be: version and beta headers, kinds of keys, bracketed parameters, at most 31
buckets or 1,000 rows on a page and far fewer by default, windows that are rounded to whole days, null rules.

Faults in the content:

=====================  ================================================================================================
kind                   what happens
=====================  ================================================================================================
small_pages            at most ``size`` buckets, rows or workspaces on a page (default 1)
cursor_loop            every page names the same next page
cursor_ping_pong       two pages that name each other as the next one
cursor_missing         there is more, and no word on where
empty_pages            nothing on the page, and always a next one
page_twice             every page is given twice before the next one comes
page_repeated          the second page is the first one again, and then there is no more
bucket_missing         the second day is left out
bucket_twice           the first day is told twice, the second time with other numbers
unaligned_buckets      days that begin at half past six
unknown_fields         new fields in every row: a number, an identifier, a nested one, a long text
missing_field          the rows lack ``output_tokens`` or ``amount``
amount_as_number       amounts are numbers, in dollars
tokens_as_text         output tokens are texts
not_found              HTTP 404
overloaded             HTTP 529
retry_later            HTTP 429 that says to come back after ``milliseconds`` (default 1000), in whole seconds
=====================  ================================================================================================
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.errors import SandboxError
from sandbox.faults import FaultsInForce
from sandbox.http import Request, Response
from sandbox.truth import days_between
from sandbox.truth.anthropic import (
    ORGANIZATIONS,
    PROVIDER,
    REQUESTS,
    TOKENS,
    WEB_SEARCHES,
    AnthropicTruth,
    Organization,
    exact,
)

BUCKETS_AT_MOST = 31
ROWS_AT_MOST = 1000
DAY = timedelta(days=1)
VERSIONS = ("2023-06-01", "2026-10-21")
ANALYTICS_BETA = "analytics-usage-cost-2026-08-24"
ANALYTICS_BEGIN = date(2026, 1, 1)

USAGE_DIMENSIONS = (
    "account_id",
    "api_key_id",
    "context_window",
    "inference_geo",
    "model",
    "service_account_id",
    "service_tier",
    "workspace_id",
)
COST_DIMENSIONS = ("workspace_id", "description")
COST_DETAILS = ("cost_type", "token_type", "model", "service_tier", "context_window", "inference_geo")
ANALYTICS_DIMENSIONS = (
    "actor",
    "actor_type",
    "agent_id",
    "api_key_id",
    "claude_tag_category",
    "claude_tag_user_id",
    "context_window",
    "deployment_id",
    "environment_id",
    "inference_geo",
    "model",
    "organization_id",
    "product",
    "rbac_group_id",
    "service_tier",
    "session_id",
    "slack_channel_id",
    "speed",
    "user_profile_id",
    "workspace_id",
)
FREE_DIMENSIONS = ("cost_type", "token_type")

ME = "me"
WORKSPACES = "workspaces"
USAGE = "usage_report/messages"
COSTS = "cost_report"
ANALYTICS_USAGE = "analytics/usage"
ANALYTICS_COST = "analytics/cost"
OPERATIONS = (ME, WORKSPACES, USAGE, COSTS, ANALYTICS_USAGE, ANALYTICS_COST)


def admin_key(organization: Organization) -> str:
    """Return a key that may read everything: obviously not a real one."""
    return f"sk-ant-admin01-sandbox-not-a-real-key-{organization.id[:8]}"


def inference_key(organization: Organization) -> str:
    """Return a key for the Messages API, which these endpoints do not know."""
    return f"sk-ant-api03-sandbox-not-a-real-key-{organization.id[:8]}"


def developer_token(organization: Organization) -> str:
    """Return an OAuth token of a member without the admin role."""
    return f"Bearer sandbox-not-a-real-token-of-a-developer-{organization.id[:8]}"


def admin_token(organization: Organization) -> str:
    """Return an OAuth token with the scope ``org:admin``."""
    return f"Bearer sandbox-not-a-real-token-of-an-admin-{organization.id[:8]}"


def analytics_key(organization: Organization) -> str:
    """Return a key with the scope ``read:analytics`` alone."""
    return f"sk-ant-api01-sandbox-not-a-real-key-{organization.id[:8]}"


@dataclass(frozen=True)
class Caller:
    """An organisation and the operations its key may use."""

    organization: Organization
    may: tuple[str, ...]


_CALLERS: Mapping[str, Caller] = {
    key(organization): Caller(organization, may)
    for organization in ORGANIZATIONS
    for key, may in (
        (admin_key, OPERATIONS),
        (admin_token, OPERATIONS),
        (developer_token, (ME,)),
        (analytics_key, (ANALYTICS_USAGE, ANALYTICS_COST)),
    )
}


class AnthropicError(Exception):
    """A refusal in Anthropic's words."""

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, dict(headers or {})

    def response(self) -> Response:
        """Return the refusal as it is sent."""
        body = {"type": "error", "error": {"type": self.kind, "message": self.message}, "request_id": "req_sandbox"}
        return _answer(body, self.status, self.headers)


def _invalid(message: str) -> AnthropicError:
    return AnthropicError(400, "invalid_request_error", message, {"x-should-retry": "false"})


class AnthropicSimulator(Simulator):
    """The Admin API for two organisations."""

    name = PROVIDER
    fault_kinds: ClassVar[Mapping[str, str]] = {
        "small_pages": "at most `size` buckets, rows or workspaces on a page (default 1)",
        "cursor_loop": "every page names the same next page",
        "cursor_ping_pong": "two pages that name each other as the next one",
        "cursor_missing": "there is more, and no word on where",
        "empty_pages": "nothing on the page, and always a next one",
        "page_twice": "every page is given twice before the next one comes",
        "page_repeated": "the second page is the first one again, and then there is no more",
        "bucket_missing": "the second day is left out",
        "bucket_twice": "the first day is told twice, the second time with other numbers",
        "unaligned_buckets": "days that begin at 06:30",
        "unknown_fields": "new fields in every row: a number, an identifier, a nested one, a long text",
        "missing_field": "the rows lack output_tokens or amount",
        "amount_as_number": "amounts are numbers, in dollars",
        "tokens_as_text": "output tokens are texts",
        "not_found": "HTTP 404",
        "overloaded": "HTTP 529",
        "retry_later": "HTTP 429 with Retry-After, of `milliseconds` (default 1000)",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        if not isinstance(truth, AnthropicTruth):
            raise SandboxError("The truth about anthropic is not Anthropic's.")
        self._truth = truth

    def identify(self, request: Request) -> Call:
        """Say who calls, by the key, and what for, by the path."""
        path = request.path.removeprefix("/v1/organizations/").rstrip("/")
        operation = path if path in OPERATIONS else UNKNOWN
        key = request.header("x-api-key") or request.header("authorization")
        caller = _CALLERS.get(key)
        refusal: AnthropicError | None = None
        if caller is None:
            refusal = AnthropicError(401, "authentication_error", "invalid x-api-key")
        elif request.header("anthropic-version") not in VERSIONS:
            refusal = _invalid("anthropic-version: header is required")
        elif request.method != "GET" or operation == UNKNOWN:
            refusal = AnthropicError(404, "not_found_error", "Not found")
        elif operation not in caller.may:
            refusal = AnthropicError(
                403, "permission_error", "Your API key does not have permission to use this resource."
            )
        elif operation.startswith("analytics/") and ANALYTICS_BETA not in request.header("anthropic-beta"):
            refusal = AnthropicError(404, "not_found_error", "Not found")
        account = caller.organization.id if caller else UNKNOWN
        return Call(PROVIDER, account, "-", operation, refusal.response() if refusal else None)

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        try:
            _refuse_as_told(faults)
            organization = next(one for one in ORGANIZATIONS if one.id == call.account)
            question = Question.of(request)
            if call.operation == ME:
                return _answer({"id": organization.id, "type": "organization", "name": organization.name})
            if call.operation == WORKSPACES:
                return _answer(_workspaces(organization, question, faults))
            if call.operation == USAGE:
                return _answer(self._buckets(organization, question, faults, is_cost=False))
            if call.operation == COSTS:
                return _answer(self._buckets(organization, question, faults, is_cost=True))
            return _answer(self._rows(organization, question, faults, is_cost=call.operation == ANALYTICS_COST))
        except AnthropicError as error:
            return error.response()

    def refuse(self, kind: str, call: Call) -> Response:  # noqa: ARG002 - the words do not depend on the caller
        """Return Anthropic's words for a refusal; 429 comes without ``Retry-After``."""
        status, code, message = {
            "access_denied": (403, "permission_error", "Your API key does not have permission to use this resource."),
            "throttling": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
            "internal_error": (500, "api_error", "Internal server error"),
            "service_unavailable": (503, "api_error", "Service unavailable"),
        }.get(kind, (401, "authentication_error", "invalid x-api-key"))
        return AnthropicError(status, code, message).response()

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection per organisation."""
        world = self.frame.truth.world
        return [
            {
                "connection_id": "anthropic_default" if number == 0 else "anthropic_research",
                "conn_type": "ai_usage_anthropic",
                "host": base_url,
                "password": admin_key(organization),
                "extra": {
                    "account_id": organization.id,
                    "start_date": min(world.opened, world.clock.today()).isoformat(),
                    "reports": organization.generation,
                },
                "description": f"AI usage sandbox: {organization.name}, {organization.generation} reports. Not real.",
            }
            for number, organization in enumerate(ORGANIZATIONS)
        ]

    # ---------------------------------------------------------------- classic

    def _buckets(
        self, organization: Organization, question: Question, faults: FaultsInForce, *, is_cost: bool
    ) -> dict[str, Any]:
        """Return a page of a classic report."""
        if question.one("bucket_width", "1d") != "1d":
            raise _invalid("bucket_width: only 1d is simulated")
        dimensions = question.many("group_by[]", COST_DIMENSIONS if is_cost else USAGE_DIMENSIONS)
        limit = question.number("limit", 7, BUCKETS_AT_MOST)
        # The start is rounded up and the end down to whole days.
        first = _days_up(question.instant("starting_at"))
        end = question.instant("ending_at", optional=True)
        behind = _days_down(end) if end else self.frame.truth.world.clock.today() + DAY
        if first >= behind:
            if is_cost:
                raise _invalid("Invalid date range: ending date must be after starting date")
            return {"data": [], "has_more": False, "next_page": None}
        days = list(days_between(first, behind - DAY))
        page = Page.of(question, faults, len(days), limit)
        content = [self._bucket(organization, day, dimensions, faults, is_cost=is_cost) for day in page.cut(days)]
        return page.envelope(_spoilt_buckets(content, faults, days))

    def _bucket(
        self, organization: Organization, day: date, dimensions: Sequence[str], faults: FaultsInForce, *, is_cost: bool
    ) -> dict[str, Any]:
        read = self._classic_costs if is_cost else self._classic_usage
        results = [_spoilt_row(row, faults) for row in read(organization, day, dimensions)]
        return {"starting_at": _midnight(day), "ending_at": _midnight(day + DAY), "results": results}

    def _classic_usage(self, organization: Organization, day: date, dimensions: Sequence[str]) -> list[dict[str, Any]]:
        groups: dict[tuple[str | None, ...], dict[str, int]] = {}
        for usage in self._truth.usage(organization, day):
            line = usage.line
            words = {
                "api_key_id": line.key,
                "context_window": line.window,
                "inference_geo": line.geo,
                "model": line.model,
                "service_tier": line.tier,
                "workspace_id": line.workspace,
            }
            key = tuple(words.get(name) if name in dimensions else None for name in USAGE_DIMENSIONS)
            total = groups.setdefault(key, dict.fromkeys((*TOKENS, WEB_SEARCHES), 0))
            for name in total:
                total[name] += usage.values[name]
        return [_counts(total) | dict(zip(USAGE_DIMENSIONS, key, strict=True)) for key, total in groups.items()]

    def _classic_costs(self, organization: Organization, day: date, dimensions: Sequence[str]) -> list[dict[str, Any]]:
        groups: dict[tuple[str | None, ...], Fraction] = {}
        for cost in self._truth.costs(organization, day):
            is_tokens = cost.cost_type == "tokens"
            described = {
                "workspace_id": cost.workspace if "workspace_id" in dimensions else None,
                "description": cost.description,
                "cost_type": cost.cost_type,
                "token_type": cost.token_type,
                "model": cost.model if is_tokens else None,
                "service_tier": cost.tier if is_tokens else None,
                "context_window": cost.window if is_tokens else None,
                "inference_geo": cost.geo if is_tokens else None,
            }
            if "description" not in dimensions:
                described = dict.fromkeys(described) | {"workspace_id": described["workspace_id"]}
            key = tuple(described[name] for name in (*COST_DIMENSIONS, *COST_DETAILS))
            groups[key] = groups.get(key, Fraction(0)) + cost.cents
        return [
            {"amount": _amount(cents), "currency": "USD"}
            | dict(zip((*COST_DIMENSIONS, *COST_DETAILS), key, strict=True))
            for key, cents in groups.items()
        ]

    # ---------------------------------------------------------------- analytics

    def _rows(
        self, organization: Organization, question: Question, faults: FaultsInForce, *, is_cost: bool
    ) -> dict[str, Any]:
        """Return a page of an analytics report."""
        known = (*ANALYTICS_DIMENSIONS, *FREE_DIMENSIONS) if is_cost else ANALYTICS_DIMENSIONS
        dimensions = question.many("group_by[]", known)
        if len(set(dimensions) - set(FREE_DIMENSIONS)) > 5:
            raise _invalid("group_by: at most 5 dimensions")
        limit = question.number("limit", 20, ROWS_AT_MOST)
        first, behind = self._analytics_range(question)
        if question.one("time_bucket_width") != "1d":
            raise _invalid("time_bucket_width: only 1d is simulated")
        found: list[dict[str, Any]] = []
        for day in days_between(first, behind - DAY):
            rows = self._analytics_costs(organization, day) if is_cost else self._analytics_usage(organization, day)
            found += _grouped(day, rows, known, dimensions, is_cost=is_cost)
        if question.one("order_by") != "time":
            found.sort(key=lambda row: -Decimal(row["cost"]["amount"]) if is_cost else -row["usage"]["total_tokens"])
        elif question.one("order", "desc") == "desc":
            found.sort(key=lambda row: row["starting_at"], reverse=True)
        page = Page.of(question, faults, len(found), limit)
        envelope = page.envelope(_spoilt_rows(page.cut(found), faults))
        return envelope | {"data_refreshed_at": _midnight(self.frame.truth.world.clock.today())}

    def _analytics_range(self, question: Question) -> tuple[date, date]:
        starting, ending = question.instant("starting_at"), question.instant("ending_at")
        assert starting and ending
        first, behind = _days_down(starting), _days_up(ending)
        today = self.frame.truth.world.clock.today()
        if first < max(ANALYTICS_BEGIN, today - 365 * DAY):
            raise _invalid("starting_at: must be within the last 365 days and no earlier than 2026-01-01T00:00:00Z")
        if not DAY <= behind - first <= 31 * DAY:
            raise _invalid("ending_at: the range may span at most 31 days")
        return first, behind

    def _analytics_usage(
        self, organization: Organization, day: date
    ) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
        for usage in self._truth.usage(organization, day):
            line = usage.line
            words = _words(organization, line.workspace, line.key, line.model, line.tier, line.window, line.geo)
            yield words | {"product": "api"}, dict(usage.values)
        for workspace, values in self._truth.executions(organization, day).items():
            zeros = dict.fromkeys((*TOKENS, WEB_SEARCHES), 0)
            yield _words(organization, workspace), zeros | {REQUESTS: values[REQUESTS]}

    def _analytics_costs(
        self, organization: Organization, day: date
    ) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
        for cost in self._truth.costs(organization, day):
            words = _words(organization, cost.workspace, cost.key, cost.model, cost.tier, cost.window, cost.geo)
            yield words | {"cost_type": cost.cost_type, "token_type": cost.token_type}, {"cents": cost.cents}


SIMULATOR = AnthropicSimulator


@dataclass(frozen=True)
class Question:
    """The query of a request: every value of every name."""

    values: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, request: Request) -> Question:
        """Read the query."""
        values: dict[str, tuple[str, ...]] = {}
        for name, value in parse_qsl(urlsplit(request.target).query, keep_blank_values=True):
            values[name] = (*values.get(name, ()), value)
        return cls(values)

    def one(self, name: str, default: str = "") -> str:
        """Return the last value of a name."""
        return self.values.get(name, (default,))[-1]

    def many(self, name: str, allowed: Sequence[str]) -> tuple[str, ...]:
        """Return every value of a name; each must be allowed."""
        values = self.values.get(name, ())
        if unknown := set(values) - set(allowed):
            raise _invalid(f"{name}: {sorted(unknown)[0]!r} is not one of {', '.join(allowed)}")
        return values

    def number(self, name: str, default: int, most: int) -> int:
        """Return a number from one to ``most``."""
        text = self.one(name, str(default))
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise _invalid(f"{name}: must be between 1 and {most}")
        return int(text)

    def instant(self, name: str, *, optional: bool = False) -> datetime | None:
        """Return an RFC 3339 timestamp."""
        text = self.one(name)
        if not text and optional:
            return None
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text):
            raise _invalid(f"{name}: an RFC 3339 timestamp is required")
        return datetime.fromisoformat(text).astimezone(UTC)

    @property
    def fingerprint(self) -> str:
        """What must stay the same from page to page."""
        return sha256(repr(sorted((k, v) for k, v in self.values.items() if k != "page")).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Page:
    """
    Part of a list, and the cursor to the next part.

    :param has_more: whether there is a next part; a fault may say so and keep the cursor back.
    """

    start: int
    stop: int
    total: int
    next_page: str | None
    has_more: bool

    @classmethod
    def of(cls, question: Question, faults: FaultsInForce, total: int, limit: int) -> Page:
        """Return the page that is asked for."""
        if small := faults.get("small_pages"):
            limit = min(limit, 1 if small.size is None else small.size)
        start, turn = cls._place(question)
        stop = min(start + limit, total)
        following: tuple[int, int] | None = (stop, 0) if stop < total else None
        if "page_twice" in faults and turn == 0:
            following = (start, 1)
        elif "page_repeated" in faults:
            following = (0, 1) if turn == 0 else None
        elif "cursor_loop" in faults or "empty_pages" in faults:
            following = (start, turn + 1 if "empty_pages" in faults else 7)
        elif "cursor_ping_pong" in faults:
            following = (start, 8 if turn != 8 else 9)
        if "cursor_missing" in faults:
            return cls(start, stop, total, None, True)
        cursor = cls._cursor(question, *following) if following else None
        return cls(start, stop, total, cursor, cursor is not None)

    @staticmethod
    def _cursor(question: Question, start: int, turn: int) -> str:
        return "page_" + base64.urlsafe_b64encode(f"{start}|{turn}|{question.fingerprint}".encode()).decode()

    @staticmethod
    def _place(question: Question) -> tuple[int, int]:
        cursor = question.one("page")
        if not cursor:
            return 0, 0
        try:
            start, turn, fingerprint = base64.urlsafe_b64decode(cursor.removeprefix("page_")).decode().split("|")
        except ValueError:
            raise _invalid("page: invalid cursor") from None
        if fingerprint != question.fingerprint:
            raise _invalid("page: the other parameters must not change")
        return int(start), int(turn)

    def cut(self, whole: list[Any]) -> list[Any]:
        """Return this page's part."""
        return whole[self.start : self.stop]

    def envelope(self, data: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the page as it is sent."""
        return {"data": data, "has_more": self.has_more, "next_page": self.next_page}


def _workspaces(organization: Organization, question: Question, faults: FaultsInForce) -> dict[str, Any]:
    """Return a page of workspaces. An ``offset`` means nothing here."""
    names = dict(organization.workspaces)
    if question.one("include_default") == "true":
        names = {organization.default_workspace: "Default"} | names
    archived = {identity for identity, name in names.items() if "archived" in name}
    if question.one("include_archived") != "true":
        names = {identity: name for identity, name in names.items() if identity not in archived}
    identities = list(names)
    limit = question.number("limit", 20, ROWS_AT_MOST)
    if small := faults.get("small_pages"):
        limit = min(limit, 1 if small.size is None else small.size)
    after = question.one("after_id")
    if after and after not in identities:
        raise _invalid("after_id: unknown")
    start = identities.index(after) + 1 if after else 0
    if "cursor_loop" in faults:
        start = 0
    page = identities[start : start + limit]
    data = [
        {
            "id": identity,
            "type": "workspace",
            "name": names[identity],
            "display_color": "#6C5BB9",
            "created_at": "2025-11-03T08:15:00Z",
            "archived_at": "2026-08-01T00:00:00Z" if identity in archived else None,
            "data_residency": {"workspace_geo": "us", "default_inference_geo": "global"},
        }
        for identity in page
    ]
    return {
        "data": data,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
        "has_more": start + limit < len(identities) or "cursor_loop" in faults,
    }


def _words(
    organization: Organization,
    workspace: str | None,
    key: str | None = None,
    model: str | None = None,
    tier: str | None = None,
    window: str | None = None,
    geo: str | None = None,
) -> dict[str, Any]:
    """Return what an analytics row can be grouped by; here the default workspace has its id, and no geography is null."""
    return {
        "workspace_id": workspace or organization.default_workspace,
        "api_key_id": key,
        "model": model,
        "service_tier": tier,
        "context_window": window,
        "inference_geo": geo if geo in ("us", "global") else None,
    }


def _grouped(
    day: date,
    rows: Iterable[tuple[dict[str, Any], dict[str, Any]]],
    known: Sequence[str],
    dimensions: Sequence[str],
    *,
    is_cost: bool,
) -> list[dict[str, Any]]:
    """Return one day's analytics rows, the largest first."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for words, numbers in rows:
        key = tuple(words.get(name) if name in dimensions else None for name in known)
        total = groups.setdefault(key, {})
        for name, number in numbers.items():
            total[name] = total.get(name, 0) + number
    found = []
    for key, total in groups.items():
        row = {
            "starting_at": _midnight(day),
            "ending_at": _midnight(day + DAY),
            "group": dict(zip(known, key, strict=True)),
        }
        if is_cost:
            has_parts = "cost_type" in dimensions or "token_type" in dimensions
            list_price = _amount(total["cents"] * Fraction(5, 4))
            money = {"amount": _amount(total["cents"]), "currency": "USD", "list_amount": list_price}
            found.append(row | {"cost": money | {"requests": None if has_parts else 1}})
        else:
            counts = _counts(total) | {REQUESTS: total[REQUESTS], "total_tokens": sum(total[name] for name in TOKENS)}
            found.append(row | {"usage": counts})
    if is_cost:
        return sorted(found, key=lambda row: -Decimal(row["cost"]["amount"]))
    return sorted(found, key=lambda row: -row["usage"]["total_tokens"])


def _counts(values: Mapping[str, int]) -> dict[str, Any]:
    return {
        "uncached_input_tokens": values[TOKENS[0]],
        "cache_creation": {
            "ephemeral_1h_input_tokens": values[TOKENS[2]],
            "ephemeral_5m_input_tokens": values[TOKENS[1]],
        },
        "cache_read_input_tokens": values[TOKENS[3]],
        "output_tokens": values[TOKENS[4]],
        "server_tool_use": {"web_search_requests": values[WEB_SEARCHES]},
    }


def _amount(cents: Fraction) -> str:
    """Return an amount as it is sent: whole, or with at least six decimals."""
    if cents.denominator == 1:
        return str(cents.numerator)
    whole, _, decimals = format(exact(cents), "f").partition(".")
    return f"{whole}.{decimals.ljust(6, '0')}"


def _midnight(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _days_down(moment: datetime) -> date:
    return moment.date()


def _days_up(moment: datetime | None) -> date:
    assert moment
    return moment.date() if moment.timetz() == time(tzinfo=UTC) else moment.date() + DAY


def _refuse_as_told(faults: FaultsInForce) -> None:
    if "not_found" in faults:
        raise AnthropicError(404, "not_found_error", "Not found")
    if "overloaded" in faults:
        raise AnthropicError(529, "overloaded_error", "Overloaded")
    if later := faults.get("retry_later"):
        seconds = (1000 if later.milliseconds is None else later.milliseconds) // 1000
        raise AnthropicError(429, "rate_limit_error", "Too many requests", {"Retry-After": str(seconds)})


def _spoilt_buckets(content: list[dict[str, Any]], faults: FaultsInForce, days: list[date]) -> list[dict[str, Any]]:
    if "empty_pages" in faults:
        return []
    if "bucket_missing" in faults and len(days) > 1:
        content = [bucket for bucket in content if bucket["starting_at"] != _midnight(days[1])]
    if "bucket_twice" in faults and content:
        content = [*content, content[0] | {"results": []}] if content[0]["results"] else content
    if "unaligned_buckets" in faults:
        content = [
            bucket | {name: bucket[name].replace("T00:00", "T06:30") for name in ("starting_at", "ending_at")}
            for bucket in content
        ]
    return content


def _spoilt_rows(rows: list[dict[str, Any]], faults: FaultsInForce) -> list[dict[str, Any]]:
    if "empty_pages" in faults:
        return []
    body = "cost" if rows and "cost" in rows[0] else "usage"
    spoilt = [row | {body: _spoilt_row(row[body], faults)} for row in rows]
    if "unaligned_buckets" in faults:
        return [row | {"starting_at": row["starting_at"].replace("T00:00", "T06:30")} for row in spoilt]
    return spoilt


def _spoilt_row(row: dict[str, Any], faults: FaultsInForce) -> dict[str, Any]:
    if "unknown_fields" in faults:
        row = row | {
            "reasoning_tokens": 12,
            "billing_plan": "scale-2",
            "first_prompt": "Dear Claude, here is my diary of last summer, in full and in confidence.",
            "details": {"more": 1},
        }
        if "cache_creation" in row:
            row["cache_creation"] = row["cache_creation"] | {"ephemeral_24h_input_tokens": 7}
    if "missing_field" in faults:
        row = {name: value for name, value in row.items() if name not in ("output_tokens", "amount")}
    if "amount_as_number" in faults and "amount" in row:
        row = row | {"amount": float(row["amount"]) / 100}
    if "tokens_as_text" in faults and "output_tokens" in row:
        row = row | {"output_tokens": str(row["output_tokens"])}
    return row


def _answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False).encode()
    return Response(status, body, {"Content-Type": "application/json", "request-id": "req_sandbox", **(headers or {})})
