"""The real stack of any provider: sandbox, plan, extraction and load as Airflow's tasks call them, and what they leave."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from ai_usage import providers
from ai_usage.core.contract import Stream
from ai_usage.core.errors import UsageError
from ai_usage.core.http import limits
from ai_usage.core.http_provider import HttpProvider
from ai_usage.orchestration import sync
from ai_usage.orchestration.sources import discover
from ai_usage.orchestration.warehouse_connection import open_warehouse
from ai_usage.providers import _authress_landing, _cloudwatch, _google_vertex_ai
from sandbox.connections import environment, variable
from sandbox.errors import SandboxError
from sandbox.service import Sandbox
from sandbox.world import Restatement
from tests.support.warehouse import TestWarehouse

ONE = Decimal(1)
WITHOUT_MOTO = frozenset({"aws_bedrock_default", "authress_company"})
"""Connections that a sandbox without moto does not answer."""

TELL_AS_THE_DAY_GOES = frozenset({"groq"})
"""Providers of the sandbox whose answer about today is another one every five minutes."""


class Slot(NamedTuple):
    """One slice."""

    connection_id: str
    stream: str
    scope: str
    usage_date: date


class Held(NamedTuple):
    """What the warehouse holds of a slice: its state, and every record as readers of raw see it."""

    state: str
    records: tuple[str, ...]


Content = dict[Slot, Held]


class Problem(NamedTuple):
    """An open story."""

    connection_id: str
    topic: str
    kind: str
    message: str
    action: str | None
    times_seen: int


# ---------------------------------------------------------------- impatience


def impatient() -> list[tuple[Any, str, Any]]:
    """Return (object, attribute, value) of everything that waits for a real provider's sake."""
    changes: list[tuple[Any, str, Any]] = []
    for provider in providers.load_all():
        if isinstance(provider, HttpProvider):
            quick = replace(
                provider.limits, calls_per_minute=None, attempts=4, answer_timeout=4.0, patience=20.0, longest_wait=5.0
            )
            changes.append((type(provider), "limits", quick))
    quickly = partial(limits.full_jitter, base=0.005, cap=0.05)
    from ai_usage.core.http import client

    changes += [(module, "full_jitter", quickly) for module in (client, _cloudwatch, _authress_landing)]
    bounds = _google_vertex_ai.Bounds(answer=4.0, patience=20.0, pause=0.05, deadline=60.0)
    changes.append((_google_vertex_ai, "Bounds", lambda: bounds))
    return changes


def be_impatient() -> None:
    """Wait for nobody, in a process that does nothing else."""
    for owner, name, value in impatient():
        setattr(owner, name, value)


# ---------------------------------------------------------------- running


