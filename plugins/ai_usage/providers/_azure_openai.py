"""
What Azure Monitor counts about Azure OpenAI resources, and how much of its answers may be believed.

One question is one set of metrics that can be split alike, over whole UTC days::

    GET /subscriptions/…/accounts/aoai-prod/providers/Microsoft.Insights/metrics?metricnames=InputTokens,OutputTokens
        &timespan=2026-08-03T00:00:00Z/2026-08-06T00:00:00Z&interval=P1D&aggregation=Total&top=10000
        &$filter=ModelDeploymentName eq '*' and ModelName eq '*' and …

The answer has a time series per combination of those dimensions. Whatever leaves a doubt whether it is complete (another
time span, a metric that failed inside the answer, as many series as were allowed) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import dropwhile
from typing import Any, NamedTuple

from ai_usage.core.drift import Drift
from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.core.slices import Window
from ai_usage.providers._azure import AzureClient, QueryRefused, invalid

ACCOUNTS = "Microsoft.CognitiveServices/accounts"
KINDS = frozenset({"openai", "aiservices"})
"""Kinds of resources that serve models; others (Speech, Vision, …) count something else."""
ACCOUNTS_VERSION = "2025-09-01"
RESOURCES_VERSION = "2021-04-01"
METRICS_VERSION = "2024-02-01"
TOP = 10_000
"""How many time series an answer may hold. Without it Azure Monitor sends ten and says nothing."""
NAMES_AT_ONCE = 20
RESOURCES_AT_ONCE = 50
EMPTY = "__Empty"
"""What Azure Monitor calls the value of a dimension that a request did not have."""

INPUT, OUTPUT, TOTAL, REQUESTS = (
    ("InputTokens", "ProcessedPromptTokens"),
    ("OutputTokens", "GeneratedTokens"),
    ("TotalTokens", "TokenTransaction"),
    ("ModelRequests", "AzureOpenAIRequests"),
)
"""The same count in the new and in the classic family of metrics: alternatives, never to be added up."""
FAMILIES = (INPUT, OUTPUT, TOTAL, REQUESTS)
CACHE = ("cacheReadInputTokens", "ephemeral5mInputTokens", "ephemeral1hInputTokens")
METRICS = (*(name for family in FAMILIES for name in family), *CACHE, "GeneratedImages")
DIMENSIONS: Mapping[str, str] = {
    "ModelDeploymentName": "deployment",
    "ModelName": "model_name",
    "ModelVersion": "model_version",
    "Region": "region",
    "StatusCode": "status",
}
"""The dimensions that are told apart, and what each is called in a record."""

_RESOURCE_ID = re.compile(
    r"/subscriptions/([0-9a-f-]{36})/resourceGroups/([^/]{1,90})/providers/Microsoft\.CognitiveServices/accounts/([^/]{2,64})",
    re.IGNORECASE,
)
_LARGEST_COUNT = 2**63 - 1
_LONGEST_NAME = 256
_METRIC_KEYS = frozenset(
    {"id", "type", "name", "displayDescription", "unit", "timeseries", "errorCode", "errorMessage", "resourceGroup"}
)

Json = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """
    An Azure OpenAI or Azure AI Services resource.

    :param location: the short name of its region; ``None`` while it could not be asked for.
    """

    subscription: str
    group: str
    name: str
    location: str | None = None
    kind: str | None = None

    @property
    def id(self) -> str:
        """Its id; Azure does not tell capital from small letters in it."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/{ACCOUNTS}/{self.name}"

    @property
    def scope(self) -> str:
        """Its name in the ledger: the same however anybody spells it."""
        return f"{self.subscription}/{self.group}/{self.name}".lower()

    @classmethod
    def of_id(cls, text: str) -> Resource | None:
        """Return the resource that an id names, or ``None`` if it names something else."""
        found = _RESOURCE_ID.fullmatch(text.rstrip("/"))
        return cls(found[1].lower(), found[2], found[3]) if found else None

    @classmethod
    def of_item(cls, path: str, item: Json) -> Resource:
        """Return what an item of a list, or a resource itself, is about."""
        resource = cls.of_id(str(item.get("id")))
        location, kind = str(item.get("location") or ""), item.get("kind")
        if resource is None or not re.fullmatch(r"[A-Za-z0-9 ]{2,40}", location) or not isinstance(kind, str):
            raise invalid(path, "a resource has no usable id, location or kind")
        return replace(resource, location=location.replace(" ", "").lower(), kind=kind)

    @property
    def serves_models(self) -> bool:
        """Whether it is of a kind that counts tokens."""
        return (self.kind or "").lower() in KINDS


