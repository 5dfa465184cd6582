"""
The truth: what every mart must show, worked out from the seed alone.

One module per provider, found by its name, with its class as ``TRUTH``. Nothing here knows how the product resolves
models or adds tokens up: identities are written out by hand.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from datetime import date, timedelta
from hashlib import blake2b
from importlib import import_module
from typing import Any, ClassVar

from sandbox.errors import SandboxError
from sandbox.world import Number, Restatement, World

Row = dict[str, Any]

KEYS = ("usage_date", "provider", "account_id", "account_name", "region", "model")
MEASURES = (
    "requests",
    "input_tokens",
    "uncached_input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "output_images",
    "audio_seconds",
    "characters",
    "server_tool_requests",
    "stored_bytes",
    "compute_seconds",
    "api_calls",
    "billed_cost",
    "credits",
    "net_cost",
)
CURRENCY = "billed_currency"
"""Of ``billed_cost``; ``None`` where there is none. A provider of the sandbox bills in one currency only."""
DETAIL_KEYS = (*KEYS, "raw_model_id", "endpoint", "project_id", "project_name", "credential_id", "service_tier")
DETAIL_MEASURES = (
    *MEASURES,
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "unsplit_input_tokens",
    "client_errors",
    "server_errors",
    "throttled_requests",
)


def draw(*key: object) -> int:
    """Return a number of 64 bits that depends on the key alone: the same in every process, for ever."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def draw_between(low: int, high: int, *key: object) -> int:
    """Return a number from ``low`` to ``high``, both included, that depends on the key alone."""
    return low + draw(*key) % (high - low + 1)


def days_between(first: date, last: date) -> Iterable[date]:
    """Return the days from ``first`` to ``last``, both included."""
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


class ProviderTruth(ABC):
    """
    One provider's truth.

    ``name`` is the provider's; a measure that the provider does not give is ``None``.
    """

    name: ClassVar[str]

    def __init__(self, world: World) -> None:
        self.world = world

    @abstractmethod
    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """
        Return the expected rows at the provider's finest grain: :func:`detail_row` filled in.

        Several rows may share a place; they are added up.
        """

    @abstractmethod
    def validate(self, restatement: Restatement) -> None:
        """Raise :class:`SandboxError` if there is nothing that the restatement could change."""

    def expected_usage_daily(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return the expected rows of ``usage_daily``: sums over the detail, ``None`` only if all parts are."""
        totals: dict[tuple[Any, ...], Row] = {}
        for detail in self.expected_detail(first, last, accounts):
            key = tuple(detail[name] for name in KEYS)
            row = totals.setdefault(key, dict(zip(KEYS, key, strict=True)) | dict.fromkeys((*MEASURES, CURRENCY)))
            for measure in MEASURES:
                row[measure] = add(row[measure], detail[measure])
            row[CURRENCY] = one_currency(row[CURRENCY], detail[CURRENCY])
        return [totals[key] for key in sorted(totals, key=_in_order)]


def detail_row(**known: Any) -> Row:
    """Return a row of :meth:`ProviderTruth.expected_detail`: what is not named is ``None``, not given."""
    row: Row = dict.fromkeys((*DETAIL_KEYS, *DETAIL_MEASURES, CURRENCY))
    if unknown := set(known) - set(row):
        raise SandboxError(f"The truth has no {', '.join(sorted(unknown))}.")
    return row | known


def in_detail_order(rows: Iterable[Row]) -> list[Row]:
    """Return the rows ordered by :data:`DETAIL_KEYS`; what is not given comes first."""
    return sorted(rows, key=lambda row: _in_order(tuple(row[name] for name in DETAIL_KEYS)))


def _in_order(key: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    return tuple((part is not None, part) for part in key)


def one_currency(known: str | None, more: str | None) -> str | None:
    """Return the currency of a sum; the truth is never about two."""
    if known and more and known != more:
        raise SandboxError(f"{known} and {more} cannot be added up.")
    return known or more


def add(*parts: Number | None) -> Number | None:
    """Add as SQL's ``sum`` does: nothing known and nothing known is nothing known."""
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


class Truth:
    """The truth about all providers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._providers: dict[str, ProviderTruth] = {
            name: import_module(f"{__name__}.{name}").TRUTH(world)
            for name in sorted(module.name for module in pkgutil.iter_modules(__path__))
            if not name.startswith("_")
        }

    @property
    def providers(self) -> Mapping[str, ProviderTruth]:
        """The truth about each provider, by name."""
        return self._providers

    def of(self, provider: str) -> ProviderTruth:
        """
        Return the truth about one provider.

        :raises SandboxError: there is no such provider here.
        """
        try:
            return self._providers[provider]
        except KeyError:
            known = ", ".join(self._providers)
            raise SandboxError(f"There is no truth about {provider!r}. There is some about: {known}.") from None

    def expected_usage_daily(
        self, provider: str, first: date, last: date, accounts: Collection[str] | None = None
    ) -> list[Row]:
        """
        Return the rows that ``usage_daily`` must have for these days, ordered by their keys.

        :param accounts: account ids; all of the provider's if left out.
        """
        return self.of(provider).expected_usage_daily(first, last, accounts)

    def expected_detail(
        self, provider: str, first: date, last: date, accounts: Collection[str] | None = None
    ) -> list[Row]:
        """Return the same at the finest grain: one row per raw model id and endpoint, errors and throttles included."""
        return self.of(provider).expected_detail(first, last, accounts)

    def restate(self, restatements: Iterable[Restatement] | None = None, /, **one: Any) -> None:
        """
        Change what the provider says about the past.

        :param restatements: several at once; or the fields of one :class:`Restatement` by name (days as dates or ISO
            text, numbers as numbers or text).
        :raises SandboxError: a restatement is malformed or names what does not exist; then none is made.
        """
        if restatements is None:
            day = one.get("day")
            restatements = [Restatement.from_json(one | {"day": day.isoformat() if isinstance(day, date) else day})]
        restatements = list(restatements)
        for restatement in restatements:
            self.of(restatement.provider).validate(restatement)
        self.world.restatements.add(restatements)
