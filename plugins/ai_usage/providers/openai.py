"""
OpenAI: daily usage per project and model, and the bill per project and line item, from the organization endpoints.

Ten endpoints count (tokens, requests, images, seconds, …), one tells what was billed; none does both. Each is a stream,
asked for in the finest groups that leave its totals alone; API keys and users are told apart only where the connection
asks for it. Reading takes an admin key with the scope ``api.usage.read``; names of projects take ``api.management.read``.

A record is one row as OpenAI gives it, without what is null, with the name of its project::

    {"input_tokens": 91250, "input_cached_tokens": 40960, "output_tokens": 12875, "num_model_requests": 64,
     "project_id": "proj_k3Xq9demo", "project_name": "Search team", "model": "gpt-5-mini-2025-08-07", "batch": false,
     "service_tier": "default"}
    {"amount": {"value": 0.012060500000000000000000000, "currency": "usd"}, "line_item": "gpt-5-mini-2025-08-07, input",
     "project_id": "proj_k3Xq9demo", "project_name": "Search team", "quantity": 48242, "quantity_unit": "tokens"}
"""

from __future__ import annotations

import re
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
    NotEntitled,
    PermissionMissing,
    UsageError,
    WrongAccount,
)
from ai_usage.core.http import Limits, Refusal
from ai_usage.core.http_provider import HttpProvider
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._openai import BY_NAME, COSTS, ENDPOINTS, OpenAI, WindowRefused

USAGE_SCOPE = "api.usage.read"
NAMES_SCOPE = "api.management.read"
PROJECTS = "projects"
"""Under which names of projects are remembered: ``<id>|<name>``."""
CHECKED_DAYS = 30
_ADMIN_KEYS = "platform.openai.com/settings/organization/admin-keys"
_NEW_KEY = f"Have an owner of the organization make an admin key at {_ADMIN_KEYS} and put it into the connection."
_NEW_SCOPE = (
    f"Make a new admin key that has it at {_ADMIN_KEYS}: changing the permissions of an old key may not take effect."
)
_FOREIGN_KEYS: Mapping[str, str] = {"sk-ant-": "Anthropic", "sk-or-": "OpenRouter", "gsk_": "Groq", "fw_": "Fireworks"}
_SCOPES = re.compile(r"Missing scopes:\s*((?:api|model)\.[a-z_]+(?:\.[a-z_]+)*)", re.IGNORECASE)
_PARAMETER = re.compile(r"[a-z][a-z_]{0,30}")