class Point(NamedTuple):
    """One metric of one combination of dimensions on one day; never zero."""

    day: date
    deployment: str
    series: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """Metrics that can be asked for together, because they know the same dimensions."""

    metrics: tuple[str, ...]
    dimensions: tuple[str, ...]

    @property
    def filter(self) -> str:
        """What splits the sums: every value of every dimension."""
        return " and ".join(f"{name} eq '*'" for name in self.dimensions)

    def params(self) -> Json:
        """Return what the plain and the batch API are told alike."""
        return {
            "api-version": METRICS_VERSION,
            "metricnamespace": ACCOUNTS,
            "metricnames": ",".join(self.metrics),
            "interval": "P1D",
            "aggregation": "Total",
            "top": TOP,
        }

    def narrowed(self, refused: QueryRefused) -> Question | None:
        """Return what Azure Monitor says it would answer of the question, or ``None`` if that is no way out."""
        metrics, dimensions = self.metrics, self.dimensions
        if refused.metrics:
            metrics = tuple(name for name in metrics if name in refused.metrics)
        if refused.dimensions:
            known = {name.lower() for name in refused.dimensions}
            dimensions = tuple(name for name in dimensions if name.lower() in known)
        smaller = Question(metrics, dimensions)
        return smaller if dimensions[:1] == ("ModelDeploymentName",) and smaller != self else None


