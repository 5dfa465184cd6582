"""
Groq: what two organizations used, and what a mart must make of it.

A *use* is one project calling one model. A day's total of each meter is a whole number; the simulator spreads it over
the day's five minutes and tells rates. What each model really is stands beside it, written out by hand.

The company's connection names its organization and its series are those of today. The lab's names nothing, so that the
connection's id stands for the account; its organization was given no request series, and each of its token series comes
in two parts, told apart by a label that no document names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from sandbox.errors import SandboxError
from sandbox.truth import ProviderTruth, Row, days_between, detail_row, draw_between, in_detail_order
from sandbox.world import Restatement, World

PROVIDER = "groq"
QUIET_EVERY = 11
IDLE_EVERY = 7
TODAY_FROM = time(0, 6)
"""From when on there is anything of today: its first five minutes and the time that Groq takes."""

TOKENS_IN, TOKENS_OUT = "tokens_in", "tokens_out"
ANSWERED, REFUSED, THROTTLED, BROKEN = "200", "400", "429", "503"

Values = Mapping[str, int]


@dataclass(frozen=True)
class Use:
    """
    One project calling one model.

    :param model: as Groq names it; ``None`` for requests that named none.
    :param identity: what it really is.
    :param requests: the most requests on one day; 0 for a project that only fails.
    :param tokens: the most input tokens of one request; 0 for sound, which has no tokens.
    :param fails: whether some of its requests fail.
    :param lingers: whether its series go on, at zero, on days without use.
    :param hours: the hours of the day in which it is used: outside of them it has no series at all.
    """

    project: str | None
    model: str | None
    identity: str
    requests: int = 5000
    tokens: int = 3000
    fails: bool = False
    lingers: bool = False
    hours: tuple[int, int] = (0, 24)

    @property
    def raw_model(self) -> str:
        """What a restatement and the marts call the model."""
        return self.model or "no model"


@dataclass(frozen=True)
class Organization:
    """
    An organization.

    :param account_id: what the marts call it.
    :param name: what its connection calls it, if it does.
    :param parts: label → values of a label that splits every token series; for the lab only.
    :param tells_requests: whether it was given the request series.
    """

    account_id: str
    name: str | None
    uses: tuple[Use, ...]
    parts: tuple[str, ...] = ()
    tells_requests: bool = True


_CHAT, _AGENTS, _ODD = "project_01sandboxchat", "project_01sandboxagents", "project_01ünïcödé 'quoted'"

COMPANY = Organization(
    "org_01sandboxcompany",
    "Sandbox company",
    (
        Use(_CHAT, "llama-3.3-70b-versatile", "meta/llama3-3-70b-versatile", fails=True),
        Use(_AGENTS, "llama-3.3-70b-versatile", "meta/llama3-3-70b-versatile", requests=90),
        Use(_CHAT, "openai/gpt-oss-120b", "openai/gpt-oss-120b", requests=60_000_000, tokens=40_000, fails=True),
        Use(_AGENTS, "moonshotai/kimi-k2-instruct-0905", "moonshotai/kimi-k2-instruct-0905", hours=(9, 17)),
        Use(_AGENTS, "meta-llama/llama-4-scout-17b-16e-instruct", "meta/llama4-scout-17b-16e-instruct", lingers=True),
        Use(_ODD, "qwen/qwen3-32b", "qwen/qwen3-32b", requests=2, tokens=1, hours=(23, 24)),
        Use(_CHAT, "whisper-large-v3-turbo", "openai/whisper-large-v3-turbo", tokens=0, lingers=True),
        Use(_CHAT, 'acme "tuned" lora', 'acme "tuned" lora', requests=7),
        Use(_ODD, "llama-3.1-8b-instant", "meta/llama3-1-8b-instant", requests=0, fails=True),
        Use(_ODD, None, "no model", requests=0, tokens=0, fails=True),
    ),
)
LAB = Organization(
    # The connection names no account, so its own id stands for it.
    "groq_lab",
    None,
    (
        Use("project_01sandboxlab", "llama-3.1-8b-instant", "meta/llama3-1-8b-instant", requests=300),
        Use("project_01sandboxlab", "openai/gpt-oss-20b", "openai/gpt-oss-20b", requests=9, lingers=True),
        Use(None, "openai/gpt-oss-20b", "openai/gpt-oss-20b", requests=40),
    ),
    parts=("us-a", "us-b"),
    tells_requests=False,
)
ORGANIZATIONS = (COMPANY, LAB)


class GroqTruth(ProviderTruth):
    """The truth about Groq."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, Use, date], dict[str, int]] = {}

    def values(self, organization: Organization, use: Use, day: date) -> dict[str, int]:
        """
        Return one use's day: tokens and requests by their status. Nothing for a day without series.

        Of today there is half, as soon as there is anything.
        """
        today = self.world.clock.today()
        if day > today or (day == today and self.world.clock.now() < datetime.combine(today, TODAY_FROM, tzinfo=UTC)):
            return {}
        key = (organization.account_id, use, day)
        if key not in self._drawn:
            self._drawn[key] = self._draw(organization, use, day)
        values = self._drawn[key]
        if day == today:
            values = {name: value // 2 for name, value in values.items()}
        restated = self.world.restatements.find(PROVIDER, organization.account_id, "-", use.raw_model, day)
        values = restated.apply(values) if restated else values
        return values if use.lingers or any(values.values()) else {}

    def used(self, organization: Organization, day: date) -> Iterator[tuple[Use, dict[str, int]]]:
        """Yield the uses that have a series on that day."""
        for use in organization.uses:
            if values := self.values(organization, use, day):
                yield use, values

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day and use."""
        return in_detail_order(
            _detail(organization, use, day, values)
            for organization in ORGANIZATIONS
            if accounts is None or organization.account_id in accounts
            for day in days_between(first, last)
            for use, values in self.used(organization, day)
        )

    def validate(self, restatement: Restatement) -> None:
        """Raise if the organization or the model is unknown. Only whole days can be scaled, or vanish."""
        found = next((known for known in ORGANIZATIONS if known.account_id == restatement.account), None)
        if found is None:
            raise SandboxError(f"There is no organization {restatement.account!r} in the sandbox's Groq.")
        if restatement.region != "-":
            raise SandboxError("Groq has no regions: say '-'.")
        if restatement.model not in (None, *(use.raw_model for use in found.uses)):
            raise SandboxError(f"The organization {found.account_id} has no model {restatement.model!r}.")
        if restatement.values is not None:
            raise SandboxError("A day of Groq is shared by several projects: give a factor, or let it vanish.")

    def _draw(self, organization: Organization, use: Use, day: date) -> dict[str, int]:
        key = (self.world.seed, organization.account_id, repr(use))
        age = (self.world.anchor - day).days
        # Neither skips the first start's own day, so that a newcomer's first look at today is never empty.
        is_quiet = age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, organization.account_id)
        if is_quiet or age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return dict.fromkeys(_meters(organization, use), 0) if use.lingers and not is_quiet else {}
        requests = draw_between(min(1, use.requests), use.requests, *key, day)
        drawn = {
            TOKENS_IN: requests + draw_between(0, requests * use.tokens, *key, day, TOKENS_IN),
            TOKENS_OUT: requests + draw_between(0, requests * use.tokens // 3, *key, day, TOKENS_OUT),
            ANSWERED: requests,
            REFUSED: draw_between(1, 40, *key, day, REFUSED),
            THROTTLED: draw_between(1, 900, *key, day, THROTTLED),
            BROKEN: draw_between(1, 3, *key, day, BROKEN),
        }
        return {name: drawn[name] for name in _meters(organization, use)}


TRUTH = GroqTruth


def _meters(organization: Organization, use: Use) -> tuple[str, ...]:
    """Return what a use has series of."""
    tokens = (TOKENS_IN, TOKENS_OUT) if use.tokens and use.requests else ()
    answered = (ANSWERED,) if use.requests else ()
    failed = (REFUSED, THROTTLED, BROKEN) if use.fails else ()
    return (*tokens, *answered, *failed) if organization.tells_requests else tokens


def _detail(organization: Organization, use: Use, day: date, values: Values) -> Row:
    requests = {}
    if organization.tells_requests:
        requests = {
            "requests": values.get(ANSWERED, 0),
            "client_errors": values.get(REFUSED, 0),
            "throttled_requests": values.get(THROTTLED, 0),
            "server_errors": values.get(BROKEN, 0),
        }
    return detail_row(
        usage_date=day,
        provider=PROVIDER,
        account_id=organization.account_id,
        account_name=organization.name,
        region="unspecified",
        model=use.identity,
        raw_model_id=use.raw_model,
        project_id=use.project,
        # Groq counts cached input among the input and does not tell it apart.
        input_tokens=values.get(TOKENS_IN),
        unsplit_input_tokens=values.get(TOKENS_IN),
        output_tokens=values.get(TOKENS_OUT),
        **requests,
    )
