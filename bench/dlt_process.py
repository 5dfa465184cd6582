"""
dlt, loading the benchmark's records: ``python -m bench.dlt_process <way> <rows>``, in dlt's own environment.

It is told the database by dlt's own variables, and prints what the load cost. The clock runs from the first record to
the return of ``run``, when the rows are committed; imports are left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import dlt
import pyarrow

from bench.processes import peak_mb
from bench.records import synthetic

ROWS_A_TABLE = 50_000
"""How many rows are made into one Arrow table."""


def default(rows: int) -> dict[str, Any]:
    """Return what is passed to ``run`` by somebody who has read the first page of dlt's manual."""
    return {"data": _dictionaries(rows)}


def arrow(rows: int) -> dict[str, Any]:
    """Return the same for dlt's fast path: Arrow tables, written to parquet, sent by ADBC."""
    return {"data": _tables(rows), "loader_file_format": "parquet"}


WAYS: dict[str, Callable[[int], dict[str, Any]]] = {"default": default, "arrow": arrow}


def _dictionaries(rows: int) -> Iterator[dict[str, Any]]:
    for usage_date, record in synthetic(rows):
        yield {"usage_date": usage_date, **record}


def _tables(rows: int) -> Iterator[pyarrow.Table]:
    records = _dictionaries(rows)
    while some := list(islice(records, ROWS_A_TABLE)):
        yield pyarrow.Table.from_pylist(some)


def main(way: str, rows: int) -> None:
    """Load once, and print seconds, processor seconds and peak memory."""
    pipeline = dlt.pipeline("bench", destination="postgres", dataset_name="bench_dlt")
    begun, cpu_before = time.perf_counter(), time.process_time()
    pipeline.run(**WAYS[way](rows), table_name="rows")
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_before
    with pipeline.sql_client() as client, client.execute_query("select count(*) from rows") as answer:
        (stored,) = answer.fetchone()
    if stored != rows:
        raise SystemExit(f"dlt stored {stored} rows instead of {rows}")
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
