"""
Authress: daily API calls per resource and operation, from the audit stream that the customer lands in a folder.

Authress documents no endpoint that tells usage. What it documents is a stream of events, and its event
``AuthorizationRequest`` says which permission was asked for on which resource, with what result, and how many times. A
customer routes the stream to a bucket; this module counts what is there. The access key is only needed to verify that
the connection is of the account it says.

A record is what was counted of one event, resource, operation and result on one UTC day. Ids in resource paths are
replaced, ids of users never looked at::

    {"event": "AuthorizationRequest", "resource": "/organizations/{id}/documents/{id}", "operation": "documents:read",
     "result": "ALLOWED", "count": 1204}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, ClassVar, Self

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Note, Provider, Record, Scope, Stream
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    UsageError,
    WrongAccount,
)
from ai_usage.core.http import HttpClient, Limits, Refusal, as_segment
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._authress import EVENTS, LATE, Operations, Templates
from ai_usage.providers._authress_key import AccessKey
from ai_usage.providers._authress_landing import Landing

_ACCOUNT = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SWITCH_ON = "Route the account's audit stream to this place (docs/providers/authress.md), or correct the location."


class AuthressClient:
    """
    What an Authress connection is read with.

    :param landing: where the stream lands.
    :param key: the access key, if the connection has one.
    :param custom_domain: the API's address in place of Authress's own.
    """

    def __init__(
        self,
        landing: Landing,
        key: AccessKey | None = None,
        custom_domain: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.landing = landing
        self.key = key
        self.limits = limits or Limits()
        self._custom_domain = custom_domain

    def api(self, connection: Connection) -> HttpClient:
        """Return a client of the account's API with a fresh token."""
        assert self.key is not None
        return HttpClient(
            self.key.api_address(self._custom_domain),
            connection_id=connection.connection_id,
            secret_headers={"Authorization": f"Bearer {self.key.token(self._custom_domain)}"},
            journal=connection.journal,
            limits=self.limits,
            explain=explain,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing open: every call to the API ends with its own client."""


class AuthressProvider(Provider):
    """
    Authress through its audit stream.

    :param today: tells the UTC day; only tests give another.
    """

    name = "authress"
    label = "Authress"
    category = "api"
    connection_type = "ai_usage_authress"
    client_kind = "authress"
    streams = (
        Stream(
            name="operations",
            summary="calls of one event, resource template, operation and result on a day",
            grain=("event", "resource", "operation", "result"),
            fields=frozenset({"event", "resource", "operation", "result", "count"}),
            # Authress says nothing of how late events are. Those of a week are waited for, and the folder of the seventh
            # day is whole only on the eighth.
            settle=ONE_DAY,
            lookback_days=LATE.days + 1,
            retention_days=None,
            max_window_days=31,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Audit stream": "https://authress.io/knowledge-base/docs/account-management/aws-event-bridge-audit-trail",
        "Which calls are billed": "https://authress.io/knowledge-base/docs/introduction/api-billing-caching",
        "API": "https://authress.io/app/#/api",
    }
    if_empty = "See that the audit stream is delivered to the bucket and folder that the connection names."
    revoke = (
        "Delete the access key of the service client in Authress, and what lets this project read the place where "
        "the audit events land."
    )
    reads = (
        "audit events where they landed: permission checks by resource, permission and result, summed by their count",
        "where the connection asks for it, access changes and logins",
        "the access key's own service client, to verify the key",
    )
    never_reads = (
        "ids of users, addresses, and the ids inside resource paths: they are not stored",
        "access records, roles, users and tokens of the account",
        "invoices and payment data",
    )

    def __init__(self, *, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self._today = today

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the key, that objects can be listed and read, and that they are an audit stream."""
        landing: Landing = connection.client.landing
        landing.deadline = min(landing.deadline, connection.client.limits.answer_timeout)
        listing, reading = (
            f"{one} at {landing.root}" for one in (landing.permission_to_list, landing.permission_to_read)
        )
        try:
            events, _ = _settings(connection)
            account = _account_id(connection)
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, f"Counted: {', '.join(sorted(events))}. Account: {account or 'not told'}.")
        yield self._check_key(connection)
        try:
            newest = self._newest(landing)
        except UsageError as error:
            yield Check.failed(listing, error)
            yield Check(reading, None, "Not asked, because objects cannot be listed.")
            return
        if newest is None:
            message = "Allowed. Warning: there is no object yet, so no day can be told."
            yield Check(listing, True, message, _SWITCH_ON)
            yield Check(reading, None, "Not asked, because there is no object yet.", _SWITCH_ON)
            return
        yield Check(listing, True, "Allowed.")
        try:
            yield self._check_stream(connection, newest, reading)
        except UsageError as error:
            yield Check.failed(reading, error)

    def _newest(self, landing: Landing) -> Any:
        """Return an object that landed yesterday or today, or else the oldest one."""
        recent = next(landing.since(self._today() - ONE_DAY), None)
        return recent or landing.first()

    def _check_stream(self, connection: Connection, entry: Any, reading: str) -> Check:
        landing: Landing = connection.client.landing
        window = Window(date.min + 2 * LATE, date.max - 2 * LATE)
        events, templates = _settings(connection)
        with closing(Operations(window, events, templates)) as operations:
            operations.read(landing.shown(entry), None, landing.read(entry))
            found = sum(record.record["count"] for record in operations.records())
            return Check(
                reading, True, f"Allowed. {entry.name} holds {operations.seen} events, {found} counted as calls."
            )

    def _check_key(self, connection: Connection) -> Check:
        """Ask for the key's own service client, which it need not be allowed to see."""
        key: AccessKey | None = connection.client.key
        if key is None:
            return Check(
                "access key",
                True,
                "None is given: the stream is read without one, and its account is believed, not verified.",
                "To have the account verified, put an access key of a service client without rights into the connection.",
            )
        try:
            with connection.client.api(connection) as api:
                api.get_json(f"v1/clients/{as_segment(key.client_id)}")
        except PermissionMissing:
            return Check(
                "access key", True, f"Accepted for account {key.account_id}. It has no rights, and needs none."
            )
        except UsageError as error:
            return Check.failed("access key", error)
        return Check("access key", True, f"Accepted for account {key.account_id}.")

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return the connection as a whole. It tells nothing of days before the first object: that is no zero."""
        _settings(connection)
        first = connection.client.landing.first()
        return [
            Scope(
                account_id=_account_id(connection),
                account_name=options.text(connection, "account_name"),
                first_day=(first.landed_on or first.modified_on) if first else None,
            )
        ]

    def extract(
        self,
        connection: Connection,
        stream: Stream,  # noqa: ARG002 - there is only one
        scope: Scope,
        window: Window,
    ) -> Iterator[Record]:
        """Yield what was counted. Nothing is yielded before every object of the window is read."""
        today, landing = self._today(), connection.client.landing
        landing.journal = connection.journal
        if window.first > today:
            return
        events, templates = _settings(connection)
        with closing(Operations(window, events, templates, scope.account_id)) as operations:
            newest: date | None = None
            for entry in landing.holding(window, today):
                operations.read(landing.shown(entry), entry.landed_on, landing.read(entry))
                newest = max(newest or date.min, entry.landed_on or entry.modified_on)
            if newest is None and landing.first() is None:
                raise NotEntitled(f"Nothing has ever landed at {landing.root}.", action=_SWITCH_ON)
            if window.last >= today - ONE_DAY and (newest is None or newest < today - ONE_DAY):
                since = f"since {newest}" if newest else "for a while"
                connection.journal.notes.append(
                    Note(
                        "no_usage",
                        f"Nothing has landed at {landing.root} {since}.",
                        "If Authress is in use, look at what delivers the stream: days without objects count as unused.",
                    )
                )
            yield from operations.records()
            operations.tell(connection.journal)


PROVIDER = AuthressProvider()


def explain(refusal: Refusal) -> UsageError | None:
    """Tell a key that is not accepted from one that is, but may see nothing: Authress says 404 to that as well."""
    if refusal.status == 401:
        return CredentialRejected(
            "Authress does not accept the access key (HTTP 401).",
            action="Make a new access key. If it is a good one, check the API address: with a custom domain, put it into "
            "the connection; and check the clock of this machine.",
        )
    if refusal.status in (403, 404) and _has_error_code(refusal.body):
        return PermissionMissing(
            "The service client may not see itself.", permission="read of the service client", action="Nothing to do."
        )
    return None


def _has_error_code(body: Any) -> bool:
    return isinstance(body, dict) and bool({"errorCode", "errorId", "title"} & body.keys())


def _settings(connection: Connection) -> tuple[frozenset[str], Templates]:
    """
    Return which events count, and how resources are written.

    :raises ConfigurationInvalid: if the connection says something else than is known.
    """
    wanted = _words(connection, "events") or ["checks"]
    if unknown := sorted(set(wanted) - EVENTS.keys()):
        raise ConfigurationInvalid(
            f"events names something unknown: {unknown[0][:40]!r}.",
            action=f"Choose among {', '.join(EVENTS)}.",
            connection_id=connection.connection_id,
        )
    try:
        templates = Templates(_words(connection, "resource_templates"))
    except ConfigurationInvalid as error:
        raise error.at(connection.connection_id) from None
    return frozenset(EVENTS[word] for word in wanted), templates


def _words(connection: Connection, name: str) -> list[str]:
    """Return a setting that is a list: of texts, or one text with commas or line breaks."""
    value = connection.options.get(name) or []
    words: Any = value
    if isinstance(value, str):
        # A regular expression may hold commas; a rule begins with a slash or a caret.
        words = re.split(r"\n|,(?=\s*[/^])" if name == "resource_templates" else r"[\n,]", value)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ConfigurationInvalid(
            f"{name} is not a list of texts.",
            action="Write one text with commas in between, or a JSON list.",
            connection_id=connection.connection_id,
        )
    return [word.strip() for word in words if word.strip()]


def _account_id(connection: Connection) -> str | None:
    """
    Return the account: the key's own, which the connection may name too.

    :raises ConfigurationInvalid: if the two differ.
    """
    key: AccessKey | None = connection.client.key
    told = options.text(connection, "account_id")
    if told and not _ACCOUNT.fullmatch(told):
        raise ConfigurationInvalid(
            "account_id is not an account of Authress.",
            action="Copy it from the Authress Management Portal (acc-…), or leave it out.",
            connection_id=connection.connection_id,
        )
    if key and told and told != key.account_id:
        raise WrongAccount(
            f"The access key belongs to account {key.account_id}, the connection says {told}.",
            action=f"Put a key of {told} into the connection, or correct its account_id.",
            connection_id=connection.connection_id,
        )
    return key.account_id if key else told
