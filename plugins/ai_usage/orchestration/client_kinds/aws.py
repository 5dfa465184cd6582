"""boto3 clients, made by Airflow's AWS hook so that everything Airflow knows about AWS connections holds here too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ai_usage.core.contract import Provider
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.http import checked_base_url, is_loopback
from ai_usage.orchestration.settings import Opened, extra_of, quieten_libraries, without_secrets

AWS_ATTEMPTS = 5
"""Attempts per call, the first included; botocore waits between them with growing, jittered pauses."""
AWS_CONNECT_TIMEOUT = 10
AWS_READ_TIMEOUT = 60
"""Seconds between two reads of the socket; the provider watches over the whole call."""


_AIRFLOWS_OWN_AWS_KEYS = frozenset(
    {
        "ambient_credentials",
        "assume_role_kwargs",
        "assume_role_method",
        "assume_role_with_saml",
        "assume_role_with_web_identity_federation",
        "assume_role_with_web_identity_federation_audience",
        "assume_role_with_web_identity_token_file",
        "config_kwargs",
        "endpoint_url",
        "profile_name",
        "role_arn",
        "service_config",
        "session_kwargs",
        "verify",
    }
)


class AwsConnectionClients:
    """
    boto3 clients of one Airflow connection: one session, so that a role is assumed once, and one client per region.

    :param connection_id: a connection of which is known that it exists.
    """

    def __init__(self, connection_id: str, extra: Mapping[str, Any]) -> None:
        self._connection_id = connection_id
        self._extra = extra
        self._hook: Any = None
        self._session: Any = None
        self._clients: dict[tuple[str, str], Any] = {}

    def client(self, service: str, region: str) -> Any:
        """Return the client of a service in a region. Assuming a role, it may call AWS and raise botocore's errors."""
        if (service, region) not in self._clients:
            self._clients[service, region] = self._new_client(service, region)
        return self._clients[service, region]

    def _new_client(self, service: str, region: str) -> Any:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

        quieten_libraries()
        if self._session is None:
            self._hook = AwsGenericHook(
                aws_conn_id=self._connection_id,
                client_type=service,
                region_name=region,
                config=self._config(self._endpoint("sts", is_for_role=True)),
            )
            if not self._hook.conn_config:
                # Between our look and the hook's the connection was deleted; the hook would go on with whatever
                # credentials the machine has.
                raise ConfigurationInvalid(
                    "The connection has just disappeared.",
                    action="Add it again, or take it out of the list of sources.",
                    connection_id=self._connection_id,
                )
            self._session = self._hook.get_session(region_name=region)
        endpoint = self._endpoint(service)
        return self._session.client(
            service,
            region_name=region,
            endpoint_url=endpoint,
            verify=self._hook.verify,
            config=self._config(endpoint),
        )

    def _endpoint(self, service: str, *, is_for_role: bool = False) -> str | None:
        """Return the address that stands in for AWS's own. Airflow assumes roles only through the service's entry."""
        services = self._extra.get("service_config") or {}
        general = None if is_for_role else self._extra.get("endpoint_url")
        endpoint = (services.get(service) or {}).get("endpoint_url") or general
        return str(endpoint) if endpoint else None

    def _config(self, endpoint: str | None) -> Any:
        """Return botocore's settings: ours, then the connection's ``config_kwargs``."""
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        ours = Config(
            retries={"mode": "standard", "total_max_attempts": AWS_ATTEMPTS},
            connect_timeout=AWS_CONNECT_TIMEOUT,
            read_timeout=AWS_READ_TIMEOUT,
            user_agent_extra="ai-usage-elt",
            # A loopback address is never behind a proxy.
            proxies={} if endpoint and is_loopback(urlsplit(endpoint).hostname) else None,
        )
        try:
            theirs = Config(**(self._extra.get("config_kwargs") or {}))
        except (TypeError, ValueError, BotoCoreError):
            theirs = None
        if theirs is None:
            raise ConfigurationInvalid(
                "config_kwargs in its extra is not what botocore takes.",
                action="Correct it, or leave it out.",
                connection_id=self._connection_id,
            )
        return ours.merge(theirs)


def open_client(_: Provider, found: Any) -> Opened:
    """Return boto3 clients made by Airflow's AWS hook, and the settings that are ours."""
    extra = extra_of(found)
    _refuse_ambient_credentials(found, extra)
    _check_aws_endpoints(found, extra)
    if extra.get("verify") not in (None, True) and not (isinstance(extra["verify"], str) and extra["verify"].strip()):
        raise ConfigurationInvalid(
            "verify in its extra switches the checking of certificates off.",
            action="Leave it out, or give the path of a certificate bundle.",
            connection_id=found.conn_id,
        )
    options = {name: value for name, value in extra.items() if name not in _AIRFLOWS_OWN_AWS_KEYS}
    return Opened(without_secrets(options), AwsConnectionClients(found.conn_id, extra))


def _refuse_ambient_credentials(found: Any, extra: Mapping[str, Any]) -> None:
    """
    Refuse a connection without a credential of its own.

    Airflow's hook would go on with whatever the machine has (environment variables, a profile, an instance role), and
    one account's usage would be filed under another's connection.
    """
    session = extra.get("session_kwargs") or {}
    pairs = [
        (found.login, found.password),
        (extra.get("aws_access_key_id"), extra.get("aws_secret_access_key")),
        (session.get("aws_access_key_id"), session.get("aws_secret_access_key")),
    ]
    halves = [half for pair in pairs for half in pair if half]
    if any(bool(key) != bool(secret) for key, secret in pairs):
        problem, action = (
            "It has only one half of an access key.",
            "Put the key id into login, the secret into password.",
        )
    elif any(str(half) != str(half).strip() for half in halves):
        problem, action = "Its access key has spaces or line breaks around it.", "Paste both halves of the key again."
    elif halves or extra.get("role_arn") or extra.get("profile_name") or extra.get("ambient_credentials") is True:
        return
    else:
        problem = "It has no credential: neither an access key, nor role_arn, nor profile_name."
        action = (
            "Add one; or, if the credentials of the machine itself are meant, say so with "
            '"ambient_credentials": true in its extra.'
        )
    raise ConfigurationInvalid(problem, action=action, connection_id=found.conn_id)


def _check_aws_endpoints(found: Any, extra: Mapping[str, Any]) -> None:
    """Refuse addresses that would show the credential to others."""
    services = extra.get("service_config") or {}
    if not isinstance(services, Mapping) or not all(isinstance(service, Mapping) for service in services.values()):
        raise ConfigurationInvalid(
            "service_config in its extra is not a JSON object of JSON objects.",
            action='Correct it, for example {"cloudwatch": {"endpoint_url": "https://…"}}.',
            connection_id=found.conn_id,
        )
    for place in (extra, *services.values()):
        if place.get("endpoint_url"):
            checked_base_url(place["endpoint_url"], connection_id=found.conn_id)
