"""
Faults that can be switched on while the sandbox runs.

A fault names whom it hits: ``provider``, ``account``, ``region``, ``operation``; what is left out matches everything.
``after`` lets that many matching calls pass first, ``times`` ends it after that many hits (left out: for ever).

======================  ============  ==================================================================================
kind                    group         what happens
======================  ============  ==================================================================================
access_denied           refusal       the credential lacks the permission; the answer names it
throttling              refusal       too many requests
internal_error          refusal       HTTP 500
service_unavailable     refusal       HTTP 503
invalid_credentials     refusal       the key is not known
expired_token           refusal       the session has expired (with ``after``: in the middle of a run)
opt_in_region_disabled  refusal       what AWS says of a region that was never switched on: the key is not known *here*
truncated_body          delivery      announces its full length, sends half, closes
connection_reset        delivery      sends half, then resets the connection
slow_drip               delivery      one byte every ``milliseconds`` (default 20)
html_body               delivery      HTTP 200 and a proxy's HTML page
empty_body              delivery      HTTP 200 and nothing
empty_object            delivery      HTTP 200 and ``{}``
error_object            delivery      HTTP 200 and an object that says ``error``
chunk_cut               delivery      in chunks, of which the last never comes
gzip_bomb               delivery      ``size`` MiB (80) of nothing, compressed to next to nothing
deep_nesting            delivery      HTTP 200 and ten thousand lists inside each other
not_a_number            delivery      every number in the answer is ``NaN``
endless_number          delivery      every number in the answer has five thousand digits
retry_at_date           gateway       429; come back at a date, ``milliseconds`` (1000) from now
retry_tomorrow          gateway       429; come back in a day
retry_nonsense          gateway       429; come back at no time that anyone could understand
bad_gateway             gateway       HTTP 502 and a page
redirect_away           gateway       HTTP 302 to another host (``localhost``, which counts who comes)
latency                 delay         answers ``milliseconds`` late (default 200)
======================  ============  ==================================================================================

Each simulator adds the faults of its own content: see the docstring of its module.
"""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from threading import Lock
from typing import Any

from sandbox.contract import Call
from sandbox.errors import SandboxError
from sandbox.http import Delivery, Response

REFUSALS = frozenset(
    {
        "access_denied",
        "throttling",
        "internal_error",
        "service_unavailable",
        "invalid_credentials",
        "expired_token",
        "opt_in_region_disabled",
    }
)
GATEWAY = frozenset({"retry_at_date", "retry_tomorrow", "retry_nonsense", "bad_gateway", "redirect_away"})
"""Refused by whatever stands in front of the provider, in words of its own."""
DELIVERIES = frozenset(
    {
        "truncated_body",
        "connection_reset",
        "slow_drip",
        "html_body",
        "empty_body",
        "empty_object",
        "error_object",
        "chunk_cut",
        "gzip_bomb",
        "deep_nesting",
        "not_a_number",
        "endless_number",
    }
)
DELAYS = frozenset({"latency"})
SHARED = REFUSALS | GATEWAY | DELIVERIES | DELAYS
STRANGER = "stranger"
"""What calls at the other host are counted under, as if it were a provider."""

HTML = b"<!DOCTYPE html>\n<html><head><title>Gateway</title></head><body>Please sign in to continue.</body></html>\n"
_NUMBER = re.compile(rb"(?<=[:\[,])(\s*)-?\d[\d.eE+-]*(?=\s*[,}\]])")


