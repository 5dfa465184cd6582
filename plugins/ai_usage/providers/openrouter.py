"""
OpenRouter: daily usage and cost per model, upstream provider and workspace, per API key where asked.

Two reports, each for the days that only it can give, so that no day is ever counted from both:

- ``activity``: the last 30 completed UTC days, per model, endpoint and upstream provider. The finest detail, and gone for
  good after 30 days. Today is not in it.
- ``history``: analytics, for days that had left activity's reach before anyone read them. Per model and workspace only.

Reading takes a management key, which can also make and delete keys; it is sent to OpenRouter and nowhere else.

A record of activity is one row as OpenRouter gives it, with the name of its workspace::

    {"model": "openai/gpt-4.1", "model_permaslug": "openai/gpt-4.1-2025-04-14", "endpoint_id": "550e8400-…",
     "provider_name": "OpenAI", "workspace_id": "0df9e665-…", "workspace_name": "Production", "usage": 0.015,
     "byok_usage_inference": 0.012, "requests": 5, "prompt_tokens": 50, "completion_tokens": 125, "reasoning_tokens": 25}

and, where the connection asks for keys, ``by_key``: the same numbers again for each key, under its hash and name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Record, Scope, Stream
from ai_usage.core.drift import Drift
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    SourceUnavailable,
    UsageError,
    WrongAccount,
)
from ai_usage.core.http import Limits, Refusal
from ai_usage.core.http_provider import HttpProvider
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._openrouter import (
    ACTIVITY_COUNTS,
    ACTIVITY_GRAIN,
    ACTIVITY_MONEY,
    ACTIVITY_TEXTS,
    CREDITS_MONEY,
    HISTORY_DIMENSIONS,
    HISTORY_METRICS,
    Dated,
    DayOutOfReach,
    Key,
    OpenRouter,
    QueryTooHeavy,
    Row,
)

ACTIVITY_DAYS = 30
"""How many completed days activity covers."""
HISTORY_DAYS = 365
"""How far back analytics reaches, today included."""
ACTIVITY = "activity"
HISTORY = "history"
CREDITS = "credits"
_DAY = "day "
_WORKSPACE = "workspace "
_NEW_KEY = "Make a management key at openrouter.ai/settings/management-keys and put it into the connection."
_NEXT_RUN = "Nothing to do at once: the next run asks again."

_REFUSALS: Mapping[int, tuple[type[UsageError], str, str]] = {
    400: (
        DayOutOfReach,
        "OpenRouter does not give a day that was asked for: activity has the last 30 completed UTC days.",
        _NEXT_RUN,
    ),
    401: (
        CredentialRejected,
        "OpenRouter does not accept the key (HTTP 401): it is mistyped, disabled, deleted or expired.",
        _NEW_KEY,
    ),
    402: (
        ConfigurationInvalid,
        "OpenRouter wants to be paid first (HTTP 402): the account's credits are below zero.",
        "Buy credits at openrouter.ai/settings/credits.",
    ),
    403: (
        SourceUnavailable,
        "Something in front of OpenRouter refuses the request (HTTP 403 without OpenRouter's own words).",
        "Check the proxy. If there is none, OpenRouter's protection blocks this machine: ask it why.",
    ),
    404: (
        NotEntitled,
        "OpenRouter has no analytics for this account (HTTP 404), so days older than 30 days cannot be read.",
        "Nothing, or set the connection's start_date to a day of the last 30.",
    ),
    408: (QueryTooHeavy, "OpenRouter gave up the query (HTTP 408).", _NEXT_RUN),
}
"""What OpenRouter means by a status, where the status alone says too little."""


class OpenRouterProvider(HttpProvider):
    """
    OpenRouter through its management API.

    :param today: tells the UTC day; only tests give another.
    """

    name = "openrouter"
    label = "OpenRouter"
    connection_type = "ai_usage_openrouter"
    base_url = "https://openrouter.ai/api/v1"
    # Analytics takes 64 questions a minute; what activity and keys take is not documented.
    limits = Limits(calls_per_minute=60)
    streams = (
        Stream(
            name=ACTIVITY,
            summary="one model's day at one endpoint of an upstream provider, in one workspace",
            grain=ACTIVITY_GRAIN,
            fields=frozenset(
                {
                    *ACTIVITY_TEXTS,
                    *ACTIVITY_COUNTS,
                    *ACTIVITY_MONEY,
                    "byok_requests",
                    "workspace_id",
                    "workspace_name",
                    "by_key",
                    "extra_fields",
                }
            ),
            # OpenRouter documents no restatement. A request belongs to the day it began, so long ones come in late.
            settle=timedelta(days=3),
            lookback_days=3,
            # Today, which activity does not give, counts.
            retention_days=ACTIVITY_DAYS + 1,
            max_window_days=ACTIVITY_DAYS,
            newest_days_ago=1,
        ),
        Stream(
            name=HISTORY,
            summary="one model's day in one workspace, from before activity was read",
            grain=HISTORY_DIMENSIONS,
            fields=frozenset({*HISTORY_DIMENSIONS, *HISTORY_METRICS, "workspace_id", "extra_fields"}),
            settle=timedelta(days=3),
            # Days come to history when they leave activity: that is when one that activity never gave must be looked at.
            lookback_days=ACTIVITY_DAYS + 4,
            retention_days=HISTORY_DAYS,
            max_window_days=HISTORY_DAYS,
            newest_days_ago=ACTIVITY_DAYS + 1,
        ),
        Stream(
            name=CREDITS,
            summary="the dollars bought and used over the account's whole life, as they stand today",
            grain=(),
            fields=frozenset({*CREDITS_MONEY, "extra_fields"}),
            # What was told is true of the moment it was told, and nobody tells yesterday's.
            settle=-ONE_DAY,
            lookback_days=0,
            retention_days=1,
            max_window_days=1,
            is_usage=False,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Activity": "https://openrouter.ai/docs/api/api-reference/analytics/get-user-activity",
        "Management keys": "https://openrouter.ai/docs/guides/overview/auth/management-api-keys",
        "Bring your own key": "https://openrouter.ai/docs/guides/overview/auth/byok",
    }
    if_empty = (
        "Make the management key in the account or organization whose keys are used; activity of a day is "
        "told after it has ended."
    )
    revoke = "Delete the management key in OpenRouter's settings: Management keys."
    reads = (
        "daily requests, tokens and charged dollars per model, endpoint, upstream provider and workspace",
        "the estimated upstream cost of requests made with your own provider keys, kept apart from what was charged",
        "the names of workspaces; with per_key, the hashes and names of API keys and the same numbers for each",
        "for days older than 30 days, daily sums per model and workspace",
        "the credits bought and used, as they stand",
    )
    never_reads = (
        "prompts and completions, single requests and their logs",
        "API keys themselves: OpenRouter shows their hashes only",
        "members, users, apps and budgets",
        "invoices and fees for buying credits",
    )

    def __init__(self, *, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self._today = today
        self._workspaces: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()

    # ---------------------------------------------------------------- how to call

    def secret_headers(self, key: str) -> Mapping[str, str]:
        """Return the key as a bearer token. Inference and management keys look alike, so only asking tells them apart."""
        return {"Authorization": f"Bearer {key}"}

    def explain(self, refusal: Refusal) -> UsageError | None:
        """Tell the wrong kind of key from a dead one, and the days and queries that OpenRouter does not answer."""
        words = _words(refusal)
        if refusal.status in (401, 403) and ("management key" in words or "provisioning key" in words):
            return _wrong_kind(refusal.status)
        is_meant = {
            400: "utc days" in words,
            403: not words,
            404: "/analytics/" in refusal.path,
        }
        if refusal.status not in _REFUSALS or not is_meant.get(refusal.status, True):
            return None
        kind, happened, action = _REFUSALS[refusal.status]
        return kind(happened, action=action)

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the kind of key, then each thing that a sync reads."""
        try:
            per_key = options.flag(connection, "per_key")
            router = OpenRouter(connection)
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, f"Numbers per API key: {'yes' if per_key else 'no'}.")
        try:
            yield Check("key", True, _management_key(router.key()))
        except UsageError as error:
            yield Check.failed("key", error)
            for name in ("activity", "workspaces", "history", "credits"):
                yield Check(name, None, "Not asked, because the key will not do.")
            return
        for name, ask in (
            ("activity", self._try_activity),
            ("workspaces", _try_workspaces),
            ("history", _try_history),
            ("credits", _try_credits),
        ):
            try:
                yield Check(name, True, ask(router))
            except UsageError as error:
                yield Check.failed(name, error)

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return the connection as a whole. OpenRouter has no id for an account, so the connection may give one."""
        options.flag(connection, "per_key")
        account_id, account_name = (options.text(connection, name) for name in ("account_id", "account_name"))
        return [Scope(account_id=account_id, account_name=account_name)]

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:
        """Yield the window's rows, by day and place. Nothing is yielded before every answer is complete."""
        router = OpenRouter(connection)
        drift = Drift(stream.name)
        if stream.name == CREDITS:
            rows = self._credits(router, window, drift)
        elif stream.name == ACTIVITY:
            rows = self._activity(connection, router, scope, window, drift)
        else:
            rows = self._history(connection, router, scope, window, drift)
        drift.tell(connection.journal)
        for dated in rows:
            yield Record(*dated)

    # ---------------------------------------------------------------- activity

    def _activity(
        self, connection: Connection, router: OpenRouter, scope: Scope, window: Window, drift: Drift
    ) -> list[Dated]:
        """Return the rows of the completed days of a window. Today's are nobody's business yet."""
        reach = self._reach()
        if window.first < reach.first:
            # An empty answer for such a day would be taken for "nothing used", and replace what is stored.
            raise DayOutOfReach(
                f"{window.first} has left the {ACTIVITY_DAYS} completed days that activity covers.",
                action="Nothing was changed. The next run plans without it; ask for later days by hand.",
                connection_id=connection.connection_id,
            )
        if window.first > reach.last:
            return []
        wanted = Window(window.first, min(window.last, reach.last))
        rows = router.activity(wanted, drift)
        if len(wanted) > 1 and wanted.first == reach.first and all(day != reach.first for day, _ in rows):
            # Clocks differ: on the edge of what OpenRouter remembers, only its word for this very day means "nothing".
            rows = router.activity(Window(reach.first, reach.first), drift) + rows
        if rows:
            names = self._names(connection, router, scope, (row["workspace_id"] for _, row in rows))
            for _, row in rows:
                row["workspace_name"] = names.get(row["workspace_id"] or "")
            if options.flag(connection, "per_key"):
                _split_by_key(router, router.keys(names), wanted, rows)
        days_used = {day for day, _ in rows}
        captured = [day for day in wanted.days if day in days_used or day < reach.last]
        connection.memory.remember(ACTIVITY, scope.name, (_DAY + day.isoformat() for day in captured))
        return rows

    def _reach(self) -> Window:
        """Return the days that activity gives now."""
        today = self._today()
        return Window(today - ONE_DAY * ACTIVITY_DAYS, today - ONE_DAY)

    def _names(
        self, connection: Connection, router: OpenRouter, scope: Scope, ids: Iterable[str | None] = ()
    ) -> Mapping[str, str]:
        """
        Return workspace id → name, asked for once per client; refuse a key that sees nobody we know.

        The API does not say whose key it is. Workspaces tell: an account keeps at least its default one.
        """
        if connection.client not in self._workspaces:
            self._workspaces[connection.client] = router.workspaces()
        names = self._workspaces[connection.client]
        seen = {_WORKSPACE + id_ for id_ in (*names, *ids) if id_}
        known = {name for name in connection.memory.recall(ACTIVITY, scope.name) if name.startswith(_WORKSPACE)}
        if known and seen and known.isdisjoint(seen):
            raise WrongAccount(
                "The key sees none of the workspaces that this connection's history belongs to.",
                action="Restore a key of the same account, or add a new connection for the other one.",
                connection_id=connection.connection_id,
            )
        connection.memory.remember(ACTIVITY, scope.name, seen)
        return names

    # ---------------------------------------------------------------- history

    def _history(
        self, connection: Connection, router: OpenRouter, scope: Scope, window: Window, drift: Drift
    ) -> list[Dated]:
        """
        Return analytics' rows of the days that activity can no longer give and never gave.

        Analytics names workspaces without their ids; where only one workspace has the name, its id is put beside it.
        """
        captured = connection.memory.recall(ACTIVITY, scope.name)
        oldest = self._today() - ONE_DAY * (HISTORY_DAYS - 1)
        wanted = {day for day in window.days if day < self._reach().first and _DAY + day.isoformat() not in captured}
        if not wanted:
            return []
        if min(wanted) < oldest:
            raise DayOutOfReach(
                f"{min(wanted)} has left the {HISTORY_DAYS} days that analytics covers.",
                action="Nothing was changed. The next run plans without it; ask for later days by hand.",
                connection_id=connection.connection_id,
            )
        answer = router.history(Window(min(wanted), max(wanted)), drift)
        rows = [dated for dated in answer if dated.usage_date in wanted]
        if rows:
            names = self._names(connection, router, scope)
            ids = {name: id_ for id_, name in names.items() if list(names.values()).count(name) == 1}
            for _, row in rows:
                row["workspace_id"] = ids.get(row["workspace"] or "")
        return rows

    # ---------------------------------------------------------------- credits

    def _credits(self, router: OpenRouter, window: Window, drift: Drift) -> list[Dated]:
        """Return the credits as they stand. OpenRouter tells them for now only, so no other day gets them."""
        today = self._today()
        if window != Window(today, today):
            raise DayOutOfReach(
                f"OpenRouter tells the credits of today ({today}) only, and {window} was asked for.",
                action=_NEXT_RUN,
            )
        return [Dated(today, router.credits(drift))]

    # ---------------------------------------------------------------- checks

    def _try_activity(self, router: OpenRouter) -> str:
        """Ask for a day that was over long ago, so that no clock and no slow night can make it fail."""
        day = self._today() - 2 * ONE_DAY
        return f"Allowed: {len(router.activity(Window(day, day)))} rows on {day}."


