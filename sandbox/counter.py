"""How often each operation was called."""

from __future__ import annotations

from collections import Counter
from threading import Lock
from typing import Any

from sandbox.contract import Call


class RequestCounter:
    """Counts the calls that reached a simulator, those that were refused among them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._calls: Counter[tuple[str, str, str, str]] = Counter()

    def add(self, call: Call) -> None:
        """Count one call."""
        with self._lock:
            self._calls[call.provider, call.account, call.region, call.operation] += 1

    def reset(self) -> None:
        """Start again from zero."""
        with self._lock:
            self._calls.clear()

    def count(
        self,
        provider: str | None = None,
        account: str | None = None,
        region: str | None = None,
        operation: str | None = None,
    ) -> int:
        """Return the number of calls that match; what is not given matches everything."""
        wanted = (provider, account, region, operation)
        with self._lock:
            return sum(
                number
                for key, number in self._calls.items()
                if all(want is None or want == have for want, have in zip(wanted, key, strict=True))
            )

    def to_json(self) -> dict[str, Any]:
        """Return the counts as provider → account → region → operation → number, and the total."""
        with self._lock:
            calls = sorted(self._calls.items())
        tree: dict[str, Any] = {}
        for (provider, account, region, operation), number in calls:
            tree.setdefault(provider, {}).setdefault(account, {}).setdefault(region, {})[operation] = number
        return {"total": sum(number for _, number in calls), "calls": tree}
