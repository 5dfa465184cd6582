"""
AWS Bedrock: daily usage per account, region and model, from CloudWatch.

Bedrock itself has no usage API. It counts into CloudWatch, minute by minute, and CloudWatch adds the minutes up to UTC
days for 455 days. Reading takes two permissions, ``cloudwatch:ListMetrics`` and ``cloudwatch:GetMetricData``.

A record is one model on one day in one region, with CloudWatch's own names::

    {"account_id": "123456789012", "region": "us-east-1", "namespace": "AWS/Bedrock",
     "model_id": "us.anthropic.claude-sonnet-4-6", "metrics": {"InputTokenCount": 123, "OutputTokenCount": 45}}

``metrics`` holds what had a point that day. Nothing is added up, renamed or resolved here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Note, Provider, Record, Scope, Stream
from ai_usage.core.errors import ConfigurationInvalid, PermissionMissing, UsageError, WrongAccount
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._cloudwatch import ACCOUNT_NUMBER, CloudWatch, Series


@dataclass(frozen=True)
class Namespace:
    """
    One of CloudWatch's name spaces and the level of detail we read in it.

    The same call is counted again under wider sets of dimensions (service tier, image size, project). Exactly one set
    is read; adding sets up would count calls twice.

    :param name: CloudWatch's name.
    :param dimension: the only dimension of the series we read.
    :param metrics: the counters we read, each summed over the day.
    """

    name: str
    dimension: str
    metrics: tuple[str, ...]

    def series(self, model_id: str, metric: str) -> Series:
        """Return the series of one counter of one model."""
        return Series(self.name, self.dimension, model_id, metric)


RUNTIME = Namespace(
    "AWS/Bedrock",
    "ModelId",
    (
        "Invocations",
        "InputTokenCount",
        "OutputTokenCount",
        # AWS has documented each cache counter under two names. Both are read and kept under their own name; an
        # account has one or the other.
        "CacheReadInputTokenCount",
        "CacheReadInputTokens",
        "CacheWriteInputTokenCount",
        "CacheWriteInputTokens",
        "OutputImageCount",
        "InvocationClientErrors",
        "InvocationServerErrors",
        "InvocationThrottles",
    ),
)
"""Calls to ``bedrock-runtime`` (Converse, InvokeModel)."""

MANTLE = Namespace(
    "AWS/BedrockMantle",
    "Model",
    ("Inferences", "TotalInputTokens", "TotalOutputTokens", "InferenceClientErrors"),
)
"""Calls to ``bedrock-mantle`` (the OpenAI- and Anthropic-compatible endpoint), which are not in ``AWS/Bedrock``."""

NAMESPACES = {space.name: space for space in (RUNTIME, MANTLE)}

LISTED_FOR_DAYS = 14
"""How long CloudWatch goes on listing a metric that gets no data."""
CLOCK_MARGIN_DAYS = 4
"""Windows this much younger than :data:`LISTED_FOR_DAYS` are still treated as older: clocks differ, and so does AWS."""
READABLE_DAYS = 455
"""How far back daily sums reach, today included: CloudWatch keeps hourly values for 455 days."""
_REGION = re.compile(r"[a-z]{2,5}(?:-[a-z]+){1,3}-\d{1,2}")


class AwsBedrock(Provider):
    """
    AWS Bedrock through CloudWatch.

    :param today: tells the UTC day; only tests give another.
    :param sleep: how to wait; only tests give another.
    """

    name = "aws_bedrock"
    label = "AWS Bedrock"
    connection_type = "aws"
    client_kind = "aws"
    streams = (
        Stream(
            name="metrics",
            summary="one model's CloudWatch counters of one day, in one region",
            grain=("namespace", "model_id"),
            fields=frozenset({"account_id", "region", "namespace", "model_id", "metrics"}),
            # AWS promises no day at which counters stand still; CloudWatch takes points that are up to two weeks late.
            # Bedrock writes every minute, so three days is generous for what is late in practice.
            settle=timedelta(days=3),
            lookback_days=3,
            retention_days=READABLE_DAYS,
            max_window_days=READABLE_DAYS,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Metrics of bedrock-runtime": (
            "https://docs.aws.amazon.com/bedrock/latest/userguide/monitoring-runtime-metrics.html"
        ),
        "Metrics of bedrock-mantle": (
            "https://docs.aws.amazon.com/bedrock/latest/userguide/monitoring-mantle-metrics.html"
        ),
        "GetMetricData": "https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html",
        "ListMetrics": "https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_ListMetrics.html",
    }
    if_empty = (
        "Read the region that Bedrock is called in, with a connection for each AWS account: usage elsewhere "
        "does not show here."
    )
    revoke = (
        "Delete the access key of the IAM user, then the user, or the role, and the policy that was made for "
        "reading metrics."
    )
    reads = (
        "daily sums of Bedrock's CloudWatch counters per model: calls, tokens, images, errors, throttles",
        "the names of the models that have such counters",
        "the number of the account a key belongs to",
    )
    never_reads = (
        "prompts, completions and model invocation logs",
        "costs, invoices and payment data",
        "who called: CloudWatch does not know it",
    )

    def __init__(
        self,
        *,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._today = today
        self._sleep = sleep
        self._accounts: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the key, the account, then each region's two permissions and whether there is data."""
        try:
            regions = _regions(connection)
            _configured_models(connection)
            expected_account = _expected_account(connection)
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, f"Regions to read: {', '.join(regions)}.")
        reader = self._reader(connection)
        try:
            account = reader.account()
        except UsageError as error:
            yield Check.failed("credential", error)
            yield from _unasked(regions, "the credential could not be verified")
            return
        yield Check("credential", True, f"The key belongs to account {account}.")
        if expected_account:
            try:
                _compare_accounts(connection, account, expected_account)
            except UsageError as error:
                yield Check.failed("account", error)
                yield from _unasked(regions, "the key belongs to another account")
                return
            yield Check("account", True, "It is the account that the connection names.")
        for region in regions:
            yield from self._check_region(reader, region)

    def _check_region(self, reader: CloudWatch, region: str) -> Iterator[Check]:
        """Verify both permissions in a region; they are independent of each other."""
        listing, reading = _questions(region)
        models: set[str] | None = None
        try:
            models = {_model_of(series) for series in _listed(reader, region)}
        except UsageError as error:
            yield Check.failed(listing, error, region)
            if not isinstance(error, PermissionMissing):
                yield Check(reading, None, "Not asked, because listing failed.", scope=region)
                return
        else:
            yield Check(listing, True, "Allowed.", scope=region)
        yesterday = self._today() - ONE_DAY
        probe = RUNTIME.series("any", "Invocations")
        try:
            reader.values([probe], region, Window(yesterday, yesterday))
        except UsageError as error:
            yield Check.failed(reading, error, region)
            return
        yield Check(reading, True, "Allowed.", scope=region)
        if models is not None:
            yield _found(region, models)

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """Return one scope per region; each can fail alone."""
        regions = _regions(connection)
        account = self._account(connection)
        account_name = options.text(connection, "account_name")
        return [Scope(region, account_id=account, account_name=account_name, region=region) for region in regions]

    def extract(self, connection: Connection, stream: Stream, scope: Scope, window: Window) -> Iterator[Record]:
        """
        Yield one record per day and model that has at least one point, by day, namespace and model.

        Nothing is yielded before every series is known to be complete.
        """
        today = self._today()
        if window.first > today:
            return
        region = _checked_region(scope.region or scope.name, connection.connection_id)
        if window.first < today - ONE_DAY * READABLE_DAYS:
            raise ConfigurationInvalid(
                f"CloudWatch keeps {READABLE_DAYS} days; {window.first} is older.",
                action="Ask for a later first day.",
            ).at(connection.connection_id, region)
        account = self._account(connection)
        reader = self._reader(connection)
        listed = _listed(reader, region)
        connection.memory.remember(stream.name, scope.name, {_model_of(series) for series in listed})
        series = self._series_to_ask(connection, stream, scope, window, listed)
        yield from _records(account, region, reader.values(series, region, window))

    def _series_to_ask(
        self, connection: Connection, stream: Stream, scope: Scope, window: Window, listed: set[Series]
    ) -> list[Series]:
        """
        Return the series that can have a point in the window, each of which costs money to ask for.

        CloudWatch lists whatever had data in the last two weeks, metric by metric: for a younger window, the list is
        the answer, and no model of long ago is ever asked for again. Reaching further back, a model may be off the
        list, or on it with fewer metrics than it had then; so every metric of every model ever met is asked for.
        """
        if window.first >= self._today() - ONE_DAY * (LISTED_FOR_DAYS - CLOCK_MARGIN_DAYS):
            return sorted(listed)
        names = {_model_of(series) for series in listed}
        elsewhere = connection.memory.recall(stream.name, scope.name) | _configured_models(connection)
        if elsewhere <= names:
            connection.journal.notes.append(
                Note(
                    "history_limited",
                    f"{scope.name}: CloudWatch names only models that were used in the last two weeks. What was read "
                    f"from {window.first} on lacks models that were given up before.",
                    "If there were any, list their ids as model_ids in the connection and read those days again.",
                )
            )
        places = [_place_of(name) for name in names | elsewhere]
        return sorted(space.series(model_id, metric) for space, model_id in places if space for metric in space.metrics)

    def _reader(self, connection: Connection) -> CloudWatch:
        """Return what reads CloudWatch; it asks who we are in the connection's own region."""
        named = connection.options.get("region_name")
        home = named.strip() if isinstance(named, str) and named.strip() else _regions(connection)[0]
        return CloudWatch(connection, _checked_region(home, connection.connection_id), sleep=self._sleep)

    def _account(self, connection: Connection) -> str:
        """Return the account the key belongs to, asking once per client and never believing the connection alone."""
        expected = _expected_account(connection)
        account = self._accounts.get(connection.client)
        if account is None:
            account = self._reader(connection).account()
            self._accounts[connection.client] = account
        if expected:
            _compare_accounts(connection, account, expected)
        return account


