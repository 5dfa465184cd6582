"""
Azure OpenAI: daily usage per resource, deployment, model and region, from Azure Monitor.

Azure counts into metrics of each resource, minute by minute, and adds the minutes up to UTC days for 93 days. Reading
takes the role Monitoring Reader. Two families of metrics count the same tokens; both are read and kept under their own
names, and which of them counts is decided in dbt, deployment by deployment.

A record is one deployment on one day, with what the deployment was on that day::

    {"subscription_id": "11111111-…", "resource_group": "rg-ai", "resource_name": "aoai-prod", "location": "eastus2",
     "resource_id": "/subscriptions/11111111-…/resourceGroups/rg-ai/providers/…/aoai-prod", "deployment": "chat-4o",
     "deployed": {"model": "gpt-4o", "version": "2024-11-20", "format": "OpenAI", "sku": "GlobalStandard"},
     "series": [{"metric": "InputTokens", "model_name": "gpt-4o", "model_version": "2024-11-20", "region": "East US 2",
                 "total": 1284411}, …]}

``series`` holds only what is more than zero that day. Nothing is added up, renamed or resolved here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from ai_usage.core import options
from ai_usage.core.contract import Check, Connection, Note, Provider, Record, Scope, Stream
from ai_usage.core.drift import Drift
from ai_usage.core.errors import ConfigurationInvalid, CredentialRejected, PermissionMissing, UsageError
from ai_usage.core.slices import ONE_DAY, Window
from ai_usage.providers._azure import ROLE, NotFound
from ai_usage.providers._azure_openai import (
    ACCOUNTS,
    ACCOUNTS_VERSION,
    CACHE,
    FAMILIES,
    INPUT,
    OUTPUT,
    RESOURCES_VERSION,
    TOTAL,
    Batches,
    Deployed,
    Monitor,
    Point,
    Question,
    Resource,
    Span,
    on_day,
    place_of,
    unknown_kind,
)

DEPLOYMENTS = "deployments"
"""Under which deployments are remembered, one line for each thing that one has been."""
READABLE_DAYS = 93
DAYS_AT_ONCE = 30
CHECKED_RESOURCES = 20
"""How many resources a verification asks one by one."""
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_GROUP = re.compile(r"(?:/?subscriptions/([^/]+)/)?resourceGroups/([^/]{1,90})", re.IGNORECASE)
_NAME = re.compile(r"[\w.()-]{1,90}")


@dataclass
class _Known:
    """What has been found out through one client, so that it is asked for once."""

    resources: dict[str, Resource] = field(default_factory=dict)
    subscriptions: dict[str, str | None] | None = None
    listed: dict[str, list[Resource]] = field(default_factory=dict)
    questions: dict[str, list[Question]] = field(default_factory=dict)
    batches: Batches = field(default_factory=Batches)
    refused: set[str] = field(default_factory=set)
    deployments: dict[str, list[Deployed]] = field(default_factory=dict)


class AzureOpenAI(Provider):
    """
    Azure OpenAI through Azure Resource Manager and Azure Monitor.

    :param now: tells the moment; only tests give another.
    """

    name = "azure_openai"
    label = "Azure OpenAI"
    connection_type = "azure"
    client_kind = "azure"
    # As many as the batch API takes in one call.
    scopes_per_task = 50
    streams = (
        Stream(
            name="metrics",
            summary="one deployment's Azure Monitor metrics of one day",
            grain=("deployment",),
            fields=frozenset(
                {"subscription_id", "resource_group", "resource_name", "resource_id", "location", "deployment"}
                | {"deployed", "series"}
            ),
            # Points come within a quarter of an hour; no correction after that is documented.
            settle=timedelta(days=3),
            lookback_days=3,
            retention_days=READABLE_DAYS,
            # Wider spans have been seen to come back shorter than asked for.
            max_window_days=DAYS_AT_ONCE,
        ),
    )
    documentation: ClassVar[Mapping[str, str]] = {
        "Metrics of Azure OpenAI": (
            "https://learn.microsoft.com/azure/azure-monitor/reference/supported-metrics/"
            "microsoft-cognitiveservices-accounts-metrics"
        ),
        "Metrics, list": "https://learn.microsoft.com/rest/api/monitor/metrics/list",
        "Metrics, batch": "https://learn.microsoft.com/azure/azure-monitor/metrics/migrate-to-batch-api",
        "Monitoring Reader": (
            "https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/monitor#monitoring-reader"
        ),
    }
    if_empty = (
        "Check subscription and resource before connecting anew: the role must cover the resource whose "
        "endpoint is called."
    )
    revoke = (
        "Delete the app registration (or its client secret) in Microsoft Entra ID, and its role assignment "
        "Monitoring Reader."
    )
    reads = (
        "daily sums of Azure Monitor's metrics per deployment, model, version and region: tokens, requests by status, "
        "images",
        "the names of subscriptions, of Azure OpenAI and Azure AI Services resources, and of their deployments with model, "
        "version and SKU",
    )
    never_reads = (
        "prompts, completions, diagnostic logs and files",
        "keys of resources: the role may not list them",
        "costs, invoices and payment data",
        "who called: Azure Monitor does not know it",
    )

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()

    # ---------------------------------------------------------------- the three questions

    def check(self, connection: Connection) -> Iterator[Check]:
        """Verify the settings, the sign-in, what the role shows, then whether each resource's metrics may be read."""
        try:
            entries = _entries(connection)
            options.text(connection, "account_name")
        except UsageError as error:
            yield Check.failed("settings", error)
            return
        yield Check("settings", True, f"To read: {', '.join(entries) or 'every subscription that the role shows'}.")
        try:
            connection.client.sign_in()
        except UsageError as error:
            yield Check.failed("sign-in", error)
            yield Check("resources", None, "Not asked, because the sign-in failed.", "Correct the sign-in first.")
            return
        yield Check("sign-in", True, "Microsoft Entra accepts the client secret.")
        try:
            scopes = self.scopes(connection)
        except UsageError as error:
            yield Check.failed("resources", error)
            yield Check(
                "metrics", None, "Not asked, because no resource was found.", "Correct the role or scopes first."
            )
            return
        shown = ", ".join(scope.name.rpartition("/")[2] for scope in scopes[:CHECKED_RESOURCES])
        yield Check(
            "resources", True, f"{len(scopes)} found: {shown}{', …' if len(scopes) > CHECKED_RESOURCES else ''}."
        )
        resources = self._of(connection).resources
        siblings = [one for scope in scopes[:CHECKED_RESOURCES] if (one := resources[scope.name]).location]
        for scope in scopes[:CHECKED_RESOURCES]:
            yield from self._check_resource(connection, scope, siblings)

    def _check_resource(self, connection: Connection, scope: Scope, siblings: Sequence[Resource]) -> Iterator[Check]:
        """Verify that a resource's metrics and deployments may be read, and look for usage."""
        today = self._now().date()
        window = Window(today - ONE_DAY * (DAYS_AT_ONCE - 1), today)
        try:
            resource = self._resource(connection, scope)
            used = {point.day for point in self._points(connection, resource, window, siblings)}
        except UsageError as error:
            yield Check.failed(f"metrics of {scope.name}", error, scope.name)
            return
        told = f"Allowed. Something was used on {len(used)} of the last {DAYS_AT_ONCE} days."
        if used:
            yield Check(f"metrics of {scope.name}", True, told, scope=scope.name)
        else:
            yield Check(
                f"metrics of {scope.name}",
                True,
                f"Warning: nothing was used in the last {DAYS_AT_ONCE} days.",
                "If it is used, check that this is the resource whose endpoint is called.",
                "no_usage",
                scope.name,
            )
        try:
            self._list_deployments(connection, resource)
        except UsageError as error:
            warning = f"Warning: {error.happened} Usage is read all the same; some of it may lack its model."
            yield Check(f"deployments of {scope.name}", True, warning, error.action, error.kind, scope.name)
        else:
            yield Check(f"deployments of {scope.name}", True, "Allowed.", scope=scope.name)

    def scopes(self, connection: Connection) -> Sequence[Scope]:
        """
        Return one scope per resource; each can fail alone.

        A resource that is named by its id is one even if it cannot be seen. What is named otherwise has to be found.
        """
        account_name = options.text(connection, "account_name")
        found: dict[str, Resource] = {}
        for entry in _entries(connection) or self._subscriptions(connection):
            for resource in self._resolve(connection, entry):
                found[resource.scope] = resource
        if not found:
            raise PermissionMissing(
                "The service principal sees no Azure OpenAI resource: there is none, or its role does not reach it.",
                permission="Microsoft.CognitiveServices/accounts/read",
                action=ROLE,
                connection_id=connection.connection_id,
            )
        known = self._of(connection)
        known.resources = dict(sorted(found.items()))
        names = {} if account_name else self._subscriptions(connection)
        return [
            Scope(scope, one.subscription, account_name or names.get(one.subscription), one.location)
            for scope, one in known.resources.items()
        ]

    def extract(
        self,
        connection: Connection,
        stream: Stream,  # noqa: ARG002 - there is one only
        scope: Scope,
        window: Window,
    ) -> Iterator[Record]:
        """
        Yield one record per day and deployment that has at least one point, by day and name.

        Nothing is yielded before every metric is known to be complete.
        """
        today = self._now().date()
        if window.first > today:
            return
        window = Window(window.first, min(window.last, today))
        if window.first < today - ONE_DAY * (READABLE_DAYS - 1):
            raise ConfigurationInvalid(
                f"Azure Monitor keeps {READABLE_DAYS} days; {window.first} is older.",
                action="Ask for a later first day.",
            ).at(connection.connection_id, scope.name)
        resource = self._resource(connection, scope)
        siblings = [one for one in self._of(connection).resources.values() if one.location]
        drift = Drift("Azure Monitor")
        points = self._points(connection, resource, window, siblings, drift)
        if place_of(resource) in self._of(connection).refused:
            # What is told apart less today may be told tomorrow: such days are read again, however old they are.
            connection.journal.unsettled.update(window.days)
        history = self._deployments(connection, scope, resource) if points else []
        _tell_what_differs(connection, points)
        drift.tell(connection.journal)
        found: dict[tuple[date, str], list[Mapping[str, Any]]] = {}
        for point in points:
            found.setdefault((point.day, point.deployment), []).append(point.series)
        for (day, deployment), series in sorted(found.items()):
            record = {
                "subscription_id": resource.subscription,
                "resource_group": resource.group,
                "resource_name": resource.name,
                "resource_id": resource.id,
                "location": resource.location,
                "deployment": deployment,
                "series": sorted(series, key=_in_order),
            }
            deployed = on_day(history, day).get(deployment)
            yield Record(day, record | {"deployed": deployed.as_record()} if deployed else record)

    # ---------------------------------------------------------------- finding resources

    def _of(self, connection: Connection) -> _Known:
        return self._known.setdefault(connection.client, _Known())

    def _subscriptions(self, connection: Connection) -> dict[str, str | None]:
        """Return id → name of every subscription that the role shows any part of."""
        known = self._of(connection)
        if known.subscriptions is None:
            items = connection.client.list_json("subscriptions", {"api-version": "2022-12-01"})
            known.subscriptions = {
                str(item["subscriptionId"]).lower(): str(item.get("displayName") or "")[:200] or None
                for item in items
                if _GUID.fullmatch(str(item.get("subscriptionId")).lower())
            }
        return known.subscriptions

    def _resolve(self, connection: Connection, entry: str) -> Sequence[Resource]:
        """Return the resources behind one entry of ``scopes``."""
        if resource := Resource.of_id(entry):
            try:
                return [self._get(connection, resource)]
            except (PermissionMissing, NotFound):
                return [resource]  # its own reading will fail with the reason
        if _GUID.fullmatch(entry):
            return self._listed(connection, f"subscriptions/{entry}")
        if group := _GROUP.fullmatch(entry):
            subscription = (group[1] or options.text(connection, "subscriptionId") or "").lower()
            return self._listed(connection, f"subscriptions/{subscription}/resourceGroups/{group[2]}")
        home = options.text(connection, "subscriptionId")
        everywhere = [home.lower()] if home else list(self._subscriptions(connection))
        visible = [one for id_ in everywhere for one in self._listed(connection, f"subscriptions/{id_}")]
        return self._named(connection, entry, visible)

    def _named(self, connection: Connection, entry: str, visible: Sequence[Resource]) -> Sequence[Resource]:
        """Return what a bare name means: a resource, or else a resource group."""
        resources = [one for one in visible if one.name.lower() == entry.lower()]
        groups = [one for one in visible if one.group.lower() == entry.lower()]
        places = {one.scope for one in resources} | {f"{one.subscription}/{one.group}".lower() for one in groups}
        if len(places) == 1:
            return resources or groups
        several = f"{entry!r} may be any of {', '.join(sorted(places))}."
        none = f"The service principal sees no resource and no resource group called {entry!r}."
        raise ConfigurationInvalid(
            several if places else none,
            action="Write the whole id into scopes, or resourceGroups/<name> for a group." if places else ROLE,
            connection_id=connection.connection_id,
        )

    def _listed(self, connection: Connection, place: str) -> Sequence[Resource]:
        """Return the resources that serve models in a subscription or a group, as far as the role reaches."""
        known = self._of(connection).listed
        if place.lower() in known:
            return known[place.lower()]
        path = f"{place}/providers/{ACCOUNTS}"
        try:
            items = connection.client.list_json(path, {"api-version": ACCOUNTS_VERSION})
        except PermissionMissing:
            # With a role on single resources only: this list has what the role shows, perhaps nothing.
            path = f"{place}/resources"
            params = {"api-version": RESOURCES_VERSION, "$filter": f"resourceType eq '{ACCOUNTS}'"}
            items = connection.client.list_json(path, params)
        found = [Resource.of_item(path, item) for item in items]
        known[place.lower()] = [one for one in found if one.serves_models]
        return known[place.lower()]

    def _get(self, connection: Connection, resource: Resource) -> Resource:
        item = connection.client.get_json(resource.id, {"api-version": ACCOUNTS_VERSION}, expect=("id",))
        return Resource.of_item(resource.id, item)

    def _resource(self, connection: Connection, scope: Scope) -> Resource:
        """Return the resource behind a scope, located."""
        resource = self._of(connection).resources.get(scope.name)
        if resource is None:
            subscription, group, name = scope.name.split("/")
            resource = Resource(subscription, group, name)
        if resource.location is None:
            resource = self._get(connection, resource)
            self._of(connection).resources[scope.name] = resource
        if not resource.serves_models:
            raise unknown_kind(resource).at(connection.connection_id, scope.name)
        return resource

    # ---------------------------------------------------------------- what is behind the numbers

    def _points(
        self,
        connection: Connection,
        resource: Resource,
        window: Window,
        siblings: Sequence[Resource],
        drift: Drift | None = None,
    ) -> list[Point]:
        known = self._of(connection)
        monitor = Monitor(connection.client, known.questions, known.batches, known.refused)
        return monitor.points(resource, Span(window, self._now()), drift or Drift("Azure Monitor"), siblings)

    def _list_deployments(self, connection: Connection, resource: Resource) -> list[Deployed]:
        """Return what the resource's deployments are today."""
        known = self._of(connection).deployments
        if resource.scope not in known:
            path = f"{resource.id}/deployments"
            items = connection.client.list_json(path, {"api-version": ACCOUNTS_VERSION})
            known[resource.scope] = [Deployed.of_item(path, item, self._now().date()) for item in items]
        return known[resource.scope]

    def _deployments(self, connection: Connection, scope: Scope, resource: Resource) -> list[Deployed]:
        """
        Return everything that deployments are known to have been, those that are deleted by now included.

        Numbers matter more than what stands behind them: where the list cannot be had, that of earlier runs serves.
        """
        memory = connection.memory
        history = [Deployed.recalled(line) for line in memory.recall(DEPLOYMENTS, scope.name)]
        try:
            current = self._list_deployments(connection, resource)
        except CredentialRejected:
            raise
        except UsageError as error:
            note = f"The deployments of {resource.name} cannot be listed: {error.happened}"
            connection.journal.notes.append(Note("names_unavailable", note, error.action))
            return history
        latest = on_day(history, date.max)
        news = [one for one in current if not one.says_the_same(latest.get(one.deployment))]
        memory.remember(DEPLOYMENTS, scope.name, [one.remembered() for one in news])
        return history + news


