"""
Azure as a service principal meets it: Microsoft Entra's token endpoint, Azure Resource Manager, Azure Monitor, plain and
in batches. Roles are enforced where Azure enforces them.

``/login`` stands for the one host, ``/arm`` for the second, ``/metrics/<region>`` for those of the batch API. Its own
faults, beside those of :mod:`sandbox.faults` (of which ``invalid_credentials``, ``expired_token`` and ``access_denied``
mean the secret or the sign-in on the operation ``token``, and the token or the role on all others):

======================  ================================================================================================
kind                    what happens
======================  ================================================================================================
bare_throttling         429 without ``Retry-After``
short_tokens            tokens that expire within the hour's last five minutes
not_found               404, as for what was deleted
small_pages             lists come in pages of ``size`` (1)
page_twice              every page of a list comes twice
cursor_loop             the next page is the same page, for ever
foreign_link            the next page is on another host
fewer_metrics           metrics of the new family are refused, although they are defined
fewer_dimensions        the dimension ModelName is refused, although it is defined
metric_failed           one metric failed, inside an answer that did not
metric_missing          one metric is left out
shorter_span            the answer begins a day later, and says so
noon_bins               days begin at noon
contradicting_series    a series comes twice, with other numbers
series_twice            a series comes twice
odd_number              a sum with a fraction
at_top                  as many series as were allowed
families_differ         the classic family counts a tenth less
unknown_fields          metrics and series have fields that no document names
batch_as_text           the batch API answers with JSON in a JSON string
batch_partial           the batch API leaves the last resource out
======================  ================================================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import quote

from sandbox.contract import UNKNOWN, Call, Frame, Simulator
from sandbox.faults import FaultsInForce
from sandbox.http import Request, Response
from sandbox.truth import days_between
from sandbox.truth.azure_openai import (
    CACHES,
    FLEET,
    LAB,
    LAB_EAST,
    LAB_NORTH,
    PROD,
    PRODUCTION,
    PROVIDER,
    READABLE_DAYS,
    RESEARCH,
    RESOURCES,
    STATUSES,
    SUBSCRIPTIONS,
    AzureOpenAITruth,
    Resource,
    Use,
)

TENANT = "aaaaaaaa-0000-4000-8000-00000000000a"
EXPIRED_SECRET = "sandbox~expired~secret~0000000000000000"
DEFAULT_TOP = 10
NAMES_AT_MOST, RESOURCES_AT_MOST = 20, 50
ARM, BATCH = "https://management.azure.com", "https://metrics.monitor.azure.com"
_TOKEN_DIMENSIONS = ("ApiName", "ModelDeploymentName", "FeatureName", "UsageChannel", "Region", "ModelVersion")
_NEW_DIMENSIONS = ("ApiName", "Region", "ModelDeploymentName", "ModelName", "ModelVersion")
_REQUEST_DIMENSIONS = ("ApiName", "OperationName", "Region", "StreamType", *_NEW_DIMENSIONS[2:], "StatusCode")
Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A metric: the family it belongs to, its dimensions, and the parts of a use's day that it is the sum of."""

    family: str
    dimensions: tuple[str, ...]
    parts: tuple[str, ...]


