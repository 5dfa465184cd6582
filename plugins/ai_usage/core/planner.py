"""Which days to read now: pure decisions from what the ledger knows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from ai_usage.core.contract import Stream
from ai_usage.core.slices import SliceState, Window, midnight


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


def days_to_read(stream: Stream, states: Mapping[date, SliceState], today: date) -> list[date]:
    """
    Return the days worth a call: whatever is not settled, every gap and failure, and the look-back.

    Days the provider no longer remembers are left alone, whatever their state. The windows that cover these days may span
    final ones as well: reading them again costs no further call, and a slice that did not change writes nothing.
    """
    oldest, newest = first_readable_day(stream, today), newest_readable_day(stream, today)
    look_back_from = today - timedelta(days=stream.lookback_days)
    unsettled = {SliceState.MISSING, SliceState.FAILED, SliceState.NOT_ENTITLED, SliceState.PROVISIONAL}
    return sorted(
        day
        for day, state in states.items()
        if oldest <= day <= newest and (state in unsettled or day >= look_back_from)
    )


def state_of_answer(stream: Stream, usage_date: date, record_count: int, extracted_at: datetime) -> SliceState:
    """Return the state of a slice that was read completely at ``extracted_at``."""
    settled_at = midnight(usage_date) + timedelta(days=1) + stream.settle
    if extracted_at < settled_at:
        return SliceState.PROVISIONAL
    return SliceState.FINAL if record_count else SliceState.CONFIRMED_ZERO
