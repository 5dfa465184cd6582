"""
Anthropic: daily tokens per workspace, API key, model, tier and geography, and daily billed cost, of an organisation.

Two generations of reports say the same things. The classic ones (``usage_report/messages`` and ``cost_report``) are read
unless the connection's option ``reports`` says otherwise; the analytics ones are newer and in beta, and count requests.
Both land in the same streams, one slice from one generation, so that nothing is ever counted from both.

A record of usage is one row of a day under Anthropic's own names; of an analytics row, ``group`` and ``usage`` in one::

    {"report": "classic", "workspace_id": "wrkspc_01…", "workspace_name": "Search", "api_key_id": "apikey_01…",
     "model": "claude-sonnet-5", "service_tier": "standard", "context_window": "0-200k", "inference_geo": "global",
     "uncached_input_tokens": 48210, "cache_read_input_tokens": 120880, "output_tokens": 15320,
     "cache_creation": {"ephemeral_5m_input_tokens": 6144, "ephemeral_1h_input_tokens": 0},
     "server_tool_use": {"web_search_requests": 3}}

A record of cost is one line of a day. ``amount`` is the text Anthropic sent, in cents: "14.463000" is 0.14463 dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, TypeGuard
from weakref import WeakKeyDictionary

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Note, Record, Scope, Stream
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    ResponseInvalid,
    UsageError,
    WrongAccount,
)
from ai_usage.core.http import Limits, Refusal
from ai_usage.core.http_provider import HttpProvider
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._anthropic import (
    ANALYTICS_COST,
    ANALYTICS_USAGE,
    BUCKETS_PER_PAGE,
    COST,
    MESSAGES_USAGE,
    Reader,
    Report,
)

VERSION = "2023-06-01"
ANALYTICS_BETA = "analytics-usage-cost-2026-08-24"

USAGE_STREAM = "usage"
COST_STREAM = "costs"
REPORTS: Mapping[str, Mapping[str, Report]] = {
    "classic": {USAGE_STREAM: MESSAGES_USAGE, COST_STREAM: COST},
    "analytics": {USAGE_STREAM: ANALYTICS_USAGE, COST_STREAM: ANALYTICS_COST},
}
"""What the option ``reports`` may say, and which report then fills which stream."""

READABLE_DAYS = 365
"""How far back the analytics reports reach, today included; the classic ones say nothing, and are asked for no more."""
ANALYTICS_BEGIN = date(2026, 1, 1)

_DIMENSIONS = ("workspace_id", "api_key_id", "model", "service_tier", "context_window", "inference_geo")
_ABOUT_THE_KEY = (
    "Make an Admin API key (sk-ant-admin01-…) in the Claude Console under Settings, Admin keys, as a member with the admin "
    "role. Keys for inference or for one workspace are not accepted."
)


class Anthropic(HttpProvider):
    """
    Anthropic through the usage and cost reports of its Admin API.

    :param today: tells the UTC day; only tests give another.
    """

    name = "anthropic"
    label = "Anthropic"
    connection_type = "ai_usage_anthropic"
    base_url = "https://api.anthropic.com"
    # The limit is the organisation's and not published; refusals come without a Retry-After. Bursts for paging are fine.
    limits = Limits(attempts=10)
    streams = (
        Stream(
            name=USAGE_STREAM,
            summary="tokens of one combination of workspace, API key, model, tier, window and geography on one day",
            grain=_DIMENSIONS,
            fields=frozenset(
                {
                    *_DIMENSIONS,
                    "report",
                    "workspace_name",
                    "account_id",
                    "service_account_id",
                    "speed",
                    "uncached_input_tokens",
                    "cache_creation",
                    "cache_read_input_tokens",
                    "output_tokens",
                    "server_tool_use",
                    "requests",
                    "total_tokens",
                    "extra_fields",
                }
            ),
            # Figures come within minutes, sometimes later; Anthropic documents no restatement.
            settle=timedelta(days=3),
            lookback_days=3,
            retention_days=READABLE_DAYS,
            max_window_days=BUCKETS_PER_PAGE,
        ),
        Stream(
            name=COST_STREAM,
            summary="one line of an organisation's billed cost on one day, in cents",
            grain=(
                "workspace_id",
                "api_key_id",
                "description",
                "cost_type",
                "token_type",
                *_DIMENSIONS[2:],
                "currency",
            ),
            fields=frozenset(
                {
                    *_DIMENSIONS,
                    "report",
                    "workspace_name",
                    "amount",
                    "list_amount",
                    "currency",
                    "description",
                    "cost_type",
                    "token_type",
                    "speed",
                    "requests",
                    "extra_fields",
                }
            ),
            # Those who reconcile with invoices read a week again.
            settle=timedelta(days=7),
            lookback_days=7,
            retention_days=READABLE_DAYS,
            max_window_days=BUCKETS_PER_PAGE,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Usage and Cost API": "https://platform.claude.com/docs/en/manage-claude/usage-cost-api",
        "Usage and cost analytics": "https://platform.claude.com/docs/en/manage-claude/usage-cost-analytics-api",
        "Admin API keys": "https://platform.claude.com/docs/en/manage-claude/admin-api-keys",
    }
    if_empty = (
        "Make the Admin API key in the organisation whose workspaces call the API; Claude apps and other "
        "clouds have reports of their own."
    )
    revoke = "Delete the Admin key in the Claude Console: Settings, Admin keys."
    reads = (
        "tokens and web searches per day, workspace, API key, model, service tier, context window and geography",
        "billed cost per day, workspace and line item",
        "the organisation's id and name, and the ids and names of its workspaces",
    )
    never_reads = (
        "prompts, completions and files",
        "API keys themselves, members, e-mail addresses and invitations",
        "invoices, credits and payment data",
        "Claude Code activity: its tokens are in the usage report already",
    )

    def __init__(self, *, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self._today = today
        self._organizations: WeakKeyDictionary[Any, tuple[str, str | None]] = WeakKeyDictionary()
        self._workspaces: WeakKeyDictionary[Any, Mapping[str, str]] = WeakKeyDictionary()

    # ---------------------------------------------------------------- how to ask

    def headers(self, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the version, and the beta flag where the analytics reports are read."""
        headers = {"anthropic-version": VERSION, "User-Agent": "ai-usage-elt/0.1"}
        return (
            headers if options.get("reports") in (None, "", "classic") else headers | {"anthropic-beta": ANALYTICS_BETA}
        )

    def secret_headers(self, key: str) -> Mapping[str, str]:
        """Return the header that carries the key; an OAuth token is written with ``Bearer`` before it."""
        if key.startswith("Bearer "):
            return {"Authorization": key}
        if key.startswith("sk-") and not key.startswith("sk-ant-"):
            raise ConfigurationInvalid("The key is not one of Anthropic's.", action=_ABOUT_THE_KEY)
        return {"x-api-key": key}

    def explain(self, refusal: Refusal) -> UsageError | None:
        """Return what a refusal means, in terms of kinds of keys and organisations."""
        code, message = _words_of(refusal.body)
        if refusal.status == 401:
            return CredentialRejected(
                "Anthropic does not accept the key (HTTP 401): it is of the wrong kind, mistyped, revoked or expired.",
                action=_ABOUT_THE_KEY,
            )
        if code == "organization_type_not_supported":
            return NotEntitled(
                f"Anthropic does not offer {refusal.path} to this type of organisation.",
                action="Leave the source out; or set reports to analytics for a Claude Enterprise organisation.",
            )
        if refusal.status == 403:
            return _forbidden(refusal.path)
        if refusal.status == 404:
            return ConfigurationInvalid(
                f"There is nothing at {refusal.path} (HTTP 404).",
                action="Check the connection's address. If it is right, the organisation does not have this report: set "
                "reports in the connection to classic, or leave the source out.",
            )
        if refusal.status == 400:
            return ResponseInvalid(
                f"Anthropic refuses the question at {refusal.path} (HTTP 400): {message}",
                action="If it names days, set start_date in the connection to a later day; otherwise report this.",
            )
        return None

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the key and its organisation, then each report with one call."""
        reports = [f"the {report.name}" for report in REPORTS["classic"].values()]
        try:
            chosen = _reports(connection)
            self._refuse_days_before_analytics(connection, chosen)
            reports = [f"the {report.name}" for report in chosen.values()]
            expected = options.text(connection, "account_id")
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, f"Reports to read: {', '.join(reports)}.")
        try:
            organization, label = self._organization(connection)
        except UsageError as error:
            yield Check.failed("key", error)
            yield from (Check(name, None, "Not asked, because the key was not accepted.") for name in reports)
            return
        yield Check("key", True, f"The key belongs to the organisation {label or organization} ({organization}).")
        if expected:
            yield Check("organisation", True, "It is the organisation that the connection names.")
        yield self._check_names(connection)
        yesterday = self._today() - ONE_DAY
        week = Window(yesterday - 6 * ONE_DAY, yesterday)
        for report in chosen.values():
            yield self._check_report(connection, report, week)

    def _check_names(self, connection: Connection) -> Check:
        try:
            names = self._names(connection)
        except UsageError as error:
            return Check.failed("workspace names", error)
        if names is None:
            return Check("workspace names", True, "Warning: the key may not list workspaces; their ids stand alone.")
        return Check("workspace names", True, f"{len(names)} workspaces are listed.")

    def _check_report(self, connection: Connection, report: Report, week: Window) -> Check:
        """Ask for one week, which is one call, and tell what is there."""
        name = f"the {report.name}"
        try:
            found = sum(1 for _ in self._reader(connection).records(report, week, {}))
        except UsageError as error:
            return Check.failed(name, error)
        if found:
            return Check(name, True, f"Allowed; {found} rows in the last seven days.")
        return Check(
            name,
            True,
            "Allowed. Warning: it is empty for the last seven days.",
            "If the organisation uses the API, check that this is the right organisation.",
            "no_usage",
        )

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return the organisation as a whole: its reports cannot fail in parts."""
        self._refuse_days_before_analytics(connection, _reports(connection))
        organization, name = self._organization(connection)
        return [Scope(account_id=organization, account_name=options.text(connection, "account_name") or name)]

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:  # noqa: ARG002 - there is one scope
        """
        Yield every row of the window by day: one call for up to 31 days, and one for the names of all workspaces.

        The end is reached only if the last page was read and no day that is over was absent.
        """
        today = self._today()
        if window.first > today:
            return
        report = _reports(connection)[stream.name]
        if report.body and window.first < ANALYTICS_BEGIN:
            raise _before_analytics(connection.connection_id)
        names = self._names(connection)
        if names is None:
            connection.journal.notes.append(
                Note(
                    "names_unavailable",
                    "The key may not list workspaces, so they appear under their ids only.",
                    "Use an Admin API key if the names matter.",
                )
            )
        yield from self._reader(connection).records(report, window, names or {})

    # ---------------------------------------------------------------- asked once per client

    def _reader(self, connection: Connection) -> Reader:
        return Reader(connection, self._today())

    def _organization(self, connection: Connection) -> tuple[str, str | None]:
        """Return id and name of the key's organisation, never believing the connection where Anthropic tells."""
        expected = options.text(connection, "account_id")
        found = self._organizations.get(connection.client)
        if found is None:
            try:
                found = self._reader(connection).organization()
            except PermissionMissing:
                # A key with the scope read:analytics alone may read reports, and not who it belongs to.
                if not expected or connection.options.get("reports") != "analytics":
                    raise
                found = (expected, None)
            self._organizations[connection.client] = found
        if expected and found[0] != expected:
            raise WrongAccount(
                f"The key belongs to the organisation {found[0]}, the connection says {expected}.",
                action="Put a key of the right organisation into the connection, or correct account_id.",
                connection_id=connection.connection_id,
            )
        return found

    def _names(self, connection: Connection) -> Mapping[str, str] | None:
        """Return workspace → name, or ``None`` if the key may not know."""
        if connection.client not in self._workspaces:
            with_default = any(report.body for report in _reports(connection).values())
            try:
                names = self._reader(connection).workspaces(with_default=with_default)
            except PermissionMissing:
                return None
            self._workspaces[connection.client] = names
        return self._workspaces[connection.client]

    def _refuse_days_before_analytics(self, connection: Connection, chosen: Mapping[str, Report]) -> None:
        """Refuse a history that begins before the analytics reports do, before anybody expects those days."""
        if not any(report.body for report in chosen.values()):
            return
        configured = connection.options.get("start_date")
        try:
            start = date.fromisoformat(str(configured)) if configured else date.min
        except ValueError:
            return  # whoever reads the setting refuses it in better words
        if max(start, self._today() - ONE_DAY * (READABLE_DAYS - 1)) < ANALYTICS_BEGIN:
            raise _before_analytics(connection.connection_id)


