"""
Anthropic: what the reports say about two organisations, and what a mart must make of it.

Both organisations have the same kinds of lines; the sandbox's connections read the first through the classic reports and
the second through the analytics ones. What a line of the catalogue costs follows from its tokens and the prices below,
in exact decimals of a cent; the priority tier is never in a cost report, code execution is in nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Literal

from sandbox.errors import SandboxError
from sandbox.truth import (
    CURRENCY,
    DETAIL_KEYS,
    DETAIL_MEASURES,
    ProviderTruth,
    Row,
    add,
    days_between,
    detail_row,
    draw,
    draw_between,
    in_detail_order,
)
from sandbox.world import Restatement, World

PROVIDER = "anthropic"
QUIET_EVERY = 13
IDLE_EVERY = 9

TOKENS = (
    "uncached_input_tokens",
    "cache_creation.ephemeral_5m_input_tokens",
    "cache_creation.ephemeral_1h_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
)
WEB_SEARCHES = "web_search_requests"
REQUESTS = "requests"
CODE_EXECUTION = "Code Execution Usage"
"""The description of its line of cost, by which a restatement names it, too."""
MILLICENTS = "millicents"

MODELS: Mapping[str, tuple[str, str, int]] = {
    "claude-sonnet-5": ("anthropic/claude-sonnet-5", "Claude Sonnet 5", 300),
    "claude-haiku-4-5-20251001": ("anthropic/claude-haiku-4-5", "Claude Haiku 4.5", 100),
    "claude-opus-4-6": ("anthropic/claude-opus-4-6", "Claude Opus 4.6", 500),
    "claude-3-haiku-20240307": ("anthropic/claude-3-haiku", "Claude Haiku 3", 25),
    "model-under-a-code-name": ("model-under-a-code-name", "Model under a code name", 777),
}
"""Model id → what it really is, what cost descriptions call it, cents per million uncached input tokens."""

KINDS: Mapping[str, tuple[str, Fraction]] = {
    "uncached_input_tokens": ("Input Tokens", Fraction(1)),
    "cache_creation.ephemeral_5m_input_tokens": ("Input Tokens, Cache Write (5m)", Fraction(5, 4)),
    "cache_creation.ephemeral_1h_input_tokens": ("Input Tokens, Cache Write (1h)", Fraction(2)),
    "cache_read_input_tokens": ("Input Tokens, Cache Hit", Fraction(1, 10)),
    "output_tokens": ("Output Tokens", Fraction(5)),
}
"""Kind of token → what cost descriptions call it, and its price beside uncached input."""

Generation = Literal["classic", "analytics"]


@dataclass(frozen=True)
class Line:
    """
    One combination of everything usage is grouped by, and about how much there is of it.

    :param workspace: ``None`` for the default workspace.
    :param key: ``None`` for the Console's workbench.
    :param requests: the most requests on one day.
    :param tokens: the most input tokens of one request.
    :param cache: whether the prompt cache is used.
    :param searches: whether it searches the web.
    :param first_day: days between its first day and the world's first start; ``None`` for always there.
    :param last_day: days between its last day and the world's first start; ``None`` for still there.
    """

    workspace: str | None
    key: str | None
    model: str
    tier: str = "standard"
    window: str = "0-200k"
    geo: str = "global"
    requests: int = 900
    tokens: int = 6000
    cache: bool = True
    searches: bool = False
    first_day: int | None = None
    last_day: int | None = None

    @property
    def region(self) -> str:
        """The region in the marts."""
        return "unspecified" if self.geo == "not_available" else self.geo


@dataclass(frozen=True)
class Organization:
    """
    An organisation.

    :param default_workspace: the id that only the analytics reports call the default workspace by.
    :param workspaces: id → name, without the default one.
    :param executes_code: workspaces with code execution.
    """

    id: str
    name: str
    generation: Generation
    default_workspace: str
    workspaces: Mapping[str, str]
    lines: tuple[Line, ...]
    executes_code: tuple[str | None, ...]

    def project(self, workspace: str | None) -> tuple[str, str]:
        """Return id and name of a workspace in the marts."""
        if workspace is not None:
            return workspace, self.workspaces[workspace]
        if self.generation == "classic":
            return "default", "Default workspace"
        return self.default_workspace, "Default"


def _lines(search: str, support: str, key: str) -> tuple[Line, ...]:
    """Return the lines of an organisation with two workspaces."""
    return (
        Line(search, f"apikey_01{key}A", "claude-sonnet-5", searches=True),
        Line(search, f"apikey_01{key}A", "claude-sonnet-5", geo="us", searches=True),
        Line(search, f"apikey_01{key}B", "claude-sonnet-5"),
        Line(search, f"apikey_01{key}A", "claude-sonnet-5", tier="batch", requests=4_000_000_000, tokens=200_000),
        Line(search, f"apikey_01{key}A", "claude-sonnet-5", window="200k-1M", requests=20, tokens=700_000),
        Line(support, f"apikey_01{key}C", "claude-opus-4-6", tier="priority", geo="us"),
        Line(support, f"apikey_01{key}C", "claude-opus-4-6", geo="us"),
        Line(support, f"apikey_01{key}C", "claude-haiku-4-5-20251001", geo="not_available", cache=False),
        Line(support, f"apikey_01{key}C", "claude-3-haiku-20240307", geo="not_available", last_day=12),
        Line(None, None, "claude-haiku-4-5-20251001", geo="not_available", requests=1, tokens=3, cache=False),
        Line(None, f"apikey_01{key}D", "model-under-a-code-name", first_day=5),
    )


PRODUCTION = Organization(
    "11111111-2222-4333-8444-555555555555",
    "Sandbox production",
    "classic",
    "wrkspc_01SandboxDefaultP",
    {
        "wrkspc_01SandboxSearch": "Search",
        "wrkspc_01SandboxSupport": "Support, 'old' \"&\" archived",
        "wrkspc_01SandboxIdle": "Idle",
    },
    _lines("wrkspc_01SandboxSearch", "wrkspc_01SandboxSupport", "SandboxP"),
    ("wrkspc_01SandboxSearch", None),
)
RESEARCH = Organization(
    "66666666-7777-4888-8999-000000000000",
    "Sandbox research",
    "analytics",
    "wrkspc_01SandboxDefaultR",
    {"wrkspc_01SandboxLab": "Lab", "wrkspc_01SandboxField": "Field"},
    _lines("wrkspc_01SandboxLab", "wrkspc_01SandboxField", "SandboxR"),
    ("wrkspc_01SandboxLab", None),
)
ORGANIZATIONS = (PRODUCTION, RESEARCH)


@dataclass(frozen=True)
class Usage:
    """
    What one day holds of one line.

    :param values: every count, zeros included.
    """

    line: Line
    values: Mapping[str, int]


@dataclass(frozen=True)
class Cost:
    """
    One line of a day's cost, per API key; the classic report adds the keys up.

    :param cents: exactly.
    """

    workspace: str | None
    key: str | None
    description: str
    cost_type: str
    cents: Fraction
    token_type: str | None = None
    model: str | None = None
    tier: str | None = None
    window: str | None = None
    geo: str | None = None


class AnthropicTruth(ProviderTruth):
    """The truth about Anthropic."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, Line, date], dict[str, int]] = {}

    def usage(self, organization: Organization, day: date) -> list[Usage]:
        """Return what a day holds, line by line; today's is partial."""
        return [Usage(line, values) for line in organization.lines if (values := self._values(organization, line, day))]

    def executions(self, organization: Organization, day: date) -> dict[str | None, dict[str, int]]:
        """Return workspace → the spans of code execution of a day (``requests``) and what they cost (``millicents``)."""
        found = {}
        for workspace in organization.executes_code:
            key = (self.world.seed, organization.id, workspace, "code execution", day)
            if draw(*key) % 3:
                drawn = {
                    REQUESTS: draw_between(1, 90, *key, REQUESTS),
                    MILLICENTS: draw_between(1, 999_999, *key, MILLICENTS),
                }
                if values := self._as_of_today(organization, "unspecified", CODE_EXECUTION, day, drawn):
                    found[workspace] = values
        return found

    def costs(self, organization: Organization, day: date) -> list[Cost]:
        """Return every line of a day's cost."""
        found = [cost for usage in self.usage(organization, day) for cost in _costs_of(usage)]
        for workspace, values in self.executions(organization, day).items():
            found.append(Cost(workspace, None, CODE_EXECUTION, "code_execution", Fraction(values[MILLICENTS], 1000)))
        return found

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return rows of usage, and rows of cost beside them."""
        found: dict[tuple[Any, ...], Row] = {}
        for organization in ORGANIZATIONS:
            if accounts is None or organization.id in accounts:
                for day in days_between(first, last):
                    for row in (*self._usage_rows(organization, day), *self._cost_rows(organization, day)):
                        _add_up(found, row)
        return in_detail_order(found.values())

    def validate(self, restatement: Restatement) -> None:
        """Raise if the organisation, geography, model or a count is unknown."""
        organization = next((one for one in ORGANIZATIONS if one.id == restatement.account), None)
        if organization is None:
            raise SandboxError(f"There is no organisation {restatement.account!r} in the sandbox's Anthropic.")
        places = {(line.region, line.model) for line in organization.lines} | {("unspecified", CODE_EXECUTION)}
        if not any(region == restatement.region and restatement.model in (None, model) for region, model in places):
            raise SandboxError(
                f"There is no model {restatement.model!r} in {restatement.region!r} of {organization.name}."
            )
        for name, value in (restatement.values or {}).items():
            if name not in (*TOKENS, WEB_SEARCHES, REQUESTS, MILLICENTS) or not isinstance(value, int):
                raise SandboxError(f"{name!r} = {value} is not a count that Anthropic gives.")

    def _usage_rows(self, organization: Organization, day: date) -> Iterator[Row]:
        counts_requests = organization.generation == "analytics"
        for usage in self.usage(organization, day):
            line, values = usage.line, usage.values
            write_5m, write_1h = values[TOKENS[1]], values[TOKENS[2]]
            yield self._row(
                organization,
                day,
                line.workspace,
                region=line.region,
                model=MODELS[line.model][0],
                raw_model_id=line.model,
                credential_id=line.key,
                service_tier=line.tier,
                requests=values[REQUESTS] if counts_requests else None,
                input_tokens=sum(values[name] for name in TOKENS[:4]),
                uncached_input_tokens=values[TOKENS[0]],
                cache_read_tokens=values[TOKENS[3]],
                cache_write_tokens=write_5m + write_1h,
                cache_write_5m_tokens=write_5m,
                cache_write_1h_tokens=write_1h,
                output_tokens=values[TOKENS[4]],
                server_tool_requests=values[WEB_SEARCHES],
            )
        for workspace, values in self.executions(organization, day).items() if counts_requests else ():
            zeros = dict.fromkeys(
                (
                    "input_tokens",
                    "uncached_input_tokens",
                    "cache_read_tokens",
                    "cache_write_tokens",
                    "cache_write_5m_tokens",
                    "cache_write_1h_tokens",
                    "output_tokens",
                ),
                0,
            )
            yield self._row(
                organization,
                day,
                workspace,
                region="unspecified",
                model="no model",
                raw_model_id="no model",
                server_tool_requests=values[REQUESTS],
                **zeros,
            )

    def _cost_rows(self, organization: Organization, day: date) -> Iterator[Row]:
        by_key = organization.generation == "analytics"
        for cost in self.costs(organization, day):
            nameless = cost.cost_type if by_key else cost.description
            # The classic report names no model beside a web search.
            model = cost.model if by_key or cost.cost_type == "tokens" else None
            has_place = by_key or cost.cost_type == "tokens"
            geo = cost.geo if has_place else None
            yield self._row(
                organization,
                day,
                cost.workspace,
                region=geo if geo in ("us", "global") else "unspecified",
                model=MODELS[model][0] if model else nameless,
                raw_model_id=model or nameless,
                credential_id=cost.key if by_key else None,
                service_tier=cost.tier if has_place else None,
                billed_cost=exact(cost.cents / 100),
                billed_currency="USD",
            )

    @staticmethod
    def _row(organization: Organization, day: date, workspace: str | None, **known: Any) -> Row:
        project_id, project_name = organization.project(workspace)
        return detail_row(
            usage_date=day,
            provider=PROVIDER,
            account_id=organization.id,
            account_name=organization.name,
            project_id=project_id,
            project_name=project_name,
            **known,
        )

    def _values(self, organization: Organization, line: Line, day: date) -> dict[str, int]:
        key = (organization.id, line, day)
        if key not in self._drawn:
            self._drawn[key] = self._draw(organization, line, day)
        return self._as_of_today(organization, line.region, line.model, day, self._drawn[key])

    def _as_of_today(
        self, organization: Organization, region: str, model: str, day: date, values: dict[str, int]
    ) -> dict[str, int]:
        today = self.world.clock.today()
        if day > today:
            return {}
        if day == today:
            percent = draw_between(20, 80, self.world.seed, "so far", day)
            values = {name: value * percent // 100 for name, value in values.items()}
        restated = self.world.restatements.find(PROVIDER, organization.id, region, model, day)
        if restated is None or not values:
            return values
        changed = restated.apply(values)
        return {name: changed[name] for name in values} if changed else {}

    def _draw(self, organization: Organization, line: Line, day: date) -> dict[str, int]:
        key = (self.world.seed, organization.id, line)
        age = (self.world.anchor - day).days
        if line.first_day is not None and age > line.first_day:
            return {}
        if line.last_day is not None and age < line.last_day:
            return {}
        if age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, organization.id):
            return {}
        if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return {}
        requests = draw_between(1, line.requests, *key, day, REQUESTS)

        def some(name: str, most: int) -> int:
            return draw_between(0, most, *key, day, name)

        return {
            TOKENS[0]: some(TOKENS[0], requests * line.tokens),
            TOKENS[1]: some(TOKENS[1], requests * line.tokens) if line.cache else 0,
            TOKENS[2]: some(TOKENS[2], requests * line.tokens) if line.cache and draw(*key, day) % 2 else 0,
            TOKENS[3]: some(TOKENS[3], requests * line.tokens * 3) if line.cache else 0,
            TOKENS[4]: 1 + some(TOKENS[4], requests * line.tokens // 4),
            WEB_SEARCHES: some(WEB_SEARCHES, requests) if line.searches else 0,
            REQUESTS: requests,
        }


TRUTH = AnthropicTruth


def exact(number: Fraction) -> Decimal:
    """Return a fraction whose denominator has no other factors than 2 and 5 as the decimal it is."""
    with localcontext() as context:
        context.prec = 60
        return Decimal(number.numerator) / Decimal(number.denominator)


def _costs_of(usage: Usage) -> Iterator[Cost]:
    """Yield what one line of usage costs, by kind of token."""
    line = usage.line
    if line.tier == "priority":
        return
    _, label, price = MODELS[line.model]
    factor = Fraction(1, 2) if line.tier == "batch" else Fraction(1)
    factor *= Fraction(11, 10) if line.geo == "us" else 1
    factor *= 2 if line.window == "200k-1M" else 1
    suffix = "".join(
        text
        for text, applies in (
            (" (Batch)", line.tier == "batch"),
            (" (Long Context)", line.window == "200k-1M"),
            (" (US)", line.geo == "us"),
        )
        if applies
    )
    for kind, (name, ratio) in KINDS.items():
        if usage.values[kind]:
            yield Cost(
                line.workspace,
                line.key,
                f"{label} Usage - {name}{suffix}",
                "tokens",
                usage.values[kind] * price * ratio * factor / 1_000_000,
                kind,
                line.model,
                line.tier,
                line.window,
                line.geo,
            )
    if usage.values[WEB_SEARCHES]:
        yield Cost(
            line.workspace,
            line.key,
            "Web Search Usage",
            "web_search",
            Fraction(usage.values[WEB_SEARCHES]),
            None,
            line.model,
            line.tier,
            line.window,
            line.geo,
        )


def _add_up(found: dict[tuple[Any, ...], Row], row: Row) -> None:
    """Add a row to those of the same place."""
    key = tuple(row[name] for name in DETAIL_KEYS)
    if key not in found:
        found[key] = row
        return
    known = found[key]
    with localcontext() as context:
        context.prec = 60
        for measure in DETAIL_MEASURES:
            known[measure] = add(known[measure], row[measure])
    known[CURRENCY] = known[CURRENCY] or row[CURRENCY]