def questions(definitions: Sequence[Json], path: str) -> list[Question]:
    """
    Return what to ask, from what Azure Monitor says it has: the fewest questions, each split as far as it can be.

    The classic token metrics, for one, know no ModelName, and only requests know a status.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for definition in definitions:
        name = _value(definition.get("name"))
        if name in METRICS:
            has = {_value(one).lower() for one in definition.get("dimensions") or ()}
            # Only requests are worth splitting by status.
            wanted = [one for one in DIMENSIONS if one != "StatusCode" or name in REQUESTS]
            if "modeldeploymentname" in has:
                groups.setdefault(tuple(one for one in wanted if one.lower() in has), []).append(name)
    if not any(name in (*INPUT, *REQUESTS) for names in groups.values() for name in names):
        raise invalid(path, "it lists no metric of tokens or requests")
    return [
        Question(tuple(some), dimensions)
        for dimensions, names in groups.items()
        for names_in_order in [sorted(names, key=METRICS.index)]
        for start in range(0, len(names), NAMES_AT_ONCE)
        if (some := names_in_order[start : start + NAMES_AT_ONCE])
    ]


@dataclass(frozen=True)
class Span:
    """
    Whole UTC days, the last of which may not be over.

    :param now: the present moment: Azure Monitor is not asked about the future.
    """

    window: Window
    now: datetime

    @property
    def start(self) -> datetime:
        """Midnight: bins of a day begin wherever the time span does."""
        return datetime.combine(self.window.first, datetime.min.time(), UTC)

    @property
    def end(self) -> datetime:
        """The moment before which everything lies, in whole minutes."""
        midnight = datetime.combine(self.window.last, datetime.min.time(), UTC) + timedelta(days=1)
        soon = max(self.now.replace(second=0, microsecond=0), self.start + timedelta(minutes=1))
        return min(midnight, soon)

    def texts(self) -> tuple[str, str]:
        """Return start and end as Azure Monitor reads them."""
        return tuple(moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (self.start, self.end))  # type: ignore[return-value]

    def check(self, path: str, start: Any, end: Any) -> None:
        """Refuse an answer about another time: Azure Monitor shortens spans that it finds too long."""
        if (_moment(path, start), _moment(path, end)) != (self.start, self.end):
            raise invalid(path, "it is about another time than was asked for")


@dataclass
class Batches:
    """
    Answers about several resources, for a client that reads several.

    Who reads one resource asks the plain API. Once a second one of the same place and time is read, the batch API, which
    takes fifty at once, is asked for it and all that may follow; if it refuses, the plain API serves as well.
    """

    begun: dict[Any, set[str]] = field(default_factory=dict)
    answers: dict[tuple[Any, str], Json] = field(default_factory=dict)
    is_refused: bool = False


def place_of(resource: Resource) -> str:
    """Return what resources have in common that know the same metrics."""
    return f"{resource.kind}/{resource.location}".lower()


class Monitor:
    """Asks Azure Monitor for the daily sums of resources."""

    def __init__(
        self, client: AzureClient, definitions: dict[str, list[Question]], batches: Batches, refused: set[str]
    ) -> None:
        """
        Take what has been found out so far, and add to it.

        :param refused: places where Azure Monitor refused something that it defines.
        """
        self._client = client
        self._refused = refused
        self._definitions = definitions
        self._batches = batches

    def questions(self, resource: Resource) -> list[Question]:
        """Return what can be asked about resources of this kind in this region; new metrics come to one after another."""
        place = place_of(resource)
        if place not in self._definitions:
            path = f"{resource.id}/providers/Microsoft.Insights/metricDefinitions"
            found = self._client.list_json(path, {"api-version": METRICS_VERSION, "metricnamespace": ACCOUNTS})
            self._definitions[place] = questions(found, path)
        return self._definitions[place]

    def points(self, resource: Resource, span: Span, drift: Drift, siblings: Iterable[Resource]) -> list[Point]:
        """Return every day's points of a resource that are more than nothing."""
        found: dict[tuple[Any, ...], Point] = {}
        for question in list(self.questions(resource)):
            answer = self._from_batch(resource, question, span, siblings)
            asked, answer = (question, answer) if answer else self._ask(resource, question, span, drift)
            for point in _points(resource.id, asked, answer, span, drift):
                named = (point.series.get(name) for name in ("metric", *DIMENSIONS.values()))
                if found.setdefault((point.day, point.deployment, *named), point) != point:
                    raise invalid(resource.id, "one time series has two different numbers on one day")
        return list(found.values())

    def _ask(self, resource: Resource, question: Question, span: Span, drift: Drift) -> tuple[Question, Json]:
        """Ask the plain API, and if it says in a refusal what it would have answered, that; perhaps nothing is left."""
        start, end = span.texts()
        path = f"{resource.id}/providers/Microsoft.Insights/metrics"
        while True:
            params = question.params() | {"timespan": f"{start}/{end}", "$filter": question.filter}
            try:
                answer = self._client.get_json(path, params, expect=("timespan", "value"))
            except QueryRefused as refused:
                question = self._narrowed(resource, question, refused, drift)
                if not question.metrics:
                    return question, {"value": []}
                continue
            told_start, _, told_end = str(answer["timespan"]).partition("/")
            span.check(path, told_start, told_end)
            return question, answer

    def _narrowed(self, resource: Resource, question: Question, refused: QueryRefused, drift: Drift) -> Question:
        """Return what is left of a question, and put that from now on; raise the refusal if it shows no way out."""
        smaller = question.narrowed(refused)
        rest = [one for one in self.questions(resource) if one != question]
        if smaller is None or not (rest or smaller.metrics):
            raise refused
        self._definitions[place_of(resource)] = rest + [smaller] * bool(smaller.metrics)
        self._refused.add(place_of(resource))
        lost = {*question.metrics, *question.dimensions} - {*smaller.metrics, *smaller.dimensions}
        drift.remark(f"Azure Monitor defines {', '.join(sorted(lost))} but refuses to tell; the rest is read.")
        return smaller

    def _from_batch(
        self, resource: Resource, question: Question, span: Span, siblings: Iterable[Resource]
    ) -> Json | None:
        """Return the answer of the batch API, or ``None`` where it does not apply."""
        place = (resource.subscription, resource.location, (resource.kind or "").lower(), question, span.window)
        if (known := self._batches.answers.pop((place, resource.scope), None)) is not None:
            return known
        begun = self._batches.begun.setdefault(place, set())
        is_first = not begun
        begun.add(resource.scope)
        if is_first or self._batches.is_refused or resource.location is None:
            return None
        # Those that follow in the order in which they are read: another task may read the ones before.
        following = dropwhile(lambda one: one.scope != resource.scope, siblings)
        alike = [
            one
            for one in following
            if (one.subscription, one.location, (one.kind or "").lower()) == place[:3] and one.scope not in begun
        ]
        chosen = [resource, *alike][:RESOURCES_AT_ONCE]
        try:
            answers = self._ask_batch(chosen, question, span)
        except UsageError:
            # It takes a role on the whole subscription. The plain API gives the same, or the reason why not.
            self._batches.is_refused = True
            return None
        begun |= {one.scope for one in chosen}
        self._batches.answers.update({(place, scope): answer for scope, answer in answers.items()})
        return self._batches.answers.pop((place, resource.scope), None)

    def _ask_batch(self, chosen: Sequence[Resource], question: Question, span: Span) -> dict[str, Json]:
        """Return the complete answers among those of a batch, by scope."""
        start, end = span.texts()
        path = f"subscriptions/{chosen[0].subscription}/metrics:getBatch"
        answer = self._client.batch_json(
            chosen[0].location or "",
            path,
            {"resourceids": [one.id for one in chosen]},
            question.params() | {"starttime": start, "endtime": end, "filter": question.filter},
            expect=("values",),
        )
        wanted = {one.id.lower(): one.scope for one in chosen}
        complete: dict[str, Json] = {}
        series = 0
        for one in answer["values"] if isinstance(answer["values"], list) else ():
            scope = wanted.get(str(one.get("resourceid")).lower()) if isinstance(one, dict) else None
            if scope is None:
                continue
            try:
                span.check(path, one.get("starttime"), one.get("endtime"))
                _points(path, question, one, span, Drift(path))
            except UsageError:
                continue  # the plain API is asked, and says what is wrong
            complete[scope] = one
            series += sum(len(metric["timeseries"]) for metric in one["value"])
        if series >= TOP:
            raise invalid(path, "it may have been cut")
        return complete


