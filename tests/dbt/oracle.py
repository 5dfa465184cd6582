"""What ``marts.usage_daily`` has to say, worked out from the ledger by plain loops that share nothing with the SQL."""

from __future__ import annotations

from collections import defaultdict
from datetime import date

from tests.dbt.bedrock_ledger import PROVIDER, BedrockLedger, Record, Slice

COLUMNS = (
    "usage_date",
    "provider",
    "account_id",
    "account_name",
    "region",
    "model",
    "requests",
    "input_tokens",
    "uncached_input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "output_images",
    "audio_seconds",
    "characters",
    "server_tool_requests",
    "stored_bytes",
    "billed_cost",
    "billed_currency",
    "coverage",
)
WORST_LAST = ("final", "confirmed_zero", "provisional", "outside_retention", "not_entitled", "missing", "failed")
MODELS = {
    "us.anthropic.claude-sonnet-4-5-20250929-v1:0": "anthropic/claude-sonnet-4-5",
    "anthropic.claude-sonnet-4-5-20250929-v1:0": "anthropic/claude-sonnet-4-5",
    "anthropic.claude-opus-4-7": "anthropic/claude-opus-4-7",
    "amazon.nova-pro-v1:0": "amazon/nova-pro",
    "meta.llama3-1-8b-instruct-v1:0": "meta/llama3-1-8b-instruct",
    "ab12cd34ef56": "ab12cd34ef56",
    "Ünïcode'; drop table x; --": "Ünïcode'; drop table x; --",
}

Row = tuple[object, ...]
Measures = dict[str, int | None]


def expected_usage_daily(ledger: BedrockLedger) -> list[Row]:
    """Return the rows, sorted, with the columns of ``COLUMNS``."""
    counted = _counted(ledger)
    names = _account_names(ledger)
    rows: list[Row] = []
    for (day, account, region), known in counted.items():
        measures: dict[str, Measures] = defaultdict(dict)
        for one in known.records or ():
            _add(measures[MODELS[one["model_id"]]], _measures(one))
        if known.records is None:
            rows.append(_row(day, account, names.get((day, account)), region, None, {}, known.state))
        for model, sums in measures.items():
            rows.append(_row(day, account, names.get((day, account)), region, model, sums, known.state))
    return sorted(rows, key=by_grain)


def by_grain(row: Row) -> list[str]:
    """Sort key: day, provider, account, name, region, model."""
    return [str(value) for value in row[:6]]


def _counted(ledger: BedrockLedger) -> dict[tuple[date, str, str], Slice]:
    """One slice per day, account and region: the last one read, or else the one in the worst state."""
    counted: dict[tuple[date, str, str], Slice] = {}
    for (connection, region, day), known in ledger.slices.items():
        place = (day, ledger.scopes[connection, region][0] or connection, region)
        if place not in counted or _preference(known) > _preference(counted[place]):
            counted[place] = known
    return counted


def _preference(known: Slice) -> tuple[bool, int, int]:
    return known.records is not None, known.reading, WORST_LAST.index(known.state)


def _account_names(ledger: BedrockLedger) -> dict[tuple[date, str], str]:
    names: dict[tuple[date, str], str] = {}
    for connection, region, day in ledger.slices:
        account, name = ledger.scopes[connection, region]
        if name:
            place = (day, account or connection)
            names[place] = max(name, names.get(place, ""))
    return names


def _measures(one: Record) -> Measures:
    metrics = one["metrics"]
    if one["namespace"] == "AWS/BedrockMantle":
        return {
            "requests": metrics.get("Inferences", 0),
            "input_tokens": metrics.get("TotalInputTokens", 0),
            "output_tokens": metrics.get("TotalOutputTokens", 0),
        }
    uncached = metrics.get("InputTokenCount", 0)
    read = metrics.get("CacheReadInputTokenCount", metrics.get("CacheReadInputTokens", 0))
    written = metrics.get("CacheWriteInputTokenCount", metrics.get("CacheWriteInputTokens", 0))
    return {
        "requests": metrics.get("Invocations", 0),
        "input_tokens": uncached + read + written,
        "uncached_input_tokens": uncached,
        "cache_read_tokens": read,
        "cache_write_tokens": written,
        "output_tokens": metrics.get("OutputTokenCount", 0),
        "output_images": metrics.get("OutputImageCount", 0),
    }


def _add(sums: Measures, more: Measures) -> None:
    for name, quantity in more.items():
        sums[name] = (sums.get(name) or 0) + (quantity or 0)


def _row(
    day: date, account: str, name: str | None, region: str, model: str | None, sums: Measures, coverage: str
) -> Row:
    return (day, PROVIDER, account, name, region, model, *(sums.get(column) for column in COLUMNS[6:-1]), coverage)
