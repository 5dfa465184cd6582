"""
The loader against psql's own COPY of the same rows.

Both fill a table of the same shape, with the same index, in the same server, one after the other and in turns. The loader
encodes, digests, spools where it must and writes the ledger; psql only sends a text file that lies ready. The peak memory
is that of the loader's own process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import psycopg

from ai_usage.core.contract import Journal, Record, Scope, Stream
from ai_usage.core.slices import Window
from ai_usage.warehouse import ledger, loader
from ai_usage.warehouse.encoding import encode_record
from ai_usage.warehouse.migrate import create_raw_table
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Warehouse
from bench.claims import Claim
from bench.server import PASSWORDS, fresh_warehouse, throw_away_server
from launcher.pg_home import programs_folder
from launcher.postgres import Postgres

ROUNDS = 3
DAYS = 30
FIRST_DAY = date(2026, 1, 1)
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


@dataclass
class Measured:
    """One timed load."""

    seconds: float
    peak_mb: float


def synthetic(rows: int) -> Iterator[Record]:
    """Yield usage rows of 15 fields and about 300 bytes, spread over a month."""
    days = [FIRST_DAY + timedelta(days=n) for n in range(DAYS)]
    for line in range(rows):
        day = days[line * DAYS // rows]
        yield Record(
            day,
            {
                "line": line,
                "bucket_start": 1_767_225_600 + line,
                "organization_id": "org-a1b2c3d4e5f6",
                "project_id": f"proj_{line % 40:012d}",
                "user_id": f"user-{line % 900:012d}",
                "api_key_id": f"key_{line % 90:012d}",
                "model": f"vendor.model-{line % 20}",
                "region": "eu-west-1",
                "service_tier": "default",
                "batch": False,
                "input_tokens": line * 7919 % 1_000_003,
                "cached_input_tokens": line * 104_729 % 500_009,
                "output_tokens": line * 1_299_709 % 250_007,
                "requests": line % 997,
                "cost": line * 31 % 10_007,
            },
        )


def run() -> list[Claim]:
    """Print the ratio and the memory."""
    with throw_away_server() as (server, folder):
        return _run(server, folder)


def _run(server: Postgres, folder: Path) -> list[Claim]:
    print("Loading: rows per second, the loader (digest, ledger and all) against psql's COPY of the same rows")
    claims = []
    for rows in (100_000, 1_000_000):
        text_file = folder / f"{rows}.copy"
        _write_copy_file(text_file, rows)
        ours, psql = [], []
        for _ in range(ROUNDS):
            psql.append(_psql_copy(server, text_file))
            ours.append(_our_load(server, rows))
        text_file.unlink()
        fastest = statistics.median(psql)
        median = statistics.median(measured.seconds for measured in ours)
        peak = max(measured.peak_mb for measured in ours)
        print(
            f"  {rows:>9,} rows   psql {rows / fastest:>9,.0f}/s   loader {rows / median:>9,.0f}/s"
            f"   ratio {fastest / median:4.2f}   loader's peak memory {peak:4.0f} MB"
        )
        ratio = fastest / median
        claims.append(Claim(f"loading {rows:,} rows, speed against psql", f"{ratio:.2f} x", ">= 0.8 x", ratio >= 0.8))
    return claims


def _write_copy_file(path: Path, rows: int) -> None:
    with path.open("wb") as file:
        for day, record in synthetic(rows):
            file.write(b"1\t%s\t%s\n" % (day.isoformat().encode(), encode_record(record).replace(b"\\", b"\\\\")))


def _fresh_warehouse(server: Postgres) -> Warehouse:
    made = fresh_warehouse(server, "bench")
    with psycopg.connect(server.dsn("bench")) as admin:
        create_raw_table(admin, "bench_rows", "Benchmark rows")
    with psycopg.connect(server.dsn("bench"), autocommit=True) as admin:
        admin.execute("checkpoint")
    return made


def _psql_copy(server: Postgres, text_file: Path) -> float:
    here = _fresh_warehouse(server)
    command = [
        str(programs_folder() / "psql"),
        *(
            "-h",
            here.host,
            "-p",
            str(here.port),
            "-U",
            here.user,
            "-d",
            here.dbname,
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
        ),
        *("-c", f"set role {LOADER}"),
        *("-c", f"\\copy raw.bench_rows (load_id, usage_date, record) from '{text_file}'"),
    ]
    begun = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | {"PGPASSWORD": here.password})
    return time.perf_counter() - begun


def _our_load(server: Postgres, rows: int) -> Measured:
    here = _fresh_warehouse(server)
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", str(here.port), str(rows)], check=True, capture_output=True, text=True
    )
    return Measured(**json.loads(done.stdout))


def _load_once(port: int, rows: int) -> Measured:
    here = Warehouse("127.0.0.1", port, "bench", "ai_usage", PASSWORDS.login)
    place = Place("bench", "bench_default", STREAM.name, "-")
    with here.session(LOADER) as session:
        session.execute("insert into ops.connection (connection_id, provider) values ('bench_default', 'bench')")
        ledger.register_scope(session, "bench_default", Scope())
        window = Window(FIRST_DAY, FIRST_DAY + timedelta(days=DAYS - 1))
        attempt = ledger.begin_attempt(session, place, window, "bench")
    begun = time.perf_counter()
    outcome = loader.load(here, attempt, STREAM, synthetic(rows), Journal())
    seconds = time.perf_counter() - begun
    if outcome.records_written != rows:
        raise SystemExit(f"{outcome.records_written} rows were written instead of {rows}")
    return Measured(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    print(json.dumps(vars(_load_once(int(sys.argv[1]), int(sys.argv[2])))))
