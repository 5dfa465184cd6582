"""``ai-usage check``: verify connections."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TextIO

from ai_usage.commands import BAD, GOOD
from ai_usage.commands.output import print_json, printable
from ai_usage.core.contract import Check, Provider
from ai_usage.core.errors import UsageError, WarehouseError

SUMMARY = "verify connections: credential, permissions, anything to read"
DESCRIPTION = (
    "Ask each provider everything a connection needs, with a few cheap calls.\n"
    "The answers are kept in ops.connection_check."
)
EXAMPLES = """\
  ai-usage check                       all sources
  ai-usage check openai_default        one of them
  ai-usage check --json | jq .         for programs
"""
BAD_MEANS = "a check failed"

_MARKS = {True: "ok", False: "FAILED", None: "not asked"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("connections", nargs="*", metavar="CONNECTION", help="connection ids; all sources if left out")


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Verify the sources that are meant."""
    from ai_usage.commands.surroundings import sources

    found = {name: _verify(provider, name) for provider, name in sources(options.connections)}
    if options.json:
        print_json({name: [vars(check) for check in checks] for name, checks in found.items()}, answers)
    else:
        for name, checks in found.items():
            _print_checks(name, checks, answers)
        if not found:
            answers.write("No provider is connected. docs/connections.md tells how to add a connection.\n")
    return BAD if any(check.passed is False for checks in found.values() for check in checks) else GOOD


def _verify(provider: Provider, connection_id: str) -> list[Check]:
    """Return the answers; a connection that cannot even be opened is one failed answer."""
    from ai_usage.orchestration.sync import verify
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    warehouse = open_warehouse()
    try:
        return verify(provider, warehouse, connection_id)
    except WarehouseError:
        raise
    except UsageError as error:
        return [Check("connection", False, error.happened, error.action, error.kind)]


def _print_checks(connection_id: str, checks: Sequence[Check], answers: TextIO) -> None:
    answers.write(f"{connection_id}\n")
    for check in checks:
        answers.write(f"  {_MARKS[check.passed]:<9}  {printable(f'{check.name}: {check.message}')}\n")
        if check.action and not check.passed:
            answers.write(f"             → {printable(check.action)}\n")
