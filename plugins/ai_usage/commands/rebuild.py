"""``ai-usage rebuild``: staging and marts anew from raw, without network."""

from __future__ import annotations

import argparse
from typing import TextIO

from psycopg import sql

from ai_usage.commands import BAD, GOOD
from ai_usage.commands.output import print_json, tell
from ai_usage.warehouse.roles import TRANSFORMER
from ai_usage.warehouse.session import Warehouse

SUMMARY = "build staging and marts anew from raw, and say what changed"
DESCRIPTION = (
    "Build all of history anew from the raw records, with every test, in this process. No provider is asked.\n"
    "Readers see the old tables until the new ones are ready; a running transform is waited for.\n"
    "Afterwards every mart is compared with what it was."
)
EXAMPLES = """\
  ai-usage rebuild
  ai-usage rebuild --expect-identical      as a proof that the marts follow from raw
"""
BAD_MEANS = "with --expect-identical, a mart is not what it was"

Hashes = dict[str, tuple[int, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--expect-identical", action="store_true", help="end with 1 if a mart is not what it was")


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Rebuild and compare."""
    from ai_usage.commands.surroundings import build_marts, new_run_id, progress
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    warehouse = open_warehouse()
    before = hashes(warehouse)
    tell("Rebuilding from raw; this takes seconds, or minutes for a long history.")
    with progress():
        done = build_marts(warehouse, new_run_id("rebuild"), full_refresh=True)
    after = hashes(warehouse)
    verdicts = {name: _verdict(before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())}
    if options.json:
        rows = {name: after[name][0] if name in after else None for name in verdicts}
        marts = [{"mart": name, "verdict": verdict, "rows": rows[name]} for name, verdict in verdicts.items()]
        print_json({"days_waiting": done.pairs, "marts": marts}, answers)
    else:
        for name, verdict in verdicts.items():
            answers.write(f"{verdict:<9}  {name} ({after[name][0] if name in after else 0:,} rows)\n")
        if done.pairs:
            answers.write(f"{done.pairs:,} connection-days had waited for a transform, so differences are expected.\n")
    differs = any(verdict != "identical" for verdict in verdicts.values())
    return BAD if differs and options.expect_identical else GOOD


def _verdict(before: tuple[int, str] | None, after: tuple[int, str] | None) -> str:
    if before == after:
        return "identical"
    return "new" if before is None else "gone" if after is None else "differs"


def hashes(warehouse: Warehouse) -> Hashes:
    """
    Return rows and a hash of the contents of every table among the marts, whatever the order of its rows.

    Views are left out: they are what the tables say at the moment of asking.
    """
    with warehouse.session(TRANSFORMER, application="ai_usage rebuild") as session:
        session.execute("set transaction isolation level repeatable read read only")
        tables = session.execute(
            "select relname::text from pg_class where relnamespace = 'marts'::regnamespace and relkind = 'r' order by 1"
        ).fetchall()
        found = {}
        for (name,) in tables:
            row = session.execute(
                sql.SQL(
                    """
                    select count(*),
                        coalesce(sum(hashtextextended(mart::text, 1)::numeric), 0)::text
                        || '/' || coalesce(sum(hashtextextended(mart::text, 2)::numeric), 0)::text
                    from marts.{} as mart
                    """
                ).format(sql.Identifier(name))
            ).fetchone()
            assert row is not None
            found[name] = (int(row[0]), str(row[1]))
        return found
