"""
Finding the days that cannot be read: a window whose answer makes no sense is asked for in parts.

One bad day must not keep the days around it from being read, and a source that makes no sense at all must not be asked
for every day of a year. So a window that failed is halved until the bad days stand alone; but when the first days that
stand alone are all bad, and nothing else was read, the rest is only sampled: each part once, and one day in its middle.
Whatever can be read lifts the suspicion, and the parts that were set aside are divided after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ai_usage.core.slices import ONE_DAY, Window

DAYS_BEFORE_SUSPICION = 3
"""So many days that stand alone must be bad, and none good, before a window is thought to be bad as a whole."""
MOST_PARTS = 64
"""So many parts of windows are asked for in one go. What is left over is asked for in the next run."""


@dataclass
class _Origin:
    """A window as it was planned, and what its parts have told."""

    bad_days: int = 0
    has_answered: bool = False
    set_aside: list[Window] = field(default_factory=list)


class Division:
    """
    The windows of one stream still to be asked for; the last is the next.

    The reader takes one with :meth:`take` and says how it ended: :meth:`answered` or :meth:`made_no_sense`. A window that
    ended in any other way is done with.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        self._origins = [_Origin() for _ in windows]
        self._left = list(zip(windows, self._origins, strict=True))
        self._taken: tuple[Window, _Origin] | None = None
        self._parts_asked = 0
        self.left_over: list[Window] = []
        """Parts that there was no room for. Nothing is known about them."""

    def __len__(self) -> int:
        return len(self._left)

    def take(self) -> Window | None:
        """Return the window to ask for now; ``None`` when there is none left."""
        self._taken = self._left.pop() if self._left else None
        return self._taken[0] if self._taken else None

    def answered(self, *, with_records: bool) -> None:
        """
        Note that the window was read: what was set aside on suspicion is worth dividing.

        An answer without records shows nothing: a source that can tell of no use any more still tells of none.
        """
        assert self._taken is not None
        if not with_records:
            return
        _, origin = self._taken
        is_first_answer = not self._has_answered
        origin.has_answered = True
        for one in self._origins if is_first_answer else [origin]:
            if not self._is_suspect(one):
                parts, one.set_aside = sorted(one.set_aside), []
                self._ask(one, *parts)

    def made_no_sense(self) -> bool:
        """Note that the answer made no sense; tell whether it is left to parts of the window to say which days are bad."""
        assert self._taken is not None
        window, origin = self._taken
        if len(window) == 1:
            origin.bad_days += 1
            return False
        middle = window.first + ONE_DAY * ((len(window) - 1) // 2)
        halves = Window(window.first, middle), Window(middle + ONE_DAY, window.last)
        if not self._is_suspect(origin):
            self._ask(origin, *halves)
        elif origin.bad_days:
            self._sample(window, origin)
        else:
            origin.set_aside += halves
        return True

    def set_aside(self) -> list[Window]:
        """Return the parts that are not asked for, because nothing of their window could be read."""
        return sorted(part for origin in self._origins for part in origin.set_aside)

    def give_up(self) -> list[Window]:
        """Ask for nothing more; return what would have been asked for."""
        windows = sorted([window for window, _ in self._left] + self.set_aside())
        self._left.clear()
        for origin in self._origins:
            origin.set_aside.clear()
        return windows

    @property
    def _has_answered(self) -> bool:
        return any(origin.has_answered for origin in self._origins)

    def _is_suspect(self, origin: _Origin) -> bool:
        if origin.has_answered:
            return False
        bad_days = origin.bad_days if self._has_answered else sum(one.bad_days for one in self._origins)
        return bad_days >= DAYS_BEFORE_SUSPICION

    def _sample(self, window: Window, origin: _Origin) -> None:
        """Set a part aside, but for the day in its middle: it stands for the others."""
        middle = window.first + ONE_DAY * (len(window) // 2)
        origin.set_aside.append(Window(window.first, middle - ONE_DAY))
        if middle < window.last:
            origin.set_aside.append(Window(middle + ONE_DAY, window.last))
        self._ask(origin, Window(middle, middle))

    def _ask(self, origin: _Origin, *parts: Window) -> None:
        """Put parts on the list, the newest next, as long as there is room."""
        room = MOST_PARTS - self._parts_asked
        without_room = max(len(parts) - room, 0)
        self.left_over += parts[:without_room]
        self._left += [(part, origin) for part in parts[without_room:]]
        self._parts_asked += len(parts) - without_room
