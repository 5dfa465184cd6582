"""What the marts say beside what the sandbox knows to be true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal, localcontext
from typing import Any

from sandbox.service import Sandbox
from sandbox.truth import CURRENCY, DETAIL_KEYS, DETAIL_MEASURES, KEYS, MEASURES, add
from tests.support.warehouse import TestWarehouse

DAILY = (*KEYS, *MEASURES, CURRENCY)
DETAIL = (*DETAIL_KEYS, *DETAIL_MEASURES, CURRENCY)

Row = Mapping[str, Any]
Places = dict[tuple[Any, ...], dict[str, Any]]


def usage_daily(warehouse: TestWarehouse, provider: str) -> list[dict[str, Any]]:
    """Return the rows with usage, as an analyst sees them."""
    return _stored(warehouse, "usage_daily", provider, DAILY)


def usage_daily_detail(warehouse: TestWarehouse, provider: str) -> list[dict[str, Any]]:
    """Return the rows with usage at the finest grain."""
    return _stored(warehouse, "usage_daily_detail", provider, DETAIL)


def _stored(warehouse: TestWarehouse, mart: str, provider: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    statement = f"select {', '.join(columns)} from marts.{mart} where provider = %s and model is not null"
    with warehouse.as_reader() as session:
        rows = session.execute(statement.encode(), (provider,)).fetchall()
    return [dict(zip(columns, row, strict=True)) for row in rows]


def assert_marts_equal_the_truth(
    warehouse: TestWarehouse, sandbox: Sandbox, provider: str, first: date, without_accounts: Iterable[str] = ()
) -> None:
    """
    Compare both marts with the truth from a day to today: every number, to the last digit.

    :param without_accounts: accounts that the marts must know nothing of.
    """
    today, absent = sandbox.clock.today(), set(without_accounts)
    truth = sandbox.truth.expected_usage_daily(provider, first, today)
    daily = usage_daily(warehouse, provider)
    _assert_same(added_up(daily, KEYS, MEASURES), added_up(_others(truth, absent), KEYS, MEASURES))
    assert len(daily) == len(_others(truth, absent)), "a day, account, region and model has more than one row"
    finest = _others(sandbox.truth.expected_detail(provider, first, today), absent)
    detail = usage_daily_detail(warehouse, provider)
    _assert_same(added_up(detail, DETAIL_KEYS, DETAIL_MEASURES), added_up(finest, DETAIL_KEYS, DETAIL_MEASURES))


def _assert_same(stored: Places, true: Places) -> None:
    """Compare, and tell of the first places that differ what is stored and what is true."""
    differing = [place for place in stored.keys() | true.keys() if stored.get(place) != true.get(place)]
    told = []
    for place in sorted(differing, key=repr)[:5]:
        have, want = stored.get(place), true.get(place)
        names = sorted(
            name for name in {**(have or {}), **(want or {})} if (have or {}).get(name) != (want or {}).get(name)
        )
        told.append(
            f"{place}: stored {have and {n: have[n] for n in names}}, true {want and {n: want[n] for n in names}}"
        )
    assert not differing, f"{len(differing)} places differ:\n" + "\n".join(told)


def _others(rows: Iterable[Row], accounts: set[str]) -> list[Row]:
    return [row for row in rows if row["account_id"] not in accounts]


def added_up(rows: Iterable[Row], keys: Sequence[str], measures: Sequence[str]) -> Places:
    """Return the rows by their keys, those of one place added up: usage and cost of one place may be two rows."""
    places: Places = {}
    with localcontext() as context:
        context.prec = 60
        for row in rows:
            place = places.setdefault(tuple(row[key] for key in keys), dict.fromkeys((*measures, CURRENCY)))
            place |= {measure: add(place[measure], row[measure]) for measure in measures}
            assert row[CURRENCY] in (None, place[CURRENCY] or row[CURRENCY]), "two currencies in one place"
            place[CURRENCY] = place[CURRENCY] or row[CURRENCY]
    return places


def normal(rows: Iterable[Row]) -> Places:
    """Return rows of ``usage_daily`` by their keys, whether they come from PostgreSQL or as JSON."""
    return {
        tuple(_text(row[key]) for key in KEYS): {measure: _number(row[measure]) for measure in MEASURES}
        | {CURRENCY: row[CURRENCY]}
        for row in rows
    }


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value))
