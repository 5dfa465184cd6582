"""
What people have still to be told of the problems: an outbox per channel over ``ops.problem``.

Functions take an open session under the loader's role and leave committing to whoever opened it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime

from psycopg.rows import class_row

from ai_usage.warehouse.session import Session

# Any constant works; it only has to be the same in every process that tells people.
_TELLING_LOCK = 7_301_194_423


@dataclass(frozen=True)
class Story:
    """
    A problem of which a channel has something left to tell.

    :param label: what the provider is called.
    :param was_told: whether the channel has told of its opening.
    :param is_damped: whether the channel told of a problem of this kind and connection less than an hour ago.
    :param is_going_on: whether a problem of this kind and connection is open now.
    """

    problem_id: int
    provider: str
    label: str
    connection_id: str
    scope: str | None
    stream: str | None
    topic: str
    kind: str
    severity: str
    message: str
    action: str | None
    opened_at: datetime
    last_seen_at: datetime
    times_seen: int
    resolved_at: datetime | None
    resolution: str | None
    was_told: bool
    is_damped: bool
    is_going_on: bool
    resolved_lately: bool

    @property
    def place(self) -> str:
        """The part of the connection that it is about."""
        return " · ".join(part for part in (self.scope, self.stream) if part and part != "-")


@contextmanager
def one_teller(session: Session) -> Iterator[None]:
    """Let one session at a time tell people, so that nobody is told twice; others wait here."""
    # Whoever holds it for longer waits for a receiver that hangs, and tells our news as well or leaves them to the next.
    session.execute("set local lock_timeout = '1min'")
    session.execute("select pg_advisory_lock(%s)", (_TELLING_LOCK,))
    session.commit()
    try:
        yield
    finally:
        session.rollback()
        session.execute("select pg_advisory_unlock(%s)", (_TELLING_LOCK,))
        session.commit()


def untold(session: Session, channel: str) -> list[Story]:
    """
    Return what a channel has still to tell, oldest first.

    That is every open problem, the end of every problem that it told of, and problems that came and went within the last
    day. Data that is late is told of once it is late for half an hour: after a pause of the whole installation everything
    is, for minutes. A channel is not told of its own failures.
    """
    with session.cursor(row_factory=class_row(Story)) as cursor:
        return cursor.execute(
            """
            select problem.problem_id, problem.provider, coalesce(provider.label, 'AI usage') as label,
                problem.connection_id, problem.scope, problem.stream, problem.topic, problem.kind, problem.severity,
                problem.message, problem.action, problem.opened_at, problem.last_seen_at, problem.times_seen,
                problem.resolved_at, problem.resolution,
                telling.opening_told_at is not null as was_told,
                exists (
                    select 1 from ops.telling as earlier inner join ops.problem as alike using (problem_id)
                    where earlier.channel = %(channel)s and earlier.opening_told_at > now() - interval '1 hour'
                        and alike.connection_id = problem.connection_id and alike.topic = problem.topic
                        and alike.kind = problem.kind
                ) as is_damped,
                exists (
                    select 1 from ops.problem as alike
                    where alike.connection_id = problem.connection_id and alike.topic = problem.topic
                        and alike.kind = problem.kind and alike.resolved_at is null
                ) as is_going_on,
                coalesce(problem.resolved_at > now() - interval '1 hour', false) as resolved_lately
            from ops.problem as problem
            left join ops.provider as provider using (provider)
            left join ops.telling as telling
                on telling.problem_id = problem.problem_id and telling.channel = %(channel)s
            where not (problem.topic = 'notification' and problem.connection_id = %(channel)s)
                and case
                    when problem.resolved_at is null then telling.opening_told_at is null
                        and (problem.kind <> 'data_late' or problem.opened_at < now() - interval '30 minutes')
                    when telling.opening_told_at is not null
                        then telling.recovery_told_at is null and problem.resolution <> 'replaced'
                    else problem.resolution = 'recovered' and problem.kind <> 'data_late'
                        and problem.resolved_at > now() - interval '1 day'
                end
            order by problem.opened_at, problem.problem_id
            """,
            {"channel": channel},
        ).fetchall()


def mark_told(session: Session, channel: str, stories: Iterable[Story]) -> None:
    """Keep that a channel has told of these stories, as far as they went when they were told."""
    rows = [(story.problem_id, channel, story.resolved_at is not None) for story in stories]
    with session.cursor() as cursor:
        cursor.executemany(
            """
            insert into ops.telling (problem_id, channel, opening_told_at, recovery_told_at)
            values (%s, %s, now(), case when %s then now() end)
            on conflict (problem_id, channel) do update set recovery_told_at = excluded.recovery_told_at
            """,
            rows,
        )
        cursor.executemany(
            """
            update ops.problem set told_opening_at = coalesce(told_opening_at, now()),
                told_recovery_at = case when %s then coalesce(told_recovery_at, now()) else told_recovery_at end
            where problem_id = %s
            """,
            [(is_over, problem_id) for problem_id, _, is_over in rows],
        )


def had_digest(session: Session, day: date) -> bool:
    """Tell whether the digest of a day was sent."""
    return session.execute("select 1 from ops.digest where digest_date = %s", (day,)).fetchone() is not None


def keep_digest(session: Session, day: date) -> None:
    """Keep that the digest of a day was sent."""
    session.execute("insert into ops.digest (digest_date) values (%s) on conflict do nothing", (day,))
