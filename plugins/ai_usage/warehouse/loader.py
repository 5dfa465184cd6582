"""
The loader: from a stream of records to whole slices, in one transaction with the ledger.

Readers see the old version of a slice or the new one, never a mixture and never nothing. A slice that did not change
writes nothing. Memory stays constant whatever the volume:

- Up to two megabytes of encoded records wait in memory. Most runs end there, so the transaction lasts milliseconds.
- Beyond that, records of slices that were never loaded go straight to ``COPY``: they cannot be unchanged.
- Records of slices that exist already wait in a file until their digest says whether they are needed. So do those of slices
  that a later reading found nothing to say about: they are not.

Two runs of the same place wait for each other, and a reading that began before one that is already stored gives way to
it: the latest look at the provider wins, in whatever order the writers finish.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import chain, islice
from struct import Struct
from tempfile import TemporaryFile
from typing import IO

from psycopg import sql

from ai_usage.core.contract import Journal, Memory, Note, Record, Stream
from ai_usage.core.errors import ResponseInvalid
from ai_usage.core.planner import state_of_answer
from ai_usage.core.slices import SliceState
from ai_usage.warehouse import ledger, registry
from ai_usage.warehouse.encoding import COPY_HEADER, COPY_TRAILER, SliceDigest, copy_prefix, copy_rows, encode_record
from ai_usage.warehouse.ledger import Attempt, Outcome
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Session, Warehouse

_KEEP_IN_MEMORY = 2 * 1024 * 1024
_SEND_AT_ONCE = 256
"""Rows that are put together into one message; usage records are short."""
_FRAME = Struct(">ii")

Digests = Mapping[date, SliceDigest]


# A plain tuple, because a named one costs as much per record as looking for NaN in it.
Row = tuple[date, bytes]
"""A record's day, and the record encoded."""


def load(
    warehouse: Warehouse,
    attempt: Attempt,
    stream: Stream,
    records: Iterable[Record],
    journal: Journal,
    memory: Memory | None = None,
) -> Outcome:
    """
    Store the complete answer to ``attempt`` and finish it in the ledger.

    ``records`` is consumed once. Whatever it raises passes through, with every slice untouched.
    """
    digests = {day: SliceDigest() for day in attempt.window.days}
    rows = _encoded(records, stream, digests, journal)
    # The session opens no transaction before its first statement, so a slow provider does not hold one.
    with warehouse.session(LOADER, application="ai_usage load") as session:
        head = list(_up_to(_KEEP_IN_MEMORY, rows))
        overflow = next(rows, None)
        landing = _Landing(session, attempt, stream, journal)
        if overflow is None:
            changed = landing.changed_days(digests)
            written = landing.copy(row for row in head if row[0] in changed) if changed else 0
        else:
            with TemporaryFile(prefix="ai_usage_") as spool:
                written = landing.copy(landing.worth_writing(chain(head, [overflow], rows), digests, spool))
            changed = landing.changed_days(digests)
        outcome = Outcome(sum(digest.count for digest in digests.values()), written, len(changed))
        landing.write_ledger(changed, digests)
        landing.note_restatements(changed, journal)
        if memory:
            registry.keep_names(session, attempt.place.connection_id, memory)
        ledger.end_attempt(session, attempt, outcome, journal)
    return outcome


def _encoded(
    records: Iterable[Record], stream: Stream, digests: Mapping[date, SliceDigest], journal: Journal
) -> Iterator[Row]:
    """Encode and digest records; drop what lies outside the window, refuse fields that the stream does not name."""
    outside = 0
    fields = stream.fields
    for usage_date, record in records:
        digest = digests.get(usage_date)
        if digest is None:
            outside += 1
            continue
        if not fields.issuperset(record):
            raise _undeclared_fields(stream, record.keys() - fields)
        encoded = encode_record(record)
        digest.add(encoded)
        yield usage_date, encoded
    if outside:
        journal.notes.append(
            Note("outside_window", "The provider sent days that were not asked for; they were dropped.")
        )


def _undeclared_fields(stream: Stream, names: Iterable[str]) -> ResponseInvalid:
    return ResponseInvalid(
        f"A record of {stream.name} has fields that this project does not store: {', '.join(sorted(names))[:200]}.",
        action="Nothing was stored. If they are usage fields, add them to the stream's list of fields.",
    )