@dataclass(frozen=True)
class Fault:
    """
    One thing that goes wrong.

    :param times: how often it happens; ``None`` for ever.
    :param after: how many matching calls pass unharmed first.
    :param milliseconds: how late, or how slow, where that applies.
    :param size: how much a page holds, where that applies.
    :param day: the UTC day whose rows are spoilt, ``YYYY-MM-DD``, where rows are spoilt; all days without it.
    """

    kind: str
    provider: str | None = None
    account: str | None = None
    region: str | None = None
    operation: str | None = None
    times: int | None = None
    after: int = 0
    milliseconds: int | None = None
    size: int | None = None
    day: str | None = None

    @classmethod
    def from_json(cls, content: Any) -> Fault:
        """
        Read a fault.

        :raises SandboxError: a field is unknown or has the wrong type.
        """
        known = {field.name: str(field.type) for field in fields(cls)}
        if not isinstance(content, dict) or not content.get("kind"):
            raise SandboxError(f"A fault is a JSON object with a kind, not {content!r}.")
        for name, value in content.items():
            if name not in known:
                raise SandboxError(f"A fault has no field {name!r}. Its fields: {', '.join(known)}.")
            wanted: type = int if known[name].startswith("int") else str
            optional = known[name].endswith("None")
            if not (isinstance(value, wanted) and not isinstance(value, bool)) and not (value is None and optional):
                raise SandboxError(f"The fault's {name!r} must be {wanted.__name__}, not {value!r}.")
            if isinstance(value, int) and value < 0:
                raise SandboxError(f"The fault's {name!r} cannot be negative.")
        return cls(**content)

    def matches(self, call: Call) -> bool:
        """Whether the fault is meant for this call."""
        return all(
            want is None or want == have
            for want, have in (
                (self.provider, call.provider),
                (self.account, call.account),
                (self.region, call.region),
                (self.operation, call.operation),
            )
        )


@dataclass
class _Entry:
    number: int
    fault: Fault
    seen: int = 0
    hits: int = 0

    @property
    def is_due(self) -> bool:
        return self.seen > self.fault.after and (self.fault.times is None or self.hits < self.fault.times)


@dataclass(frozen=True)
class FaultsInForce:
    """
    The faults that hit one call: at most one refusal and one delivery, and any number in the content.

    :param rows: those in the content, also where several days have the same.
    """

    refusal: Fault | None = None
    delivery: Fault | None = None
    latency: Fault | None = None
    content: Mapping[str, Fault] | None = None
    rows: tuple[Fault, ...] = ()

    def on(self, day: date) -> FaultsInForce:
        """Return the faults in the rows of a day."""
        return FaultsInForce(content={fault.kind: fault for fault in self.rows if fault.day in (None, day.isoformat())})

    def get(self, kind: str) -> Fault | None:
        """Return the fault in the content of that kind, if it is in force."""
        return (self.content or {}).get(kind)

    def __contains__(self, kind: object) -> bool:
        return kind in (self.content or {})

    def delay(self) -> None:
        """Wait as long as the latency says."""
        if self.latency:
            time.sleep(_or(self.latency.milliseconds, 200) / 1000)

    def spoil(self, response: Response) -> Response:
        """Return the response as the fault in the delivery leaves it."""
        if self.delivery is None:
            return response
        match self.delivery.kind:
            case "truncated_body":
                return replace(response, delivery=Delivery.CUT_SHORT)
            case "connection_reset":
                return replace(response, delivery=Delivery.RESET)
            case "slow_drip":
                return replace(response, delivery=Delivery.DRIP, pause=_or(self.delivery.milliseconds, 20) / 1000)
            case "html_body":
                return Response(200, HTML, {"Content-Type": "text/html"})
            case "empty_body":
                return Response(200, b"", response.headers)
            case "chunk_cut":
                return replace(response, delivery=Delivery.CHUNK_CUT)
            case "gzip_bomb":
                size = _or(self.delivery.size, 80) * 1024 * 1024
                packed = gzip.compress(b'{"data": "' + bytes(size), compresslevel=1)
                return Response(200, packed, {**response.headers, "Content-Encoding": "gzip"})
            case "not_a_number":
                return replace(response, body=_NUMBER.sub(rb"\1NaN", response.body))
            case "endless_number":
                return replace(response, body=_NUMBER.sub(rb"\g<1>" + b"9" * 5000, response.body))
            case kind:
                return Response(200, _BODIES[kind], response.headers)

    def turn_away(self, host: str) -> Response | None:
        """
        Return what a gateway in front of the provider says in its place, if it does.

        :param host: the address that redirects lead to.
        """
        kind = self.refusal.kind if self.refusal else None
        if kind not in GATEWAY:
            return None
        if kind == "bad_gateway":
            return Response(502, HTML, {"Content-Type": "text/html"})
        if kind == "redirect_away":
            return Response(302, b"", {"Location": host})
        assert self.refusal is not None
        moment = datetime.now(UTC) + timedelta(milliseconds=_or(self.refusal.milliseconds, 1000) + 999)
        waits = {
            "retry_at_date": format_datetime(moment, usegmt=True),
            "retry_tomorrow": "86400",
            "retry_nonsense": "-5, or soon",
        }
        body = b'{"error": {"message": "Too many requests"}}'
        return Response(429, body, {"Content-Type": "application/json", "Retry-After": waits[kind]})