PROVIDER = AzureOpenAI()


def _entries(connection: Connection) -> list[str]:
    """
    Return the entries of ``scopes`` in their one spelling, or the subscription; nothing for whatever the role shows.

    :raises ConfigurationInvalid: if one of them cannot be what it should be.
    """
    value = connection.options.get("scopes")
    items: object = value.split(",") if isinstance(value, str) else (value or [])
    home = (options.text(connection, "subscriptionId") or "").lower()
    problem = None
    if home and not _GUID.fullmatch(home):
        problem = "subscriptionId is not the id of a subscription."
    elif not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        problem = "scopes is not a list of names."
    entries = [_spelled(item.strip()) for item in items if item.strip()] if problem is None else []  # type: ignore[attr-defined]
    for entry in entries:
        group = _GROUP.fullmatch(entry)
        if group and not _GUID.fullmatch(group[1].lower() if group[1] else home):
            problem = f"It takes subscriptionId to know where the resource group {group[2]!r} is."
        elif not group and not Resource.of_id(entry) and not _NAME.fullmatch(entry):
            problem = f"{entry[:80]!r} in scopes is neither a resource, nor a resource group, nor a subscription."
    if problem:
        raise ConfigurationInvalid(
            problem,
            action='Give names or ids, for example "scopes": ["aoai-prod", "resourceGroups/rg-ai"].',
            connection_id=connection.connection_id,
        )
    return entries or ([home] if home else [])


