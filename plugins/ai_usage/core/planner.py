"""Which days to read now: pure decisions from what the ledger knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from ai_usage.core.contract import Stream
from ai_usage.core.slices import ONE_DAY, SliceState, Window, midnight, windows_covering

TRIES_AT_ONCE = 3
"""So many tries a spoilt day has, one a run, before it begins to wait."""
FIRST_WAIT = timedelta(hours=1)
LONGEST_WAIT = timedelta(hours=24)
_START_OF_RUNS = timedelta(minutes=10)
"""Runs do not begin to the minute. One that comes so little early is the one that the wait is for."""


@dataclass(frozen=True)
class Trouble:
    """
    A day whose last answer made no sense, while its source answers for others: the day is spoilt, not the source.

    :param kind: the kind of error that its last try ended with.
    :param tries: how often in a row it could not be read.
    """

    day: date
    kind: str
    tries: int
    last_try_at: datetime

    @property
    def next_try_at(self) -> datetime:
        """When it is worth asking again: at once a few times, then after 1, 2, 4 … hours, and at last once a day."""
        if self.tries < TRIES_AT_ONCE:
            return self.last_try_at
        # A day has hours enough for five doublings; more would only make the number large.
        return self.last_try_at + min(FIRST_WAIT * (1 << min(self.tries - TRIES_AT_ONCE, 5)), LONGEST_WAIT)

    def waits(self, now: datetime) -> bool:
        """Tell whether it is too early to ask again."""
        return self.tries >= TRIES_AT_ONCE and now < self.next_try_at - _START_OF_RUNS


def first_readable_day(stream: Stream, today: date) -> date:
    """Return the oldest day the provider can still tell about; ``date.min`` where it never forgets."""
    if stream.retention_days is None:
        return date.min
    return today - timedelta(days=stream.retention_days - 1)


def newest_readable_day(stream: Stream, today: date) -> date:
    """Return the newest day that the stream gives."""
    return today - timedelta(days=stream.newest_days_ago)


def expected_days(stream: Stream, today: date, start: date | None) -> Window | None:
    """
    Return the days that the ledger answers for; ``None`` if the stream gives none of them yet.

    :param start: the configured first day of history. Without one, history reaches as far as the provider's memory; a
        provider that never forgets is read from 365 days ago.
    """
    oldest = first_readable_day(stream, today)
    if start is None:
        start = today - timedelta(days=365) if stream.retention_days is None else oldest
    newest = newest_readable_day(stream, today)
    first = min(max(start, oldest), today)
    return Window(first, newest) if first <= newest else None


def days_to_read(
    stream: Stream, states: Mapping[date, SliceState], today: date, look_back: int | None = None
) -> list[date]:
    """
    Return the days worth a call: whatever is not settled, every gap and failure, and the look-back.

    :param look_back: how many days before today are read whatever their state; the stream's own number without it.

    Days the provider no longer remembers are left alone, whatever their state. The windows that cover these days may span
    final ones as well: reading them again costs no further call, and a slice that did not change writes nothing.
    """
    oldest, newest = first_readable_day(stream, today), newest_readable_day(stream, today)
    look_back_from = today - timedelta(days=stream.lookback_days if look_back is None else look_back)
    unsettled = {SliceState.MISSING, SliceState.FAILED, SliceState.NOT_ENTITLED, SliceState.PROVISIONAL}
    return sorted(
        day
        for day, state in states.items()
        if oldest <= day <= newest and (state in unsettled or day >= look_back_from)
    )


def windows_to_read(
    days: Iterable[date], max_days: int, troubles: Sequence[Trouble] = (), now: datetime | None = None
) -> list[Window]:
    """
    Return the windows that hold the days, in the fewest calls that keep a spoilt day from spoiling its neighbours.

    The last are to be read first: good days before spoilt ones, and among them the newest.

    :param troubles: the spoilt days of a source that answers for others. They are asked for by themselves.
    :param now: leaves out the spoilt days whose time has not come; ``None`` leaves out none.
    """
    wanted = set(days)
    spoilt = {trouble.day for trouble in troubles}
    waiting = {trouble.day for trouble in troubles if now and trouble.waits(now)}
    # A window of spoilt days must not reach over good ones, nor over days that wait.
    around = {day + ONE_DAY for day in spoilt} - spoilt
    return [
        *windows_covering(wanted & spoilt - waiting, max_days, avoid=around | waiting),
        *windows_covering(wanted - spoilt, max_days, avoid=spoilt),
    ]


def look_back_of(stream: Stream, chosen: int | None) -> int:
    """Return how many days back a stream is read whatever their state; never fewer than its days take to settle."""
    if chosen is None:
        return stream.lookback_days
    return max(chosen, min(stream.lookback_days, stream.newest_days_ago + max(stream.settle.days, 0)))


def state_of_answer(stream: Stream, usage_date: date, record_count: int, extracted_at: datetime) -> SliceState:
    """Return the state of a slice that was read completely at ``extracted_at``."""
    settled_at = midnight(usage_date) + timedelta(days=1) + stream.settle
    if extracted_at < settled_at:
        return SliceState.PROVISIONAL
    return SliceState.FINAL if record_count else SliceState.CONFIRMED_ZERO
