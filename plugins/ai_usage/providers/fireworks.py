"""
Fireworks AI: metered usage and rated cost per account, day and model, and what dedicated deployments do right now.

Three streams per account. ``usage`` is what ``billingUsage`` counts (tokens of shared models, accelerator seconds of
dedicated deployments and of training) with those line items of ``billing/summary`` that it takes to price accelerators and,
on servers that do not tell cached prompt tokens yet, to split input. ``costs`` is ``usageCosts:query``: cost per model.
``throughput`` is read from live gauges, several times a run, and holds what today's readings have said so far.

A wrong account answers 200 with nothing, so an account is never believed before ``/v1/accounts`` has named it. Records::

    {"list": "serverlessCosts", "modelName": "accounts/fireworks/models/kimi-k2p6", "promptTokens": 1920441,
     "completionTokens": 388102, "cachedPromptTokens": 1210000, "uncachedPromptTokens": 710441, …}
    {"dimensions": {"startTime": "2026-09-01T00:00:00Z", "model": "accounts/fireworks/models/kimi-k2p6"},
     "subtotal": {"currencyCode": "USD", "units": 1, "nanos": 944275100}}
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Note, Record, Scope, Stream
from ai_usage.core.drift import Drift
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import Limits, Refusal
from ai_usage.core.http_provider import HttpProvider
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._fireworks import (
    COST_FIELDS,
    DAYS_PER_REQUEST,
    SERVERLESS,
    SERVERLESS_ITEMS,
    USAGE_FIELDS,
    Fireworks,
    WindowRefused,
)
from ai_usage.providers._fireworks_gauges import FIELDS, Gathered, rates

ADMINISTRATOR = "account administrator"
CHECKED_DAYS = 30
READINGS_PER_RUN = 9
"""Nearly the ten minutes between two runs, so that hardly a minute of a busy day goes unread."""
MOST_READINGS = 60
BETWEEN_READINGS = timedelta(seconds=60)
"""Fireworks recommends one a minute, and refuses more than six."""
_KEYS = "app.fireworks.ai/settings/users/api-keys"
_NEW_KEY = f"Make an API key at {_KEYS}, best of a service account, and put it into the connection."
_FOREIGN_KEYS: Mapping[str, str] = {
    "sk-ant-": "Anthropic",
    "sk-or-": "OpenRouter",
    "sk-": "OpenAI",
    "gsk_": "Groq",
    "r8_": "Replicate",
}


class FireworksProvider(HttpProvider):
    """
    Fireworks AI through its account endpoints.

    :param now: tells the time; only tests give another.
    :param sleep: how to wait for the next reading; only tests give another.
    """

    name = "fireworks"
    label = "Fireworks AI"
    connection_type = "ai_usage_fireworks"
    base_url = "https://api.fireworks.ai/v1"
    # Published for the gauges only, which keep a slower pace of their own.
    limits = Limits(calls_per_minute=60)
    streams = (
        Stream(
            name="usage",
            summary="one model's, deployment's or training job's day as it was metered, or a rated line of that day",
            grain=("list", "modelName", "deploymentId", "jobId", "category", "groupingValue", "secondaryGroupingValue"),
            fields=USAGE_FIELDS,
            # Fireworks says neither how late numbers come nor until when they change.
            settle=timedelta(days=5),
            lookback_days=5,
            retention_days=None,
            max_window_days=DAYS_PER_REQUEST,
        ),
        Stream(
            name="costs",
            summary="what one model's day was rated at",
            grain=("dimensions",),
            fields=COST_FIELDS,
            settle=timedelta(days=5),
            lookback_days=5,
            retention_days=None,
            max_window_days=DAYS_PER_REQUEST,
        ),
        # The last, because its readings take minutes.
        Stream(
            name="throughput",
            summary="what readings of the gauges have seen of one dedicated deployment's day so far",
            grain=("deployment_id", "base_model"),
            fields=FIELDS,
            settle=timedelta(0),
            lookback_days=0,
            retention_days=1,
            max_window_days=1,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Billing usage": "https://docs.fireworks.ai/api-reference/get-billing-usage",
        "Billing summary": "https://docs.fireworks.ai/api-reference/get-billing-summary",
        "Usage costs": "https://docs.fireworks.ai/api-reference/query-usage-costs",
        "Gauges of deployments": "https://docs.fireworks.ai/deployments/exporting-metrics",
        "Accounts": "https://docs.fireworks.ai/accounts/exporting-usage-and-costs",
    }
    if_empty = (
        "Name the account whose models are called in the connection's accounts; usage of another account "
        "shows as nothing."
    )
    revoke = "Delete the API key in Fireworks' dashboard, and the service account if one was made for this."
    reads = (
        "daily prompt, cached prompt and completion tokens and seconds of audio of shared models",
        "daily accelerator seconds of dedicated deployments and training jobs, by kind of accelerator and placement",
        "daily cost per model, and rated lines of what is not shared, in the currency that Fireworks gives",
        "live rates of prompt tokens, cached prompt tokens and requests of dedicated deployments",
        "names of the accounts that the key reaches",
    )
    never_reads = (
        "prompts, completions, files, datasets and models",
        "API keys themselves, names and e-mail addresses of users, annotations of requests",
        "invoices, payment data and remaining credit",
    )

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._now = now
        self._sleep = sleep
        self._accounts: WeakKeyDictionary[Any, Mapping[str, str | None]] = WeakKeyDictionary()

    # ---------------------------------------------------------------- how to call

    def secret_headers(self, key: str) -> Mapping[str, str]:
        """Return the key as a bearer token; a key that cannot read usage is not even shown to Fireworks."""
        if key.startswith("fpk_"):
            raise ConfigurationInvalid("This is a Fire Pass key: it calls models and reads no usage.", action=_NEW_KEY)
        for prefix, vendor in _FOREIGN_KEYS.items():
            if key.startswith(prefix):
                raise ConfigurationInvalid(f"This is a key of {vendor}, not of Fireworks AI.", action=_NEW_KEY)
        return {"Authorization": f"Bearer {key}"}

    def explain(self, refusal: Refusal) -> UsageError | None:
        """Name what a status means here; the words of refusals are documented nowhere."""
        endpoint = refusal.path.rpartition("accounts/")[2].partition("/")[2] or "accounts"
        if refusal.status == 401:
            return CredentialRejected(
                "Fireworks does not accept the key (HTTP 401): it is mistyped, revoked or expired.", action=_NEW_KEY
            )
        if refusal.status == 403:
            return _forbidden(endpoint)
        if refusal.status == 404:
            return ConfigurationInvalid(
                f"There is nothing at {refusal.path} (HTTP 404).",
                action="Check the connection's address and its accounts.",
            )
        if refusal.status == 400:
            return WindowRefused(
                f"Fireworks refused the question at {endpoint} (HTTP 400).",
                action="If the days are older than Fireworks keeps, set the connection's start_date to a later day; if "
                "not, report this.",
            )
        if refusal.status == 501:
            return ResponseInvalid(
                f"Fireworks knows no such question as {endpoint} (HTTP 501).",
                action="Check the connection's address; if it is right, report this.",
            )
        return None

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the key, every account, and what may be read of each."""
        try:
            _wanted(connection)
            _readings(connection)
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, f"Gauges are read up to {_readings(connection)} times a run.")
        try:
            reached = Fireworks(connection, self._now().date()).accounts()
        except UsageError as error:
            yield Check.failed("key", error)
            yield Check("usage", None, "Not asked, because the key will not do.")
            return
        yield Check("key", True, f"Accepted. It reaches {', '.join(sorted(reached)) or 'no account'}.")
        if not reached:
            yield Check("account", False, "The key reaches no account.", _NEW_KEY, PermissionMissing.kind)
        for slug in _wanted(connection) or sorted(reached):
            yield from self._check_account(connection, slug, reached)

    def _check_account(self, connection: Connection, slug: str, reached: Mapping[str, str | None]) -> Iterator[Check]:
        if slug not in reached:
            yield Check.failed("account", _unreached(slug, reached), slug)
            return
        today = self._now().date()
        fireworks = Fireworks(connection, today)
        window = Window(today - ONE_DAY * (CHECKED_DAYS - 1), today)
        try:
            days = {day for day, _ in fireworks.usage(slug, window)}
        except UsageError as error:
            yield Check.failed("usage", error, slug)
        else:
            yield _found(days, slug)
        for name, ask in (
            ("line items", lambda: fireworks.line_items(slug, Window(today - ONE_DAY, today - ONE_DAY))),
            ("costs", lambda: fireworks.costs(slug, Window(today - ONE_DAY, today - ONE_DAY))),
            ("gauges of deployments", lambda: rates(fireworks.gauges(slug))),
        ):
            try:
                answer = ask()
            except UsageError as error:
                yield Check.failed(name, error, slug)
            else:
                yield Check(
                    name,
                    True,
                    f"Allowed: {len(answer or ())} at present." if "gauges" in name else "Allowed.",
                    scope=slug,
                )

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return the accounts: those the connection names, or else all that the key reaches."""
        reached = self._reached(connection, afresh=True)
        wanted = _wanted(connection) or sorted(reached)
        return [Scope(slug, account_id=slug, account_name=reached.get(slug)) for slug in wanted]

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:
        """Yield the window's records. Nothing is yielded before every answer is in."""
        reached = self._reached(connection)
        if scope.name not in reached:
            raise _unreached(scope.name, reached)
        today = self._now().date()
        if stream.name == "throughput":
            for row in self._gather(connection, stream, scope, window.first):
                yield Record(window.first, row)
            return
        if window.first > today:
            return
        window = Window(window.first, min(window.last, today))
        fireworks = Fireworks(connection, today)
        if stream.name == "costs":
            rows = fireworks.costs(scope.name, window)
        else:
            rows = fireworks.usage(scope.name, window)
            items = fireworks.line_items(scope.name, window)
            # Shared models' own rows tell cached tokens, except on servers of before.
            unsplit = {day for day, row in rows if row["list"] == SERVERLESS and "cachedPromptTokens" not in row}
            rows += [(day, item) for day, item in items if item["list"] != SERVERLESS_ITEMS or day in unsplit]
        for day, row in rows:
            yield Record(day, row)

    # ---------------------------------------------------------------- parts

    def _reached(self, connection: Connection, *, afresh: bool = False) -> Mapping[str, str | None]:
        """Return slug → name of the accounts the key reaches, asked for once per client."""
        if afresh or connection.client not in self._accounts:
            self._accounts[connection.client] = Fireworks(connection, self._now().date()).accounts()
        return self._accounts[connection.client]

    def _gather(self, connection: Connection, stream: Stream, scope: Scope, day: date) -> list[dict[str, Any]]:
        """Read the gauges as often as the connection asks for, while anything runs; return the day's records so far."""
        gathered = Gathered(connection.stored(stream, scope, day))
        drift = Drift("metrics")
        begin, taken, failure = self._now(), 0, None
        for number in range(_readings(connection)):
            wait = (begin + number * BETWEEN_READINGS - self._now()).total_seconds()
            if wait > 0:
                self._sleep(wait)
            if self._now().date() != day:
                break
            try:
                seen = rates(Fireworks(connection, day).gauges(scope.name))
            except (RateLimited, SourceUnavailable, ResponseInvalid) as error:
                # A gap of a minute; the next reading is the next try.
                failure = error
                continue
            read_at = self._now().replace(microsecond=0)
            if seen is not None and read_at.date() == day:
                taken += 1
                gathered.add(read_at, seen, drift)
            if not seen:
                break
        if failure and not taken:
            raise failure
        if failure:
            connection.journal.notes.append(Note("reading_missed", failure.happened, "Nothing: it left a gap."))
        drift.tell(connection.journal)
        return gathered.records()


