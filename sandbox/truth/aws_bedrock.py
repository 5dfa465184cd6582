"""
AWS Bedrock: what CloudWatch holds about two accounts, and what a mart must make of it.

The account ``123456789012`` is served by moto (it is moto's own), ``210987654321`` by the sandbox's double. Each entry
of the catalogue below is one thing callers can name; which model it really is stands beside it, written out by hand.

CloudWatch holds more than usage: wider dimension sets repeat the same calls, further namespaces measure something else.
Those series are here as decoys; no expected number contains them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from sandbox.errors import SandboxError
from sandbox.truth import ProviderTruth, Row, days_between, detail_row, draw, draw_between, in_detail_order
from sandbox.world import Restatement, World

PROVIDER = "aws_bedrock"
BEDROCK = "AWS/Bedrock"
MANTLE = "AWS/BedrockMantle"

CACHE_READ = ("CacheReadInputTokenCount", "CacheReadInputTokens")
CACHE_WRITE = ("CacheWriteInputTokenCount", "CacheWriteInputTokens")
BEDROCK_METRICS = (
    "Invocations",
    "InputTokenCount",
    "OutputTokenCount",
    *CACHE_READ,
    *CACHE_WRITE,
    "OutputImageCount",
    "InvocationClientErrors",
    "InvocationServerErrors",
    "InvocationThrottles",
)
MANTLE_METRICS = ("Inferences", "TotalInputTokens", "TotalOutputTokens", "InferenceClientErrors")

PROJECTS = {"search": 60, "support-chat": 40}
"""Projects on the Mantle endpoint, and their share of the calls in percent."""
TIERS = {"default": 70, "priority": 30}

EXACT_IN_A_DOUBLE = 2**53
QUIET_EVERY = 13
IDLE_EVERY = 9
DECOY_DAYS_IN_MOTO = 3

Spelling = Literal["none", "new", "old", "both"]
Dimensions = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Endpoint:
    """
    One thing callers can name, and about how much it is used.

    :param model_id: what CloudWatch calls it.
    :param model: what it really is; itself, where nobody can tell.
    :param requests: the most requests on one day.
    :param tokens: the most input tokens of one request.
    :param cache: how its cache metrics are spelt; ``both``: the same number under both names.
    :param images: whether it gives images instead of tokens.
    :param first_day: days between its first day and the world's first start; ``None`` for always there.
    :param last_day: days between its last day and the world's first start; ``None`` for still there.
    :param throttled_days: whether there are days on which it was throttled and nothing else happened.
    """

    region: str
    model_id: str
    model: str
    namespace: str = BEDROCK
    requests: int = 900
    tokens: int = 6000
    cache: Spelling = "none"
    images: bool = False
    first_day: int | None = None
    last_day: int | None = None
    throttled_days: bool = False


@dataclass(frozen=True)
class Account:
    """
    An AWS account.

    :param in_moto: served by moto, which holds only what was put into it: nothing before the world opened.
    """

    account_id: str
    name: str
    endpoints: tuple[Endpoint, ...]
    in_moto: bool = False

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions with endpoints, in the order of the catalogue."""
        return tuple(dict.fromkeys(endpoint.region for endpoint in self.endpoints))

    def endpoints_in(self, region: str, namespace: str | None = None) -> list[Endpoint]:
        """Return a region's endpoints."""
        return [
            endpoint
            for endpoint in self.endpoints
            if endpoint.region == region and namespace in (None, endpoint.namespace)
        ]


PRODUCTION = Account(
    "123456789012",
    "Sandbox production",
    (
        Endpoint(
            "us-east-1", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic/claude-sonnet-4-5", cache="new"
        ),
        Endpoint("us-east-1", "anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic/claude-sonnet-4-5", cache="new"),
        Endpoint("us-east-1", "amazon.nova-pro-v1:0", "amazon/nova-pro", requests=4_000_000_000, tokens=200_000),
        Endpoint("us-east-1", "amazon.nova-canvas-v1:0", "amazon/nova-canvas", images=True, requests=60),
        Endpoint("us-east-1", "ab12cd34ef56", "ab12cd34ef56", throttled_days=True),
        Endpoint("us-east-1", "anthropic.claude-opus-4-7", "anthropic/claude-opus-4-7", namespace=MANTLE),
        Endpoint("eu-west-1", "eu.anthropic.claude-haiku-4-5-20251001-v1:0", "anthropic/claude-haiku-4-5", cache="old"),
        Endpoint("eu-west-1", "meta.llama3-1-8b-instruct-v1:0", "meta/llama3-1-8b-instruct", requests=1, tokens=1),
        Endpoint("eu-west-1", "global.anthropic.claude-opus-4-6-v1", "anthropic/claude-opus-4-6", cache="new"),
        Endpoint(
            "eu-west-1",
            "arn:aws:bedrock:eu-west-1:123456789012:imported-model/q1w2e3r4t5y6",
            "arn:aws:bedrock:eu-west-1:123456789012:imported-model/q1w2e3r4t5y6",
            requests=20,
        ),
    ),
    in_moto=True,
)

