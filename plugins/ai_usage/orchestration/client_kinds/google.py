"""BigQuery clients, their credentials made by Airflow's Google hook so that what it knows of connections holds here too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ai_usage.core.contract import Journal, Provider
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.http import checked_base_url, is_loopback
from ai_usage.orchestration.settings import Opened, extra_of, quieten_libraries, without_secrets

BIGQUERY = "https://bigquery.googleapis.com"
PREFIX = "extra__google_cloud_platform__"
"""How older versions of Airflow spelled the names in the extra."""
_AIRFLOWS_OWN_GOOGLE_KEYS = frozenset(
    {
        "ambient_credentials",
        "api_endpoint",
        "client_id",
        "credential_config_file",
        "idp_extra_params",
        "idp_issuer_url",
        "impersonation_chain",
        "is_anonymous",
        "key_path",
        "key_secret_name",
        "key_secret_project_id",
        "keyfile_dict",
        "num_retries",
        "quota_project_id",
        "scope",
    }
)
_CREDENTIALS = (
    "keyfile_dict",
    "key_path",
    "credential_config_file",
    "key_secret_name",
    "is_anonymous",
    "idp_issuer_url",
)


def open_client(_: Provider, found: Any) -> Opened:
    """Return a BigQuery client with the connection's credential, and the settings that are ours."""
    extra = {name.removeprefix(PREFIX): value for name, value in extra_of(found).items() if value not in (None, "")}
    refuse_ambient_credentials(found, extra)
    check_key(found, extra)
    endpoint = google_address(found, "api_endpoint", extra.get("api_endpoint") or BIGQUERY)
    credentials, project = credentials_of(found)
    project = extra.get("job_project") or extra.get("project") or project
    if not isinstance(project, str) or not project.strip():
        raise ConfigurationInvalid(
            "It does not say in which project queries are to run.",
            action="Fill in its project, or add job_project to its extra.",
            connection_id=found.conn_id,
        )
    options = {name: value for name, value in extra.items() if name not in _AIRFLOWS_OWN_GOOGLE_KEYS}
    journal = Journal()
    client = bigquery_client(credentials, project.strip(), endpoint=endpoint, journal=journal)
    return Opened(without_secrets(options), client, journal)


def bigquery_client(credentials: Any, project: str, *, endpoint: str, journal: Journal) -> Any:
    """
    Return a client that counts what it sends.

    :param project: where queries run and are billed.
    :param endpoint: BigQuery's address; given in any case, since the client would take another from the environment.
    """
    from google.api_core.client_options import ClientOptions
    from google.auth.transport.requests import AuthorizedSession, Request
    from google.cloud import bigquery
    from requests import Response, Session

    def count(response: Response, *_: Any, **__: Any) -> None:
        journal.calls += 1
        journal.bytes_received += len(response.content)
        journal.throttled += response.status_code == 429
        journal.retries += response.status_code == 429 or response.status_code >= 500

    tokens = Session()
    session = AuthorizedSession(credentials, auth_request=Request(tokens))
    for one in (tokens, session):
        one.hooks["response"].append(count)
        # A credential goes to one address, and a loopback address is never behind a proxy.
        one.max_redirects = 0
        one.trust_env = not is_loopback(urlsplit(endpoint).hostname)
    return bigquery.Client(
        project=project,
        credentials=credentials,
        _http=session,
        client_options=ClientOptions(api_endpoint=endpoint),
    )


def credentials_of(found: Any) -> tuple[Any, str | None]:
    """Return what Airflow's hook makes of the connection. Its errors may repeat parts of a key, so none gets out."""
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook

    quieten_libraries()
    try:
        credentials, project = GoogleBaseHook(gcp_conn_id=found.conn_id).get_credentials_and_project_id()
        return credentials, project
    except Exception as error:  # noqa: BLE001 - the hook and Google's libraries fail in many ways
        name = type(error).__name__
    raise ConfigurationInvalid(
        f"No credential could be made of what it holds ({name}).",
        action="Paste the service account's key file into Keyfile JSON again, whole.",
        connection_id=found.conn_id,
    )


def refuse_ambient_credentials(found: Any, extra: Mapping[str, Any]) -> None:
    """
    Refuse a connection without a credential of its own.

    Airflow's hook would go on with whatever the machine has (a key file in the environment, gcloud's login, the metadata
    server), and one company's bill would be filed under another's connection.
    """
    if any(extra.get(name) for name in _CREDENTIALS) or extra.get("ambient_credentials") is True:
        return
    raise ConfigurationInvalid(
        "It has no credential: neither Keyfile JSON, nor a key path, nor a credential configuration file.",
        action='Add one; or, if the credentials of the machine itself are meant, say so with "ambient_credentials": true '
        "in its extra.",
        connection_id=found.conn_id,
    )


def check_key(found: Any, extra: Mapping[str, Any]) -> None:
    """Refuse a key that is none, and one that would send its signature to somebody else than Google."""
    key, problem = extra.get("keyfile_dict"), None
    if extra.get("key_path") and not key:
        try:
            key = Path(str(extra["key_path"])).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            problem = "The file that its key path names cannot be read as JSON."
    try:
        key = json.loads(key) if isinstance(key, str) else key
    except ValueError:
        key, problem = None, "Its key is not JSON."
    if not problem and key is not None and (not isinstance(key, dict) or key.get("type") != "service_account"):
        problem = "Its key is not that of a service account."
    if problem:
        raise ConfigurationInvalid(
            problem,
            action="Paste the whole JSON file that Google gave for the service account's key.",
            connection_id=found.conn_id,
        )
    if key and key.get("token_uri"):
        google_address(found, "token_uri", key["token_uri"])


def google_address(found: Any, name: str, address: Any) -> str:
    """Return an address of Google's or of this very machine; refuse any other."""
    checked = checked_base_url(address, connection_id=found.conn_id)
    host = (urlsplit(checked).hostname or "").lower()
    if not (host.endswith(".googleapis.com") or is_loopback(host)):
        raise ConfigurationInvalid(
            f"Its {name} is neither an address of googleapis.com nor one of this machine.",
            action="Leave it out: Google's own address is the default.",
            connection_id=found.conn_id,
        )
    return checked
