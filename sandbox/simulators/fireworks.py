"""
Fireworks AI's account endpoints: accounts, metered usage, rated lines, costs, and the gauges of deployments.

Its own faults, beside those of :mod:`sandbox.faults`:

======================  ================================================================================================
kind                    what happens
======================  ================================================================================================
bare_throttling         429 without ``Retry-After``
bare_error              errors come as a sentence, without gRPC's code
not_found               404
bad_request             400, as for days that are too old
not_implemented         501
small_pages             at most ``size`` rows on a page (1), whatever the page size
empty_page              a page without rows comes before the others
page_twice              every page comes twice, under tokens of its own
contradicting_page      every page comes twice, the second time with other numbers
cursor_loop             every page names the same next one, for ever
cursor_ping_pong        two pages that name each other as the next one
lost_page               the last page is never named
renamed_list            serverlessCosts is called otherwise
row_twice               every metered row is there twice
contradicting_rows      every metered row is there twice, with other numbers
foreign_day             rows of a day that nobody asked for
odd_day                 days that begin at another hour
unknown_fields          rows have fields that no document names: flat ones, a text, and an object
missing_field           rows lack a required field
odd_number              numbers come as words
parts_differ            cached and uncached tokens do not add up
cached_above_input      more cached tokens than prompt tokens
no_gauges               the gauges are an empty answer
cut_gauges              the gauges break off in a line
======================  ================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from time import monotonic
from typing import Any

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.faults import FaultsInForce
from sandbox.http import Request, Response
from sandbox.truth import days_between
from sandbox.truth.fireworks import (
    ACCOUNTS,
    GAUGES,
    LAB,
    NO_MODEL,
    PRODUCTION,
    PROVIDER,
    RESEARCH,
    Account,
    FireworksTruth,
    Use,
)

OPERATIONS = {
    "billingUsage": ("GET", "usage"),
    "billing/summary": ("GET", "summary"),
    "usageCosts:query": ("POST", "costs"),
    "metrics": ("GET", "metrics"),
}
MOST_DAYS = 31
READINGS_PER_MINUTE = 6
MOST_ACCOUNTS, MOST_COSTS = 200, 1000
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 500: 13, 501: 12, 503: 14}
Row = dict[str, Any]


class Refused(Exception):
    """An error answer in Fireworks' words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def response(self, *, bare: bool = False, **headers: str) -> Response:
        """Return it as an answer of the gRPC gateway, or as the sentence that some clients have seen."""
        content: Row = {"code": CODES[self.status], "message": str(self), "details": []}
        content = {"error": str(self)} if bare else content
        return _json(content, self.status, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True)
class Caller:
    """Who holds a key, and what it may do."""

    accounts: tuple[Account, ...]
    is_administrator: bool = True
    reads_usage: bool = True


def admin_key(account: Account) -> str:
    """Return the key of an administrator; that of production reaches research too."""
    return f"fw_sandbox_admin_{account.account_id}"


def user_key(account: Account) -> str:
    """Return the key of a user who administrates nothing."""
    return f"fw_sandbox_user_{account.account_id}"


def inference_key(account: Account) -> str:
    """Return a key that only calls models."""
    return f"fw_sandbox_inference_{account.account_id}"


KEYS = {
    admin_key(PRODUCTION): Caller((PRODUCTION, RESEARCH)),
    admin_key(LAB): Caller((LAB,)),
    user_key(LAB): Caller((LAB,), is_administrator=False),
    inference_key(LAB): Caller((LAB,), is_administrator=False, reads_usage=False),
}


