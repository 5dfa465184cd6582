"""
What can go wrong, named for what the reader does next.

::

    UsageError
    ├── ConfigurationInvalid    correct the connection
    │   └── WrongAccount            put the right credential in, or add a connection
    ├── CredentialRejected      make a new credential
    ├── PermissionMissing       grant the named permission
    ├── NotEntitled             buy the plan, or leave the source out
    ├── ResponseInvalid         the provider changed its answer: report it
    ├── RateLimited             wait
    ├── SourceUnavailable       wait
    ├── WarehouseError
    │   ├── WarehouseUnavailable    look at PostgreSQL
    │   └── WarehouseRefused        the database and the code disagree: migrate, or report it
    └── Unexpected              a fault of this project: report it

Every error says what happened, to which connection, and what to do. No error text ever carries a credential.
"""

from __future__ import annotations

from typing import ClassVar

from ai_usage.core.texts import plain, without_keys


class UsageError(Exception):
    """
    Base of all errors that a person can meet.

    :param happened: one plain sentence: what happened.
    :param action: one plain sentence: what to do.
    :param connection_id: the Airflow connection concerned, where one is.
    :param scope: the region, resource or account inside it, where one is.
    """

    kind: ClassVar[str] = "unexpected"
    """The event kind under which ``ops.event`` records this error."""
    is_permanent: ClassVar[bool] = True
    """Whether trying again without a person's help is pointless."""
    is_of_one_answer: ClassVar[bool] = False
    """Whether it says nothing about other answers of the same source: they are still worth asking for."""
    is_list: ClassVar[bool] = False
    """Whether it sums up others, one a line; any other error is one line, whatever a provider's names hold."""

    def __init__(
        self, happened: str, *, action: str, connection_id: str | None = None, scope: str | None = None
    ) -> None:
        happened = without_keys(happened) if self.is_list else plain(happened)
        super().__init__(happened)
        self.happened = happened
        self.action = plain(action)
        self.connection_id = connection_id
        self.scope = scope

    def at(self, connection_id: str, scope: str | None = None) -> UsageError:
        """Name the connection and scope concerned, unless a deeper layer already has; return the same error."""
        self.connection_id = self.connection_id or connection_id
        if scope not in (None, "-"):
            self.scope = self.scope or scope
        return self

    def __str__(self) -> str:
        place = self.connection_id or "AI usage"
        if self.scope:
            place = f"{place} ({self.scope})"
        return f"{place}: {self.happened} {self.action}"


class ConfigurationInvalid(UsageError):
    """The connection or a setting is wrong; nothing was asked of the provider."""

    kind = "configuration_invalid"


class WrongAccount(ConfigurationInvalid):
    """The credential belongs to another account than the connection or its history: nothing of it is filed here."""

    kind = "wrong_account"


class CredentialRejected(UsageError):
    """The provider does not accept the credential."""

    kind = "credential_rejected"


class PermissionMissing(UsageError):
    """
    The credential is good but may not read this.

    :param permission: the permission to grant, as the provider spells it.
    """

    kind = "permission_missing"

    def __init__(
        self,
        happened: str,
        *,
        permission: str,
        action: str,
        connection_id: str | None = None,
        scope: str | None = None,
    ) -> None:
        super().__init__(happened, action=action, connection_id=connection_id, scope=scope)
        self.permission = permission


class NotEntitled(UsageError):
    """The account's plan does not include this data: a fact about the account, not a failure of ours."""

    kind = "not_entitled"


class ResponseInvalid(UsageError):
    """The answer is not what the provider documents; nothing of it was stored."""

    kind = "response_invalid"
    is_of_one_answer = True


class RateLimited(UsageError):
    """
    The provider asked for fewer calls and our patience inside the task ran out.

    :param retry_after: seconds the provider asked us to wait, where it said so.
    """

    kind = "rate_limited"
    is_permanent = False

    def __init__(
        self,
        happened: str,
        *,
        action: str,
        retry_after: float | None = None,
        connection_id: str | None = None,
        scope: str | None = None,
    ) -> None:
        super().__init__(happened, action=action, connection_id=connection_id, scope=scope)
        self.retry_after = retry_after


class SourceUnavailable(UsageError):
    """The provider did not answer, or answered that it cannot; waiting helps."""

    kind = "source_unavailable"
    is_permanent = False


class WarehouseError(UsageError):
    """Something between us and PostgreSQL; no source is to blame."""


class WarehouseUnavailable(WarehouseError):
    """PostgreSQL did not take the data; nothing was stored by halves."""

    kind = "warehouse_unavailable"
    is_permanent = False


class WarehouseRefused(WarehouseError):
    """PostgreSQL refused a statement: missing migration, missing right, or data it cannot hold."""

    kind = "warehouse_refused"


class Unexpected(UsageError):
    """Something this project did not foresee; the original error is chained to it."""

    kind = "unexpected"
    is_permanent = False
    is_of_one_answer = True


KINDS_OF_ONE_ANSWER = frozenset({ResponseInvalid.kind, Unexpected.kind})
"""The kinds of error that are about one answer, and say nothing about the source."""
