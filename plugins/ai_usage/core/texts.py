"""
What may stand in a text that people read: one line, and nothing that looks like a credential.

Names come from providers, settings from people who may paste a key into the wrong field. Both end up in sentences that are
logged, stored and sent. Every error, check and note goes through here, so that nobody has to remember to.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+")
_KEY_OF_A_VENDOR = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-|gsk_|fw_|fpk_|r8_|xai-|AIza|ya29\.|eyJ)[A-Za-z0-9_\-+/=.~%]{16,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY.*|\b(?:Bearer|Basic) [A-Za-z0-9_\-+/=.~%]{8,}",
    re.DOTALL | re.IGNORECASE,
)
_LONG_WORD = re.compile(r"[A-Za-z0-9+=~]{28,}")
_KINDS = tuple(re.compile(kind) for kind in ("[a-z]", "[A-Z]", "[0-9]"))


def plain(text: str) -> str:
    """Return a text on one line, without control characters, and with ``***`` for what looks like a credential."""
    return _UNPRINTABLE.sub(" ", without_keys(text))


def without_keys(text: str) -> str:
    """Return a text with ``***`` for what looks like a credential, by how vendors' keys begin or by how random it is."""
    text = _KEY_OF_A_VENDOR.sub(HIDDEN, text)
    return _LONG_WORD.sub(lambda word: HIDDEN if _is_random(word.group()) else word.group(), text)


def _is_random(word: str) -> bool:
    """Return whether a long word mixes small letters, capitals and digits: identifiers in hexadecimal do not."""
    return all(kind.search(word) for kind in _KINDS)
