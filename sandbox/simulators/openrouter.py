"""
OpenRouter's management API: who am I, credits, workspaces, keys, activity, analytics.

Its own faults, beside those of :mod:`sandbox.faults`:

======================  ================================================================================================
kind                    what happens
======================  ================================================================================================
bare_throttling         429 without ``Retry-After``
wrong_key_as_401        the wrong kind of key is refused with 401 in place of 403
query_timeout           408, as analytics answers to what is too heavy; with ``size``, only for more days than that
truncated_query         analytics answers with fewer rows and says so; with ``size``, only for more days than that
not_found               404
unknown_fields          rows have fields that no documentation names: flat ones, and a text that must not be stored
missing_field           rows lack ``requests`` (``request_count`` in analytics)
odd_number              a count comes as a fraction, money as text
duplicate_rows          every row of activity comes twice
contradicting_rows      a row of activity comes a second time with another number
repeated_page           ``offset`` is ignored: every page is the first
silent_pages            activity answers with half of its rows and a cursor that no documentation names
late_night              yesterday is not completed yet
forgets_early           the oldest of the 30 days is gone already
======================  ================================================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import cycle
from typing import Any

import msgspec

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.faults import FaultsInForce
from sandbox.http import Request, Response
from sandbox.truth.openrouter import ACCOUNTS, ACTIVITY_DAYS, PROVIDER, Account, OpenRouterTruth, Use, dollars, total

OPERATIONS = {
    ("GET", "/key"): "getCurrentKey",
    ("GET", "/credits"): "getCredits",
    ("GET", "/workspaces"): "listWorkspaces",
    ("GET", "/keys"): "listKeys",
    ("GET", "/activity"): "getUserActivity",
    ("GET", "/analytics/meta"): "getAnalyticsMeta",
    ("POST", "/analytics/query"): "queryAnalytics",
}
HISTORY_DAYS = 365
KEYS_PER_PAGE = 100
MOST_ROWS = 10_000
MOST_DIMENSIONS = 2

METRICS = {
    "request_count": "requests",
    "tokens_prompt": "prompt_tokens",
    "tokens_completion": "completion_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "cached_tokens": "cached_tokens",
    "byok_request_count": "byok_requests",
    "credits_usage": "usage",
    "byok_usage": "byok_usage",
    "total_usage": "",
}
"""Name in analytics → name in the truth."""
MONEY = {"usage", "byok_usage"}
DIMENSIONS: Mapping[str, Callable[[Use], str]] = {
    "model": lambda use: use.route.name_in_analytics,
    "workspace": lambda use: use.key.workspace.id,
    "api_key_id": lambda use: use.key.hash,
    "variant": lambda use: use.route.slug.partition(":")[2],
}

_encode = msgspec.json.Encoder(decimal_format="number").encode
_MIDNIGHT = re.compile(r"(\d{4}-\d\d-\d\d)T00:00:00Z")


class Refused(Exception):
    """An error answer in OpenRouter's words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def response(self, **headers: str) -> Response:
        """Return it as an answer."""
        content = {"error": {"code": self.status, "message": str(self)}}
        return _json(content, self.status, {name.replace("_", "-"): value for name, value in headers.items()})


def management_key(account: Account) -> str:
    """Return the account's management key."""
    return f"sk-or-v1-sandbox-management-{account.account_id}"


def inference_key(account: Account) -> str:
    """Return a key of the account that is for calling models."""
    return f"sk-or-v1-sandbox-inference-{account.account_id}"


@dataclass(frozen=True)
class Caller:
    """Who holds the key."""

    account: Account
    manages: bool


CALLERS = {management_key(account): Caller(account, True) for account in ACCOUNTS} | {
    inference_key(account): Caller(account, False) for account in ACCOUNTS
}
_WRONG_KIND = {
    "getUserActivity": Refused(403, "Only management keys can fetch activity for an account"),
}
_ANY_WRONG_KIND = Refused(403, "Only management keys can perform this operation")


