"""
Where a request may go.

A credential is sent to exactly one place: the scheme, host and port of the connection's base address. Whatever else an
answer or a setting names (another host in a ``next`` link, a path that climbs out with ``..``) is refused before a byte
is sent.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from ai_usage.core.errors import ConfigurationInvalid, ResponseInvalid

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f\\]")
_NUMBER_LIKE = re.compile(r"(?:\d+|0x[0-9a-f]*)", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_loopback(host: str | None) -> bool:
    """Return whether the host is this very machine: ``localhost``, ``127.0.0.0/8`` or ``::1``, spelled plainly."""
    if not host:
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def checked_base_url(text: str, *, connection_id: str | None = None) -> str:
    """
    Return a base address in its one spelling: without a closing slash.

    :raises ConfigurationInvalid: for anything but ``https://host[:port][/path]``, or the same with plain ``http`` on a
        loopback address. The text itself is never repeated, since it may hold a password.
    """
    problem = _problem_of(text)
    if problem:
        raise ConfigurationInvalid(
            f"The address to call is not acceptable: {problem}.",
            action="Give an address such as https://api.example.com/v1; plain http only for this machine itself.",
            connection_id=connection_id,
        )
    return text.strip().rstrip("/")


def _problem_of(text: object) -> str | None:
    """Return what is wrong with a base address, or ``None``."""
    if not isinstance(text, str) or not text.strip():
        return "it is empty"
    text = text.strip()
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "it is not an address"
    problems = {
        "it holds a space, a control character or a backslash": bool(_UNPRINTABLE.search(text)),
        "it must begin with https://": parts.scheme not in _DEFAULT_PORTS,
        "it holds a user name or password, which belongs in the connection's own fields": "@" in parts.netloc,
        "it holds a query or a fragment": "?" in text or "#" in text,
        "its host is not a plain name or IP address": not host or _is_ambiguous(host),
        "its path climbs out with '..'": _climbs(parts.path),
        "plain http would show the credential to everyone on the way": parts.scheme == "http" and not is_loopback(host),
    }
    return next((problem for problem, is_there in problems.items() if is_there), None)


def _is_ambiguous(host: str) -> bool:
    """Return whether resolvers may read the host in two ways (``0177.0.0.1``, ``2130706433``), or it is link-local."""
    try:
        address = ip_address(host)
    except ValueError:
        last_label = host.rstrip(".").rpartition(".")[2]
        return not _HOST.fullmatch(host) or bool(_NUMBER_LIKE.fullmatch(last_label))
    return address.is_link_local or address.is_multicast or address.is_unspecified


def _climbs(path: str) -> bool:
    return any(segment in {".", ".."} for segment in re.split(r"[/\\]", unquote(path)))


def as_segment(text: str, *, connection_id: str | None = None) -> str:
    """
    Return a value quoted so that it stays one segment of a path.

    :raises ConfigurationInvalid: for a value such as ``..``, which servers take for a path however it is quoted.
    """
    if not text or _climbs(text):
        raise ConfigurationInvalid(
            f"{text[:40]!r} cannot be part of an address.",
            action="Correct the id in the connection.",
            connection_id=connection_id,
        )
    return quote(text, safe="")


class Address:
    """
    The one place a client may call.

    :param base_url: an address for :func:`checked_base_url`.
    """

    def __init__(self, base_url: str, *, connection_id: str | None = None) -> None:
        self.base_url = checked_base_url(base_url, connection_id=connection_id)
        self._parts = urlsplit(self.base_url)
        self._connection_id = connection_id

    @property
    def is_loopback(self) -> bool:
        """Whether calls stay on this machine."""
        return is_loopback(self._parts.hostname)

    def url(self, path: str) -> str:
        """
        Return the full address of a path below the base address.

        :raises ValueError: for a path that is not one (a query, another host, ``..``): a mistake in our own code, since
            providers quote what they put into a path (:func:`as_segment`).
        """
        if _UNPRINTABLE.search(path) or "?" in path or "#" in path or _climbs(path) or path.startswith("//"):
            raise ValueError(f"not a path below the base address: {path!r}")
        if urlsplit(path).scheme:
            raise ValueError(f"not a path below the base address: {path!r}")
        return f"{self.base_url}/{path.lstrip('/')}"

    def follow(self, link: str, *, seen_at: str) -> str:
        """
        Return the full address of a link the provider gave us, if it keeps scheme, host and port.

        :param seen_at: the full address of the answer that held the link; relative links start there.
        :raises ResponseInvalid: if the link leads anywhere else.
        """
        try:
            target = urljoin(seen_at, link)
            stays = not _UNPRINTABLE.search(link) and self._origin(urlsplit(target)) == self._origin(self._parts)
        except ValueError:
            stays = False
        if not stays:
            raise ResponseInvalid(
                "The provider sent us on to another host, and a credential must not follow.",
                action="Check the connection's address; if it is right, report this.",
                connection_id=self._connection_id,
            )
        return target

    @staticmethod
    def _origin(parts: SplitResult) -> tuple[str, str | None, int | None, bool]:
        return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme), "@" in parts.netloc
