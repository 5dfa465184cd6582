"""``ai-usage sync``: read what is missing and build the marts, in this process."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, TextIO

from ai_usage.commands import BAD, GOOD
from ai_usage.commands.output import print_json, printable, tell
from ai_usage.core.contract import Provider
from ai_usage.core.errors import UsageError, WarehouseError
from ai_usage.warehouse.session import Warehouse

SUMMARY = "read what is missing and build the marts, in this process"
DESCRIPTION = (
    "Plan, extract and load, transform: what the DAGs do, in this process and watched from here. Safe beside a running\n"
    "scheduler: two readings of one place wait for each other, and so do two transforms. A source that fails stops no\n"
    "other one. Without --from and --to the ledger decides what must be read."
)
EXAMPLES = """\
  ai-usage sync                                              everything that is missing
  ai-usage sync openai_default                               one connection
  ai-usage sync --provider groq --no-transform               one provider, raw only
  ai-usage sync openai_default --from 2026-08-01 --to 2026-08-31
"""
BAD_MEANS = "a source failed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("connections", nargs="*", metavar="CONNECTION", help="connection ids; all sources if left out")
    parser.add_argument("--provider", metavar="NAME", help="only connections of this provider")
    parser.add_argument("--from", dest="first", metavar="DAY", help="first UTC day to read again, YYYY-MM-DD")
    parser.add_argument("--to", dest="last", metavar="DAY", help="last UTC day to read again; today if left out")
    parser.add_argument("--no-transform", action="store_true", help="leave the marts to the next transform")


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Read source by source, then build."""
    from ai_usage.commands.surroundings import build_marts, new_run_id, progress, sources
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    warehouse, run_id = open_warehouse(), new_run_id("sync")
    meant: dict[str, tuple[Provider, list[str]]] = {}
    for provider, connection_id in sources(options.connections, options.provider):
        meant.setdefault(provider.name, (provider, []))[1].append(connection_id)
    results: list[dict[str, Any]] = []
    with progress():
        for provider, connection_ids in meant.values():
            results += _read(provider, warehouse, connection_ids, options, run_id)
        transformed = None if options.no_transform else str(build_marts(warehouse, run_id))
    failed = [result for result in results if result["error"]]
    if options.json:
        print_json({"run_id": run_id, "sources": results, "transform": transformed}, answers)
    else:
        _print_summary(results, transformed, answers)
    return BAD if failed else GOOD


def _read(
    provider: Provider, warehouse: Warehouse, connection_ids: Sequence[str], options: argparse.Namespace, run_id: str
) -> list[dict[str, Any]]:
    """Read every piece of work of a provider; return one result for each, good or bad."""
    from ai_usage.orchestration.sync import Request, extract_and_load, plan

    request = Request(first=options.first, last=options.last, connections=list(connection_ids), by_hand=True)
    results = []
    for work in plan(provider, warehouse, connection_ids, request):
        tell(work["label"])
        result: dict[str, Any] = {
            "provider": provider.name,
            "connection_id": work["connection_id"],
            "label": work["label"],
            "slices_changed": 0,
            "records_written": 0,
            "calls": 0,
            "error": None,
        }
        try:
            result |= dict(extract_and_load(provider, warehouse, work, run_id))
        except WarehouseError:
            raise
        except UsageError as error:
            result["error"] = {"kind": error.kind, "happened": error.happened, "action": error.action}
        results.append(result)
    return results


def _print_summary(results: Sequence[dict[str, Any]], transformed: str | None, answers: TextIO) -> None:
    for result in results:
        if result["error"]:
            answers.write(f"FAILED  {printable(result['label'])}: {printable(result['error']['happened'])}\n")
            answers.write(f"        → {printable(result['error']['action'])}\n")
        else:
            answers.write(
                f"ok      {printable(result['label'])}: {result['slices_changed']:,} slices changed,"
                f" {result['records_written']:,} records written, {result['calls']:,} calls\n"
            )
    if not results:
        answers.write("Nothing to read: no source, or everything is settled.\n")
    if transformed:
        answers.write(f"{transformed}\n")
