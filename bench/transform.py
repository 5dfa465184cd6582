"""
What one changed day costs after short and long histories.

The histories lie side by side in one server, each written by the project's own loader: accounts with a few regions, some
fifty model ids each. Then, in turns, a day of each is restated (every slice of it, by the loader, which supersedes the
old versions) and the project's own transform runs: one dbt process that rebuilds the marts and tests them. A cost that
follows the change and not the history gives ratios near 1.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg

from ai_usage.core.contract import Journal, Record, Scope
from ai_usage.core.slices import Window
from ai_usage.orchestration.preloading import preload
from ai_usage.orchestration.transform import Transformed, transform
from ai_usage.providers.aws_bedrock import MANTLE, PROVIDER, RUNTIME
from ai_usage.warehouse import ledger, loader, registry
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Warehouse
from bench.claims import Claim
from bench.server import fresh_warehouse, throw_away_server
from launcher.postgres import Postgres

HISTORIES = (30, 365, 1460)
ROUNDS = 9
GOAL = 1.25
LAST_DAY = date(2025, 12, 31)
FILL_DAYS = 60
ROWS_A_DAY = "AI_USAGE_BENCH_ROWS_A_DAY"
PROJECT = Path(__file__).resolve().parents[1] / "dbt_project"
(STREAM,) = PROVIDER.streams

REGIONS = ("us-east-1", "us-west-2", "eu-central-1", "eu-west-1", "ap-northeast-1")
FOUNDATION = (
    "amazon.nova-lite-v1:0",
    "amazon.nova-micro-v1:0",
    "amazon.nova-pro-v1:0",
    "amazon.titan-embed-text-v2:0",
    "anthropic.claude-3-haiku-20240307-v1:0",
    "anthropic.claude-3-5-sonnet-20240620-v1:0",
    "cohere.embed-multilingual-v3",
    "meta.llama3-1-8b-instruct-v1:0",
    "mistral.mistral-large-2402-v1:0",
    "openai.gpt-oss-120b-1:0",
)
ROUTED = (
    "amazon.nova-premier-v1:0",
    "anthropic.claude-haiku-4-5-20251001-v1:0",
    "anthropic.claude-opus-4-1-20250805-v1:0",
    "anthropic.claude-sonnet-4-20250514-v1:0",
    "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "deepseek.r1-v1:0",
    "meta.llama3-3-70b-instruct-v1:0",
    "meta.llama4-scout-17b-instruct-v1:0",
    "mistral.pixtral-large-2502-v1:0",
    "writer.palmyra-x5-v1:0",
)
MANTLE_MODELS = (
    "openai.gpt-oss-120b",
    "openai.gpt-oss-20b",
    "qwen.qwen3-32b",
    "zai.glm-4.6",
    "moonshotai.kimi-k2-thinking",
)
PROFILES = 15
RUNTIME_IDS = FOUNDATION + tuple(f"{route}.{name}" for route in ("us", "global") for name in ROUTED)
ROWS_A_SLICE = len(RUNTIME_IDS) + len(MANTLE_MODELS) + PROFILES


@dataclass(frozen=True)
class Measured:
    """One transform. All times are seconds; ``nodes`` is dbt's own time of each model and test."""

    wall: float
    dbt: float
    nodes: Mapping[str, float]
    done: Transformed


