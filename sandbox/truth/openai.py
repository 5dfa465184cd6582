"""
OpenAI: what two organizations used and were billed, and what a mart must make of it.

A *use* is one API key (or the playground, which has none) calling one endpoint in one way; a *line* is one kind of line
on the bill. Usage carries no money and the bill no requests, so they are drawn apart. What each model really is stands
beside it, written out by hand, and so does the model behind a line item.

The company answers as OpenAI's document of 2026 says; the lab as older ones: without cache writes and without the split
into modalities. The lab's connection asks for numbers per key and per user.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from sandbox.errors import SandboxError
from sandbox.truth import ProviderTruth, Row, days_between, detail_row, draw, draw_between, in_detail_order
from sandbox.world import Restatement, World

PROVIDER = "openai"
QUIET_EVERY = 11
IDLE_EVERY = 7
DIGITS = 15
"""Money is counted in 10^-15 US dollars here, so that it stays whole whatever is done with it."""
NO_MODEL = "no model"

UNCACHED = ("input_text", "input_audio", "input_image")
CACHED = ("cached_text", "cached_audio", "cached_image")
OUTPUT = ("output_text", "output_audio", "output_image")

Values = Mapping[str, int]


@dataclass(frozen=True)
class Project:
    """
    A project.

    :param name: ``None`` for one without, as there are.
    """

    id: str
    name: str | None
    archived: bool = False


@dataclass(frozen=True)
class Use:
    """
    One way of using an endpoint.

    :param endpoint: the last part of its path.
    :param model: as the API names it; ``None`` where the endpoint knows no models.
    :param identity: what it really is.
    :param requests: the most requests (or images, searches, …) on one day.
    :param tokens: the most input tokens of one request.
    :param audio: whether some of it is sound and images.
    """

    endpoint: str
    project: Project
    model: str | None = None
    identity: str = NO_MODEL
    key: str | None = None
    user: str | None = None
    batch: bool = False
    tier: str | None = "default"
    size: str | None = None
    source: str | None = None
    vector_store: str | None = None
    context_level: str | None = None
    requests: int = 900
    tokens: int = 6000
    audio: bool = False
    caches: bool = True

    @property
    def raw_model(self) -> str:
        """What a restatement and the marts call the model."""
        return self.model or NO_MODEL

    @property
    def where(self) -> str:
        """What the marts call the endpoint: batches stand apart."""
        return f"{self.endpoint}/batch" if self.batch else self.endpoint


@dataclass(frozen=True)
class Line:
    """
    One kind of line on the bill.

    :param model: the model in it, as the API spells it; the line item itself where there is none.
    :param cost: the most 10^-15 dollars on one day; below zero for a credit.
    """

    project: Project
    line_item: str
    model: str
    identity: str
    key: str | None = None
    tier: str | None = None
    unit: str | None = "tokens"
    cost: int = 75_000_000_000_000_000


@dataclass(frozen=True)
class Organization:
    """
    An organization.

    :param is_modern: whether its answers have the fields of 2026.
    :param tells_callers: whether its connection asks for keys and users.
    """

    account_id: str
    name: str
    uses: tuple[Use, ...]
    lines: tuple[Line, ...]
    is_modern: bool = True
    tells_callers: bool = False

    @property
    def everything(self) -> tuple[Use | Line, ...]:
        """Every use and every line."""
        return (*self.uses, *self.lines)

    @property
    def projects(self) -> tuple[Project, ...]:
        """Every project, in the order of the catalogue."""
        return tuple(dict.fromkeys(one.project for one in self.everything))


_SEARCH = Project("proj_sandboxSearch", "Search team")
_SUPPORT = Project("proj_sandboxSupport", "Support; 'quoted' & \u00fcmlauted")
_OLD = Project("proj_sandboxOld", "Chatbot of last year", archived=True)
_NAMELESS = Project("proj_sandboxNameless", None)
_MINI, _GPT = "gpt-5-mini-2025-08-07", "gpt-5.6-sol"

COMPANY = Organization(
    "org-SandboxCompany",
    "Sandbox company",
    (
        Use("completions", _SEARCH, _MINI, "openai/gpt-5-mini", "key_search1", "user-ann"),
        Use("completions", _SEARCH, _MINI, "openai/gpt-5-mini", "key_search2", "user-bob"),
        Use("completions", _SEARCH, _MINI, "openai/gpt-5-mini", None, "user-ann"),
        Use("completions", _SEARCH, _MINI, "openai/gpt-5-mini", "key_search1", "user-ann", batch=True, tier=None),
        Use("completions", _SUPPORT, _GPT, "openai/gpt-5-6-sol", "key_support", "user-cid", tier="priority"),
        Use("completions", _SUPPORT, _GPT, "openai/gpt-5-6-sol", "key_support", "user-cid", requests=4_000_000_000),
        Use("completions", _SUPPORT, "gpt-audio-mini-2025-12-15", "openai/gpt-audio-mini", "key_support", audio=True),
        Use("completions", _OLD, "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini", "key_old", caches=False, requests=3),
        Use("completions", _NAMELESS, "ft:gpt-4o-mini-2024-07-18:acme::9x", "ft:gpt-4o-mini-2024-07-18:acme::9x"),
        Use("embeddings", _SEARCH, "text-embedding-3-small", "openai/text-embedding-3-small", "key_search1"),
        Use("moderations", _SUPPORT, "omni-moderation-latest", "openai/omni-moderation", "key_support"),
        Use("images", _SUPPORT, "gpt-image-2", "openai/gpt-image-2", size="1024x1024", source="image.generation"),
        Use("images", _SUPPORT, "gpt-image-2", "openai/gpt-image-2", size="1024x1024", source="image.edit"),
        Use("images", _SUPPORT, "gpt-image-2", "openai/gpt-image-2", size="1792x1024", source="image.edit"),
        Use("audio_speeches", _SUPPORT, "tts-1", "openai/tts-1", "key_support"),
        Use("audio_transcriptions", _SUPPORT, "whisper-1", "openai/whisper-1", "key_support"),
        Use("vector_stores", _SEARCH, requests=9_000_000_000_000),
        Use("vector_stores", _SUPPORT),
        Use("code_interpreter_sessions", _SUPPORT, requests=12),
        Use("file_search_calls", _SEARCH, key="key_search1", vector_store="vs_one"),
        Use("file_search_calls", _SEARCH, key="key_search1", vector_store="vs_two"),
        Use("web_search_calls", _SEARCH, _MINI, "openai/gpt-5-mini", "key_search1", context_level="low"),
        Use("web_search_calls", _SEARCH, _MINI, "openai/gpt-5-mini", "key_search2", context_level="medium"),
    ),
    (
        Line(_SEARCH, f"{_MINI}, input", _MINI, "openai/gpt-5-mini", "key_search1"),
        Line(_SEARCH, f"{_MINI}, input", _MINI, "openai/gpt-5-mini", "key_search2"),
        Line(_SEARCH, f"{_MINI}, cached input", _MINI, "openai/gpt-5-mini", "key_search1", cost=71),
        Line(_SEARCH, f"{_MINI}, output", _MINI, "openai/gpt-5-mini", "key_search1", cost=10**21),
        Line(_SUPPORT, f"priority | {_GPT}, output, long context", _GPT, "openai/gpt-5-6-sol", tier="priority"),
        Line(_SUPPORT, f"{_GPT}, cache writes", _GPT, "openai/gpt-5-6-sol"),
        Line(_SUPPORT, "gpt-image-2 image, output", "gpt-image-2", "openai/gpt-image-2", unit="images"),
        Line(
            _SUPPORT,
            "gpt-audio-mini-2025-12-15 audio, input",
            "gpt-audio-mini-2025-12-15",
            "openai/gpt-audio-mini",
        ),
        Line(_SUPPORT, "whisper-1, audio", "whisper-1", "openai/whisper-1", unit="duration_minutes"),
        Line(_SEARCH, "web search tool calls", "web search tool calls", "web search tool calls", unit=None),
        Line(_SEARCH, "Vector storage", "Vector storage", "Vector storage", unit="gibibyte_hours"),
        Line(
            _NAMELESS,
            "Courtesy credit, see mail",
            "Courtesy credit, see mail",
            "Courtesy credit, see mail",
            cost=-(10**15),
        ),
    ),
)

_LAB = Project("proj_sandboxLab", "Lab")
LAB = Organization(
    "org-SandboxLab",
    "Sandbox lab",
    (
        Use("completions", _LAB, _MINI, "openai/gpt-5-mini", "key_lab1", "user-dee"),
        Use("completions", _LAB, _MINI, "openai/gpt-5-mini", "key_lab2", "user-dee"),
        Use("completions", _LAB, _MINI, "openai/gpt-5-mini", "key_lab2", "user-eva"),
        Use("completions", _LAB, _MINI, "openai/gpt-5-mini", None, "user-eva"),
        Use("completions", _LAB, "gpt-audio-mini-2025-12-15", "openai/gpt-audio-mini", "key_lab1", audio=True),
        Use("embeddings", _LAB, "text-embedding-3-small", "openai/text-embedding-3-small", "key_lab1", "user-dee"),
        Use("file_search_calls", _LAB, key="key_lab1", user="user-dee", vector_store="vs_lab"),
        Use("web_search_calls", _LAB, _MINI, "openai/gpt-5-mini", "key_lab1", "user-dee", context_level="high"),
    ),
    (
        Line(_LAB, f"{_MINI}, input", _MINI, "openai/gpt-5-mini", "key_lab1"),
        Line(_LAB, f"{_MINI}, input", _MINI, "openai/gpt-5-mini", "key_lab2"),
        Line(_LAB, f"{_MINI}, output", _MINI, "openai/gpt-5-mini"),
    ),
    is_modern=False,
    tells_callers=True,
)
ORGANIZATIONS = (COMPANY, LAB)


def dollars(amount: int) -> Decimal:
    """Return 10^-15 dollars as dollars, with all their digits."""
    text = f"{abs(amount):0{DIGITS + 1}d}"
    return Decimal(f"{'-' if amount < 0 else ''}{text[:-DIGITS]}.{text[-DIGITS:]}")


class OpenAITruth(ProviderTruth):
    """The truth about OpenAI."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, Use | Line, date], dict[str, int]] = {}

    def values(self, organization: Organization, one: Use | Line, day: date) -> dict[str, int]:
        """Return one use's or line's day; nothing for a day without. Of today there is half already."""
        today = self.world.clock.today()
        if day > today:
            return {}
        key = (organization.account_id, one, day)
        if key not in self._drawn:
            self._drawn[key] = self._draw(organization, one, day)
        values = self._drawn[key]
        if day == today:
            values = {name: value // 2 for name, value in values.items()}
        model = one.raw_model if isinstance(one, Use) else one.model
        restated = self.world.restatements.find(PROVIDER, organization.account_id, "-", model, day)
        values = restated.apply(values) if restated else values
        return values if any(values.values()) else {}

    def used(self, organization: Organization, endpoint: str, day: date) -> Iterator[tuple[Use, dict[str, int]]]:
        """Yield the uses of an endpoint that have anything on that day."""
        for use in organization.uses:
            if use.endpoint == endpoint and (values := self.values(organization, use, day)):
                yield use, values

    def billed(self, organization: Organization, day: date) -> Iterator[tuple[Line, int]]:
        """Yield the lines of a day's bill."""
        for line in organization.lines:
            if values := self.values(organization, line, day):
                yield line, values["cost"]

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day and use or line."""
        return in_detail_order(
            _detail(organization, one, day, values)
            for organization in ORGANIZATIONS
            if accounts is None or organization.account_id in accounts
            for day in days_between(first, last)
            for one in organization.everything
            if (values := self.values(organization, one, day))
        )

    def validate(self, restatement: Restatement) -> None:
        """Raise if the organization or the model is unknown. Only whole days can be scaled, or vanish."""
        found = next((known for known in ORGANIZATIONS if known.account_id == restatement.account), None)
        if found is None:
            raise SandboxError(f"There is no organization {restatement.account!r} in the sandbox's OpenAI.")
        if restatement.region != "-":
            raise SandboxError("OpenAI has no regions: say '-'.")
        models = {*(use.raw_model for use in found.uses), *(line.model for line in found.lines)}
        if restatement.model not in (None, *models):
            raise SandboxError(f"The organization {found.account_id} has no model {restatement.model!r}.")
        if restatement.values is not None:
            raise SandboxError("A day of OpenAI is shared by several keys: give a factor, or let it vanish.")

    def _draw(self, organization: Organization, one: Use | Line, day: date) -> dict[str, int]:
        key = (self.world.seed, organization.account_id, repr(one))
        age = (self.world.anchor - day).days
        # Neither skips the first start's own day, so that a newcomer's first look at today is never empty.
        if age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, organization.account_id):
            return {}
        if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return {}
        if isinstance(one, Line):
            cost = draw_between(1, abs(one.cost), *key, day)
            return {"cost": cost if one.cost > 0 else -cost}
        return _usage(organization, one, *key, day)


TRUTH = OpenAITruth


def _usage(organization: Organization, use: Use, *key: object) -> dict[str, int]:
    requests = draw_between(1, use.requests, *key, "requests")

    def some(most: int, name: str) -> int:
        return draw(*key, name) % (most + 1)

    match use.endpoint:
        case "completions":
            most = requests * use.tokens
            parts = {"input_text": requests + some(most, "text"), "output_text": 1 + some(most // 4, "output")}
            if use.caches:
                parts |= {"cached_text": some(most * 3, "cached")}
                parts |= {"cache_write": some(most, "write")} if organization.is_modern else {}
            if use.audio:
                names: tuple[str, ...] = ("input_audio", "cached_audio", "output_audio")
                names += ("input_image", "cached_image", "output_image") if organization.is_modern else ()
                parts |= {name: some(most // 9, name) for name in names}
            return {"requests": requests} | parts
        case "embeddings" | "moderations":
            return {"requests": requests, "input_text": requests + some(requests * use.tokens, "text")}
        case "images":
            return {"requests": requests, "images": requests + some(requests, "images")}
        case "audio_speeches":
            return {"requests": requests, "characters": requests + some(requests * 80, "characters")}
        case "audio_transcriptions":
            return {"requests": requests, "seconds": requests + some(requests * 600, "seconds")}
        case "web_search_calls":
            return {"requests": requests, "searches": requests + some(requests * 3, "searches")}
        case _:
            return {"amount": requests}


def _detail(organization: Organization, one: Use | Line, day: date, values: Values) -> Row:
    known: dict[str, Any] = {
        "usage_date": day,
        "provider": PROVIDER,
        "account_id": organization.account_id,
        "account_name": organization.name,
        "region": "unspecified",
        "model": one.identity,
        "project_id": one.project.id,
        "project_name": one.project.name,
        "credential_id": one.key if organization.tells_callers else None,
    }
    if isinstance(one, Line):
        return detail_row(
            **known,
            raw_model_id=one.model,
            endpoint="costs",
            service_tier=one.tier,
            billed_cost=dollars(values["cost"]),
            billed_currency="USD",
        )
    tier = one.tier if one.endpoint == "completions" else None
    return detail_row(
        **known, raw_model_id=one.raw_model, endpoint=one.where, service_tier=tier, **_measures(one.endpoint, values)
    )


def _measures(endpoint: str, values: Values) -> dict[str, int]:
    match endpoint:
        case "completions":
            uncached, cached, output = (
                sum(values.get(name, 0) for name in names) for names in (UNCACHED, CACHED, OUTPUT)
            )
            written = values.get("cache_write", 0)
            return {
                "requests": values["requests"],
                "input_tokens": uncached + cached + written,
                "uncached_input_tokens": uncached,
                "cache_read_tokens": cached,
                "cache_write_tokens": written,
                "output_tokens": output,
            }
        case "embeddings" | "moderations":
            tokens = values["input_text"]
            return {"requests": values["requests"], "input_tokens": tokens, "uncached_input_tokens": tokens}
        case "images":
            return {"requests": values["requests"], "output_images": values["images"]}
        case "audio_speeches":
            return {"requests": values["requests"], "characters": values["characters"]}
        case "audio_transcriptions":
            return {"requests": values["requests"], "audio_seconds": values["seconds"]}
        case "web_search_calls":
            # The requests that searched are counted with the completions.
            return {"server_tool_requests": values["searches"]}
        case "vector_stores":
            return {"stored_bytes": values["amount"]}
        case _:
            return {"server_tool_requests": values["amount"]}
