"""
A sync of one provider, step by step: plan, extract and load, sum up.

The DAG's tasks and the command line call these functions; nothing here knows which of the two it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, NotRequired, TypedDict

from ai_usage.core.contract import Check, Connection, Journal, Memory, Provider, Scope, Stream
from ai_usage.core.errors import ConfigurationInvalid, NotEntitled, Unexpected, UsageError, WarehouseError
from ai_usage.core.planner import days_to_read, expected_days, first_readable_day, newest_readable_day
from ai_usage.core.slices import WHOLE_CONNECTION, Window, windows_covering
from ai_usage.orchestration.clients import open_connection
from ai_usage.warehouse import events, ledger
from ai_usage.warehouse.loader import load
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Session, Warehouse

log = logging.getLogger(__name__)

MOST_DAYS_AT_ONCE = 1100
"""The longest history that one run may be asked for: three years, so that a typing error stays cheap."""
SCOPES_OF_THEIR_OWN = 12
"""So many scopes of a connection have a task each, whatever the provider; only more than these may share tasks."""
UNKNOWN_SCOPE = "?"
"""The scope of a connection that could not be asked for its scopes and has none on record."""


class Request(TypedDict):
    """What a run was asked for. Days are ISO, both included; without them the ledger decides."""

    first: NotRequired[str | None]
    last: NotRequired[str | None]
    connections: NotRequired[list[str] | None]


class Part(TypedDict):
    """A scope, and the windows of each stream to read of it."""

    scope: str
    windows: dict[str, list[tuple[str, str]]]


class Work(TypedDict):
    """One mapped task: a scope of a connection; several where there are many and the provider answers for several."""

    connection_id: str
    label: str
    parts: list[Part]


class Summary(TypedDict):
    """What one mapped task did."""

    label: str
    slices_changed: int
    records_written: int
    calls: int


# ---------------------------------------------------------------- plan


def plan(
    provider: Provider, warehouse: Warehouse, connection_ids: Sequence[str], request: Request, today: date | None = None
) -> list[Work]:
    """
    Return what must be read now, one piece of work per connection and scope.

    A connection that cannot be opened does not stop the others: it becomes a piece of work that fails with the reason.
    """
    today = today or datetime.now(UTC).date()
    asked = requested_window(request, today)
    work: list[Work] = []
    for connection_id in selected(connection_ids, request):
        try:
            _verify_unless_good(provider, warehouse, connection_id)
            work += _plan_connection(provider, warehouse, connection_id, asked, today)
        except WarehouseError:
            raise
        except UsageError as error:
            # The mapped task meets the same error and fails with it, under its own name and with the right retries.
            log.warning("%s", error)
            work.append(_work(connection_id, [Part(scope=UNKNOWN_SCOPE, windows={})]))
    return work


def selected(connection_ids: Sequence[str], request: Request) -> list[str]:
    """Return the connections that the run was asked for; refuse names that are no source."""
    wanted = request.get("connections")
    if not wanted:
        return list(connection_ids)
    if unknown := sorted(set(wanted) - set(connection_ids)):
        raise ConfigurationInvalid(
            f"These connections are no sources of this provider: {', '.join(unknown)}.",
            action=f"Choose among: {', '.join(connection_ids) or 'none is configured'}.",
        )
    return [connection_id for connection_id in connection_ids if connection_id in wanted]


def requested_window(request: Request, today: date) -> Window | None:
    """Return the window that a person asked for, or ``None``; refuse dates that make no sense."""
    first, last = _day("from", request.get("first")), _day("to", request.get("last"))
    if first is None and last is None:
        return None
    first, last = first or last or today, last or today
    if last < first:
        raise ConfigurationInvalid(f"'from' ({first}) is later than 'to' ({last}).", action="Swap the two dates.")
    if (last - first).days >= MOST_DAYS_AT_ONCE:
        raise ConfigurationInvalid(
            f"{first} to {last} is more than {MOST_DAYS_AT_ONCE} days.", action="Ask for it in several runs."
        )
    if first > today:
        raise ConfigurationInvalid(
            f"'from' ({first}) lies in the future.", action=f"Ask for days up to today, {today} (UTC)."
        )
    return Window(first, min(last, today))


def _day(name: str, text: str | None) -> date | None:
    if text in (None, ""):
        return None
    try:
        return date.fromisoformat(str(text))
    except ValueError:
        raise ConfigurationInvalid(
            f"'{name}' is not a day: {str(text)[:40]!r}.", action="Write it as YYYY-MM-DD, for example 2026-08-31."
        ) from None


def _plan_connection(
    provider: Provider, warehouse: Warehouse, connection_id: str, asked: Window | None, today: date
) -> list[Work]:
    start, scopes = _scopes(provider, warehouse, connection_id)
    planned: list[Part] = []
    with warehouse.session(LOADER) as session:
        for scope in scopes:
            windows = {}
            for stream in provider.streams:
                place = Place(provider.name, connection_id, stream.name, scope.name)
                days = _days_to_read(session, place, stream, asked, start, today, scope.first_day)
                windows[stream.name] = [
                    (window.first.isoformat(), window.last.isoformat())
                    for window in windows_covering(days, stream.max_window_days)
                ]
            if any(windows.values()):
                planned.append(Part(scope=scope.name, windows=windows))
    together = provider.scopes_per_task if len(planned) > SCOPES_OF_THEIR_OWN else 1
    return [_work(connection_id, planned[n : n + together]) for n in range(0, len(planned), together)]


def _verify_unless_good(provider: Provider, warehouse: Warehouse, connection_id: str) -> None:
    """Verify a new connection, and one whose last verification found a fault, so that the answers on record are true."""
    with warehouse.session(LOADER) as session:
        if ledger.is_verified(session, connection_id):
            return
    verify(provider, warehouse, connection_id)


def verify(provider: Provider, warehouse: Warehouse, connection_id: str) -> list[Check]:
    """Ask the provider everything a connection needs, keep the answers, and return them."""
    checks = list(provider.check(open_connection(provider, connection_id, Memory())))
    for check in checks:
        log.log(
            logging.INFO if check.passed else logging.WARNING, "%s: %s: %s", connection_id, check.name, check.message
        )
    with warehouse.session(LOADER) as session:
        ledger.keep_checks(session, provider, connection_id, checks)
        if checks and all(check.passed for check in checks):
            place = Place(provider.name, connection_id, None, None)
            events.record_event(session, place, "connected", "info", "The connection was verified.", None, None)
    return checks


def _days_to_read(
    session: Session,
    place: Place,
    stream: Stream,
    asked: Window | None,
    start: date | None,
    today: date,
    first_day: date | None = None,
) -> list[date]:
    """Return the days a run must read, after the ledger has been told that it answers for them."""
    oldest = max(first_readable_day(stream, today), first_day or date.min)
    newest = newest_readable_day(stream, today)
    if asked and stream.retention_days == 1:
        # Of other days than today there never was anything to be had, so nothing is lacking on them.
        if today not in asked:
            return []
        asked = Window(today, today)
    wanted = asked.until(newest) if asked else expected_days(stream, today, start)
    if wanted and not asked:
        wanted = Window(max(wanted.first, oldest), wanted.last) if oldest <= wanted.last else None
    if wanted:
        ledger.expect_slices(session, place, wanted)
    ledger.retire_gaps(session, place, oldest)
    if asked:
        return [day for day in wanted.days if day >= oldest] if wanted else []
    return days_to_read(stream, ledger.slice_states(session, place), today)


def _scopes(provider: Provider, warehouse: Warehouse, connection_id: str) -> tuple[date | None, Sequence[Scope]]:
    """Return the configured first day and the scopes; those on record when the provider cannot be asked."""
    try:
        connection = open_connection(provider, connection_id, Memory())
        start = _day("start_date", connection.options.get("start_date"))
        scopes = provider.scopes(connection)
        with warehouse.session(LOADER) as session:
            ledger.register_scopes(session, provider, connection_id, scopes)
        return start, scopes
    except WarehouseError:
        raise
    except UsageError as error:
        with warehouse.session(LOADER) as session:
            on_record = ledger.known_scopes(session, connection_id)
            start = ledger.first_expected_day(session, connection_id)
        if start is None:
            raise
        log.warning("%s", error.at(connection_id))
        return start, on_record


def _work(connection_id: str, parts: list[Part]) -> Work:
    first = parts[0]["scope"]
    label = connection_id if first in (WHOLE_CONNECTION, UNKNOWN_SCOPE) else f"{connection_id} · {first}"
    if len(parts) > 1:
        label += f" and {len(parts) - 1} more"
    return Work(connection_id=connection_id, label=label, parts=parts)


# ---------------------------------------------------------------- extract and load


def extract_and_load(provider: Provider, warehouse: Warehouse, work: Work, run_id: str) -> Summary:
    """
    Bring home every window of one scope or several, and tell what it took.

    Each window stands alone: one that fails leaves the others loaded. When all are done, a failure is raised.
    A plan that does not include the data is no failure; the ledger and the log say so.
    """
    connection_id = work["connection_id"]
    summary = Summary(label=work["label"], slices_changed=0, records_written=0, calls=0)
    try:
        with warehouse.session(LOADER) as session:
            memory = ledger.recall_names(session, connection_id)
        connection = open_connection(provider, connection_id, memory)
        connection.stored = partial(_stored, provider, warehouse, connection_id)
        scopes = {scope.name: scope for scope in provider.scopes(connection)}
        with warehouse.session(LOADER) as session:
            ledger.register_scopes(session, provider, connection_id, list(scopes.values()))
    except NotEntitled as refusal:
        log.warning("%s", refusal.at(connection_id))
        for part in work["parts"]:
            _fail_everything(provider, warehouse, connection_id, part, run_id, refusal)
        return summary
    except UsageError as error:
        for part in work["parts"]:
            _fail_everything(provider, warehouse, connection_id, part, run_id, error.at(connection_id))
        raise
    failures: list[UsageError] = []
    for part in work["parts"]:
        if (scope := scopes.get(part["scope"])) is None:
            failures.append(_gone(part["scope"]).at(connection_id))
            _fail_everything(provider, warehouse, connection_id, part, run_id, failures[-1])
            continue
        reader = _ScopeReader(provider, warehouse, connection, scope, run_id, summary)
        for stream in provider.streams:
            failures += reader.read(stream, _windows(part, stream))
    if failures:
        # Whatever may pass by itself decides, so that it is tried again soon.
        raise min(failures, key=lambda failure: failure.is_permanent)
    return summary


def _stored(
    provider: Provider, warehouse: Warehouse, connection_id: str, stream: Stream, scope: Scope, day: date
) -> list[dict[str, Any]]:
    with warehouse.session(LOADER) as session:
        return ledger.stored_records(session, Place(provider.name, connection_id, stream.name, scope.name), day)


@dataclass(frozen=True)
class _ScopeReader:
    """Everything that stays the same while one scope is read."""

    provider: Provider
    warehouse: Warehouse
    connection: Connection
    scope: Scope
    run_id: str
    summary: Summary

    def read(self, stream: Stream, windows: Sequence[Window]) -> Iterator[UsageError]:
        """
        Read the windows of one stream, the newest first; yield the failures.

        A window that cannot be read does not keep the others from being read, unless the fault is not the window's.
        """
        place = Place(self.provider.name, self.connection.connection_id, stream.name, self.scope.name)
        with self.warehouse.session(LOADER) as session:
            done = ledger.read_in_run(session, place, self.run_id)
        left = sorted(set(windows) - done)
        while left:
            window = left.pop()
            log.info("%s: reading %s (%d more to come)", place.label, window, len(left))
            try:
                self._read_window(place, stream, window)
            except NotEntitled as refusal:
                log.warning("%s", refusal)
                self._give_up(place, left, refusal)
                return
            except UsageError as failure:
                log.error("%s", failure)
                yield failure
                if failure.is_permanent and not failure.is_of_one_answer:
                    self._give_up(place, left, failure)
                    return

    def _give_up(self, place: Place, windows: Iterable[Window], error: UsageError) -> None:
        """Record of windows that were not asked for that they would have met the same."""
        with self.warehouse.session(LOADER) as session:
            for window in windows:
                attempt = ledger.begin_attempt(session, place, window, self.run_id)
                ledger.fail_attempt(session, attempt, error, Journal())

    def _read_window(self, place: Place, stream: Stream, window: Window) -> None:
        journal = self.connection.journal
        journal.clear()
        with self.warehouse.session(LOADER) as session:
            attempt = ledger.begin_attempt(session, place, window, self.run_id)
        try:
            records = self.provider.extract(self.connection, stream, self.scope, window)
            outcome = load(self.warehouse, attempt, stream, records, journal, self.connection.memory)
        except WarehouseError:
            raise  # nothing can be recorded; the attempt stays "running" and the next one closes it as aborted
        except Exception as error:
            failure = _named(error).at(place.connection_id, place.scope)
            with self.warehouse.session(LOADER) as session:
                ledger.fail_attempt(session, attempt, failure, journal)
            if failure is error:
                raise
            raise failure from error
        for note in journal.notes:
            log.warning("%s: %s", place.label, note.message)
        log.info(
            "%s: %d records read in %d calls; %d slices changed, %d records written",
            place.label,
            outcome.records_read,
            journal.calls,
            outcome.slices_changed,
            outcome.records_written,
        )
        self.summary["calls"] += journal.calls
        self.summary["slices_changed"] += outcome.slices_changed
        self.summary["records_written"] += outcome.records_written


def _windows(part: Part, stream: Stream) -> list[Window]:
    planned = part["windows"].get(stream.name, [])
    return [Window(date.fromisoformat(first), date.fromisoformat(last)) for first, last in planned]


def _named(error: Exception) -> UsageError:
    if isinstance(error, UsageError):
        return error
    return Unexpected(
        f"Reading stopped on an error this project did not foresee ({type(error).__name__}).",
        action="Nothing was stored. Please report it with the traceback from the task's log.",
    )


def _gone(scope: str) -> ConfigurationInvalid:
    """Return the error for a scope that was planned and is not there."""
    if scope == UNKNOWN_SCOPE:
        return ConfigurationInvalid(
            "The connection could not be read when the run was planned, but can be now.",
            action="Nothing is lost: trigger the DAG again, or wait for its next run.",
        )
    return ConfigurationInvalid(
        "The connection no longer includes this scope.",
        action="Add it to the connection again, or trigger the DAG again to plan without it.",
        scope=scope,
    )


def _fail_everything(
    provider: Provider, warehouse: Warehouse, connection_id: str, part: Part, run_id: str, error: UsageError
) -> None:
    """Record an error that came before any window could be read."""
    with warehouse.session(LOADER) as session:
        if part["scope"] == UNKNOWN_SCOPE:
            ledger.fail_connection(session, provider.name, connection_id, error, run_id)
            return
        for stream in provider.streams:
            place = Place(provider.name, connection_id, stream.name, part["scope"])
            for window in _windows(part, stream):
                attempt = ledger.begin_attempt(session, place, window, run_id)
                ledger.fail_attempt(session, attempt, error, Journal())


# ---------------------------------------------------------------- sum up


def verdict(planned: Sequence[Work] | None, summaries: Sequence[Summary], problems: Sequence[str]) -> str:
    """
    Return one sentence about a run in which everything worked; raise :class:`SourcesFailed` otherwise.

    :param planned: what ``plan`` returned; ``None`` if it failed.
    :param problems: the error texts that the ledger holds for the run.
    """
    if planned is None:
        raise SourcesFailed("The run could not be planned.", action="The log of its task plan says why.")
    missing = sorted({work["label"] for work in planned} - {summary["label"] for summary in summaries})
    if not missing:
        changed = sum(summary["slices_changed"] for summary in summaries)
        written = sum(summary["records_written"] for summary in summaries)
        return f"All {len(planned)} sources were read: {changed} slices changed, {written} records written."
    told = (
        "\n".join(f"- {problem}" for problem in sorted(set(problems))) or "- no reason was recorded: see the task's log"
    )
    raise SourcesFailed(
        f"{len(missing)} of {len(planned)} sources failed ({', '.join(missing)}).\n{told}\n",
        action="What the others read is stored. The next run asks again for what is missing.",
    )


class SourcesFailed(UsageError):
    """At least one source of a run could not be read."""

    kind = "sources_failed"
    is_list = True
