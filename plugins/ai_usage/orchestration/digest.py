"""The daily digest: how things stood at the end of a day, in one message."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from ai_usage.orchestration.messages import Message
from ai_usage.warehouse.roles import TRANSFORMER
from ai_usage.warehouse.session import Session, Warehouse

_COVERED = ("final", "provisional", "confirmed_zero")


def digest_of(warehouse: Warehouse, day: date) -> Message:
    """
    Return the digest of a UTC day.

    What the marts tell is left out until they have been built.
    """
    # The transformer's role reads both the ledger and the marts.
    with warehouse.session(TRANSFORMER, application="ai_usage digest") as session:
        sources, failing, silent = _sources(session)
        covered, expected, states = _coverage(session, day)
        problems = _problems(session)
        is_good = not problems and covered == expected
        state = f"{failing} of {sources} sources failing" if failing else f"{sources} sources, none failing"
        return Message.of(
            f"AI usage on {day}: {state}, {len(problems)} open problems",
            "good" if is_good else "bad" if failing else "warning",
            facts=[
                ("Sources", f"{sources} connected, {failing} failing, {silent} connected and without success so far"),
                ("Coverage", _share(covered, expected, states)),
                ("Marts", _built(session)),
            ],
            sections=[
                ("Open problems", problems),
                ("Usage and cost of the day", _usage(session, day)),
                ("Restated on that day", _restated(session, day)),
            ],
        )


def _sources(session: Session) -> tuple[int, int, int]:
    """Return how many sources there are, how many fail, and how many never succeeded."""
    row = session.execute(
        """
        select count(*), count(*) filter (where exists (
                select 1 from ops.problem
                where problem.connection_id = connection.connection_id and problem.resolved_at is null
                    and problem.severity = 'error'
            )), count(*) filter (where last_success_at is null)
        from ops.connection where disconnected_at is null
        """
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def _coverage(session: Session, day: date) -> tuple[int, int, dict[str, int]]:
    """Return how many slices of the day are covered, how many there should be, and those that are not by state."""
    rows = session.execute(
        """
        select slice.state, count(*)
        from ops.connection as connection
        inner join ops.slice as slice using (connection_id)
        left join ops.stream as stream on stream.provider = connection.provider and stream.stream = slice.stream
        where slice.usage_date = %s and connection.disconnected_at is null and coalesce(stream.is_usage, true)
        group by 1 order by 1
        """,
        (day,),
    ).fetchall()
    states: dict[str, int] = dict(rows)
    covered = sum(states.pop(state, 0) for state in _COVERED)
    return covered, covered + sum(states.values()), states


def _share(covered: int, expected: int, states: dict[str, int]) -> str:
    if not expected:
        return "nothing is expected of that day"
    # Rounded down: nothing that lacks a slice looks whole.
    share = Decimal(covered * 1000 // expected) / 10
    lacking = "".join(f", {count} {state}" for state, count in states.items())
    return f"{share} %: {covered} of {expected} slices (connection, scope, stream) of the day{lacking}"


def _problems(session: Session) -> list[str]:
    rows = session.execute(
        """
        select connection_id, scope, stream, message, opened_at, times_seen
        from ops.problem where resolved_at is null order by severity, opened_at, problem_id
        """
    ).fetchall()
    return [
        f"{' · '.join(part for part in (connection_id, scope, stream) if part and part != '-')}: {message}"
        f" (since {_age(opened_at)}{f', seen {times_seen} times' if times_seen > 1 else ''})"
        for connection_id, scope, stream, message, opened_at, times_seen in rows
    ]


def _age(opened_at: datetime) -> str:
    return f"{opened_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _built(session: Session) -> str:
    row = session.execute("select max(finished_at) from ops.dbt_run where succeeded").fetchone()
    return f"built on {_age(row[0])}" if row and row[0] else "not built yet"


def _exists(session: Session, mart: str) -> bool:
    row = session.execute("select to_regclass(%s) is not null", (f"marts.{mart}",)).fetchone()
    return bool(row and row[0])


def _usage(session: Session, day: date) -> list[str]:
    """Return a line per provider: what was used on that day, and what it cost, currency by currency."""
    if not _exists(session, "usage_daily"):
        return []
    rows = session.execute(
        """
        select coalesce(provider.label, daily.provider), sum(daily.requests), sum(daily.input_tokens),
            sum(daily.output_tokens), sum(daily.compute_seconds), sum(daily.api_calls)
        from marts.usage_daily as daily
        left join ops.provider as provider using (provider)
        where daily.usage_date = %s and daily.model is not null
        group by 1 order by 1
        """,
        (day,),
    ).fetchall()
    units = ("requests", "input tokens", "output tokens", "seconds of compute", "API calls")
    costs = _costs(session, day)
    told = []
    for label, *quantities in rows:
        parts = [f"{_number(n)} {unit}" for n, unit in zip(quantities, units, strict=True) if n]
        told.append(f"{label}: {', '.join([*parts, *costs.get(label, [])]) or 'nothing'}")
    return told


def _costs(session: Session, day: date) -> dict[str, list[str]]:
    rows = session.execute(
        """
        select coalesce(provider.label, daily.provider), daily.billed_currency, sum(daily.billed_cost)
        from marts.usage_daily as daily
        left join ops.provider as provider using (provider)
        where daily.usage_date = %s and daily.billed_cost is not null
        group by 1, 2 order by 1, 2
        """,
        (day,),
    ).fetchall()
    return {
        label: [f"{_number(cost)} {currency or 'of no currency'}" for _, currency, cost in several]
        for label, several in groupby(rows, key=lambda row: str(row[0]))
    }


def _restated(session: Session, day: date) -> list[str]:
    """Return a line per provider: by how much settled days were changed on that day."""
    if not _exists(session, "restatements"):
        return []
    rows = session.execute(
        """
        select provider, meter, currency, sum(delta), count(distinct usage_date)
        from marts.restatements
        where was_settled and restated_at >= %(day)s and restated_at < %(day)s + 1
        group by 1, 2, 3 order by 1, 2, 3
        """,
        {"day": day},
    ).fetchall()
    return [f"{provider}: {_changes(several)}" for provider, several in groupby(rows, key=lambda row: str(row[0]))]


def _changes(rows: Iterable[tuple[Any, ...]]) -> str:
    return ", ".join(
        f"{meter}{f' ({currency})' if currency else ''} {_number(delta, signed=True)} on {days} days"
        for _, meter, currency, delta, days in rows
    )


def _number(value: Decimal | int | None, *, signed: bool = False) -> str:
    """Return a number in full, without zeros that say nothing."""
    if value is None:
        return "unknown"
    text = format(Decimal(value), "+,f" if signed else ",f")
    return text.rstrip("0").rstrip(".") if "." in text else text