_BODIES = {
    "empty_object": b"{}",
    "error_object": b'{"error": {"message": "Something went wrong.", "code": 13}}',
    "deep_nesting": b'{"data": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
}


class FaultBook:
    """
    The faults switched on at present. Safe to use from several threads.

    :param content_kinds: provider → the kinds of faults in its content.
    """

    def __init__(self, content_kinds: Mapping[str, Iterable[str]] | None = None) -> None:
        self._lock = Lock()
        self._entries: list[_Entry] = []
        self._numbers = count(1)
        self._content_kinds = {provider: frozenset(kinds) for provider, kinds in (content_kinds or {}).items()}

    def add(self, kind: str, **details: Any) -> int:
        """Switch one fault on; return its number. ``details`` are the other fields of :class:`Fault`."""
        return self.extend([Fault.from_json({"kind": kind, **details})])[0]

    def extend(self, faults: Iterable[Fault]) -> list[int]:
        """
        Switch faults on, all of them or none; return their numbers.

        :raises SandboxError: the kind or the provider is unknown.
        """
        faults = list(faults)
        for fault in faults:
            self._check(fault)
        with self._lock:
            entries = [_Entry(next(self._numbers), fault) for fault in faults]
            self._entries += entries
        return [entry.number for entry in entries]

    def clear(self, number: int | None = None) -> None:
        """Switch one fault off, or all."""
        with self._lock:
            self._entries = [entry for entry in self._entries if number is not None and entry.number != number]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the faults switched on, and how often each one has hit."""
        with self._lock:
            return [
                {
                    "number": entry.number,
                    **{name: value for name, value in asdict(entry.fault).items() if value is not None},
                    "hits": entry.hits,
                }
                for entry in self._entries
            ]

    def take(self, call: Call, supports: Callable[[str, str], bool]) -> FaultsInForce:
        """Return the faults that hit this call, and count them as having hit."""
        with self._lock:
            due = []
            for entry in self._entries:
                if entry.fault.matches(call) and supports(entry.fault.kind, call.account):
                    entry.seen += 1
                    due += [entry] if entry.is_due else []
            refusal = next((entry for entry in due if entry.fault.kind in REFUSALS | GATEWAY), None)
            delivery = next((entry for entry in due if entry.fault.kind in DELIVERIES), None)
            latency = next((entry for entry in due if entry.fault.kind in DELAYS), None)
            content = {entry.fault.kind: entry for entry in due if entry.fault.kind not in SHARED}
            in_rows = [entry for entry in due if entry.fault.kind not in SHARED]
            if refusal:
                # The others keep their turn, so that faults in a row happen in a row.
                delivery, content, in_rows = None, {}, []
            for hit in (refusal, delivery, latency, *in_rows):
                if hit:
                    hit.hits += 1
        return FaultsInForce(
            refusal=refusal.fault if refusal else None,
            delivery=delivery.fault if delivery else None,
            latency=latency.fault if latency else None,
            content={kind: entry.fault for kind, entry in content.items()},
            rows=tuple(entry.fault for entry in in_rows),
        )

    def _check(self, fault: Fault) -> None:
        if fault.provider is not None and fault.provider not in self._content_kinds:
            raise SandboxError(
                f"There is no simulator {fault.provider!r}. The simulators: {', '.join(sorted(self._content_kinds))}."
            )
        providers = [fault.provider] if fault.provider else list(self._content_kinds)
        kinds = SHARED.union(*(self._content_kinds[provider] for provider in providers))
        if fault.kind not in kinds:
            raise SandboxError(f"There is no fault {fault.kind!r} here. The faults: {', '.join(sorted(kinds))}.")


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
