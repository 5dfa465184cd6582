"""
Google Vertex AI: what two billing accounts were billed for models, and what a mart must make of it.

A *line* is one SKU in one project and place. What each SKU really is (model, meter, tier) stands beside it, written out by
hand. Requests are in no bill.

The company pays in zloty, its dataset is multi-region and holds the standard export. The lab pays in dollars; its dataset
lies in one region, holds the detailed export, and its jobs run in another project.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sandbox.errors import SandboxError
from sandbox.truth import ProviderTruth, Row, days_between, detail_row, draw, draw_between, in_detail_order
from sandbox.world import Restatement, World

PROVIDER = "google_vertex_ai"
QUIET_EVERY = 11
IDLE_EVERY = 7
DIGITS = 9
"""Money is counted in 10^-9 of its currency here."""

Values = Mapping[str, int]


@dataclass(frozen=True)
class Service:
    """A service of Google's price list. ``name`` is what the bill calls it."""

    id: str
    name: str


VERTEX = Service("C7E2-9256-1C43", "Vertex AI")
GEMINI = Service("AEFD-7695-64FA", "Gemini API")
OPUS = Service("5A9D-0B01-0005", "Claude Opus 5")
SONNET = Service("5A9D-0B01-0046", "Claude Sonnet 4.6")


@dataclass(frozen=True)
class Project:
    """A project; a few lines have none."""

    id: str | None
    name: str | None


@dataclass(frozen=True)
class Line:
    """
    One SKU as one project uses it.

    :param text: the SKU's description, exactly as Google writes it.
    :param model: what the marts call the SKU's model in the provider's terms; the text itself where it names none.
    :param identity: what it really is.
    :param meter: what its amount counts; ``None`` for what no meter counts.
    :param location: ``location.location``; ``region`` is ``location.region``, absent for global endpoints.
    :param amount: the most of it on one day.
    :param cost: the most 10^-9 of the currency on one day; below zero for a correction.
    :param credit: the type of the credits on it, if it gets any.
    :param mapped: whether somebody can tell from the text what it is.
    """

    service: Service
    sku: str
    text: str
    model: str
    identity: str
    meter: str | None
    project: Project
    location: str | None = "europe-west1"
    region: str | None = "europe-west1"
    tier: str | None = None
    amount: int = 9_000_000
    cost: int = 40_000_000_000
    credit: str | None = None
    cost_type: str = "regular"
    label: str | None = None
    mapped: bool = True

    @property
    def endpoint(self) -> str:
        """What the marts call the service: adjustments stand apart."""
        return self.service.name + ("/adjustment" if self.cost_type == "adjustment" else "")


@dataclass(frozen=True)
class Account:
    """
    A billing account and its export.

    :param location: where its dataset lies.
    :param export: ``standard`` or ``detailed``.
    """

    account_id: str
    name: str
    currency: str
    location: str
    export: str
    project: str
    dataset: str
    job_project: str
    lines: tuple[Line, ...]

    @property
    def table(self) -> str:
        """The export table's name, which holds the account's id."""
        kind = "resource_v1" if self.export == "detailed" else "v1"
        return f"gcp_billing_export_{kind}_{self.account_id.replace('-', '_')}"


_SHOP = Project("sandbox-shop", "Shop")
_BOT = Project("sandbox-bot", "Bot; 'quoted' & \u00fcmlauted")
_NONE = Project(None, None)
_FLASH, _FLASH_ID = "gemini-2.5-flash", "google/gemini-2-5-flash"
_LITE, _LITE_ID = "gemini-2.5-flash-lite", "google/gemini-2-5-flash-lite"
_PRO, _PRO_ID = "gemini-3.0-pro", "google/gemini-3-0-pro"
_OPUS, _OPUS_ID = "claude-opus-5", "anthropic/claude-opus-5"
_SONNET, _SONNET_ID = "claude-sonnet-4.6", "anthropic/claude-sonnet-4-6"
_IN, _READ, _OUT = "uncached_input_tokens", "cache_read_tokens", "output_tokens"
_ODD = "Gemini 9 Nebula Text Dreams - Predictions"
_GLOBAL: dict[str, Any] = {"location": "global", "region": None}
_EAST5: dict[str, Any] = {"location": "us-east5", "region": "us-east5"}
_LAB = Project("sandbox-lab", "Lab")
_BAND = "Context Window Size from 0 to 200000 Tokens"

