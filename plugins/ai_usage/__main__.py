"""The command line: ``bin/ai-usage check`` verifies connections, ``bin/ai-usage migrate`` updates the warehouse."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from ai_usage.core.contract import Check, Provider
from ai_usage.core.errors import UsageError

# How a check's answer reads in a terminal.
_MARKS = {True: "ok", False: "FAILED", None: "not asked"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when all is well, 1 when a check failed, 2 when the command could not be carried out."""
    options = _parser().parse_args(arguments)
    # Without this, Airflow outside of a task knows only connections from the environment, not those of its own database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    try:
        return _check(options) if options.command == "check" else _migrate()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ai-usage", description="AI usage ELT")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="verify connections: credential, permissions, anything to read",
        description="Verify connections and keep the answers in ops.connection_check. Exit code 1 when a check failed.",
    )
    check.add_argument("connections", nargs="*", metavar="CONNECTION", help="connection ids; all sources if left out")
    check.add_argument("--json", action="store_true", help="print the answers as JSON")
    commands.add_parser(
        "migrate",
        help="bring the warehouse to the version of this code",
        description="Migrate the warehouse as its administrator. Reads AI_USAGE_ADMIN_DSN, AI_USAGE_DB_PASSWORD and"
        " AI_USAGE_READER_PASSWORD from the environment. `make run` does this by itself.",
    )
    return parser


def _migrate() -> int:
    from ai_usage.warehouse import migrate

    return migrate.main()


def _check(options: argparse.Namespace) -> int:
    with redirect_stdout(sys.stderr):  # Airflow logs to standard output, which belongs to the answers
        answers = {connection_id: _verify(provider, connection_id) for provider, connection_id in _sources(options)}
    if options.json:
        print(json.dumps({name: [vars(check) for check in checks] for name, checks in answers.items()}, indent=2))
    else:
        for name, checks in answers.items():
            _print_checks(name, checks)
        if not answers:
            print("No provider is connected. docs/connections.md tells how to add a connection.")
    return int(any(check.passed is False for checks in answers.values() for check in checks))


def _sources(options: argparse.Namespace) -> list[tuple[Provider, str]]:
    from ai_usage import providers
    from ai_usage.core.errors import ConfigurationInvalid
    from ai_usage.orchestration.sources import discover

    found = [(provider, name) for provider in providers.load_all() for name in discover(provider)]
    wanted = options.connections or [name for _, name in found]
    if unknown := sorted(set(wanted) - {name for _, name in found}):
        raise ConfigurationInvalid(
            f"These connections are no sources: {', '.join(unknown)}.",
            action=f"Choose among: {', '.join(name for _, name in found) or 'none is configured'}.",
        )
    return [(provider, name) for provider, name in found if name in wanted]


def _verify(provider: Provider, connection_id: str) -> list[Check]:
    """Return the answers; a connection that cannot even be opened is one failed answer."""
    from ai_usage.orchestration.sync import verify
    from ai_usage.orchestration.warehouse_connection import open_warehouse

    try:
        return verify(provider, open_warehouse(), connection_id)
    except UsageError as error:
        return [Check("connection", False, error.happened, error.action, error.kind)]


def _print_checks(connection_id: str, checks: Sequence[Check]) -> None:
    print(connection_id)
    for check in checks:
        print(f"  {_MARKS[check.passed]:<9}  {check.name}: {check.message}")
        if check.action and not check.passed:
            print(f"             → {check.action}")


if __name__ == "__main__":
    sys.exit(main())
