"""
How many calls a provider's usage takes at the least: what follows from its API's widest window and largest page or batch.

The limits are those that `docs/providers/` names; none of them is asked of the readers that are measured against them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ai_usage import providers


@dataclass(frozen=True)
class Seen:
    """
    What the formulas are about.

    :param scopes: how many parts of the connection were read: regions, resources, accounts.
    :param objects: how many objects lie where the audit stream lands, in the days that must be looked at.
    """

    days: int
    scopes: int
    records: Sequence[Mapping[str, Any]]
    objects: int = 0

    def distinct(self, *fields: str) -> int:
        """Return how many different values or combinations the records have."""
        return len({tuple(record.get(name) for name in fields) for record in self.records})


Formula = Callable[[Seen], int]


@dataclass(frozen=True)
class Rule:
    """
    The calls that one stream needs.

    :param operations: what the sandbox calls them; anything else belongs to the names and lists.
    :param words: where the minimum comes from.
    :param by_default: the same with the page sizes that one gets without asking.
    :param naive: a call per day, and per series where the API answers for one at a time.
    :param more: how many calls more are made on purpose.
    :param why: why they are.
    """

    operations: tuple[str, ...]
    words: str
    minimum: Formula
    by_default: Formula
    naive: Formula
    more: Formula = lambda _: 0
    why: str = ""


def pages(size: int) -> Formula:
    """Return the formula of an API that gives so many days at once."""
    return lambda seen: -(-seen.days // size)


def days(seen: Seen) -> int:
    """Return a call per day."""
    return seen.days


def one(_: Seen) -> int:
    """Return a single call."""
    return 1


def per_scope(formula: Formula) -> Formula:
    """Return a formula for every scope."""
    return lambda seen: seen.scopes * formula(seen)


def records_of(size: int) -> Formula:
    """Return the formula of an API that gives so many records a page, and an empty page where there are none."""
    return lambda seen: max(1, -(-len(seen.records) // size))


def series_of_cloudwatch(seen: Seen) -> int:
    """Return how many counters had a value: model and metric, per region."""
    return len({(r["region"], r["namespace"], r["model_id"], name) for r in seen.records for name in r["metrics"]})


def _buckets(operation: str, largest: int, usual: int) -> Rule:
    return Rule((operation,), f"{largest} daily buckets a call", pages(largest), pages(usual), days)


_TABLE_OF_OPENAI = {
    stream.name: _buckets(stream.name, 31, 7) for stream in providers.load("openai").streams if stream.name != "costs"
}
BEDROCK_NAMESPACES = 2
SERIES_AT_ONCE = 500
AZURE_QUESTIONS = 3
GROQ_SERIES = 3

RULES: Mapping[str, Mapping[str, Rule]] = {
    "openai": _TABLE_OF_OPENAI | {"costs": _buckets("costs", 180, 7)},
    "anthropic": {
        "usage": _buckets("usage_report/messages", 31, 7),
        "costs": _buckets("cost_report", 31, 7),
    },
    "groq": {
        "usage": Rule(
            ("requests", "tokens_in", "tokens_out"),
            "a pattern of names, 30 days of 5-minute points",
            one,
            lambda _: GROQ_SERIES,
            lambda seen: GROQ_SERIES * seen.days * seen.distinct("model", "project_id"),
            more=lambda _: GROQ_SERIES - 1,
            why="3 are asked for by name: nothing published shows that Groq takes a pattern",
        )
    },
    "fireworks": {
        "usage": Rule(
            ("summary", "usage"),
            "2 endpoints, 31 days a call, per account",
            per_scope(lambda seen: 2 * pages(31)(seen)),
            per_scope(lambda seen: 2 * pages(31)(seen)),
            per_scope(lambda seen: 2 * seen.days),
        ),
        "costs": Rule(
            ("costs",), "31 days a call, per account", per_scope(pages(31)), per_scope(pages(31)), per_scope(days)
        ),
        "throughput": Rule(("metrics",), "one reading, per account", per_scope(one), per_scope(one), per_scope(one)),
    },
    "openrouter": {
        "activity": Rule(("getUserActivity",), "30 days in one answer", one, one, days),
        "history": Rule(("queryAnalytics",), "10,000 rows an answer", records_of(10_000), records_of(10_000), days),
        "credits": Rule(("getCredits",), "a balance is one number", one, one, one),
    },
    "replicate": {
        "predictions": Rule(
            ("predictions",), "100 runs a page, no parameter", records_of(100), records_of(100), records_of(100)
        ),
        "trainings": Rule(
            ("trainings",), "100 runs a page, no parameter", records_of(100), records_of(100), records_of(100)
        ),
    },
    "authress": {
        "operations": Rule(
            ("GetObject", "ListObjectsV2"),
            "1,000 names a list, 1 call an object",
            lambda seen: seen.objects + -(-seen.objects // 1000),
            lambda seen: seen.objects + -(-seen.objects // 1000),
            lambda seen: seen.objects + seen.days,
        )
    },
    "aws_bedrock": {
        "metrics": Rule(
            ("ListMetrics", "GetMetricData"),
            "per region: a list per namespace (2), 500 series a question",
            lambda seen: seen.scopes * (BEDROCK_NAMESPACES + -(-series_of_cloudwatch(seen) // SERIES_AT_ONCE)),
            lambda seen: seen.scopes * (BEDROCK_NAMESPACES + -(-series_of_cloudwatch(seen) // SERIES_AT_ONCE)),
            lambda seen: seen.days * series_of_cloudwatch(seen),
        )
    },
    "azure_openai": {
        "metrics": Rule(
            ("metrics",),
            "3 sets of dimensions; batch: 50 resources of a region and subscription",
            lambda seen: AZURE_QUESTIONS * seen.distinct("subscription_id", "location"),
            lambda seen: AZURE_QUESTIONS * seen.distinct("subscription_id", "location"),
            lambda seen: AZURE_QUESTIONS * seen.days * seen.distinct("resource_id", "deployment"),
        )
    },
    "google_vertex_ai": {
        "costs": Rule(
            ("jobs.query", "jobs.insert"),
            "one query for all days",
            one,
            one,
            days,
            more=one,
            why="a dry run first: it is free and says what the query will cost",
        )
    },
}
NAMES: Mapping[str, tuple[str, Formula]] = {
    "openai": ("projects, 100 a page", one),
    "anthropic": ("whose key, workspaces", lambda _: 2),
    "fireworks": ("accounts, 200 a page", one),
    "openrouter": ("workspaces, 100 a page", one),
    "replicate": ("whose token", one),
    "authress": ("the oldest object", one),
    "aws_bedrock": ("whose key", one),
    "azure_openai": (
        "token, subscriptions; resources per subscription, metrics per region, deployments per resource",
        lambda seen: 2 + seen.distinct("subscription_id") + seen.distinct("location") + seen.distinct("resource_id"),
    ),
    "google_vertex_ai": ("token, tables, the table", lambda _: 3),
}
