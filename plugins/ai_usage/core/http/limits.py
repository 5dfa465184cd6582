"""How long, how much and how often: the bounds of a client."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """
    The bounds within which a client works. Times are in seconds.

    :param connect_timeout: for the connection to stand.
    :param read_timeout: between two reads of the socket.
    :param answer_timeout: for one whole answer, headers and body, however steadily it drips.
    :param patience: for one question with all its attempts and the waiting in between.
    :param attempts: how often one question is put at most.
    :param longest_wait: the longest single wait. A provider that asks for more is left alone, and the task with it.
    :param max_body_bytes: the largest answer, after decompression.
    :param max_depth: the deepest nesting of an answer.
    :param max_calls: requests per extraction, repeats included: a runaway never gets further.
    :param calls_per_minute: how many calls any minute may hold, where the provider has such a limit.
    :param max_redirects: redirects within the same host per question.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    answer_timeout: float = 180.0
    patience: float = 600.0
    attempts: int = 6
    longest_wait: float = 60.0
    max_body_bytes: int = 64 * MEBIBYTE
    max_depth: int = 64
    max_calls: int = 10_000
    calls_per_minute: float | None = None
    max_redirects: int = 3


class Budget:
    """
    The requests an extraction may still make, and their pace. Several clients of one account may share it.

    No minute holds more calls than it may, wherever it begins; within a minute they follow each other without a pause, so
    that a run with few calls waits for none.

    :param clock: seconds that only grow; only tests give another.
    :param sleep: how to wait; only tests give another.
    """

    def __init__(
        self,
        max_calls: int,
        calls_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.remaining = max_calls
        at_once = max(1, int(calls_per_minute or 0))
        self._span = max(60.0, 60.0 / calls_per_minute) if calls_per_minute else 0.0
        self._turns: deque[float] = deque(maxlen=at_once)
        self._lock = Lock()
        self._clock = clock
        self._sleep = sleep

    def take(self) -> bool:
        """Take one request out of the budget, waiting for its turn; return whether there was one left."""
        with self._lock:
            if self.remaining <= 0:
                return False
            self.remaining -= 1
            now = turn = self._clock()
            if len(self._turns) == self._turns.maxlen:
                turn = max(now, self._turns[0] + self._span)
            self._turns.append(turn)
        if turn > now:
            self._sleep(turn - now)
        return True


def full_jitter(attempt: int, *, base: float = 0.5, cap: float = 30.0) -> float:
    """Return the seconds to wait after the given attempt (1, 2, …): anything up to an exponentially growing bound."""
    return random.uniform(0.0, min(cap, base * 2.0**attempt))  # noqa: S311


def retry_after(header: str | None, *, now: datetime | None = None) -> float | None:
    """
    Return the seconds that a ``Retry-After`` header asks for, or ``None`` where it asks for nothing intelligible.

    :param header: a number of seconds, or an HTTP date.
    """
    if not header:
        return None
    text = header.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        seconds = float(text)
        return seconds if seconds < float("inf") else None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return seconds if seconds >= 0 else None