RESEARCH = Account(
    "210987654321",
    "Sandbox research",
    (
        Endpoint("us-east-1", "us.anthropic.claude-sonnet-4-6", "anthropic/claude-sonnet-4-6", cache="both"),
        Endpoint("us-east-1", "global.anthropic.claude-opus-4-6-v1", "anthropic/claude-opus-4-6", cache="new"),
        Endpoint("us-east-1", "anthropic.claude-3-sonnet-20240229-v1:0", "anthropic/claude-3-sonnet", cache="old"),
        Endpoint("us-east-1", "anthropic.claude-3-sonnet-20240229-v1:0:200k", "anthropic/claude-3-sonnet"),
        Endpoint(
            "us-east-1",
            "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
            "amazon/nova-lite",
            requests=3_500_000_000,
            tokens=250_000,
        ),
        Endpoint("us-east-1", "amazon.nova-canvas-v1:0", "amazon/nova-canvas", images=True, requests=40),
        Endpoint("us-east-1", "anthropic.claude-sonnet-4-6", "anthropic/claude-sonnet-4-6", namespace=MANTLE),
        Endpoint("us-east-1", "openai.gpt-oss-120b", "openai/gpt-oss-120b", namespace=MANTLE),
        Endpoint("us-west-2", "meta.llama3-1-8b-instruct-v1:0", "meta/llama3-1-8b-instruct", last_day=20),
        Endpoint("us-west-2", "us.amazon.nova-premier-v1:0", "amazon/nova-premier", first_day=5),
        Endpoint(
            "us-west-2",
            "arn:aws:bedrock:us-west-2:210987654321:custom-model-deployment/z9y8x7w6v5u4",
            "arn:aws:bedrock:us-west-2:210987654321:custom-model-deployment/z9y8x7w6v5u4",
        ),
        Endpoint(
            "us-west-2",
            "arn:aws:bedrock:us-west-2:210987654321:provisioned-model/p0o9i8u7y6t5",
            "arn:aws:bedrock:us-west-2:210987654321:provisioned-model/p0o9i8u7y6t5",
            requests=50,
        ),
        Endpoint("us-west-2", "zai.glm-4.7", "zai/glm-4-7", requests=2, tokens=3),
        Endpoint("us-west-2", "anthropic.claude-opus-4-7", "anthropic/claude-opus-4-7", namespace=MANTLE),
        Endpoint("eu-central-1", "eu.amazon.nova-pro-v1:0", "amazon/nova-pro", throttled_days=True),
        Endpoint(
            "eu-central-1", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic/claude-sonnet-4-5", cache="old"
        ),
        Endpoint("eu-central-1", "mistral.mistral-large-2407-v1:0", "mistral/mistral-large-2407"),
        Endpoint("eu-central-1", "qx0p3mz81k7d", "qx0p3mz81k7d"),
        Endpoint(
            "eu-central-1",
            "arn:aws:bedrock:eu-central-1:210987654321:imported-model/m5n4b3v2c1x0",
            "arn:aws:bedrock:eu-central-1:210987654321:imported-model/m5n4b3v2c1x0",
            requests=5,
        ),
    ),
)

ACCOUNTS = (PRODUCTION, RESEARCH)


@dataclass(frozen=True)
class Series:
    """
    One CloudWatch metric: a namespace, a name, and exactly one set of dimensions.

    :param daily: the day's sum for each day that has one.
    :param decoy: whether counting it would be a mistake.
    """

    namespace: str
    name: str
    dimensions: Dimensions
    daily: Mapping[date, int]
    unit: str = "Count"
    decoy: bool = False


