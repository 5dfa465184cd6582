"""
From an Airflow connection to the client a provider needs.

Each kind of client (:attr:`~ai_usage.core.contract.Provider.client_kind`) is one function that is handed the provider
and the Airflow connection, and returns the settings without secrets and the client that holds the credential.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ai_usage.core.contract import Connection, Journal, Memory, Provider
from ai_usage.core.errors import ConfigurationInvalid, SourceUnavailable
from ai_usage.core.http import checked_base_url, is_loopback
from ai_usage.core.http_provider import HttpProvider

AWS_ATTEMPTS = 5
"""Attempts per call, the first included; botocore waits between them with growing, jittered pauses."""
AWS_CONNECT_TIMEOUT = 10
AWS_READ_TIMEOUT = 60
"""Seconds between two reads of the socket; the provider watches over the whole call."""

_SECRET_NAME = re.compile(
    r"secret|password|passwd|passphrase|token$|_token|api_?key|access_key|private_key|credential|authorization|keyfile",
    re.IGNORECASE,
)


class Opened(NamedTuple):
    """
    What a kind of client is made of.

    :param options: settings that may be read by anyone who may read logs.
    :param client: what the provider calls.
    :param journal: where the client counts its calls, if it does; otherwise the provider counts them.
    """

    options: Mapping[str, Any]
    client: Any
    journal: Journal | None = None


def open_connection(provider: Provider, connection_id: str, memory: Memory) -> Connection:
    """
    Return the connection with a client that is ready to use. Nothing is asked of the provider yet.

    Works in a task and in a plain process whose connections come from ``AIRFLOW_CONN_*``.

    :raises ConfigurationInvalid: if there is no such connection, or it is not one of the provider's. A missing
        connection never falls back to credentials that happen to lie around on the machine.
    :raises SourceUnavailable: if Airflow itself does not answer.
    """
    found = find_connection(connection_id)
    if found is None:
        raise ConfigurationInvalid(
            "There is no such connection.",
            action=f"Add it in Airflow (Admin, Connections) or as {_environment_name(connection_id)}.",
            connection_id=connection_id,
        )
    if found.conn_type != provider.connection_type:
        raise ConfigurationInvalid(
            f"It is a connection of type {str(found.conn_type or 'unknown')!r}, {provider.label} needs "
            f"{provider.connection_type!r}.",
            action="Correct its type, or name another connection.",
            connection_id=connection_id,
        )
    opened = OPENERS[provider.client_kind](provider, found)
    journal = opened.journal or Journal()
    return Connection(connection_id, dict(opened.options), opened.client, journal=journal, memory=memory)


def find_connection(connection_id: str) -> Any | None:
    """
    Return the Airflow connection, or ``None`` if there is none.

    Airflow's own look-up says "not defined" also when its API server does not answer, and when the value of an
    environment variable cannot be read. Both must not pass for "not connected".
    """
    from airflow.sdk import Connection as AirflowConnection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return AirflowConnection.get(connection_id)
    except AirflowNotFoundException:
        is_missing = True
    except PermissionError:
        is_missing = False
    if not is_missing:
        raise ConfigurationInvalid(
            "Airflow does not let this task read the connection.",
            action="Check who may use it (team, secrets backend).",
            connection_id=connection_id,
        )
    if os.environ.get(_environment_name(connection_id)):
        raise ConfigurationInvalid(
            f"{_environment_name(connection_id)} is set, but is neither a connection in JSON nor one in URI form.",
            action="Correct it; bin/airflow connections get shows how Airflow reads it.",
            connection_id=connection_id,
        )
    from airflow.sdk.execution_time.comms import GetConnection

    ask_airflow_itself(GetConnection(conn_id=connection_id), connection_id)
    return None


def ask_airflow_itself(question: Any, connection_id: str | None = None) -> None:
    """
    Make sure that what Airflow did not find is really not there.

    :param question: a message of the Task SDK to the supervisor of this task.
    :raises SourceUnavailable: if the API server did not answer it. Outside of tasks there is nobody to ask.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse

    supervisor = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if supervisor is None:
        return
    try:
        answer = supervisor.send(question)
    except AirflowRuntimeError as error:
        answer = error.error
    except OSError:
        answer = ErrorResponse()
    if isinstance(answer, ErrorResponse) and answer.error not in {
        ErrorType.CONNECTION_NOT_FOUND,
        ErrorType.VARIABLE_NOT_FOUND,
    }:
        raise SourceUnavailable(
            f"Airflow's API server did not answer ({answer.error.value}).",
            action="Nothing to do at once: the task tries again. If it stays, look at the API server.",
            connection_id=connection_id,
        )


def extra_of(found: Any) -> dict[str, Any]:
    """
    Return the connection's extra.

    :raises ConfigurationInvalid: if it is not a JSON object. Airflow itself would take it for an empty one.
    """
    try:
        extra = json.loads(found.extra) if found.extra else {}
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise ConfigurationInvalid(
            "Its extra is not a JSON object.",
            action='Correct it, for example {"region_name": "us-east-1"}.',
            connection_id=found.conn_id,
        )
    return extra


def without_secrets(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings whose names do not say that they are secret."""
    return {name: value for name, value in extra.items() if not _SECRET_NAME.search(name)}


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


def _open_aws(_: Provider, found: Any) -> Opened:
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


def _open_http(provider: Provider, found: Any) -> Opened:
    """Return an HTTP client with the connection's password as the key, and the settings of its extra."""
    assert isinstance(provider, HttpProvider)
    extra = extra_of(found)
    base_url = _address_of(found, extra.pop("base_url", None))
    # A form hands in every field it has; one that was left empty is no setting.
    options = {name: value for name, value in without_secrets(extra).items() if value not in (None, "")}
    key = (found.password or "").strip()
    if not key:
        raise ConfigurationInvalid(
            "It has no key.", action="Put the key into its password field.", connection_id=found.conn_id
        )
    journal = Journal()
    client = provider.client(key, connection_id=found.conn_id, options=options, base_url=base_url, journal=journal)
    return Opened(options, client, journal)


def _address_of(found: Any, from_extra: Any) -> str | None:
    """
    Return the address that stands in for the provider's own, or ``None``.

    Two places may name it: ``host``, which is the form's field, and ``base_url`` in the extra.
    """
    given = [address for address in (found.host, from_extra) if address not in (None, "")]
    problem = None
    if len(given) > 1 and given[0] != given[1]:
        problem, action = "Its host and base_url in its extra are different addresses.", "Keep one of them."
    elif found.port or found.schema:
        problem = "It names a port or a schema beside the address."
        action = "Write the whole address into host, for example https://gateway.example.com:8443/v1."
    if problem:
        raise ConfigurationInvalid(problem, action=action, connection_id=found.conn_id)
    return checked_base_url(given[0], connection_id=found.conn_id) if given else None


def _environment_name(connection_id: str) -> str:
    return f"AIRFLOW_CONN_{connection_id.upper()}"


OPENERS: Mapping[str, Callable[[Provider, Any], Opened]] = {"aws": _open_aws, "http": _open_http}
"""Kind of client → what makes it from an Airflow connection."""
