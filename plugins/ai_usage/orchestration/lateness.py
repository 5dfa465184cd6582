"""
Data that is late: found by whoever runs, about everyone, so that a DAG which does not run is told of by those that do.

Two things are late: a DAG that is due and has not planned, and a place of which a day is still not covered when it should
long be. What cannot be read has a story of its own, which says why; it is not told a second time as late.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.warehouse import events
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Session, Warehouse

log = logging.getLogger(__name__)

LATE_AFTER = "AI_USAGE_LATE_AFTER_HOURS"
"""Environment variable: hours after the end of a day, and of what its stream asks for beside, until it must be covered."""
_LATE_AFTER_HOURS = 24
_OVERDUE_AFTER = timedelta(hours=2)
_DAYS_LOOKED_AT = 30
KIND = "data_late"


@dataclass(frozen=True)
class _Late:
    """A late place: the whole connection without a scope."""

    provider: str
    connection_id: str
    scope: str | None
    message: str
    action: str

    @property
    def place(self) -> Place:
        return Place(self.provider, self.connection_id, None, self.scope)


def watch(warehouse: Warehouse) -> None:
    """Open a problem for everything that is late, and end those of what is late no longer."""
    with warehouse.session(LOADER) as session:
        overdue = _overdue(session)
        late = {(one.connection_id, one.scope): one for one in _behind(session, _grace())}
        for one in overdue:
            # A whole connection that is not asked says it all.
            late = {key: other for key, other in late.items() if key[0] != one.connection_id}
            late[one.connection_id, None] = one
        for one in late.values():
            if events.open_problem(session, one.place, "lateness", KIND, "warning", one.message, one.action, None):
                log.warning("%s: %s", one.place.label, one.message)
        for provider, connection_id, scope, has_ended in _open_stories(session):
            if (connection_id, scope) not in late:
                whole = (connection_id, None) in late
                resolution: events.Resolution = "disconnected" if has_ended else "replaced" if whole else "recovered"
                events.close_problem(session, Place(provider, connection_id, None, scope), "lateness", None, resolution)


def _grace() -> timedelta:
    text = os.environ.get(LATE_AFTER, "").strip() or str(_LATE_AFTER_HOURS)
    if not text.isdecimal() or not 1 <= int(text) <= 24 * 30:
        raise ConfigurationInvalid(
            f"{LATE_AFTER} is {text[:20]!r}, which is no number of hours.",
            action="Set a number from 1 to 720, or none.",
        )
    return timedelta(hours=int(text))


def _overdue(session: Session) -> list[_Late]:
    """Return the connections whose DAG is due for long and has not planned."""
    rows = session.execute(
        """
        select provider.provider, connection.connection_id,
            to_char(provider.next_run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI')
        from ops.provider as provider
        inner join ops.connection as connection using (provider)
        where provider.next_run_at < now() - %s and connection.disconnected_at is null
        order by 1, 2
        """,
        (_OVERDUE_AFTER,),
    )
    return [
        _Late(
            provider,
            connection_id,
            None,
            f"The DAG {provider}_usage was due at {due} UTC and has not run.",
            "See in Airflow whether it is paused or a run of it hangs, and whether the scheduler is up.",
        )
        for provider, connection_id, due in rows
    ]


def _behind(session: Session, grace: timedelta) -> list[_Late]:
    """
    Return the places that lack a day which should be covered by now.

    Looked at are the newest days only, by the ledger's key. Left out: places that the connection no longer has, or has
    not had for as long as a day may take; what the plan does not include; what can tell of the present alone; and what
    has an open story of failing.
    """
    rows = session.execute(
        """
        with expected as (
            select connection.provider, connection.connection_id, stream.stream,
                ((now() - %(grace)s) at time zone 'UTC')::date - 1 - stream.newest_days_ago as due
            from ops.connection as connection
            inner join ops.stream as stream using (provider)
            where connection.disconnected_at is null and stream.is_usage and coalesce(stream.retention_days, 2) > 1
        ),

        newest_look as (
            select connection_id, max(last_seen_at) as last_seen_at from ops.scope group by connection_id
        ),

        place as (
            select expected.provider, slice.connection_id, slice.scope, slice.stream, expected.due,
                max(slice.usage_date) filter (
                    where slice.state in ('final', 'provisional', 'confirmed_zero')
                ) as covered_until,
                (array_agg(slice.state order by slice.usage_date desc) filter (
                    where slice.usage_date <= expected.due
                ))[1] as due_state
            from expected
            inner join ops.slice as slice
                on slice.connection_id = expected.connection_id and slice.stream = expected.stream
                    and slice.usage_date >= expected.due - %(days)s
            inner join newest_look on newest_look.connection_id = slice.connection_id
            inner join ops.scope as scope
                on scope.connection_id = slice.connection_id and scope.scope = slice.scope
                    and scope.last_seen_at = newest_look.last_seen_at
                    and scope.first_seen_at < now() - %(grace)s
            group by 1, 2, 3, 4, 5
        )

        select provider, connection_id, scope, stream, due, covered_until from place
        where coalesce(covered_until < due, true)
            and coalesce(due_state, 'missing') not in ('not_entitled', 'outside_retention')
            and not exists (
                select 1 from ops.problem
                where problem.connection_id = place.connection_id and problem.topic = 'reading'
                    and problem.resolved_at is null
                    and coalesce(problem.scope, place.scope) = place.scope
                    and coalesce(problem.stream, place.stream) = place.stream
            )
        order by 1, 2, 3, 4
        """,
        {"grace": grace, "days": _DAYS_LOOKED_AT},
    ).fetchall()
    return [
        _of_scope(*key, [(stream, due, covered) for *_, stream, due, covered in group])
        for key, group in groupby(rows, key=lambda row: (row[0], row[1], row[2]))
    ]


def _of_scope(provider: str, connection_id: str, scope: str, streams: Sequence[tuple[str, date, date | None]]) -> _Late:
    due = max(due for _, due, _ in streams)
    covered = [day for _, _, day in streams if day]
    known = f"The newest day that is covered is {min(covered)}" if covered else "No day of late is covered"
    return _Late(
        provider,
        connection_id,
        scope,
        f"{known}, and {due} should be by now ({', '.join(stream for stream, _, _ in streams)}).",
        f"See the last runs of {provider}_usage, and whether the provider's own page shows that day.",
    )


def _open_stories(session: Session) -> Iterable[tuple[str, str, str | None, bool]]:
    return session.execute(
        """
        select problem.provider, problem.connection_id, problem.scope,
            connection.connection_id is null or connection.disconnected_at is not null
        from ops.problem as problem
        left join ops.connection as connection using (connection_id)
        where problem.topic = 'lateness' and problem.kind = %s and problem.resolved_at is null
        """,
        (KIND,),
    ).fetchall()
