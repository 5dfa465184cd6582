"""The commands of ``python -m launcher``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher import instance
from launcher.errors import LauncherError
from launcher.state import State


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status."""
    state = State(Path(__file__).resolve().parent.parent)
    try:
        if arguments[:1] == ["tool"]:
            # What follows the name is the tool's business alone, options included.
            from launcher.tools import run_tool  # noqa: PLC0415

            return run_tool(state, "".join(arguments[1:2]), list(arguments[2:]))
        options = _parser().parse_args(arguments)
        if options.command == "run":
            return _run(state, options)
        return {"stop": _stop, "clean": _clean, "status": _status}[options.command](state)
    except LauncherError as error:
        print(error, file=sys.stderr)
        return 1


def _run(state: State, options: argparse.Namespace) -> int:
    from launcher.run import Options, run  # noqa: PLC0415

    once = options.once or os.environ.get("ONCE", "") not in ("", "0")
    try:
        return run(state, Options(once=once, end_with_parent=options.end_with_parent))
    except instance.AlreadyRunningError as error:
        print(error)
        # What was asked for is there, except for the one who wants to see a run end.
        return 1 if once else 0


def _stop(state: State) -> int:
    print("Stopped." if instance.stop(state) else "Nothing was running.")
    return 0


def _clean(state: State) -> int:
    instance.stop(state)
    state.remove()
    print(f"Removed {state.folder}")
    return 0


def _status(state: State) -> int:
    running = instance.described(state)
    if not instance.is_up(state):
        print("Not running. `make run` starts it.")
        return 3
    print(f"Running (process {running.pid}). UI: {running.ui or 'on its way'}" if running else "Starting.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launcher", description="Run the project on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start everything, load, transform, show the table, stay until Ctrl-C")
    run.add_argument("--once", action="store_true", help="end after the table (also: ONCE=1)")
    run.add_argument("--end-with-parent", action="store_true", help="end when the starting process does")
    commands.add_parser("stop", help="stop a running instance from another terminal")
    commands.add_parser("clean", help="stop, and remove the state folder")
    commands.add_parser("status", help="say whether an instance runs (exit status 3: no)")
    commands.add_parser("tool", help="tool NAME …: run airflow, dbt, psql or ai-usage in the project's environment")
    return parser