def connections(sandbox: Sandbox, without: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment with every connection that a sandbox without moto answers, but for those named."""
    absent = WITHOUT_MOTO.union(without)
    answered = [one for one in sandbox.connections() if one["connection_id"] not in absent]
    for one in answered:
        if one["conn_type"] == "aws":
            # botocore waits for seconds between its attempts.
            one["extra"] = one["extra"] | {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 2}}}
    assert variable(answered)
    return environment(answered)


def run(
    provider_name: str,
    today: date,
    run_id: str,
    request: sync.Request | None = None,
    between: Callable[[], None] | None = None,
) -> list[UsageError]:
    """Plan, and do every piece of work as its task would; return the failures. ``between`` comes after the plan."""
    provider, warehouse = providers.load(provider_name), open_warehouse()
    planned = sync.plan(provider, warehouse, discover(provider), request or {}, today)
    if between:
        between()
    failures = []
    for piece in planned:
        try:
            sync.extract_and_load(provider, warehouse, piece, run_id)
        except UsageError as error:
            failures.append(error)
    return failures


def run_all(
    settings: Mapping[str, str],
    names: Sequence[str],
    today: date,
    run_id: str,
    window: tuple[str, str] | None = None,
) -> None:
    """Sync some providers in a process of their own, whatever comes of it."""
    request = sync.Request(first=window[0], last=window[1]) if window else None
    os.environ.update(settings)
    be_impatient()
    for name in names:
        try:
            run(name, today, run_id, request)
        except UsageError as error:
            # What a task of its own would have failed with: its neighbours do not care.
            print(f"{name}: {error}")


def change_connection(environment: pytest.MonkeyPatch, connection_id: str, **fields: object) -> None:
    """Fill some fields of an Airflow connection in anew."""
    name = f"AIRFLOW_CONN_{connection_id.upper()}"
    environment.setenv(name, json.dumps(json.loads(os.environ[name]) | fields))


def move_connection(environment: pytest.MonkeyPatch, connection_id: str, address: str) -> None:
    """Let an Airflow connection point elsewhere."""
    change_connection(environment, connection_id, host=address)


# ---------------------------------------------------------------- what is there


def _compared(stream: Stream) -> bool:
    """Whether two readings of a day must agree: a gauge or a balance tells of its own moment only."""
    return stream.is_usage and stream.retention_days != 1


def content(warehouse: TestWarehouse, provider_name: str) -> Content:
    """Return what readers see of every slice of a provider; a record that is there twice is there twice."""
    provider = providers.load(provider_name)
    found: Content = {}
    with psycopg.connect(warehouse.admin_dsn) as session:
        for stream in filter(_compared, provider.streams):
            statement = sql.SQL(
                """
                select slice.connection_id, slice.stream, slice.scope, slice.usage_date, slice.state,
                    coalesce(load.records, '{{}}')
                from ops.slice as slice
                inner join ops.connection as connection using (connection_id)
                left join lateral (
                    select array_agg(known.text order by known.text) as records
                    from ops.load as version
                    inner join raw.{} as source using (load_id, usage_date)
                    -- Fields that no document names are kept apart; they take no part in any number.
                    cross join lateral (select (source.record - 'extra_fields')::text as text) as known
                    where version.connection_id = slice.connection_id and version.stream = slice.stream
                        and version.scope = slice.scope and version.usage_date = slice.usage_date
                        and version.superseded_by is null
                ) as load on true
                where connection.provider = %s and slice.stream = %s
                """
            ).format(sql.Identifier(provider.table(stream)))
            for row in session.execute(statement, (provider_name, stream.name)):
                found[Slot(*row[:4])] = Held(row[4], tuple(row[5]))
    if provider_name in TELL_AS_THE_DAY_GOES:
        today = datetime.now(UTC).date()
        return {slot: held for slot, held in found.items() if slot.usage_date != today}
    return found


def open_problems(warehouse: TestWarehouse, topic: str = "reading") -> list[Problem]:
    """Return the stories that are open now."""
    rows = warehouse.query(
        "select connection_id, topic, kind, message, action, times_seen from ops.problem"
        " where resolved_at is null and topic = %s order by problem_id",
        topic,
    )
    return [Problem(*row) for row in rows]


def failed_slots(warehouse: TestWarehouse, run_id: str) -> set[Slot]:
    """Return the slices that a run asked for and did not get."""
    rows = warehouse.query(
        """
        select extraction.connection_id, extraction.stream, extraction.scope, day::date
        from (
            select distinct on (connection_id, stream, scope, window_first, window_last) *
            from ops.extraction where run_id = %s
            order by connection_id, stream, scope, window_first, window_last, extraction_id desc
        ) as extraction
        cross join lateral generate_series(window_first::timestamp, window_last::timestamp, interval '1 day') as day
        where outcome <> 'loaded' and outcome <> 'unchanged' and stream <> '-'
        """,
        run_id,
    )
    brought = warehouse.query(
        """
        select connection_id, stream, scope, day::date from ops.extraction
        cross join lateral generate_series(window_first::timestamp, window_last::timestamp, interval '1 day') as day
        where run_id = %s and outcome in ('loaded', 'unchanged')
        """,
        run_id,
    )
    return {Slot(*row) for row in rows} - {Slot(*row) for row in brought}


# ---------------------------------------------------------------- restating


@dataclass(frozen=True)
class Place:
    """What a restatement can be about."""

    account: str
    region: str
    day: date


def restatable(sandbox: Sandbox, provider: str, days_ago: Iterable[int], absent: Iterable[str] = ()) -> list[Place]:
    """Return where a provider of the sandbox can change its mind, on days that have usage."""
    truth, today = sandbox.truth.of(provider), sandbox.clock.today()
    found: dict[Place, None] = {}
    for ago in days_ago:
        day = today - timedelta(days=ago)
        for row in truth.expected_usage_daily(day, day):
            for region in (row["region"], "-"):
                place = Place(str(row["account_id"]), str(region), day)
                if place.account not in set(absent) and place not in found and _is_restatable(sandbox, provider, place):
                    found[place] = None
    return list(found)


def restate(sandbox: Sandbox, provider: str, place: Place, **change: Any) -> None:
    """Let a provider change its mind: ``factor``, or ``vanish``."""
    sandbox.truth.restate(
        provider=provider, account=place.account, region=place.region, day=place.day.isoformat(), **change
    )


def _is_restatable(sandbox: Sandbox, provider: str, place: Place) -> bool:
    try:
        sandbox.truth.of(provider).validate(Restatement(provider, place.account, place.region, place.day, factor=ONE))
    except SandboxError:
        return False
    return True
