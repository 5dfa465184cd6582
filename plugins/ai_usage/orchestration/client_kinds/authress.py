"""Authress: where its audit stream lands, with the credential of another connection, and perhaps an access key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from requests import Session

from ai_usage.core.contract import Journal, Provider
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.http import checked_base_url, is_loopback
from ai_usage.orchestration.client_kinds import aws, google
from ai_usage.orchestration.settings import Opened, extra_of, without_secrets
from ai_usage.providers._authress_key import is_authress_address, read_access_key
from ai_usage.providers._authress_landing import DAY_FOLDERS, S3, Count, Folder, GoogleBucket, Landing, Layout
from ai_usage.providers.authress import AuthressClient

_LOCATION = "Write s3://bucket/folder, gs://bucket/folder, or the whole path of a folder of this machine."
_STORAGE_TYPES = {"s3": "aws", "gs": "google_cloud_platform"}
_GOOGLE_STORAGE = "https://storage.googleapis.com"


def open_client(provider: Provider, found: Any) -> Opened:
    """Return the landing and the key, and the settings of the connection's extra."""
    extra = extra_of(found)
    journal = Journal()
    # A form hands in every field it has; one that was left empty is no setting.
    options = {name: value for name, value in without_secrets(extra).items() if value not in (None, "")}
    try:
        key = read_access_key(found.password) if (found.password or "").strip() else None
        landing = _landing(provider, options, journal)
    except ConfigurationInvalid as error:
        raise error.at(found.conn_id) from None
    custom_domain = checked_base_url(found.host, connection_id=found.conn_id) if found.host else None
    if found.port or found.schema or extra.get("base_url"):
        raise ConfigurationInvalid(
            "It names a port, a schema or base_url beside the address.",
            action="Write the whole address into host, for example https://login.example.com.",
            connection_id=found.conn_id,
        )
    if custom_domain and key and is_authress_address(custom_domain):
        # Regional hosts answer too, but no token may name them as its issuer.
        custom_domain = key.api_address()
    return Opened(options, AuthressClient(landing, key, custom_domain), journal)


def _landing(provider: Provider, options: Mapping[str, Any], journal: Journal) -> Landing:
    location = options.get("location")
    if not isinstance(location, str) or not location.strip().isprintable():
        raise ConfigurationInvalid("It does not say where the audit stream lands.", action=f"Set location. {_LOCATION}")
    root = location.strip().removeprefix("file://").rstrip("/")
    layout = Layout(str(options.get("day_folders") or DAY_FOLDERS))
    scheme, bucket = urlsplit(root).scheme, urlsplit(root).netloc
    storage = options.get("storage_connection")
    if scheme in _STORAGE_TYPES and bucket:
        stored = _storage_connection(provider, storage, _STORAGE_TYPES[scheme])
        if scheme == "s3":
            return S3(root, layout, _s3_client(provider, stored), stored.conn_id, journal=journal)
        how = {"timeout": (10.0, 60.0), "retry": import_module("google.cloud.storage.retry").DEFAULT_RETRY}
        return GoogleBucket(root, layout, _google_client(stored), stored.conn_id, how, journal=journal)
    if not Path(root).is_absolute() or ".." in Path(root).parts:
        raise ConfigurationInvalid(f"The location is {root[:80]!r}, which is none.", action=_LOCATION)
    if storage:
        raise ConfigurationInvalid(
            "A folder needs no storage_connection.", action="Leave it out, or write s3:// or gs:// before the bucket."
        )
    return Folder(root, layout, journal=journal)


def _storage_connection(provider: Provider, connection_id: Any, conn_type: str) -> Any:
    """Return the connection that holds the credential of the bucket."""
    from ai_usage.orchestration.clients import find_connection

    wanted = f"Name an Airflow connection of type {conn_type} that may list and read the bucket in storage_connection."
    if not isinstance(connection_id, str) or not connection_id:
        raise ConfigurationInvalid("It names no connection for the bucket.", action=wanted)
    stored = find_connection(connection_id)
    if stored is None or stored.conn_type != conn_type:
        problem = "which does not exist" if stored is None else f"which is of type {stored.conn_type!r}"
        raise ConfigurationInvalid(
            f"Its storage_connection is {connection_id[:80]!r}, {problem}; {provider.label} needs {conn_type!r}.",
            action=wanted,
        )
    return stored


def _s3_client(provider: Provider, stored: Any) -> Callable[[], Any]:
    clients = aws.open_client(provider, stored).client
    region = str(extra_of(stored).get("region_name") or "us-east-1")
    return lambda: clients.client("s3", region)


def _google_client(stored: Any) -> Callable[[Count], Any]:
    """Return what makes the client of Google's library, with the credential of an Airflow connection and no other."""
    extra = {name.removeprefix(google.PREFIX): value for name, value in extra_of(stored).items()}
    google.refuse_ambient_credentials(stored, extra)
    google.check_key(stored, extra)
    endpoint = google.google_address(stored, "api_endpoint", extra.get("api_endpoint") or _GOOGLE_STORAGE)

    def client(count: Count) -> Any:
        from google.api_core.client_options import ClientOptions

        # These have no types, or not for all of them.
        transport, storage = (
            import_module(name) for name in ("google.auth.transport.requests", "google.cloud.storage")
        )
        credentials, project = google.credentials_of(stored)
        tokens = Session()
        session = transport.AuthorizedSession(credentials, auth_request=transport.Request(tokens))
        session.hooks["response"].append(count)
        for one in (tokens, session):
            # A credential goes to one address, and a loopback address is never behind a proxy.
            one.max_redirects = 0
            one.trust_env = not is_loopback(urlsplit(endpoint).hostname)
        made = storage.Client(
            project=extra.get("project") or project or "none",
            credentials=credentials,
            _http=session,
            client_options=ClientOptions(api_endpoint=endpoint),
        )
        # For tracing that nobody does, the library would ask about the bucket in the background, call after call, which
        # takes a permission that reading objects does not.
        made._bucket_metadata_cache = None
        return made

    return client
