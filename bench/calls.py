"""
What thirty days of one account cost in calls, provider by provider, against the fewest that its API allows.

The real readers read the sandbox, and the sandbox counts. The minimum does not come from the reader: see
:mod:`bench.call_minima`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from ai_usage import providers
from ai_usage.core.contract import Connection, Memory, Provider, Stream
from ai_usage.core.planner import expected_days
from ai_usage.core.slices import Window, windows_covering
from bench.airflow_home import surroundings
from bench.call_minima import NAMES, RULES, Seen
from bench.claims import Claim, table
from bench.processes import output_of

DAYS = 30
LISTS = "names and lists"
"""The row of what is asked once for the connection: who it is, what there is to read, what things are called."""
OFF = {"openrouter": {"per_key"}}
"""Options of the sandbox's connections that are off unless somebody asks for more: per key is a call per key."""
CONNECTIONS = {"authress": "authress_company"}
"""Where another connection than the default one is worth counting: this one reads a bucket, that one a folder."""


@dataclass(frozen=True)
class Row:
    """One line of the table; counts are calls."""

    provider: str
    stream: str
    made: int
    minimum: int
    more: int
    words: str
    by_default: int
    naive: int

    @property
    def is_met(self) -> bool:
        """Whether no call was made without a reason."""
        return self.made <= self.minimum + self.more


def run() -> list[Claim]:
    """Print the table, and claim per provider."""
    with tempfile.TemporaryDirectory(prefix="ai_usage_bench_") as folder:
        told = Path(folder) / "rows.json"
        environment = surroundings(Path(folder))
        output_of([sys.executable, "-m", "bench.calls", str(told)], environment)
        rows = [Row(**row) for row in json.loads(told.read_text())]
    print(f"Calls for {DAYS} days of one account, as the sandbox counted them")
    header = ("provider", "stream", "made", "minimum", "by default", "naive", "why that is the minimum")
    print(table(header, [_cells(row) for row in rows], right=(2, 3, 4, 5)))
    return [claim(name, [row for row in rows if row.provider == name]) for name in RULES]


def _cells(row: Row) -> tuple[str, ...]:
    counts = (row.made, row.minimum, row.by_default, row.naive)
    return (row.provider, row.stream, *(f"{count:,}" for count in counts), row.words)


def claim(provider: str, rows: Sequence[Row]) -> Claim:
    """Return what is claimed of a provider: no call in any stream beyond the minimum and what is made on purpose."""
    made = sum(row.made for row in rows)
    minimum = sum(row.minimum for row in rows)
    more = sum(row.more for row in rows)
    allowed = f"minimum {minimum}" + (f", and {more} on purpose" if more else "")
    return Claim(f"calls, {provider}, {DAYS} days", str(made), allowed, all(row.is_met for row in rows))


def measure() -> list[Row]:
    """Read every provider's first account from the sandbox and return the rows. Needs surroundings of its own."""
    from sandbox.connections import environment  # noqa: PLC0415 - servers that only this process starts
    from sandbox.service import Sandbox  # noqa: PLC0415

    with Sandbox() as sandbox:
        os.environ.update(environment(sandbox.connections()))
        return [row for name in RULES for row in _Reading(sandbox, providers.load(name)).rows()]


class _Reading:
    """One provider's account, read stream by stream while the sandbox counts."""

    def __init__(self, sandbox: Any, provider: Provider) -> None:
        self._sandbox = sandbox
        self._provider = provider
        self._today: date = sandbox.clock.today()
        self._lists = 0

    def rows(self) -> Iterator[Row]:
        """Yield a row per stream and, where something had to be asked for the connection, one more."""
        provider = self._provider
        self._sandbox.requests.reset()
        connection = self._opened()
        scopes = provider.scopes(connection)
        self._lists = self._taken()
        everything: list[Mapping[str, Any]] = []
        for stream in provider.streams:
            rule = RULES[provider.name][stream.name]
            records = [
                r
                for scope in scopes
                for w in self._windows(stream)
                for r in provider.extract(connection, stream, scope, w)
            ]
            seen = self._seen(stream, len(scopes), [record.record for record in records])
            everything += seen.records
            made = self._taken(rule.operations)
            words = f"{rule.words}; {rule.why}" if rule.why else rule.words
            yield Row(
                provider.name,
                stream.name,
                made,
                rule.minimum(seen),
                rule.more(seen),
                words,
                rule.by_default(seen),
                rule.naive(seen),
            )
        if self._lists or provider.name in NAMES:
            words, formula = NAMES.get(provider.name, ("nothing", lambda _: 0))
            least = formula(Seen(DAYS, len(scopes), everything))
            yield Row(provider.name, LISTS, self._lists, least, 0, words, least, least)

    def _opened(self) -> Connection:
        from ai_usage.orchestration.clients import open_connection  # noqa: PLC0415 - imports Airflow

        name = self._provider.name
        connection = open_connection(self._provider, CONNECTIONS.get(name, f"{name}_default"), Memory())
        connection.options = {k: v for k, v in connection.options.items() if k not in OFF.get(name, ())}
        return connection

    def _window(self, stream: Stream) -> Window:
        newest = expected_days(stream, self._today, None)
        assert newest is not None
        return Window(max(newest.first, newest.last - timedelta(days=DAYS - 1)), newest.last)

    def _windows(self, stream: Stream) -> list[Window]:
        return windows_covering(self._window(stream).days, stream.max_window_days)

    def _seen(self, stream: Stream, scopes: int, records: Sequence[Mapping[str, Any]]) -> Seen:
        window = self._window(stream)
        return Seen(len(window), scopes, records, self._objects(window) if self._provider.name == "authress" else 0)

    def _objects(self, window: Window) -> int:
        """Return how many objects landed since the day before the window: a folder's time zone may be another."""
        # The sandbox is only in this process.
        from sandbox.simulators.authress import objects  # noqa: PLC0415
        from sandbox.truth.authress import COMPANY  # noqa: PLC0415

        since = f"{window.first - timedelta(days=1):%Y/%m/%d}"
        lying = objects(self._sandbox.truth.of("authress"), COMPANY, "{year}/{month}/{day}/", packed=True)
        return sum(name >= since for name in lying)

    def _taken(self, operations: Iterable[str] = ()) -> int:
        """Return how often the operations were called since the last look; other calls go to the names and lists."""
        counted = _by_operation(self._sandbox.requests.to_json()["calls"].get(self._provider.name, {}))
        self._sandbox.requests.reset()
        made = sum(counted.get(operation, 0) for operation in operations)
        if operations:
            self._lists += sum(counted.values()) - made
            return made
        return sum(counted.values())


def _by_operation(calls: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for regions in calls.values():
        for operations in regions.values():
            for operation, number in operations.items():
                found[operation] = found.get(operation, 0) + number
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps([asdict(row) for row in measure()]))
