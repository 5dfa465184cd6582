"""Connections of all ten providers whose every secret is a canary."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

PREFIXES = {
    "openai": "sk-admin-",
    "anthropic": "sk-ant-admin01-",
    "groq": "gsk_",
    "fireworks": "fw_",
    "openrouter": "sk-or-v1-",
    "replicate": "r8_",
}
PROVIDERS = (*PREFIXES, "authress", "aws_bedrock", "azure_openai", "google_vertex_ai")


@dataclass(frozen=True)
class Planted:
    """
    A connection.

    :param secrets: every text in it that nobody may ever read.
    :param beside: connections that it needs.
    """

    connection_id: str
    fields: dict[str, Any]
    secrets: tuple[str, ...]
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the variables from which Airflow reads it."""
        known = {self.connection_id: self.fields} | self.beside
        return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in known.items()}


@cache
def pem(_: str) -> str:
    """Return a private key over many lines."""
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def canary(*names: str) -> str:
    """Return a secret with every character that some encoding changes and a header can carry."""
    return f'Canary%2B+/={"-".join(names)}&"0123456789'


def plant(provider: str, url: str, start_date: str) -> Planted:
    """Return a connection to an address, filled with secrets."""
    connection_id = f"{provider}_canary"
    stray = canary(provider, "stray")
    extra: dict[str, Any] = {"start_date": start_date, "api_key": stray, "x-secret": stray}
    if provider in PREFIXES:
        key = PREFIXES[provider] + canary(provider)
        fields = {"conn_type": f"ai_usage_{provider}", "host": url, "password": key, "extra": extra}
        return Planted(connection_id, fields, (key, stray))
    return _OTHERS[provider](connection_id, url, extra, stray)


def _aws_fields(provider: str, url: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    secret, session = canary(provider, "secret"), canary(provider, "session")
    services = {name: {"endpoint_url": url} for name in ("cloudwatch", "sts", "s3", "bedrock", "organizations")}
    extra = {
        "region_name": "us-east-1",
        "service_config": services,
        "aws_session_token": session,
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }
    return {"conn_type": "aws", "login": "AKIAIOSFODNN7EXAMPLE", "password": secret, "extra": extra}, (secret, session)


def _aws(connection_id: str, url: str, extra: dict[str, Any], stray: str) -> Planted:
    fields, secrets = _aws_fields("aws_bedrock", url)
    fields["extra"] |= extra
    return Planted(connection_id, fields, (*secrets, stray))


def _authress(connection_id: str, url: str, extra: dict[str, Any], stray: str) -> Planted:
    beside, secrets = _aws_fields("authress", url)
    key = pem("authress")
    old = {
        "clientId": "client",
        "keyId": "key-1",
        "audience": "https://account.accounts.authress.io",
        "privateKey": key,
    }
    whole = base64.b64encode(json.dumps(old).encode()).decode()
    extra |= {"location": "s3://bucket/folder", "storage_connection": "authress_landing_canary"}
    fields = {"conn_type": "ai_usage_authress", "host": url, "password": whole, "extra": extra}
    return Planted(connection_id, fields, (key, whole, stray, *secrets), {"authress_landing_canary": beside})


def _azure(connection_id: str, url: str, extra: dict[str, Any], stray: str) -> Planted:
    secret = canary("azure_openai", "secret")
    extra |= {
        "tenantId": "11111111-2222-3333-4444-555555555555",
        "login_url": url,
        "management_url": url,
        "metrics_url": url,
        "key_json": {"clientSecret": stray},
    }
    fields = {"conn_type": "azure", "login": "66666666-2222-3333-4444-555555555555", "password": secret, "extra": extra}
    return Planted(connection_id, fields, (secret, stray))


def _google(connection_id: str, url: str, extra: dict[str, Any], stray: str) -> Planted:
    key = {
        "type": "service_account",
        "project_id": "a-project",
        "private_key_id": canary("google", "key-id"),
        "private_key": pem("google"),
        "client_email": "reader@a-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{url}/token",
    }
    extra |= {
        "keyfile_dict": json.dumps(key),
        "project": "a-project",
        "api_endpoint": url,
        "dataset": "a-project.billing",
    }
    fields = {"conn_type": "google_cloud_platform", "extra": extra}
    return Planted(connection_id, fields, (key["private_key"], stray))


_OTHERS = {"aws_bedrock": _aws, "authress": _authress, "azure_openai": _azure, "google_vertex_ai": _google}


# As vendors make them: what a person pastes into the wrong field looks like this.
LIKELY = {
    "openai": "sk-admin-AbCdEf0123456789GhIjKlMnOpQrStUvWxYz",
    "anthropic": "sk-ant-admin01-AbCdEf0123456789GhIjKlMnOpQrStUvWxYz-AA",
    "groq": "gsk_AbCdEf0123456789GhIjKlMnOpQrStUvWxYz0123456789",
    "fireworks": "fw_AbCdEf0123456789GhIjKl",
    "openrouter": "sk-or-v1-0123456789abcdef0123456789abcdef0123456789abcdef",
    "replicate": "r8_AbCdEf0123456789GhIjKlMnOpQrStUvWx",
    "authress": "client.key-1.account.MC4CAQAwBQYDK2VwBCIEIAbCdEf0123456789GhIjKlMnOpQrStUvWxYz01",
    "aws_bedrock": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY12",
    "azure_openai": "AbC8Q~DeFgHiJkLmNoPqRsTuVwXyZ0123456789ab",
    "google_vertex_ai": "-----BEGIN PRIVATE KEY-----\nMIIEvAIBADANBgkqhkiG9w0BAQEFAASCBKYwggSi\n-----END PRIVATE KEY-----\n",
}
