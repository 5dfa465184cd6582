"""``ai-usage disconnect``: take a source out of Airflow and keep its history."""

from __future__ import annotations

import argparse
from typing import Any, TextIO

from ai_usage.commands import BAD, GOOD
from ai_usage.commands.output import confirm, print_json, printable, tell
from ai_usage.core.contract import Provider
from ai_usage.core.errors import ConfigurationInvalid

SUMMARY = "take a source out of Airflow; its history stays"
DESCRIPTION = (
    "Delete the connection in Airflow's database and its entry in the Variable ai_usage_connections. What stands in the\n"
    "environment or in a secrets backend is not touched: it is said what to remove there. What was read stays until it\n"
    "is purged. It is said what to take back at the provider."
)
EXAMPLES = """\
  ai-usage disconnect openai_default
  ai-usage disconnect aws_dev --keep-connection      other DAGs use it: only off the list of sources
  ai-usage disconnect aws_dev --yes --json
"""
BAD_MEANS = "it is still a source, because of what only you can remove"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("connection", metavar="CONNECTION", help="the connection's id")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--keep-connection", action="store_true", help="leave the Airflow connection, take it off the list"
    )


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Take the connection out, and say what remains."""
    from ai_usage.commands.surroundings import new_run_id, sources
    from ai_usage.orchestration.airflow_store import Removal, remove_source
    from ai_usage.orchestration.warehouse_connection import open_warehouse
    from ai_usage.warehouse.disconnecting import disconnect
    from ai_usage.warehouse.purging import count, provider_of
    from ai_usage.warehouse.roles import LOADER

    connection_id, warehouse = options.connection, open_warehouse()
    listed = [provider for provider, name in sources() if name == connection_id]
    with warehouse.session(LOADER) as session:
        known_as = provider_of(session, connection_id)
        counts = count(session, connection_id)
    provider = _provider(connection_id, listed, known_as)
    if listed and not options.yes and not confirm(f"Take {connection_id} ({provider.label}) out of Airflow?"):
        raise ConfigurationInvalid(
            "Nothing was changed: nobody said yes.", action="Answer y, or give --yes.", connection_id=connection_id
        )
    removal = Removal()
    if listed:
        tell(f"Taking {connection_id} out of Airflow.")
        removal = remove_source(provider.name, connection_id, keep_connection=options.keep_connection)
    still = [one for one, name in sources(provider=provider.name) if name == connection_id]
    if not still:
        with warehouse.session(LOADER) as session:
            disconnect(session, connection_id, new_run_id("disconnect"))
    answer = {
        "connection_id": connection_id,
        "provider": provider.name,
        "is_disconnected": not still,
        "removed": removal.removed,
        "to_remove": removal.left,
        "at_the_provider": provider.revoke,
        "history": counts,
    }
    if options.json:
        print_json(answer, answers)
    else:
        _print(answer, options.keep_connection, answers)
    return BAD if still else GOOD


def _provider(connection_id: str, listed: list[Provider], known_as: str | None) -> Provider:
    from ai_usage import providers

    if listed:
        return listed[0]
    if known_as is None:
        raise ConfigurationInvalid(
            "It is no source, and nothing was ever read of it.",
            action="`bin/ai-usage check` names the sources.",
            connection_id=connection_id,
        )
    return providers.load(known_as)


def _print(answer: dict[str, Any], keeps_connection: bool, answers: TextIO) -> None:
    name, counts = answer["connection_id"], answer["history"]
    if answer["is_disconnected"]:
        answers.write(f"{name} is no source any more.\n")
    else:
        answers.write(f"{name} is still a source, until you have done this:\n")
    answers.writelines(f"  to do    {printable(line)}\n" for line in answer["to_remove"])
    answers.writelines(f"  removed  {printable(line)}\n" for line in answer["removed"])
    if not keeps_connection:
        answers.write(f"At the provider: {answer['at_the_provider']}\n")
    if counts["slices"]:
        answers.write(
            f"What was read stays: {counts['slices']:,} slices, {counts['records']:,} records."
            f" `bin/ai-usage purge {name}` deletes it.\n"
        )
