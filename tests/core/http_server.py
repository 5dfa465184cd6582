"""A server on loopback that misbehaves on request: each answer is a function that writes to the socket as it likes."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.loopback import LoopbackServer


@dataclass
class Request:
    """What arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float


Step = Callable[[socket.socket, Request], None]


@dataclass
class Server(LoopbackServer):
    """
    Answers each request with the next step; the last one is repeated.

    :param context: to speak TLS.
    """

    steps: list[Step]
    context: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    def talk(self, connection: socket.socket) -> None:
        """Answer requests as long as they come."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context:
            connection = self.context.wrap_socket(connection, server_side=True)
        with connection, connection.makefile("rb") as stream:
            while line := stream.readline().decode():
                method, target, _ = line.split(" ", 2)
                headers = {}
                while (header := stream.readline().decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                request = Request(method, target, headers, body, time.monotonic())
                step = self.steps[min(len(self.requests), len(self.steps) - 1)]
                self.requests.append(request)
                step(connection, request)


def raw(content: bytes, *, close: bool = True) -> Step:
    """Send bytes as they are."""

    def step(connection: socket.socket, _: Request) -> None:
        connection.sendall(content)
        if close:
            connection.shutdown(socket.SHUT_RDWR)

    return step


def answer(status: int, body: bytes = b"", **headers: str) -> Step:
    """Send a proper answer and keep the connection."""
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = f"HTTP/1.1 {status} Status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return raw(head.encode() + b"\r\n" + body, close=False)


def ok(document: Any) -> Step:
    """Send a JSON document."""
    return answer(200, json.dumps(document).encode())


def reset(connection: socket.socket, _: Request) -> None:
    """Reset the connection instead of answering."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError


def drip(head: bytes, tail: bytes, pause: float) -> Step:
    """Send the head at once and the tail one byte at a time."""

    def step(connection: socket.socket, _: Request) -> None:
        connection.sendall(head)
        for byte in tail:
            time.sleep(pause)
            connection.sendall(bytes([byte]))

    return step


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the means to speak TLS with a certificate for 127.0.0.1 that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
