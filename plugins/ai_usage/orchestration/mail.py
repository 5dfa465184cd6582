"""Messages by mail, through Airflow's own SMTP provider."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from functools import cached_property
from typing import Any

from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.providers.smtp.notifications.smtp import SmtpNotifier

from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.core.http.address import is_loopback
from ai_usage.core.http.deadline import DeadlineExceededError, call_within
from ai_usage.orchestration.clients import find_connection
from ai_usage.orchestration.messages import Message
from ai_usage.orchestration.settings import extra_of
from ai_usage.orchestration.webhook import NotDelivered

SMTP = "ai_usage_smtp"
_IMPLICIT_TLS_PORT = 465
_TIMEOUT = 15
_DELIVERY_TIMEOUT = 60.0


class MailHook(SmtpHook):
    """
    Airflow's SMTP hook, with safe settings where the connection leaves them open.

    Airflow's own defaults ask for TLS at once and for STARTTLS after it, which no server takes. Here the port decides:
    TLS at once on 465, STARTTLS on all others, unless ``disable_ssl`` and ``disable_tls`` say so themselves.
    """

    @property
    def use_ssl(self) -> bool:
        """Whether the session begins with TLS."""
        disabled = self.conn.extra_dejson.get("disable_ssl")
        return self.port == _IMPLICIT_TLS_PORT if disabled is None else not bool(disabled)

    @property
    def smtp_starttls(self) -> bool:
        """Whether the session changes to TLS."""
        disabled = self.conn.extra_dejson.get("disable_tls")
        return not self.use_ssl if disabled is None else not bool(disabled)

    @property
    def timeout(self) -> int:
        """Seconds for one step."""
        return min(_TIMEOUT, int(super().timeout))

    @property
    def smtp_retry_limit(self) -> int:
        """How often to connect again: what is not told now is told again with the next news."""
        return 1

    def deliver(self, message: EmailMessage, sender: str, receivers: list[str]) -> int:
        """Hand a message to the server; return how many receivers it refused."""
        client: Any = self._smtp_client
        return len(client.send_message(message, from_addr=sender, to_addrs=receivers))


class MailNotifier(SmtpNotifier):
    """
    Sends one message as plain text and HTML to the addresses of an Airflow connection.

    Airflow's own notifier takes subject and body for templates. Here nothing is one: words of a provider must not be run
    by Airflow's renderer.

    :param message: what to tell.
    :param smtp_conn_id: the connection, of type ``smtp``; its extra says ``to`` and ``from``.
    """

    template_fields = ()

    def __init__(self, message: Message, smtp_conn_id: str = SMTP) -> None:
        super().__init__(to=[], smtp_conn_id=smtp_conn_id)
        self._message = message

    @cached_property
    def hook(self) -> MailHook:
        """The hook that sends."""
        return MailHook(smtp_conn_id=self.smtp_conn_id)

    def notify(self, context: Any) -> None:  # noqa: ARG002 - Airflow hands it to every notifier
        """
        Send the message.

        :raises ConfigurationInvalid: if the connection is not usable.
        :raises NotDelivered: if the server does not take the message.
        """
        found = find_connection(self.smtp_conn_id)
        if found is None:
            raise ConfigurationInvalid(
                "There is no such connection.",
                action="Add it; docs/notifications.md shows how.",
                connection_id=self.smtp_conn_id,
            )
        sender, receivers = addresses_of(found)
        try:
            refused = call_within(
                _DELIVERY_TIMEOUT, self._send, _mail(self._message, sender, receivers), sender, receivers
            )
        except DeadlineExceededError:
            raise self._not_delivered("The mail server did not answer in time.") from None
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the hook raises; its text may hold what the server was told
            code = getattr(error, "smtp_code", None)
            raise self._not_delivered(
                f"The mail server did not take the message ({type(error).__name__}{f' {code}' if code else ''})."
            ) from None
        if refused:
            self.log.warning("%s: the mail server refused %d of %d receivers.", SMTP, refused, len(receivers))

    def _send(self, message: EmailMessage, sender: str, receivers: list[str]) -> int:
        with self.hook as hook:
            try:
                return int(hook.deliver(message, sender, receivers))
            except smtplib.SMTPServerDisconnected:
                raise self._not_delivered("The mail server closed the connection.") from None

    def _not_delivered(self, happened: str) -> NotDelivered:
        return NotDelivered(
            happened,
            action="Check host, port, login and TLS of the connection. What was not told is told again.",
            connection_id=self.smtp_conn_id,
        )


def addresses_of(found: Any) -> tuple[str, list[str]]:
    """
    Return sender and receivers.

    :raises ConfigurationInvalid: if the connection lacks one, or would send its login over the network in the clear.
    """
    if found.conn_type != "smtp":
        raise _invalid(found, f"It is of type {str(found.conn_type)[:40]!r}.", "Make it a connection of type smtp.")
    extra = extra_of(found)
    if not found.host:
        raise _invalid(found, "It has no host.", "Name the mail server.")
    is_plain = bool(extra.get("disable_ssl")) and bool(extra.get("disable_tls"))
    if (is_plain or extra.get("ssl_context") == "none") and not is_loopback(found.host):
        raise _invalid(
            found,
            "It would send mail without TLS, or without checking whose it is.",
            "Leave out disable_ssl or disable_tls, and ssl_context.",
        )
    senders = _addresses(extra.get("from") or extra.get("from_email"))
    receivers = _addresses(extra.get("to"))
    if len(senders) != 1 or not receivers:
        raise _invalid(
            found,
            "Its extra lacks a sender (from) or receivers (to), or they are no addresses.",
            'For example {"from": "ai-usage@example.com", "to": "oncall@example.com, finops@example.com"}.',
        )
    return senders[0], receivers


def _addresses(setting: object) -> list[str]:
    """Return the addresses of a setting, a list or one text with commas; an empty list if one of them is none."""
    several = setting.replace(";", ",").split(",") if isinstance(setting, str) else setting
    if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
        return []
    found = [one.strip() for one in several if one.strip()]
    is_good = all(one.isprintable() and "@" in one and parseaddr(one)[1] == one for one in found)
    return found if is_good else []


def _mail(message: Message, sender: str, receivers: list[str]) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = message.title
    mail["From"] = sender
    mail["To"] = ", ".join(receivers)
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    # So that no absence notice answers.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.as_text())
    mail.add_alternative(message.as_html(), subtype="html")
    return mail


def _invalid(found: Any, happened: str, action: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        happened, action=f"{action} docs/notifications.md shows how.", connection_id=found.conn_id
    )
