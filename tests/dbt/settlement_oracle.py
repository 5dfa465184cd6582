"""How soon a day's values were known, worked out from the told versions without SQL."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from math import ceil, floor
from typing import TypeVar

from tests.dbt.versions import Meters, Slice

HOURS = (0, 1, 2, 3, 6, 12, 24, 48, 72, 168, 336)
Told = dict[Slice, list[tuple[datetime, Meters]]]
T = TypeVar("T", Decimal, int)


def expected_curve(told: Told) -> dict[tuple[str, str, int], tuple[int, Decimal, Decimal]]:
    """Return (stream, meter, hours) → observed slices, median share, share that 95 % reached. All slices have settled."""
    shares: dict[tuple[str, str, int], list[Decimal]] = defaultdict(list)
    for (stream, day), versions in _recent(told).items():
        final = versions[-1][1]
        for meter in _used(versions):
            for hours in HOURS:
                known = [meters for at, meters in versions if at <= _end(day) + timedelta(hours=hours)]
                if known:
                    share = _share(known[-1].get(meter, Decimal(0)), final.get(meter, Decimal(0)))
                    shares[stream, meter[0], hours].append(share)
    return {
        key: (len(found), at_share(sorted(found), 50), at_share(sorted(found, reverse=True), 95))
        for key, found in shares.items()
    }


def expected_settle_hours(told: Told) -> dict[str, list[Decimal]]:
    """Return stream → hours until the last change of each day with usage that was read from its end on, in order."""
    hours: dict[str, list[Decimal]] = defaultdict(list)
    for (stream, day), versions in _recent(told).items():
        first, last = (_hours(day, at) for at in (versions[0][0], versions[-1][0]))
        if first <= 24 and _used(versions):
            hours[stream].append(max(Decimal(0), last))
    return {stream: sorted(found) for stream, found in hours.items()}


def expected_lookback(p95_settle_hours: Decimal, settle_days: int) -> int:
    """Return the recommended look-back: far enough for 95 % of the changes and for settling, and a day more."""
    return 1 + max(1 + floor(p95_settle_hours / 24), settle_days)


def at_share(ordered: list[T], percent: int) -> T:
    """Return the first value that so many percent of all values have come up to."""
    return ordered[ceil(len(ordered) * percent / 100) - 1]


def _recent(told: Told) -> Told:
    newest = max(day for (_, day), versions in told.items() if _used(versions))
    return {key: versions for key, versions in told.items() if key[1] > newest - timedelta(days=180)}


def _used(versions: list[tuple[datetime, Meters]]) -> set[tuple[str, str | None]]:
    return {meter for _, meters in versions for meter, value in meters.items() if value}


def _share(known: Decimal, final: Decimal) -> Decimal:
    if known == final:
        return Decimal(1)
    if final == 0:
        return Decimal(0)
    return max(Decimal(0), (1 - abs(final - known) / abs(final)).quantize(Decimal("0.000001"), ROUND_HALF_UP))


def _end(day: date) -> datetime:
    return datetime.combine(day, time(), UTC) + timedelta(days=1)


def _hours(day: date, at: datetime) -> Decimal:
    return Decimal(round((at - _end(day)).total_seconds())) / 3600
