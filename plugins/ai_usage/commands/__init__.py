"""
The commands of ``bin/ai-usage``, one module each.

A module has ``SUMMARY``, ``DESCRIPTION`` and ``EXAMPLES`` (what ``--help`` shows), ``add_arguments(parser)``, and
``run(options, answers)``, which writes to ``answers`` and returns the exit code. What is said on the way goes to standard
error.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, TextIO

NAMES = ("status", "check", "sync", "rebuild", "explain", "export", "disconnect", "purge", "migrate")
"""In the order in which ``--help`` lists them."""

GOOD, BAD, IMPOSSIBLE = 0, 1, 2
"""The exit codes: all is well; something is wrong with a source, or the answer is no; it could not be carried out."""

_CODES = "exit codes: 0 all is well, 1 {bad}, 2 the command could not be carried out"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = argparse.ArgumentParser(
        prog="ai-usage",
        description="AI usage ELT, by hand. Answers go to standard output, progress and errors to standard error.",
        epilog="`ai-usage COMMAND --help` has examples. "
        + _CODES.format(bad="something is wrong, or the answer is no"),
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in NAMES:
        module = _module(name)
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=f"examples:\n{module.EXAMPLES}\n{_CODES.format(bad=module.BAD_MEANS)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print the answer as JSON")
    return whole


def run(options: argparse.Namespace, answers: TextIO) -> int:
    """Run the command that was asked for and return its exit code."""
    code: int = _module(options.command).run(options, answers)
    return code


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")
