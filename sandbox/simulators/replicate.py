"""
Replicate's lists of predictions and trainings, one run by its id, and whose token it is.

Every run carries content, as real ones do: :data:`CONTENT` stands in its input, output, logs, error, addresses and webhook,
and in the words of every refusal. Whoever finds it anywhere else has found a leak.

Its own faults, beside those of :mod:`sandbox.faults`:

======================  ================================================================================================
kind                    what happens
======================  ================================================================================================
bare_throttling         429 without ``Retry-After``; the sentence says how long
header_throttling       429 with ``ratelimit-reset`` only
not_found               404
bad_request             400, quoting what was sent
unpaid                  402
small_pages             at most ``size`` runs on a page (1)
page_twice              every page comes twice, under cursors of its own
contradicting_page      every page comes twice, the second time with other numbers
boundary_repeats        every page begins with the run that ended the one before
cursor_loop             every page names the same next one, for ever
cursor_ping_pong        two pages that name each other as the next one
cursor_endless          ever new pages with the same runs
cursor_missing          an answer without ``next``
cursor_elsewhere        the next page is on another host
empty_pages             every page is preceded by one without runs
dates_lost              the next page has forgotten which days were asked for
dates_ignored           no page knows which days were asked for
out_of_order            the runs of every page are shuffled
mixed_lists             trainings are listed among the predictions as well
ended_between           the run that ended one page begins the next, and has ended meanwhile
unknown_fields          runs have fields that no document names, numbers and content among them
unknown_status          a status that no document names
missing_field           runs lack their model
odd_number              compute time below zero
odd_name                content stands where a model's name should
======================  ================================================================================================
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import msgspec

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.faults import FaultsInForce
from sandbox.http import Request, Response
from sandbox.truth.replicate import ACCOUNTS, PROVIDER, STUDIO, TINKERER, Account, ReplicateTruth, Run, seconds

CONTENT = "canary-3f9c2e71 tell nobody"
PAGE_RUNS = 100
ELSEWHERE = "https://api.replicate.com.example.org"
KNOWN_PARAMETERS = {"predictions": {"created_after", "created_before", "source", "cursor"}, "trainings": {"cursor"}}
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)")

_encode = msgspec.json.Encoder(decimal_format="number").encode
Row = dict[str, Any]


class Refused(Exception):
    """A refusal in Replicate's words."""

    def __init__(self, status: int, detail: str, title: str | None = None, **headers: str) -> None:
        super().__init__(detail)
        body = {"detail": detail, "status": status} | ({"title": title} if title else {})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = _json(body, status, {"Content-Type": "application/problem+json", **named})


def token(account: Account) -> str:
    """Return the account's token; the tinkerer's is of the old kind."""
    return f"r8_Sandbox{account.account_id}0000" if account is STUDIO else "0123456789abcdef0123456789abcdef01234567"


TOKENS: Mapping[str, Account] = {token(account): account for account in ACCOUNTS}


