"""
OpenRouter: what two accounts used, and what a mart must make of it.

One is an organisation with four workspaces (two of one name) and keys, of which one is disabled and one deleted; the
other a person with one workspace. A *use* is one key calling one route: a model at an endpoint of an upstream provider.
What each model really is stands beside it, written out by hand.

The truth is what somebody has who began to read on the day the world was first started: the 30 completed days before it
and all since from activity, everything older from analytics, of today nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from hashlib import sha256

from sandbox.errors import SandboxError
from sandbox.truth import ProviderTruth, Row, days_between, detail_row, draw, draw_between, in_detail_order
from sandbox.world import Restatement, World

PROVIDER = "openrouter"
ACTIVITY_DAYS = 30
QUIET_EVERY = 11
IDLE_EVERY = 7
DIGITS = 12
"""Money is counted in 10^-12 US dollars here, so that it stays whole whatever is done with it."""

Values = Mapping[str, int]


@dataclass(frozen=True)
class Workspace:
    """A workspace. The first of an account is its default one."""

    id: str
    name: str


@dataclass(frozen=True)
class Key:
    """
    An API key for calling models.

    :param deleted: gone from the list of keys, but not from what was used.
    """

    name: str
    workspace: Workspace
    disabled: bool = False
    deleted: bool = False

    @property
    def hash(self) -> str:
        """What the API calls the key."""
        return sha256(f"{self.workspace.id} {self.name}".encode()).hexdigest()


@dataclass(frozen=True)
class Route:
    """
    A model at an endpoint.

    :param model: the real model.
    :param slug: what was asked for, perhaps with a variant.
    :param requests: the most requests of one key on one day.
    :param price: the most 10^-12 dollars of one token.
    :param byok: made with the account's own provider key: estimated, and charged a fee only.
    """

    model: str
    slug: str
    permaslug: str
    provider: str
    endpoint: str
    requests: int = 400
    tokens: int = 9000
    price: int = 25_000_003
    byok: bool = False

    @property
    def endpoint_id(self) -> str:
        """The endpoint's id."""
        digits = sha256(self.endpoint.encode()).hexdigest()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))

    @property
    def name_in_analytics(self) -> str:
        """The model without its variant, which is a dimension of its own there."""
        return self.slug.partition(":")[0]


@dataclass(frozen=True)
class Use:
    """One key calling one route."""

    key: Key
    route: Route


