"""
The loader against psql's own COPY and against dlt, all given the same records.

Everything fills tables in the same server, one after the other and in turns. The loader encodes, digests, spools where it
must and writes the ledger. psql only sends a text file that lies ready, which is the limit. dlt runs in an environment of
its own, as its manual begins and as it is fastest (:mod:`bench.dlt_process`). Whoever starts from Python starts from the
same generator, and the time to make the records counts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg

from ai_usage.core.contract import Journal, Scope, Stream
from ai_usage.core.slices import Window
from ai_usage.warehouse import ledger, loader, registry
from ai_usage.warehouse.encoding import encode_record
from ai_usage.warehouse.migrate import create_raw_table
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Warehouse
from bench.claims import Claim, table
from bench.processes import ROOT, Measured, measured_command, output_of, peak_mb
from bench.records import DAYS, FIRST_DAY, synthetic
from bench.server import PASSWORDS, drop_database, fresh_database, fresh_warehouse, throw_away_server
from launcher.pg_home import programs_folder
from launcher.postgres import Postgres

ROUNDS = 3
ROWS = "AI_USAGE_BENCH_LOAD_ROWS"
PSQL, OURS, DLT_FASTEST, DLT_DEFAULT = "psql, COPY text", "the loader", "dlt, Arrow and parquet", "dlt, default"
DLT_TUNED = {"LOAD__WORKERS": str(os.cpu_count() or 1), "DATA_WRITER__FILE_MAX_ITEMS": "100000"}
"""Files small enough to be sent at the same time, by as many connections as there are cores; other settings were slower."""
MEMORY_MB = 150
"""The goal for the loader's peak memory."""
SAME_MEMORY = 1.1
"""How much more memory ten times the rows may take to count as none."""
STREAM = Stream(
    name="rows",
    summary="synthetic usage rows",
    grain=("line",),
    fields=frozenset(
        {
            "line",
            "bucket_start",
            "organization_id",
            "project_id",
            "user_id",
            "api_key_id",
            "model",
            "region",
            "service_tier",
            "batch",
            "input_tokens",
            "cached_input_tokens",
            "output_tokens",
            "requests",
            "cost",
        }
    ),
    settle=timedelta(days=3),
    lookback_days=3,
    retention_days=None,
    max_window_days=DAYS,
)


Way = Callable[["Given"], Measured]


@dataclass(frozen=True)
class Given:
    """What a way of loading is given: a server, a scratch folder, and how many rows."""

    server: Postgres
    folder: Path
    rows: int

    @property
    def text_file(self) -> Path:
        """The rows as psql reads them."""
        return self.folder / f"{self.rows}.copy"