def _points(path: str, question: Question, answer: Json, span: Span, drift: Drift) -> list[Point]:
    """Return the points of an answer; refuse one that is not complete."""
    if answer.get("interval", "P1D") != "P1D" or not isinstance(answer.get("value"), list):
        raise invalid(path, "it is not in days")
    metrics = {_value(metric.get("name")): metric for metric in answer["value"] if isinstance(metric, dict)}
    lacking = [name for name in question.metrics if name not in metrics]
    if lacking:
        raise invalid(path, f"{lacking[0]} is missing from it")
    points: list[Point] = []
    for name in question.metrics:
        metric = metrics[name]
        code = metric.get("errorCode", "Success")
        if code != "Success":
            shown = code if isinstance(code, str) and re.fullmatch(r"[A-Za-z]{1,60}", code) else "an error"
            raise invalid(path, f"{name} could not be given ({shown})")
        series = metric.get("timeseries")
        if not isinstance(series, list):
            raise invalid(path, f"{name} has no time series")
        if len(series) >= TOP:
            raise invalid(path, f"{name} has {TOP} time series or more, so that some may be missing")
        drift.drop(metric.keys() - _METRIC_KEYS)
        for one in series:
            points += _points_of(path, name, question, one, span)
    return points


def _points_of(path: str, metric: str, question: Question, series: Any, span: Span) -> Iterable[Point]:
    if not isinstance(series, dict) or not isinstance(series.get("data"), list):
        raise invalid(path, f"a time series of {metric} has no data")
    # Azure Monitor writes the names of dimensions in small letters, and in no fixed order.
    told = {_value(one.get("name")).lower(): one.get("value") for one in series.get("metadatavalues") or () if one}
    named: Json = {"metric": metric}
    for dimension in question.dimensions:
        value = told.get(dimension.lower())
        if value not in (None, "", EMPTY):
            named[DIMENSIONS[dimension]] = _text(path, dimension, value)
    deployment = named.pop("deployment", EMPTY)
    for point in series["data"]:
        moment = _moment(path, point.get("timeStamp") if isinstance(point, dict) else None)
        if moment.time() != datetime.min.time():
            raise invalid(path, "a day of it does not begin at midnight UTC")
        count = _count(path, metric, point.get("total"))
        # A zero is dropped like a point without a number: whether there is one depends on what else the time span holds.
        if count and moment.date() in span.window:
            yield Point(moment.date(), deployment, named | {"total": count})