def _up_to(limit: int, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows until their bytes reach the limit; the rest stays in the iterator."""
    size = 0
    while size < limit and (row := next(rows, None)):
        size += len(row[1])
        yield row


@dataclass(frozen=True)
class _Version:
    """The version of a slice that readers see now."""

    load_id: int
    digest: str
    state: SliceState


class _Landing:
    """The transaction that replaces the slices of one window. Opening it takes the place's lock."""

    def __init__(self, session: Session, attempt: Attempt, stream: Stream, journal: Journal) -> None:
        self._session = session
        self._attempt = attempt
        self._stream = stream
        self._journal = journal
        self._lock()
        self.current = self._current_versions()
        self._read_later = self._days_read_later()
        self._load_ids = self._allocate_load_ids()

    def changed_days(self, digests: Digests) -> frozenset[date]:
        """Return the days whose content differs from what readers see, once all records have been digested."""
        return frozenset(
            day
            for day, digest in digests.items()
            if day not in self._read_later
            and day not in self._journal.unanswered
            and (day not in self.current or self.current[day].digest != digest.hexdigest())
        )

    def worth_writing(self, rows: Iterable[Row], digests: Digests, spool: IO[bytes]) -> Iterator[Row]:
        """Yield rows of new slices as they come, then those of known slices whose digest turned out to be different."""
        undecided = self.current.keys() | self._read_later
        for row in rows:
            usage_date, encoded = row
            if usage_date in undecided:
                spool.write(_FRAME.pack(usage_date.toordinal(), len(encoded)) + encoded)
            else:
                yield row
        changed = self.changed_days(digests)
        yield from (row for row in _spooled(spool) if row[0] in changed)

    def copy(self, rows: Iterable[Row]) -> int:
        """Send the rows to PostgreSQL and return how many there were."""
        table = f"{self._attempt.place.provider}_{self._stream.name}"
        statement = sql.SQL("copy raw.{} (load_id, usage_date, record) from stdin (format binary)").format(
            sql.Identifier(table)
        )
        prefixes = {day: copy_prefix(load_id, day) for day, load_id in self._load_ids.items()}
        rows = iter(rows)
        written = 0
        with self._session.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(COPY_HEADER)
            while batch := list(islice(rows, _SEND_AT_ONCE)):
                copy.write(copy_rows(batch, prefixes))
                written += len(batch)
            copy.write(COPY_TRAILER)
        return written

    def write_ledger(self, changed: frozenset[date], digests: Digests) -> None:
        """Make the new versions current, and move on the state of slices that only settled."""
        self._replace_versions(changed, digests)
        self._settle(digests.keys() - changed - self._read_later - self._journal.unanswered, digests)
        if self._journal.unanswered:
            self._session.execute(_LEAVE_OPEN, self._identity | {"days": sorted(self._journal.unanswered)})

    def note_restatements(self, changed: frozenset[date], journal: Journal) -> None:
        """Tell when days that counted as final have changed."""
        settled = {SliceState.FINAL, SliceState.CONFIRMED_ZERO}
        restated = sorted(day for day in changed if day in self.current and self.current[day].state in settled)
        if restated:
            days = ", ".join(map(str, restated[:10])) + (" and more" if len(restated) > 10 else "")
            journal.notes.append(Note("restated", f"The provider changed settled days: {days}.", is_news=True))

    def _lock(self) -> None:
        place = self._attempt.place
        self._session.execute(
            "select pg_advisory_xact_lock(hashtextextended(%s, 0))",
            (f"ai_usage slice {place.connection_id} {place.stream} {place.scope}",),
        )

    def _current_versions(self) -> dict[date, _Version]:
        # A version that its slice has lost sight of is seen by nobody: it is written again, like one that never was.
        rows = self._session.execute(
            """
            select usage_date, load_id, load.digest, load.state
            from ops.load as load
            inner join ops.slice as slice using (connection_id, stream, scope, usage_date, load_id)
            where connection_id = %s and stream = %s and scope = %s and usage_date between %s and %s
                and load.superseded_by is null
            """,
            self._place_and_window,
        )
        return {day: _Version(load_id, digest, SliceState(state)) for day, load_id, digest, state in rows}

    def _days_read_later(self) -> frozenset[date]:
        """Return the days that another run asked for after us and has stored already."""
        rows = self._session.execute(
            """
            select distinct day::date
            from ops.extraction
            cross join lateral generate_series(window_first::timestamp, window_last::timestamp, interval '1 day') as day
            where connection_id = %s and stream = %s and scope = %s and window_last >= %s and window_first <= %s
                and started_at > %s and outcome in ('loaded', 'unchanged')
            """,
            (*self._place_and_window, self._attempt.started_at),
        )
        return frozenset(day for (day,) in rows)

    def _allocate_load_ids(self) -> dict[date, int]:
        rows = self._session.execute(
            "select nextval('ops.load_load_id_seq') from generate_series(1, %s)", (len(self._attempt.window),)
        )
        return dict(zip(self._attempt.window.days, (load_id for (load_id,) in rows), strict=True))

    def _replace_versions(self, changed: frozenset[date], digests: Digests) -> None:
        if not changed:
            return
        days = sorted(changed)
        new = {
            "days": days,
            "load_ids": [self._load_ids[day] for day in days],
            "states": [self._state(day, digests) for day in days],
            "counts": [digests[day].count for day in days],
            "digests": [digests[day].hexdigest() for day in days],
        }
        values = self._identity | new
        self._session.execute(_SUPERSEDE, values)
        self._session.execute(_INSERT_LOADS, values)
        self._session.execute(_POINT_SLICES, values)

    def _settle(self, unchanged: Iterable[date], digests: Digests) -> None:
        moved = {day: self._state(day, digests) for day in sorted(unchanged)}
        moved = {day: state for day, state in moved.items() if state != self.current[day].state}
        if not moved:
            return
        values = self._identity | {"days": list(moved), "states": list(moved.values())}
        self._session.execute(_SETTLE_LOADS, values)
        self._session.execute(_SETTLE_SLICES, values)

    def _state(self, day: date, digests: Digests) -> SliceState:
        if day in self._journal.unsettled:
            return SliceState.PROVISIONAL
        return state_of_answer(self._stream, day, digests[day].count, self._attempt.started_at)

    @property
    def _place_and_window(self) -> tuple[object, ...]:
        place, window = self._attempt.place, self._attempt.window
        return (place.connection_id, place.stream, place.scope, window.first, window.last)

    @property
    def _identity(self) -> dict[str, object]:
        place = self._attempt.place
        return {
            "provider": place.provider,
            "connection_id": place.connection_id,
            "stream": place.stream,
            "scope": place.scope,
            "extraction_id": self._attempt.extraction_id,
            "extracted_at": self._attempt.started_at,
            "run_id": self._attempt.run_id,
        }


def _spooled(spool: IO[bytes]) -> Iterator[Row]:
    spool.seek(0)
    while frame := spool.read(_FRAME.size):
        ordinal, length = _FRAME.unpack(frame)
        yield date.fromordinal(ordinal), spool.read(length)


# The unique index allows one current version of a slice, so the old one steps back first; the reference to its successor
# is checked at commit.
_SUPERSEDE = """
update ops.load as old set superseded_by = new.load_id, superseded_at = now()
from unnest(%(days)s::date[], %(load_ids)s::bigint[]) as new (usage_date, load_id)
where old.connection_id = %(connection_id)s and old.stream = %(stream)s and old.scope = %(scope)s
    and old.usage_date = new.usage_date and old.superseded_by is null
"""
_INSERT_LOADS = """
insert into ops.load (load_id, provider, connection_id, stream, scope, usage_date, state, record_count, digest,
    extracted_at, extraction_id, run_id)
select load_id, %(provider)s, %(connection_id)s, %(stream)s, %(scope)s, usage_date, state, record_count, digest,
    %(extracted_at)s, %(extraction_id)s, %(run_id)s
from unnest(%(load_ids)s::bigint[], %(days)s::date[], %(states)s::text[], %(counts)s::bigint[], %(digests)s::text[])
    as new (load_id, usage_date, state, record_count, digest)
"""
_POINT_SLICES = """
insert into ops.slice (connection_id, usage_date, stream, scope, state, load_id, last_attempt_at)
select %(connection_id)s, usage_date, %(stream)s, %(scope)s, state, load_id, now()
from unnest(%(days)s::date[], %(states)s::text[], %(load_ids)s::bigint[]) as new (usage_date, state, load_id)
on conflict (connection_id, usage_date, stream, scope) do update set
    state = excluded.state, load_id = excluded.load_id, last_attempt_at = excluded.last_attempt_at,
    changed_at = now(), error_kind = null, failed_attempts = 0
"""
_SETTLE_LOADS = """
update ops.load as load set state = new.state
from unnest(%(days)s::date[], %(states)s::text[]) as new (usage_date, state)
where load.connection_id = %(connection_id)s and load.stream = %(stream)s and load.scope = %(scope)s
    and load.usage_date = new.usage_date and load.superseded_by is null
"""
_SETTLE_SLICES = """
update ops.slice as slice set state = new.state, changed_at = now()
from unnest(%(days)s::date[], %(states)s::text[]) as new (usage_date, state)
where slice.connection_id = %(connection_id)s and slice.stream = %(stream)s and slice.scope = %(scope)s
    and slice.usage_date = new.usage_date
"""
# The provider was asked and did not refuse: it has nothing to say of these days.
_LEAVE_OPEN = """
update ops.slice set state = 'missing', changed_at = now()
where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
    and usage_date = any(%(days)s::date[]) and load_id is null and state in ('failed', 'not_entitled')
"""
