"""
What a sandbox must remember when it is restarted: the day it began, and what was restated since.

Everything else follows from the seed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from threading import RLock
from typing import Any

from sandbox.clock import Clock
from sandbox.errors import SandboxError

Number = int | Decimal


@dataclass(frozen=True)
class Restatement:
    """
    A correction of one day, as providers make them after the fact.

    Give exactly one of ``factor``, ``values`` and ``vanish``. A later restatement of the same thing replaces an earlier
    one: factors apply to the seeded values, so a factor of 1 takes a restatement back.

    :param model: the raw model id; ``None`` for every model of the region.
    :param factor: multiplies every value, rounded down: above 1 up, below 1 down, 0 to zero.
    :param values: metric → new value; metrics not named keep theirs.
    :param vanish: the provider no longer says anything about that day.
    """

    provider: str
    account: str
    region: str
    day: date
    model: str | None = None
    factor: Decimal | None = None
    values: Mapping[str, Number] | None = None
    vanish: bool = False

    def __post_init__(self) -> None:
        given = (self.factor is not None) + (self.values is not None) + self.vanish
        if given != 1:
            raise SandboxError("A restatement has exactly one of factor, values and vanish.")
        if self.factor is not None and not (self.factor.is_finite() and self.factor >= 0):
            raise SandboxError(f"A restatement's factor is a number from 0 up, not {self.factor}.")
        if self.values is not None and self.model is None:
            raise SandboxError("A restatement to given values must name the model.")
        if any(number < 0 for number in (self.values or {}).values()):
            raise SandboxError("A restatement's values cannot be negative.")

    @classmethod
    def from_json(cls, content: Any) -> Restatement:
        """
        Read a restatement; numbers may come as text.

        :raises SandboxError: a field is missing, unknown or malformed.
        """
        required, optional = {"provider", "account", "region", "day"}, {"model", "factor", "values", "vanish"}
        if not isinstance(content, dict) or not required <= set(content) <= required | optional:
            raise SandboxError(
                f"A restatement is a JSON object with {', '.join(sorted(required))}, perhaps a model, "
                "and one of factor, values and vanish."
            )
        try:
            values = content.get("values")
            return cls(
                provider=str(content["provider"]),
                account=str(content["account"]),
                region=str(content["region"]),
                day=date.fromisoformat(content["day"]),
                model=content.get("model"),
                factor=None if content.get("factor") is None else Decimal(str(content["factor"])),
                values=None if values is None else {str(name): _number(value) for name, value in values.items()},
                vanish=bool(content.get("vanish", False)),
            )
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise SandboxError(f"The restatement cannot be read: {error}.") from error

    def to_json(self) -> dict[str, Any]:
        """Return the restatement as :meth:`from_json` reads it, exactly."""
        content: dict[str, Any] = {
            "provider": self.provider,
            "account": self.account,
            "region": self.region,
            "day": self.day.isoformat(),
        }
        if self.model is not None:
            content["model"] = self.model
        if self.factor is not None:
            content["factor"] = str(self.factor)
        if self.values is not None:
            content["values"] = {name: str(value) for name, value in self.values.items()}
        if self.vanish:
            content["vanish"] = True
        return content

    def apply(self, values: Mapping[str, int]) -> dict[str, int]:
        """Return whole numbers as restated."""
        if self.vanish:
            return {}
        if self.factor is not None:
            # Fractions of integers, because decimal's context would round what is longer than it.
            above, below = self.factor.as_integer_ratio()
            return {name: value * above // below for name, value in values.items()}
        return dict(values) | {name: int(value) for name, value in (self.values or {}).items()}


def _number(value: Any) -> Number:
    number = Decimal(str(value))
    return int(number) if number == number.to_integral_value() else number


class Restatements:
    """
    Everything restated so far, kept in a journal that survives a restart. Safe to use from several threads.

    :param path: the journal; ``None`` to forget everything at the end.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = RLock()
        self._latest: dict[tuple[str, str, str, str | None, date], tuple[int, Restatement]] = {}
        self._listeners: list[Callable[[], None]] = []
        self.version = 0
        """Rises with every change, for those who keep a copy of what follows from it."""
        self.header: dict[str, str] = {}
        for line in self._read():
            content = json.loads(line)
            if "world" in content:
                self.header |= content["world"]
            else:
                self._keep(Restatement.from_json(content))

    def add(self, restatements: Iterable[Restatement]) -> None:
        """Keep restatements, in order, then tell the listeners once."""
        restatements = list(restatements)
        with self._lock:
            self._append([restatement.to_json() for restatement in restatements])
            for restatement in restatements:
                self._keep(restatement)
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def find(self, provider: str, account: str, region: str, model: str, day: date) -> Restatement | None:
        """Return the restatement in force for one model's day: the later of the model's own and the region's."""
        with self._lock:
            found = [
                self._latest[key]
                for key in ((provider, account, region, model, day), (provider, account, region, None, day))
                if key in self._latest
            ]
        return max(found, key=lambda numbered: numbered[0])[1] if found else None

    def set_header(self, header: Mapping[str, str]) -> None:
        """Keep facts about the world as a whole."""
        with self._lock:
            if header.items() <= self.header.items():
                return
            self._append([{"world": dict(header)}])
            self.header |= header

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change."""
        with self._lock:
            self._listeners.append(listener)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the restatements in force, oldest first."""
        with self._lock:
            return [restatement.to_json() for _, restatement in sorted(self._latest.values(), key=lambda kept: kept[0])]

    def _keep(self, restatement: Restatement) -> None:
        self.version += 1
        key = (restatement.provider, restatement.account, restatement.region, restatement.model, restatement.day)
        self._latest[key] = (self.version, restatement)

    def _read(self) -> list[str]:
        if self._path is None or not self._path.exists():
            return []
        text = self._path.read_text(encoding="utf-8")
        whole, _, torn = text.rpartition("\n")
        if torn:
            # Killed in the middle of a line: what was never confirmed to anyone did not happen.
            os.truncate(self._path, len(f"{whole}\n".encode()) if whole else 0)
        return whole.splitlines()

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if self._path is None or not lines:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(line) + "\n" for line in lines)
            journal.flush()
            os.fsync(journal.fileno())


@dataclass(frozen=True)
class World:
    """
    What the truth is a function of.

    :param anchor: the day on which this world was first started: models come and go relative to it, so that they do
        not come and go again when the clock moves on.
    :param opened: the first day of which a double that has to be filled by hand (moto) knows anything.
    :param folder: where things are kept from one start to the next; ``None`` if they are not.
    """

    seed: int
    clock: Clock
    anchor: date
    opened: date
    restatements: Restatements = field(default_factory=Restatements)
    folder: Path | None = None

    @classmethod
    def open(cls, seed: int, clock: Clock, history_days: int, folder: Path | None = None) -> World:
        """
        Start a world, or go on with the one in the folder.

        :param history_days: how many days, today among them, new connections read at first.
        :param folder: where to remember; ``None`` to forget at the end.
        """
        if history_days < 1:
            raise SandboxError("The history must be at least one day: --history-days 1.")
        restatements = Restatements(folder / f"journal-{seed}.jsonl" if folder else None)
        today = clock.today()
        anchor = date.fromisoformat(restatements.header.get("anchor", today.isoformat()))
        opened = min(
            today - timedelta(days=history_days - 1),
            date.fromisoformat(restatements.header.get("opened", today.isoformat())),
        )
        restatements.set_header({"anchor": anchor.isoformat(), "opened": opened.isoformat()})
        return cls(seed, clock, anchor, opened, restatements, folder)
