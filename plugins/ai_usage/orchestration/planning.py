"""Planning a run: the ledger is told which days it answers for, and says which of them must be read now."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from ai_usage.core.contract import Memory, Provider, Scope, Stream
from ai_usage.core.errors import UsageError, WarehouseError
from ai_usage.core.planner import (
    Trouble,
    days_to_read,
    expected_days,
    first_readable_day,
    look_back_of,
    newest_readable_day,
    windows_to_read,
)
from ai_usage.core.slices import WHOLE_CONNECTION, Window
from ai_usage.orchestration.clients import open_connection
from ai_usage.orchestration.history import History, history_of
from ai_usage.orchestration.verification import verify_unless_good
from ai_usage.orchestration.work import UNKNOWN_SCOPE, Part, Request, Work, requested_window, selected
from ai_usage.warehouse import ledger
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Session, Warehouse

log = logging.getLogger(__name__)

SCOPES_OF_THEIR_OWN = 12
"""So many scopes of a connection have a task each, whatever the provider; only more than these may share tasks."""


@dataclass(frozen=True)
class _Occasion:
    """
    When a run takes place, and what it was asked for.

    :param asked: the days a person asked for, if it was a person.
    :param is_by_hand: whether days that wait for their next try are read as well.
    """

    now: datetime
    today: date
    asked: Window | None
    is_by_hand: bool


def plan(
    provider: Provider,
    warehouse: Warehouse,
    connection_ids: Sequence[str],
    request: Request,
    today: date | None = None,
    now: datetime | None = None,
) -> list[Work]:
    """
    Return what must be read now, one piece of work per connection and scope.

    A connection that cannot be opened does not stop the others: it becomes a piece of work that fails with the reason.
    """
    now = now or datetime.now(UTC)
    today = today or now.date()
    asked = requested_window(request, today)
    occasion = _Occasion(now, today, asked, is_by_hand=asked is not None or bool(request.get("by_hand")))
    work: list[Work] = []
    for connection_id in selected(connection_ids, request):
        try:
            verify_unless_good(provider, warehouse, connection_id)
            work += _plan_connection(provider, warehouse, connection_id, occasion)
        except WarehouseError:
            raise
        except UsageError as error:
            # The mapped task meets the same error and fails with it, under its own name and with the right retries.
            log.warning("%s", error)
            work.append(_work(connection_id, [Part(scope=UNKNOWN_SCOPE, windows={})]))
    return work


def _plan_connection(provider: Provider, warehouse: Warehouse, connection_id: str, occasion: _Occasion) -> list[Work]:
    scopes, history = _source(provider, warehouse, connection_id)
    planned: list[Part] = []
    with warehouse.session(LOADER) as session:
        look_back = {
            stream.name: _look_back(session, provider, stream, history.look_back) for stream in provider.streams
        }
        for scope in scopes:
            windows = {}
            for stream in provider.streams:
                place = Place(provider.name, connection_id, stream.name, scope.name)
                found = _windows(session, place, stream, scope, history.start, look_back[stream.name], occasion)
                windows[stream.name] = [(window.first.isoformat(), window.last.isoformat()) for window in found]
            if any(windows.values()):
                planned.append(Part(scope=scope.name, windows=windows))
    together = provider.scopes_per_task if len(planned) > SCOPES_OF_THEIR_OWN else 1
    return [_work(connection_id, planned[n : n + together]) for n in range(0, len(planned), together)]


def _windows(
    session: Session,
    place: Place,
    stream: Stream,
    scope: Scope,
    start: date | None,
    look_back: int,
    occasion: _Occasion,
) -> list[Window]:
    """Return the windows to read of one place, after the ledger has been told that it answers for all its days."""
    oldest = max(first_readable_day(stream, occasion.today), scope.first_day or date.min)
    wanted = _wanted(stream, occasion, start, oldest)
    _hold_to_account(session, place, stream, wanted, occasion.today)
    ledger.retire_gaps(session, place, oldest)
    troubles = ledger.troubles(session, place)
    if occasion.asked:
        days = [day for day in wanted.days if day >= oldest] if wanted else []
    else:
        days = days_to_read(stream, ledger.slice_states(session, place), occasion.today, look_back)
        troubles = [trouble for trouble in troubles if trouble.day in days]
    if occasion.is_by_hand:
        return windows_to_read(days, stream.max_window_days, troubles)
    _tell_waiting(place, troubles, occasion.now)
    return windows_to_read(days, stream.max_window_days, troubles, occasion.now)


def _wanted(stream: Stream, occasion: _Occasion, start: date | None, oldest: date) -> Window | None:
    """Return the days that this run makes the ledger answer for, whatever it knows already."""
    asked, today = occasion.asked, occasion.today
    if asked and stream.retention_days == 1:
        # Of other days than today there never was anything to be had, so nothing is lacking on them.
        return Window(today, today) if today in asked else None
    if asked:
        return asked.until(newest_readable_day(stream, today))
    expected = expected_days(stream, today, start)
    if expected is None or expected.last < oldest:
        return None
    return Window(max(expected.first, oldest), expected.last)


def _hold_to_account(session: Session, place: Place, stream: Stream, wanted: Window | None, today: date) -> None:
    """
    Make the ledger answer for the days that are wanted, and for all from its first day on: no pause leaves a hole.

    Where only the present can be read, a day on which nobody looked is none that anybody could have expected.
    """
    if wanted:
        ledger.expect_slices(session, place, wanted)
    if stream.retention_days == 1:
        return
    first, newest = ledger.first_day(session, place), newest_readable_day(stream, today)
    if first and first < newest:
        ledger.expect_slices(session, place, Window(first, newest))


def _tell_waiting(place: Place, troubles: Sequence[Trouble], now: datetime) -> None:
    for trouble in troubles:
        if trouble.waits(now):
            log.warning(
                "%s: %s could not be read %d times (%s) and waits until %s UTC; other days are read. To try it now,"
                " trigger the DAG by hand.",
                place.label,
                trouble.day,
                trouble.tries,
                trouble.kind,
                trouble.next_try_at.strftime("%Y-%m-%d %H:%M"),
            )


def _source(provider: Provider, warehouse: Warehouse, connection_id: str) -> tuple[Sequence[Scope], History]:
    """Return the scopes and how far back to read them; what is on record when the provider cannot be asked."""
    try:
        connection = open_connection(provider, connection_id, Memory())
        history = history_of(connection)
        scopes = provider.scopes(connection)
        with warehouse.session(LOADER) as session:
            ledger.register_scopes(session, provider, connection_id, scopes)
        return scopes, history
    except WarehouseError:
        raise
    except UsageError as error:
        with warehouse.session(LOADER) as session:
            on_record = ledger.known_scopes(session, connection_id)
            first = ledger.first_expected_day(session, connection_id)
        if first is None:
            raise
        log.warning("%s", error.at(connection_id))
        return on_record, History(first)


def _look_back(session: Session, provider: Provider, stream: Stream, configured: int | str | None) -> int:
    """Return how many days back the stream is read; without evidence a recommendation is the stream's own number."""
    if isinstance(configured, int):
        return look_back_of(stream, configured)
    recommended = ledger.recommended_look_back(session, provider.name, stream.name) if configured else None
    return look_back_of(stream, recommended)


def _work(connection_id: str, parts: list[Part]) -> Work:
    first = parts[0]["scope"]
    label = connection_id if first in (WHOLE_CONNECTION, UNKNOWN_SCOPE) else f"{connection_id} · {first}"
    if len(parts) > 1:
        label += f" and {len(parts) - 1} more"
    return Work(connection_id=connection_id, label=label, parts=parts)
