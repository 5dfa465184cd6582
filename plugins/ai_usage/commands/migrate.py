"""``ai-usage migrate``: bring the warehouse to the version of this code."""

from __future__ import annotations

import argparse
import os
from typing import TextIO

from ai_usage.commands import GOOD
from ai_usage.commands.output import print_json
from ai_usage.core.errors import ConfigurationInvalid, WarehouseUnavailable

SUMMARY = "bring the warehouse to the version of this code"
DESCRIPTION = (
    "Migrate the warehouse as its administrator; safe at any time. Reads AI_USAGE_ADMIN_DSN, AI_USAGE_DB_PASSWORD and\n"
    "AI_USAGE_READER_PASSWORD from the environment, never from the command line. `make run` does this by itself."
)
EXAMPLES = """\
  AI_USAGE_ADMIN_DSN=… AI_USAGE_DB_PASSWORD=… AI_USAGE_READER_PASSWORD=… ai-usage migrate
"""
BAD_MEANS = "does not occur"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: there are none."""


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Migrate, and say what was applied."""
    import psycopg

    from ai_usage.warehouse.migrate import migrate
    from ai_usage.warehouse.roles import RolePasswords

    dsn = _from_environment("AI_USAGE_ADMIN_DSN")
    passwords = RolePasswords(_from_environment("AI_USAGE_DB_PASSWORD"), _from_environment("AI_USAGE_READER_PASSWORD"))
    try:
        applied = migrate(dsn, passwords)
    except psycopg.OperationalError as error:
        # The text has the address, never the password; of several lines the first says it.
        told = str(error).strip().splitlines()[:1]
        raise WarehouseUnavailable(
            f"The warehouse does not answer ({''.join(told)}).", action="See that PostgreSQL is up, and try again."
        ) from None
    if options.json:
        print_json({"applied": applied}, answers)
    else:
        answers.write("Warehouse: " + (", ".join(applied) if applied else "up to date") + "\n")
    return GOOD


def _from_environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ConfigurationInvalid(f"{name} is not set.", action="Set it in the environment of this command.")
    return value
