"""
Azure OpenAI: what Azure Monitor holds about three subscriptions, and what a mart must make of it.

A *use* is one model called through one deployment of a resource, counted in one region. What the model really is stands
beside it, written out by hand, and so does the name that the marts give it. The company's subscriptions are seen whole
by its service principal; the lab's sees a resource group and one further resource, and Azure gives the lab the classic
family of metrics only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from sandbox.errors import SandboxError
from sandbox.truth import ProviderTruth, Row, days_between, detail_row, draw, draw_between, in_detail_order
from sandbox.world import Restatement, World

PROVIDER = "azure_openai"
QUIET_EVERY = 11
IDLE_EVERY = 7
READABLE_DAYS = 93

Values = Mapping[str, int]
Kind = Literal["chat", "embedding", "claude", "image"]
STATUSES = {"requests": "200", "throttled": "429", "client": "400", "server": "503"}
CACHES = ("cache_read", "write_5m", "write_1h")


@dataclass(frozen=True)
class Use:
    """
    One model behind one deployment.

    :param deployment: ``None`` where Azure Monitor names none.
    :param raw_model_id: what the marts call model and version.
    :param model: what it really is.
    :param families: which metrics count it: ``new``, ``classic`` or both.
    :param region: where Azure Monitor says it was served, as it writes it; the resource's own if left out.
    :param sku: ``None`` for a deployment that the list of deployments does not have.
    :param last_day: days between its last day and the world's first start; ``None`` for still there.
    """

    deployment: str | None
    model_name: str
    version: str | None
    raw_model_id: str
    model: str
    kind: Kind = "chat"
    families: tuple[str, ...] = ("new", "classic")
    region: str | None = None
    sku: str | None = "GlobalStandard"
    format: str = "OpenAI"
    requests: int = 900
    tokens: int = 6000
    last_day: int | None = None


@dataclass(frozen=True)
class Resource:
    """
    A resource of Azure AI services.

    :param display: its region as Azure Monitor writes it; ``location`` is the same in Resource Manager's words.
    """

    subscription: str
    group: str
    name: str
    location: str
    display: str
    uses: tuple[Use, ...]
    kind: str = "AIServices"

    @property
    def id(self) -> str:
        """The resource's id."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/"
            f"Microsoft.CognitiveServices/accounts/{self.name}"
        )


@dataclass(frozen=True)
class Subscription:
    """
    A subscription.

    :param name: what Azure calls it.
    :param shown_as: what the marts call it, if the connection says so.
    """

    account_id: str
    name: str
    shown_as: str | None = None

    @property
    def account_name(self) -> str:
        """Its name in the marts."""
        return self.shown_as or self.name


PRODUCTION = Subscription("11111111-aaaa-4aaa-8aaa-111111111111", "Sandbox production")
RESEARCH = Subscription("22222222-bbbb-4bbb-8bbb-222222222222", "Sandbox research")
LAB = Subscription("33333333-cccc-4ccc-8ccc-333333333333", "lab-payg-0815", "Sandbox lab")
SUBSCRIPTIONS = (PRODUCTION, RESEARCH, LAB)

