"""Loading records of a made-up stream, the way an extraction does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from types import SimpleNamespace

import psycopg

from ai_usage.core.contract import Journal, Record, Scope, Stream
from ai_usage.core.slices import Window
from ai_usage.warehouse import ledger, loader, registry
from ai_usage.warehouse.ledger import Attempt, Outcome
from ai_usage.warehouse.migrate import create_raw_table
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from tests.support.warehouse import TestWarehouse

STREAM = Stream(
    name="metrics",
    summary="tokens of a model on a day",
    grain=("model",),
    fields=frozenset({"model", "quantity", "note"}),
    settle=timedelta(days=2),
    lookback_days=3,
    retention_days=455,
    max_window_days=455,
)
PLACE = Place("sample", "sample_default", STREAM.name, "eu-west-1")
PROVIDER = SimpleNamespace(name="sample")


def day(number: int) -> date:
    """Return a settled day."""
    return date(2026, 1, 1) + timedelta(days=number)


def records(*days: int, models: int = 3, quantity: int = 10) -> list[Record]:
    """Return a few records of each day."""
    return [Record(day(n), {"model": f"model-{m}", "quantity": quantity + m}) for n in days for m in range(models)]


def prepare(warehouse: TestWarehouse, place: Place = PLACE) -> None:
    """Make the raw table of the sample provider and register the place."""
    with psycopg.connect(warehouse.admin_dsn) as admin:
        if admin.execute("select to_regclass('raw.sample_metrics')").fetchone() == (None,):
            create_raw_table(admin, "sample_metrics", "sample")
    with warehouse.warehouse.session(LOADER) as session:
        registry.register_scopes(session, PROVIDER, place.connection_id, [Scope(place.scope or "-", "account-1")])  # type: ignore[arg-type]


def begin(warehouse: TestWarehouse, first: int, last: int, run_id: str = "run", place: Place = PLACE) -> Attempt:
    """Begin an attempt at a window."""
    with warehouse.warehouse.session(LOADER) as session:
        return ledger.begin_attempt(session, place, Window(day(first), day(last)), run_id)


def load(
    warehouse: TestWarehouse,
    first: int,
    last: int,
    answer: Iterable[Record],
    run_id: str = "run",
    journal: Journal | None = None,
    place: Place = PLACE,
) -> Outcome:
    """Load an answer to a window."""
    attempt = begin(warehouse, first, last, run_id, place)
    return loader.load(warehouse.warehouse, attempt, STREAM, answer, journal or Journal())


def stored(warehouse: TestWarehouse) -> dict[tuple[date, str], int]:
    """Return what readers see: (day, model) → quantity; fails when anything is there twice."""
    rows = warehouse.query(
        """
        select usage_date, record ->> 'model', (record ->> 'quantity')::numeric
        from raw.sample_metrics inner join ops.load using (load_id, usage_date)
        where superseded_by is null
        """
    )
    seen = {(usage_date, model): int(quantity) for usage_date, model, quantity in rows}
    assert len(seen) == len(rows), "a record is stored twice"
    return seen


def expected(answer: Iterable[Record]) -> dict[tuple[date, str], int]:
    """Return what readers should see after a load of ``answer``."""
    return {(record.usage_date, record.record["model"]): record.record["quantity"] for record in answer}