class AwsBedrockTruth(ProviderTruth):
    """The truth about Bedrock."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, Endpoint, date], dict[str, int]] = {}

    def values(self, account: Account, endpoint: Endpoint, day: date) -> dict[str, int]:
        """Return one endpoint's day: metric → sum, only metrics that have a point; today's are partial."""
        today = self.world.clock.today()
        if day > today or (account.in_moto and day < self.world.opened):
            return {}
        key = (account.account_id, endpoint, day)
        if key not in self._drawn:
            self._drawn[key] = self._draw(account, endpoint, day)
        values = self._drawn[key]
        if day == today:
            percent = draw_between(20, 80, self.world.seed, "so far", day)
            so_far = {name: value * percent // 100 for name, value in values.items()}
            values = {name: value for name, value in so_far.items() if value}
        restated = self.world.restatements.find(PROVIDER, account.account_id, endpoint.region, endpoint.model_id, day)
        return restated.apply(values) if restated else values

    def points(self, day: date, total: int) -> list[tuple[datetime, int]]:
        """Return a day's sum as CloudWatch got it: at the day's first and last minute, and today at midnight only."""
        midnight = datetime.combine(day, time(), tzinfo=UTC)
        late = total // 2 if day < self.world.clock.today() else 0
        parts = [(midnight, total - late), (midnight + timedelta(hours=23, minutes=59), late)]
        return [(moment, part) for moment, part in parts if part or (moment == midnight and not late)]

    def series(self, account: Account, region: str, first: date, last: date) -> list[Series]:
        """Return every series of a region, with its sums from ``first`` to ``last``."""
        last = min(last, self.world.clock.today())
        days = list(days_between(first, last))
        usage = {
            endpoint: {day: values for day in days if (values := self.values(account, endpoint, day))}
            for endpoint in account.endpoints_in(region)
        }
        found: list[Series] = []
        for endpoint, by_day in usage.items():
            if endpoint.namespace == BEDROCK:
                found += _runtime_series(endpoint, by_day)
            else:
                found += _mantle_series(endpoint, by_day)
        return [*found, *_series_of_the_region(usage)]

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day, region, endpoint and namespace that has any point."""
        rows = [
            self._detail(account, endpoint, day, values)
            for account in ACCOUNTS
            if accounts is None or account.account_id in accounts
            for endpoint in account.endpoints
            for day in days_between(first, last)
            if (values := self.values(account, endpoint, day))
        ]
        return in_detail_order(rows)

    def validate(self, restatement: Restatement) -> None:
        """Raise if the account, region, model or a metric is unknown, or a value does not fit a double exactly."""
        account = next((known for known in ACCOUNTS if known.account_id == restatement.account), None)
        if account is None:
            raise SandboxError(f"There is no account {restatement.account!r} in the sandbox's AWS.")
        endpoints = [
            endpoint
            for endpoint in account.endpoints_in(restatement.region)
            if restatement.model in (None, endpoint.model_id)
        ]
        if not endpoints:
            raise SandboxError(
                f"The account {account.account_id} has no model {restatement.model!r} in {restatement.region!r}."
            )
        for name, value in (restatement.values or {}).items():
            if not any(name in metrics_of(endpoint) for endpoint in endpoints):
                raise SandboxError(f"{restatement.model} has no metric {name!r}.")
            if not isinstance(value, int) or value >= EXACT_IN_A_DOUBLE:
                raise SandboxError(f"{name} must be a whole number below 2^53, not {value}.")
        for new, old in (CACHE_READ, CACHE_WRITE):
            given = {name: value for name, value in (restatement.values or {}).items() if name in (new, old)}
            both = any(endpoint.cache == "both" for endpoint in endpoints)
            if given and (both != (len(given) == 2) or len(set(given.values())) > 1):
                raise SandboxError(f"{restatement.model}: give {new} and {old} {'alike' if both else 'not both'}.")

    def _detail(self, account: Account, endpoint: Endpoint, day: date, values: Mapping[str, int]) -> Row:
        row = detail_row(
            usage_date=day,
            provider=PROVIDER,
            account_id=account.account_id,
            account_name=account.name,
            region=endpoint.region,
            model=endpoint.model,
            raw_model_id=endpoint.model_id,
            endpoint=endpoint.namespace,
        )
        return row | (_runtime_measures(values) if endpoint.namespace == BEDROCK else _mantle_measures(values))

    def _draw(self, account: Account, endpoint: Endpoint, day: date) -> dict[str, int]:
        key = (self.world.seed, account.account_id, endpoint.region, endpoint.namespace, endpoint.model_id)
        age = (self.world.anchor - day).days
        if endpoint.first_day is not None and age > endpoint.first_day:
            return {}
        if endpoint.last_day is not None and age < endpoint.last_day:
            return {}
        # Both counts skip the first start's own day, so that a newcomer's first look at today is never empty.
        if age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, account.account_id, endpoint.region):
            return {}
        if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return {}
        if endpoint.throttled_days and age % 7 == 3:
            return {"InvocationThrottles": draw_between(1, 500, *key, day)}
        if endpoint.namespace == MANTLE:
            return _mantle_usage(endpoint, *key, day)
        return _runtime_usage(endpoint, *key, day)