class ReplicateSimulator(Simulator):
    """Replicate."""

    name = PROVIDER
    fault_kinds = {  # noqa: RUF012 - as the frame declares it
        "bare_throttling": "429 without Retry-After",
        "header_throttling": "429 with ratelimit-reset only",
        "not_found": "404",
        "bad_request": "400",
        "unpaid": "402",
        "small_pages": "at most `size` runs on a page (1)",
        "page_twice": "every page twice",
        "contradicting_page": "every page twice, with other numbers",
        "boundary_repeats": "pages overlap by one run",
        "cursor_loop": "the same next page, for ever",
        "cursor_ping_pong": "two pages that name each other",
        "cursor_endless": "ever new pages with the same runs",
        "cursor_missing": "an answer without next",
        "cursor_elsewhere": "the next page is on another host",
        "empty_pages": "a page without runs before every page",
        "dates_lost": "next without the dates",
        "dates_ignored": "the dates are ignored",
        "out_of_order": "shuffled pages",
        "mixed_lists": "trainings among the predictions, too",
        "ended_between": "a run ends between two pages that both have it",
        "unknown_fields": "runs have unknown fields",
        "unknown_status": "an unknown status",
        "missing_field": "runs lack their model",
        "odd_number": "compute time below zero",
        "odd_name": "content in place of a model's name",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        assert isinstance(truth, ReplicateTruth)
        self._truth = truth

    def identify(self, request: Request) -> Call:
        """Say who calls, by the token, and what for: the first part of the path."""
        account = TOKENS.get(request.header("authorization").removeprefix("Bearer "))
        operation = request.path.removeprefix("/")
        known = operation in ("account", *KNOWN_PARAMETERS)
        return Call(PROVIDER, account.account_id if account else UNKNOWN, "-", operation if known else UNKNOWN)

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        try:
            return _json(self._content(call.operation, request, faults), 200, {"ratelimit-remaining": "2999"})
        except Refused as refused:
            return refused.response

    def refuse(self, kind: str, call: Call) -> Response:  # noqa: ARG002 - every list refuses alike
        """Return Replicate's words for a refusal."""
        if kind == "throttling":
            return Refused(429, "Request was throttled. Expected available in 1 second.", Retry_After="1").response
        if kind in ("internal_error", "service_unavailable"):
            # What a content delivery network says instead of Replicate.
            page = f"<html><title>{CONTENT}</title></html>".encode()
            return Response(500 if kind == "internal_error" else 503, page, {"Content-Type": "text/html"})
        if kind == "access_denied":
            return Refused(403, f"You do not have permission to perform this action on {CONTENT}.").response
        return _unauthenticated().response

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002
        """Whether a fault can be committed: Replicate has no regions."""
        return kind != "opt_in_region_disabled"

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection per account; the tinkerer's says whose it is and what to call it."""
        start = min(self._truth.world.opened, self._truth.world.clock.today()).isoformat()
        settings: dict[str, Row] = {
            STUDIO.account_id: {},
            TINKERER.account_id: {"account_id": TINKERER.account_id.upper(), "account_name": "Tinkering"},
        }
        return [
            {
                "connection_id": f"replicate_{suffix}",
                "conn_type": "ai_usage_replicate",
                "login": None,
                "host": base_url,
                "password": token(account),
                "extra": settings[account.account_id] | {"start_date": start},
                "description": f"AI usage sandbox: {account.name} on the sandbox's Replicate. Not real.",
            }
            for account, suffix in ((STUDIO, "default"), (TINKERER, "tinkerer"))
        ]

    # ---------------------------------------------------------------- operations

    def _content(self, operation: str, request: Request, faults: FaultsInForce) -> Row:
        account = TOKENS.get(request.header("authorization").removeprefix("Bearer "))
        if account is None:
            raise _unauthenticated()
        if operation == UNKNOWN or request.method != "GET" or "not_found" in faults:
            raise Refused(404, "The requested resource could not be found.")
        if "bad_request" in faults:
            raise Refused(400, f"Not a date: {CONTENT}", "Bad request")
        if "unpaid" in faults:
            raise Refused(402, f"You have insufficient credit to run {CONTENT}", "Insufficient credit")
        if "bare_throttling" in faults:
            raise Refused(429, "Request was throttled. Your rate limit resets in ~30s.")
        if "header_throttling" in faults:
            raise Refused(429, "Request was throttled.", ratelimit_reset="7")
        if operation == "account":
            public = {"type": account.kind, "username": account.account_id, "name": account.name}
            return public | {"github_url": "https://github.com/sandbox", "avatar_url": None}
        return self._page(account, operation, request, faults)

    def _page(self, account: Account, kind: str, request: Request, faults: FaultsInForce) -> Row:
        query = parse_qs(urlsplit(request.target).query)
        if unknown := set(query) - KNOWN_PARAMETERS[kind]:
            raise Refused(400, f"Unknown parameters: {', '.join(sorted(unknown))}.")
        asked = dict(parse_qsl(urlsplit(request.target).query))
        after, before = (_instant(asked.get(name)) for name in ("created_after", "created_before"))
        if "dates_ignored" in faults:
            after = before = None
        cursor = _Cursor.read(asked.get("cursor"))
        small = faults.get("small_pages")
        limit = (small.size or 1) if small else PAGE_RUNS
        runs: list[Run] = []
        more = False
        kinds = ("predictions", "trainings") if "mixed_lists" in faults else (kind,)
        for run in self._newest_first(account, kinds, after, before, cursor):
            if len(runs) == limit:
                more = True
                break
            runs.append(run)
        rows = [_row(account, run) for run in runs]
        ahead = cursor.behind(runs) if more else None
        if {"page_twice", "contradicting_page", "empty_pages"} & set(faults.content or {}) and not cursor.turn:
            ahead = cursor.again()
        if "boundary_repeats" in faults or "ended_between" in faults:
            ahead = ahead.one_back() if ahead else None
        if "ended_between" in faults and ahead:
            rows[-1] |= {"status": "processing", "completed_at": None, "metrics": None}
        page = {"next": self._next(request, asked, ahead, cursor, faults), "previous": None}
        if "cursor_missing" in faults:
            del page["next"]
        return page | {"results": _spoilt(rows, cursor, faults)}

    def _newest_first(
        self,
        account: Account,
        kinds: tuple[str, ...],
        after: datetime | None,
        before: datetime | None,
        cursor: _Cursor,
    ) -> Iterator[Run]:
        """Yield the runs behind a cursor, day by day backwards, so that a page costs no more than its days."""
        oldest = max(after.date() if after else date.min, self._truth.oldest_day)
        day = self._truth.world.clock.today()
        for end in (before, cursor.at):
            day = min(day, end.date()) if end else day
        skipped = 0
        while day >= oldest:
            runs = [run for kind in kinds for run in self._truth.runs(account, kind, day)]
            for run in sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True):
                if (before and run.created_at >= before) or (after and run.created_at < after):
                    continue
                if cursor.at and run.created_at > cursor.at:
                    continue
                if run.created_at == cursor.at and skipped < cursor.offset:
                    skipped += 1
                    continue
                yield run
            day -= timedelta(days=1)

    def _next(
        self, request: Request, asked: Mapping[str, str], ahead: _Cursor | None, cursor: _Cursor, faults: FaultsInForce
    ) -> str | None:
        if "cursor_loop" in faults:
            ahead = _Cursor()
        if "cursor_ping_pong" in faults:
            ahead = _Cursor(turn=1 - cursor.turn)
        if "cursor_endless" in faults:
            ahead = _Cursor(turn=cursor.turn + 1)
        if ahead is None:
            return None
        kept = {} if "dates_lost" in faults else {name: text for name, text in asked.items() if name != "cursor"}
        host = ELSEWHERE if "cursor_elsewhere" in faults else f"http://{request.header('host')}"
        return f"{host}{urlsplit(request.target).path}?{urlencode(kept | {'cursor': str(ahead)}, quote_via=quote)}"


