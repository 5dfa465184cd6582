"""
A provider that is asked over HTTP with a key.

What such providers have in common beside the contract: an address, how the key is sent, a pace, and what their
refusals mean. The module says it as data and small pure functions; everything else is the client's.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from ai_usage.core.contract import Journal, Provider
from ai_usage.core.errors import UsageError
from ai_usage.core.http import HttpClient, Limits, Refusal


class HttpProvider(Provider):
    """
    A source of usage behind a key and an address.

    Its :class:`~ai_usage.core.contract.Connection` has an :class:`~ai_usage.core.http.HttpClient` that counts into the
    connection's journal. The options never hold the key, nor any setting whose name sounds like a secret
    (``…api_key…``, ``…_token…``), so no option may be called so.
    """

    client_kind = "http"
    base_url: ClassVar[str]
    """Where the provider lives, unless the connection says otherwise; paths are asked below it."""
    limits: ClassVar[Limits] = Limits()

    @abstractmethod
    def secret_headers(self, key: str) -> Mapping[str, str]:
        """
        Return the headers that carry the key; it goes nowhere else.

        :raises ConfigurationInvalid: if the key can be seen to be of a kind that cannot read usage.
        """

    def headers(self, options: Mapping[str, Any]) -> Mapping[str, str]:  # noqa: ARG002 - for those who need none
        """Return the headers of every request that are no secret: versions, feature flags, the organisation to ask."""
        return {}

    def explain(self, refusal: Refusal) -> UsageError | None:  # noqa: ARG002 - the status says enough for some
        """Return what a refusal means in the provider's words, or ``None`` to leave it to the status."""
        return None

    def client(
        self,
        key: str,
        *,
        connection_id: str,
        options: Mapping[str, Any] = MappingProxyType({}),
        base_url: str | None = None,
        secrets: Iterable[str] = (),
        journal: Journal | None = None,
        limits: Limits | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> HttpClient:
        """
        Return a client that holds the key. Nothing is asked yet.

        :param base_url: an address in place of the provider's own.
        :param secrets: what else of the connection nobody may read, beside the key.
        :param limits: bounds in place of the provider's own.
        :raises ConfigurationInvalid: if the key or the address cannot be used.
        """
        try:
            secret_headers = self.secret_headers(key)
            headers = self.headers(options)
        except UsageError as error:
            raise error.at(connection_id) from None
        return HttpClient(
            base_url or self.base_url,
            connection_id=connection_id,
            headers=headers,
            secret_headers=secret_headers,
            secrets=[key, *secrets],
            journal=journal,
            limits=limits or self.limits,
            explain=self.explain,
            sleep=sleep,
        )