COMPANY = Account(
    "0A1B2C-3D4E5F-A1B2C3",
    "Sandbox company",
    "PLN",
    "EU",
    "standard",
    "sandbox-billing",
    "billing_export",
    "sandbox-billing",
    (
        Line(
            VERTEX,
            "FDAB-647C-5A22",
            "Gemini 2.5 Flash GA Text Input - Predictions",
            _FLASH,
            _FLASH_ID,
            _IN,
            _SHOP,
            credit="PROMOTION",
        ),
        Line(
            VERTEX,
            "FDAB-647C-5A22",
            "Gemini 2.5 Flash GA Text Input - Predictions",
            _FLASH,
            _FLASH_ID,
            _IN,
            _BOT,
            location="us-central1",
            region="us-central1",
            amount=5_000_000_000_000,
        ),
        Line(VERTEX, "AF56-1BF9-492A", "Gemini 2.5 Flash GA Text Output - Predictions", _FLASH, _FLASH_ID, _OUT, _SHOP),
        Line(
            VERTEX,
            "CD33-11F4-1220",
            "Gemini 2.5 Flash GA Thinking Text Output - Predictions",
            _FLASH,
            _FLASH_ID,
            _OUT,
            _SHOP,
        ),
        Line(VERTEX, "A1C1-77CC-6FAE", " Gemini 2.5 Flash GA Input Text Caching", _FLASH, _FLASH_ID, _READ, _SHOP),
        Line(VERTEX, "F91E-007E-3BA1", "Gemini 2.5 Flash Lite Text Input - Predictions", _LITE, _LITE_ID, _IN, _BOT),
        Line(
            VERTEX,
            "2D6E-6AC5-0B47",
            "Gemini 2.5 Flash Lite Text Output - Batch Predictions",
            _LITE,
            _LITE_ID,
            _OUT,
            _BOT,
            tier="batch",
        ),
        Line(VERTEX, "47A8-A5A1-B26C", "Gemini 3.0 Pro Image Output - Predictions", _PRO, _PRO_ID, _OUT, _BOT),
        Line(
            VERTEX,
            "148C-9912-0E1E",
            "Gemini 3 Flash Text Input Caching Storage",
            "gemini-3-flash",
            "google/gemini-3-flash",
            None,
            _BOT,
        ),
        Line(
            VERTEX,
            "180A-C24F-9D7F",
            "Imagen 4 Generation",
            "imagen-4",
            "google/imagen-4",
            "output_images",
            _BOT,
            amount=400,
        ),
        Line(
            VERTEX,
            "3F00-77AA-0001",
            "LLM Grounding with Google Search tool - Predictions",
            "LLM Grounding with Google Search tool - Predictions",
            "LLM Grounding with Google Search tool - Predictions",
            "server_tool_requests",
            _BOT,
            **_GLOBAL,
            amount=300,
        ),
        Line(
            VERTEX,
            "3F00-77AA-0002",
            "Vertex AI: ReasoningEngine management fee on CPU",
            "Vertex AI: ReasoningEngine management fee on CPU",
            "Vertex AI: ReasoningEngine management fee on CPU",
            None,
            _BOT,
        ),
        # Nobody knows what this counts: its cost is shown, its amount is not.
        Line(VERTEX, "3F00-77AA-0003", _ODD, _ODD, _ODD, None, _SHOP, mapped=False),
        Line(
            GEMINI,
            "911A-8880-A243",
            "Generate content output token count gemini 2.5 flash short input text",
            _FLASH,
            _FLASH_ID,
            _OUT,
            _SHOP,
            **_GLOBAL,
            label="gemini25flash",
        ),
        Line(
            GEMINI,
            "5CDC-4C82-2AEC",
            "Generate content cached input token count gemini 2.5 flash input short text",
            _FLASH,
            _FLASH_ID,
            _READ,
            _SHOP,
            **_GLOBAL,
            credit="FREE_TIER",
        ),
        Line(
            OPUS,
            "6C01-0000-0001",
            "Claude Opus 5 Input",
            _OPUS,
            _OPUS_ID,
            _IN,
            _SHOP,
            **_GLOBAL,
            credit="COMMITTED_USAGE_DISCOUNT",
        ),
        Line(OPUS, "6C01-0000-0002", "Claude Opus 5 Output", _OPUS, _OPUS_ID, _OUT, _SHOP, **_GLOBAL),
        Line(OPUS, "6C01-0000-0003", "Claude Opus 5 Cache Read", _OPUS, _OPUS_ID, _READ, _SHOP, **_GLOBAL),
        Line(
            OPUS,
            "6C01-0000-0004",
            "Claude Opus 5 5-minute Cache Write",
            _OPUS,
            _OPUS_ID,
            "cache_write_5m_tokens",
            _SHOP,
            **_GLOBAL,
        ),
        Line(
            OPUS,
            "6C01-0000-0001",
            "Claude Opus 5 Input",
            _OPUS,
            _OPUS_ID,
            None,
            _SHOP,
            **_GLOBAL,
            cost=-(10**10),
            cost_type="adjustment",
        ),
        Line(
            SONNET,
            "6C02-0000-0001",
            f"Claude Sonnet 4.6 \u2014 Input Cache Write Tokens (TTL 3600 seconds) \u2014 us-east5 \u2014 {_BAND}",
            _SONNET,
            _SONNET_ID,
            "cache_write_1h_tokens",
            _BOT,
            **_EAST5,
        ),
        Line(
            SONNET,
            "6C02-0000-0002",
            f"Claude Sonnet 4.6 \u2014 Output Tokens \u2014 us-east5 \u2014 {_BAND}",
            _SONNET,
            _SONNET_ID,
            _OUT,
            _BOT,
            **_EAST5,
        ),
    ),
)

