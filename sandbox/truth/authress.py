"""
Authress: what two accounts called, and what a mart must make of it.

A *use* is one permission asked for on resources of one kind, with one result; or changes of access, or logins. What its
resource and its operation must be called in the marts stands beside it, written out by hand. Both accounts' streams began
when the world was opened; days before that are nobody's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date

from sandbox.errors import SandboxError
from sandbox.truth import ProviderTruth, Row, days_between, detail_row, draw_between, in_detail_order
from sandbox.world import Restatement, World

PROVIDER = "authress"
QUIET_EVERY = 12
IDLE_EVERY = 5

CHECK, CHANGE, LOGIN = "AuthorizationRequest", "AccessChanged", "UserLogin"


@dataclass(frozen=True)
class Use:
    """
    One kind of calls.

    :param path: the resource as the stream has it; ``#`` stands for an id.
    :param resource: what the marts must call it.
    :param action: the operation as the stream has it.
    :param operation: what the marts must call it, where that is something else.
    :param most: the most calls of a day.
    :param counts: whether the account's connection counts this event.
    """

    path: str
    resource: str
    action: str
    most: int = 40
    result: str | None = "ALLOWED"
    operation: str = ""
    event: str = CHECK
    counts: bool = True

    @property
    def endpoint(self) -> str:
        """The operation in the marts."""
        return self.operation or self.action


@dataclass(frozen=True)
class Account:
    """An account of Authress."""

    account_id: str
    name: str
    client_id: str
    uses: tuple[Use, ...]


_DOCUMENTS = "/organizations/{id}/documents/{id}"

COMPANY = Account(
    "acc_sandbox_company",
    "Sandbox company",
    "sc_sandbox_company",
    (
        Use("/organizations/org_#/documents/doc_#", _DOCUMENTS, "documents:read", most=900),
        Use("/organizations/org_#/documents/doc_#", _DOCUMENTS, "documents:read", result="DENIED"),
        Use("organizations/Org#/documents/#/", _DOCUMENTS, "documents:write", most=70),
        # Whatever stands in the place of an id is one, even a plain word.
        Use("/organizations/acme", "/organizations/{id}", "organizations:list"),
        Use("/organizations/umbrella", "/organizations/{id}", "organizations:list", most=9),
        Use("/api/v1/users/auth0|#/profile", "/api/v1/users/{id}/profile", "profile:get", most=3_000_000_000),
        Use("/user.#@example.com/mail?folder=#", "/{id}/{id}", "mail:send", most=5),
        Use("/documents/*", "/documents/*", "*", most=2),
        Use("/invoices/#", "/invoices/{id}", "invoices:#abcdef012345:pay", operation="invoices:{id}:pay", most=3),
        Use("/reports/daily/#", "/reports/{id}/{id}", "read by user.#@example.com", operation="(other)", most=3),
        # Names that begin like those of models: a resource is no model.
        Use("/commands", "/commands", "commands:run", most=12),
        # This connection counts checks only.
        Use("/organizations/org_#", "", "ADDED", most=6, result=None, event=CHANGE, counts=False),
        Use("", "", "Login", most=6, result="SUCCESS", event=LOGIN, counts=False),
    ),
)
LAB = Account(
    "acc_sandbox_lab",
    "Sandbox laboratory",
    "sc_sandbox_lab",
    (
        Use("/benches/#/samples/#/images/#", "/benches/{bench}/**", "samples:view", most=120),
        Use("/benches/#", "/benches/{bench}/**", "benches:open", most=25),
        Use("/files/2026/#/raw.bin", "/files/{path}", "files:read", most=60),
        Use("/settings/security", "/settings/security", "settings:read", most=4),
        Use("/settings/#", "/settings/{id}", "settings:read", most=4, result="DENIED"),
        Use("/benches/#", "/benches/{bench}/**", "ADDED", most=5, result=None, event=CHANGE),
        Use("/notebooks/#", "/notebooks/{id}", "REMOVED", most=5, result=None, event=CHANGE),
        Use("", "(none)", "Login", most=7, result="SUCCESS", event=LOGIN),
        Use("", "(none)", "Login", most=2, result="FAILURE", event=LOGIN),
        Use("", "(none)", "SignUp", most=2, result="SUCCESS", event=LOGIN),
    ),
)
ACCOUNTS = (COMPANY, LAB)
RULES = ["/benches/{bench}/**", r"^/files/\d{4}/[^/]+(?:/.*)?$ => /files/{path}", "/settings/security"]
"""The resource templates of the laboratory's connection."""


class AuthressTruth(ProviderTruth):
    """The truth about Authress."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.first_day = min(world.opened, world.clock.today())

    def calls(self, account: Account, use: Use, day: date) -> int:
        """Return one use's day. Of today there is half already."""
        today = self.world.clock.today()
        if not self.first_day <= day <= today:
            return 0
        calls = self._draw(account, use, day)
        if day == today:
            calls //= 2
        restated = self.world.restatements.find(PROVIDER, account.account_id, "-", use.resource, day)
        return restated.apply({"calls": calls}).get("calls", 0) if restated else calls

    def used(self, account: Account, day: date) -> Iterator[tuple[Use, int]]:
        """Yield the uses that have anything on that day."""
        for use in account.uses:
            if calls := self.calls(account, use, day):
                yield use, calls

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day and use that counts."""
        return in_detail_order(
            detail_row(
                usage_date=day,
                provider=PROVIDER,
                account_id=account.account_id,
                account_name=account.name,
                region="unspecified",
                model=use.resource,
                raw_model_id=use.resource,
                endpoint=use.endpoint,
                api_calls=calls,
            )
            for account in ACCOUNTS
            if accounts is None or account.account_id in accounts
            for day in days_between(first, last)
            for use, calls in self.used(account, day)
            if use.counts
        )

    def validate(self, restatement: Restatement) -> None:
        """Raise if the account or the resource is unknown. Only whole days can be scaled, or vanish."""
        account = next((known for known in ACCOUNTS if known.account_id == restatement.account), None)
        if account is None:
            raise SandboxError(f"There is no account {restatement.account!r} in the sandbox's Authress.")
        if restatement.region != "-":
            raise SandboxError("Authress has no regions: say '-'.")
        if restatement.model not in (None, *(use.resource for use in account.uses)):
            raise SandboxError(f"The account {account.account_id} has no resource {restatement.model!r}.")
        if restatement.values is not None:
            raise SandboxError(
                "A resource of Authress is shared by several operations: give a factor, or let it vanish."
            )

    def _draw(self, account: Account, use: Use, day: date) -> int:
        key = (self.world.seed, account.account_id, use.path, use.action, use.result, use.event)
        age = (self.world.anchor - day).days
        if age % QUIET_EVERY == draw_between(2, QUIET_EVERY - 1, self.world.seed, account.account_id):
            return 0
        if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return 0
        return draw_between(1, use.most, *key, day)


TRUTH = AuthressTruth
