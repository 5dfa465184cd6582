"""
The sandbox as a whole: one main server for all simulators, and the endpoints that steer it.

Everything under ``/<provider>/`` belongs to that provider's simulator; paths that begin with ``/_`` steer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from sandbox import simulators
from sandbox.clock import Clock
from sandbox.connections import connections, variable
from sandbox.contract import UNKNOWN, Call, Frame, Simulator, serve
from sandbox.counter import RequestCounter
from sandbox.errors import SandboxError
from sandbox.faults import STRANGER, Fault, FaultBook
from sandbox.http import Request, Response, Server, json_response
from sandbox.truth import Truth
from sandbox.world import Restatement, World

DEFAULT_SEED = 20260815
DEFAULT_HISTORY_DAYS = 40


class Sandbox:
    """
    A running sandbox; a context manager.

    :param seed: what everything follows from.
    :param today: the day to live on; the real one if left out.
    :param port: the main server's port; 0 for any free one.
    :param moto_port: moto's port; 0 for any free one.
    :param moto: whether to run moto. There can be one moto per process; without it only the sandbox's own double
        answers, and starting takes no time.
    :param history_days: how many days back new connections begin, today among them.
    :param state_folder: where restatements outlive a restart; nowhere if left out.
    :raises SandboxError: a port is taken, or another sandbox in this process runs moto.
    """

    def __init__(
        self,
        *,
        seed: int = DEFAULT_SEED,
        today: date | None = None,
        port: int = 0,
        moto_port: int = 0,
        moto: bool = True,
        history_days: int = DEFAULT_HISTORY_DAYS,
        state_folder: Path | None = None,
    ) -> None:
        self.clock = Clock(today)
        self.truth = Truth(World.open(seed, self.clock, history_days, state_folder))
        self.requests = RequestCounter()
        classes = {name: simulators.load(name) for name in simulators.names()}
        self.faults = FaultBook({name: simulator.fault_kinds for name, simulator in classes.items()})
        frame = Frame(self.truth, self.faults, self.requests, moto_port if moto else None)
        self.simulators: Mapping[str, Simulator] = {name: simulator(frame) for name, simulator in classes.items()}
        self._server = Server(port, self._handle)
        self._controls: Mapping[tuple[str, str], Callable[[Request], Any]] = {
            ("GET", "/_health"): self._health,
            ("GET", "/_connections"): self._connections,
            ("GET", "/_truth"): self._truth,
            ("POST", "/_restate"): self._restate,
            ("GET", "/_restate"): lambda _: self.truth.world.restatements.to_json(),
            ("GET", "/_requests"): lambda _: self.requests.to_json(),
            ("DELETE", "/_requests"): lambda _: self.requests.reset(),
            ("GET", "/_faults"): lambda _: self.faults.to_json(),
            ("POST", "/_faults"): self._switch_on,
            ("DELETE", "/_faults"): self._switch_off,
        }

    @property
    def url(self) -> str:
        """The main server's address, without a slash at its end."""
        return self._server.url

    def connections(self) -> list[dict[str, Any]]:
        """Return the Airflow connections that read this sandbox (:func:`sandbox.connections.connections`)."""
        return connections(self.url, self.simulators)

    def variable(self) -> dict[str, list[str]]:
        """Return the value of Airflow's Variable ``ai_usage_connections``."""
        return variable(self.connections())

    def start(self) -> None:
        """Start every server; once this returns, all of them answer."""
        started: list[Simulator] = []
        try:
            for simulator in self.simulators.values():
                simulator.start()
                started.append(simulator)
        except BaseException:
            for simulator in started:
                simulator.stop()
            self._server.stop()
            raise
        self._server.start()

    def stop(self) -> None:
        """Stop every server and free the ports."""
        self._server.stop()
        for simulator in self.simulators.values():
            simulator.stop()

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _handle(self, request: Request) -> Response:
        if request.path.startswith("/_stranger"):
            self.requests.add(Call(STRANGER, UNKNOWN, "-", request.path))
            return json_response({"data": [], "has_more": False})
        if request.path.startswith("/_"):
            return self._control(request)
        name, _, rest = request.path.removeprefix("/").partition("/")
        simulator = self.simulators.get(name)
        if simulator is None:
            known = ", ".join(f"/{name}/" for name in self.simulators)
            return json_response({"error": f"Nothing answers at {request.path}. Try {known} or /_health."}, 404)
        request = Request(request.method, f"/{rest}", request.target, request.headers, request.body)
        return serve(simulator, simulator.identify(request), request, simulator.answer)

    def _control(self, request: Request) -> Response:
        control = self._controls.get((request.method, request.path))
        if control is None:
            known = sorted({path for _, path in self._controls})
            return json_response({"error": f"No {request.method} {request.path}. There is: {', '.join(known)}."}, 404)
        answer = control(request)
        return json_response({"ok": True} if answer is None else answer)

    def _health(self, _: Request) -> dict[str, Any]:
        return {
            "ok": True,
            "today": self.clock.today(),
            "seed": self.truth.world.seed,
            "opened": self.truth.world.opened,
            "simulators": list(self.simulators),
        }

    def _connections(self, _: Request) -> dict[str, Any]:
        return {"connections": self.connections(), "variable": self.variable()}

    def _truth(self, request: Request) -> list[dict[str, Any]]:
        query = request.query
        try:
            provider, first, last = query["provider"], _day(query["first"]), _day(query["last"])
        except KeyError as missing:
            raise SandboxError(
                f"Say {missing}: /_truth?provider=aws_bedrock&first=2026-08-01&last=2026-08-31"
            ) from None
        accounts = query["accounts"].split(",") if "accounts" in query else None
        ask = self.truth.expected_detail if query.get("grain") == "detail" else self.truth.expected_usage_daily
        return ask(provider, first, last, accounts)

    def _restate(self, request: Request) -> list[dict[str, Any]]:
        self.truth.restate([Restatement.from_json(one) for one in _json_list(request)])
        return self.truth.world.restatements.to_json()

    def _switch_on(self, request: Request) -> list[dict[str, Any]]:
        self.faults.extend([Fault.from_json(one) for one in _json_list(request)])
        return self.faults.to_json()

    def _switch_off(self, request: Request) -> None:
        number = request.query.get("number")
        if number is not None and not number.isdecimal():
            raise SandboxError(f"A fault's number is digits, not {number!r}.")
        self.faults.clear(int(number) if number else None)


def _json_list(request: Request) -> list[Any]:
    try:
        content = json.loads(request.body, parse_float=Decimal)
    except ValueError as error:
        raise SandboxError(f"The body is not JSON: {error}.") from None
    return content if isinstance(content, list) else [content]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise SandboxError(f"{text!r} is not a day; write it as 2026-08-15.") from None