PROVIDER = OpenRouterProvider()


def _words(refusal: Refusal) -> str:
    """Return OpenRouter's own words in lower case, or nothing where somebody else answered."""
    error = refusal.body.get("error") if isinstance(refusal.body, dict) else None
    return str(error.get("message", "")).lower() if isinstance(error, dict) else ""


def _wrong_kind(status: int | None = None) -> PermissionMissing:
    source = f" (HTTP {status})" if status else ""
    return PermissionMissing(
        f"It is an inference key{source}: it calls models, but may not read usage.",
        permission="management key",
        action=_NEW_KEY,
    )


def _management_key(about: Row) -> str:
    """Return what is good about a key; refuse one that is for calling models."""
    is_management = about.get("is_management_key", about.get("is_provisioning_key"))
    if is_management is not True:
        raise _wrong_kind()
    expires_at = about.get("expires_at")
    until = f", valid until {expires_at[:10]}" if isinstance(expires_at, str) else ""
    return f"It is a management key{until}."


def _try_workspaces(router: OpenRouter) -> str:
    return f"Allowed: {len(router.workspaces())} workspaces."


def _try_history(router: OpenRouter) -> str:
    metrics, dimensions = router.metrics()
    missing = sorted({*HISTORY_METRICS} - metrics) + sorted({*HISTORY_DIMENSIONS} - dimensions)
    if missing:
        raise NotEntitled(
            f"Analytics does not offer {', '.join(missing)}, so days older than {ACTIVITY_DAYS} days cannot be read.",
            action="Set the connection's start_date to a day of the last 30, and report this.",
        )
    return f"Allowed: days older than {ACTIVITY_DAYS} days come from analytics."


