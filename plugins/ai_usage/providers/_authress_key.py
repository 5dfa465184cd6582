"""The access key of an Authress service client: material to sign with, never sent anywhere."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from ai_usage.core.errors import ConfigurationInvalid

LIFETIME = 86_400
"""Seconds, as in Authress's own libraries."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_AUDIENCE = re.compile(r"(?:https://)?([A-Za-z0-9_-]{1,100})\.accounts\.authress\.io/?")
_NEW_KEY = (
    "Make an access key for a service client in the Authress Management Portal and paste it whole, as it is shown once."
)


@dataclass(frozen=True)
class AccessKey:
    """What an access key says."""

    client_id: str
    key_id: str
    account_id: str
    algorithm: str
    private_key: Any = field(repr=False)

    def api_address(self, custom_domain: str | None = None) -> str:
        """Return where the account's API lives."""
        return custom_domain or f"https://{self.account_id}.api.authress.io"

    def token(self, custom_domain: str | None = None) -> str:
        """Return a bearer token for the API, good for a day. Its issuer is the address that is called."""
        now = int(time.time())
        claims = {
            "aud": f"{self.account_id}.accounts.authress.io",
            "iss": f"{self.api_address(custom_domain)}/v1/clients/{self.client_id}",
            "sub": self.client_id,
            "client_id": self.client_id,
            "iat": now,
            "exp": now + LIFETIME,
            "scope": "openid",
        }
        headers = {"kid": self.key_id, "typ": "at+jwt"}
        return jwt.encode(claims, self.private_key, algorithm=self.algorithm, headers=headers)


def read_access_key(text: str) -> AccessKey:
    """
    Read an access key, of today's form (four parts with dots between them) or of the older one (JSON in base64).

    :raises ConfigurationInvalid: if it is none; the text itself is never repeated.
    """
    text = text.strip()
    old = _object_in_base64(text)
    if old is not None:
        return _old(old)
    parts = text.split(".", 3)
    if len(parts) == 3 and (_object_in_base64(parts[0]) or {}).get("alg"):
        raise ConfigurationInvalid("This is a token (a JWT), not an access key.", action=_NEW_KEY)
    if len(parts) != 4 or not all(_ID.fullmatch(part) for part in parts[:3]):
        raise ConfigurationInvalid(
            "This is not an access key of Authress: it does not have four parts.", action=_NEW_KEY
        )
    private_key = _loaded(parts[3])
    if not isinstance(private_key, Ed25519PrivateKey):
        raise ConfigurationInvalid("The last part of the access key is damaged.", action=_NEW_KEY)
    return AccessKey(parts[0], parts[1], parts[2], "EdDSA", private_key)


def _old(content: dict[str, Any]) -> AccessKey:
    audience = _AUDIENCE.fullmatch(str(content.get("audience")))
    ids = [str(content.get(name) or "") for name in ("clientId", "keyId")]
    private_key = _loaded(str(content.get("privateKey")))
    if audience is None or not all(_ID.fullmatch(one) for one in ids) or not isinstance(private_key, RSAPrivateKey):
        raise ConfigurationInvalid("The access key is of the older form, and damaged.", action=_NEW_KEY)
    return AccessKey(ids[0], ids[1], audience[1], "RS256", private_key)


def _object_in_base64(text: str) -> dict[str, Any] | None:
    try:
        padded = text + "=" * (-len(text) % 4)
        content = json.loads(base64.urlsafe_b64decode(padded.replace("+", "-").replace("/", "_")))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _loaded(text: str) -> Any:
    """Return a private key, or ``None``."""
    try:
        if "-----BEGIN" in text:
            return load_pem_private_key(text.encode(), None)
        return load_der_private_key(base64.b64decode(text + "=" * (-len(text) % 4)), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def is_authress_address(address: str) -> bool:
    """Return whether an address is one of Authress's own, where the account's id stands in the host."""
    return (urlsplit(address).hostname or "").endswith(".authress.io")
