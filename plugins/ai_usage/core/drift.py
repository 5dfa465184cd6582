"""
What a provider's answers have beside the fields that this project knows.

A new field is no reason to stop, and no reason to store whatever it holds: it could be content. What cannot be content
(a number, a flag, a short identifier) is kept in the raw record under ``extra_fields``; of the rest only the name is told.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ai_usage.core.contract import Journal, Note

MOST_EXTRAS = 32
"""How many unknown fields of one object are kept."""
LONGEST_IDENTIFIER = 64
LARGEST_NUMBER = 10**30

_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:/+-]*")
_CREDENTIAL = re.compile(r"sk-|bearer|gsk_|fw_|r8_|eyJ", re.IGNORECASE)
_UNUSABLE = "(a name that is none)"


@dataclass
class Drift:
    """
    Unknown fields, collected over one answer and told once.

    :param what: the answer, as the events call it: its path or its name.
    """

    what: str
    _kept: set[str] = field(default_factory=set)
    _dropped: set[str] = field(default_factory=set)
    _remarks: set[str] = field(default_factory=set)

    def keep(self, unknown: Mapping[str, Any], within: str = "") -> dict[str, Any]:
        """
        Return the unknown fields that may be stored, by their dotted names.

        :param within: where they stand inside the record, with a dot at its end.
        """
        found: dict[str, Any] = {}
        for name in sorted(unknown):
            if _FIELD_NAME.fullmatch(name) and len(found) < MOST_EXTRAS and is_harmless(unknown[name]):
                found[within + name] = unknown[name]
                self._kept.add(within + name)
            else:
                self.drop([name], within)
        return found

    def extras(self, row: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
        """Return what may be stored of a row's unknown fields, as ``extra_fields``; nothing if there is none."""
        extras = self.keep({name: value for name, value in row.items() if name not in known})
        return {"extra_fields": extras} if extras else {}

    def drop(self, names: Iterable[str], within: str = "") -> None:
        """Note unknown fields that are not stored."""
        self._dropped |= {within + (name if _FIELD_NAME.fullmatch(name) else _UNUSABLE) for name in names}

    def remark(self, sentence: str) -> None:
        """Note something else that is not as documented. The same words are told once."""
        self._remarks.add(sentence)

    def tell(self, journal: Journal) -> None:
        """Leave one note per field, worded alike in every run, so that the event log says it once."""
        for names, fate in (
            (self._kept, "It is kept in the raw record's extra_fields; no mart shows it."),
            (self._dropped, "It was not stored, because it is neither a number nor a short identifier."),
        ):
            for name in sorted(names):
                self._tell(journal, f"{self.what} has a field that this project does not know: {name}. {fate}")
        for remark in sorted(self._remarks):
            self._tell(journal, remark)

    @staticmethod
    def _tell(journal: Journal, message: str) -> None:
        journal.notes.append(
            Note("schema_drift", message, "Nothing at once. Report it, so that the project learns what it means.")
        )


def is_harmless(value: Any) -> bool:
    """Return whether a value cannot be content or a credential: nothing, a flag, a number, or a short identifier."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) < LARGEST_NUMBER
    if isinstance(value, Decimal):
        return value.is_finite() and -40 <= value.adjusted() < 30 and len(value.as_tuple().digits) <= 60
    return (
        isinstance(value, str)
        and len(value) <= LONGEST_IDENTIFIER
        and _IDENTIFIER.fullmatch(value) is not None
        and not _CREDENTIAL.match(value)
    )