@dataclass(frozen=True)
class Account:
    """
    An OpenRouter account.

    :param by_key: whether its connection asks for numbers per key.
    """

    account_id: str
    name: str
    uses: tuple[Use, ...]
    by_key: bool = False

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every key that ever was."""
        return tuple(dict.fromkeys(use.key for use in self.uses))

    @property
    def workspaces(self) -> tuple[Workspace, ...]:
        """Every workspace, the default one first."""
        return tuple(dict.fromkeys(key.workspace for key in self.keys))


SONNET = Route(
    "anthropic/claude-sonnet-5",
    "anthropic/claude-sonnet-5",
    "anthropic/claude-sonnet-5-20260601",
    "Anthropic",
    "sonnet at Anthropic",
)
SONNET_ELSEWHERE = Route(
    "anthropic/claude-sonnet-5",
    "anthropic/claude-sonnet-5",
    "anthropic/claude-sonnet-5-20260601",
    "Google",
    "sonnet at Google",
)
GPT = Route("openai/gpt-4-1", "openai/gpt-4.1", "openai/gpt-4.1-2025-04-14", "OpenAI", "gpt at OpenAI", byok=True)
HUGE = Route(
    "google/gemini-3-pro",
    "google/gemini-3-pro",
    "google/gemini-3-pro",
    "Google AI Studio",
    "gemini",
    requests=3_000_000_000,
    tokens=40,
    price=17,
)
FREE = Route(
    "meta/llama4-maverick",
    "meta-llama/llama-4-maverick:free",
    "meta-llama/llama-4-maverick",
    "Together",
    "free maverick",
    requests=60,
    price=0,
)
PAID = Route(
    "meta/llama4-maverick",
    "meta-llama/llama-4-maverick",
    "meta-llama/llama-4-maverick",
    "Together",
    "maverick",
    requests=90,
    price=3,
)
TINY = Route("xai/grok-5-mini", "x-ai/grok-5-mini", "x-ai/grok-5-mini", "xAI", "grok", requests=1, tokens=2, price=7)

_MAIN = Workspace("3f1b9b52-5f3d-4df5-8f2d-6a1f0f5c7e21", "Default")
_SEARCH = Workspace("a97c1d04-1b7e-4c55-9a52-0d1de4a4b8c2", "Search")
_TRIAL = Workspace("c2f0e7aa-6d3b-4b1f-8c61-7f3e5b2d9013", "Experiments")
_TRIAL_TOO = Workspace("e51bd3c9-902f-47f4-b0aa-21c4f86d7714", "Experiments")
_PRIVATE = Workspace("0c8f6b1e-77d2-4f3b-9d40-5be8a3c61f05", "Default")
_CHAT = Key("support-chat", _MAIN)
_OLD_CHAT = Key("support-chat (old)", _MAIN, deleted=True)
_INDEX = Key("search-index", _SEARCH)
_NIGHT = Key("nightly", _SEARCH, disabled=True)
_PLAY = Key("play", _TRIAL)
_PLAY_TOO = Key("play", _TRIAL_TOO)
_OWN = Key("laptop", _PRIVATE)

ORGANISATION = Account(
    "sandbox-org",
    "Sandbox organisation",
    (
        Use(_CHAT, SONNET),
        Use(_CHAT, SONNET_ELSEWHERE),
        Use(_CHAT, GPT),
        Use(_OLD_CHAT, SONNET),
        Use(_OLD_CHAT, FREE),
        Use(_INDEX, SONNET),
        Use(_INDEX, HUGE),
        Use(_NIGHT, GPT),
        Use(_NIGHT, SONNET),
        Use(_PLAY, FREE),
        Use(_PLAY, PAID),
        Use(_PLAY_TOO, PAID),
        Use(_PLAY_TOO, TINY),
    ),
    by_key=True,
)
PERSON = Account("sandbox-person", "Sandbox person", (Use(_OWN, SONNET), Use(_OWN, PAID), Use(_OWN, TINY)))
ACCOUNTS = (ORGANISATION, PERSON)


def dollars(amount: int) -> Decimal:
    """Return 10^-12 dollars as dollars, in the fewest digits."""
    text = f"{amount:0{DIGITS + 1}d}"
    return Decimal(f"{text[:-DIGITS]}.{text[-DIGITS:]}".rstrip("0").rstrip("."))


def total(parts: Iterable[Values]) -> dict[str, int]:
    """Add values up, name by name."""
    sums: dict[str, int] = {}
    for values in parts:
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value
    return sums


class OpenRouterTruth(ProviderTruth):
    """The truth about OpenRouter."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, Use, date], dict[str, int]] = {}

    def values(self, account: Account, use: Use, day: date) -> dict[str, int]:
        """Return one use's day; nothing for a day without. Of today there is half already."""
        today = self.world.clock.today()
        if day > today:
            return {}
        key = (account.account_id, use, day)
        if key not in self._drawn:
            self._drawn[key] = self._draw(account, use, day)
        values = self._drawn[key]
        if day == today:
            values = {name: value // 2 for name, value in values.items()}
        restated = self.world.restatements.find(PROVIDER, account.account_id, "-", use.route.permaslug, day)
        values = restated.apply(values) if restated else values
        return values if any(values.values()) else {}

    def credits(self, account: Account) -> dict[str, Decimal]:
        """Return what the account has bought and used so far, in dollars: of what it used, the last 30 days."""
        today = self.world.clock.today()
        days = (today - timedelta(days=n) for n in range(ACTIVITY_DAYS))
        used = sum(values["usage"] for day in days for _, values in self.used(account, day))
        return {"total_credits": Decimal(250_000), "total_usage": dollars(used)}

    def used(self, account: Account, day: date) -> Iterator[tuple[Use, dict[str, int]]]:
        """Yield the uses that have anything on that day."""
        for use in account.uses:
            if values := self.values(account, use, day):
                yield use, values

    def is_in_activity(self, day: date) -> bool:
        """Whether somebody who has read since the world began has the day from activity."""
        return self.world.anchor - timedelta(days=ACTIVITY_DAYS) <= day < self.world.clock.today()

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day and use, named as far as the report that has the day can tell."""
        return in_detail_order(
            self._detail(account, use, day, values)
            for account in ACCOUNTS
            if accounts is None or account.account_id in accounts
            for day in days_between(first, min(last, self.world.clock.today() - timedelta(days=1)))
            for use, values in self.used(account, day)
        )

    def validate(self, restatement: Restatement) -> None:
        """Raise if the account or the model is unknown. Only whole days can be scaled, or vanish."""
        account = next((known for known in ACCOUNTS if known.account_id == restatement.account), None)
        if account is None:
            raise SandboxError(f"There is no account {restatement.account!r} in the sandbox's OpenRouter.")
        if restatement.region != "-":
            raise SandboxError("OpenRouter has no regions: say '-'.")
        if restatement.model not in (None, *(use.route.permaslug for use in account.uses)):
            raise SandboxError(f"The account {account.account_id} has no model {restatement.model!r}.")
        if restatement.values is not None:
            raise SandboxError("A day of OpenRouter is shared by several keys: give a factor, or let it vanish.")

    def _detail(self, account: Account, use: Use, day: date, values: Values) -> Row:
        measures = {
            "requests": values["requests"],
            "input_tokens": values["prompt_tokens"],
            "output_tokens": values["completion_tokens"],
            "billed_cost": dollars(values["usage"]),
        }
        known = {
            "usage_date": day,
            "provider": PROVIDER,
            "account_id": account.account_id,
            "account_name": account.name,
            "region": "unspecified",
            "model": use.route.model,
            "project_name": use.key.workspace.name,
            "billed_currency": "USD",
        }
        if self.is_in_activity(day):
            is_told = account.by_key and not use.key.deleted
            return detail_row(
                **known,
                **measures,
                raw_model_id=use.route.permaslug,
                endpoint=f"{use.route.provider}/{use.route.endpoint_id}",
                project_id=use.key.workspace.id,
                credential_id=use.key.hash if is_told else None,
                unsplit_input_tokens=values["prompt_tokens"],
            )
        names = [workspace.name for workspace in account.workspaces]
        is_unique = names.count(use.key.workspace.name) == 1
        return detail_row(
            **known,
            **measures,
            raw_model_id=use.route.name_in_analytics,
            project_id=use.key.workspace.id if is_unique else use.key.workspace.name,
            uncached_input_tokens=values["prompt_tokens"] - values["cached_tokens"],
            cache_read_tokens=values["cached_tokens"],
        )

    def _draw(self, account: Account, use: Use, day: date) -> dict[str, int]:
        key = (self.world.seed, account.account_id, use.key.hash, use.route.endpoint_id)
        age = (self.world.anchor - day).days
        if age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, account.account_id):
            return {}
        if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return {}
        route, drawn = use.route, (*key, day)
        requests = draw_between(1, route.requests, *drawn, "requests")
        prompt = draw_between(requests, requests * route.tokens, *drawn, "prompt")
        completion = draw_between(1, max(1, requests * route.tokens // 4), *drawn, "completion")
        cost = (prompt + 4 * completion) * draw_between(route.price // 2, route.price, *drawn, "price")
        by_own_key = requests if route.byok else 0
        return {
            "requests": requests,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "reasoning_tokens": draw(*drawn, "reasoning") % (completion + 1),
            "cached_tokens": draw(*drawn, "cached") % (prompt + 1),
            "usage": cost // 20 if route.byok else cost,
            "byok_usage": cost if route.byok else 0,
            "byok_requests": by_own_key,
        }


TRUTH = OpenRouterTruth
