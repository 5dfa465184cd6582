"""Reading what was planned: every window by itself, and those that make no sense in parts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

from ai_usage.core.contract import Connection, Journal, Provider, Scope, Stream
from ai_usage.core.division import Division
from ai_usage.core.errors import ConfigurationInvalid, NotEntitled, Unexpected, UsageError, WarehouseError
from ai_usage.core.slices import Window, windows_covering
from ai_usage.orchestration.clients import open_connection
from ai_usage.orchestration.history import history_of
from ai_usage.orchestration.work import UNKNOWN_SCOPE, Part, Summary, Work, windows_of
from ai_usage.warehouse import events, ledger
from ai_usage.warehouse.ledger import Outcome
from ai_usage.warehouse.loader import load
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Warehouse

log = logging.getLogger(__name__)


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
        history_of(connection)
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
        reader = ScopeReader(provider, warehouse, connection, scope, run_id, summary)
        for stream in provider.streams:
            failures += reader.read(stream, windows_of(part, stream))
    with warehouse.session(LOADER) as session:
        ledger.judge_usage(session, provider, connection_id, run_id)
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
class ScopeReader:
    """Everything that stays the same while one scope is read."""

    provider: Provider
    warehouse: Warehouse
    connection: Connection
    scope: Scope
    run_id: str
    summary: Summary

    def read(self, stream: Stream, windows: Sequence[Window]) -> Iterator[UsageError]:
        """
        Read the windows of one stream, the last first; yield the failures.

        A window that cannot be read does not keep the others from being read, unless the fault is not the window's. One
        whose answer makes no sense is asked for in parts, so that a bad day does not keep its neighbours from being read.
        """
        place = Place(self.provider.name, self.connection.connection_id, stream.name, self.scope.name)
        with self.warehouse.session(LOADER) as session:
            done = ledger.read_in_run(session, place, self.run_id)
        division = Division(_without(windows, done))
        nonsense: UsageError | None = None
        is_whole = bool(windows)
        while window := division.take():
            log.info("%s: reading %s (%d more to come)", place.label, window, len(division))
            try:
                outcome = self._read_window(place, stream, window)
            except NotEntitled as refusal:
                log.warning("%s", refusal)
                self._fail(place, window, refusal)
                self._give_up(place, division.give_up(), refusal)
                return
            except UsageError as failure:
                if failure.is_of_one_answer and division.made_no_sense():
                    log.warning("%s The parts of %s tell which days it is about.", failure, window)
                    nonsense = failure
                    continue
                log.error("%s", failure)
                if not isinstance(failure, WarehouseError):
                    self._fail(place, window, failure)
                is_whole = False
                yield failure
                if failure.is_permanent and not failure.is_of_one_answer:
                    self._give_up(place, division.give_up(), failure)
                    return
            else:
                division.answered(with_records=outcome.records_read > 0)
        if nonsense and (division.set_aside() or division.left_over):
            log.error("%s: nothing more is asked for: %s", place.label, nonsense)
            for part in division.set_aside():
                self._fail(place, part, nonsense)
            yield nonsense
        elif is_whole:
            with self.warehouse.session(LOADER) as session:
                events.close_drift(session, place, self.run_id)

    def _fail(self, place: Place, window: Window, error: UsageError) -> None:
        """Record what is known about the days of a window now."""
        with self.warehouse.session(LOADER) as session:
            ledger.fail_slices(session, place, window, error, self.run_id)

    def _give_up(self, place: Place, windows: Iterable[Window], error: UsageError) -> None:
        """Record of windows that were not asked for that they would have met the same."""
        with self.warehouse.session(LOADER) as session:
            for window in windows:
                attempt = ledger.begin_attempt(session, place, window, self.run_id)
                ledger.fail_attempt(session, attempt, error, Journal())

    def _read_window(self, place: Place, stream: Stream, window: Window) -> Outcome:
        """Read and store a window; record how the attempt ended, but of a failure nothing about the days."""
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
                ledger.end_in_failure(session, attempt, failure, journal)
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
        return outcome


def _without(windows: Sequence[Window], done: Iterable[Window]) -> list[Window]:
    """Return what of the windows is not among those that are done, in the same order."""
    days = {day for window in done for day in window.days}
    return [
        part
        for window in windows
        for part in windows_covering((day for day in window.days if day not in days), len(window), avoid=days)
    ]


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
            for window in windows_of(part, stream):
                attempt = ledger.begin_attempt(session, place, window, run_id)
                ledger.fail_attempt(session, attempt, error, Journal())
