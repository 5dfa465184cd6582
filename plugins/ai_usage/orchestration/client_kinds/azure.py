"""Azure Resource Manager and Azure Monitor, asked as the service principal of Airflow's ``azure`` connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_usage.core.contract import Journal, Provider
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.http import checked_base_url
from ai_usage.orchestration.settings import Opened, extra_of, secrets_of
from ai_usage.providers._azure import CLOUDS, AzureClient, Cloud, Principal

OPTIONS = ("subscriptionId", "scopes", "account_name", "start_date", "lookback_days")
"""What of the extra is ours to read. Airflow's own fields may hold keys (``key_json``), so that only these are taken."""
_OLD_PREFIX = "extra__azure__"


def open_client(_: Provider, found: Any) -> Opened:
    """Return a client that signs in by itself, and the settings that are ours."""
    extra = {name.removeprefix(_OLD_PREFIX): value for name, value in extra_of(found).items()}
    principal = _principal(found, extra)
    journal = Journal()
    client = AzureClient(
        principal,
        connection_id=found.conn_id,
        cloud=_cloud(found, extra),
        login_url=_address(found, extra.get("login_url")),
        management_url=_address(found, extra.get("management_url")),
        metrics_url=_address(found, extra.get("metrics_url")),
        secrets=secrets_of(extra),
        journal=journal,
    )
    options = {name: extra[name] for name in OPTIONS if extra.get(name) not in (None, "")}
    return Opened(options, client, journal)


def _principal(found: Any, extra: Mapping[str, Any]) -> Principal:
    """
    Return the service principal, whole.

    Airflow's own hook would go on with whatever identity the machine has if a part of it is missing.
    """
    values = {
        "login (client id)": found.login,
        "password (client secret)": found.password,
        "tenantId": extra.get("tenantId"),
    }
    missing = [name for name, value in values.items() if not (isinstance(value, str) and value.strip())]
    if missing:
        raise ConfigurationInvalid(
            f"It lacks {' and '.join(missing)}.",
            action="A service principal is needed: client id as login, client secret as password, tenantId in the extra.",
            connection_id=found.conn_id,
        )
    client_id, secret, tenant = (str(value).strip() for value in values.values())
    return Principal(tenant, client_id, secret)


def _cloud(found: Any, extra: Mapping[str, Any]) -> Cloud:
    name = extra.get("cloud_environment") or "AzurePublicCloud"
    if name not in CLOUDS:
        raise ConfigurationInvalid(
            "cloud_environment in its extra is no cloud of Azure.",
            action=f"Choose one of {', '.join(CLOUDS)}.",
            connection_id=found.conn_id,
        )
    return CLOUDS[name]


def _address(found: Any, given: Any) -> str | None:
    """Return an address that stands in for the cloud's own; ``{region}`` may be a part of one."""
    if given in (None, ""):
        return None
    if not isinstance(given, str):
        checked_base_url("", connection_id=found.conn_id)
    checked_base_url(given.replace("{region}", "region"), connection_id=found.conn_id)
    return str(given).strip().rstrip("/")