PROVIDER = Anthropic()


def _reports(connection: Connection) -> Mapping[str, Report]:
    """Return stream → the report to read for it."""
    choice = connection.options.get("reports") or "classic"
    if not isinstance(choice, str) or choice not in REPORTS:
        raise ConfigurationInvalid(
            f"reports cannot be {str(choice)[:40]!r}.",
            action=f"Set it to one of {', '.join(REPORTS)}.",
            connection_id=connection.connection_id,
        )
    return REPORTS[choice]


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _before_analytics(connection_id: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The analytics reports begin on {ANALYTICS_BEGIN}, and earlier days were asked for.",
        action=f"Set start_date in the connection to {ANALYTICS_BEGIN} or later, or set reports to classic.",
        connection_id=connection_id,
    )


def _words_of(body: Any) -> tuple[str, str]:
    """Return the code and the beginning of the sentence of an error answer."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", "no reason given."
    code, message = error.get("error_code"), error.get("message")
    sentence = " ".join(message.split())[:200] if _is_text(message) and message.isprintable() else "no reason given"
    return code if isinstance(code, str) else "", sentence.rstrip(".") + "."


def _forbidden(path: str) -> PermissionMissing:
    if "/analytics/" in path:
        return PermissionMissing(
            f"The key may not read {path} (HTTP 403).",
            permission="read:analytics",
            action="Use an Admin API key, or an API key with the scope read:analytics.",
        )
    return PermissionMissing(
        f"The key is known to Anthropic but may not read {path} (HTTP 403): it lacks the admin role, or belongs to an "
        "organisation that does not have this report (Claude Enterprise, Claude Platform on AWS).",
        permission="an Admin API key of a Claude Console organisation",
        action=_ABOUT_THE_KEY,
    )
