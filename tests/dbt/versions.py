"""Versions of slices, loaded by the loader itself at made-up times, and what they come to, kept by hand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from ai_usage import providers
from ai_usage.core.contract import Journal, Record, Scope
from ai_usage.core.slices import Window
from ai_usage.warehouse import ledger, loader
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from tests.support.warehouse import TestWarehouse

PROVIDER = providers.load("openai")
CONNECTION = "openai_default"

Meters = dict[tuple[str, str | None], Decimal]
"""(meter, currency) → what a slice comes to."""
Slice = tuple[str, date]
"""Stream and day."""


def tokens(requests: int, tokens: int, model: str = "text-embedding-3-small") -> dict[str, Any]:
    """Return a record of the stream ``embeddings``."""
    return {"model": model, "num_model_requests": requests, "input_tokens": tokens}


def cost(value: str, currency: str = "usd") -> dict[str, Any]:
    """Return a record of the stream ``costs``."""
    return {"line_item": "ft-", "amount": {"value": Decimal(value), "currency": currency}}


def comes_to(records: list[dict[str, Any]]) -> Meters:
    """Return the meters of one version, worked out apart from dbt."""
    found: Meters = {}
    for record in records:
        if "amount" in record:
            parts = {("billed_cost", record["amount"]["currency"].upper()): record["amount"]["value"]}
        else:
            parts = {
                ("requests", None): Decimal(record["num_model_requests"]),
                ("uncached_input_tokens", None): Decimal(record["input_tokens"]),
            }
        for meter, quantity in parts.items():
            found[meter] = found.get(meter, Decimal(0)) + quantity
    return found


@dataclass
class Versions:
    """The versions of one connection's slices."""

    warehouse: TestWarehouse
    told: dict[Slice, list[tuple[datetime, Meters]]] = field(default_factory=dict)
    """Slice → when each version was read and what it comes to, oldest first."""

    last: dict[Slice, list[dict[str, Any]]] = field(default_factory=dict)
    """Slice → the records of its last reading."""

    def __post_init__(self) -> None:
        with self.warehouse.warehouse.session(LOADER) as session:
            ledger.register_scopes(session, PROVIDER, CONNECTION, [Scope(account_id="org-1")])

    def read(self, stream: str, day: date, records: list[dict[str, Any]], hours: float) -> None:
        """Read a slice so many hours after the end of its day; what does not change makes no version."""
        at = datetime.combine(day, time(), UTC) + timedelta(days=1, hours=hours)
        place = Place(PROVIDER.name, CONNECTION, stream, "-")
        with self.warehouse.warehouse.session(LOADER) as session:
            attempt = ledger.begin_attempt(session, place, Window(day, day), "run")
        # The loader goes by the time at which an attempt began, and so does its record in the ledger.
        attempt = dataclasses.replace(attempt, started_at=at)
        self.warehouse.query(
            "update ops.extraction set started_at = %s where extraction_id = %s", at, attempt.extraction_id
        )
        answer = [Record(day, record) for record in records]
        outcome = loader.load(self.warehouse.warehouse, attempt, PROVIDER.stream(stream), answer, Journal())
        self.last[stream, day] = records
        if outcome.slices_changed:
            self.told.setdefault((stream, day), []).append((at, comes_to(records)))
