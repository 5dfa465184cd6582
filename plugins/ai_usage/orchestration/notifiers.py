"""
The ways to tell people, each an Airflow connection. A way exists when its connection does; without any nothing is sent.

A connection that is there and wrong is no way either: it is a problem, told on the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ai_usage.core.errors import UsageError
from ai_usage.orchestration.clients import find_connection
from ai_usage.orchestration.mail import SMTP, MailNotifier, addresses_of
from ai_usage.orchestration.messages import Message
from ai_usage.orchestration.webhook import WEBHOOK, NotDelivered, WebhookNotifier, receiver_of

__all__ = ["SMTP", "WEBHOOK", "Channel", "MailNotifier", "NotDelivered", "WebhookNotifier", "channels"]


@dataclass(frozen=True)
class Channel:
    """
    One way to tell people.

    :param name: the id of its Airflow connection.
    :param wrong: why it cannot be used; ``None`` if it can.
    """

    name: str
    wrong: UsageError | None = None

    def send(self, message: Message) -> None:
        """Send a message; raises an error of this project when that fails."""
        _NOTIFIERS[self.name](message).notify({})


_NOTIFIERS: Mapping[str, Callable[[Message], Any]] = {WEBHOOK: WebhookNotifier, SMTP: MailNotifier}
_CHECKS: Mapping[str, Callable[[Any], object]] = {WEBHOOK: receiver_of, SMTP: addresses_of}


def channels() -> list[Channel]:
    """
    Return the ways whose connections exist.

    :raises SourceUnavailable: if Airflow itself does not answer.
    """
    found: list[Channel] = []
    for name, check in _CHECKS.items():
        try:
            connection = find_connection(name)
            if connection is not None:
                check(connection)
                found.append(Channel(name))
        except UsageError as error:
            if not error.is_permanent:
                raise
            found.append(Channel(name, wrong=error))
    return found
