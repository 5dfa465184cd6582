"""
Replicate: predictions and trainings, one record per run, with the seconds each computed.

Replicate has no usage report and tells no cost. What was used is told by the runs themselves, so the two lists of them are
read and added up in the warehouse. A record is what is kept of one run, in Replicate's own words::

    {"id": "q7k2m9x4c1rmt0cab3d9e8f7g6", "model": "meta/meta-llama-3-70b-instruct", "version": "hidden",
     "status": "succeeded", "source": "api", "created_at": "2026-09-01T23:58:59.123456Z",
     "started_at": "2026-09-01T23:58:59.401230Z", "completed_at": "2026-09-02T00:00:03.900001Z",
     "metrics": {"predict_time": 64.498771, "input_token_count": 812, "output_token_count": 1460}}

The same answers hold inputs, outputs, logs and error texts. They are dropped as each page is read, and never stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Record, Scope, Stream
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    PermissionMissing,
    RateLimited,
    UsageError,
    WrongAccount,
)
from ai_usage.core.http import Limits, Refusal
from ai_usage.core.http_provider import HttpProvider
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._replicate import FIELDS, PAGE, RunList, dates, invalid

PREDICTIONS = "predictions"
TRAININGS = "trainings"
CHECKED_DAYS = 30
_RENEW = "Make a token at replicate.com/account/api-tokens and put it into the connection."
_FOREIGN_KEYS: Mapping[str, str] = {
    "sk-ant-": "Anthropic",
    "sk-or-": "OpenRouter",
    "sk-": "OpenAI",
    "gsk_": "Groq",
    "fw_": "Fireworks",
    "hf_": "Hugging Face",
}
_SECONDS = re.compile(r"(\d{1,5})(?:\.\d+)?\s*s(?:ec|\b)")
_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OTHER_ACCOUNT = "Put a token of that account into the connection, or correct its account_id."


class ReplicateProvider(HttpProvider):
    """
    Replicate through its HTTP API.

    :param today: tells the UTC day; only tests give another.
    """

    name = "replicate"
    label = "Replicate"
    connection_type = "ai_usage_replicate"
    base_url = "https://api.replicate.com/v1"
    # 3000 a minute are allowed, for everything that the account does; less than half of it is for us. A window may hold
    # tens of millions of runs, a hundred to a call.
    limits = Limits(calls_per_minute=1200, max_calls=500_000)
    streams = (
        Stream(
            name=PREDICTIONS,
            summary="one prediction, without what went in and came out",
            grain=("id",),
            fields=FIELDS,
            # A prediction has half an hour to run by default. One that takes longer keeps its day provisional by itself.
            settle=timedelta(days=2),
            lookback_days=2,
            retention_days=None,
            # A call brings a hundred runs however wide the window, so a month costs what its runs cost. A reading that
            # breaks off loses its window, so a year is not one.
            max_window_days=31,
        ),
        Stream(
            name=TRAININGS,
            summary="one training, without what went in and came out",
            grain=("id",),
            fields=FIELDS,
            settle=timedelta(days=2),
            lookback_days=2,
            retention_days=None,
            # They cannot be asked for by date: each window walks the list from its newest end, so let there be one.
            max_window_days=1100,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "HTTP API": "https://replicate.com/docs/reference/http",
        "Life of a prediction": "https://replicate.com/docs/topics/predictions/lifecycle",
        "Data retention": "https://replicate.com/docs/topics/predictions/data-retention",
        "Rate limits": "https://replicate.com/docs/topics/predictions/rate-limits",
        "Billing": "https://replicate.com/docs/topics/billing",
    }
    if_empty = "Use the token of the organization and not your own: each sees only its own runs."
    revoke = "Disable or delete the API token at replicate.com/account/api-tokens."
    reads = (
        "of each prediction and training: id, model, version, deployment, source, status, and when it was created, started "
        "and completed",
        "how many seconds it computed (predict_time), and for official models its tokens and other counts",
        "the name of the user or organization that the token belongs to",
    )
    never_reads = (
        "never kept, although Replicate sends them along: inputs, outputs, logs, error texts, file addresses and webhooks",
        "files, models, deployments and hardware",
        "costs: Replicate has no report of them",
    )

    def __init__(self, *, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self._today = today
        self._accounts: WeakKeyDictionary[Any, Mapping[str, Any]] = WeakKeyDictionary()

    # ---------------------------------------------------------------- how to call

    def secret_headers(self, key: str) -> Mapping[str, str]:
        """Return the token as a bearer token; another vendor's key is not even shown to Replicate."""
        for prefix, vendor in _FOREIGN_KEYS.items():
            if key.startswith(prefix):
                raise ConfigurationInvalid(f"This is a key of {vendor}, not of Replicate.", action=_RENEW)
        return {"Authorization": f"Bearer {key}"}

    def explain(self, refusal: Refusal) -> UsageError | None:
        """Say what a refusal means. Replicate's own words are never repeated: they may quote what somebody sent."""
        if refusal.status == 401:
            return CredentialRejected(
                "Replicate does not accept the token (HTTP 401): it is mistyped, disabled or deleted.",
                action=_RENEW,
            )
        if refusal.status == 402:
            return ConfigurationInvalid(
                "Replicate wants to be paid first (HTTP 402).", action="See replicate.com/account/billing."
            )
        if refusal.status == 403:
            return PermissionMissing(
                f"Replicate does not let the token read {refusal.path} (HTTP 403).",
                permission="API token of the account itself",
                action="Make a token while you are switched to the user or organization whose usage is to be read, at "
                "replicate.com/account/api-tokens, and put it into the connection.",
            )
        if refusal.status == 429 and "Retry-After" not in refusal.headers:
            return RateLimited(
                f"Replicate asked for fewer requests (HTTP 429 from {refusal.path}).",
                action="Nothing to do at once: the next run asks again. Replicate allows less when prepaid credit runs low.",
                retry_after=_wait(refusal),
            )
        return None

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, whose token it is, then that each list can be read."""
        try:
            expected = options.text(connection, "account_id")
            options.text(connection, "account_name")
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, f"Only a token of {expected} will do." if expected else "Any account will do.")
        try:
            account = self._account(connection)
        except UsageError as error:
            yield Check.failed("token", error)
            for name in (PREDICTIONS, TRAININGS):
                yield Check(name, None, "Not asked, because the token will not do.")
            return
        yield Check("token", True, f"It belongs to the {account['type']} {account['username']}.")
        first = self._today() - ONE_DAY * (CHECKED_DAYS - 1)
        for name, params in ((PREDICTIONS, dates(Window(first, self._today()), self._today())), (TRAININGS, {})):
            try:
                page = connection.client.get_json(name, params, expect=PAGE)
                yield _found(name, page)
            except UsageError as error:
                yield Check.failed(name, error)

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return the connection as a whole: a token belongs to one user or one organization, and Replicate says which."""
        account = self._account(connection)
        # The name of a user is a person's; that of an organization is not.
        public_name = account["name"] if account["type"] == "organization" else None
        name = options.text(connection, "account_name") or public_name
        return [Scope(account_id=account["username"], account_name=name)]

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:  # noqa: ARG002
        """Yield the window's runs as the pages come, newest first; whoever stores them waits for the last one."""
        today = self._today()
        if window.first > today:
            return
        params = dates(window, today) if stream.name == PREDICTIONS else {}
        yield from RunList(connection, stream.name, window, today).records(params)

    def _account(self, connection: Connection) -> Mapping[str, Any]:
        """Return whose token it is, asked for once per client; refuse an account that the connection does not mean."""
        expected = options.text(connection, "account_id")
        if connection.client not in self._accounts:
            answer = connection.client.get_json("account", expect=("username",))
            username, kind, name = (answer.get(field) for field in ("username", "type", "name"))
            if not isinstance(username, str) or not _ACCOUNT.fullmatch(username):
                raise invalid("account", "it names nobody")
            self._accounts[connection.client] = {
                "username": username,
                "type": kind if kind in ("user", "organization") else "account",
                "name": name if isinstance(name, str) and name.strip().isprintable() and len(name) <= 200 else None,
            }
        account = self._accounts[connection.client]
        if expected and expected.lower() != account["username"].lower():
            raise WrongAccount(
                f"The token belongs to the {account['type']} {account['username']}, the connection says {expected}.",
                action=_OTHER_ACCOUNT,
                connection_id=connection.connection_id,
            )
        return account


PROVIDER = ReplicateProvider()


def _wait(refusal: Refusal) -> float | None:
    """Return the seconds to wait where ``Retry-After`` is missing: another header has them, or the sentence."""
    header = refusal.headers.get("ratelimit-reset", "").strip()
    if header.isascii() and header.isdecimal() and len(header) <= 5:
        return float(header)
    detail = refusal.body.get("detail") if isinstance(refusal.body, dict) else None
    found = _SECONDS.search(detail) if isinstance(detail, str) else None
    return float(found[1]) if found else None


def _found(name: str, page: Mapping[str, Any]) -> Check:
    """Return what the first page of a list says."""
    if not isinstance(page["results"], list):
        raise invalid(name, "it is not a list")
    found, more = len(page["results"]), " or more" if page["next"] else ""
    period = f" in the last {CHECKED_DAYS} days" if name == PREDICTIONS else ""
    if found or name == TRAININGS:
        return Check(name, True, f"Allowed: {found}{more} {name}{period}.")
    return Check(
        name,
        True,
        f"Warning: no {name}{period}.",
        "If Replicate is used, check that the token is the organization's and not your own: each sees only its own runs.",
        "no_usage",
    )