LAB = Account(
    "0F00BA-112233-445566",
    "Sandbox lab",
    "USD",
    "europe-west1",
    "detailed",
    "sandbox-lab-billing",
    "exports",
    "sandbox-lab-jobs",
    (
        Line(
            VERTEX,
            "EAC4-305F-1249",
            "Gemini 3.0 Pro Text Input - Predictions",
            _PRO,
            _PRO_ID,
            _IN,
            _LAB,
            credit="PROMOTION",
        ),
        Line(VERTEX, "2737-2D33-D986", "Gemini 3.0 Pro Text Output - Predictions", _PRO, _PRO_ID, _OUT, _LAB),
        Line(
            VERTEX,
            "3F00-77AA-0010",
            "Cloud Vertex AI Model Garden Model as a Service Llama 4 Maverick Batch Input Token",
            "llama-4-maverick",
            "meta/llama4-maverick",
            _IN,
            _LAB,
            tier="batch",
        ),
        # A fee that belongs to no project.
        Line(
            VERTEX,
            "3F00-77AA-0011",
            "Vertex AI: Provisioned Throughput 1 month",
            "Vertex AI: Provisioned Throughput 1 month",
            "Vertex AI: Provisioned Throughput 1 month",
            None,
            _NONE,
            location=None,
            region=None,
        ),
    ),
)
ACCOUNTS = (COMPANY, LAB)


def money(amount: int) -> Decimal:
    """Return 10^-9 of a currency as the currency, with all its digits."""
    text = f"{abs(amount):0{DIGITS + 1}d}"
    return Decimal(f"{'-' if amount < 0 else ''}{text[:-DIGITS]}.{text[-DIGITS:]}")