PROVIDER = AwsBedrock()


def _records(account: str, region: str, values: Mapping[Series, Mapping[date, int]]) -> Iterator[Record]:
    """Yield one record per day and model that has a point, in a fixed order."""
    found: dict[tuple[date, str, str], dict[str, int]] = {}
    for series, days in values.items():
        for day, number in days.items():
            found.setdefault((day, series.namespace, series.value), {})[series.metric] = number
    for (day, namespace, model_id), metrics in sorted(found.items()):
        record = {
            "account_id": account,
            "region": region,
            "namespace": namespace,
            "model_id": model_id,
            "metrics": {name: metrics[name] for name in NAMESPACES[namespace].metrics if name in metrics},
        }
        yield Record(day, record)


def _listed(reader: CloudWatch, region: str) -> set[Series]:
    """Return the listed series that we read."""
    return {
        series
        for space in NAMESPACES.values()
        for series in reader.listed(region, space.name, space.dimension)
        if series.metric in space.metrics and series.value
    }


def _model_of(series: Series) -> str:
    """Return the name under which the series' model is remembered."""
    return remembered_name(series.namespace, series.value)


def remembered_name(namespace: str, model_id: str) -> str:
    """Return the name under which a model is remembered: namespace, ``|``, model id."""
    return f"{namespace}|{model_id}"