@dataclass
class History:
    """A warehouse with so many days of usage."""

    days: int
    accounts: int
    warehouse: Warehouse
    admin_dsn: str
    target: Path
    rounds: list[Measured] = field(default_factory=list)

    @property
    def places(self) -> Iterator[tuple[str, Place]]:
        """Yield account number and place of every scope."""
        for number in range(self.accounts):
            for region in REGIONS:
                place = Place(PROVIDER.name, f"aws_bedrock_{number:03d}", STREAM.name, region)
                yield f"{100_000_000_000 + number}", place

    def fill(self) -> int:
        """Load the history, oldest days first, and return the number of raw rows."""
        with self.warehouse.session(LOADER) as session:
            for account, place in self.places:
                scope = Scope(place.scope or "", account, f"Account {account}", place.scope)
                registry.register_scopes(session, PROVIDER, place.connection_id, [scope])
        written, day = 0, LAST_DAY - timedelta(days=self.days - 1)
        while day <= LAST_DAY:
            window = Window(day, min(day + timedelta(days=FILL_DAYS - 1), LAST_DAY))
            written += sum(
                self._load(place, window, _usage(account, place.scope or "", window)) for account, place in self.places
            )
            day = window.last + timedelta(days=1)
        self._settle()
        return written

    def restate(self, day: date) -> None:
        """Load every slice of a day again, with other numbers."""
        for _, place in self.places:
            changed = [Record(day, _restated(record)) for record in self._current_records(place, day)]
            if self._load(place, Window(day, day), changed) != ROWS_A_SLICE:
                raise SystemExit(f"The restatement of {day} did not replace {place.label}.")

    def build(self, run_id: str) -> Measured:
        """Run the transform, as its DAG does."""
        begun = time.perf_counter()
        done = transform(self.warehouse, run_id, project=PROJECT, target=self.target)
        wall = time.perf_counter() - begun
        if done.nodes_failed:
            raise SystemExit(f"{done.nodes_failed} dbt nodes failed.")
        artifact = json.loads((self.target / "run_results.json").read_text())
        nodes = {result["unique_id"].split(".")[2]: result["execution_time"] for result in artifact["results"]}
        return Measured(wall, artifact["elapsed_time"], nodes, done)

    def first_build(self) -> Measured:
        """Build everything, then do at once what autovacuum does within minutes after so much change."""
        measured = self.build("bench first build")
        self._settle()
        return measured

    def changed_day(self, number: int) -> None:
        """Restate one day and measure the transform: the newest day first, then ever older ones."""
        day = LAST_DAY - timedelta(days=number * (self.days // ROUNDS))
        self.restate(day)
        measured = self.build(f"bench round {number}")
        if measured.done.pairs != self.accounts:
            raise SystemExit(f"{measured.done.pairs} connection-days were rebuilt instead of {self.accounts}.")
        self.rounds.append(measured)

    def median(self, seconds: Callable[[Measured], float]) -> float:
        """Return the median over the rounds."""
        return statistics.median(map(seconds, self.rounds))

    def _load(self, place: Place, window: Window, records: Iterable[Record]) -> int:
        with self.warehouse.session(LOADER) as session:
            attempt = ledger.begin_attempt(session, place, window, "bench")
        return loader.load(self.warehouse, attempt, STREAM, records, Journal()).records_written

    def _current_records(self, place: Place, day: date) -> list[dict[str, Any]]:
        with psycopg.connect(self.admin_dsn) as admin:
            rows = admin.execute(
                """
                select raw.record from raw.aws_bedrock_metrics as raw
                inner join ops.slice as slice using (load_id)
                where slice.connection_id = %s and slice.usage_date = %s and slice.stream = %s and slice.scope = %s
                """,
                (place.connection_id, day, place.stream, place.scope),
            )
            return [record for (record,) in rows]

    def _settle(self) -> None:
        with psycopg.connect(self.admin_dsn, autocommit=True) as admin:
            admin.execute("vacuum (analyze)")
            admin.execute("checkpoint")


def _usage(account: str, region: str, window: Window) -> Iterator[Record]:
    profiles = [sha256(f"{account} {region} {n}".encode()).hexdigest()[:12] for n in range(PROFILES)]
    for day in window.days:
        for position, model_id in enumerate((*RUNTIME_IDS, *profiles)):
            yield _record(account, region, day, RUNTIME.name, model_id, _runtime_metrics(_seed(day, position)))
        for position, model_id in enumerate(MANTLE_MODELS):
            yield _record(account, region, day, MANTLE.name, model_id, _mantle_metrics(_seed(day, position)))


def _seed(day: date, position: int) -> int:
    return day.toordinal() * 7919 + position * 104_729


def _record(account: str, region: str, day: date, namespace: str, model_id: str, metrics: dict[str, int]) -> Record:
    identity = {"account_id": account, "region": region, "namespace": namespace, "model_id": model_id}
    return Record(day, identity | {"metrics": metrics})


def _runtime_metrics(seed: int) -> dict[str, int]:
    calls = seed % 9973 + 1
    metrics = {
        "Invocations": calls,
        "InputTokenCount": calls * (seed % 1009 + 200),
        "OutputTokenCount": calls * (seed % 401 + 50),
        "CacheReadInputTokenCount": calls * (seed % 2003),
        "CacheWriteInputTokenCount": calls * (seed % 97),
    }
    # A counter that counted nothing has no point.
    if seed % 3 == 0:
        metrics["InvocationClientErrors"] = seed % 13 + 1
    if seed % 11 == 0:
        metrics["InvocationThrottles"] = seed % 29 + 1
    return metrics


def _mantle_metrics(seed: int) -> dict[str, int]:
    calls = seed % 997 + 1
    return {"Inferences": calls, "TotalInputTokens": calls * (seed % 809 + 90), "TotalOutputTokens": calls * 211}


def _restated(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"metrics": {name: value + 1 for name, value in record["metrics"].items()}}


def run() -> list[Claim]:
    """Print the times, and their ratios."""
    rows_a_day = int(os.environ.get(ROWS_A_DAY, "2000"))
    accounts = max(1, round(rows_a_day / (len(REGIONS) * ROWS_A_SLICE)))
    # As in a task, which is forked from a process that has imported dbt.
    preload()
    with throw_away_server() as (server, folder):
        return _run(server, folder, accounts)


def _run(server: Postgres, folder: Path, accounts: int) -> list[Claim]:
    slices = accounts * len(REGIONS)
    print(
        f"Transforming one changed day ({slices * ROWS_A_SLICE:,} raw rows in {slices} slices; marts and tests):"
        f" seconds, medians of {ROUNDS} rounds"
    )
    histories = [_prepare(server, folder, days, accounts) for days in HISTORIES]
    for number in range(ROUNDS):
        for history in histories:
            history.changed_day(number)
    return _report(histories)


def _prepare(server: Postgres, folder: Path, days: int, accounts: int) -> History:
    name = f"bench_{days}"
    warehouse = fresh_warehouse(server, name)
    history = History(days, accounts, warehouse, server.dsn(name), folder / f"target_{days}")
    begun = time.perf_counter()
    rows = history.fill()
    filled = time.perf_counter() - begun
    first = history.first_build()
    print(
        f"  {days:>5,} days made: {rows:>9,} raw rows loaded in {filled:5.1f} s,"
        f" first build {first.wall:6.1f} s ({first.dbt:.1f} s of it dbt's own)",
        flush=True,
    )
    return history


def _report(histories: list[History]) -> list[Claim]:
    print(
        f"  {'days of history':<42}" + "".join(f"{history.days:>8,}" for history in histories) + "   ratio to the first"
    )
    wall = _print_medians(histories, "the transform, from call to return", lambda one: one.wall)
    _print_medians(histories, "of it dbt's own time, start-up left out", lambda one: one.dbt)
    _print_medians(histories, "all models and tests, added up", lambda one: sum(one.nodes.values()))
    shortest, longest = histories[0], histories[-1]
    grown = sorted(
        longest.rounds[-1].nodes,
        key=lambda node: shortest.median(_seconds_of(node)) - longest.median(_seconds_of(node)),
    )
    print("  the three that grew most")
    for node in grown[:3]:
        _print_medians(histories, f"  {node}", _seconds_of(node))
    worst = max(wall) / wall[0]
    return [
        Claim(
            f"transform after one changed day, {longest.days:,} days of history at most, against {shortest.days}",
            f"{worst:.2f} x",
            f"<= {GOAL} x",
            worst <= GOAL,
        )
    ]


def _seconds_of(node: str) -> Callable[[Measured], float]:
    return lambda one: one.nodes[node]


def _print_medians(histories: list[History], label: str, seconds: Callable[[Measured], float]) -> list[float]:
    medians = [history.median(seconds) for history in histories]
    ratios = "  ".join(f"{value / medians[0]:.2f}" for value in medians[1:])
    print(f"  {label[:42]:<42}" + "".join(f"{value:>8.2f}" for value in medians) + f"   {ratios}")
    return medians
