"""
Tokens of dedicated deployments, from gauges that only tell of the last minute.

``/metrics`` has rates per second, averaged over about a minute and recomputed twice in it, and no history. A reading
therefore speaks for at most the minute before it, never for time that an earlier reading has spoken for, never for the
day before. What no reading speaks for stays unknown and is not estimated. A record is one deployment's day so far::

    {"deployment_id": "d7f3k2qa", "base_model": "accounts/fireworks/models/deepseek-v3", "sampled_seconds": 54120,
     "readings": 902, "longest_gap_seconds": 1870, "first_read_at": "2026-08-15T00:00:04Z", "last_read_at": "…",
     "prompt_tokens": 99757588.4, "cached_prompt_tokens": 49871580, "requests": 129888, "highest_prompt_rate": 1843.26}

The counts are rates times seconds: estimates, and only of the seconds that were sampled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any

from ai_usage.core.drift import Drift
from ai_usage.core.slices import midnight
from ai_usage.providers._fireworks import LONGEST_NAME, invalid

SECONDS_PER_READING = 60
"""How long before it a reading speaks for."""
PROMPT = "tokens_prompt_total:sum_by_deployment"
COUNTS = {
    "prompt_tokens": PROMPT,
    "cached_prompt_tokens": "tokens_cached_prompt_total:sum_by_deployment",
    "requests": "request_counter_total:sum_by_deployment",
}
FIELDS = frozenset(
    {"deployment_id", "base_model", "sampled_seconds", "readings", "longest_gap_seconds", "first_read_at"}
    | {"last_read_at", "highest_prompt_rate", *COUNTS}
)

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+([^ \t]+)(?:[ \t]+-?[0-9]+)?[ \t]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_RATE = re.compile(r"\+?[0-9]{1,12}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?")
_PATH = "metrics"

Deployment = tuple[str, str]
Rates = Mapping[Deployment, Mapping[str, Decimal]]


def rates(text: str) -> Rates | None:
    """
    Return series → rate of every deployment in an answer; ``None`` if it says nothing at all.

    An empty answer could be that of an account in which nothing runs, or of something that broke on the way.
    """
    if not text.strip():
        return None
    if not text.endswith("\n"):
        raise invalid(_PATH, "it breaks off in a line")
    found: dict[Deployment, dict[str, Decimal]] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            raise invalid(_PATH, "a line is no sample")
        name, labels, value = sample[1], _labels(sample[2] or ""), sample[3]
        deployment = (labels.get("deployment_id", ""), labels.get("base_model", ""))
        if name in COUNTS.values() and not all(0 < len(part) <= LONGEST_NAME for part in deployment):
            raise invalid(_PATH, "a rate belongs to no deployment")
        if not all(deployment):
            continue
        known = found.setdefault(deployment, {})
        if name in known:
            raise invalid(_PATH, "one rate is there twice")
        if name in COUNTS.values() and value.lower() != "nan":
            if not _RATE.fullmatch(value):
                raise invalid(_PATH, "a rate is no number from zero up")
            known[name] = Decimal(value)
    return found


def _labels(text: str) -> dict[str, str]:
    labels, position = dict[str, str](), 0
    while position < len(text):
        label = _LABEL.match(text, position)
        if label is None:
            raise invalid(_PATH, "its labels cannot be read")
        labels[label[1]] = re.sub(r"\\(.)", lambda escaped: {"n": "\n"}.get(escaped[1], escaped[1]), label[2])
        position = label.end()
    return labels


class Gathered:
    """
    What the readings of one day have said so far.

    :param stored: the records of the day that were gathered before.
    """

    def __init__(self, stored: Iterable[Mapping[str, Any]]) -> None:
        self._days = {(row["deployment_id"], row["base_model"]): dict(row) for row in stored}

    def add(self, read_at: datetime, seen: Rates, drift: Drift) -> None:
        """
        Take in one reading.

        A deployment that is gone has been scaled to nothing or deleted: zero. One that is there without a rate of
        prompt tokens is unknown for this reading. A rate that Prometheus leaves out beside it has never counted anything.
        """
        for deployment in sorted({*self._days, *seen}):
            series = seen.get(deployment)
            if series is not None and PROMPT not in series:
                drift.remark("metrics names deployments without a rate of prompt tokens; such readings were left out.")
                continue
            if deployment not in self._days:
                if not series:
                    continue
                self._days[deployment] = _nothing_yet(deployment, read_at)
            self._count(self._days[deployment], read_at, series or {})

    def _count(self, row: dict[str, Any], read_at: datetime, series: Mapping[str, Decimal]) -> None:
        since = int((read_at - datetime.fromisoformat(row["last_read_at"])).total_seconds())
        into_day = int((read_at - midnight(read_at.date())).total_seconds())
        seconds = min(SECONDS_PER_READING, into_day, since if row["readings"] else into_day)
        if seconds <= 0:
            return
        with localcontext() as context:
            context.prec = 60
            for field, name in COUNTS.items():
                row[field] += series.get(name, Decimal(0)) * seconds
        if row["readings"]:
            row["longest_gap_seconds"] = max(row["longest_gap_seconds"], since - seconds)
        row["sampled_seconds"] += seconds
        row["readings"] += 1
        row["last_read_at"] = _text(read_at)
        row["highest_prompt_rate"] = max(row["highest_prompt_rate"], series.get(PROMPT, Decimal(0)))

    def records(self) -> list[dict[str, Any]]:
        """Return the day's records."""
        return [row for _, row in sorted(self._days.items()) if row["readings"]]


def _nothing_yet(deployment: Deployment, read_at: datetime) -> dict[str, Any]:
    row: dict[str, Any] = {"deployment_id": deployment[0], "base_model": deployment[1]}
    row |= {"sampled_seconds": 0, "readings": 0, "longest_gap_seconds": 0}
    row |= {"first_read_at": _text(read_at), "last_read_at": _text(read_at), "highest_prompt_rate": Decimal(0)}
    return row | dict.fromkeys(COUNTS, Decimal(0))


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