def _place_of(name: str) -> tuple[Namespace | None, str]:
    """Return the namespace and model id behind a remembered name; no namespace for one that we no longer read."""
    namespace, _, model_id = name.partition("|")
    return NAMESPACES.get(namespace), model_id


def _regions(connection: Connection) -> list[str]:
    """Return the regions the connection names, in its order."""
    value = connection.options.get("regions") or connection.options.get("region_name")
    regions = _names(value, "regions", connection.connection_id)
    if not regions:
        raise ConfigurationInvalid(
            "The connection names no region.",
            action='Add the regions to read to its extra, for example "regions": ["us-east-1", "eu-west-1"].',
            connection_id=connection.connection_id,
        )
    for region in regions:
        _checked_region(region, connection.connection_id)
    if twice := {region for region in regions if regions.count(region) > 1}:
        raise ConfigurationInvalid(
            f"The connection names {', '.join(sorted(twice))} more than once.",
            action="Name each region once.",
            connection_id=connection.connection_id,
        )
    return regions


def _checked_region(region: str, connection_id: str) -> str:
    """Return the region if it looks like one; it becomes part of a host name."""
    if not _REGION.fullmatch(region):
        raise ConfigurationInvalid(
            f"{region[:40]!r} is not a region.",
            action="Give regions by their code, such as us-east-1.",
            connection_id=connection_id,
        )
    return region


