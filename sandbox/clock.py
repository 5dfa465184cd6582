"""The sandbox's idea of now, so that a test can live on any day it likes."""

from __future__ import annotations

from datetime import UTC, date, datetime, time


class Clock:
    """
    UTC time: the real one, or noon of a chosen day.

    :param today: the day to live on; ``None`` for the real one.
    """

    def __init__(self, today: date | None = None) -> None:
        self._today = today

    def today(self) -> date:
        """Return the current UTC day."""
        return self._today or datetime.now(UTC).date()

    def now(self) -> datetime:
        """Return the current instant; noon while the day is a chosen one, so that today is always half over."""
        return datetime.combine(self._today, time(12), tzinfo=UTC) if self._today else datetime.now(UTC)

    def move_to(self, today: date) -> None:
        """Live on another day from now on."""
        self._today = today
