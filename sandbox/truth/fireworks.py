"""
Fireworks AI: what three accounts used and paid, and what a mart must make of it.

A *use* is one shared model, one dedicated deployment, one training job, or cost that nobody can attribute. Its metered
quantities and its cost are drawn together, but Fireworks tells them apart, in different words; what each model really is
stands beside it, written out by hand.

The first connection reaches two accounts on a server of today; the second one account on an older server, which tells
cached tokens only as line items, by display names, of which one is no model's.
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

PROVIDER = "fireworks"
QUIET_EVERY = 11
IDLE_EVERY = 7
NO_MODEL = "no model"
TEXT, AUDIO = "TEXT_COMPLETION_INFERENCE_USAGE", "AUDIO_INFERENCE_USAGE"
GAUGES = {"prompt": Decimal("1843.25"), "cached": Decimal("921.5"), "requests": Decimal("2.4")}
"""What the live deployment does per second, all day long."""

Values = Mapping[str, int]


@dataclass(frozen=True)
class Use:
    """
    One thing that is metered and paid.

    :param kind: ``serverless``, ``dedicated``, ``training`` or ``unattributed``.
    :param model: as the metering names it.
    :param identity: what it really is.
    :param shown: what line items call it, or its accelerator.
    :param most: the most tokens, or seconds, of one day.
    :param cost: the most billionths of a dollar of one day.
    :param name: the deployment, or the job.
    :param is_split: whether an older server's line items tell its cached tokens.
    :param is_steady: whether it is used every day.
    :param is_live: whether it shows among the gauges.
    """

    kind: str
    model: str
    identity: str
    shown: str
    most: int = 5_000_000
    cost: int = 90_000_000_007
    usage_type: str = TEXT
    name: str = ""
    accelerator: str = ""
    placement: str = ""
    is_split: bool = True
    is_steady: bool = False
    is_live: bool = False


@dataclass(frozen=True)
class Account:
    """
    An account.

    :param is_modern: whether its server tells cached tokens, daily summaries and the series of a line item.
    """

    account_id: str
    name: str
    uses: tuple[Use, ...]
    is_modern: bool = True


_KIMI, _DEEPSEEK = "accounts/fireworks/models/kimi-k2p6", "accounts/fireworks/models/deepseek-v4-flash"
_LLAMA, _BOT = "accounts/fireworks/models/llama-v3p1-8b-instruct", "accounts/acme-prod/models/llama-support-bot"
_LLAMA_70B = "accounts/fireworks/models/llama-v3p3-70b-instruct"
_H100, _H200 = ("NVIDIA H100 80GB", "NVIDIA_H100_80GB"), ("NVIDIA H200 141GB", "NVIDIA_H200_141GB")


def _deployment(name: str, model: str, identity: str, accelerator: tuple[str, str], placement: str, **more: Any) -> Use:
    shown, kind = accelerator
    return Use("dedicated", model, identity, shown, 700_000, name=name, accelerator=kind, placement=placement, **more)


PRODUCTION = Account(
    "acme-prod",
    "Acme production",
    (
        Use("serverless", _KIMI, "moonshotai/kimi-k2-6", "Kimi K2.6"),
        Use("serverless", _DEEPSEEK, "deepseek/deepseek-v4-flash", "DeepSeek V4 Flash", is_steady=True),
        Use("serverless", _LLAMA, "meta/llama3-1-8b-instruct", "Llama 3.1 8B Instruct", most=4 * 10**15, cost=3),
        Use("serverless", _BOT, _BOT, "Custom models", most=9),
        Use(
            "serverless",
            "accounts/fireworks/models/whisper-v3",
            "openai/whisper-v3",
            "Whisper V3",
            7200,
            usage_type=AUDIO,
        ),
        _deployment("d7f3k2qa", _DEEPSEEK, "deepseek/deepseek-v4-flash", _H200, "US", is_steady=True, is_live=True),
        _deployment("d1b0tb0t", _BOT, _BOT, _H100, "EUROPE"),
        _deployment("dk1m1k1m", _KIMI, "moonshotai/kimi-k2-6", _H200, "REGION_UNSPECIFIED"),
        Use(
            "training",
            _LLAMA,
            "meta/llama3-1-8b-instruct",
            "Llama 3.1 8B Instruct",
            40_000,
            name="sft-1",
            accelerator=_H100[1],
        ),
        Use("unattributed", NO_MODEL, NO_MODEL, "", cost=70_000_001),
    ),
)
RESEARCH = Account(
    "acme-research",
    "Acme research",
    (Use("serverless", _LLAMA_70B, "meta/llama3-3-70b-instruct", "Llama 3.3 70B Instruct", most=2, cost=1),),
)
LAB = Account(
    "acme-lab",
    "Acme lab",
    (
        Use("serverless", _KIMI, "moonshotai/kimi-k2-6", "Kimi K2.6"),
        Use("serverless", _LLAMA, "meta/llama3-1-8b-instruct", "Llama 3.1 8B Instruct"),
        Use("serverless", _LLAMA_70B, "meta/llama3-3-70b-instruct", "Models above 16B", is_split=False),
        _deployment("dlab0001", _KIMI, "moonshotai/kimi-k2-6", _H100, "GLOBAL"),
    ),
    is_modern=False,
)
ACCOUNTS = (PRODUCTION, RESEARCH, LAB)


def dollars(nanos: int) -> Decimal:
    """Return billionths of a dollar as dollars."""
    return Decimal(f"{nanos // 10**9}.{nanos % 10**9:09d}")


class FireworksTruth(ProviderTruth):
    """
    The truth about Fireworks AI.

    What readings of the gauges make of a day depends on when they were taken, so it is no part of the truth; that there
    were any is.
    """

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, Use, date], dict[str, int]] = {}
        self.read: set[tuple[str, date]] = set()
        """The accounts and days on which somebody read the gauges."""

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
        restated = self.world.restatements.find(PROVIDER, account.account_id, "-", use.model, day)
        values = restated.apply(values) if restated else values
        return values if any(values.values()) else {}

    def used(self, account: Account, kind: str, day: date) -> Iterator[tuple[Use, dict[str, int]]]:
        """Yield the uses of a kind that have anything on that day."""
        for use in account.uses:
            if use.kind == kind and (values := self.values(account, use, day)):
                yield use, values

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day and use for what was metered, another for what it cost, and one for what was read."""
        return in_detail_order(
            row
            for account in ACCOUNTS
            if accounts is None or account.account_id in accounts
            for day in days_between(first, last)
            for use in account.uses
            for row in self._rows(account, use, day)
        )

    def validate(self, restatement: Restatement) -> None:
        """Raise if the account or the model is unknown. Only whole days can be scaled, or vanish."""
        account = next((known for known in ACCOUNTS if known.account_id == restatement.account), None)
        if account is None:
            raise SandboxError(f"There is no account {restatement.account!r} in the sandbox's Fireworks AI.")
        if restatement.region != "-":
            raise SandboxError("Accounts of Fireworks AI have no regions: say '-'.")
        if restatement.model not in (None, *(use.model for use in account.uses)):
            raise SandboxError(f"The account {account.account_id} has no model {restatement.model!r}.")
        if restatement.values is not None:
            raise SandboxError("A model of Fireworks AI is used in several ways: give a factor, or let it vanish.")

    def _draw(self, account: Account, use: Use, day: date) -> dict[str, int]:
        key = (self.world.seed, account.account_id, repr(use))
        age = (self.world.anchor - day).days
        if not use.is_steady:
            if age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, account.account_id):
                return {}
            if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
                return {}
        cost = {"cost": draw_between(1, use.cost, *key, day, "cost")}
        if use.kind == "unattributed":
            return cost
        amount = draw_between(2, use.most, *key, day, "amount")
        if use.kind != "serverless":
            return cost | {"seconds": amount}
        if use.usage_type == AUDIO:
            return cost | {"prompt": 0, "cached": 0, "completion": 0, "audio": amount}
        cached = draw(*key, day, "cached") % (amount + 1)
        return cost | {
            "prompt": amount,
            "cached": cached,
            "completion": draw(*key, day, "completion") % amount,
            "audio": 0,
        }

    def _rows(self, account: Account, use: Use, day: date) -> Iterator[Row]:
        known: dict[str, Any] = {
            "usage_date": day,
            "provider": PROVIDER,
            "account_id": account.account_id,
            "account_name": account.name,
            "region": "unspecified",
            "model": use.identity,
            "raw_model_id": use.model,
        }
        if use.is_live and (account.account_id, day) in self.read:
            yield detail_row(**known, endpoint=f"gauges/{use.name}")
        values = self.values(account, use, day)
        if not values:
            return
        cost = {"billed_cost": dollars(values["cost"]), "billed_currency": "USD"}
        if use.kind == "serverless":
            prompt, cached = values["prompt"], values["cached"]
            is_split = account.is_modern or use.is_split
            parts = {"uncached_input_tokens": prompt - cached, "cache_read_tokens": cached}
            yield detail_row(
                **known,
                endpoint=f"serverless/{use.usage_type}",
                input_tokens=prompt,
                **(parts if is_split else {"unsplit_input_tokens": prompt}),
                output_tokens=values["completion"],
                audio_seconds=values["audio"],
            )
        elif use.kind != "unattributed":
            place = use.placement if use.placement not in ("", "REGION_UNSPECIFIED") else "unspecified"
            what = f"deployment/{use.name}" if use.kind == "dedicated" else "training/SFT"
            endpoint = f"{what}/{use.accelerator}"
            yield detail_row(**known | {"region": place}, endpoint=endpoint, compute_seconds=values["seconds"])
            # A line of the bill names an accelerator or a display name, and no deployment.
            known |= {"model": use.shown, "raw_model_id": use.shown}
            category = "On-demand deployment" if use.kind == "dedicated" else "Fine-tuning"
            yield detail_row(**known, endpoint=f"line items/{category}", **cost)
            return
        yield detail_row(**known, endpoint="costs", **cost)


TRUTH = FireworksTruth