TRUTH = AwsBedrockTruth


def metrics_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the metrics that an endpoint's namespace has."""
    return BEDROCK_METRICS if endpoint.namespace == BEDROCK else MANTLE_METRICS


def _runtime_usage(endpoint: Endpoint, *key: object) -> dict[str, int]:
    def some(low: int, high: int, name: str) -> int:
        return draw_between(low, max(low, high), *key, name)

    requests = some(1, endpoint.requests, "Invocations")
    usage = {"Invocations": requests}
    if endpoint.images:
        usage["OutputImageCount"] = requests + some(0, requests, "OutputImageCount")
    else:
        usage["InputTokenCount"] = some(requests, requests * endpoint.tokens, "InputTokenCount")
        usage["OutputTokenCount"] = some(1, requests * endpoint.tokens // 4, "OutputTokenCount")
    spellings = {"none": (), "new": (0,), "old": (1,), "both": (0, 1)}[endpoint.cache]
    for spelling in spellings:
        usage[CACHE_READ[spelling]] = some(1, requests * endpoint.tokens * 3, "cache read")
        # A cache is read more often than it is written: on some days there is no point at all.
        if draw(*key, "cache write") % 4:
            usage[CACHE_WRITE[spelling]] = some(1, requests * endpoint.tokens, "cache write")
    for name, every in (("InvocationClientErrors", 3), ("InvocationServerErrors", 7), ("InvocationThrottles", 5)):
        if draw(*key, name) % every == 0:
            usage[name] = some(1, requests // 10 + 1, name)
    return usage


def _mantle_usage(endpoint: Endpoint, *key: object) -> dict[str, int]:
    requests = draw_between(1, endpoint.requests, *key, "Inferences")
    usage = {
        "Inferences": requests,
        "TotalInputTokens": draw_between(requests, requests * endpoint.tokens, *key, "TotalInputTokens"),
        "TotalOutputTokens": draw_between(1, requests * endpoint.tokens // 4, *key, "TotalOutputTokens"),
    }
    if draw(*key, "InferenceClientErrors") % 3 == 0:
        usage["InferenceClientErrors"] = draw_between(1, requests // 10 + 1, *key, "InferenceClientErrors")
    return usage


def _runtime_measures(values: Mapping[str, int]) -> Row:
    # Both spellings hold one and the same number: taken once, whichever is there.
    cache_read = max(values.get(name, 0) for name in CACHE_READ)
    cache_write = max(values.get(name, 0) for name in CACHE_WRITE)
    uncached = values.get("InputTokenCount", 0)
    return {
        "requests": values.get("Invocations", 0),
        "input_tokens": uncached + cache_read + cache_write,
        "uncached_input_tokens": uncached,
        "cache_read_tokens": cache_read,
        "cache_write_tokens": cache_write,
        "output_tokens": values.get("OutputTokenCount", 0),
        "output_images": values.get("OutputImageCount", 0),
        "client_errors": values.get("InvocationClientErrors", 0),
        "server_errors": values.get("InvocationServerErrors", 0),
        "throttled_requests": values.get("InvocationThrottles", 0),
    }


def _mantle_measures(values: Mapping[str, int]) -> Row:
    # Mantle does not tell cached input apart, counts no images, and says nothing of server errors and throttles.
    return {
        "requests": values.get("Inferences", 0),
        "input_tokens": values.get("TotalInputTokens", 0),
        "unsplit_input_tokens": values.get("TotalInputTokens", 0),
        "output_tokens": values.get("TotalOutputTokens", 0),
        "client_errors": values.get("InferenceClientErrors", 0),
    }


Usage = Mapping[date, Mapping[str, int]]
"""Day → metric → sum."""


def _daily(usage: Usage, name: str, percent: int = 100) -> dict[date, int]:
    return {day: values[name] * percent // 100 for day, values in usage.items() if name in values}


def _runtime_series(endpoint: Endpoint, usage: Usage) -> Iterator[Series]:
    by_model: Dimensions = (("ModelId", endpoint.model_id),)
    for name in BEDROCK_METRICS:
        yield Series(BEDROCK, name, by_model, _daily(usage, name))
    calls = _daily(usage, "Invocations")
    tokens = _daily(usage, "OutputTokenCount")
    yield Series(
        BEDROCK, "InvocationLatency", by_model, {day: 800 * n for day, n in calls.items()}, "Milliseconds", True
    )
    yield Series(BEDROCK, "TimeToFirstToken", by_model, {day: 90 * n for day, n in calls.items()}, "Milliseconds", True)
    yield Series(BEDROCK, "EstimatedTPMQuotaUsage", by_model, {day: 5 * n for day, n in tokens.items()}, decoy=True)
    yield Series(BEDROCK, "LegacyModelInvocations", by_model, calls, decoy=True)
    for name in ("Invocations", "InputTokenCount", "OutputTokenCount"):
        for tier, percent in TIERS.items():
            by_tier = (*by_model, ("ServiceTier", tier), ("ResolvedServiceTier", tier))
            yield Series(BEDROCK, name, by_tier, _daily(usage, name, percent), decoy=True)
    for size in ("1024", "2048"):
        by_size = (*by_model, ("ImageSize", size), ("BucketedStepSize", "50"))
        yield Series(BEDROCK, "OutputImageCount", by_size, _daily(usage, "OutputImageCount", 50), decoy=True)
    by_agent = (("Operation", "InvokeAgent"), *by_model)
    for name in ("InputTokenCount", "OutputTokenCount"):
        yield Series("AWS/Bedrock/Agents", name, by_agent, _daily(usage, name, 20), decoy=True)


def _mantle_series(endpoint: Endpoint, usage: Usage) -> Iterator[Series]:
    by_model: Dimensions = (("Model", endpoint.model_id),)
    for name in MANTLE_METRICS:
        yield Series(MANTLE, name, by_model, _daily(usage, name))
    for project, percent in PROJECTS.items():
        by_project_and_model = (("Project", project), *by_model)
        for name, source in (
            ("Inferences", "Inferences"),
            ("InferenceClientErrors", "InferenceClientErrors"),
            ("InputTokens", "TotalInputTokens"),
            ("OutputTokens", "TotalOutputTokens"),
        ):
            yield Series(MANTLE, name, by_project_and_model, _daily(usage, source, percent), decoy=True)


def _series_of_the_region(usage: Mapping[Endpoint, Usage]) -> Iterator[Series]:
    """Return what is published for a region as a whole."""
    mantle = [by_day for endpoint, by_day in usage.items() if endpoint.namespace == MANTLE]
    for name in MANTLE_METRICS if mantle else ():
        yield Series(MANTLE, name, (), _sum(mantle, name), decoy=True)
        for project, percent in PROJECTS.items():
            yield Series(MANTLE, name, (("Project", project),), _sum(mantle, name, percent), decoy=True)
    runtime = [by_day for endpoint, by_day in usage.items() if endpoint.namespace == BEDROCK]
    calls = _sum(runtime, "Invocations")
    for name in ("Invocations", "InputTokenCount", "OutputTokenCount"):
        yield Series(BEDROCK, name, (), _sum(runtime, name), decoy=True)
    yield Series(BEDROCK, "ModelInvocationLogsS3DeliverySuccess", (), calls, decoy=True)
    guardrail = (("GuardrailArn", "arn:aws:bedrock:::guardrail/gr4rd"), ("GuardrailVersion", "1"))
    yield Series("AWS/Bedrock/Guardrails", "Invocations", guardrail, calls, decoy=True)


def _sum(usages: list[Usage], name: str, percent: int = 100) -> dict[date, int]:
    total: dict[date, int] = {}
    for usage in usages:
        for day, value in _daily(usage, name, percent).items():
            total[day] = total.get(day, 0) + value
    return total
