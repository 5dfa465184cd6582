"""The rows that every way of loading is given: the same in every process, and made one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

from ai_usage.core.contract import Record

DAYS = 30
FIRST_DAY = date(2026, 1, 1)


def synthetic(rows: int) -> Iterator[Record]:
    """Yield usage rows of 15 fields and about 300 bytes, spread over a month."""
    days = [FIRST_DAY + timedelta(days=n) for n in range(DAYS)]
    for line in range(rows):
        day = days[line * DAYS // rows]
        yield Record(
            day,
            {
                "line": line,
                "bucket_start": 1_767_225_600 + line,
                "organization_id": "org-a1b2c3d4e5f6",
                "project_id": f"proj_{line % 40:012d}",
                "user_id": f"user-{line % 900:012d}",
                "api_key_id": f"key_{line % 90:012d}",
                "model": f"vendor.model-{line % 20}",
                "region": "eu-west-1",
                "service_tier": "default",
                "batch": False,
                "input_tokens": line * 7919 % 1_000_003,
                "cached_input_tokens": line * 104_729 % 500_009,
                "output_tokens": line * 1_299_709 % 250_007,
                "requests": line % 997,
                "cost": line * 31 % 10_007,
            },
        )