class GoogleVertexAITruth(ProviderTruth):
    """The truth about Google Vertex AI."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, Line, date], dict[str, int]] = {}

    def began(self, account: Account) -> date:
        """Return the first day that an export knows: a multi-region dataset is filled back to the previous month."""
        switched_on = self.world.opened
        if account.location != "EU":
            return switched_on
        return (switched_on.replace(day=1) - timedelta(days=1)).replace(day=1)

    def first_told(self, account: Account, line: Line, day: date) -> dict[str, int]:
        """Return what the bill said of a line's day before anything was corrected. Of today there is half already."""
        today = self.world.clock.today()
        if not self.began(account) <= day <= today:
            return {}
        key = (account.account_id, line, day)
        if key not in self._drawn:
            self._drawn[key] = self._draw(account, line, day)
        values = self._drawn[key]
        return {name: value // 2 for name, value in values.items()} if day == today else dict(values)

    def values(self, account: Account, line: Line, day: date) -> dict[str, int]:
        """Return what the bill says now: amount, cost, credit; nothing for a line that is not on it."""
        values = self.first_told(account, line, day)
        restated = self.world.restatements.find(PROVIDER, account.account_id, "-", line.model, day)
        # A line that is corrected down to nothing stays on the bill.
        return restated.apply(values) if restated and values else values

    def billed(self, account: Account, day: date) -> Iterator[tuple[Line, dict[str, int]]]:
        """Yield the lines of a day's bill."""
        for line in account.lines:
            if values := self.values(account, line, day):
                yield line, values

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day and line."""
        return in_detail_order(
            _detail(account, line, day, values)
            for account in ACCOUNTS
            if accounts is None or account.account_id in accounts
            for day in days_between(first, last)
            for line, values in self.billed(account, day)
        )

    def unmapped(self, first: date, last: date) -> dict[str, Decimal]:
        """Return the SKUs that nobody can map, and what they cost after credits."""
        costs: dict[str, int] = {}
        for account in ACCOUNTS:
            for day in days_between(first, last):
                for line, values in self.billed(account, day):
                    if not line.mapped:
                        costs[line.text] = costs.get(line.text, 0) + values["cost"] - values["credit"]
        return {text: money(cost) for text, cost in costs.items()}

    def validate(self, restatement: Restatement) -> None:
        """Raise if the account or the model is unknown. Only whole days can be scaled, or vanish."""
        found = next((known for known in ACCOUNTS if known.account_id == restatement.account), None)
        if found is None:
            raise SandboxError(f"There is no billing account {restatement.account!r} in the sandbox's Google.")
        if restatement.region != "-":
            raise SandboxError("A billing account has no regions: say '-'.")
        if restatement.model not in (None, *(line.model for line in found.lines)):
            raise SandboxError(f"The billing account {found.account_id} has no model {restatement.model!r}.")
        if restatement.values is not None:
            raise SandboxError("A model of Google's bill has several SKUs: give a factor, or let it vanish.")

    def _draw(self, account: Account, line: Line, day: date) -> dict[str, int]:
        key = (self.world.seed, account.account_id, repr(line))
        age = (self.world.anchor - day).days
        # Neither skips the first start's own day, so that a newcomer's first look at today is never empty.
        if age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, account.account_id):
            return {}
        if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return {}
        cost = draw_between(1, abs(line.cost), *key, day, "cost")
        # Trial credits pay for everything on some days: the net is zero then, and the cost is not.
        share = (1 + draw(*key, day, "share") % 4) if line.credit else 0
        return {
            "amount": draw_between(1, line.amount, *key, day) if line.cost > 0 else 0,
            "cost": cost if line.cost > 0 else -cost,
            "credit": cost * share // 4,
        }


TRUTH = GoogleVertexAITruth


def _detail(account: Account, line: Line, day: date, values: Values) -> Row:
    credit = -values["credit"]
    return detail_row(
        usage_date=day,
        provider=PROVIDER,
        account_id=account.account_id,
        account_name=account.name,
        region=line.region or line.location or "unspecified",
        model=line.identity,
        raw_model_id=line.model,
        endpoint=line.endpoint,
        project_id=line.project.id,
        project_name=line.project.name,
        service_tier=line.tier,
        billed_cost=money(values["cost"]),
        credits=money(credit),
        net_cost=money(values["cost"] + credit),
        billed_currency=account.currency,
        **_measures(line.meter, values["amount"]),
    )


def _measures(meter: str | None, amount: int) -> dict[str, Any]:
    if meter is None:
        return {}
    if meter.startswith("cache_write"):
        return {"input_tokens": amount, "cache_write_tokens": amount, meter: amount}
    return {meter: amount} | ({"input_tokens": amount} if meter in (_IN, _READ) else {})
