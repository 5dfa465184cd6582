"""A mail server on loopback: takes what it is sent, or refuses, as it is told."""

from __future__ import annotations

import base64
import email
import socket
import ssl
import threading
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from types import TracebackType
from typing import BinaryIO, cast


@dataclass
class MailServer:
    """
    Speaks as much SMTP as Python's client needs.

    :param login: user and password that it wants; without one anybody may send.
    :param context: to offer STARTTLS.
    :param refuses: receivers that it does not know.
    :param is_busy: answers every mail with 451.
    """

    login: tuple[str, str] | None = None
    context: ssl.SSLContext | None = None
    refuses: frozenset[str] = frozenset()
    is_busy: bool = False
    mails: list[tuple[str, list[str], EmailMessage]] = field(default_factory=list)
    sessions: int = 0

    def __enter__(self) -> MailServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.sessions += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._talk(connection)
        except (OSError, ValueError):
            return

    def _talk(self, connection: socket.socket) -> None:
        stream = cast(BinaryIO, connection.makefile("rwb", buffering=0))

        def say(text: str) -> None:
            stream.write(f"{text}\r\n".encode())

        sender, receivers, is_known = "", list[str](), self.login is None
        say("220 mail.test")
        while line := stream.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    offers = ["mail.test", *(["STARTTLS"] if self.context else []), "AUTH PLAIN"]
                    for n, offer in enumerate(offers, start=1):
                        say(f"250{' ' if n == len(offers) else '-'}{offer}")
                case "STARTTLS" if self.context:
                    say("220 go ahead")
                    connection = self.context.wrap_socket(connection, server_side=True)
                    stream = cast(BinaryIO, connection.makefile("rwb", buffering=0))
                case "AUTH":
                    _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                    is_known = (user, password) == self.login
                    say("235 welcome" if is_known else f"535 5.7.8 {password} is not your password")
                case "MAIL" if not is_known:
                    say("530 who are you")
                case "MAIL":
                    sender, receivers = rest.partition(":")[2].strip("<>").split(">")[0], []
                    say("250 ok")
                case "RCPT":
                    receiver = rest.partition(":")[2].strip("<>")
                    if receiver in self.refuses:
                        say("550 no such mailbox")
                    else:
                        receivers.append(receiver)
                        say("250 ok")
                case "DATA":
                    say("354 go on")
                    content = _until_dot(stream)
                    if self.is_busy:
                        say("451 try again later")
                    else:
                        mail = email.message_from_bytes(content, policy=policy.default)
                        self.mails.append((sender, receivers, mail))
                        say("250 taken")
                case "QUIT":
                    say("221 bye")
                    return
                case _:
                    say("250 ok")


def _until_dot(stream: BinaryIO) -> bytes:
    lines = []
    while (line := stream.readline()) not in (b".\r\n", b""):
        lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
    return b"".join(lines)
