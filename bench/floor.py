"""
The bare floor: every provider read one after another in this one process, then one dbt build. No scheduler, no tasks.

What it calls is what the DAGs call. It prints its wall seconds as JSON: of reading, of transforming, and what was read.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ai_usage import providers
from ai_usage.orchestration.sources import discover
from ai_usage.orchestration.sync import Request, extract_and_load, plan
from ai_usage.orchestration.transform import transform
from ai_usage.orchestration.warehouse_connection import open_warehouse

PROJECT = Path(__file__).resolve().parents[1] / "dbt_project"


def main(target: str) -> None:
    """Read and build; ``target`` is dbt's folder."""
    begun = time.perf_counter()
    warehouse = open_warehouse()
    written = 0
    pieces: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for name in providers.names():
        provider, since = providers.load(name), time.perf_counter()
        planned = plan(provider, warehouse, discover(provider), Request(by_hand=True))
        pieces[name] = len(planned)
        for work in planned:
            written += extract_and_load(provider, warehouse, work, "bench/floor")["records_written"]
        seconds[name] = time.perf_counter() - since
    read = time.perf_counter()
    done = transform(warehouse, "bench/floor", project=PROJECT, target=Path(target))
    ended = time.perf_counter()
    print(
        json.dumps(
            {
                "reading": read - begun,
                "transforming": ended - read,
                "providers": seconds,
                "pieces": pieces,
                "records": written,
                "nodes_failed": done.nodes_failed,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