class OpenRouterSimulator(Simulator):
    """OpenRouter."""

    name = PROVIDER
    fault_kinds = {  # noqa: RUF012 - as the frame declares it
        "bare_throttling": "429 without Retry-After",
        "wrong_key_as_401": "the wrong kind of key is refused with 401",
        "query_timeout": "408 from analytics",
        "truncated_query": "analytics cuts its answer and says so",
        "not_found": "404",
        "unknown_fields": "rows have unknown fields",
        "missing_field": "rows lack a required field",
        "odd_number": "numbers of the wrong kind",
        "duplicate_rows": "every row twice",
        "contradicting_rows": "a row twice, with two numbers",
        "repeated_page": "offset is ignored",
        "silent_pages": "half of the rows and an undocumented cursor",
        "late_night": "yesterday is not completed yet",
        "forgets_early": "the oldest day is gone",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        assert isinstance(truth, OpenRouterTruth)
        self._truth = truth

    def identify(self, request: Request) -> Call:
        """Say who calls, by the key, and what for."""
        operation = OPERATIONS.get((request.method, request.path), UNKNOWN)
        caller = _caller(request)
        refusal: Refused | None = None
        if not request.header("authorization"):
            refusal = Refused(401, "Missing Authentication header")
        elif caller is None:
            refusal = Refused(401, "User not found.")
        elif not caller.manages and operation != "getCurrentKey":
            refusal = _WRONG_KIND.get(operation, _ANY_WRONG_KIND)
        account = caller.account.account_id if caller else UNKNOWN
        return Call(PROVIDER, account, "-", operation, refusal.response() if refusal else None)

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        caller = _caller(request)
        assert caller is not None
        try:
            _commit(faults)
            return _json(self._content(call.operation, caller, request, faults))
        except Refused as refused:
            return refused.response()

    def refuse(self, kind: str, call: Call) -> Response:
        """Return OpenRouter's words for a refusal."""
        if kind == "throttling":
            limits = {"X_RateLimit_Limit": "64", "X_RateLimit_Remaining": "0"}
            return Refused(429, "Rate limit exceeded").response(Retry_After="1", **limits)
        return {
            "access_denied": _WRONG_KIND.get(call.operation, _ANY_WRONG_KIND),
            "internal_error": Refused(500, "Internal Server Error"),
            "service_unavailable": Refused(503, "Service Unavailable"),
        }.get(kind, Refused(401, "User not found.")).response()

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002
        """Whether a fault can be committed: OpenRouter has no regions."""
        return kind != "opt_in_region_disabled"

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection per account."""
        return [
            {
                "connection_id": f"openrouter_{suffix}",
                "conn_type": "ai_usage_openrouter",
                "login": None,
                "host": base_url,
                "password": management_key(account),
                "extra": {
                    "account_id": account.account_id,
                    "account_name": account.name,
                    "per_key": account.by_key,
                    "start_date": min(self._truth.world.opened, self._truth.world.clock.today()).isoformat(),
                },
                "description": f"AI usage sandbox: {account.name} on the sandbox's OpenRouter. Not real.",
            }
            for account, suffix in zip(ACCOUNTS, ("default", "personal"), strict=True)
        ]

    # ---------------------------------------------------------------- operations

    def _content(self, operation: str, caller: Caller, request: Request, faults: FaultsInForce) -> Any:
        account, query = caller.account, request.query
        match operation:
            case "getCurrentKey":
                return {"data": _about_key(caller)}
            case "getCredits":
                return {"data": self._truth.credits(account)}
            case "listWorkspaces":
                return _workspaces(account, query, faults)
            case "listKeys":
                return {"data": _keys(account, query, faults)}
            case "getUserActivity":
                return self._activity(account, query, faults)
            case "getAnalyticsMeta":
                return {"data": _meta()}
            case "queryAnalytics":
                return {"data": self._query(account, _object(request.body), faults)}
            case _:
                raise Refused(404, "Resource not found")

    def _used(self, account: Account, today: date, days_ago: int) -> Iterable[tuple[Use, dict[str, int]]]:
        return self._truth.used(account, today - timedelta(days=days_ago))

    def _activity(self, account: Account, query: Mapping[str, str], faults: FaultsInForce) -> dict[str, Any]:
        if unknown := set(query) - {"date", "api_key_hash", "user_id", "workspace_id", "group_by"}:
            raise Refused(400, f"Invalid request parameters: {', '.join(sorted(unknown))}")
        if query.get("group_by", "workspace") != "workspace":
            raise Refused(400, "Invalid request parameters")
        if query.get("workspace_id") and query["workspace_id"] not in {one.id for one in account.workspaces}:
            raise Refused(404, "Resource not found")
        rows = [row for day in self._days(query.get("date"), faults) for row in self._day(account, day, query)]
        if "date" not in query:
            # The order is not documented, so nobody may rely on one.
            rows.reverse()
        rows = _spoilt(rows, "requests", "usage", faults)
        if "duplicate_rows" in faults:
            rows = [row for row in rows for _ in range(2)]
        if "contradicting_rows" in faults and rows:
            rows.append(rows[0] | {"requests": rows[0]["requests"] + 1})
        if "silent_pages" in faults:
            return {"data": rows[: len(rows) // 2], "next_cursor": "b2Zmc2V0"}
        return {"data": rows}

    def _days(self, asked: str | None, faults: FaultsInForce) -> list[date]:
        """Return the days to answer for; refuse one that is not among the last completed ones."""
        today = self._truth.world.clock.today()
        oldest = ACTIVITY_DAYS - ("forgets_early" in faults)
        youngest = 1 + ("late_night" in faults)
        days = [today - timedelta(days=n) for n in range(oldest, youngest - 1, -1)]
        if asked is None:
            return days
        if asked not in {day.isoformat() for day in days}:
            raise Refused(400, "Date must be within the last 30 (completed) UTC days")
        return [date.fromisoformat(asked)]

    def _day(self, account: Account, day: date, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the rows of one day: by endpoint, and by workspace if that is asked for."""
        splits = query.get("group_by") == "workspace"
        groups: dict[tuple[str, str], list[tuple[Use, Mapping[str, int]]]] = {}
        for use, values in self._truth.used(account, day):
            workspace = use.key.workspace.id
            if query.get("api_key_hash", use.key.hash) == use.key.hash and (
                query.get("workspace_id", workspace) == workspace
            ):
                groups.setdefault((use.route.endpoint_id, workspace if splits else ""), []).append((use, values))
        suffixes = cycle(("", " 00:00:00"))
        return [
            _activity_row(day, next(suffixes), found[0][0], total(values for _, values in found), workspace)
            for (_, workspace), found in groups.items()
        ]

    def _query(self, account: Account, question: Mapping[str, Any], faults: FaultsInForce) -> dict[str, Any]:
        metrics, dimensions = question.get("metrics") or [], question.get("dimensions") or []
        if (
            not metrics
            or set(metrics) - METRICS.keys()
            or set(dimensions) - DIMENSIONS.keys()
            or len(dimensions) > MOST_DIMENSIONS
            or question.get("granularity") != "day"
            or not 1 <= question.get("limit", 1000) <= MOST_ROWS
        ):
            raise Refused(400, "Invalid request parameters")
        days = self._range(question.get("time_range") or {})
        too_many = len(days) > (_size(faults, "query_timeout") if "query_timeout" in faults else len(days))
        if too_many:
            raise Refused(408, "Operation timed out. Please try again later.")
        rows = [row for day in days for row in self._analytics_day(account, day, metrics, dimensions)]
        limit = min(question.get("limit", 1000), len(rows))
        if "truncated_query" in faults and len(days) > _size(faults, "truncated_query"):
            limit = len(rows) // 2
        rows = _spoilt(rows, "request_count", "credits_usage", faults)
        metadata = {"query_time_ms": 37, "row_count": limit, "truncated": limit < len(rows)}
        return {"data": rows[:limit], "metadata": metadata, "cachedAt": 1788310000000, "warnings": []}

    def _range(self, asked: Mapping[str, str]) -> list[date]:
        found = [_MIDNIGHT.fullmatch(asked.get(name, "")) for name in ("start", "end")]
        if not all(found):
            raise Refused(400, "Invalid request parameters")
        start, end = (date.fromisoformat(one[1]) for one in found if one)
        today = self._truth.world.clock.today()
        if not today - timedelta(days=HISTORY_DAYS) < start < end:
            raise Refused(400, "Invalid request parameters")
        days = (start + timedelta(days=n) for n in range((end - start).days))
        return [day for day in days if day <= today]

    def _analytics_day(
        self, account: Account, day: date, metrics: list[str], dimensions: list[str]
    ) -> list[dict[str, Any]]:
        names = {one.id: one.name for one in account.workspaces} | {one.hash: one.name for one in account.keys}
        groups: dict[tuple[str, ...], list[Mapping[str, int]]] = {}
        for use, values in self._truth.used(account, day):
            groups.setdefault(tuple(DIMENSIONS[name](use) for name in dimensions), []).append(values)
        # Which of the two depends on where the answer comes from.
        time_key, value = ("date__day", day.isoformat())
        if day.day % 2:
            time_key, value = "created_at__day", f"{datetime(day.year, day.month, day.day):%Y-%m-%dT%H:%M:%S}.000Z"
        return [
            {time_key: value}
            | {name: names.get(part, part) for name, part in zip(dimensions, place, strict=True)}
            | _metrics(total(parts), metrics)
            for place, parts in groups.items()
        ]


SIMULATOR = OpenRouterSimulator


def _caller(request: Request) -> Caller | None:
    return CALLERS.get(request.header("authorization").removeprefix("Bearer "))


def _commit(faults: FaultsInForce) -> None:
    """Refuse where a fault says so."""
    if "bare_throttling" in faults:
        raise Refused(429, "Rate limit exceeded")
    if "wrong_key_as_401" in faults:
        raise Refused(401, "Only management keys can perform this operation")
    if "not_found" in faults:
        raise Refused(404, "Resource not found")


def _size(faults: FaultsInForce, kind: str) -> int:
    fault = faults.get(kind)
    return fault.size or 0 if fault else 0


def _about_key(caller: Caller) -> dict[str, Any]:
    periods = {
        f"{kind}{period}": 0 for kind in ("usage", "byok_usage") for period in ("", "_daily", "_weekly", "_monthly")
    }
    return {
        "label": "sk-or-v1-san...box",
        "limit": None,
        "limit_remaining": None,
        "limit_reset": None,
        "include_byok_in_limit": False,
        **periods,
        "is_free_tier": False,
        "is_management_key": caller.manages,
        "is_provisioning_key": caller.manages,
        "creator_user_id": "user_sandbox",
        "expires_at": None,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "deprecated"},
    }


