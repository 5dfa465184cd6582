"""
The hooks of our connection types: what the **Test** button of a connection calls.

There is one class per provider that has a connection type (``OpenaiHook``, …), made when Airflow asks for it by name.
All of them do the same: put the provider's own questions to it, and say in a sentence what came of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from airflow.sdk.bases.hook import BaseHook

from ai_usage import connection_types, providers
from ai_usage.core.contract import Check, Memory
from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.core.http import HttpClient
from ai_usage.orchestration.clients import find_connection, open_connection
from ai_usage.orchestration.settings import extra_of

PATIENCE = 20.0
"""Seconds for one question with its repeats: a person is waiting, and so is a thread of Airflow's API server."""


class UsageHook(BaseHook):
    """
    A connection of one provider, as far as its **Test** button goes.

    :param ai_usage_conn_id: the connection.
    """

    conn_name_attr = "ai_usage_conn_id"
    provider_name: ClassVar[str]

    def __init__(self, ai_usage_conn_id: str, **_: object) -> None:
        super().__init__()
        self._connection_id = ai_usage_conn_id

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the connection works, and what was found or what failed and what to do."""
        try:
            return told(self._checks())
        except UsageError as error:
            # Without the connection's id: while it is being tested, Airflow gives it a random one.
            return False, f"{error.happened} {error.action}"

    def _checks(self) -> list[Check]:
        self._refuse_hidden_address()
        connection = open_connection(providers.load(self.provider_name), self._connection_id, Memory())
        client: HttpClient = connection.client
        client.limits = replace(client.limits, attempts=2, patience=PATIENCE, answer_timeout=PATIENCE, longest_wait=5.0)
        with client:
            return list(providers.load(self.provider_name).check(connection))

    def _refuse_hidden_address(self) -> None:
        """
        Refuse to test an address that stands in the extra.

        Airflow lets people test a stored connection without seeing its key, but only against the stored host; an
        address in the extra would get around that, and the key would go wherever they say.
        """
        found = find_connection(self._connection_id)
        if found is not None and extra_of(found).get("base_url"):
            raise ConfigurationInvalid(
                "An address in the extra (base_url) cannot be tested from here.",
                action="Put it into the field host, or test with bin/ai-usage check.",
                connection_id=self._connection_id,
            )


def told(checks: Iterable[Check]) -> tuple[bool, str]:
    """Return the answers as one: whether none failed, and the failures with what to do, or else what was found."""
    checks = list(checks)
    failed = [check for check in checks if check.passed is False]
    answers = (f"{check.name}: {check.message} {check.action or ''}".strip() for check in failed or checks)
    return not failed, " ".join(answers)


def __getattr__(name: str) -> Any:
    """Make a provider's hook class when it is first asked for."""
    for provider_name in connection_types.names():
        if connection_types.hook_class(provider_name) == name:
            declared = connection_types.load(provider_name)
            made = type(
                name,
                (UsageHook,),
                {
                    "__module__": __name__,
                    "__doc__": f"The connection type of {providers.load(provider_name).label}.",
                    "provider_name": provider_name,
                    "conn_type": declared["connection-type"],
                    "hook_name": declared["hook-name"],
                    "default_conn_name": f"{provider_name}_default",
                },
            )
            globals()[name] = made
            return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