def run() -> list[Claim]:
    """Print every way's figures and return how the loader does against them."""
    rows = int(os.environ.get(ROWS, "1000000"))
    subprocess.run([ROOT / "bin" / "_setup", "bench"], check=True)
    with throw_away_server() as (server, folder):
        few = _compare(Given(server, folder, rows // 10), {PSQL: ROUNDS, OURS: ROUNDS})
        # The slowest takes minutes, and has the least to lose by chance.
        many = _compare(Given(server, folder, rows), {PSQL: ROUNDS, OURS: ROUNDS, DLT_FASTEST: ROUNDS, DLT_DEFAULT: 1})
    return _claims(rows, few, many)


def _compare(given: Given, rounds: dict[str, int]) -> dict[str, Measured]:
    """Let each way load so many times, in turns; print and return the medians."""
    _write_copy_file(given.text_file, given.rows)
    found: dict[str, list[Measured]] = {name: [] for name in rounds}
    for number in range(max(rounds.values())):
        for name in (name for name, times in rounds.items() if number < times):
            found[name].append(WAYS[name](given))
    given.text_file.unlink()
    medians = {name: Measured.median(times) for name, times in found.items()}
    _print(given.rows, medians, rounds)
    return medians


def _print(rows: int, medians: dict[str, Measured], rounds: dict[str, int]) -> None:
    print(f"Loading {rows:,} rows; medians of the rounds")
    header = ("way", "rounds", "rows/s", "seconds", "client CPU s", "peak MB", "the loader's speed against it")
    lines = [
        (
            name,
            str(rounds[name]),
            f"{rows / one.seconds:,.0f}",
            f"{one.seconds:.2f}",
            f"{one.cpu_seconds:.2f}",
            f"{one.peak_mb:.0f}",
            f"{one.seconds / medians[OURS].seconds:.2f} x",
        )
        for name, one in medians.items()
    ]
    print(table(header, lines, right=range(1, len(header))), flush=True)


def _claims(rows: int, few: dict[str, Measured], many: dict[str, Measured]) -> list[Claim]:
    return [
        _speed(rows // 10, few, PSQL, 0.8),
        _speed(rows, many, PSQL, 0.8),
        _speed(rows, many, DLT_DEFAULT, 5.0),
        _speed(rows, many, DLT_FASTEST, 1.2),
        Claim(
            f"loading {rows:,} rows, peak memory",
            f"{many[OURS].peak_mb:.0f} MB",
            f"< {MEMORY_MB} MB",
            many[OURS].peak_mb < MEMORY_MB,
        ),
        Claim(
            "loading ten times the rows, peak memory",
            f"{many[OURS].peak_mb / few[OURS].peak_mb:.2f} x",
            f"<= {SAME_MEMORY} x",
            many[OURS].peak_mb <= SAME_MEMORY * few[OURS].peak_mb,
        ),
    ]


def _speed(rows: int, medians: dict[str, Measured], rival: str, goal: float) -> Claim:
    ratio = medians[rival].seconds / medians[OURS].seconds
    return Claim(f"loading {rows:,} rows, speed against {rival}", f"{ratio:.2f} x", f">= {goal:g} x", ratio >= goal)


def _write_copy_file(path: Path, rows: int) -> None:
    with path.open("wb") as file:
        for day, record in synthetic(rows):
            file.write(b"1\t%s\t%s\n" % (day.isoformat().encode(), encode_record(record).replace(b"\\", b"\\\\")))


def _fresh_warehouse(server: Postgres) -> Warehouse:
    made = fresh_warehouse(server, "bench")
    with psycopg.connect(server.dsn("bench")) as admin:
        create_raw_table(admin, "bench_rows", "Benchmark rows")
    _checkpoint(server, "bench")
    return made


def _checkpoint(server: Postgres, database: str) -> None:
    """Let nobody's time contain the writing of what came before."""
    with psycopg.connect(server.dsn(database), autocommit=True) as admin:
        admin.execute("checkpoint")


def _psql_copy(given: Given) -> Measured:
    here = _fresh_warehouse(given.server)
    return measured_command(
        [
            *(
                str(programs_folder() / "psql"),
                "-h",
                here.host,
                "-p",
                str(here.port),
                "-U",
                here.user,
                "-d",
                here.dbname,
            ),
            *("-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", f"set role {LOADER}"),
            *("-c", f"\\copy raw.bench_rows (load_id, usage_date, record) from '{given.text_file}'"),
        ],
        os.environ | {"PGPASSWORD": here.password},
    )


def _our_load(given: Given) -> Measured:
    here = _fresh_warehouse(given.server)
    return _told_by([sys.executable, "-m", "bench.load", str(here.port), str(given.rows)], os.environ)


def _dlt_load(given: Given, way: str, settings: Mapping[str, str]) -> Measured:
    name = f"bench_dlt_{way}"
    fresh_database(given.server, name)
    _checkpoint(given.server, name)
    surroundings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'plugins'}{os.pathsep}{ROOT}",
        "HOME": str(given.folder),
        "DLT_DATA_DIR": str(given.folder / name),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
        "DESTINATION__POSTGRES__CREDENTIALS": given.server.dsn(name),
        **settings,
    }
    python = ROOT / ".state" / "bench-venv" / "bin" / "python"
    measured = _told_by([str(python), "-m", "bench.dlt_process", way, str(given.rows)], surroundings)
    drop_database(given.server, name)
    shutil.rmtree(given.folder / name)
    return measured


WAYS: dict[str, Way] = {
    PSQL: _psql_copy,
    OURS: _our_load,
    DLT_FASTEST: lambda given: _dlt_load(given, "arrow", DLT_TUNED),
    DLT_DEFAULT: lambda given: _dlt_load(given, "default", {}),
}


def _told_by(command: Sequence[str], environment: Mapping[str, str]) -> Measured:
    """Run a process that measures itself and says so in the last line of its output."""
    return Measured(**json.loads(output_of(command, environment).splitlines()[-1]))


def _load_once(port: int, rows: int) -> Measured:
    here = Warehouse("127.0.0.1", port, "bench", "ai_usage", PASSWORDS.login)
    place = Place("bench", "bench_default", STREAM.name, "-")
    with here.session(LOADER) as session:
        session.execute("insert into ops.connection (connection_id, provider) values ('bench_default', 'bench')")
        registry.register_scope(session, "bench_default", Scope())
        window = Window(FIRST_DAY, FIRST_DAY + timedelta(days=DAYS - 1))
        attempt = ledger.begin_attempt(session, place, window, "bench")
    begun, cpu_before = time.perf_counter(), time.process_time()
    outcome = loader.load(here, attempt, STREAM, synthetic(rows), Journal())
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_before
    if outcome.records_written != rows:
        raise SystemExit(f"{outcome.records_written} rows were written instead of {rows}")
    return Measured(seconds, cpu_seconds, peak_mb())


if __name__ == "__main__":
    print(json.dumps(vars(_load_once(int(sys.argv[1]), int(sys.argv[2])))))
