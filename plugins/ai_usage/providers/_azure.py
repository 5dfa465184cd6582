"""
Signing in to Microsoft Entra as a service principal, and asking Azure with what it hands out.

The sign-in is the plain OAuth client-credentials request. A token is kept until five minutes before it expires, is sent
to the host it was made for and nowhere else, and is thrown away once when Azure refuses it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ai_usage.core.contract import Journal
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    PermissionMissing,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.core.http import Budget, HttpClient, Limits, Refusal, as_segment

EXPIRES_EARLY = 300
"""Seconds before its end at which a token is not used any more."""
_TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
_AADSTS = re.compile(r"AADSTS(\d{4,9})")
_PERMISSION = re.compile(r"perform action '([A-Za-z0-9./_*-]{3,200})'")
_METRIC_LIST = re.compile(r"Valid metrics: ([A-Za-z0-9_, /.-]+)", re.IGNORECASE)
_DIMENSION_LIST = re.compile(r"supported ones are: ([A-Za-z0-9_,. ]+)", re.IGNORECASE)
_NOT_FOUND = frozenset(
    {
        "ResourceNotFound",
        "ParentResourceNotFound",
        "ResourceGroupNotFound",
        "SubscriptionNotFound",
        "InvalidSubscriptionId",
    }
)
_REGISTRATION = "Microsoft Entra admin center, App registrations"
_NEW_SECRET = (
    f"Make a new client secret ({_REGISTRATION}, Certificates & secrets) and paste its Value, not its Secret ID, into "
    "the connection's password."
)
_WHICH_TENANT = f"Compare login (Application ID) and tenantId with the overview in {_REGISTRATION}."
_CLOUD = "Check cloud_environment: the tenant and the addresses must belong to the same Azure cloud."
ROLE = (
    "Give the service principal the role Monitoring Reader on the resource, its resource group or the subscription; a new "
    "assignment takes effect after a few minutes."
)


@dataclass(frozen=True)
class Cloud:
    """
    One of Azure's clouds.

    :param metrics: the address of the batch API; ``{region}`` stands for the region of the resources.
    :param metrics_audience: for whom a token of the batch API is made.
    """

    login: str
    management: str
    metrics: str
    metrics_audience: str


CLOUDS: Mapping[str, Cloud] = {
    "AzurePublicCloud": Cloud(
        "https://login.microsoftonline.com",
        "https://management.azure.com",
        "https://{region}.metrics.monitor.azure.com",
        "https://metrics.monitor.azure.com",
    ),
    "AzureUSGovernment": Cloud(
        "https://login.microsoftonline.us",
        "https://management.usgovcloudapi.net",
        "https://{region}.metrics.monitor.azure.us",
        "https://metrics.monitor.azure.us",
    ),
    "AzureChinaCloud": Cloud(
        "https://login.chinacloudapi.cn",
        "https://management.chinacloudapi.cn",
        "https://{region}.metrics.monitor.azure.cn",
        "https://metrics.monitor.azure.cn",
    ),
}


@dataclass(frozen=True)
class Principal:
    """Who signs in: an application of a tenant, with its client secret."""

    tenant: str
    client_id: str
    secret: str = field(repr=False)


class TokenRefused(CredentialRejected):
    """Azure does not take the token that it handed out a while ago."""


class NotFound(ConfigurationInvalid):
    """What the connection names is not there."""


class QueryRefused(ResponseInvalid):
    """
    Azure Monitor does not take a question as it was put.

    :param metrics: the metrics it would have taken, where it says so.
    :param dimensions: the dimensions it would have taken, where it says so.
    """

    def __init__(self, happened: str, *, action: str, metrics: frozenset[str], dimensions: frozenset[str]) -> None:
        super().__init__(happened, action=action)
        self.metrics = metrics
        self.dimensions = dimensions


class AzureClient:
    """
    Asks Azure Resource Manager, and the batch API of Azure Monitor, on behalf of one service principal.

    :param cloud: whose addresses hold where no other is given.
    :param login_url: in place of the cloud's own, as are ``management_url`` and ``metrics_url``.
    :param secrets: what else of the connection nobody may read, beside the principal's secret.
    :param sleep: how to wait; only tests give another.
    :param clock: tells seconds; only tests give another.
    """

    def __init__(
        self,
        principal: Principal,
        *,
        connection_id: str,
        cloud: Cloud = CLOUDS["AzurePublicCloud"],
        login_url: str | None = None,
        management_url: str | None = None,
        metrics_url: str | None = None,
        secrets: Iterable[str] = (),
        journal: Journal | None = None,
        limits: Limits | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not _TENANT.fullmatch(principal.tenant):
            raise ConfigurationInvalid(
                "tenantId is neither the id nor a domain of a tenant.",
                action=_WHICH_TENANT,
                connection_id=connection_id,
            )
        self.journal = journal if journal is not None else Journal()
        self.connection_id = connection_id
        self._principal = principal
        self._secrets = (principal.secret, *secrets)
        self._cloud = cloud
        self._management_url = management_url or cloud.management
        self._metrics_url = metrics_url or cloud.metrics
        self._limits = limits or Limits()
        self._budget = Budget(self._limits.max_calls, self._limits.calls_per_minute, sleep=sleep)
        self._sleep = sleep
        self._clock = clock
        self._login = self._new_client(login_url or cloud.login, explain_sign_in)
        self._tokens: dict[str, tuple[str, float]] = {}
        self._clients: dict[str, tuple[str, HttpClient]] = {}

    def sign_in(self) -> None:
        """Make sure that there is a token for Azure Resource Manager."""
        self._token(self._cloud.management)

    def get_json(self, path: str, params: Mapping[str, Any], *, expect: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return what Azure Resource Manager has at a path."""
        return self._ask(lambda client: client.get_json(path, params, expect=expect))

    def list_json(self, path: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return every item of a list of Azure Resource Manager, following its pages to the end."""
        page = self.get_json(path, params, expect=("value",))
        items: list[dict[str, Any]] = []
        seen: set[str] = set()
        while True:
            if not isinstance(page["value"], list) or not all(isinstance(item, dict) for item in page["value"]):
                raise invalid(path, "it is not a list")
            items += page["value"]
            link = page.get("nextLink")
            if not link:
                return items
            if not isinstance(link, str) or link in seen:
                raise invalid(path, "its pages lead round in a circle")
            seen.add(link)
            page = self._follow(link)

    def _follow(self, link: str) -> dict[str, Any]:
        return self._ask(lambda client: client.follow_json(link, expect=("value",)))

    def batch_json(
        self, region: str, path: str, payload: Any, params: Mapping[str, Any], *, expect: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return what the batch API of a region answers. It takes a token of its own."""
        url = self._metrics_url.replace("{region}", as_segment(region, connection_id=self.connection_id))
        return self._ask(
            lambda client: client.post_json(path, payload, params, expect=expect), url, self._cloud.metrics_audience
        )

    def _ask(
        self, put: Callable[[HttpClient], dict[str, Any]], url: str | None = None, audience: str | None = None
    ) -> dict[str, Any]:
        """Put a question; once more with a new token if the one at hand is refused."""
        url, audience = url or self._management_url, audience or self._cloud.management
        try:
            return put(self._client(url, audience))
        except TokenRefused:
            self._tokens.pop(audience, None)
        return put(self._client(url, audience))

    def _client(self, url: str, audience: str) -> HttpClient:
        """Return the client of an address that holds the token of today; a new token is a new client."""
        token = self._token(audience)
        if url not in self._clients or self._clients[url][0] != token:
            if url in self._clients:
                self._clients[url][1].close()
            headers = {"Authorization": f"Bearer {token}"}
            self._clients[url] = token, self._new_client(url, explain, secret_headers=headers)
        return self._clients[url][1]

    def _new_client(self, url: str, explanation: Callable[[Refusal], UsageError | None], **secret: Any) -> HttpClient:
        return HttpClient(
            url,
            connection_id=self.connection_id,
            journal=self.journal,
            limits=self._limits,
            explain=explanation,
            budget=self._budget,
            sleep=self._sleep,
            secrets=self._secrets,
            **secret,
        )

    def _token(self, audience: str) -> str:
        known = self._tokens.get(audience)
        if known and self._clock() < known[1]:
            return known[0]
        path = f"{as_segment(self._principal.tenant)}/oauth2/v2.0/token"
        asked_at = self._clock()
        form = {
            "grant_type": "client_credentials",
            "client_id": self._principal.client_id,
            "client_secret": self._principal.secret,
            "scope": f"{audience}/.default",
        }
        answer = self._login.post_form(path, form, expect=("access_token", "expires_in"))
        token, lifetime = answer["access_token"], str(answer["expires_in"])
        if not isinstance(token, str) or not token or not lifetime.isdecimal():
            raise invalid(path, "it holds no token").at(self.connection_id)
        self._tokens[audience] = token, asked_at + int(lifetime[:9]) - EXPIRES_EARLY
        return token


# ---------------------------------------------------------------- what refusals mean


def explain_sign_in(refusal: Refusal) -> UsageError | None:
    """Return plain advice for the codes of Microsoft Entra; its own sentences may repeat what was sent."""
    body = refusal.body if isinstance(refusal.body, dict) else {}
    codes = body.get("error_codes")
    told = _AADSTS.search(str(body.get("error_description", "")))
    code = str(codes[0]) if isinstance(codes, list) and codes else told[1] if told else ""
    shown = f"AADSTS{code}" if code.isdecimal() and len(code) < 10 else f"HTTP {refusal.status}"
    if code in _SIGN_IN:
        kind, happened, action = _SIGN_IN[code]
        return kind(f"{happened} ({shown}).", action=action)
    if code == "53003":
        return PermissionMissing(
            f"A conditional access policy keeps the service principal from signing in ({shown}).",
            permission="sign-in from where Airflow runs",
            action="Have the policy for workload identities let it in from the addresses Airflow calls from.",
        )
    if code in ("50196", "90033"):
        return SourceUnavailable(
            f"Microsoft Entra cannot sign anyone in at the moment ({shown}).",
            action="Nothing to do at once: the next run asks again.",
        )
    if refusal.status in (400, 401, 403):
        more = f" login.microsoftonline.com/error?code={code} says more." if shown == f"AADSTS{code}" else ""
        return CredentialRejected(
            f"Microsoft Entra refuses the sign-in ({shown}).",
            action=f"Check login, password and tenantId.{more}",
        )
    return None


_SIGN_IN: Mapping[str, tuple[type[UsageError], str, str]] = {
    "7000215": (CredentialRejected, "The client secret is wrong; often it is the secret's id", _NEW_SECRET),
    "7000222": (CredentialRejected, "The client secret has expired", _NEW_SECRET),
    "700016": (ConfigurationInvalid, "This tenant knows no such application: wrong tenant or client id", _WHICH_TENANT),
    "7000229": (
        ConfigurationInvalid,
        "The application has no service principal in this tenant",
        f"Have an administrator add it under Enterprise applications. {_WHICH_TENANT}",
    ),
    "90002": (ConfigurationInvalid, "There is no such tenant", f"{_WHICH_TENANT} {_CLOUD}"),
    "900023": (ConfigurationInvalid, "tenantId is neither the id nor a domain of a tenant", _WHICH_TENANT),
    "70011": (ConfigurationInvalid, "Microsoft Entra does not know what the token is asked for", _CLOUD),
    "500011": (ConfigurationInvalid, "The tenant does not know this Azure", _CLOUD),
}


def explain(refusal: Refusal) -> UsageError | None:
    """Return what a refusal of Azure Resource Manager or Azure Monitor means; errors come flat and wrapped."""
    code, message = _words(refusal.body)
    place = _place(refusal.path)
    if code == "InvalidAuthenticationTokenTenant":
        return ConfigurationInvalid(
            "The subscription belongs to another tenant than the service principal.",
            action=f"Correct tenantId or the subscription. {_WHICH_TENANT}",
        )
    if code == "MissingSubscriptionRegistration":
        return ConfigurationInvalid(
            "The subscription does not use the resource provider Microsoft.Insights, so nothing is counted.",
            action="Register Microsoft.Insights in the subscription (Settings, Resource providers).",
        )
    if code in _NOT_FOUND and refusal.status in (400, 404):
        return NotFound(
            f"There is no {place}, or no role shows it (HTTP {refusal.status}, {code}).",
            action="If it was deleted or renamed, correct the connection (scopes, subscriptionId); if not, check the role.",
        )
    return _refusal_of_status(refusal.status, code, message, place)


def _refusal_of_status(status: int, code: str, message: str, place: str) -> UsageError | None:
    if status == 401:
        return TokenRefused(
            "Azure does not accept the token of the service principal (HTTP 401).",
            action="Check that the application is still enabled; if it is, report this.",
        )
    if status == 403:
        permission = _PERMISSION.search(message)
        wanted = permission[1] if permission else "read access"
        return PermissionMissing(
            f"The service principal has no role for {wanted} at {place} (HTTP 403).", permission=wanted, action=ROLE
        )
    if status == 400:
        return QueryRefused(
            f"Azure refused the question at {place} (HTTP 400{f', {code}' if code else ''}).",
            action="The project asks for something that Azure no longer takes: report this.",
            metrics=_listed(_METRIC_LIST, message),
            dimensions=_listed(_DIMENSION_LIST, message),
        )
    return None


def _words(body: Any) -> tuple[str, str]:
    """Return code and message of an error."""
    error = body.get("error", body) if isinstance(body, dict) else {}
    if not isinstance(error, dict):
        return "", ""
    code = str(error.get("code") or "")
    return code if re.fullmatch(r"[A-Za-z]{1,60}", code) else "", str(error.get("message") or "")


def _listed(pattern: re.Pattern[str], message: str) -> frozenset[str]:
    found = pattern.search(message)
    return frozenset(name.strip() for name in found[1].split(",") if name.strip()) if found else frozenset()


def _place(path: str) -> str:
    """Return what a path is about: without the part that says what was asked there."""
    return re.sub(r"/providers/Microsoft\.Insights/.*", "", path, flags=re.IGNORECASE)[-300:]


def invalid(path: str, problem: str) -> ResponseInvalid:
    """Return the refusal of an answer that is not the documented one."""
    return ResponseInvalid(
        f"The answer of {path} is not as documented: {problem}; nothing was stored.",
        action="Check the connection's addresses; if they are right, report this.",
    )