class OpenAIProvider(HttpProvider):
    """
    OpenAI's API platform through the organization endpoints.

    :param today: tells the UTC day; only tests give another.
    """

    name = "openai"
    label = "OpenAI"
    connection_type = "ai_usage_openai"
    base_url = "https://api.openai.com/v1"
    # No limit is published for these endpoints; one project has counted 60 a minute, shared by all of them.
    limits = Limits(calls_per_minute=60)
    streams = tuple(
        Stream(
            name=endpoint.name,
            summary=endpoint.summary,
            grain=endpoint.dimensions,
            fields=endpoint.fields,
            # OpenAI says neither how late numbers come nor until when they change. Costs take about a day, batches too.
            settle=timedelta(days=3),
            # One page holds them all, so that looking a week back costs no further call.
            lookback_days=7,
            retention_days=None,
            max_window_days=endpoint.days_per_page,
        )
        for endpoint in ENDPOINTS
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Usage endpoints": "https://platform.openai.com/docs/api-reference/usage",
        "Costs": "https://platform.openai.com/docs/api-reference/usage/costs",
        "Admin keys": "https://platform.openai.com/docs/api-reference/admin-api-keys",
        "OpenAPI document": "https://github.com/openai/openai-openapi",
    }
    if_empty = (
        "Usage is told only to a key of the organization that owns it: make the admin key there. What was "
        "used in the last hours may still be on its way."
    )
    revoke = "Delete the admin key at platform.openai.com: Organization settings, Admin keys."
    reads = (
        "daily requests and tokens per project, model, batch and service tier; with per_key and per_user, per API key and "
        "user id",
        "daily images, characters, seconds of audio, searches, code interpreter sessions and bytes in vector stores",
        "the daily bill per project and line item, in the currency and to the last digit that OpenAI gives",
        "the names of projects",
    )
    never_reads = (
        "prompts, completions, files, images and audio",
        "API keys themselves, names and e-mail addresses of users, members and invitations",
        "invoices, payment data and remaining credit",
    )

    def __init__(self, *, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self._today = today
        self._projects: WeakKeyDictionary[Any, Mapping[str, str]] = WeakKeyDictionary()

    # ---------------------------------------------------------------- how to call

    def secret_headers(self, key: str) -> Mapping[str, str]:
        """Return the key as a bearer token; another vendor's key is not even shown to OpenAI."""
        for prefix, vendor in _FOREIGN_KEYS.items():
            if key.startswith(prefix):
                raise ConfigurationInvalid(f"This is a key of {vendor}, not of OpenAI.", action=_NEW_KEY)
        return {"Authorization": f"Bearer {key}"}

    def explain(self, refusal: Refusal) -> UsageError | None:
        """Tell a missing scope from a dead key: OpenAI uses the same statuses for both, and two shapes of answer."""
        words, error = _words(refusal)
        missing = _SCOPES.search(words)
        if missing:
            return _missing_scope(missing[1].lower(), refusal.status)
        if refusal.status in (401, 403) and "insufficient permissions" in words.lower():
            return _missing_scope(NAMES_SCOPE if PROJECTS in refusal.path else USAGE_SCOPE, refusal.status)
        if refusal.status == 401:
            return CredentialRejected(
                "OpenAI does not accept the key (HTTP 401): it is mistyped, revoked or expired.", action=_NEW_KEY
            )
        if refusal.status == 403 and "country" in str(error.get("code")):
            return NotEntitled(
                "OpenAI does not serve the country that Airflow calls from (HTTP 403).",
                action="Let Airflow reach OpenAI from a supported country.",
            )
        if refusal.status == 400 and "/organization/" in refusal.path:
            parameter = str(error.get("param"))
            about = f", because of {parameter}" if error.get("param") and _PARAMETER.fullmatch(parameter) else ""
            return WindowRefused(
                f"OpenAI refused the question at {refusal.path} (HTTP 400{about}).",
                action="If the days are older than OpenAI keeps, set the connection's start_date to a later day; if not, "
                "report this.",
            )
        return None

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the key and its kind, whether there is anything, and whether projects have names."""
        try:
            grouping = _grouping(connection)
            options.text(connection, "account_id")
            options.text(connection, "account_name")
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, f"Told apart beside project and model: {', '.join(grouping) or 'nothing'}.")
        permission = f"key with {USAGE_SCOPE}"
        today = self._today()
        window = Window(today - ONE_DAY * (CHECKED_DAYS - 1), today)
        try:
            days = OpenAI(connection, today).rows(BY_NAME[COSTS], window, ("line_item",), Drift("costs"))
            organization = _check_organization(connection, days)
        except UsageError as error:
            named = self._kind_of_key(connection, error) if isinstance(error, PermissionMissing) else error
            yield Check.failed(permission, named)
            yield Check("usage", None, "Not asked, because the key will not do.")
            yield Check("project names", None, "Not asked, because the key will not do.")
            return
        yield Check(permission, True, "Allowed." + (f" It reads organization {organization}." if organization else ""))
        yield _found(days)
        yield self._check_names(connection)

    def _kind_of_key(self, connection: Connection, error: PermissionMissing) -> UsageError:
        """
        Tell a key that calls models from an admin key without the scope: both are refused in the same words.

        Only the first may list models. Asking costs nothing.
        """
        try:
            connection.client.get_json("models", expect=("data",))
        except (PermissionMissing, CredentialRejected):
            return PermissionMissing(
                f"It is an admin key without the permission {error.permission}.",
                permission=error.permission,
                action=_NEW_SCOPE,
            )
        except UsageError:
            return error
        return PermissionMissing(
            "It is a key for calling models (of a project, a user or a service account): it may not read usage.",
            permission="admin key",
            action=_NEW_KEY,
        )

    def _check_names(self, connection: Connection) -> Check:
        try:
            names = OpenAI(connection, self._today()).projects()
        except UsageError as error:
            return Check(
                "project names",
                True,
                f"Warning: {error.happened} Usage is read all the same, projects show as ids.",
                error.action,
                error.kind,
            )
        return Check("project names", True, f"Allowed: {len(names)} projects have a name.")

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return the connection as a whole: an admin key belongs to one organization, which the connection may name."""
        _grouping(connection)
        account_id, account_name = (options.text(connection, name) for name in ("account_id", "account_name"))
        return [Scope(account_id=account_id, account_name=account_name)]

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:
        """Yield the window's rows by day. Nothing is yielded before every page of the answer is in."""
        today = self._today()
        if window.first > today:
            return
        window = Window(window.first, min(window.last, today))
        endpoint = BY_NAME[stream.name]
        group_by = (*endpoint.group_by, *(name for name in _grouping(connection) if name in endpoint.dimensions))
        days = OpenAI(connection, today).rows(endpoint, window, group_by, Drift(endpoint.path))
        _check_organization(connection, days)
        names = self._names(connection, scope) if any(days.values()) else {}
        for day in sorted(days):
            for row in days[day]:
                name = names.get(row.get("project_id", ""))
                yield Record(day, row | {"project_name": name} if name else row)

    def _names(self, connection: Connection, scope: Scope) -> Mapping[str, str]:
        """
        Return project id → name, asked for once per client.

        Numbers matter more than names: where names cannot be had, those of earlier runs serve, so that a permission
        that comes and goes does not rewrite days of which not one number changed.
        """
        if connection.client not in self._projects:
            try:
                names = OpenAI(connection, self._today()).projects()
                connection.memory.remember(PROJECTS, scope.name, (f"{id_}|{name}" for id_, name in names.items()))
            except UsageError as error:
                note = f"Names of projects cannot be read: {error.happened}"
                connection.journal.notes.append(Note("names_unavailable", note, error.action))
                remembered = sorted(connection.memory.recall(PROJECTS, scope.name))
                names = {id_: name for id_, _, name in (one.partition("|") for one in remembered)}
            self._projects[connection.client] = names
        return self._projects[connection.client]


PROVIDER = OpenAIProvider()


def _words(refusal: Refusal) -> tuple[str, Mapping[str, Any]]:
    """Return OpenAI's own words and its error object. ``error`` is an object, or just a sentence."""
    error = refusal.body.get("error") if isinstance(refusal.body, dict) else None
    if isinstance(error, dict):
        return str(error.get("message", "")), error
    return (error if isinstance(error, str) else ""), {}


def _missing_scope(scope: str, status: int) -> PermissionMissing:
    if scope == NAMES_SCOPE:
        return PermissionMissing(
            f"The key lacks the permission {scope} (HTTP {status}).", permission=scope, action=_NEW_SCOPE
        )
    return PermissionMissing(
        f"The key lacks the permission {scope} (HTTP {status}): it is a key for calling models, or an admin key without "
        "that permission.",
        permission=scope,
        action=f"{_NEW_KEY} It needs {USAGE_SCOPE}.",
    )


def _grouping(connection: Connection) -> tuple[str, ...]:
    """Return what the connection wants told apart beside what always is."""
    wanted = {"api_key_id": options.flag(connection, "per_key"), "user_id": options.flag(connection, "per_user")}
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def _check_organization(connection: Connection, days: Mapping[date, Sequence[Mapping[str, Any]]]) -> str | None:
    """
    Return the organization that the bill names, if it does; refuse one that the connection does not mean.

    Some organizations' costs name it, although no document says so; usage never does.
    """
    found = {row["organization_id"] for rows in days.values() for row in rows if "organization_id" in row}
    expected = options.text(connection, "account_id")
    if expected and expected.startswith("org-") and found - {expected}:
        raise WrongAccount(
            f"The key belongs to organization {min(found - {expected})}, the connection says {expected}.",
            action=f"Put a key of {expected} into the connection, or correct its account_id.",
            connection_id=connection.connection_id,
        )
    return min(found, default=None)


def _found(days: Mapping[date, Sequence[Mapping[str, Any]]]) -> Check:
    used = sum(bool(rows) for rows in days.values())
    if used:
        return Check("usage", True, f"Costs on {used} of the last {CHECKED_DAYS} days.")
    return Check(
        "usage",
        True,
        f"Warning: nothing was billed in the last {CHECKED_DAYS} days.",
        "If OpenAI is used, check that the key belongs to the organization that uses it: another one shows as nothing.",
        "no_usage",
    )