def _workspaces(account: Account, query: Mapping[str, str], faults: FaultsInForce) -> dict[str, Any]:
    offset, limit = _offset(query, faults), int(query.get("limit", "50"))
    if not 1 <= limit <= 100:
        raise Refused(400, "Invalid request parameters")
    rows = [
        {
            "id": one.id,
            "name": one.name,
            "slug": one.name.lower(),
            "description": None,
            "created_by": "user_sandbox",
            "created_at": "2026-01-01T09:00:00Z",
            "updated_at": None,
        }
        for one in account.workspaces
    ]
    page = _page(rows, offset, limit, faults)
    return {"data": page, "total_count": 1000 if "repeated_page" in faults else len(rows)}


def _keys(account: Account, query: Mapping[str, str], faults: FaultsInForce) -> list[dict[str, Any]]:
    workspace = query.get("workspace_id", account.workspaces[0].id)
    if workspace not in {one.id for one in account.workspaces}:
        raise Refused(404, "Resource not found")
    with_disabled = query.get("include_disabled") == "true"
    rows = [
        {
            "hash": key.hash,
            "name": key.name,
            "label": "sk-or-v1-san...key",
            "disabled": key.disabled,
            "limit": None,
            "limit_remaining": None,
            "limit_reset": None,
            "include_byok_in_limit": False,
            "usage": 11.8,
            "byok_usage": 0,
            "created_at": "2026-01-02T09:00:00Z",
            "updated_at": None,
            "expires_at": None,
            "creator_user_id": "user_sandbox",
            "workspace_id": key.workspace.id,
        }
        for key in account.keys
        if key.workspace.id == workspace and not key.deleted and (with_disabled or not key.disabled)
    ]
    return _page(rows, _offset(query, faults), KEYS_PER_PAGE, faults)