SIMULATOR = ReplicateSimulator


class _Cursor:
    """Where a page begins: behind so many runs of an instant; and how often it was sent already."""

    def __init__(self, at: datetime | None = None, offset: int = 0, turn: int = 0) -> None:
        self.at = at
        self.offset = offset
        self.turn = turn

    @classmethod
    def read(cls, text: str | None) -> _Cursor:
        if text is None:
            return cls()
        try:
            parts = dict(parse_qsl(base64.b64decode(text, validate=True).decode()))
            at = datetime.fromisoformat(parts["p"]) if "p" in parts else None
            return cls(at, int(parts.get("o", 0)), int(parts.get("t", 0)))
        except ValueError:
            raise Refused(400, "Invalid cursor") from None

    def __str__(self) -> str:
        parts = {"p": self.at.isoformat()} if self.at else {}
        return base64.b64encode(urlencode(parts | {"o": str(self.offset), "t": str(self.turn)}).encode()).decode()

    def behind(self, runs: list[Run]) -> _Cursor:
        """Return the cursor behind the last of the runs that follow this one."""
        last = runs[-1].created_at
        same = sum(run.created_at == last for run in runs)
        return _Cursor(last, same + (self.offset if self.at == last else 0))

    def again(self) -> _Cursor:
        """Return the same place, for the second time."""
        return _Cursor(self.at, self.offset, self.turn + 1)

    def one_back(self) -> _Cursor:
        """Return the place one run earlier."""
        return _Cursor(self.at, self.offset - 1)


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    if not _INSTANT.fullmatch(text):
        raise Refused(400, f"Not a date: {text}", "Bad request")
    return datetime.fromisoformat(text).astimezone(UTC)