def _value(node: Any) -> str:
    """Return the value of a node ``{"value": …, "localizedValue": …}``; the latter is for people."""
    value = node.get("value") if isinstance(node, dict) else None
    return value if isinstance(value, str) else ""


def _moment(path: str, text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise invalid(path, "a time in it is none") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _count(path: str, metric: str, value: Any) -> int:
    """Return a count; nothing is none. Azure Monitor writes whole numbers with a fraction of zero."""
    if value is None:
        return 0
    if isinstance(value, Decimal) and value.is_finite() and abs(value) <= _LARGEST_COUNT and value == int(value):
        value = int(value)
    if type(value) is not int or not 0 <= value <= _LARGEST_COUNT:
        raise invalid(path, f"a sum of {metric} is not a count")
    return value


def _text(path: str, name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise invalid(path, f"a {name} is not a name")
    return value


@dataclass(frozen=True)
class Deployed:
    """
    What a deployment has been since a day, as the list of deployments said on that day.

    :param sku: how it is sold: ``GlobalStandard``, ``ProvisionedManaged``, …
    """

    deployment: str
    since: date
    model: str | None
    version: str | None
    format: str | None
    sku: str | None

    @classmethod
    def of_item(cls, path: str, item: Json, today: date) -> Deployed:
        """Read an item of the list of deployments."""
        properties = item.get("properties")
        model = properties.get("model") if isinstance(properties, dict) else None
        if not isinstance(item.get("name"), str) or not isinstance(model, dict):
            raise invalid(path, "a deployment has no name or no model")
        texts = [model.get("name"), model.get("version"), model.get("format"), (item.get("sku") or {}).get("name")]
        known = [_text(path, "model", text) if text not in (None, "") else None for text in texts]
        return cls(_text(path, "deployment", item["name"]), today, *known)

    def remembered(self) -> str:
        """Return it as one line."""
        return "|".join([self.deployment, self.since.isoformat(), *(text or "" for text in self._what)])

    @classmethod
    def recalled(cls, line: str) -> Deployed:
        """Return what a line remembers."""
        deployment, since, *texts = line.split("|", 5)
        return cls(deployment, date.fromisoformat(since), *(text or None for text in texts))

    @property
    def _what(self) -> tuple[str | None, ...]:
        return self.model, self.version, self.format, self.sku

    def says_the_same(self, other: Deployed | None) -> bool:
        """Whether the other tells of the same model under the same terms."""
        return other is not None and self._what == other._what

    def as_record(self) -> Json:
        """Return what a record of a day holds of it."""
        told = {"model": self.model, "version": self.version, "format": self.format, "sku": self.sku}
        return {name: text for name, text in told.items() if text is not None}


def on_day(history: Iterable[Deployed], day: date) -> Mapping[str, Deployed]:
    """
    Return what each deployment was on a day.

    Before the first day that anyone looked, it is taken to have been what it was then.
    """
    found: dict[str, Deployed] = {}
    for one in sorted(history, key=lambda one: one.since):
        if one.since <= day or one.deployment not in found:
            found[one.deployment] = one
    return found


def unknown_kind(resource: Resource) -> ConfigurationInvalid:
    """Return why a resource of another kind is not read."""
    return ConfigurationInvalid(
        f"{resource.name} is a resource of kind {(resource.kind or '')[:40]!r}, which serves no models.",
        action="Take it out of scopes: resources of kind OpenAI and AIServices are read.",
    )