_4O = ("gpt-4o", "2024-11-20", "gpt-4o-2024-11-20", "openai/gpt-4o")
_MINI = ("gpt-4o-mini", "2024-07-18", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini")
_41 = ("gpt-4.1", "2025-04-14", "gpt-4.1-2025-04-14", "openai/gpt-4-1")
_EMBED = ("text-embedding-3-small", "1", "text-embedding-3-small:1", "openai/text-embedding-3-small")

PROD = Resource(
    PRODUCTION.account_id,
    "rg-ai",
    "aoai-prod",
    "eastus2",
    "East US 2",
    (
        Use("chat-4o", *_4O, requests=4_000_000, tokens=200_000),
        Use("chat-4o-mini", *_MINI),
        # Served elsewhere than the resource lives.
        Use("zone-4o", *_4O, region="East US", sku="DataZoneStandard"),
        Use("ptu-41", *_41, sku="ProvisionedManaged"),
        Use("embed", *_EMBED, kind="embedding", sku="Standard"),
        Use(
            "claude",
            "claude-sonnet-4-5",
            "20250929",
            "claude-sonnet-4-5-20250929",
            "anthropic/claude-sonnet-4-5",
            kind="claude",
            families=("new",),
            format="Anthropic",
        ),
        # A router serves several models under one name.
        Use("router", *_41),
        Use("router", *_MINI),
        Use("legacy", "gpt-35-turbo", "0125", "gpt-35-turbo-0125", "openai/gpt-35-turbo-0125", families=("classic",)),
        # Deleted: no list knows it any more, its requests still name the model.
        Use("gone", "gpt-4", "0613", "gpt-4-0613", "openai/gpt-4-0613", families=("classic",), sku=None, last_day=4),
        Use(None, "dall-e-3", "3.0", "dall-e-3:3:0", "openai/dall-e-3", kind="image", sku=None, requests=40),
        *(Use(f"team-{n:02}", *_MINI, requests=5, tokens=90) for n in range(1, 9)),
    ),
)
SHARED = Resource(
    PRODUCTION.account_id,
    "rg-ai",
    "aoai-shared",
    "swedencentral",
    "Sweden Central",
    (
        Use("chat-4o", *_4O, sku="Standard"),
        Use("router", "model-router", "2025-08-07", "model-router-2025-08-07", "model-router-2025-08-07"),
    ),
    kind="OpenAI",
)
SHARED_EU = Resource(
    PRODUCTION.account_id,
    "RG-EU",
    "AOAI-Shared",
    "westeurope",
    "West Europe",
    (Use("chat-4o", *_4O, sku="Standard", requests=3), Use("embed", *_EMBED, kind="embedding", sku="Standard")),
    kind="OpenAI",
)
SPEECH = Resource(PRODUCTION.account_id, "rg-ai", "speech-prod", "eastus2", "East US 2", (), kind="SpeechServices")
RESEARCH_EAST = Resource(
    RESEARCH.account_id,
    "rg-research",
    "ais-research",
    "eastus2",
    "East US 2",
    (
        Use(
            "r1",
            "DeepSeek-R1",
            "1",
            "DeepSeek-R1:1",
            "deepseek/deepseek-r1",
            families=("new",),
            format="DeepSeek",
        ),
        Use(
            "opus",
            "claude-opus-4-6",
            "1",
            "claude-opus-4-6:1",
            "anthropic/claude-opus-4-6",
            kind="claude",
            families=("new",),
            format="Anthropic",
        ),
        Use("chat-41", *_41, requests=4_000_000, tokens=250_000),
    ),
)
LAB_EAST = Resource(
    LAB.account_id,
    "rg-lab",
    "lab-east",
    "eastus",
    "East US",
    (
        Use("chat", *_4O, families=("classic",)),
        Use("embed", *_EMBED, kind="embedding", families=("classic",), sku="Standard"),
    ),
    kind="OpenAI",
)
LAB_NORTH = Resource(
    LAB.account_id,
    "rg-other",
    "lab-north",
    "norwayeast",
    "Norway East",
    (Use("chat", *_MINI, families=("classic",)),),
    kind="OpenAI",
)
HIDDEN = Resource(LAB.account_id, "rg-other", "not-for-us", "eastus", "East US", (Use("chat", *_4O),), kind="OpenAI")
FLEET = tuple(
    Resource(
        "44444444-dddd-4ddd-8ddd-444444444444",
        "rg-fleet",
        f"fleet-{number:03}",
        "uksouth",
        "UK South",
        (Use("chat", *_MINI, requests=9),),
    )
    for number in range(1, 121)
)
"""So many resources of one place that a batch pays; no connection of the sandbox reads them."""
READ = (PROD, SHARED, SHARED_EU, RESEARCH_EAST, LAB_EAST, LAB_NORTH)
"""The resources that the sandbox's connections read."""
RESOURCES = (*READ, SPEECH, HIDDEN, *FLEET)
LOCATIONS = {"East US": "eastus"} | {resource.display: resource.location for resource in RESOURCES}


class AzureOpenAITruth(ProviderTruth):
    """The truth about Azure OpenAI."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, Use, date], dict[str, int]] = {}

    def values(self, resource: Resource, use: Use, day: date) -> dict[str, int]:
        """Return one use's day, only what is more than zero. Of today there is half already."""
        today = self.world.clock.today()
        if day > today:
            return {}
        key = (resource.id, use, day)
        if key not in self._drawn:
            self._drawn[key] = self._draw(resource, use, day)
        values = self._drawn[key]
        if day == today:
            values = {name: (value + 1) // 2 for name, value in values.items()}
        restated = self.world.restatements.find(
            PROVIDER, resource.subscription, resource.location, use.raw_model_id, day
        )
        values = restated.apply(values) if restated else values
        return {name: value for name, value in values.items() if value}

    def used(self, resource: Resource, day: date) -> Iterator[tuple[Use, dict[str, int]]]:
        """Yield the uses of a resource that have anything on that day."""
        for use in resource.uses:
            if values := self.values(resource, use, day):
                yield use, values

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day, resource and use."""
        return in_detail_order(
            _detail(resource, use, day, values)
            for resource in READ
            if accounts is None or resource.subscription in accounts
            for day in days_between(first, last)
            for use, values in self.used(resource, day)
        )

    def validate(self, restatement: Restatement) -> None:
        """Raise if the subscription, the region or the model is unknown. Only whole days can be scaled, or vanish."""
        found = [one for one in READ if one.subscription == restatement.account]
        if not found:
            raise SandboxError(f"There is no subscription {restatement.account!r} in the sandbox's Azure.")
        found = [one for one in found if one.location == restatement.region]
        if not found:
            raise SandboxError(f"That subscription has no resource in {restatement.region!r}.")
        if restatement.model not in (None, *(use.raw_model_id for one in found for use in one.uses)):
            raise SandboxError(f"There is no model {restatement.model!r} in {restatement.region!r}.")
        if restatement.values is not None:
            raise SandboxError("A day of Azure OpenAI is shared by deployments: give a factor, or let it vanish.")

    def _draw(self, resource: Resource, use: Use, day: date) -> dict[str, int]:
        key = (self.world.seed, resource.id, use.deployment, use.model_name)
        age = (self.world.anchor - day).days
        if use.last_day is not None and age < use.last_day:
            return {}
        # Neither skips the first start's own day, so that a newcomer's first look at today is never empty.
        if age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, resource.id):
            return {}
        if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return {}
        return _usage(use, *key, day)


TRUTH = AzureOpenAITruth


def _usage(use: Use, *key: object) -> dict[str, int]:
    def some(most: int, name: str) -> int:
        return draw(*key, name) % (most + 1)

    requests = 1 + some(use.requests - 1, "requests")
    values = {"requests": requests, "throttled": some(requests // 5, "throttled")}
    values |= {"client": some(requests // 9, "client"), "server": some(requests // 50, "server")}
    if use.kind == "image":
        return values | {"images": requests + some(requests, "images")}
    values["input"] = requests + some(requests * use.tokens, "input")
    if use.kind != "embedding":
        values["output"] = requests + some(requests * use.tokens // 4, "output")
    if use.kind == "claude" and some(2, "caches"):
        values |= {name: some(requests * use.tokens, name) for name in CACHES}
    return values


def _detail(resource: Resource, use: Use, day: date, values: Values) -> Row:
    subscription = next(one for one in SUBSCRIPTIONS if one.account_id == resource.subscription)
    return detail_row(
        usage_date=day,
        provider=PROVIDER,
        account_id=resource.subscription,
        account_name=subscription.account_name,
        region=LOCATIONS[use.region or resource.display],
        model=use.model,
        raw_model_id=use.raw_model_id,
        endpoint=use.deployment,
        project_id=resource.id.lower(),
        project_name=resource.name,
        service_tier=use.sku,
        **_measures(use, values),
    )


def _measures(use: Use, values: Values) -> dict[str, Any]:
    measures: dict[str, Any] = {}
    if any(name in values for name in STATUSES):
        measures |= {
            "requests": values.get("requests", 0),
            "throttled_requests": values.get("throttled", 0),
            "client_errors": values.get("client", 0),
            "server_errors": values.get("server", 0),
        }
    if use.kind == "image":
        return measures | ({"output_images": values["images"]} if "images" in values else {})
    if not any(name in values for name in ("input", "output", *CACHES)):
        return measures
    given = values.get("input", 0)
    measures |= {"input_tokens": given, "output_tokens": values.get("output", 0)}
    if use.kind != "claude":
        return measures | {"unsplit_input_tokens": given}
    measures["uncached_input_tokens"] = given
    if any(name in values for name in CACHES):
        read, short, long = (values.get(name, 0) for name in CACHES)
        measures |= {"cache_read_tokens": read, "cache_write_5m_tokens": short, "cache_write_1h_tokens": long}
        measures |= {"cache_write_tokens": short + long, "input_tokens": given + read + short + long}
    return measures