def _try_credits(router: OpenRouter) -> str:
    credits = router.credits(Drift(CREDITS))
    bought, used = (credits[name] for name in CREDITS_MONEY)
    return f"{bought} USD bought, {used} USD used, {bought - used} USD left."


def _split_by_key(router: OpenRouter, keys: Iterable[Key], window: Window, rows: Iterable[Dated]) -> None:
    """
    Put the share of each key into the rows it belongs to.

    What is left over belongs to keys that were deleted. Shares that are more than the whole mean that the numbers moved
    between two answers.
    """
    places = {_place(dated): dated.row for dated in rows}
    for row in places.values():
        row["by_key"] = []
    for key in keys:
        for dated in router.activity(window, key_hash=key.hash):
            whole = places.get(_place(dated))
            if whole is None:
                raise _moved()
            numbers = {name: dated.row[name] for name in (*ACTIVITY_COUNTS, *ACTIVITY_MONEY)}
            whole["by_key"].append({"api_key_hash": key.hash, "api_key_name": key.name, **numbers})
    for row in places.values():
        if any(sum(share[name] for share in row["by_key"]) > row[name] for name in ACTIVITY_COUNTS):
            raise _moved()


def _place(dated: Dated) -> tuple[Any, ...]:
    return (dated.usage_date, *(dated.row[name] for name in ACTIVITY_GRAIN))


def _moved() -> SourceUnavailable:
    return SourceUnavailable(
        "The numbers of single keys are more than those of all keys: they changed while they were being read.",
        action=_NEXT_RUN,
    )
