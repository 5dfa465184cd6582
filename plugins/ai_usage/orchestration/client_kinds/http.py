"""An HTTP client with a key."""

from __future__ import annotations

from typing import Any

from ai_usage.core.contract import Journal, Provider
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.core.http import checked_base_url
from ai_usage.core.http_provider import HttpProvider
from ai_usage.orchestration.settings import Opened, extra_of, secrets_of, without_secrets


def open_client(provider: Provider, found: Any) -> Opened:
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
    client = provider.client(
        key,
        connection_id=found.conn_id,
        options=options,
        base_url=base_url,
        secrets=secrets_of(extra),
        journal=journal,
    )
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
