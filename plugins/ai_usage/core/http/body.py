"""From bytes to a JSON document whose numbers are exact, or a plain reason why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

_BEARER_LIKE = re.compile(r"[A-Za-z0-9_\-+/=.~]{16,}")
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
        forms: set[str] = set()
        for secret in secrets:
            if not secret:
                continue
            escaped = json.dumps(secret)[1:-1]
            for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret), escaped):
                forms |= {form, re.sub(r"%[0-9A-F]{2}", lambda match: match.group().lower(), form)}
        # The longest first, lest a shorter form leave the tail of a longer one behind.
        self._forms = sorted(forms, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """Return the text with every form of every secret replaced by ``***``."""
        for form in self._forms:
            text = text.replace(form, "***")
        return text

    def excerpt(self, body: bytes, length: int = 200) -> str:
        """Return the beginning of a body, fit for an error text: no secrets, nothing that looks like one, one line."""
        text = self.clean(body[: length * 4].decode("utf-8", errors="replace"))
        text = _BEARER_LIKE.sub("…", _UNPRINTABLE.sub(" ", text))
        return " ".join(text.split())[:length]