def _unauthenticated() -> Refused:
    return Refused(401, "You did not pass a valid authentication token", "Unauthenticated")


def _row(account: Account, run: Run) -> Row:
    """Return a run as Replicate shows it, with everything in it that must never be kept."""
    metrics: Row = {}
    if run.microseconds is not None:
        computed = seconds(run.microseconds)
        metrics = {"predict_time": computed if account.is_modern else str(computed)}
        metrics["total_time"] = computed + Decimal("0.25")
    if run.input_tokens is not None:
        metrics |= {"input_token_count": run.input_tokens, "output_token_count": run.output_tokens}
        metrics |= {"tokens_per_second": Decimal("22.9"), "time_to_first_token": Decimal("0.41")}
    address = f"https://api.replicate.com/v1/{run.use.kind}/{run.id}"
    row: Row = {
        "id": run.id,
        "model": run.use.model,
        "version": run.use.version,
        "input": {"prompt": CONTENT, "image": f"data:image/png;base64,{CONTENT}", "nested": [{"text": CONTENT}]},
        "output": [CONTENT, {"weights": f"https://replicate.delivery/{CONTENT}"}],
        "logs": f"loading\n{CONTENT}\n",
        "error": CONTENT if run.status == "failed" else None,
        "status": run.status,
        "data_removed": False,
        "created_at": _zulu(run.created_at),
        "started_at": _zulu(run.started_at),
        "completed_at": _zulu(run.completed_at),
        "metrics": metrics,
        "webhook": f"https://hooks.example.org/?q={CONTENT}",
        "webhook_completed": CONTENT,
        "context": {"note": CONTENT},
        "urls": {"get": address, "cancel": f"{address}/cancel", "stream": f"https://stream.replicate.com/{CONTENT}"},
    }
    if run.use.source:
        row["source"] = run.use.source
    if run.use.deployment:
        row["deployment"] = run.use.deployment
    if not account.is_modern:
        # Older answers left out what was not known, and metrics of runs that had none.
        row = {name: value for name, value in row.items() if value is not None and value != {}}
    return row


def _zulu(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None


def _spoilt(rows: list[Row], cursor: _Cursor, faults: FaultsInForce) -> list[Row]:
    if "empty_pages" in faults and not cursor.turn:
        return []
    if "out_of_order" in faults:
        rows = rows[1::2] + rows[0::2]
    if "contradicting_page" in faults and cursor.turn:
        rows = [row | {"metrics": row.get("metrics", {}) | {"predict_time": 77}} for row in rows]
    if "unknown_fields" in faults:
        metrics: Row = {"image_count": 3, "video_seconds": Decimal("5.5"), "label": "word", "is_odd": True}
        extra: Row = {"mood": "sunny", "prompt_preview": CONTENT, CONTENT: CONTENT, "details": {"prompt": CONTENT}}
        metrics |= {"caption": CONTENT, CONTENT: 1, "parts": {"text": CONTENT}}
        rows = [row | extra | {"metrics": (row.get("metrics") or {}) | metrics} for row in rows]
    if "unknown_status" in faults:
        rows = [row | {"status": "evaporated"} for row in rows]
    if "missing_field" in faults:
        rows = [{name: value for name, value in row.items() if name != "model"} for row in rows]
    if "odd_number" in faults:
        rows = [row | {"metrics": {"predict_time": Decimal("-0.5")}} for row in rows]
    if "odd_name" in faults:
        rows = [row | {"model": CONTENT} for row in rows]
    return rows


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, _encode(content), {"Content-Type": "application/json", **(headers or {})})