class FireworksSimulator(Simulator):
    """Fireworks AI."""

    name = PROVIDER
    fault_kinds = {  # noqa: RUF012 - as the frame declares it
        "bare_throttling": "429 without Retry-After",
        "bare_error": "errors are sentences",
        "not_found": "404",
        "bad_request": "400",
        "not_implemented": "501",
        "small_pages": "at most `size` rows on a page (1)",
        "empty_page": "an empty page before the others",
        "page_twice": "every page twice",
        "contradicting_page": "every page twice, with other numbers",
        "cursor_loop": "the same next page, for ever",
        "cursor_ping_pong": "two pages that name each other",
        "lost_page": "the last page is never named",
        "renamed_list": "serverlessCosts is called otherwise",
        "row_twice": "every metered row twice",
        "contradicting_rows": "every metered row twice, with other numbers",
        "foreign_day": "a day that nobody asked for",
        "odd_day": "days begin at another hour",
        "unknown_fields": "rows have unknown fields",
        "missing_field": "rows lack a required field",
        "odd_number": "numbers are words",
        "parts_differ": "cached and uncached do not add up",
        "cached_above_input": "more cached tokens than prompt tokens",
        "no_gauges": "the gauges are an empty answer",
        "cut_gauges": "the gauges break off",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        assert isinstance(truth, FireworksTruth)
        self._truth = truth
        self._readings: dict[str, list[float]] = {}

    def identify(self, request: Request) -> Call:
        """Say who calls, by the path or else the key, and what for."""
        caller = KEYS.get(request.header("authorization").removeprefix("Bearer "))
        slug, _, rest = request.path.removeprefix("/accounts/").partition("/")
        if request.path == "/accounts":
            return Call(PROVIDER, caller.accounts[0].account_id if caller else UNKNOWN, "-", "accounts")
        return Call(PROVIDER, slug if caller else UNKNOWN, "-", OPERATIONS.get(rest, ("", UNKNOWN))[1])

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        try:
            content = self._content(call, request, faults)
        except Refused as refused:
            return refused.response(bare="bare_error" in faults)
        if isinstance(content, str):
            return Response(200, content.encode(), {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
        return _json(content)

    def refuse(self, kind: str, call: Call) -> Response:  # noqa: ARG002
        """Return Fireworks' words for a refusal."""
        if kind == "throttling":
            return Refused(429, "Too many requests").response(Retry_After="1")
        return {
            "access_denied": Refused(403, "caller does not have permission"),
            "internal_error": Refused(500, "internal error"),
            "service_unavailable": Refused(503, "unavailable"),
        }.get(kind, Refused(401, "The API key you provided is invalid.")).response()

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002
        """Whether a fault can be committed: Fireworks AI has no regions to switch on."""
        return kind != "opt_in_region_disabled"

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection to two accounts, and one that names its only account."""
        begins = min(self._truth.world.opened, self._truth.world.clock.today()).isoformat()
        common = {"start_date": begins, "readings_per_run": 1}
        return [
            {
                "connection_id": f"fireworks_{suffix}",
                "conn_type": "ai_usage_fireworks",
                "login": None,
                "host": base_url,
                "password": admin_key(account),
                "extra": common | extra,
                "description": f"AI usage sandbox: {account.name} on the sandbox's Fireworks AI. Not real.",
            }
            for suffix, account, extra in (("default", PRODUCTION, {}), ("lab", LAB, {"accounts": "accounts/acme-lab"}))
        ]

    # ---------------------------------------------------------------- operations

    def _content(self, call: Call, request: Request, faults: FaultsInForce) -> Row | str:
        caller = KEYS.get(request.header("authorization").removeprefix("Bearer "))
        if caller is None:
            raise Refused(401, "The API key you provided is invalid.")
        if not caller.reads_usage and call.operation != "accounts":
            raise Refused(403, "caller does not have permission")
        method = next((verb for verb, name in OPERATIONS.values() if name == call.operation), "GET")
        if call.operation == UNKNOWN or "not_found" in faults:
            raise Refused(404, "Not Found")
        if request.method != method or "not_implemented" in faults:
            raise Refused(501, "Method Not Allowed")
        if "bare_throttling" in faults:
            raise Refused(429, "Too many requests")
        if "bad_request" in faults:
            raise Refused(400, "start_time is too far in the past")
        if call.operation == "accounts":
            return _accounts(caller, request.query, faults)
        # An account that the key does not reach is no error here: it has nothing.
        account = next(
            (one for one in caller.accounts if one.account_id == call.account), Account(call.account, "", ())
        )
        match call.operation:
            case "metrics":
                return self._gauges(account, faults)
            case "costs":
                return self._costs(caller, account, request, faults)
            case "usage":
                return self._usage(account, self._days(request.query), faults)
            case _:
                return self._summary(account, request.query, faults)

    def _days(self, asked: Mapping[str, Any]) -> list[date]:
        try:
            first, end = (datetime.fromisoformat(asked[name]) for name in ("startTime", "endTime"))
        except (KeyError, ValueError):
            raise Refused(400, "start_time and end_time are required") from None
        if not timedelta(0) < end - first <= timedelta(days=MOST_DAYS):
            raise Refused(400, f"the window must be at most {MOST_DAYS} days")
        return list(days_between(first.date(), min((end - timedelta(days=1)).date(), self._truth.world.clock.today())))

    def _usage(self, account: Account, days: Iterable[date], faults: FaultsInForce) -> Row:
        lists: dict[str, list[Row]] = {"serverlessCosts": [], "dedicatedCosts": []}
        lists |= {"trainingCosts": []} if account.is_modern else {}
        for day in days:
            for use, values in self._truth.used(account, "serverless", day):
                lists["serverlessCosts"].append(_times(day, faults) | _serverless(account, use, values))
            for use, values in self._truth.used(account, "dedicated", day):
                lists["dedicatedCosts"].append(_times(day, faults) | _dedicated(account, use, values))
            for use, values in self._truth.used(account, "training", day):
                lists["trainingCosts"].append(_times(day, faults) | _training(use, values))
        answer: Row = {name: _spoilt(rows, faults) for name, rows in lists.items()}
        if "renamed_list" in faults:
            answer["serverlessUsage"] = answer.pop("serverlessCosts")
        return answer

    def _summary(self, account: Account, asked: Mapping[str, Any], faults: FaultsInForce) -> Row:
        days = self._days(asked)
        items = {day: self._items(account, day) for day in days}
        total = [item for day in days for item in items[day]]
        if "missing_field" in faults or "odd_number" in faults:
            bad: Row = {} if "missing_field" in faults else {"totalCost": {"currencyCode": "USD", "units": "many"}}
            items = {day: [_without(item, "totalCost") | bad for item in found] for day, found in items.items()}
            total = [item for found in items.values() for item in found]
        if not account.is_modern or asked.get("granularity") != "DAILY":
            return {"lineItems": total}
        buckets = [_times(day, faults) | {"lineItems": found} for day, found in items.items() if found]
        return {"lineItems": total, "usageBuckets": buckets}

    def _items(self, account: Account, day: date) -> list[Row]:
        items = []
        for use, values in self._truth.used(account, "serverless", day):
            parts = {"LLM input tokens (uncached)": values["prompt"] - values["cached"]}
            parts |= {"LLM input tokens (cached)": values["cached"], "LLM output tokens": values["completion"]}
            for category, quantity in parts.items():
                # A tenth of it is batch.
                for is_batch, share in (("true", quantity // 10), ("false", quantity - quantity // 10)):
                    item = _item(account, category, "model_bucket", use.shown, share, 1000 * share, "SERVERLESS")
                    items.append(item | {"secondaryGroupingKey": "is_batch", "secondaryGroupingValue": is_batch})
        for kind, category, key in (
            ("dedicated", "On-demand deployment", "accelerator_type"),
            ("training", "Fine-tuning", "base_model"),
        ):
            series = "DEDICATED_DEPLOYMENT" if kind == "dedicated" else "TRAINING"
            items += [
                _item(account, category, key, use.shown, values["seconds"], values["cost"], series)
                for use, values in self._truth.used(account, kind, day)
            ]
        return items

    def _costs(self, caller: Caller, account: Account, request: Request, faults: FaultsInForce) -> Row:
        asked = json.loads(request.body)
        if asked.get("scope") != "ACCOUNT" or asked.get("groupBy") != ["DAY", "MODEL"]:
            raise Refused(400, "only costs of the account by day and model are spoken here")
        if not caller.is_administrator:
            raise Refused(403, "scope ACCOUNT requires an account administrator")
        rows = []
        for day in self._days(asked):
            found: dict[str, int] = {}
            for kind in ("serverless", "unattributed"):
                for use, values in self._truth.used(account, kind, day):
                    found[use.model] = found.get(use.model, 0) + values["cost"]
            rows += [_cost(day, model, nanos) for model, nanos in found.items()]
        total = sum(_nanos(row["subtotal"]) for row in rows)
        rows = _spoilt(rows, faults)
        size = min(int(asked.get("pageSize") or 50), MOST_COSTS)
        page = _page(rows, asked.get("pageToken", ""), size, faults)
        return {
            "rows": page[0],
            "nextPageToken": page[1],
            "subtotal": _money(total),
            "attributionCompleteness": "UNKNOWN",
            "evaluationTime": "2026-09-03T02:11:09Z",
        }

    def _gauges(self, account: Account, faults: FaultsInForce) -> str:
        now = monotonic()
        counted = self.frame.requests.count(PROVIDER, account.account_id, operation="metrics")
        recent = [at for at in self._readings.get(account.account_id, []) if now - at < 60]
        # Whoever resets the counter begins anew here, too.
        recent = recent[-(counted - 1) :] if counted > 1 else []
        if len(recent) >= READINGS_PER_MINUTE:
            raise Refused(429, "at most 6 requests a minute")
        self._readings[account.account_id] = [*recent, now]
        if "no_gauges" in faults:
            return ""
        lines = ["# TYPE tokens_prompt_total:sum_by_deployment gauge"]
        for use in account.uses:
            if use.is_live:
                self._truth.read.add((account.account_id, self._truth.world.clock.today()))
                lines += _series(account, use)
        text = "\n".join(lines) + "\n"
        return text[:-20] if "cut_gauges" in faults else text


SIMULATOR = FireworksSimulator


def _accounts(caller: Caller, asked: Mapping[str, str], faults: FaultsInForce) -> Row:
    rows = [
        {"name": f"accounts/{one.account_id}", "displayName": one.name, "state": "READY", "accountType": "ENTERPRISE"}
        for one in caller.accounts
    ]
    size = min(int(asked.get("pageSize", "50")), MOST_ACCOUNTS)
    page, token = _page(rows, asked.get("pageToken", ""), size, faults)
    return {"accounts": page, "nextPageToken": token, "totalSize": len(ACCOUNTS)}


def _page(rows: list[Row], token: str, size: int, faults: FaultsInForce) -> tuple[list[Row], str]:
    """Return a page and the token of the next, as the faults leave them."""
    small = faults.get("small_pages")
    size = (small.size or 1) if small else size
    offset, turn = (int(part) for part in token.split("/")) if token else (0, 0)
    if "empty_page" in faults and not token:
        return [], "0/1"
    page, ahead = rows[offset : offset + size], f"{offset + size}/1"
    has_more = offset + size < len(rows)
    if "lost_page" in faults:
        has_more = offset + 2 * size < len(rows)
    if {"page_twice", "contradicting_page"} & set(faults.content or {}):
        if "contradicting_page" in faults and turn == 2:
            page = [row | {"subtotal": _money(_nanos(row["subtotal"]) + 1)} for row in page]
        ahead, has_more = (f"{offset}/2", True) if turn != 2 else (ahead, has_more)
    if "cursor_loop" in faults:
        return page, "0/7"
    if "cursor_ping_pong" in faults:
        return page, f"0/{5 if turn == 4 else 4}"
    return page, ahead if has_more else ""


def _times(day: date, faults: FaultsInForce) -> Row:
    if "foreign_day" in faults:
        day -= timedelta(days=90)
    hour = "05" if "odd_day" in faults else "00"
    return {"startTime": f"{day}T{hour}:00:00Z", "endTime": f"{day + timedelta(days=1)}T{hour}:00:00Z"}


def _serverless(account: Account, use: Use, values: Mapping[str, int]) -> Row:
    row: Row = {
        "promptTokens": str(values["prompt"]),
        "completionTokens": str(values["completion"]),
        "audioInputSeconds": values["audio"],
        "usageType": use.usage_type,
        "apiKeyId": "",
        "group": {"model_name": use.model},
        "modelName": use.model if account.is_modern else "",
    }
    if account.is_modern:
        row |= {"cachedPromptTokens": str(values["cached"])}
        row |= {"uncachedPromptTokens": str(values["prompt"] - values["cached"]), "costNanoUsd": 0}
    return row


def _dedicated(account: Account, use: Use, values: Mapping[str, int]) -> Row:
    return {
        "deploymentId": use.name,
        "baseModel": use.model,
        "acceleratorType": use.accelerator,
        "acceleratorSeconds": str(values["seconds"]),
        "placement": use.placement,
        "usageType": "DEDICATED_DEPLOYMENT_USAGE",
        "group": {"deployment_name": f"accounts/{account.account_id}/deployments/{use.name}"},
    }


def _training(use: Use, values: Mapping[str, int]) -> Row:
    return {
        "jobId": use.name,
        "jobType": "SFT",
        "baseModel": use.model,
        "acceleratorType": use.accelerator,
        "acceleratorSeconds": str(values["seconds"]),
        "tokens": str(values["seconds"] * 3),
        "annotations": {"team": "Dear diary"},
    }


def _item(account: Account, category: str, key: str, value: str, quantity: int, nanos: int, series: str) -> Row:
    item: Row = {"category": category, "groupingKey": key, "groupingValue": value, "quantity": quantity}
    if quantity % 2:
        item["quantity"] = str(quantity)
    return item | {"totalCost": _money(nanos)} | ({"series": series} if account.is_modern else {})


def _cost(day: date, model: str, nanos: int) -> Row:
    dimensions: Row = {"startTime": f"{day}T00:00:00Z", "user": "", "apiKeyId": ""}
    if model == NO_MODEL:
        dimensions |= {"unknownModel": True, "unattributedDimensions": ["MODEL"]}
    else:
        dimensions |= {"model": model, "unknownModel": False, "unattributedDimensions": []}
    return {"dimensions": dimensions, "subtotal": _money(nanos)}


def _money(nanos: int) -> Row:
    """Return an amount in its two parts, without one that is zero."""
    money: Row = {"currencyCode": "USD"}
    money |= {"units": str(nanos // 10**9)} if nanos >= 10**9 else {}
    return money | ({"nanos": nanos % 10**9} if nanos % 10**9 else {})


def _nanos(money: Row) -> int:
    return int(money.get("units", 0)) * 10**9 + int(money.get("nanos", 0))


def _series(account: Account, use: Use) -> list[str]:
    labels = {
        "base_model": use.model,
        "deployment": f"accounts/{account.account_id}/deployments/{use.name}",
        "deployment_account": account.account_id,
        "deployment_id": use.name,
    }
    text = ",".join(f'{name}="{value}"' for name, value in labels.items())
    rates = {
        "tokens_prompt_total": GAUGES["prompt"],
        "tokens_cached_prompt_total": GAUGES["cached"],
        "request_counter_total": GAUGES["requests"],
    }
    lines = [f"{name}:sum_by_deployment{{{text}}} {rate}" for name, rate in rates.items()]
    lines.append(f'requests_error_total:sum_by_deployment{{{text},http_code="429"}} 0.0333')
    lines += [f'latency_overall_ms_bucket:sum_by_deployment{{{text},le="{le}"}} 1.9' for le in ("1000", "+Inf")]
    return [*lines, f"generator_kv_blocks_fraction:avg_by_deployment{{{text}}} NaN 1788220800000"]


def _spoilt(rows: list[Row], faults: FaultsInForce) -> list[Row]:
    if "unknown_fields" in faults:
        extra: Row = {"reasoningTokens": "17", "cacheRatio": 0.125, "lastPrompt": "Dear diary, today I met somebody."}
        rows = [row | extra | {"details": {"prompt": "Dear diary"}} for row in rows]
    if "missing_field" in faults:
        rows = [_without(row, _measure(row)) for row in rows]
    if "odd_number" in faults:
        bad: Row = {"subtotal": {"currencyCode": "USD", "nanos": 1.5}}
        rows = [row | (bad if "subtotal" in row else {_measure(row): "many"}) for row in rows]
    if "parts_differ" in faults:
        rows = [row | ({"uncachedPromptTokens": "1"} if "uncachedPromptTokens" in row else {}) for row in rows]
    if "cached_above_input" in faults:
        rows = [row | ({"cachedPromptTokens": str(2**60)} if "promptTokens" in row else {}) for row in rows]
    if "row_twice" in faults:
        rows = [*rows, *rows]
    if "contradicting_rows" in faults:
        rows = [*rows, *(row | {_measure(row): "1"} for row in rows)]
    return rows


def _measure(row: Row) -> str:
    return next(name for name in ("promptTokens", "acceleratorSeconds", "subtotal") if name in row)


def _without(row: Row, name: str) -> Row:
    return {known: value for known, value in row.items() if known != name}


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})