METRICS: Mapping[str, Metric] = {
    "ProcessedPromptTokens": Metric("classic", _TOKEN_DIMENSIONS, ("input",)),
    "GeneratedTokens": Metric("classic", _TOKEN_DIMENSIONS, ("output",)),
    "TokenTransaction": Metric("classic", _TOKEN_DIMENSIONS, ("input", "output")),
    "AzureOpenAIRequests": Metric("classic", _REQUEST_DIMENSIONS, tuple(STATUSES)),
    "InputTokens": Metric("new", _NEW_DIMENSIONS, ("input",)),
    "OutputTokens": Metric("new", _NEW_DIMENSIONS, ("output",)),
    "TotalTokens": Metric("new", _NEW_DIMENSIONS, ("input", "output")),
    "ModelRequests": Metric("new", _REQUEST_DIMENSIONS, tuple(STATUSES)),
    "cacheReadInputTokens": Metric("new", (*_NEW_DIMENSIONS, "ContextLength"), (CACHES[0],)),
    "ephemeral5mInputTokens": Metric("new", (*_NEW_DIMENSIONS, "ContextLength"), (CACHES[1],)),
    "ephemeral1hInputTokens": Metric("new", (*_NEW_DIMENSIONS, "ContextLength"), (CACHES[2],)),
    "GeneratedImages": Metric("new", _NEW_DIMENSIONS, ("images",)),
    "ActiveTokens": Metric("new", _NEW_DIMENSIONS[1:], ("input", "output")),
    "TotalCalls": Metric("classic", ("ApiName", "OperationName", "Region", "RatelimitKey"), tuple(STATUSES)),
}
"""The last two are there to be left alone: they count the same again."""


@dataclass(frozen=True)
class Principal:
    """
    A service principal.

    :param roles: where it is Monitoring Reader.
    """

    client_id: str
    secret: str
    roles: tuple[str, ...]

    def may_read(self, path: str) -> bool:
        """Whether one of its roles covers what a path is about."""
        return any(f"{path.lower()}/".startswith(f"{role.lower()}/") for role in self.roles)

    def sees(self, path: str) -> bool:
        """Whether it has a role anywhere below."""
        return any(f"{role.lower()}/".startswith(f"{path.lower()}/") for role in self.roles) or self.may_read(path)


def _principal(number: int, *roles: str) -> Principal:
    return Principal(f"c0ffee00-0000-4000-8000-{number:012}", f"sandbox~secret~{number:032}", roles)


COMPANY = _principal(1, f"/subscriptions/{PRODUCTION.account_id}", f"/subscriptions/{RESEARCH.account_id}")
LAB_READER = _principal(2, f"/subscriptions/{LAB.account_id}/resourceGroups/{LAB_EAST.group}", LAB_NORTH.id)
ONE_RESOURCE = _principal(3, PROD.id)
NOBODY = _principal(4)
FLEET_READER = _principal(5, f"/subscriptions/{FLEET[0].subscription}")
PRINCIPALS = {one.client_id: one for one in (COMPANY, LAB_READER, ONE_RESOURCE, NOBODY, FLEET_READER)}


class Refused(Exception):
    """An error answer: wrapped as Resource Manager's, flat as Azure Monitor's, or Microsoft Entra's."""

    def __init__(self, status: int, code: str, message: str, *, flat: bool = False) -> None:
        super().__init__(message)
        self.status = status
        error: Row = {"code": code, "message": message}
        self.content: Row = error if flat else {"error": error}

    def response(self, **headers: str) -> Response:
        """Return it as an answer."""
        return _json(self.content, self.status, {name.replace("_", "-"): value for name, value in headers.items()})


class SignInRefused(Refused):
    """An error of the token endpoint."""

    def __init__(self, status: int, error: str, code: int, message: str) -> None:
        super().__init__(status, error, message)
        self.content = {
            "error": error,
            "error_description": f"AADSTS{code}: {message} Trace ID: 0 Correlation ID: 0 Timestamp: 2026-08-06 03:00:00Z",
            "error_codes": [code],
            "timestamp": "2026-08-06 03:00:00Z",
            "error_uri": f"https://login.microsoftonline.com/error?code={code}",
        }


def _wrong_secret() -> SignInRefused:
    words = (
        "Invalid client secret provided. Ensure the secret being sent is the client secret value, not the secret ID."
    )
    return SignInRefused(401, "invalid_client", 7000215, words)


def _expired_secret() -> SignInRefused:
    return SignInRefused(401, "invalid_client", 7000222, "The provided client secret keys are expired.")