def _spelled(entry: str) -> str:
    """Return an entry without a closing slash; a subscription as its id alone."""
    entry = entry.rstrip("/")
    subscription = re.sub(r"^/?subscriptions/(?=[^/]+$)", "", entry, flags=re.IGNORECASE).lower()
    return subscription if _GUID.fullmatch(subscription) else entry


def _in_order(series: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(series.get(name, "")) for name in ("metric", "model_name", "model_version", "region", "status"))


def _tell_what_differs(connection: Connection, points: Sequence[Point]) -> None:
    """
    Leave a note on deployments whose two families, or whose parts and total, do not say the same.

    Days on which the families differ stay open: one of the two is wrong, and may be put right.
    """
    sums: dict[tuple[date, str], dict[str, int]] = {}
    for day, deployment, series in points:
        totals = sums.setdefault((day, deployment), {})
        totals[series["metric"]] = totals.get(series["metric"], 0) + series["total"]
    apart, odd = set(), set()
    for (day, deployment), totals in sums.items():
        for new, classic in FAMILIES:
            if new in totals and classic in totals and abs(totals[new] - totals[classic]) * 100 > totals[new]:
                apart.add(deployment)
                connection.journal.unsettled.add(day)
        counted = [next((totals[name] for name in family if name in totals), 0) for family in (INPUT, OUTPUT, TOTAL)]
        parts = counted[0] + counted[1]
        if counted[2] not in (0, parts, parts + sum(totals.get(name, 0) for name in CACHE)):
            odd.add(deployment)
    for names, kind, message in (
        (apart, "families_differ", "The new and the classic metrics differ by more than 1 %: {}. The new ones count."),
        (odd, "parts_differ", "Input and output do not add up to the total: {}. The marts count input and output."),
    ):
        if names:
            told = message.format(", ".join(sorted(names)))
            action = "Compare with the resource's Metrics page in the Azure portal and report it."
            connection.journal.notes.append(Note(kind, told, action))
