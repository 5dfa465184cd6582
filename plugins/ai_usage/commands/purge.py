"""``ai-usage purge``: delete everything that was read of a connection."""

from __future__ import annotations

import argparse
from typing import TextIO

from ai_usage.commands import GOOD
from ai_usage.commands.output import confirm, print_json, tell
from ai_usage.core.errors import ConfigurationInvalid

SUMMARY = "delete everything that was read of a disconnected source"
DESCRIPTION = (
    "Delete raw records, slices, versions, attempts, problems and events of one connection, and build the marts without\n"
    "it. One event `purged` with the counts remains. There is no way back but a backup. A connection that is still a\n"
    "source is refused: disconnect it first. Killed in the middle, run it again: it goes on where it was."
)
EXAMPLES = """\
  ai-usage purge openai_old            shows what there is, and asks
  ai-usage purge openai_old --yes      does not ask
"""
BAD_MEANS = "does not occur"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("connection", metavar="CONNECTION", help="the connection's id")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Delete, rebuild, and say how much it was."""
    from ai_usage.commands.surroundings import build_marts, new_run_id, progress, sources
    from ai_usage.orchestration.warehouse_connection import open_warehouse
    from ai_usage.warehouse import purging
    from ai_usage.warehouse.place import Place
    from ai_usage.warehouse.roles import JANITOR

    connection_id, warehouse, run_id = options.connection, open_warehouse(), new_run_id("purge")
    purging.refuse_a_source(connection_id, [name for _, name in sources()])
    with warehouse.session(JANITOR) as session:
        provider = purging.provider_of(session, connection_id)
        counts = purging.count(session, connection_id)
    if provider is None:
        raise ConfigurationInvalid(
            "Nothing was ever read of it, or it has been purged already.",
            action="Look for its events: marts.integration_events keeps `purged`.",
            connection_id=connection_id,
        )
    told = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    if not options.yes and not confirm(f"Delete {told} of {connection_id}, for good?"):
        raise ConfigurationInvalid(
            f"Nothing was deleted: nobody said yes. There are {told}.",
            action="Answer y, or give --yes.",
            connection_id=connection_id,
        )
    place = Place(provider, connection_id, None, None)
    with warehouse.session(JANITOR) as session:
        purging.begin(session, place, run_id)
    purging.delete_readings(warehouse, place, lambda line: tell(f"  {line}"))
    tell("Building the marts without it.")
    purging.sweep(warehouse, connection_id, ["intermediate"])
    with progress():
        build_marts(warehouse, run_id)
    purging.sweep(warehouse, connection_id, ["staging", "intermediate", "marts"])
    message = purging.finish(warehouse, place, run_id)
    if options.json:
        print_json({"connection_id": connection_id, "deleted": counts, "message": message}, answers)
    else:
        answers.write(f"{connection_id}: {message}\n")
    return GOOD
