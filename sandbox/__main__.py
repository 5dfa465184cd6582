"""``python -m sandbox serve`` and ``python -m sandbox connections``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from threading import Event
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from sandbox.connections import environment
from sandbox.errors import SandboxError
from sandbox.service import DEFAULT_HISTORY_DAYS, DEFAULT_SEED, Sandbox

DEFAULT_PORT = 8490
DEFAULT_MOTO_PORT = 8491

WELCOME = """\
sandbox ready: {url}
  seed {seed}, today {today}, history from {opened}
  connections:  curl {url}/_connections      (or: python -m sandbox connections --url {url} --env)
  the truth:    curl '{url}/_truth?provider=aws_bedrock&first={opened}&last={today}'
  a fault:      curl -X POST {url}/_faults -d '{{"provider": "aws_bedrock", "kind": "throttling", "times": 2}}'
  calls so far: curl {url}/_requests
  Ctrl-C to stop. More in sandbox/README.md."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _serve(options) if options.command == "serve" else _connections(options)
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 2


def _serve(options: argparse.Namespace) -> int:
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # moto would stumble over a profile that is none of its business
    sandbox = Sandbox(
        seed=options.seed,
        today=options.today,
        port=options.port,
        moto_port=options.moto_port,
        history_days=options.history_days,
        state_folder=options.state_folder,
    )
    with sandbox:
        world = sandbox.truth.world
        print(
            WELCOME.format(url=sandbox.url, seed=world.seed, today=sandbox.clock.today(), opened=world.opened),
            flush=True,
        )
        # With a time-out, because a wait without one does not wake up for signals on every platform.
        while not stop.wait(timeout=1):
            pass
    print("sandbox stopped", flush=True)
    return 0


def _connections(options: argparse.Namespace) -> int:
    try:
        # Loopback: a proxy named in the environment has no part in this.
        with build_opener(ProxyHandler({})).open(f"{options.url}/_connections", timeout=10) as answer:
            content = json.load(answer)
    except (URLError, OSError, ValueError) as error:
        raise SandboxError(
            f"No sandbox answers at {options.url} ({error}). Start one: python -m sandbox serve."
        ) from None
    if options.env:
        for name, value in environment(content["connections"]).items():
            print(f"{name}={shlex.quote(value)}")
    else:
        print(json.dumps(content, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Local servers that speak the usage APIs.")
    commands = parser.add_subparsers(dest="command", required=True)

    serve = commands.add_parser("serve", help="run the servers until Ctrl-C")
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help="main port; 0: any free one (%(default)s)")
    serve.add_argument("--moto-port", type=int, default=DEFAULT_MOTO_PORT, help="moto's port; 0: any (%(default)s)")
    serve.add_argument("--seed", type=int, default=DEFAULT_SEED, help="what everything follows from (%(default)s)")
    serve.add_argument("--history-days", type=int, default=DEFAULT_HISTORY_DAYS, help="days back (%(default)s)")
    serve.add_argument("--today", type=date.fromisoformat, help="the UTC day to live on (the real one)")
    serve.add_argument(
        "--state-folder", type=Path, default=Path(".state/sandbox"), help="remembers restatements (%(default)s)"
    )

    show = commands.add_parser("connections", help="print the Airflow connections of a running sandbox")
    show.add_argument("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", help="its address (%(default)s)")
    show.add_argument("--env", action="store_true", help="as AIRFLOW_CONN_… lines for a shell")
    return parser


if __name__ == "__main__":
    sys.exit(main())