class AzureOpenAISimulator(Simulator):
    """Azure."""

    name = PROVIDER
    fault_kinds = {  # noqa: RUF012 - as the frame declares it
        "bare_throttling": "429 without Retry-After",
        "short_tokens": "tokens that are as good as expired",
        "not_found": "404",
        "small_pages": "lists in pages of `size` (1)",
        "page_twice": "every page of a list twice",
        "cursor_loop": "the same next page, for ever",
        "foreign_link": "the next page is elsewhere",
        "fewer_metrics": "the new metrics are refused",
        "fewer_dimensions": "ModelName is refused",
        "metric_failed": "one metric failed inside the answer",
        "metric_missing": "one metric is left out",
        "shorter_span": "the answer begins a day late",
        "noon_bins": "days begin at noon",
        "contradicting_series": "a series twice, with other numbers",
        "series_twice": "a series twice",
        "odd_number": "a sum with a fraction",
        "at_top": "as many series as allowed",
        "families_differ": "the classic family counts less",
        "unknown_fields": "unknown fields",
        "batch_as_text": "JSON inside a JSON string",
        "batch_partial": "a resource is left out of a batch",
    }

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        truth = frame.truth.of(PROVIDER)
        assert isinstance(truth, AzureOpenAITruth)
        self._truth = truth

    # ---------------------------------------------------------------- the frame's questions

    def identify(self, request: Request) -> Call:
        """Say who calls (the subscription, as far as one is named) and what for; a resource's region is the region."""
        path = request.path
        if path.startswith("/login/"):
            return Call(PROVIDER, _home(PRINCIPALS.get(request.form.get("client_id", ""))), "-", "token")
        named = re.search(r"/subscriptions/([0-9a-f-]{36})", path, re.IGNORECASE)
        account = named[1].lower() if named else _home(_caller(request, ARM))
        if path.startswith("/metrics/"):
            return Call(PROVIDER, account, path.split("/")[2], "batch")
        resource = _resource_in(path)
        return Call(PROVIDER, account, resource.location if resource else "-", _operation(path, resource))

    def answer(self, call: Call, request: Request, faults: FaultsInForce) -> Response:
        """Answer from the truth."""
        try:
            if "bare_throttling" in faults:
                raise Refused(429, "SubscriptionRequestsThrottled", "Too many requests.")
            if "not_found" in faults:
                raise Refused(404, "ResourceNotFound", "The Resource was not found.")
            content = self._operations()[call.operation](request, faults)
        except Refused as refused:
            return refused.response()
        if call.operation == "batch" and "batch_as_text" in faults:
            content = json.dumps(content)
        return _json(content)

    def refuse(self, kind: str, call: Call) -> Response:
        """Return Azure's words for a refusal."""
        if kind == "throttling":
            return Refused(429, "SubscriptionRequestsThrottled", "Number of requests exceeded.").response(
                Retry_After="1"
            )
        if call.operation == "token":
            refusal: Refused = {
                "expired_token": _expired_secret(),
                "access_denied": SignInRefused(400, "access_denied", 53003, "Access has been blocked by policies."),
                "internal_error": SignInRefused(500, "server_error", 90033, "A transient error has occurred."),
                "service_unavailable": SignInRefused(503, "temporarily_unavailable", 90033, "A transient error."),
            }.get(kind, _wrong_secret())
            return refusal.response()
        return {
            "access_denied": _no_role("/subscriptions/…", call.operation),
            "internal_error": Refused(500, "InternalServerError", "The server encountered an error."),
            "service_unavailable": Refused(503, "ServiceUnavailable", "Try again."),
            "expired_token": Refused(401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier."),
        }.get(kind, Refused(401, "InvalidAuthenticationToken", "The access token is invalid.")).response()

    def supports(self, kind: str, account: str) -> bool:  # noqa: ARG002
        """Whether a fault can be committed."""
        return kind != "opt_in_region_disabled"

    def connections(self, base_url: str) -> list[dict[str, Any]]:
        """Return a connection for all that the company has, and one for the lab's two resources."""
        addresses = {
            "tenantId": TENANT,
            "login_url": f"{base_url}/login",
            "management_url": f"{base_url}/arm",
            "metrics_url": f"{base_url}/metrics/{{region}}",
            "start_date": min(self._truth.world.opened, self._truth.world.clock.today()).isoformat(),
        }
        lab = {
            "subscriptionId": LAB.account_id,
            "scopes": [
                f"resourceGroups/{LAB_EAST.group}",
                LAB_NORTH.id.upper().replace("/SUBSCRIPTIONS", "/subscriptions"),
            ],
            "account_name": LAB.account_name,
        }
        return [
            {
                "connection_id": f"azure_openai_{suffix}",
                "conn_type": "azure",
                "login": principal.client_id,
                "password": principal.secret,
                "extra": addresses | extra,
                "description": f"AI usage sandbox: the sandbox's Azure, {suffix}. Not real.",
            }
            for suffix, principal, extra in (("default", COMPANY, {}), ("lab", LAB_READER, lab))
        ]

    # ---------------------------------------------------------------- operations

    def _operations(self) -> Mapping[str, Callable[[Request, FaultsInForce], Any]]:
        return {
            "token": self._token,
            "subscriptions": self._subscriptions,
            "accounts": self._accounts,
            "resources": self._resources,
            "account": self._account,
            "deployments": self._deployments,
            "definitions": self._definitions,
            "metrics": self._metrics,
            "batch": self._batch,
            UNKNOWN: self._unknown,
        }

    def _token(self, request: Request, faults: FaultsInForce) -> Row:
        form, tenant = request.form, request.path.split("/")[2]
        if request.method != "POST" or form.get("grant_type") != "client_credentials":
            raise SignInRefused(400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
        if not re.fullmatch(r"[0-9a-f-]{36}|[a-z0-9-]+(\.[a-z0-9-]+)+", tenant):
            raise SignInRefused(400, "invalid_request", 900023, f"Specified tenant identifier '{tenant}' is neither.")
        if tenant != TENANT:
            raise SignInRefused(400, "invalid_request", 90002, f"Tenant '{tenant}' not found.")
        principal = PRINCIPALS.get(form.get("client_id", ""))
        if principal is None:
            raise SignInRefused(400, "unauthorized_client", 700016, "Application was not found in the directory.")
        if form.get("client_secret") == EXPIRED_SECRET:
            raise _expired_secret()
        if form.get("client_secret") != principal.secret:
            raise _wrong_secret()
        audience = form.get("scope", "").removesuffix("/.default")
        if audience not in (ARM, BATCH):
            raise SignInRefused(400, "invalid_resource", 500011, "The resource principal was not found in the tenant.")
        lifetime = 200 if "short_tokens" in faults else 3599
        token = f"eyJ0.{principal.client_id}.{'arm' if audience == ARM else 'batch'}"
        return {"token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token}

    def _subscriptions(self, request: Request, faults: FaultsInForce) -> Row:
        principal = _authorized(request)
        names = {one.account_id: one.name for one in SUBSCRIPTIONS} | {FLEET[0].subscription: "Fleet"}
        seen = [id_ for id_ in names if principal.sees(f"/subscriptions/{id_}")]
        items = [{"subscriptionId": id_, "displayName": names[id_], "state": "Enabled"} for id_ in seen]
        return _paged(items, request, faults)

    def _accounts(self, request: Request, faults: FaultsInForce) -> Row:
        principal, place = _authorized(request), _place_of(request)
        if not principal.may_read(place):
            raise _no_role(place, "accounts")
        return _paged([_item(one) for one in RESOURCES if _is_in(one, place)], request, faults)

    def _resources(self, request: Request, faults: FaultsInForce) -> Row:
        principal, place = _authorized(request), _place_of(request)
        if request.query.get("$filter") != "resourceType eq 'Microsoft.CognitiveServices/accounts'":
            raise Refused(400, "InvalidFilterInQueryString", "Invalid $filter.")
        seen = [one for one in RESOURCES if _is_in(one, place) and principal.may_read(one.id)]
        return _paged([_item(one) for one in seen], request, faults)

    def _account(self, request: Request, faults: FaultsInForce) -> Row:  # noqa: ARG002
        return _item(_readable(request, "account"))

    def _deployments(self, request: Request, faults: FaultsInForce) -> Row:
        resource = _readable(request, "deployments")
        models: dict[str, list[Use]] = {}
        for use in resource.uses:
            if use.deployment and use.sku:
                models.setdefault(use.deployment, []).append(use)
        items = [
            {
                "id": f"{resource.id}/deployments/{name}",
                "name": name,
                "sku": {"name": uses[0].sku, "capacity": 150},
                "properties": {
                    "model": {"format": uses[0].format, "name": uses[0].model_name, "version": uses[0].version}
                    if len(uses) == 1
                    else {"format": "OpenAI", "name": "model-router", "version": "2025-08-07"},
                    "provisioningState": "Succeeded",
                },
            }
            for name, uses in models.items()
        ]
        return _paged(items, request, faults)

    def _definitions(self, request: Request, faults: FaultsInForce) -> Row:
        resource = _readable(request, "definitions")
        _check_version(request)
        return _paged([_definition(resource, name) for name in _metrics_of(resource)], request, faults)

    def _metrics(self, request: Request, faults: FaultsInForce) -> Row:
        resource = _readable(request, "metrics")
        start, _, end = request.query.get("timespan", "").partition("/")
        answer = self._measured(resource, request.query, (start, end), request.query.get("$filter"), faults)
        return {"timespan": f"{answer.pop('starttime')}/{answer.pop('endtime')}", **answer}

    def _batch(self, request: Request, faults: FaultsInForce) -> Row:
        principal, query = _authorized(request, BATCH), request.query
        region, subscription = request.path.split("/")[2], request.path.split("/")[4]
        if not principal.may_read(f"/subscriptions/{subscription}"):
            raise _no_role(f"/subscriptions/{subscription}", "metrics")
        ids = [str(one).lower() for one in json.loads(request.body or b"{}").get("resourceids", [])]
        found = [one for one in RESOURCES if one.id.lower() in ids]
        alike = all(one.location == region and one.subscription == subscription for one in found)
        if not 1 <= len(ids) <= RESOURCES_AT_MOST or len(found) != len(ids) or not alike:
            raise Refused(400, "BadRequest", "The resources must be 1 to 50 of one subscription and region.")
        span = query.get("starttime", ""), query.get("endtime", "")
        values = [
            {"resourceid": one.id, **self._measured(one, query, span, query.get("filter"), faults)} for one in found
        ]
        return {"values": values[:-1] if "batch_partial" in faults else values}

    def _unknown(self, request: Request, faults: FaultsInForce) -> Row:  # noqa: ARG002
        raise Refused(404, "InvalidResourceType", "The resource type could not be found.")

    # ---------------------------------------------------------------- Azure Monitor

    def _measured(
        self,
        resource: Resource,
        query: Mapping[str, str],
        span: tuple[str, str],
        split: str | None,
        faults: FaultsInForce,
    ) -> Row:
        """Answer one question about one resource, as strictly as Azure Monitor does."""
        if (
            query.get("api-version") != "2024-02-01"
            or query.get("interval") != "P1D"
            or query.get("aggregation") != "Total"
        ):
            raise Refused(400, "BadRequest", "Unexpected api-version, interval or aggregation.", flat=True)
        names = query.get("metricnames", "").split(",")
        _check_names(resource, names, faults)
        dimensions = [part.split(" ")[0] for part in split.split(" and ")] if split else []
        _check_dimensions(names, dimensions, faults)
        start, end = (datetime.fromisoformat(moment) for moment in span)
        oldest = self._truth.world.clock.now() - timedelta(days=READABLE_DAYS)
        if start.microsecond or end <= start or start < oldest:
            raise Refused(
                400, "BadRequest", f"{start} is out of the max metrics retention period: 93.00:00:00", flat=True
            )
        if "shorter_span" in faults:
            start += timedelta(days=1)
        days = list(days_between(start.date(), (end - timedelta(minutes=1)).date()))
        # Bins begin where the time span does.
        offset = (
            timedelta(hours=12)
            if "noon_bins" in faults
            else start - datetime.combine(start.date(), datetime.min.time(), start.tzinfo)
        )
        top = int(query.get("top", DEFAULT_TOP)) if dimensions else 1
        value = [self._metric(resource, name, dimensions, days, offset, top, faults) for name in names]
        if "metric_failed" in faults:
            value[-1] |= {
                "timeseries": [],
                "errorCode": "InvalidSamplingType",
                "errorMessage": "Sampling type is not found.",
            }
        return {
            "cost": 1439,
            "starttime": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "endtime": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "interval": "P1D",
            "namespace": "Microsoft.CognitiveServices/accounts",
            "resourceregion": resource.location,
            "value": value[1:] if "metric_missing" in faults else value,
        }

    def _metric(
        self,
        resource: Resource,
        name: str,
        dimensions: list[str],
        days: list[date],
        offset: timedelta,
        top: int,
        faults: FaultsInForce,
    ) -> Row:
        series = self._series(resource, name, dimensions, days, "families_differ" in faults)
        ordered = sorted(series.items(), key=lambda one: -sum(one[1].values()))[:top]
        timeseries = [_timeseries(place, numbers, days, offset) for place, numbers in ordered]
        if timeseries and "odd_number" in faults:
            timeseries[0]["data"][0]["total"] = 17.5
        if timeseries and ("series_twice" in faults or "contradicting_series" in faults):
            again = json.loads(json.dumps(timeseries[0]))
            for point in again["data"] if "contradicting_series" in faults else ():
                point["total"] = (point.get("total") or 0) + 1
            timeseries.append(again)
        if "at_top" in faults:
            timeseries += [{"metadatavalues": [], "data": []} for _ in range(top - len(timeseries))]
        if "unknown_fields" in faults:
            timeseries = [one | {"lastPrompt": "dear diary"} for one in timeseries]
        return {
            "id": f"{resource.id}/providers/Microsoft.Insights/metrics/{name}",
            "type": "Microsoft.Insights/metrics",
            "name": {"value": name, "localizedValue": name},
            "unit": "Count",
            "timeseries": timeseries,
            "errorCode": "Success",
        } | ({"diary": "dear diary"} if "unknown_fields" in faults else {})

    def _series(
        self, resource: Resource, name: str, dimensions: list[str], days: list[date], differ: bool
    ) -> dict[tuple[tuple[str, str], ...], dict[date, int]]:
        """Return the sums of a metric by what is asked to be told apart, and day."""
        metric = METRICS[name]
        found: dict[tuple[tuple[str, str], ...], dict[date, int]] = {}
        for day in days:
            for use, values in self._truth.used(resource, day):
                if metric.family not in use.families and metric.parts != ("images",):
                    continue
                for part in metric.parts:
                    if not (number := values.get(part, 0)):
                        continue
                    if differ and metric.family == "classic":
                        number = max(1, number * 9 // 10)
                    place = tuple((one.lower(), _dimension(one, resource, use, part)) for one in dimensions)
                    numbers = found.setdefault(place, {})
                    numbers[day] = numbers.get(day, 0) + number
        return found


SIMULATOR = AzureOpenAISimulator


def _home(principal: Principal | None) -> str:
    """Return the subscription that a principal's calls are counted under while none is named."""
    return principal.roles[0].split("/")[2] if principal and principal.roles else UNKNOWN


def _caller(request: Request, audience: str) -> Principal | None:
    parts = request.header("authorization").removeprefix("Bearer ").split(".")
    known = PRINCIPALS.get(parts[1]) if len(parts) == 3 else None
    return known if known and parts[2] == ("arm" if audience == ARM else "batch") else None


def _authorized(request: Request, audience: str = ARM) -> Principal:
    """Return who calls; a token for one host is none for the other."""
    principal = _caller(request, audience)
    if principal is None:
        raise Refused(401, "InvalidAuthenticationToken", "The access token is invalid.")
    if "api-version" not in request.query:
        raise Refused(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
    return principal


def _resource_in(path: str) -> Resource | None:
    lowered = f"{path.removeprefix('/arm').lower()}/"
    return next((one for one in RESOURCES if lowered.startswith(f"{one.id.lower()}/")), None)


def _operation(path: str, resource: Resource | None) -> str:
    lowered = path.lower()
    if lowered == "/arm/subscriptions":
        return "subscriptions"
    if lowered.endswith("/providers/microsoft.cognitiveservices/accounts"):
        return "accounts"
    if re.fullmatch(r"/arm/subscriptions/[^/]+(/resourcegroups/[^/]+)?/resources", lowered):
        return "resources"
    below = lowered.removeprefix(f"/arm{resource.id.lower()}") if resource else None
    operations = {
        "": "account",
        "/deployments": "deployments",
        "/providers/microsoft.insights/metricdefinitions": "definitions",
        "/providers/microsoft.insights/metrics": "metrics",
    }
    # A resource that is not there is asked for like one that is.
    return operations.get(below, UNKNOWN) if below is not None else "account" if "/accounts/" in lowered else UNKNOWN


def _place_of(request: Request) -> str:
    """Return the subscription or the group that a list is about."""
    found = re.match(r"/arm(/subscriptions/[^/]+(?:/resourceGroups/[^/]+)?)/", request.path, re.IGNORECASE)
    assert found
    return found[1]


def _is_in(resource: Resource, place: str) -> bool:
    return f"{resource.id.lower()}/".startswith(f"{place.lower()}/")


def _readable(request: Request, what: str) -> Resource:
    principal, resource = _authorized(request), _resource_in(request.path)
    path = resource.id if resource else request.path.removeprefix("/arm")
    if not principal.may_read(path):
        raise _no_role(path, what)
    if resource is None:
        raise Refused(404, "ResourceNotFound", "The Resource was not found.")
    return resource


def _no_role(place: str, what: str) -> Refused:
    action = {
        "metrics": "microsoft.insights/metrics/read",
        "definitions": "microsoft.insights/metricDefinitions/read",
        "deployments": "Microsoft.CognitiveServices/accounts/deployments/read",
    }.get(what, "Microsoft.CognitiveServices/accounts/read")
    return Refused(
        403,
        "AuthorizationFailed",
        f"The client '<appid>' with object id '<oid>' does not have authorization to perform action '{action}' over scope "
        f"'{place}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
    )


def _item(resource: Resource) -> Row:
    return {
        "id": resource.id,
        "name": resource.name,
        "type": "Microsoft.CognitiveServices/accounts",
        "kind": resource.kind,
        "location": resource.location,
        "sku": {"name": "S0"},
        "properties": {"endpoint": f"https://{resource.name}.openai.azure.com/", "provisioningState": "Succeeded"},
    }


def _metrics_of(resource: Resource) -> list[str]:
    """Return the metrics that are defined for a resource; the lab's know the classic ones only."""
    return [name for name, one in METRICS.items() if one.family == "classic" or resource.subscription != LAB.account_id]


def _definition(resource: Resource, name: str) -> Row:
    return {
        "id": f"{resource.id}/providers/microsoft.insights/metricdefinitions/{name}",
        "resourceId": resource.id,
        "namespace": "Microsoft.CognitiveServices/accounts",
        "name": {"value": name, "localizedValue": name},
        "isDimensionRequired": False,
        "unit": "Count",
        "primaryAggregationType": "Total",
        "supportedAggregationTypes": ["Total"],
        "metricAvailabilities": [{"timeGrain": "PT1M", "retention": "P93D"}, {"timeGrain": "P1D", "retention": "P93D"}],
        "dimensions": [{"value": one, "localizedValue": one} for one in METRICS[name].dimensions],
    }


def _check_version(request: Request) -> None:
    if request.query.get("metricnamespace") != "Microsoft.CognitiveServices/accounts":
        raise Refused(400, "BadRequest", "The metric namespace is unknown.", flat=True)


def _check_names(resource: Resource, names: list[str], faults: FaultsInForce) -> None:
    if len(names) > NAMES_AT_MOST:
        raise Refused(400, "BadRequest", f"Number of metrics should not exceed {NAMES_AT_MOST}.", flat=True)
    valid = [
        name for name in _metrics_of(resource) if METRICS[name].family == "classic" or "fewer_metrics" not in faults
    ]
    for name in names:
        if name not in valid:
            message = (
                "Failed to find metric configuration for provider: Microsoft.CognitiveServices, resource Type: accounts, "
                f"metric: {name}, Valid metrics: {','.join(valid)}"
            )
            raise Refused(400, "BadRequest", message, flat=True)


def _check_dimensions(names: list[str], dimensions: list[str], faults: FaultsInForce) -> None:
    for name in names:
        known = [one for one in METRICS[name].dimensions if one != "ModelName" or "fewer_dimensions" not in faults]
        odd = [one.lower() for one in dimensions if one.lower() not in {have.lower() for have in known}]
        if odd:
            message = (
                f"Metric: {name} does not support requested dimension combination: {','.join(odd)}, supported ones are: "
                f"{','.join(known)}, TraceId: {{0}}"
            )
            raise Refused(400, "BadRequest", message, flat=True)


def _dimension(name: str, resource: Resource, use: Use, part: str) -> str:
    return {
        "ModelDeploymentName": use.deployment or "__Empty",
        "ModelName": use.model_name,
        "ModelVersion": use.version or "",
        "Region": use.region or resource.display,
        "StatusCode": STATUSES.get(part, ""),
    }.get(name, "__Empty")


def _timeseries(
    place: tuple[tuple[str, str], ...], numbers: Mapping[date, int], days: list[date], offset: timedelta
) -> Row:
    data: list[Row] = []
    for day in days:
        moment = datetime.combine(day, datetime.min.time()) + offset
        point: Row = {"timeStamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}
        if day in numbers:
            # Whole numbers come with a fraction of zero, or without.
            point["total"] = float(numbers[day]) if day.day % 2 else numbers[day]
        elif day.day % 3:
            point["total"] = 0.0
        data.append(point)
    # In no fixed order, and in small letters.
    metadata = [{"name": {"value": name, "localizedValue": name}, "value": value} for name, value in reversed(place)]
    return {"metadatavalues": metadata, "data": data}


def _paged(items: list[Row], request: Request, faults: FaultsInForce) -> Row:
    """Return one page of a list, with the address of the next."""
    small = faults.get("small_pages")
    size = (small.size or 1) if small else 100
    page = int(request.query.get("$skiptoken", 0))
    offset = (page // 2 if "page_twice" in faults else page) * size
    content: Row = {"value": items[offset : offset + size]}
    is_last = offset + size >= len(items) and (page % 2 == 1 or "page_twice" not in faults)
    if is_last and not {"cursor_loop", "foreign_link"} & set(faults.content or ()):
        return content
    query = {name: value for name, value in request.query.items() if name != "$skiptoken"}
    step = 0 if "cursor_loop" in faults else 1
    target = request.target.partition("?")[0]
    link = "&".join(f"{quote(name)}={quote(value)}" for name, value in query.items())
    host = "http://127.0.0.2:9" if "foreign_link" in faults else f"http://{request.header('host')}"
    return content | {"nextLink": f"{host}{target}?{link}&$skiptoken={page + step}"}


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})