def _names(value: object, option: str, connection_id: str) -> list[str]:
    """Return a list of names that may also be written with commas."""
    items: object = value.split(",") if isinstance(value, str) else (value or [])
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ConfigurationInvalid(
            f"{option} is not a list of names.",
            action=f'Write it as a JSON list, for example "{option}": ["…", "…"], or with commas in one string.',
            connection_id=connection_id,
        )
    return [item.strip() for item in items if item.strip()]


def _configured_models(connection: Connection) -> set[str]:
    """Return the models the connection names, as they would be remembered; ``AWS/Bedrock`` goes without saying."""
    names = _names(connection.options.get("model_ids"), "model_ids", connection.connection_id)
    if any(len(name) > 1024 or not name.isprintable() or not name.isascii() for name in names):
        raise ConfigurationInvalid(
            "model_ids holds a name that cannot be a model id.",
            action="Give model ids as Bedrock spells them, such as anthropic.claude-3-haiku-20240307-v1:0.",
            connection_id=connection.connection_id,
        )
    return {name if _place_of(name)[0] else remembered_name(RUNTIME.name, name) for name in names}


def _expected_account(connection: Connection) -> str | None:
    """Return the account the connection is meant to read, where it says so."""
    value = connection.options.get("account_id")
    if value in (None, ""):
        return None
    account = str(value).strip().replace("-", "")
    if isinstance(value, (str, int)) and ACCOUNT_NUMBER.fullmatch(account):
        return account
    raise ConfigurationInvalid(
        "account_id is not an AWS account number.",
        action='Write its twelve digits as a string, for example "account_id": "123456789012".',
        connection_id=connection.connection_id,
    )


def _compare_accounts(connection: Connection, found: str, expected: str) -> None:
    """Refuse to file one account's usage under another's name."""
    if found != expected:
        raise WrongAccount(
            f"The key belongs to account {found}, the connection says {expected}.",
            action="Put a key of the right account into the connection, or correct account_id.",
            connection_id=connection.connection_id,
        )


def _questions(region: str) -> tuple[str, str]:
    """Return the names of a region's two permission checks."""
    return f"cloudwatch:ListMetrics in {region}", f"cloudwatch:GetMetricData in {region}"


def _unasked(regions: Iterable[str], reason: str) -> Iterator[Check]:
    for region in regions:
        for name in _questions(region):
            yield Check(name, None, f"Not asked, because {reason}.", scope=region)


def _found(region: str, models: set[str]) -> Check:
    name = f"usage in {region}"
    if models:
        return Check(name, True, f"{len(models)} models were used in the last two weeks.", scope=region)
    return Check(
        name,
        True,
        "Warning: CloudWatch lists no Bedrock metric here, so nothing was used in the last two weeks.",
        "If Bedrock is used in this account, check that this is the region it is called in.",
        "no_usage",
        region,
    )