def _page(rows: list[dict[str, Any]], offset: int, limit: int, faults: FaultsInForce) -> list[dict[str, Any]]:
    if "repeated_page" in faults and rows:
        # A page that looks full, and is the same every time.
        name = "hash" if "hash" in rows[0] else "id"
        return [rows[0] | {name: f"{rows[0][name]}-{n}"} for n in range(limit)]
    return rows[offset : offset + limit]


def _offset(query: Mapping[str, str], faults: FaultsInForce) -> int:
    text = query.get("offset", "0")
    if not text.isdecimal():
        raise Refused(400, "Invalid request parameters")
    return 0 if "repeated_page" in faults else int(text)


def _meta() -> dict[str, Any]:
    return {
        "metrics": [
            {"name": name, "display_label": name, "display_format": "number", "is_rate": False} for name in METRICS
        ],
        "dimensions": [{"name": name, "display_label": name} for name in DIMENSIONS],
        "granularities": [{"name": "day", "display_label": "Day"}],
        "operators": [{"name": "eq", "value_type": "scalar"}],
    }


def _activity_row(day: date, suffix: str, use: Use, values: Mapping[str, int], workspace: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "date": f"{day}{suffix}",
        "model": use.route.slug,
        "model_permaslug": use.route.permaslug,
        "endpoint_id": use.route.endpoint_id,
        "provider_name": use.route.provider,
        "usage": dollars(values["usage"]),
        "byok_usage_inference": dollars(values["byok_usage"]),
        "requests": values["requests"],
        "prompt_tokens": values["prompt_tokens"],
        "completion_tokens": values["completion_tokens"],
        "reasoning_tokens": values["reasoning_tokens"],
    }
    if values["byok_requests"]:
        row["byok_requests"] = values["byok_requests"]
    return row | ({"workspace_id": workspace} if workspace else {})


def _metrics(values: Mapping[str, int], metrics: list[str]) -> dict[str, Any]:
    """Return counts as text and money as numbers, which is nothing where none was spent."""
    row: dict[str, Any] = {}
    for name in metrics:
        if name == "total_usage":
            row[name] = dollars(values["usage"] + values["byok_usage"])
        elif METRICS[name] in MONEY:
            row[name] = dollars(values[METRICS[name]]) if values[METRICS[name]] else None
        else:
            row[name] = str(values[METRICS[name]])
    return row


def _spoilt(rows: list[dict[str, Any]], count: str, money: str, faults: FaultsInForce) -> list[dict[str, Any]]:
    if "unknown_fields" in faults:
        extra = {"cached_tokens_v2": 17, "region_tag": "eu-west", "last_prompt": "Dear diary, today I met somebody."}
        rows = [row | extra for row in rows]
    if "missing_field" in faults:
        rows = [{name: value for name, value in row.items() if name != count} for row in rows]
    if "odd_number" in faults:
        rows = [row | {count: 1.5, money: "a lot"} for row in rows]
    return rows


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Refused(400, "Invalid request parameters")
    return content


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, _encode(content), {"Content-Type": "application/json", **(headers or {})})
