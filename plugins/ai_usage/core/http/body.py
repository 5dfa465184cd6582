"""From bytes to a JSON document whose numbers are exact, or a plain reason why not."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

_BEARER_LIKE = re.compile(r"[A-Za-z0-9_\-+/=.~%]{16,}")
SHORTEST_IN_BODIES = 12
"""Characters that a form of a secret has at least to be taken out of answers: shorter ones could be part of anything."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


class BodyCutError(Exception):
    """The body is not whole JSON: most likely the line broke. Asking again may help."""


class BodyUnusableError(Exception):
    """The body is something we must not use. Asking again will not help."""


def parse(body: bytes, *, max_depth: int) -> Any:
    """
    Return the JSON document: integers as ``int``, other numbers as ``Decimal``.

    Bytes that are not UTF-8 become U+FFFD, so that one odd name does not cost a whole window.

    :raises BodyCutError: if the JSON does not come to its end.
    :raises BodyUnusableError: for NaN, infinities, integers of thousands of digits, or too deep a nesting.
    """
    text = body.decode("utf-8-sig", errors="replace")
    problem: Exception
    try:
        document = json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)
    except json.JSONDecodeError:
        problem = BodyCutError("the JSON is cut short or broken")
    except RecursionError:
        problem = BodyUnusableError("it is nested too deeply")
    except BodyUnusableError as error:
        problem = error
    except (ValueError, ArithmeticError):
        problem = BodyUnusableError("it holds a number that is too large to be one")
    else:
        if not _is_deeper(document, max_depth):
            return document
        problem = BodyUnusableError("it is nested too deeply")
    raise problem


def _refuse_constant(name: str) -> NoReturn:
    raise BodyUnusableError(f"it holds {name}, which is not a number")


def _is_deeper(document: Any, max_depth: int) -> bool:
    """Return whether lists and objects are nested deeper than allowed; level by level, so that depth costs no stack."""
    level = [document] if isinstance(document, (dict, list)) else []
    for _ in range(max_depth):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


class Scrubber:
    """
    Takes known secrets out of texts, in whatever form they come back.

    :param secrets: the credentials a client holds.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret.strip() for form in _forms(secret)}
        # The longest first, lest a shorter form leave the tail of a longer one behind.
        self._forms = sorted(forms, key=len, reverse=True)
        self._in_bodies = [form.encode() for form in self._forms if len(form) >= SHORTEST_IN_BODIES]

    def clean(self, text: str) -> str:
        """Return the text with every form of every secret replaced by ``***``."""
        for form in self._forms:
            text = text.replace(form, "***")
        return text

    def clean_body(self, body: bytes) -> bytes:
        """
        Return an answer without the secrets that it repeats.

        In JSON they can only stand inside of texts, so that it stays the JSON that it was.
        """
        for form in self._in_bodies:
            if form in body:
                body = body.replace(form, b"***")
        return body

    def excerpt(self, body: bytes, length: int = 200) -> str:
        """Return the beginning of a body, fit for an error text: no secrets, nothing that looks like one, one line."""
        text = self.clean(body[: length * 4].decode("utf-8", errors="replace"))
        text = _BEARER_LIKE.sub("…", _UNPRINTABLE.sub(" ", text))
        return " ".join(text.split())[:length]


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, quoted, escaped, and in base64 with anything before and after it."""
    escaped = json.dumps(secret)[1:-1]
    for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), escaped, json.dumps(escaped)[1:-1]):
        yield form
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match.group().lower(), form)
    if len(secret) < SHORTEST_IN_BODIES:
        return
    raw = secret.encode()
    for offset in range(3):
        # The characters at both ends depend on the neighbours; what lies between them does not.
        begin, end = -(-offset * 8 // 6), (offset + len(raw)) * 8 // 6
        yield base64.b64encode(b"\0" * offset + raw)[begin:end].decode()
        yield base64.urlsafe_b64encode(b"\0" * offset + raw)[begin:end].decode()
    if "\n" in secret:
        yield from (line for line in map(str.strip, secret.splitlines()) if len(line) >= SHORTEST_IN_BODIES)
