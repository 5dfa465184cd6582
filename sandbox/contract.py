"""
What a simulator is: it says who calls and what for, answers in the provider's dialect, and lists its connections.

Counting, faults and HTTP are the frame's business (:func:`serve`), the same for every provider.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sandbox.http import Request, Response
from sandbox.truth import Truth

if TYPE_CHECKING:
    from sandbox.counter import RequestCounter
    from sandbox.faults import FaultBook, FaultsInForce

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Call:
    """
    Who calls, and what for: what faults are matched with and what is counted.

    :param account: the account the credential belongs to, or ``unknown``.
    :param region: ``-`` where the provider has none.
    :param refusal: the answer to a caller who has no business here; such calls are counted like any other.
    """

    provider: str
    account: str
    region: str
    operation: str
    refusal: Response | None = None


@dataclass(frozen=True)
class Frame:
    """What a simulator is given: the truth to tell, the faults to commit, and where calls are counted."""

    truth: Truth
    faults: FaultBook
    requests: RequestCounter
    moto_port: int | None
    """The port for moto's server; 0 for any free one, ``None`` for no moto."""


class Simulator(ABC):
    """
    One provider's API. Its module in ``sandbox/simulators`` names its class ``SIMULATOR``.

    The main server passes everything under ``/<name>/`` to :meth:`identify` and then to :meth:`answer`.
    """

    name: ClassVar[str]
    fault_kinds: ClassVar[Mapping[str, str]] = {}
    """Faults in this provider's content, kind → meaning, beside those that every provider shares."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    @abstractmethod
    def identify(self, request: Request) -> Call:
        """Say who calls and what for."""

    @abstractmethod
    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth, with whatever faults in the content are in force."""

    @abstractmethod
    def refuse(self, kind: str, call: Call) -> Response:
        """Return the provider's own words for a refusal (a kind of :data:`sandbox.faults.REFUSALS`)."""

    @abstractmethod
    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return the Airflow connections that read this simulator; ``base_url`` ends in the simulator's name."""

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002 - for simulators that cannot do everything
        """Whether a fault can be committed for this account."""
        return True

    def start(self) -> None:  # noqa: B027 - most simulators need nothing
        """Start what the simulator needs beside the main server."""

    def stop(self) -> None:  # noqa: B027
        """Stop what :meth:`start` started."""


Answer = Callable[[Call, Request, "FaultsInForce"], Response]


def serve(simulator: Simulator, call: Call, request: Request, answer: Answer) -> Response:
    """Count one call, let the faults in force have their way, and answer it."""
    simulator.frame.requests.add(call)
    faults = simulator.frame.faults.take(call, simulator.supports)
    faults.delay()
    if turned_away := faults.turn_away(f"http://{request.header('host').replace('127.0.0.1', 'localhost')}/_stranger"):
        return turned_away
    if faults.refusal:
        return simulator.refuse(faults.refusal.kind, call)
    return faults.spoil(call.refusal or answer(call, request, faults))