PROVIDER = FireworksProvider()


def _forbidden(endpoint: str) -> PermissionMissing:
    if endpoint == "usageCosts:query":
        return PermissionMissing(
            "The key may not read the account's costs (HTTP 403): that takes a key of an administrator of the account.",
            permission=ADMINISTRATOR,
            action="Make the key's user or service account an administrator, or put in a key of one.",
        )
    return PermissionMissing(
        f"The key may not read {endpoint} (HTTP 403): it only calls models, or its user has no right to the account.",
        permission=f"read access to {endpoint}",
        action=_NEW_KEY,
    )


def _wanted(connection: Connection) -> list[str]:
    """Return the accounts that the connection names, in their short form."""
    named = (options.text(connection, "accounts") or "").split(",")
    return list(dict.fromkeys(slug for one in named if (slug := one.strip().removeprefix("accounts/"))))


def _readings(connection: Connection) -> int:
    given = connection.options.get("readings_per_run")
    text = str(READINGS_PER_RUN if given in (None, "") else given).strip()
    if not text.isdecimal() or not 1 <= int(text) <= MOST_READINGS:
        raise ConfigurationInvalid(
            f"readings_per_run is {text[:20]!r}, which is no number from 1 to {MOST_READINGS}.",
            action="Correct it in the connection, or leave it out.",
            connection_id=connection.connection_id,
        )
    return int(text)


def _unreached(slug: str, reached: Mapping[str, str | None]) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The key does not reach an account {slug[:60]!r}; it reaches {', '.join(sorted(reached)) or 'none'}.",
        action="Correct the connection's accounts, or put in a key of a user of that account.",
        scope=slug,
    )


def _found(days: set[date], slug: str) -> Check:
    if days:
        return Check("usage", True, f"Usage on {len(days)} of the last {CHECKED_DAYS} days.", scope=slug)
    return Check(
        "usage",
        True,
        f"Warning: nothing was used in the last {CHECKED_DAYS} days.",
        "If this account is used, report it; if another one is, name that one in the connection's accounts.",
        "no_usage",
        slug,
    )
